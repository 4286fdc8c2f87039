//! Of each topic a run of neighbouring partitions, by the members' names. Topics of as many partitions
//! and the same subscribers are shared out alike, so that equal numbers meet at one member.
//!
//! Where racks are known, a partition goes first to a member that is near a replica of it, of all
//! such topics, as long as nobody gets more than without racks; the rest is given in runs (KIP-881).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{Place, Shape, Subscriber};

pub(super) fn assign(members: &[Subscriber<'_>], topics: &[Shape<'_>]) -> Vec<Vec<Place>> {
    let mut by_name: Vec<usize> = (0..members.len()).collect();
    by_name.sort_unstable_by_key(|&member| members[member].name);
    let mut subscribers: Vec<Vec<usize>> = vec![Vec::new(); topics.len()];
    for &member in &by_name {
        for &topic in &members[member].topics {
            subscribers[topic].push(member);
        }
    }
    let mut alike: BTreeMap<(u32, &[usize]), Vec<usize>> = BTreeMap::new();
    for (topic, subscribers) in subscribers.iter().enumerate().filter(|(_, of)| !of.is_empty()) {
        let key = (topics[topic].partitions, subscribers.as_slice());
        alike.entry(key).or_default().push(topic);
    }
    let mut assigned = vec![Vec::new(); members.len()];
    for ((partitions, subscribers), same) in alike {
        let racks: Vec<Option<&str>> = subscribers.iter().map(|&member| members[member].rack).collect();
        let of_topics: Vec<&Shape<'_>> = same.iter().map(|&topic| &topics[topic]).collect();
        for (partition, owner) in (0u32..).zip(owners(partitions as usize, &racks, &of_topics)) {
            assigned[subscribers[owner]].extend(same.iter().map(|&topic| (topic, partition)));
        }
    }
    assigned
}

/// Of each partition its subscriber.
fn owners(partitions: usize, subscribers: &[Option<&str>], topics: &[&Shape<'_>]) -> Vec<usize> {
    let mut shares = Shares::new(partitions, subscribers.len());
    let mut owners: Vec<Option<usize>> = vec![None; partitions];
    let mut near: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for (at, rack) in subscribers.iter().enumerate() {
        if let Some(rack) = rack {
            near.entry(rack).or_default().push_back(at);
        }
    }
    for (partition, owner) in (0u32..).zip(&mut owners) {
        let first = topics[0].racks.get(partition as usize);
        let racks: BTreeSet<&str> = first
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|rack| topics.iter().all(|topic| topic.has(partition, Some(rack))))
            .collect();
        let mut nearest = None;
        for rack in racks {
            let Some(queue) = near.get_mut(rack) else { continue };
            while queue.front().is_some_and(|&member| !shares.may_take(member)) {
                queue.pop_front();
            }
            let member = queue.front().copied();
            nearest = nearest.into_iter().chain(member).min();
        }
        if let Some(member) = nearest {
            shares.take(member);
            *owner = Some(member);
        }
    }
    let mut next = 0;
    owners
        .into_iter()
        .map(|owner| {
            owner.unwrap_or_else(|| {
                while !shares.may_take(next) {
                    next += 1;
                }
                shares.take(next);
                next
            })
        })
        .collect()
}

/// How much each may have: an equal number, and some of them one more. Once one may take no more it
/// never may again.
struct Shares {
    each: usize,
    more: usize,
    has: Vec<usize>,
}

impl Shares {
    fn new(partitions: usize, subscribers: usize) -> Self {
        Self {
            each: partitions / subscribers,
            more: partitions % subscribers,
            has: vec![0; subscribers],
        }
    }

    fn may_take(&self, member: usize) -> bool {
        self.has[member] < self.each || (self.has[member] == self.each && self.more > 0)
    }

    /// The shares add up to all partitions, so that there is one that may.
    fn take(&mut self, member: usize) {
        if self.has[member] == self.each {
            self.more -= 1;
        }
        self.has[member] += 1;
    }
}
