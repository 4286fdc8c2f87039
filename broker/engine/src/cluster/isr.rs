//! A leader changes in-sync sets (KIP-497, KIP-704, KIP-841, KIP-903, KIP-966).

use std::collections::BTreeSet;

use super::{
    apply::Applied,
    change::Rules,
    command::{AlterPartitions, IsrChange, IsrMember},
    limits::MAX_CHANGES,
    outcome::{Altered, Outcome},
    partition::{CommittedFloor, Partition, first_repeat, same_members},
    refusal::{Ineligible, IsrError},
    rejection::Rejection,
    state::{BrokerId, Cluster},
};

impl Cluster {
    /// Each change is judged by the state that those before it have left: several in one command
    /// must not pass on the strength of a state that is gone (KAFKA-13173).
    pub(super) fn alter_partitions(&mut self, alter: &AlterPartitions) -> Result<Applied, Rejection> {
        if alter.changes.len() > MAX_CHANGES {
            return Err(Rejection::TooManyChanges);
        }
        self.check_broker_epoch(alter.broker_id, alter.broker_epoch)?;
        let mut changed = false;
        let mut seen = BTreeSet::new();
        let mut answers = Vec::with_capacity(alter.changes.len());
        for change in &alter.changes {
            let judged: Result<(Altered, bool), IsrError> =
                if seen.insert((change.partition.topic_id, change.partition.partition)) {
                    self.judge_isr_change(alter.broker_id, change)
                } else {
                    Err(IsrError::InvalidIsr {
                        reason: "the command names the partition twice".into(),
                    })
                };
            answers.push(match judged {
                Ok((altered, differs)) => {
                    if differs {
                        self.put_partition(&change.partition, altered.partition.clone());
                        changed = true;
                    }
                    Ok(altered)
                }
                Err(refused) => Err(refused),
            });
        }
        Ok(Applied {
            outcome: Outcome::Altered(answers),
            changed,
        })
    }

    /// The record in force after the change, and whether it differs.
    fn judge_isr_change(&self, sender: BrokerId, change: &IsrChange) -> Result<(Altered, bool), IsrError> {
        let (topic, present) = self.find_partition(&change.partition)?;
        let rules = self.rules(topic);
        let in_force = |partition: Partition| Altered {
            required: partition.required(rules.min_insync),
            partition,
        };
        if change.leader_epoch > present.leader_epoch || change.partition_epoch > present.partition_epoch {
            return Err(IsrError::StateBehind);
        }
        if present.has_already(sender, change) {
            return Ok((in_force(present.clone()), false));
        }
        check_sender(sender, change, present)?;
        check_set(sender, change, present)?;
        check_recovery(change, present)?;
        check_members(sender, change, rules)?;
        let next = present.changed(rules, |next, notes| {
            next.isr = change.isr.iter().map(|member| member.broker_id).collect();
            next.recovering = change.recovering;
            notes.lost.clone_from(&change.lost);
            notes.new_version = change.supersedes;
            if change.high_watermark > next.floor.offset {
                next.floor = CommittedFloor {
                    offset: change.high_watermark,
                    leader_epoch: change.leader_epoch,
                };
            }
        });
        let differs = next.is_some();
        Ok((in_force(next.unwrap_or_else(|| present.clone())), differs))
    }
}

impl Partition {
    /// Whether the change is the repetition of one that was applied. Its answer was lost; to
    /// refuse it for what has happened to its members since would tell the leader that it was
    /// not applied (KAFKA-14144). One that supersedes another was applied if the version has risen
    /// since.
    fn has_already(&self, sender: BrokerId, change: &IsrChange) -> bool {
        let isr: Vec<BrokerId> = change.isr.iter().map(|member| member.broker_id).collect();
        self.leader == Some(sender)
            && self.leader_epoch == change.leader_epoch
            && self.recovering == change.recovering
            && same_members(&self.isr, &isr)
            && !change.lost.iter().any(|id| self.elr.contains(id))
            && (!change.supersedes || change.partition_epoch < self.partition_epoch)
    }
}

fn check_sender(sender: BrokerId, change: &IsrChange, present: &Partition) -> Result<(), IsrError> {
    if change.leader_epoch < present.leader_epoch {
        return Err(IsrError::FencedLeaderEpoch {
            proposed: change.leader_epoch,
            current: present.leader_epoch,
        });
    }
    if present.leader != Some(sender) {
        return Err(IsrError::NotLeader { sender });
    }
    if change.partition_epoch < present.partition_epoch {
        return Err(IsrError::InvalidUpdateVersion {
            proposed: change.partition_epoch,
            current: present.partition_epoch,
        });
    }
    Ok(())
}

fn check_set(sender: BrokerId, change: &IsrChange, present: &Partition) -> Result<(), IsrError> {
    let invalid = |reason: String| Err(IsrError::InvalidIsr { reason });
    if change.high_watermark < 0 {
        return invalid(format!("a high watermark is 0 or more, not {}", change.high_watermark));
    }
    let count = present.replicas.len();
    if change.isr.len() > count || change.lost.len() > count {
        return invalid(format!("the partition has {count} replicas, fewer than are named"));
    }
    let isr: Vec<BrokerId> = change.isr.iter().map(|member| member.broker_id).collect();
    if let Some(id) = first_repeat(&isr) {
        return invalid(format!("broker {id} is named twice"));
    }
    if let Some(stranger) = isr.iter().find(|id| !present.replicas.contains(id)) {
        return invalid(format!("broker {stranger} holds no replica"));
    }
    if let Some(id) = change.lost.iter().find(|id| isr.contains(id)) {
        return invalid(format!("broker {id} can't be in sync and have lost data"));
    }
    if !isr.contains(&sender) {
        return invalid(format!("the leader, broker {sender}, must be in sync"));
    }
    Ok(())
}

fn check_recovery(change: &IsrChange, present: &Partition) -> Result<(), IsrError> {
    let invalid = |reason: &str| Err(IsrError::InvalidRecovery { reason: reason.into() });
    if change.recovering && !present.recovering {
        return invalid("only an unclean election begins a recovery");
    }
    if change.recovering && change.isr.len() > 1 {
        return invalid("a leader that recovers stays alone in the in-sync set until it has recovered");
    }
    Ok(())
}

/// The leader itself may be shutting down: it stays only until it can hand over, for which it
/// must be able to say who has caught up.
fn check_members(sender: BrokerId, change: &IsrChange, rules: Rules<'_>) -> Result<(), IsrError> {
    for member in &change.isr {
        let refuse = |reason| {
            Err(IsrError::IneligibleReplica {
                broker_id: member.broker_id,
                reason,
            })
        };
        match ineligible(*member, rules) {
            Some(Ineligible::ShuttingDown) if member.broker_id == sender => {}
            Some(reason) => return refuse(reason),
            None => {}
        }
    }
    Ok(())
}

fn ineligible(member: IsrMember, rules: Rules<'_>) -> Option<Ineligible> {
    let Some(broker) = rules.brokers.get(&member.broker_id) else {
        return Some(Ineligible::Unknown);
    };
    if broker.epoch != member.broker_epoch {
        Some(Ineligible::OtherEpoch { current: broker.epoch })
    } else if broker.fenced {
        Some(Ineligible::Fenced)
    } else if broker.shutting_down_at.is_some() {
        Some(Ineligible::ShuttingDown)
    } else {
        None
    }
}
