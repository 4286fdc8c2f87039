//! Who holds what while a plan is being made.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{
    Cluster, Options, Partition, Reassignment,
    racks::{Quota, Spread},
    topics::TopicCounts,
    topology::{NONE, Topology},
};

/// What brokers hold apart from the partitions of a [`State`].
#[derive(Clone, Default)]
pub(crate) struct Base {
    pub replicas: Vec<u64>,
    pub leaders: Vec<u64>,
    pub bytes: Vec<u64>,
    /// Replicas of the topic whose partitions are placed.
    pub topic: Vec<u32>,
}

impl Base {
    pub fn empty(brokers: usize) -> Self {
        Self {
            replicas: vec![0; brokers],
            leaders: vec![0; brokers],
            bytes: vec![0; brokers],
            topic: vec![0; brokers],
        }
    }
}

/// The replicas of all partitions as slots that are on a broker or nowhere.
///
/// A partition has as many slots as it has, or shall have, replicas; a slot keeps its place in the list
/// of replicas whatever broker it is on. `peak ≥ bytes`: a broker's peak is what it holds at the
/// start and all that is planned to come, without what is planned to go.
pub(crate) struct State<'t> {
    pub topology: &'t Topology,
    /// By partition: its first slot; one more at the end.
    first: Vec<u32>,
    /// By slot: the broker it is on, and that it was on at the start.
    at: Vec<u32>,
    home: Vec<u32>,
    part_of: Vec<u32>,
    topic_of: Vec<u32>,
    leader: Vec<u32>,
    weight: Vec<u64>,
    quota_of: Vec<u32>,
    quotas: Vec<Quota>,
    /// By partition: how it is spread, kept up to date by `put`.
    spreads: Vec<Spread>,
    /// By slot: whether it may move; by broker: those on it that may, in order.
    movable: Vec<bool>,
    on: Vec<Vec<u32>>,
    load: Vec<u64>,
    bytes: Vec<u64>,
    peak: Vec<u64>,
    topics: TopicCounts,
    pub max_disk_percent: u32,
    pub steps: u64,
}

impl<'t> State<'t> {
    fn empty(topology: &'t Topology, options: &Options, base: Base) -> Self {
        Self {
            topology,
            first: vec![0],
            at: Vec::new(),
            home: Vec::new(),
            part_of: Vec::new(),
            topic_of: Vec::new(),
            leader: Vec::new(),
            weight: Vec::new(),
            quota_of: Vec::new(),
            quotas: Vec::new(),
            spreads: Vec::new(),
            movable: Vec::new(),
            on: vec![Vec::new(); topology.len()],
            load: base.replicas,
            peak: base.bytes.clone(),
            bytes: base.bytes,
            topics: TopicCounts::new(topology.len()),
            max_disk_percent: options.max_disk_percent,
            steps: 0,
        }
    }

    /// The state of `cluster`, whose partitions shall have as many replicas as `factor` says.
    pub fn of(
        cluster: &Cluster,
        topology: &'t Topology,
        options: &Options,
        factor: impl Fn(&Partition) -> usize,
    ) -> Self {
        let mut state = Self::empty(topology, options, Base::empty(topology.len()));
        let mut quotas = BTreeMap::new();
        let mut topic = None;
        for (at, partition) in cluster.partitions().iter().enumerate() {
            if topic != Some(partition.id.topic) {
                topic = Some(partition.id.topic);
                let same = |next: &&Partition| next.id.topic == partition.id.topic;
                let all = cluster.partitions()[at..].iter().take_while(same);
                state.topics.push(all.map(&factor).sum());
            }
            let index = |id: i32| topology.index(id).map_or(NONE, |at| at as u32);
            let replicas: Vec<u32> = partition.replicas.iter().map(|id| index(*id)).collect();
            let leader = partition.leader.map_or(NONE, index);
            state.push(&replicas, factor(partition), partition.bytes, leader, &mut quotas);
        }
        state
    }

