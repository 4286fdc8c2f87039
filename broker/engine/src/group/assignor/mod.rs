//! Who shall have which partition: what is asked, and the answer's form. Topics and members are
//! numbers here; the same question has the same answer.

mod mixed;
mod range;
mod uniform;

#[cfg(test)]
mod tests;

use super::types::Assignor;

/// A partition: its topic's place in the question, and its number.
pub(super) type Place = (usize, u32);

/// A topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    pub(super) partitions: u32,
    /// Of each partition the racks of its replicas, as far as known.
    pub(super) racks: &'a [Vec<String>],
}

impl Shape<'_> {
    /// Whether a replica of the partition is in this rack.
    fn has(&self, partition: u32, rack: Option<&str>) -> bool {
        let racks = self.racks.get(partition as usize);
        rack.zip(racks)
            .is_some_and(|(rack, racks)| racks.iter().any(|of| of == rack))
    }
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Subscriber<'a> {
    /// The name that orders members: the instance id where there is one, so that a member which
    /// restarts keeps its place.
    pub(super) name: &'a str,
    pub(super) rack: Option<&'a str>,
    /// Topics that it takes, in their order.
    pub(super) topics: Vec<usize>,
    /// What it shall have so far; without what is not there any more.
    pub(super) owned: Vec<Place>,
}

/// Shares out all partitions that have a subscriber; the answer has a place for each member.
pub(super) fn assign(assignor: Assignor, members: &[Subscriber<'_>], topics: &[Shape<'_>]) -> Vec<Vec<Place>> {
    let Some(first) = members.first() else {
        return Vec::new();
    };
    let mut assigned = match assignor {
        Assignor::Range => range::assign(members, topics),
        Assignor::Uniform if members.iter().all(|member| member.topics == first.topics) => {
            uniform::assign(members, topics)
        }
        Assignor::Uniform => mixed::assign(members, topics),
    };
    for places in &mut assigned {
        places.sort_unstable();
    }
    assigned
}

/// What each member keeps at most of what it has: what it subscribes to, that exists, and that no
/// member before it has; and what is then nobody's.
fn retained(members: &[Subscriber<'_>], topics: &[Shape<'_>]) -> (Vec<Vec<Place>>, Vec<Vec<bool>>) {
    let mut taken: Vec<Vec<bool>> = topics
        .iter()
        .map(|topic| vec![false; topic.partitions as usize])
        .collect();
    let kept = members
        .iter()
        .map(|member| {
            let mut kept = member.owned.clone();
            kept.retain(|&(topic, partition)| {
                let taken = taken.get_mut(topic).and_then(|topic| topic.get_mut(partition as usize));
                let subscribed = member.topics.binary_search(&topic).is_ok();
                taken.is_some_and(|taken| subscribed && !std::mem::replace(taken, true))
            });
            kept
        })
        .collect();
    (kept, taken)
}
