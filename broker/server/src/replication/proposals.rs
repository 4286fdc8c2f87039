//! In-sync sets that leaders propose to the controller, many in one command.

use std::{collections::HashMap, sync::Arc};

use millrace_engine::{
    BrokerId, Command, Outcome, Rejection,
    cluster::{AlterPartitions, Altered, IsrChange, IsrError, PartitionRef},
    partition::{Proposal, ProposalAnswer, ProposalError},
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Key, limits};
use crate::{
    partition::Partition,
    quorum::{Quorum, QuorumError},
};

/// A proposal to send.
#[derive(Debug)]
pub struct Proposed {
    /// Whose.
    pub partition: Arc<Partition>,
    /// The proposal.
    pub proposal: Proposal,
}

impl Proposed {
    fn change(&self) -> IsrChange {
        let (topic_id, partition) = self.partition.key();
        self.proposal.change(PartitionRef {
            topic: self.partition.topic().to_owned(),
            topic_id,
            partition,
        })
    }
}

/// Proposals that wait to be sent: of each partition the newest one, so that the partitions bound
/// them however long there is no controller.
#[derive(Debug, Default)]
pub struct Proposals(Newest<Proposed>);

impl Proposals {
    /// Adds a proposal, in the place of an earlier one of its partition.
    pub fn push(&self, proposed: Proposed) {
        self.0.put(proposed.partition.key(), proposed);
    }

    /// Sends proposals until `stop`. While one command is on its way the next ones gather.
    pub async fn run(self: Arc<Self>, quorum: Quorum, own: BrokerId, stop: CancellationToken) {
        let send = async {
            loop {
                let mut batch = self.0.take().await;
                while !batch.is_empty() {
                    let rest = batch.split_off(batch.len().min(limits::PROPOSALS_AT_ONCE));
                    send(&quorum, own, &batch).await;
                    batch = rest;
                }
            }
        };
        tokio::select! {
            () = send => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The newest value of each partition.
#[derive(Debug)]
struct Newest<T> {
    waiting: Mutex<HashMap<Key, T>>,
    wake: Notify,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }
}

impl<T> Newest<T> {
    fn put(&self, key: Key, value: T) {
        self.waiting.lock().insert(key, value);
        self.wake.notify_one();
    }

    /// All that waits, once there is something.
    async fn take(&self) -> Vec<T> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock());
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            self.wake.notified().await;
        }
    }
}

async fn send(quorum: &Quorum, own: BrokerId, batch: &[Proposed]) {
    let Some(first) = batch.first() else { return };
    let command = Command::AlterPartitions(AlterPartitions {
        broker_id: own,
        broker_epoch: first.proposal.broker_epoch,
        changes: batch.iter().map(Proposed::change).collect(),
    });
    let failed = match quorum.submit(command).await {
        Ok(Ok(Outcome::Altered(answers))) if answers.len() == batch.len() => {
            for (proposed, answer) in batch.iter().zip(&answers) {
                tell(proposed, answer);
            }
            return;
        }
        Ok(Ok(other)) => {
            tracing::error!(
                ?other,
                "the controller's answer to proposed in-sync sets makes no sense"
            );
            ProposalError::Unknown
        }
        Ok(Err(Rejection::StaleBrokerEpoch { .. } | Rejection::UnknownBroker { .. })) => {
            ProposalError::StaleBrokerEpoch
        }
        Ok(Err(rejection)) => {
            tracing::warn!(%rejection, "the controller refuses proposed in-sync sets");
            ProposalError::InvalidRequest
        }
        Err(QuorumError::OutcomeUnknown { .. }) => ProposalError::Unknown,
        Err(error) => {
            tracing::debug!(%error, "in-sync sets can't be proposed now");
            ProposalError::NotController
        }
    };
    for proposed in batch {
        let answer = ProposalAnswer::Failed(failed);
        proposed.partition.on_proposal_answer(proposed.proposal.id, answer);
    }
}

fn tell(proposed: &Proposed, answer: &Result<Altered, IsrError>) {
    let answer = match answer {
        Ok(altered) => ProposalAnswer::Applied {
            partition: &altered.partition,
            required: altered.required,
        },
        Err(error) => {
            tracing::info!(
                topic = proposed.partition.topic(), partition = proposed.partition.number(), %error,
                "a proposed in-sync set is refused"
            );
            ProposalAnswer::Failed(match error {
                IsrError::Partition(_) => ProposalError::UnknownPartition,
                IsrError::StateBehind => ProposalError::NotController,
                IsrError::FencedLeaderEpoch { .. } => ProposalError::FencedLeaderEpoch,
                IsrError::NotLeader { .. } => ProposalError::NotLeader,
                IsrError::InvalidUpdateVersion { .. } => ProposalError::InvalidUpdateVersion,
                IsrError::InvalidIsr { .. } | IsrError::InvalidRecovery { .. } => ProposalError::InvalidRequest,
                IsrError::IneligibleReplica { .. } => ProposalError::IneligibleReplica,
            })
        }
    };
    proposed.partition.on_proposal_answer(proposed.proposal.id, answer);
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_partition_waits() {
        let newest = Newest::default();
        let [one, other] = [(Uuid::from_u128(1), 0), (Uuid::from_u128(1), 1)];
        for number in 0..1_000 {
            newest.put(one, number);
        }
        newest.put(other, 7);
        let mut taken = newest.take().await;
        taken.sort_unstable();
        assert_eq!(taken, [7, 999]);
        assert!(
            futures::poll!(std::pin::pin!(newest.take())).is_pending(),
            "nothing waits any more"
        );
        newest.put(other, 8);
        assert_eq!(newest.take().await, [8]);
    }
}