    /// `partitions` new ones of one topic, on no broker yet.
    pub fn of_new(
        topology: &'t Topology,
        options: &Options,
        mut base: Base,
        partitions: usize,
        replication_factor: usize,
    ) -> Self {
        let had = std::mem::take(&mut base.topic);
        let mut state = Self::empty(topology, options, base);
        state.topics.push(partitions.saturating_mul(replication_factor));
        for (broker, count) in had.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            state.topics.add(0, broker, i32::try_from(count).unwrap_or(i32::MAX));
        }
        let mut quotas = BTreeMap::new();
        for _ in 0..partitions {
            state.push(&[], replication_factor, 0, NONE, &mut quotas);
        }
        state
    }

    fn push(&mut self, replicas: &[u32], factor: usize, bytes: u64, leader: u32, quotas: &mut BTreeMap<usize, u32>) {
        let part = self.parts() as u32;
        let quota = *quotas.entry(factor).or_insert_with(|| {
            self.quotas.push(Quota::new(&self.topology.sizes, factor as u32));
            self.quotas.len() as u32 - 1
        });
        let topic = self.topics.len() - 1;
        for slot in 0..replicas.len().max(factor) {
            let broker = replicas.get(slot).copied().unwrap_or(NONE);
            self.at.push(broker);
            self.home.push(broker);
            self.part_of.push(part);
            self.movable.push(false);
            if broker != NONE {
                let at = broker as usize;
                self.load[at] += 1;
                self.bytes[at] = self.bytes[at].saturating_add(bytes);
                self.peak[at] = self.peak[at].saturating_add(bytes);
                self.topics.add(topic, at, 1);
            }
        }
        self.first.push(self.at.len() as u32);
        self.topic_of.push(topic as u32);
        self.leader.push(leader);
        self.weight.push(bytes);
        self.quota_of.push(quota);
        self.spreads.push(Spread::default());
        self.spreads[part as usize] = self.judge(part);
    }

    /// How many partitions there are.
    pub fn parts(&self) -> usize {
        self.first.len() - 1
    }

    /// The partition's slots, in the order of its replicas.
    pub fn slots(&self, part: u32) -> std::ops::Range<u32> {
        self.first[part as usize]..self.first[part as usize + 1]
    }

    /// The broker that the slot is on.
    pub fn broker(&self, slot: u32) -> Option<usize> {
        Some(self.at[slot as usize])
            .filter(|at| *at != NONE)
            .map(|at| at as usize)
    }

    /// Whether the slot was on `broker` at the start.
    pub fn is_home(&self, slot: u32, broker: usize) -> bool {
        self.home[slot as usize] == broker as u32
    }

    /// The broker that the slot was on at the start.
    pub fn home(&self, slot: u32) -> Option<usize> {
        Some(self.home[slot as usize])
            .filter(|at| *at != NONE)
            .map(|at| at as usize)
    }

    pub fn part_of(&self, slot: u32) -> u32 {
        self.part_of[slot as usize]
    }

    /// The broker that leads the partition.
    pub fn leader(&self, part: u32) -> Option<usize> {
        Some(self.leader[part as usize])
            .filter(|at| *at != NONE)
            .map(|at| at as usize)
    }

    /// Whether the slot is on the broker that leads the partition.
    pub fn leads(&self, slot: u32) -> bool {
        let leader = self.leader(self.part_of(slot));
        leader.is_some() && leader == self.broker(slot)
    }

    /// The bytes of one of the partition's replicas.
    pub fn weight(&self, part: u32) -> u64 {
        self.weight[part as usize]
    }

    pub fn load(&self, broker: usize) -> u64 {
        self.load[broker]
    }

    pub fn bytes(&self, broker: usize) -> u64 {
        self.bytes[broker]
    }

    /// The broker and its load, to compare.
    pub fn loaded(&self, broker: usize) -> (usize, u64) {
        (broker, self.load[broker])
    }

    /// The slots on the broker that may move.
    pub fn movable_on(&self, broker: usize) -> &[u32] {
        &self.on[broker]
    }

    /// Whether the slot may move.
    pub fn is_movable(&self, slot: u32) -> bool {
        self.movable[slot as usize]
    }

    /// Lets the slot move.
    pub fn set_movable(&mut self, slot: u32) {
        if std::mem::replace(&mut self.movable[slot as usize], true) {
            return;
        }
        if let Some(broker) = self.broker(slot) {
            insert(&mut self.on[broker], slot);
        }
    }

    /// Whether the partition has a replica on the broker.
    pub fn holds(&self, part: u32, broker: usize) -> bool {
        let slots = self.slots(part);
        self.at[slots.start as usize..slots.end as usize].contains(&(broker as u32))
    }

    /// Keeps room on the broker's disk for something that is no slot.
    pub fn reserve(&mut self, broker: usize, bytes: u64) {
        self.peak[broker] = self.peak[broker].saturating_add(bytes);
    }

    /// Whether the broker's disk has room for the slot, before anything leaves it.
    pub fn fits(&self, slot: u32, broker: usize) -> bool {
        let Some(limit) = self.topology.limits[broker] else {
            return true;
        };
        self.is_home(slot, broker) || self.peak[broker].saturating_add(self.weight(self.part_of(slot))) <= limit
    }

    /// Replicas of the slot's topic on the broker.
    pub fn of_topic(&self, slot: u32, broker: usize) -> u32 {
        self.topics
            .get(self.topic_of[self.part_of(slot) as usize] as usize, broker)
    }

    pub fn quota(&self, part: u32) -> &Quota {
        &self.quotas[self.quota_of[part as usize] as usize]
    }

    /// How the partition is spread.
    pub fn spread(&self, part: u32) -> Spread {
        self.spreads[part as usize]
    }

    /// Puts the slot on another broker, or on none.
    pub fn put(&mut self, slot: u32, to: Option<usize>) {
        let part = self.part_of(slot);
        let (bytes, topic) = (self.weight(part), self.topic_of[part as usize] as usize);
        if let Some(from) = self.broker(slot) {
            self.load[from] -= 1;
            self.bytes[from] = self.bytes[from].saturating_sub(bytes);
            if !self.is_home(slot, from) {
                self.peak[from] = self.peak[from].saturating_sub(bytes);
            }
            self.topics.add(topic, from, -1);
            if let Ok(place) = self.on[from].binary_search(&slot) {
                self.on[from].remove(place);
            }
        }
        self.at[slot as usize] = to.map_or(NONE, |to| to as u32);
        if let Some(to) = to {
            self.load[to] += 1;
            self.bytes[to] = self.bytes[to].saturating_add(bytes);
            if !self.is_home(slot, to) {
                self.peak[to] = self.peak[to].saturating_add(bytes);
            }
            self.topics.add(topic, to, 1);
            if self.is_movable(slot) {
                insert(&mut self.on[to], slot);
            }
        }
        self.spreads[part as usize] = self.judge(part);
    }

    /// Orders two brokers by their bytes relative to their weights.
    pub fn compare_bytes(&self, a: usize, b: usize) -> Ordering {
        let (bytes, weights) = (&self.bytes, &self.topology.weights);
        if weights[a] == weights[b] {
            return bytes[a].cmp(&bytes[b]);
        }
        (u128::from(bytes[a]) * u128::from(weights[b])).cmp(&(u128::from(bytes[b]) * u128::from(weights[a])))
    }

    /// The partition's brokers in the order of its slots.
    pub fn replicas(&self, part: u32) -> Vec<usize> {
        self.slots(part).filter_map(|slot| self.broker(slot)).collect()
    }

    /// What differs from `cluster`, of which this state was made.
    pub fn changes(&self, cluster: &Cluster) -> Vec<Reassignment> {
        let mut changes = Vec::new();
        for (part, partition) in (0u32..).zip(cluster.partitions()) {
            let moved = self
                .slots(part)
                .any(|slot| self.at[slot as usize] != self.home[slot as usize]);
            if !moved {
                continue;
            }
            let to: Vec<i32> = self
                .replicas(part)
                .into_iter()
                .map(|at| self.topology.ids[at])
                .collect();
            changes.extend(reassign(partition, keep_places(&partition.replicas, to)));
        }
        changes
    }
}

