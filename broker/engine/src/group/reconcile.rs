//! How a member comes to have what it shall have, so that a partition never has two owners: what it
//! must give back goes first, and what another still holds comes when that one has given it back
//! (KIP-848).
//!
//! ```text
//!            target lacks something                    all of it is given back
//!  [stable] -----------------------> [gives back] -----------------------------> [stable]
//!     |                               epoch stays                 epoch = target's   ^
//!     |                                                                              |
//!     +-- target has more --> [waits for others, epoch = target's] -- all is free ---+
//! ```

use std::{collections::HashSet, time::Duration};

use super::{
    coordinator::{Coordinator, Turn},
    record::{CurrentRecord, Fact},
    request::{Assignment, Heartbeat, HeartbeatAnswer},
    state::{Group, Member},
    timers::Timer,
    types::{GroupId, MemberId, TopicPartition},
};

impl Coordinator {
    /// Brings a member that has just shown itself as near to its target as can be. `news`: it has said
    /// something new of itself, which makes another version.
    pub(super) fn reconcile(&mut self, turn: &mut Turn, beat: &Heartbeat, news: bool) {
        let Some(group) = self.groups.get(&beat.group) else {
            return;
        };
        let Some(member) = group.members.get(&beat.member) else {
            return;
        };
        // What it says that it owns counts only if it has seen the present assignment: a late copy
        // of a report from before it got a partition would give that back while it is in use
        // (KAFKA-14639).
        let report = beat.owned.as_ref().filter(|_| beat.version == member.current.version);
        let Some(mut next) = next(group, &beat.member, member, report.map(Vec::as_slice), news) else {
            return;
        };
        // A join's answer may be lost as well, but then it is the join that comes again.
        let shown = if member.current.version == 0 {
            next.epoch
        } else {
            beat.epoch
        };
        next.previous_epoch = next.previous_epoch.max(shown);
        let timer = Timer::Rebalance(beat.group.clone(), beat.member.clone());
        // Of what it is told to give back only now it has not had any of the time, whatever it was
        // told before.
        let begins = next.revoking.keys().any(|at| !member.current.revoking.contains_key(at));
        let ends = next.revoking.is_empty();
        let within = member
            .record
            .as_ref()
            .map_or(Duration::ZERO, |record| record.details.rebalance_timeout);
        if begins {
            self.timers.set(timer, turn.now.monotonic + within);
        } else if ends {
            self.timers.clear(&timer);
        }
        self.change_current(turn, &beat.group, &beat.member, Some(next));
    }

    /// Says what a member has from now on; who waits for what is free is told.
    pub(super) fn change_current(
        &mut self,
        turn: &mut Turn,
        id: &GroupId,
        member: &MemberId,
        next: Option<CurrentRecord>,
    ) {
        let Some(group) = self.groups.get(id) else { return };
        let Some(before) = group.members.get(member).map(|member| &member.current) else {
            return;
        };
        let held = before.assigned.keys().chain(before.revoking.keys());
        let holds = |at: &TopicPartition| {
            next.as_ref()
                .is_some_and(|next| next.assigned.contains_key(at) || next.revoking.contains_key(at))
        };
        for at in held.filter(|at| !holds(at)) {
            if let Some(waiting) = group.wanted_by(at).filter(|waiting| *waiting != member) {
                turn.wake(id, waiting.clone());
            }
        }
        if next.is_some() || *before != CurrentRecord::default() {
            self.write(turn, id, Fact::Current(member.clone(), next));
        }
    }

    pub(super) fn heartbeat_answer(&self, turn: &Turn, beat: &Heartbeat) -> HeartbeatAnswer {
        let member = self
            .groups
            .get(&beat.group)
            .and_then(|group| group.members.get(&beat.member));
        let nothing = CurrentRecord::default();
        let current = member.map_or(&nothing, |member| &member.current);
        let has = |at: &TopicPartition| current.assigned.contains_key(at) || current.revoking.contains_key(at);
        let foreign = beat.owned.as_ref().is_some_and(|owned| !owned.iter().all(has));
        let tell = beat.epoch == 0 || beat.version != current.version || foreign;
        let ends = self
            .timers
            .get(&Timer::Rebalance(beat.group.clone(), beat.member.clone()));
        HeartbeatAnswer {
            epoch: current.epoch,
            version: current.version,
            heartbeat_interval: self.config.heartbeat_interval,
            assignment: tell.then(|| Assignment {
                assigned: current.assigned.keys().copied().collect(),
                revoke_within: ends
                    .filter(|_| !current.revoking.is_empty())
                    .map(|at| at.saturating_sub(turn.now.monotonic)),
                revoking: current.revoking.keys().copied().collect(),
            }),
        }
    }
}

/// What a member has next, as it reports to own `owned` (`None`: as before); `None`: no change, not
/// even another version for `news`.
fn next(
    group: &Group,
    id: &MemberId,
    member: &Member,
    owned: Option<&[TopicPartition]>,
    news: bool,
) -> Option<CurrentRecord> {
    let target_epoch = group.epochs().target_epoch;
    let before = &member.current;
    let old = before.version > 0 && !news;
    if old && member.is_settled(target_epoch) {
        return None;
    }
    let mut next = before.clone();
    if let Some(owned) = owned {
        let owned: HashSet<&TopicPartition> = owned.iter().collect();
        next.revoking.retain(|at, _| owned.contains(at));
    }
    if next.revoking.is_empty() {
        let lost: Vec<TopicPartition> = next.assigned.keys().filter(|at| !member.wants(at)).copied().collect();
        if lost.is_empty() {
            next.epoch = target_epoch;
            for at in &member.target {
                // Its own is what it gives back with this very report.
                if group.owner(at).is_none_or(|owner| owner == id) {
                    next.assigned.entry(*at).or_insert(target_epoch);
                }
            }
        }
        for at in lost {
            if let Some(epoch) = next.assigned.remove(&at) {
                next.revoking.insert(at, epoch);
            }
        }
    }
    if old && next == *before {
        return None;
    }
    next.version += 1;
    Some(next)
}
