//! Moves of partitions between brokers, and elections of their leaders.

use millrace_proto::v1;

use super::{Admin, leaders, pages};
use crate::{error::Result, limits};

/// A move of one partition to other brokers, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMove(v1::PartitionReassignment);

impl PartitionMove {
    /// Moves a partition to these brokers, preferred leader first. Replaces a move under way.
    #[must_use]
    pub fn to(topic: impl Into<String>, partition: i32, brokers: impl IntoIterator<Item = i32>) -> Self {
        Self(v1::PartitionReassignment {
            topic: topic.into(),
            partition,
            replicas: brokers.into_iter().collect(),
            cancel: false,
            throttle_bytes_per_second: 0,
        })
    }

    /// Sends at most so many bytes a second to each broker that is added, from each leader; 0: as
    /// fast as possible. To change it, begin the same move again. The bound ends with the move.
    #[must_use]
    pub fn throttle(mut self, bytes_per_second: i64) -> Self {
        self.0.throttle_bytes_per_second = bytes_per_second;
        self
    }

    /// Cancels the move of a partition: it stays where it was.
    #[must_use]
    pub fn cancel(topic: impl Into<String>, partition: i32) -> Self {
        Self(v1::PartitionReassignment {
            topic: topic.into(),
            partition,
            replicas: Vec::new(),
            cancel: true,
            throttle_bytes_per_second: 0,
        })
    }
}

/// By which rule a leader is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Election {
    /// The first of the partition's replicas, if it is in sync.
    Preferred,
    /// This broker, if it is in sync.
    InSync {
        /// Which.
        broker_id: i32,
    },
    /// This broker, whatever it holds, where nobody leads; or the one with the longest log.
    /// Acknowledged records that it does not have are lost for ever.
    Unclean {
        /// Which; `None`: of those that are in service and answer, the one with the longest log of the
        /// latest leader epoch.
        broker_id: Option<i32>,
        /// Must be true: it says that the loss is known and accepted.
        accept_data_loss: bool,
    },
}

impl Admin {
    /// Begins or cancels moves of 1 to 10,000 partitions, all or none; answers with the partitions
    /// in that order. [`Admin::list_reassignments`] tells when they are done.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION, NO_REASSIGNMENT_IN_PROGRESS, STILL_NEEDED where cancelling
    /// would leave too few replicas in sync, and those of any call.
    pub async fn reassign_partitions(
        &self,
        moves: impl IntoIterator<Item = PartitionMove>,
    ) -> Result<Vec<v1::Reassignment>> {
        let request = v1::ReassignPartitionsRequest {
            reassignments: moves.into_iter().map(|one| one.0).collect(),
            validate_only: self.validate_only,
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.reassign_partitions(request).await?.into_inner()) })
            .await?;
        Ok(answer.reassignments)
    }

    /// The moves under way, of one topic or all, by topic and partition. How far their replicas are
    /// is asked of the partitions' leaders; it is absent where one does not answer soon.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, and those of any call.
    pub async fn list_reassignments(&self, topic: Option<&str>) -> Result<Vec<v1::Reassignment>> {
        pages(|page_token| {
            let request = v1::ListReassignmentsRequest {
                topic: topic.unwrap_or_default().to_owned(),
                page_size: limits::PAGE_SIZE,
                page_token,
            };
            async move {
                let mut page = self
                    .read(|mut admin| {
                        let request = request.clone();
                        async move { Ok(admin.list_reassignments(request).await?.into_inner()) }
                    })
                    .await?;
                leaders::complete_reassignments(self, &request, &mut page.reassignments).await;
                Ok((page.reassignments, page.next_page_token))
            }
        })
        .await
    }

    /// Chooses leaders of up to 10,000 partitions, each on its own: what became of each is in the
    /// answer, in the same order. No partitions, with [`Election::Preferred`]: all that another
    /// broker leads than should, at most 10,000 in one call.
    ///
    /// # Errors
    /// Those of any call; what can't be chosen is no error of the call.
    pub async fn elect_leaders<T: Into<String>>(
        &self,
        partitions: impl IntoIterator<Item = (T, i32)>,
        election: Election,
    ) -> Result<Vec<v1::ElectionResult>> {
        let (kind, broker_id, accept_data_loss) = match election {
            Election::Preferred => (v1::ElectionKind::Preferred, None, false),
            Election::InSync { broker_id } => (v1::ElectionKind::InSync, Some(broker_id), false),
            Election::Unclean {
                broker_id,
                accept_data_loss,
            } => (v1::ElectionKind::Unclean, broker_id, accept_data_loss),
        };
        let request = v1::ElectLeadersRequest {
            partitions: partitions
                .into_iter()
                .map(|(topic, partition)| v1::PartitionName {
                    topic: topic.into(),
                    partition,
                })
                .collect(),
            kind: kind.into(),
            broker_id,
            accept_data_loss,
            validate_only: self.validate_only,
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.elect_leaders(request).await?.into_inner()) })
            .await?;
        Ok(answer.results)
    }
}
