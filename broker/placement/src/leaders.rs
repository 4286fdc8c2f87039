//! Evening out preferred leaders without moving data.

use std::cmp::Ordering;

use crate::{
    BrokerState, Cluster, Options, Plan,
    paths::{Bins, balance},
    state::reassign,
    topology::Topology,
};

/// Reorders replicas so that every active broker is the preferred leader of as equal a number of partitions, relative
/// to weight, as the replicas' places allow: at most ⌈partitions / brokers⌉ each wherever that can be
/// (Cruise Control's `LeaderReplicaDistributionGoal`, but exact). No data moves.
///
/// Only active brokers get partitions to lead. Cordoned ones keep theirs or hand them over, fenced ones keep
/// them, for they are expected back; leaving ones hand over all that another replica can lead. The new
/// preferred leader comes first, the others keep their order. Where several partitions could change, one
/// that is already led by its new preferred leader does.
#[must_use]
pub fn balance_leaders(cluster: &Cluster) -> Plan {
    let topology = Topology::new(cluster.brokers(), &Options::default());
    let index = |id: &i32| topology.index(*id);
    let mut leaders = Leaders::new(&topology, vec![0; topology.len()]);
    for partition in cluster.partitions() {
        let replicas: Vec<usize> = partition.replicas.iter().filter_map(index).collect();
        leaders.push(replicas, partition.leader.as_ref().and_then(index));
    }
    leaders.leave();
    let steps = leaders.even_out();
    let changes = (0..).zip(cluster.partitions()).filter_map(|(item, partition)| {
        let order = leaders.order(item).into_iter().map(|at| topology.ids[at]);
        reassign(partition, order.collect())
    });
    Plan {
        reassignments: changes.collect(),
        notices: Vec::new(),
        steps,
    }
}

/// Partitions at their preferred leaders.
pub(crate) struct Leaders<'t> {
    topology: &'t Topology,
    replicas: Vec<Vec<usize>>,
    chosen: Vec<usize>,
    elected: Vec<Option<usize>>,
    on: Vec<Vec<u32>>,
    load: Vec<u64>,
    by_rack: Vec<u64>,
}

impl<'t> Leaders<'t> {
    /// No partitions yet beside those that `base` counts for each broker.
    pub fn new(topology: &'t Topology, base: Vec<u64>) -> Self {
        let mut by_rack = vec![0; topology.members.len()];
        for (at, load) in base.iter().enumerate() {
            by_rack[topology.rack[at]] += load;
        }
        Self {
            topology,
            replicas: Vec::new(),
            chosen: Vec::new(),
            elected: Vec::new(),
            on: vec![Vec::new(); topology.len()],
            load: base,
            by_rack,
        }
    }

    /// Adds a partition; the first of `replicas`, which are not empty, is its preferred leader.
    pub fn push(&mut self, replicas: Vec<usize>, elected: Option<usize>) {
        let item = self.replicas.len() as u32;
        let first = replicas[0];
        self.load[first] += 1;
        self.by_rack[self.topology.rack[first]] += 1;
        // What a fenced broker leads stays with it.
        if self.topology.states[first] != BrokerState::Fenced {
            self.on[first].push(item);
        }
        self.chosen.push(first);
        self.elected.push(elected);
        self.replicas.push(replicas);
    }

    /// Takes leadership from leaving brokers where another replica can have it.
    fn leave(&mut self) {
        for item in 0..self.replicas.len() as u32 {
            let at = item as usize;
            if !self.topology.states[self.chosen[at]].is_leaving() {
                continue;
            }
            let able = self.replicas[at].iter().copied().filter(|broker| self.takes(*broker));
            if let Some(to) = able.min_by(|a, b| self.lighter(*a, *b).then(a.cmp(b))) {
                self.shift(item, to);
            }
        }
    }

    pub fn even_out(&mut self) -> u64 {
        balance(self)
    }

    /// The partition's replicas, preferred leader first.
    pub fn order(&self, item: usize) -> Vec<usize> {
        let chosen = self.chosen[item];
        let others = self.replicas[item].iter().copied().filter(|broker| *broker != chosen);
        std::iter::once(chosen).chain(others).collect()
    }

    fn loaded(&self, broker: usize) -> (usize, u64) {
        (broker, self.load[broker])
    }
}

impl Bins for Leaders<'_> {
    fn brokers(&self) -> usize {
        self.topology.len()
    }

    fn items(&self, broker: usize) -> &[u32] {
        &self.on[broker]
    }

    fn takes(&self, broker: usize) -> bool {
        self.topology.states[broker].is_target()
    }

    fn heavier(&self, a: usize, b: usize) -> Ordering {
        match (self.load[a].checked_sub(1), self.load[b].checked_sub(1)) {
            (Some(fewer_a), Some(fewer_b)) => self.topology.compare_next((a, fewer_a), (b, fewer_b)),
            _ => self.load[a].cmp(&self.load[b]),
        }
    }

    fn lighter(&self, a: usize, b: usize) -> Ordering {
        let by_rack = |at: usize| self.by_rack[self.topology.rack[at]];
        self.topology
            .compare_next(self.loaded(a), self.loaded(b))
            .then_with(|| by_rack(a).cmp(&by_rack(b)))
    }

    fn wanted(&self, from: usize, to: usize) -> bool {
        self.takes(to) && self.topology.evens_out(self.loaded(from), self.loaded(to))
    }

    fn can_shift(&self, item: u32, to: usize) -> bool {
        self.takes(to) && self.replicas[item as usize].contains(&to)
    }

    fn reach(&self, item: u32, seen: &[bool], found: &mut Vec<usize>) {
        let replicas = self.replicas[item as usize].iter().copied();
        found.extend(replicas.filter(|broker| !seen[*broker] && self.takes(*broker)));
    }

    /// One that is not led where it is preferred now, and is led where it would be.
    fn best(&self, from: usize, to: usize) -> Option<u32> {
        let able = self.on[from].iter().copied().filter(|item| self.can_shift(*item, to));
        able.min_by_key(|item| {
            let elected = self.elected[*item as usize];
            (elected == Some(from), elected != Some(to), *item)
        })
    }

    fn shift(&mut self, item: u32, to: usize) {
        let from = std::mem::replace(&mut self.chosen[item as usize], to);
        if let Ok(place) = self.on[from].binary_search(&item) {
            self.on[from].remove(place);
        }
        if let Err(place) = self.on[to].binary_search(&item) {
            self.on[to].insert(place, item);
        }
        self.load[from] -= 1;
        self.load[to] += 1;
        self.by_rack[self.topology.rack[from]] -= 1;
        self.by_rack[self.topology.rack[to]] += 1;
    }
}
