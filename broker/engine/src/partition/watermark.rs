//! The high watermark at the leader: up to where the log is committed.
//!
//! ```text
//!  high watermark = lowest durable end of
//!       the leader itself
//!     ∪ the maximal in-sync set   (committed set ∪ members of a proposal without an answer)
//!     ∪ caught-up eligible replicas that are about to join
//!  and it moves only while the committed set has min(min.insync.replicas, replicas) members
//! ```
//!
//! The maximal set is what any controller may believe in at this moment (KIP-497): whom it
//! elects has all that was counted. Frozen below the minimum, because a committed record must be
//! on that many disks when the last of them is asked (KIP-966).

use std::time::Duration;

use super::{leader::Leader, log_state::LogPositions, progress::Progress};
use crate::cluster::BrokerId;

/// A moment, and how long a follower may lag before it is out of sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub now: Duration,
    pub lag_max: Duration,
}

impl Leader {
    /// Moves the high watermark as far as it may; whether it moved. It never falls.
    pub(super) fn advance_watermark(&mut self, clock: Option<Clock>, log: LogPositions) -> bool {
        if self.isr.committed.len() < self.required {
            return false;
        }
        let mut lowest = log.durable_end;
        for follower in &self.followers {
            if self.counts(follower, clock, log) {
                match follower.durable_end {
                    Some(end) => lowest = lowest.min(end),
                    // Not heard in this epoch: what it holds is unknown, not nothing.
                    None => return false,
                }
            }
        }
        if lowest <= self.high_watermark {
            return false;
        }
        self.high_watermark = lowest;
        true
    }

    /// Whether the high watermark, and so producers, wait for a follower.
    pub(super) fn counts(&self, follower: &Progress, clock: Option<Clock>, log: LogPositions) -> bool {
        self.isr.may_be_in_sync(follower.id)
            || clock.is_some_and(|clock| {
                // Else a follower that fetches as fast as it can might never find itself at
                // the high watermark, and so never join (KIP-16's lag by time). A fenced one
                // or one that shuts down won't join and is not waited for (KAFKA-15021).
                follower.eligible
                    && !follower.lost_data
                    && follower.durable_end.is_some()
                    && follower.caught_up(clock.now, log.end, clock.lag_max)
            })
    }

    /// Whether `id` may be in the in-sync set by what any controller may hold true now.
    #[must_use]
    pub fn in_maximal_isr(&self, id: BrokerId) -> bool {
        self.isr.may_be_in_sync(id)
    }
}
