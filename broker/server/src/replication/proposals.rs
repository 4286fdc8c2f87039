//! In-sync sets that leaders propose to the controller, many in one command.

use std::{collections::HashMap, sync::Arc};

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome, Rejection,
    cluster::{AlterPartitions, IsrChange, IsrError, Partition as Record, PartitionRef},
    partition::{Proposal, ProposalAnswer, ProposalError},
};
use tokio::sync::mpsc;
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

/// Sends proposals until `stop`. While one command is on its way the next ones gather.
pub async fn run(
    quorum: Quorum,
    own: BrokerId,
    mut proposed: mpsc::UnboundedReceiver<Proposed>,
    stop: CancellationToken,
) {
    loop {
        let mut received = Vec::new();
        tokio::select! {
            taken = proposed.recv_many(&mut received, limits::PROPOSALS_AT_ONCE) => if taken == 0 { return },
            () = stop.cancelled() => return,
        }
        // One change of a partition in a command: the last one that its leader sent.
        let mut newest: HashMap<Key, Proposed> = HashMap::new();
        for proposed in received {
            newest.insert(proposed.partition.key(), proposed);
        }
        let batch: Vec<Proposed> = newest.into_values().collect();
        tokio::select! {
            () = send(&quorum, own, &batch) => {}
            () = stop.cancelled() => return,
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
            let cluster = quorum.cluster();
            for (proposed, answer) in batch.iter().zip(&answers) {
                tell(proposed, answer, &cluster);
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

fn tell(proposed: &Proposed, answer: &Result<Record, IsrError>, cluster: &Cluster) {
    let answer = match answer {
        Ok(record) => ProposalAnswer::Applied {
            partition: record,
            required: required(cluster, proposed.partition.topic(), record),
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

/// How many replicas of the record must be in sync, as the controller counts.
fn required(cluster: &Cluster, topic: &str, record: &Record) -> usize {
    let min = cluster
        .topics
        .get(topic)
        .map_or(usize::MAX, |topic| cluster.min_insync_replicas(topic));
    record.required(min)
}
