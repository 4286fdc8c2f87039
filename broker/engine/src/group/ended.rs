//! Members whose lives have ended, for as long as late copies of what they sent may come: such a
//! copy of a join would bring one back that nobody is, to hold partitions for a session time.
//! Not stored: who takes over has only the members that there are.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    limits::MAX_ENDED_MEMBERS,
    types::{GroupId, MemberId},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Ended {
    until: HashMap<(GroupId, MemberId), Duration>,
    /// In the order in which they ended, so that the oldest is forgotten first.
    order: VecDeque<(Duration, GroupId, MemberId)>,
}

impl Ended {
    /// A member's life has ended; it is remembered until then, or until too many others ended.
    pub(super) fn note(&mut self, group: &GroupId, member: &MemberId, now: Duration, until: Duration) {
        while self.order.len() >= MAX_ENDED_MEMBERS || self.order.front().is_some_and(|(until, ..)| *until <= now) {
            let Some((until, group, member)) = self.order.pop_front() else {
                break;
            };
            let key = (group, member);
            // It may have been taken back, and have ended again.
            if self.until.get(&key) == Some(&until) {
                self.until.remove(&key);
            }
        }
        self.until.insert((group.clone(), member.clone()), until);
        self.order.push_back((until, group.clone(), member.clone()));
    }

    /// Its end was not written: it goes on.
    pub(super) fn take_back(&mut self, group: &GroupId, member: &MemberId) {
        self.until.remove(&(group.clone(), member.clone()));
    }

    pub(super) fn contains(&self, group: &GroupId, member: &MemberId, now: Duration) -> bool {
        self.until
            .get(&(group.clone(), member.clone()))
            .is_some_and(|until| now < *until)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}
