//! The leader of a partition: which requests it may answer, and its high watermark.
//!
//! ```text
//!  log start        high watermark     durable end        log end
//!      |------ readable ----|-- on disk --|-- written only --|
//! ```
//! `log_start ≤ high_watermark ≤ durable_end ≤ log_end`.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::cluster::BrokerId;

/// Why a leader refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaderError {
    /// The caller's metadata is old (KIP-320).
    #[error("the request's leader epoch {requested} is older than {current}: fetch metadata again")]
    FencedLeaderEpoch {
        /// The caller's.
        requested: i32,
        /// The leader's.
        current: i32,
    },
    /// The caller knows of a later leader than this broker (KIP-320).
    #[error("the request's leader epoch {requested} is newer than {current}: this broker is behind, try again")]
    UnknownLeaderEpoch {
        /// The caller's.
        requested: i32,
        /// The leader's.
        current: i32,
    },
    /// Too few replicas are in sync to take a write.
    #[error("{in_sync} replicas are in sync, {required} are needed: wait until they have caught up")]
    NotEnoughReplicas {
        /// How many are.
        in_sync: usize,
        /// How many must be.
        required: usize,
    },
    /// A new leader does not know yet how far its log is committed (KIP-207).
    #[error("the new leader does not know yet how far its log is committed: try again")]
    OffsetNotAvailable,
    /// The offset is not in the log.
    #[error("offset {offset} is outside of {log_start} to {high_watermark}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: i64,
        /// The oldest that is kept.
        log_start: i64,
        /// Where the readable part ends.
        high_watermark: i64,
    },
}

/// What a read at an offset may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchBound {
    /// Records below this offset.
    UpTo(i64),
    /// Nothing yet: wait.
    Nothing,
}

/// A question about offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The oldest: may be answered at any time.
    Beginning,
    /// The end, or by time: only when it is known how far the log is committed.
    EndOrTime,
}

/// The rules' state of one partition at its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    id: BrokerId,
    leader_epoch: i32,
    /// The log's end when this leadership began: all below it must be committed before the
    /// end of the log can be told to anybody (KIP-207).
    epoch_start: i64,
    isr: Vec<BrokerId>,
    /// `min(min.insync.replicas, replication factor)` (KIP-966).
    required: usize,
    high_watermark: i64,
    /// The durable log end of each other in-sync replica, as far as told.
    followers: BTreeMap<BrokerId, i64>,
}

impl Leader {
    /// A leadership that begins with a log of `log_end`, of which it is known that all
    /// below `high_watermark` is committed.
    #[must_use]
    pub fn new(
        id: BrokerId,
        leader_epoch: i32,
        isr: Vec<BrokerId>,
        required: usize,
        high_watermark: i64,
        log_end: i64,
    ) -> Self {
        Self {
            id,
            leader_epoch,
            epoch_start: log_end,
            isr,
            required,
            high_watermark: high_watermark.min(log_end),
            followers: BTreeMap::new(),
        }
    }

    /// The epoch of this leadership.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// All below is committed. Never falls within a leadership.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Changes how many replicas must be in sync: the topic's settings were changed.
    pub fn set_required(&mut self, required: usize) {
        self.required = required;
    }

    /// Checks the leader epoch that a request carries, if any, in KIP-320's order.
    ///
    /// # Errors
    /// Older or newer than the leader's.
    pub fn check_epoch(&self, requested: Option<i32>) -> Result<(), LeaderError> {
        let current = self.leader_epoch;
        match requested {
            Some(requested) if requested < current => Err(LeaderError::FencedLeaderEpoch { requested, current }),
            Some(requested) if requested > current => Err(LeaderError::UnknownLeaderEpoch { requested, current }),
            _ => Ok(()),
        }
    }

    /// Whether a write that wants all in-sync replicas may be appended.
    ///
    /// # Errors
    /// Too few replicas are in sync: nothing was written.
    pub fn check_append(&self, acks_all: bool) -> Result<(), LeaderError> {
        if acks_all && self.isr.len() < self.required {
            return Err(LeaderError::NotEnoughReplicas {
                in_sync: self.isr.len(),
                required: self.required,
            });
        }
        Ok(())
    }

    /// The log is now on this broker's disk up to `durable_end`: moves the high watermark
    /// to the lowest durable end of all in-sync replicas, if enough are in sync.
    ///
    /// Answers with the high watermark.
    pub fn advance(&mut self, durable_end: i64) -> i64 {
        if self.isr.len() >= self.required {
            let lowest = self
                .isr
                .iter()
                .filter(|id| **id != self.id)
                .map(|id| self.followers.get(id).copied().unwrap_or(0))
                .fold(durable_end, i64::min);
            self.high_watermark = self.high_watermark.max(lowest);
        }
        self.high_watermark
    }

