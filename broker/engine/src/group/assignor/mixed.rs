//! Members take different topics: each partition goes to the subscriber that has least, and in the end
//! nobody who has a partition of a topic has two more than another subscriber of that topic.

use std::collections::{BTreeMap, BTreeSet};

use super::{Place, Shape, Subscriber, retained};

/// How often the topics are gone through for moves that level; each move makes the sum of the
/// squares less, so that few are needed.
const MAX_PASSES: usize = 64;

pub(super) fn assign(members: &[Subscriber<'_>], topics: &[Shape<'_>]) -> Vec<Vec<Place>> {
    let (kept, taken) = retained(members, topics);
    let mut sharing = Sharing::new(members, topics, &kept);
    // Topics with few subscribers first: the others have more choice.
    let mut order: Vec<usize> = (0..topics.len()).collect();
    order.sort_by_key(|&topic| sharing.subscribers[topic]);
    for topic in order {
        for partition in (0..topics[topic].partitions).filter(|&at| !taken[topic][at as usize]) {
            if let Some(member) = sharing.least(topic, Some(partition)) {
                sharing.give(member, topic, partition);
            }
        }
    }
    for _ in 0..MAX_PASSES {
        let moved = (0..topics.len()).fold(false, |moved, topic| sharing.level(topic) | moved);
        if !moved {
            break;
        }
    }
    sharing.finish()
}

struct Sharing<'a> {
    members: &'a [Subscriber<'a>],
    topics: &'a [Shape<'a>],
    load: Vec<usize>,
    /// Members of equal subscription and rack, by their load.
    classes: Vec<BTreeSet<(usize, usize)>>,
    class_of: Vec<usize>,
    /// Of each topic the classes that take it.
    classes_of: Vec<Vec<usize>>,
    rack_of: Vec<Option<&'a str>>,
    subscribers: Vec<usize>,
    /// Of each topic who has which partitions.
    holders: Vec<BTreeMap<usize, Vec<u32>>>,
}

impl<'a> Sharing<'a> {
    fn new(members: &'a [Subscriber<'a>], topics: &'a [Shape<'a>], kept: &[Vec<Place>]) -> Self {
        let mut numbers: BTreeMap<(&[usize], Option<&str>), usize> = BTreeMap::new();
        let mut classes: Vec<BTreeSet<(usize, usize)>> = Vec::new();
        let mut classes_of = vec![Vec::new(); topics.len()];
        let mut rack_of = Vec::new();
        let mut subscribers = vec![0; topics.len()];
        let mut class_of = Vec::with_capacity(members.len());
        let load: Vec<usize> = kept.iter().map(Vec::len).collect();
        for (at, member) in members.iter().enumerate() {
            let class = *numbers.entry((&member.topics, member.rack)).or_insert_with(|| {
                classes.push(BTreeSet::new());
                rack_of.push(member.rack);
                for &topic in &member.topics {
                    classes_of[topic].push(classes.len() - 1);
                }
                classes.len() - 1
            });
            classes[class].insert((load[at], at));
            class_of.push(class);
            for &topic in &member.topics {
                subscribers[topic] += 1;
            }
        }
        let mut holders = vec![BTreeMap::<usize, Vec<u32>>::new(); topics.len()];
        for (member, places) in kept.iter().enumerate() {
            for &(topic, partition) in places {
                holders[topic].entry(member).or_default().push(partition);
            }
        }
        Self {
            members,
            topics,
            load,
            classes,
            class_of,
            classes_of,
            rack_of,
            subscribers,
            holders,
        }
    }

    /// The subscriber that has least; of equals one that is near the partition.
    fn least(&self, topic: usize, partition: Option<u32>) -> Option<usize> {
        let near = |class: usize| partition.is_some_and(|at| self.topics[topic].has(at, self.rack_of[class]));
        self.classes_of[topic]
            .iter()
            .filter_map(|&class| {
                self.classes[class]
                    .first()
                    .map(|&(load, member)| (load, !near(class), member))
            })
            .min()
            .map(|(_, _, member)| member)
    }

    fn set_load(&mut self, member: usize, load: usize) {
        let class = &mut self.classes[self.class_of[member]];
        class.remove(&(self.load[member], member));
        class.insert((load, member));
        self.load[member] = load;
    }

    fn give(&mut self, member: usize, topic: usize, partition: u32) {
        self.holders[topic].entry(member).or_default().push(partition);
        self.set_load(member, self.load[member] + 1);
    }

    /// Moves partitions of the topic from who has most to who has least, while that makes it more
    /// equal; tells whether it moved any.
    fn level(&mut self, topic: usize) -> bool {
        let mut by_load: BTreeSet<(usize, usize)> = self.holders[topic]
            .keys()
            .map(|&member| (self.load[member], member))
            .collect();
        let mut moved = false;
        while let (Some(&(most, from)), Some(to)) = (by_load.last(), self.least(topic, None)) {
            if most < self.load[to] + 2 {
                break;
            }
            by_load.remove(&(most, from));
            by_load.remove(&(self.load[to], to));
            let Some(partition) = self.give_up(topic, from) else {
                break;
            };
            self.give(to, topic, partition);
            by_load.insert((self.load[to], to));
            if self.holders[topic].contains_key(&from) {
                by_load.insert((self.load[from], from));
            }
            moved = true;
        }
        moved
    }

    /// Takes a partition of the topic from a holder: one that is far from it, if there is.
    fn give_up(&mut self, topic: usize, member: usize) -> Option<u32> {
        let rack = self.members[member].rack;
        let held = self.holders[topic].get_mut(&member)?;
        let far = held.iter().rposition(|&at| !self.topics[topic].has(at, rack));
        let partition = held.remove(far.unwrap_or(held.len() - 1));
        if held.is_empty() {
            self.holders[topic].remove(&member);
        }
        self.set_load(member, self.load[member] - 1);
        Some(partition)
    }

    fn finish(self) -> Vec<Vec<Place>> {
        let mut assigned = vec![Vec::new(); self.members.len()];
        for (topic, holders) in self.holders.into_iter().enumerate() {
            for (member, partitions) in holders {
                assigned[member].extend(partitions.into_iter().map(|at| (topic, at)));
            }
        }
        assigned
    }
}
