//! What is to happen when, unless it is put off. Not stored: a coordinator that takes over gives
//! everybody the whole time anew.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::types::{GroupId, MemberId};

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// The member was not heard of.
    Session(GroupId, MemberId),
    /// The member has not given partitions back.
    Rebalance(GroupId, MemberId),
    /// The group is assigned anew.
    Assignment(GroupId),
    /// Expired offsets are looked for.
    Retention,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    at: HashMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Sets a timer, anew if it is set.
    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        self.clear(&timer);
        self.at.insert(timer.clone(), at);
        self.order.insert((at, timer));
    }

    pub(super) fn clear(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.at.remove_entry(timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// Clears all that is held against a member: it is no more.
    pub(super) fn clear_member(&mut self, group: &GroupId, member: &MemberId) {
        self.clear(&Timer::Session(group.clone(), member.clone()));
        self.clear(&Timer::Rebalance(group.clone(), member.clone()));
    }

    pub(super) fn get(&self, timer: &Timer) -> Option<Duration> {
        self.at.get(timer).copied()
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes all that are due.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<Timer> {
        let mut due = Vec::new();
        while self.order.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, timer)) = self.order.pop_first() {
                self.at.remove(&timer);
                due.push(timer);
            }
        }
        due
    }

    /// Puts off by `by` all that would be held against a member.
    pub(super) fn postpone_members(&mut self, by: Duration) {
        for (at, timer) in std::mem::take(&mut self.order) {
            let later = match timer {
                Timer::Session(..) | Timer::Rebalance(..) => at.saturating_add(by),
                Timer::Assignment(_) | Timer::Retention => at,
            };
            self.at.insert(timer.clone(), later);
            self.order.insert((later, timer));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }
}
