//! Leaders chosen on request; who leads after a failure is in `change.rs` (KIP-460, KIP-704,
//! KIP-966).

use std::collections::BTreeSet;

use super::{
    apply::Applied,
    change::Rules,
    command::{Election, ElectionKind},
    limits::MAX_CHANGES,
    outcome::{Elected, Outcome},
    partition::{CommittedFloor, Partition},
    refusal::ElectionError,
    rejection::Rejection,
    state::{BrokerId, Cluster},
};

/// What a replica answers that is asked in an unclean recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLogEnd {
    /// Who answers.
    pub broker_id: BrokerId,
    /// The latest leader epoch that its log knows; `None` if it knows none, as a log that was begun
    /// anew and got nothing since.
    pub last_epoch: Option<i32>,
    /// Its log end offset.
    pub log_end: i64,
    /// Whether some of its records can't be read.
    pub is_damaged: bool,
}

/// Whom to choose in an unclean recovery: the longest log of the latest epoch; among equals one that
/// is whole, then the lowest number (KIP-966). `None` if nobody answered: that is not the same as
/// nobody having data.
///
/// A log without an epoch is empty. If it ends at or above `floor` all that was committed below was
/// deleted before it was begun there, by a leader that had it: it is as late as the floor. Where
/// everything is deleted the ends are all that is left to compare.
#[must_use]
pub fn longest_log(answers: &[ReplicaLogEnd], floor: CommittedFloor) -> Option<BrokerId> {
    let epoch_of = |answer: &ReplicaLogEnd| match answer.last_epoch {
        Some(epoch) => epoch,
        None if answer.log_end >= floor.offset => floor.leader_epoch,
        None => -1,
    };
    let order = |answer: &&ReplicaLogEnd| {
        let number = std::cmp::Reverse(answer.broker_id);
        (epoch_of(answer), answer.log_end, !answer.is_damaged, number)
    };
    answers.iter().max_by_key(order).map(|answer| answer.broker_id)
}

impl Cluster {
    /// Each election is judged on its own, after those before it.
    pub(super) fn elect_leaders(&mut self, elections: &[Election]) -> Result<Applied, Rejection> {
        if elections.len() > MAX_CHANGES {
            return Err(Rejection::TooManyChanges);
        }
        let mut changed = false;
        let mut seen = BTreeSet::new();
        let mut answers = Vec::with_capacity(elections.len());
        for election in elections {
            let judged = if seen.insert((election.partition.topic_id, election.partition.partition)) {
                self.judge_election(election)
            } else {
                Err(ElectionError::Repeated)
            };
            if let Ok(elected) = &judged {
                self.put_partition(&election.partition, elected.partition.clone());
                changed = true;
            }
            answers.push(judged);
        }
        Ok(Applied {
            outcome: Outcome::Elected(answers),
            changed,
        })
    }

    fn judge_election(&self, election: &Election) -> Result<Elected, ElectionError> {
        let (topic, present) = self.find_partition(&election.partition)?;
        let rules = self.rules(topic);
        match election.kind {
            ElectionKind::Preferred => {
                // A record without replicas is none; validate() refuses it.
                let replica = present.preferred_leader().unwrap_or(-1);
                elect_in_sync(present, replica, rules, false)
            }
            ElectionKind::InSync { replica } => elect_in_sync(present, replica, rules, true),
            ElectionKind::Unclean { replica } => elect_unclean(present, replica, rules),
        }
    }
}

/// The replica must be in sync and in service (KAFKA-9866): else the lead would go to a broker
/// that can't take it. With `to_stay` it becomes the preferred leader, unless a move takes it away: else the one that is
/// preferred would soon lead again.
fn elect_in_sync(
    present: &Partition,
    replica: BrokerId,
    rules: Rules<'_>,
    to_stay: bool,
) -> Result<Elected, ElectionError> {
    let comes_first = to_stay && !present.removing.contains(&replica);
    if present.leader == Some(replica) && (!comes_first || present.preferred_leader() == Some(replica)) {
        return Err(ElectionError::NotNeeded { replica });
    }
    if !present.replicas.contains(&replica) {
        return Err(ElectionError::NotReplica { replica });
    }
    if !present.isr.contains(&replica) {
        return Err(ElectionError::NotInSync { replica });
    }
    if !rules.is_active(replica) {
        return Err(ElectionError::NotAvailable { replica });
    }
    let next = present.changed(rules, |next, _| {
        next.leader = Some(replica);
        if comes_first {
            next.replicas.retain(|id| *id != replica);
            next.replicas.insert(0, replica);
        }
    });
    Ok(Elected {
        partition: next.unwrap_or_else(|| present.clone()),
        floor_before: None,
    })
}

/// What is chosen here may lack acknowledged records, so it happens only where nobody leads, and
/// the one chosen must be in service: a dead leader would keep the partition without one
/// (KAFKA-19522). It stays alone until it has recovered (KIP-704); who was eligible by the old
/// history is not by the new.
fn elect_unclean(present: &Partition, replica: BrokerId, rules: Rules<'_>) -> Result<Elected, ElectionError> {
    if let Some(leader) = present.leader {
        return Err(ElectionError::HasLeader { leader });
    }
    if !present.replicas.contains(&replica) {
        return Err(ElectionError::NotReplica { replica });
    }
    if !rules.is_active(replica) {
        return Err(ElectionError::NotAvailable { replica });
    }
    let next = present.changed(rules, |next, notes| {
        next.leader = Some(replica);
        next.isr = vec![replica];
        next.recovering = true;
        notes.new_history = true;
    });
    let floor: CommittedFloor = present.floor;
    Ok(Elected {
        partition: next.unwrap_or_else(|| present.clone()),
        floor_before: Some(floor),
    })
}