    /// What a read at `offset` may see. `stable_end` is the last stable offset where the
    /// reader wants only committed transactions, else the high watermark.
    ///
    /// # Errors
    /// The offset is below the log start or above the log's end; or it can't be told yet.
    pub fn check_fetch(
        &self,
        offset: i64,
        log_start: i64,
        log_end: i64,
        stable_end: i64,
    ) -> Result<FetchBound, LeaderError> {
        let high_watermark = self.high_watermark;
        if offset < log_start {
            return Err(LeaderError::OffsetOutOfRange {
                offset,
                log_start,
                high_watermark,
            });
        }
        if offset > log_end {
            // A reader may have seen more under the last leader than this one knows to be
            // committed; it must not be told to start over (KIP-207).
            return Err(if self.commits_known() {
                LeaderError::OffsetOutOfRange {
                    offset,
                    log_start,
                    high_watermark,
                }
            } else {
                LeaderError::OffsetNotAvailable
            });
        }
        let bound = stable_end.min(high_watermark);
        Ok(if offset < bound {
            FetchBound::UpTo(bound)
        } else {
            FetchBound::Nothing
        })
    }

    /// Whether a question about offsets may be answered.
    ///
    /// # Errors
    /// It can't be told yet.
    pub fn check_offset_query(&self, query: OffsetQuery) -> Result<(), LeaderError> {
        match query {
            OffsetQuery::EndOrTime if !self.commits_known() => Err(LeaderError::OffsetNotAvailable),
            _ => Ok(()),
        }
    }

    fn commits_known(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(required: usize) -> Leader {
        Leader::new(0, 5, vec![0], required, 10, 20)
    }

    #[test]
    fn epochs_fence_in_both_directions() {
        let leader = alone(1);
        assert_eq!(leader.check_epoch(None), Ok(()));
        assert_eq!(leader.check_epoch(Some(5)), Ok(()));
        assert_eq!(
            leader.check_epoch(Some(4)),
            Err(LeaderError::FencedLeaderEpoch {
                requested: 4,
                current: 5
            })
        );
        assert_eq!(
            leader.check_epoch(Some(6)),
            Err(LeaderError::UnknownLeaderEpoch {
                requested: 6,
                current: 5
            })
        );
    }

    #[test]
    fn the_high_watermark_is_what_is_on_disk_and_never_falls() {
        let mut leader = alone(1);
        assert_eq!(leader.advance(15), 15);
        assert_eq!(leader.advance(12), 15);
        assert_eq!(leader.advance(21), 21);
    }

    #[test]
    fn below_min_in_sync_nothing_is_taken_and_nothing_gets_committed() {
        let mut leader = alone(2);
        assert_eq!(
            leader.check_append(true),
            Err(LeaderError::NotEnoughReplicas {
                in_sync: 1,
                required: 2
            })
        );
        assert_eq!(leader.check_append(false), Ok(()));
        assert_eq!(leader.advance(20), 10);
        leader.set_required(1);
        assert_eq!(leader.advance(20), 20);
    }

    #[test]
    fn an_unheard_follower_holds_the_high_watermark() {
        let mut leader = Leader::new(0, 5, vec![0, 1], 2, 10, 20);
        assert_eq!(leader.advance(20), 10);
        leader.followers.insert(1, 17);
        assert_eq!(leader.advance(20), 17);
    }

    #[test]
    fn readers_see_up_to_the_high_watermark_and_are_never_told_to_start_over() {
        let mut leader = alone(1);
        let fetch = |leader: &Leader, offset| leader.check_fetch(offset, 3, 20, i64::MAX);
        assert_eq!(fetch(&leader, 3), Ok(FetchBound::UpTo(10)));
        assert_eq!(fetch(&leader, 10), Ok(FetchBound::Nothing));
        assert_eq!(fetch(&leader, 20), Ok(FetchBound::Nothing));
        assert_eq!(fetch(&leader, 21), Err(LeaderError::OffsetNotAvailable));
        assert_eq!(
            leader.check_offset_query(OffsetQuery::EndOrTime),
            Err(LeaderError::OffsetNotAvailable)
        );
        assert_eq!(leader.check_offset_query(OffsetQuery::Beginning), Ok(()));
        leader.advance(20);
        let out_of_range = |offset| LeaderError::OffsetOutOfRange {
            offset,
            log_start: 3,
            high_watermark: 20,
        };
        assert_eq!(fetch(&leader, 21), Err(out_of_range(21)));
        assert_eq!(fetch(&leader, 2), Err(out_of_range(2)));
        assert_eq!(leader.check_offset_query(OffsetQuery::EndOrTime), Ok(()));
        assert_eq!(leader.check_fetch(3, 3, 20, 7), Ok(FetchBound::UpTo(7)));
    }
}