/// `to` with every broker that is in `from` too at its place there, for two replicas of a partition may have moved
/// so that one took the other's broker. The new ones stay where they are if that place is free.
fn keep_places(from: &[i32], to: Vec<i32>) -> Vec<i32> {
    if from.len() != to.len() {
        return to;
    }
    let kept = |at: usize| to.contains(&from[at]);
    let is_new = |id: &i32| !from.contains(id);
    let mut homeless = (0..to.len())
        .filter(|at| is_new(&to[*at]) && kept(*at))
        .map(|at| to[at]);
    (0..from.len())
        .map(|at| match (kept(at), is_new(&to[at])) {
            (true, _) => from[at],
            (false, true) => to[at],
            (false, false) => homeless.next().unwrap_or(to[at]),
        })
        .collect()
}

/// The change from a partition's replicas to `to`, if they differ.
pub(crate) fn reassign(partition: &Partition, to: Vec<i32>) -> Option<Reassignment> {
    if partition.replicas == to {
        return None;
    }
    let added = to.iter().filter(|id| !partition.replicas.contains(id)).count() as u64;
    Some(Reassignment {
        partition: partition.id,
        from: partition.replicas.clone(),
        to,
        bytes: partition.bytes.saturating_mul(added),
    })
}

fn insert(sorted: &mut Vec<u32>, item: u32) {
    if let Err(place) = sorted.binary_search(&item) {
        sorted.insert(place, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_that_stay_keep_their_places() {
        assert_eq!(keep_places(&[2, 0, 4, 1], vec![2, 1, 4, 3]), [2, 3, 4, 1]);
        assert_eq!(keep_places(&[1, 2, 3], vec![4, 2, 5]), [4, 2, 5]);
        assert_eq!(keep_places(&[1, 2, 3], vec![2, 5, 4]), [5, 2, 4]);
        assert_eq!(keep_places(&[1, 2, 3], vec![3, 1, 2]), [1, 2, 3]);
        assert_eq!(keep_places(&[1, 2], vec![1, 2, 3]), [1, 2, 3]);
    }
}
