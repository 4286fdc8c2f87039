//! What a replica may answer to clients.

use thiserror::Error;

use super::{
    leader::{FetchBound, Leader, LeaderError, OffsetQuery},
    replica::{Replica, Role},
};
use crate::cluster::BrokerId;

/// Why a client's request can't be served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplicaError {
    /// The leader refuses.
    #[error(transparent)]
    Leader(#[from] LeaderError),
    /// This broker does not lead the partition.
    #[error("this broker does not lead the partition (leader {leader:?} in epoch {leader_epoch}): ask the leader")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<BrokerId>,
        /// In which epoch.
        leader_epoch: i32,
    },
    /// A follower can't say what lies outside of its part of the log (KIP-392).
    #[error("this follower does not have offset {offset} (yet): ask the leader and keep the position")]
    AskLeader {
        /// What was asked for.
        offset: i64,
    },
}

impl Replica {
    /// The leader's rules, for a request that only a leader may answer.
    ///
    /// # Errors
    /// This broker does not lead.
    pub fn as_leader(&self) -> Result<&Leader, ReplicaError> {
        self.leader().ok_or(ReplicaError::NotLeader {
            leader: self.known.leader.filter(|id| *id != self.config.id),
            leader_epoch: self.known.leader_epoch,
        })
    }

    /// Whether a producer's records may be appended, and under which epoch. After an append that
    /// failed on the disk (`Event::DirectoryFailed`) nothing more is taken: no record of a
    /// producer follows one that was lost.
    ///
    /// # Errors
    /// Another epoch, another leader, or too few replicas in sync: nothing was written.
    pub fn check_append(&self, requested_epoch: Option<i32>, acks_all: bool) -> Result<i32, ReplicaError> {
        let leader = self.as_leader()?;
        leader.check_epoch(requested_epoch)?;
        leader.check_append(acks_all)?;
        Ok(leader.leader_epoch())
    }

    /// What a consumer may read at `offset`, from the leader or from this follower (KIP-392).
    /// `stable_end` as for [`Leader::check_fetch`].
    ///
    /// # Errors
    /// Another epoch, an offset outside of the log, or a question only the leader can answer.
    pub fn check_read(
        &self,
        offset: i64,
        requested_epoch: Option<i32>,
        stable_end: i64,
    ) -> Result<FetchBound, ReplicaError> {
        match &self.role {
            Role::Leader(leader) => {
                leader.check_epoch(requested_epoch)?;
                Ok(leader.check_fetch(offset, self.log.start, self.log.end, stable_end)?)
            }
            Role::Follower(_) => {
                check_epoch(requested_epoch, self.known.leader_epoch)?;
                // The follower's ends lag: neither is a reason to send a consumer elsewhere.
                if offset < self.log.start || offset > self.high_watermark {
                    return Err(ReplicaError::AskLeader { offset });
                }
                let bound = stable_end.min(self.high_watermark);
                Ok(if offset < bound {
                    FetchBound::UpTo(bound)
                } else {
                    FetchBound::Nothing
                })
            }
            Role::Offline(_) => Err(self.not_leader()),
        }
    }

    /// Whether a question about offsets may be answered here.
    ///
    /// # Errors
    /// This broker does not lead, or can't tell yet.
    pub fn check_offset_query(&self, query: OffsetQuery) -> Result<(), ReplicaError> {
        Ok(self.as_leader()?.check_offset_query(query)?)
    }

    fn not_leader(&self) -> ReplicaError {
        ReplicaError::NotLeader {
            leader: self.known.leader.filter(|id| *id != self.config.id),
            leader_epoch: self.known.leader_epoch,
        }
    }
}

fn check_epoch(requested: Option<i32>, current: i32) -> Result<(), LeaderError> {
    match requested {
        Some(requested) if requested < current => Err(LeaderError::FencedLeaderEpoch { requested, current }),
        Some(requested) if requested > current => Err(LeaderError::UnknownLeaderEpoch { requested, current }),
        _ => Ok(()),
    }
}
