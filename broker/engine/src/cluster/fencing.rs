//! Taking a broker out of service and putting it back (KIP-631, KIP-966).
//!
//! Leases are judged by the quorum leader's clock, outside of this state; here is what the
//! decision does. A fenced broker is in no in-sync set and leads nothing.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    apply::Applied,
    command::{LogEnd, UnfenceBroker},
    outcome::{ListedPartition, Outcome, PartitionList},
    partition::Partition,
    refusal::UnfenceError,
    rejection::Rejection,
    state::{BrokerId, Cluster, FenceReason},
};

impl Cluster {
    /// One pass over the partitions: the broker leaves the in-sync sets, another leads where
    /// one can. It may stay eligible: fencing says nothing of its disk.
    pub(super) fn fence_broker(
        &mut self,
        broker_id: BrokerId,
        broker_epoch: i64,
        reason: FenceReason,
    ) -> Result<Applied, Rejection> {
        self.check_broker_epoch(broker_id, broker_epoch)?;
        let Some(broker) = self.brokers.get_mut(&broker_id) else {
            return Err(Rejection::UnknownBroker { id: broker_id });
        };
        let failed = broker.fence_reason == Some(FenceReason::DirectoryFailed);
        if broker.fenced && (failed || broker.fence_reason == Some(reason)) {
            return Ok(Applied::unchanged(Outcome::Done));
        }
        broker.fenced = true;
        broker.fence_reason = Some(reason);
        self.rewrite_hosted(broker_id, |_, _, partition, rules| {
            partition.changed(rules, |next, _| next.isr.retain(|id| *id != broker_id))
        });
        Ok(Applied::changed(Outcome::Done))
    }

    /// The broker serves. In the first time in a life it must show that its logs reach what is
    /// known to be committed: a disk restored from an older image of the same life passes every
    /// other check. Partitions without a leader that it may lead get one.
    pub(super) fn unfence_broker(&mut self, unfence: &UnfenceBroker) -> Result<Applied, Rejection> {
        let id = unfence.broker_id;
        self.check_broker_epoch(id, unfence.broker_epoch)?;
        let Some(broker) = self.brokers.get_mut(&id) else {
            return Err(Rejection::UnknownBroker { id });
        };
        if broker.shutting_down_at.is_some() {
            return Err(UnfenceError::ShuttingDown { id }.into());
        }
        if broker.fence_reason == Some(FenceReason::DirectoryFailed) && broker.fenced {
            return Err(UnfenceError::DirectoryFailed { id }.into());
        }
        let needed = u64::try_from(broker.epoch).unwrap_or(u64::MAX);
        if unfence.applied_index < needed {
            let applied = unfence.applied_index;
            return Err(UnfenceError::CatchingUp { id, applied, needed }.into());
        }
        if !broker.fenced {
            return Ok(Applied::unchanged(Outcome::Unfenced {
                lost: PartitionList::default(),
            }));
        }
        let proven = broker.proven;
        broker.fenced = false;
        broker.proven = true;
        broker.last_served_epoch = Some(broker.epoch);
        // It is back with the disk that was given up: another one that turns up later was not meant.
        broker.expected_directory = None;

        let ends: BTreeMap<(Uuid, u32), LogEnd> = unfence
            .log_ends
            .iter()
            .flat_map(|topic| topic.ends.iter().map(|end| ((topic.topic_id, end.partition), *end)))
            .collect();
        let mut lost = PartitionList::default();
        self.rewrite_hosted(id, |topic, number, partition, rules| {
            let end = ends.get(&(topic.id, number));
            let is_short = !proven && partition.elr.contains(&id) && !partition.is_reached_by(end);
            if is_short {
                lost.push(|| ListedPartition {
                    partition: topic.partition_ref(number),
                    reason: short_by(partition, end),
                });
            }
            if !is_short && partition.leader.is_some() {
                return None;
            }
            partition.changed(rules, |_, notes| notes.lost.extend(is_short.then_some(id)))
        });
        Ok(Applied::changed(Outcome::Unfenced { lost }))
    }
}

impl Partition {
    /// Whether a log that ends there holds what is known to be committed, as far as that can be
    /// told: its end is not below, and it has no records of a leader that never was.
    ///
    /// An end that was not told is no end of 0: the log is damaged, or could not be opened. It does
    /// for the only replica of a partition, with which nothing can be compared.
    fn is_reached_by(&self, end: Option<&LogEnd>) -> bool {
        let has_floor = self.floor.offset > 0;
        match end {
            Some(end) => !has_floor || (end.log_end >= self.floor.offset && end.last_epoch <= self.leader_epoch),
            None => self.was_never_led() || (!has_floor && !self.is_replicated()),
        }
    }
}

fn short_by(partition: &Partition, end: Option<&LogEnd>) -> String {
    let floor = partition.floor.offset;
    match end {
        Some(end) => format!(
            "its log ends at {} in epoch {}, all below {floor} was committed",
            end.log_end, end.last_epoch
        ),
        None => format!("its log is damaged or could not be opened, all below {floor} was committed"),
    }
}
