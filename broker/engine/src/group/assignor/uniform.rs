//! All members take the same topics: each gets the same number of partitions, or one more. No
//! more moves than that needs, and a member's own rack first.

use std::collections::{HashMap, VecDeque};

use super::{Place, Shape, Subscriber, retained};

pub(super) fn assign(members: &[Subscriber<'_>], topics: &[Shape<'_>]) -> Vec<Vec<Place>> {
    let subscribed = &members[0].topics;
    let total: usize = subscribed.iter().map(|&topic| topics[topic].partitions as usize).sum();
    let (quota, mut extra) = (total / members.len(), total % members.len());
    let (mut assigned, mut taken) = retained(members, topics);

    // Who has most keeps one more: that moves least.
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&member| std::cmp::Reverse(assigned[member].len()));
    for &member in &order {
        let has = &mut assigned[member];
        let keeps_extra = extra > 0 && has.len() > quota;
        extra -= usize::from(keeps_extra);
        let keeps = quota + usize::from(keeps_extra);
        if has.len() > keeps {
            let rack = members[member].rack;
            has.sort_by_key(|&(topic, partition)| !topics[topic].has(partition, rack));
            for (topic, partition) in has.split_off(keeps) {
                taken[topic][partition as usize] = false;
            }
        }
    }

    let mut free: Vec<Place> = Vec::new();
    for &topic in subscribed {
        free.extend(
            (0..topics[topic].partitions)
                .filter(|&at| !taken[topic][at as usize])
                .map(|at| (topic, at)),
        );
    }
    let mut wanted = Wanted::new(members, &assigned, quota, extra);
    free.retain(|&(topic, partition)| {
        let racks = topics[topic].racks.get(partition as usize);
        let near = racks.into_iter().flatten().find_map(|rack| wanted.near(rack));
        near.inspect(|&member| assigned[member].push((topic, partition)))
            .is_none()
    });
    for place in free {
        if let Some(member) = wanted.any() {
            assigned[member].push(place);
        }
    }
    assigned
}

/// Who may get how many more.
struct Wanted<'a> {
    more: Vec<usize>,
    /// How many members may have one above the quota.
    extra: usize,
    may_have_extra: Vec<bool>,
    by_rack: HashMap<&'a str, VecDeque<usize>>,
    all: VecDeque<usize>,
}

impl<'a> Wanted<'a> {
    fn new(members: &[Subscriber<'a>], assigned: &[Vec<Place>], quota: usize, extra: usize) -> Self {
        let mut by_rack: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (at, member) in members.iter().enumerate() {
            if let Some(rack) = member.rack {
                by_rack.entry(rack).or_default().push_back(at);
            }
        }
        Self {
            more: assigned.iter().map(|has| quota.saturating_sub(has.len())).collect(),
            extra,
            may_have_extra: assigned.iter().map(|has| has.len() <= quota).collect(),
            by_rack,
            all: (0..members.len()).collect(),
        }
    }

    /// A member of the rack that may have one more.
    fn near(&mut self, rack: &str) -> Option<usize> {
        let mut queue = std::mem::take(self.by_rack.get_mut(rack)?);
        let taken = self.next(&mut queue);
        if let Some(place) = self.by_rack.get_mut(rack) {
            *place = queue;
        }
        taken
    }

    /// Any member that may have one more.
    fn any(&mut self) -> Option<usize> {
        let mut queue = std::mem::take(&mut self.all);
        let taken = self.next(&mut queue);
        self.all = queue;
        taken
    }

    /// The members of the queue in turn; who may have no more leaves it.
    fn next(&mut self, queue: &mut VecDeque<usize>) -> Option<usize> {
        while let Some(&member) = queue.front() {
            if self.more[member] > 0 {
                self.more[member] -= 1;
            } else if self.extra > 0 && std::mem::take(&mut self.may_have_extra[member]) {
                self.extra -= 1;
            } else {
                queue.pop_front();
                continue;
            }
            queue.rotate_left(1);
            return Some(member);
        }
        None
    }
}
