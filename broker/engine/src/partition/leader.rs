//! The leader of a partition: which requests it may answer, and its high watermark.
//!
//! ```text
//!  log start        high watermark     durable end        log end
//!      |------ readable ----|-- on disk --|-- written only --|
//! ```
//! `log_start ≤ high_watermark ≤ durable_end ≤ log_end`.

use thiserror::Error;

use super::{isr::InSync, log_state::LogPositions, progress::Progress};
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

/// Which copies a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgements {
    /// None (`acks=0`): nothing is promised.
    None,
    /// The leader's log (`acks=1`): a failover may drop the record, also after this was told.
    Leader,
    /// All in-sync replicas' disks (`acks=all`): survives what the topic's settings promise.
    All,
}

/// What a producer is to be told of a record in the leader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// It has what it asked for.
    Now,
    /// Not before the high watermark is at or above this. If that does not happen in time the
    /// outcome is unknown: the record may be committed later (NOT_ENOUGH_REPLICAS_AFTER_APPEND
    /// and time-outs are no proof that it won't).
    AtHighWatermark(i64),
}

/// The rules' state of one partition at its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub(super) id: BrokerId,
    /// This broker's life.
    pub(super) broker_epoch: i64,
    pub(super) leader_epoch: i32,
    /// The log's end when this leadership began: all below it must be committed before the
    /// end of the log can be told to anybody (KIP-207).
    pub(super) epoch_start: i64,
    pub(super) isr: InSync,
    /// `min(min.insync.replicas, replication factor)` (KIP-966).
    pub(super) required: usize,
    pub(super) high_watermark: i64,
    /// All other replicas, in the order of the partition's replicas.
    pub(super) followers: Vec<Progress>,
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
            broker_epoch: -1,
            leader_epoch,
            epoch_start: log_end,
            followers: isr
                .iter()
                .filter(|member| **member != id)
                .map(|member| Progress::new(*member))
                .collect(),
            isr: InSync::new(isr),
            required,
            high_watermark: high_watermark.min(log_end),
        }
    }

    /// The epoch of this leadership.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Where the log ended when this leadership began.
    #[must_use]
    pub fn epoch_start(&self) -> i64 {
        self.epoch_start
    }

    /// All below is committed. Never falls within a leadership.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The in-sync set as the controller last told it.
    #[must_use]
    pub fn isr(&self) -> &[BrokerId] {
        &self.isr.committed
    }

    /// Whether a move adds this replica and nobody waits for it yet: its copying may be slowed down
    /// without harm (KIP-73, KAFKA-6937).
    #[must_use]
    pub fn is_being_copied_to(&self, replica: BrokerId) -> bool {
        let added = self
            .followers
            .iter()
            .any(|follower| follower.id == replica && follower.adding);
        added && !self.isr.committed.contains(&replica)
    }

    /// How many replicas must be in sync.
    #[must_use]
    pub fn required(&self) -> usize {
        self.required
    }

    /// The durable end of another replica; `None` until it was heard in this epoch.
    #[must_use]
    pub fn durable_end_of(&self, replica: BrokerId) -> Option<i64> {
        let found = self.followers.iter().find(|follower| follower.id == replica);
        found.and_then(|follower| follower.durable_end)
    }

    /// The other in-sync replicas that still have records below `offset`, as far as is known: a leader
    /// that came from them would show what was deleted here.
    #[must_use]
    pub fn in_sync_below(&self, offset: i64) -> Vec<BrokerId> {
        let has_deleted = |follower: &Progress| follower.log_start.is_some_and(|start| start >= offset);
        let in_sync = self
            .followers
            .iter()
            .filter(|follower| self.isr.committed.contains(&follower.id));
        in_sync
            .filter(|follower| !has_deleted(follower))
            .map(|follower| follower.id)
            .collect()
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
        if acks_all && self.isr.committed.len() < self.required {
            return Err(LeaderError::NotEnoughReplicas {
                in_sync: self.isr.committed.len(),
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
        let log = LogPositions {
            start: 0,
            durable_end,
            end: durable_end,
        };
        self.advance_watermark(None, log);
        self.high_watermark
    }

    /// What the producer of records that end before `end_offset` is to be told now. For a
    /// duplicate of records that are in the log but not committed it is the same: neither told
    /// at once nor written again.
    ///
    /// The watermark stands while too few are in sync, so that a record below it was on enough
    /// disks, however few are in sync now.
    #[must_use]
    pub fn acknowledgement(&self, acks: Acknowledgements, end_offset: i64) -> Acknowledgement {
        if acks == Acknowledgements::All && self.high_watermark < end_offset {
            Acknowledgement::AtHighWatermark(end_offset)
        } else {
            Acknowledgement::Now
        }
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
    use std::time::Duration;

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
        leader.followers[0].count(Duration::ZERO, 17, 20);
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

    #[test]
    fn a_producer_is_told_when_what_it_asked_for_holds() {
        let leader = alone(1);
        use Acknowledgement::{AtHighWatermark, Now};
        for (acks, end_offset, expected) in [
            (Acknowledgements::None, 20, Now),
            (Acknowledgements::Leader, 20, Now),
            (Acknowledgements::All, 10, Now),
            (Acknowledgements::All, 11, AtHighWatermark(11)),
        ] {
            assert_eq!(
                leader.acknowledgement(acks, end_offset),
                expected,
                "{acks:?} {end_offset}"
            );
        }
    }
}
