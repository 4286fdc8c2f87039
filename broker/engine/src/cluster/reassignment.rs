//! Moves of replicas (KIP-455).
//!
//! ```text
//!  replicas [A B C]                      target [A B D]
//!  start:    [A B D C]  adding [D]  removing [C]   leader and in-sync set as they were
//!  D is in sync, and enough others are:
//!  complete: [A B D]                               a new leader epoch
//!  cancel:   [A B C]
//! ```

use std::{collections::BTreeSet, num::NonZeroU64};

use super::{
    apply::Applied,
    change::Rules,
    command::Move,
    limits::MAX_CHANGES,
    outcome::Outcome,
    partition::{Partition, first_repeat, without},
    refusal::{MoveError, RefusedMove},
    rejection::Rejection,
    state::{BrokerId, Cluster},
};

impl Cluster {
    /// All moves of the command, or none: a plan is carried out as it was made.
    pub(super) fn reassign_partitions(&mut self, moves: &[Move]) -> Result<Applied, Rejection> {
        if moves.len() > MAX_CHANGES {
            return Err(Rejection::TooManyChanges);
        }
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for one in moves {
            let judged = if seen.insert((one.partition.topic_id, one.partition.partition)) {
                self.judge_move(one)
            } else {
                Err(MoveError::Repeated)
            };
            match judged {
                Ok(next) => changes.extend(next.map(|next| (&one.partition, next))),
                Err(error) => {
                    let partition = one.partition.clone();
                    return Err(RefusedMove { partition, error }.into());
                }
            }
        }
        let changed = !changes.is_empty();
        for (partition, next) in changes {
            self.put_partition(partition, next);
        }
        Ok(Applied {
            outcome: Outcome::Done,
            changed,
        })
    }

    fn judge_move(&self, one: &Move) -> Result<Option<Partition>, MoveError> {
        let (topic, present) = self.find_partition(&one.partition)?;
        let rules = self.rules(topic);
        let Some(target) = &one.target else {
            if !present.is_moving() {
                return Err(MoveError::NoMove);
            }
            return start_move(present, &present.original(), None, rules);
        };
        self.check_target(present, target)?;
        start_move(present, target, one.throttle, rules)
    }

    fn check_target(&self, present: &Partition, target: &[BrokerId]) -> Result<(), MoveError> {
        let invalid = |reason: String| Err(MoveError::InvalidTarget { reason });
        if target.is_empty() {
            return invalid("a partition has at least one replica".into());
        }
        if let Some(id) = first_repeat(target) {
            return invalid(format!("broker {id} would hold the partition twice"));
        }
        for id in target {
            let Some(broker) = self.brokers.get(id) else {
                return invalid(format!("broker {id} is not registered"));
            };
            if (broker.cordoned || broker.draining) && !present.replicas.contains(id) {
                return invalid(format!("broker {id} is cordoned: it gets no new replicas"));
            }
        }
        Ok(())
    }
}

/// The record with a move to `target` under way, or complete if nothing is to be waited for. A
/// move under way gives way: what it added and `target` does not name is dropped.
fn start_move(
    present: &Partition,
    target: &[BrokerId],
    throttle: Option<NonZeroU64>,
    rules: Rules<'_>,
) -> Result<Option<Partition>, MoveError> {
    let original = present.original();
    let adding = without(target, &original);
    let removing = without(&original, target);
    let dropped = without(&without(&present.replicas, &original), target);
    let left = without(&present.isr, &dropped);
    let required = present.required(rules.min_insync);
    if left.len() < present.isr.len() && left.len() < required {
        return Err(MoveError::TooFewInSync {
            in_sync: left.len(),
            required,
        });
    }
    if !present.keeps_candidates_without(&dropped) {
        return Err(MoveError::OnlyCandidates);
    }
    // What was committed is on all of these, and nowhere else for sure: with fewer than required
    // it would not survive the loss of one disk less than that (KIP-966).
    let clean = present.clean();
    let clean_left = without(&clean, &dropped).len();
    if clean_left < clean.len() && clean_left < required {
        return Err(MoveError::TooFewClean {
            clean: clean_left,
            required,
        });
    }
    Ok(present.changed(rules, |next, _| {
        next.replicas = target.iter().chain(&removing).copied().collect();
        next.throttle = throttle.filter(|_| !adding.is_empty());
        next.adding = adding;
        next.removing = removing;
        next.isr = left;
    }))
}

impl Partition {
    /// Those who surely hold all that is committed.
    fn clean(&self) -> Vec<BrokerId> {
        self.isr.iter().chain(&self.elr).copied().collect()
    }

    /// Whether somebody who surely holds all that is committed is left, if there is anybody;
    /// else whether somebody is left of those who held it last.
    fn keeps_candidates_without(&self, dropped: &[BrokerId]) -> bool {
        let clean = self.clean();
        let candidates = if clean.is_empty() { &self.last_known_elr } else { &clean };
        candidates.is_empty() || !without(candidates, dropped).is_empty()
    }

    /// Completes the move under way if all that it adds is in sync and, without what it takes
    /// away, enough are: at least `min.insync.replicas`, and no fewer than before the move. It
    /// does not wait for others that are out of sync for reasons of their own (KAFKA-15665,
    /// KAFKA-19975). Tells whether it did.
    pub(super) fn complete_move(&mut self, rules: Rules<'_>) -> bool {
        if !self.is_moving() || self.leader.is_none() || !self.adding.iter().all(|id| self.isr.contains(id)) {
            return false;
        }
        let target = self.target();
        let left = without(&self.isr, &self.removing);
        let required = rules.min_insync.min(target.len()).max(1);
        let before = without(&self.isr, &self.adding).len().min(target.len());
        let leads = self.leader.is_some_and(|leader| left.contains(&leader));
        if left.len() < required.max(before) || !(leads || left.iter().any(|id| rules.is_active(*id))) {
            return false;
        }
        self.replicas = target;
        self.isr = left;
        self.adding.clear();
        self.removing.clear();
        self.throttle = None;
        true
    }
}
