//! Of each topic a run of neighbouring partitions, by the members' names.

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
    let mut assigned = vec![Vec::new(); members.len()];
    for (topic, subscribers) in subscribers.iter().enumerate() {
        let partitions = topics[topic].partitions as usize;
        for (at, &member) in subscribers.iter().enumerate() {
            // The first ones have one more, as in Kafka.
            let (each, more) = (partitions / subscribers.len(), partitions % subscribers.len());
            let first = at * each + at.min(more);
            let count = each + usize::from(at < more);
            assigned[member].extend((first..first + count).map(|partition| (topic, number(partition))));
        }
    }
    assigned
}

fn number(partition: usize) -> u32 {
    u32::try_from(partition).expect("a topic's partitions are counted by u32")
}
