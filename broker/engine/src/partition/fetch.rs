//! What a follower's fetch means at the leader.
//!
//! A fetch at offset N says: I hold all below N, of which my disk holds all below the durable
//! end (KAFKA-10533: what is only written may be lost and must not be counted). It is counted
//! only if it is of the present leader epoch and of the follower's present life; the last
//! fetched epoch alone is no fence (the first model of KIP-320 in hachikuji/kafka-specification
//! counted a follower of an older epoch).

use std::time::Duration;

use thiserror::Error;

use super::{
    epochs::{Agreement, EpochEnd, EpochView, compare},
    leader::Leader,
    log_state::LogPositions,
};
use crate::cluster::BrokerId;

/// A follower asks for records, or tells what its disk holds by now (KIP-595, KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchRequest {
    /// Who asks.
    pub replica: BrokerId,
    /// In which life.
    pub broker_epoch: i64,
    /// The leader epoch as the follower knows it.
    pub leader_epoch: i32,
    /// Rises by one or more with each request of one life, from 1 on: tells a late request from
    /// a follower that lost data.
    pub sequence: u64,
    /// The follower's log end: the next record it wants.
    pub offset: i64,
    /// The epoch of the record before `offset`; `None` if the follower's log is empty.
    pub last_fetched_epoch: Option<i32>,
    /// Up to where the follower's disk holds its log.
    pub durable_end: i64,
    /// The oldest record that the follower keeps.
    pub log_start: i64,
    /// The follower's high watermark: whether news of it are worth an answer.
    pub high_watermark: i64,
}

/// A leader's answer to a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchVerdict {
    /// Send records from the request's offset on, all below `up_to`.
    Serve {
        /// The leader's log end.
        up_to: i64,
        /// The leader's high watermark, for the follower to take over.
        high_watermark: i64,
        /// The leader's log start, for the follower to take over.
        log_start: i64,
        /// Whether there is something to tell now; else the answer may wait until there is.
        at_once: bool,
    },
    /// The follower's log is no prefix of the leader's: cut and ask again. It must take over
    /// nothing else (KAFKA-14704), which is why nothing else is told.
    Diverged(EpochEnd),
    /// No records.
    Refused(FetchRefusal),
}

/// Why a follower gets no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FetchRefusal {
    /// This broker does not lead the partition in the request's epoch.
    #[error("this broker does not lead the partition (leader {leader:?} in epoch {leader_epoch}): ask the leader")]
    NotLeader {
        /// Who does, as far as known.
        leader: Option<BrokerId>,
        /// In which epoch.
        leader_epoch: i32,
    },
    /// The follower's metadata is old (KIP-320).
    #[error("the fetch's leader epoch {requested} is older than {current}: wait for newer metadata")]
    FencedLeaderEpoch {
        /// The follower's.
        requested: i32,
        /// The leader's.
        current: i32,
    },
    /// The leader's metadata is old (KIP-320).
    #[error("the fetch's leader epoch {requested} is newer than {current}: this broker is behind, try again")]
    UnknownLeaderEpoch {
        /// The follower's.
        requested: i32,
        /// The leader's.
        current: i32,
    },
    /// By the leader's metadata the follower holds no replica.
    #[error("broker {replica} holds no replica of the partition as far as this broker knows: try again")]
    NotAReplica {
        /// The follower.
        replica: BrokerId,
    },
    /// The follower has registered anew since: the request is of an earlier life (KIP-903).
    #[error("the fetch's broker epoch {requested} is older than {current}: that process must stop")]
    StaleBrokerEpoch {
        /// The follower's.
        requested: i64,
        /// Its present one.
        current: i64,
    },
    /// The leader has not heard yet that the follower registered anew (KIP-903).
    #[error("the fetch's broker epoch {requested} is newer than {current}: this broker is behind, try again")]
    UnknownBrokerEpoch {
        /// The follower's.
        requested: i64,
        /// The one that the leader knows.
        current: i64,
    },
    /// The offset is not in the leader's log.
    #[error("offset {offset} is outside of {log_start} to {log_end}: start anew at {log_start}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: i64,
        /// The oldest that the leader keeps.
        log_start: i64,
        /// Where the leader's log ends.
        log_end: i64,
    },
    /// The follower claims a record of an epoch later than the leader's own.
    #[error("the follower's last record has epoch {requested}, which is later than the leader's {current}")]
    UnknownRecordEpoch {
        /// The follower's.
        requested: i32,
        /// The leader's.
        current: i32,
    },
}

/// What a request did to the leader's record of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Nothing: refused, diverged (KAFKA-13141), late, or of a follower that lost data.
    No,
    /// The follower's progress was noted.
    Yes,
    /// The follower has fallen below what it had acknowledged, just now.
    LostData {
        /// What its disk had held.
        acknowledged: i64,
    },
}

impl Leader {
    /// Checks and counts a follower's request, in this order: leader epoch, membership, broker
    /// epoch, log start, divergence, log end.
    pub(super) fn on_fetch(
        &mut self,
        now: Duration,
        request: &FetchRequest,
        log: LogPositions,
        epochs: &impl EpochView,
    ) -> (FetchVerdict, Counted) {
        match self.inspect(request, log, epochs) {
            Err(verdict) => (verdict, Counted::No),
            Ok(at) => {
                let counted = self.count_fetch(at, now, request, log);
                (self.serve(request, log), counted)
            }
        }
    }

    /// What is to be sent to a follower whose request passed all checks; after the high
    /// watermark has moved.
    pub(super) fn serve(&self, request: &FetchRequest, log: LogPositions) -> FetchVerdict {
        let high_watermark = self.high_watermark();
        FetchVerdict::Serve {
            up_to: log.end,
            high_watermark,
            log_start: log.start,
            at_once: request.offset < log.end
                || request.high_watermark < high_watermark.min(request.offset)
                || request.log_start < log.start.min(high_watermark),
        }
    }

    fn inspect(
        &mut self,
        request: &FetchRequest,
        log: LogPositions,
        epochs: &impl EpochView,
    ) -> Result<usize, FetchVerdict> {
        let refuse = |refusal| Err(FetchVerdict::Refused(refusal));
        let (requested, current) = (request.leader_epoch, self.leader_epoch());
        if requested < current {
            return refuse(FetchRefusal::FencedLeaderEpoch { requested, current });
        }
        if requested > current {
            return refuse(FetchRefusal::UnknownLeaderEpoch { requested, current });
        }
        let Some(at) = self.followers.iter().position(|known| known.id == request.replica) else {
            return refuse(FetchRefusal::NotAReplica {
                replica: request.replica,
            });
        };
        let (requested, current) = (request.broker_epoch, self.followers[at].broker_epoch);
        if requested < current {
            return refuse(FetchRefusal::StaleBrokerEpoch { requested, current });
        }
        if requested > current {
            // Its former life is over, and with it perhaps its disk: nothing of that life may
            // be counted until the metadata says who is in sync (KIP-903).
            self.followers[at].forget();
            return refuse(FetchRefusal::UnknownBrokerEpoch { requested, current });
        }
        let out_of_range = FetchRefusal::OffsetOutOfRange {
            offset: request.offset,
            log_start: log.start,
            log_end: log.end,
        };
        // Before divergence: a follower below the log start could never find the common part,
        // and would be told to cut for ever (KAFKA-12996).
        if request.offset < log.start {
            return refuse(out_of_range);
        }
        // All that it holds is deleted here, so nothing can be compared.
        if request.offset == log.start
            && let Some(epoch) = request.last_fetched_epoch
        {
            return if self.knows_deleted(at, request.offset, epoch, epochs) {
                Ok(at)
            } else {
                refuse(out_of_range)
            };
        }
        match compare(epochs, request.last_fetched_epoch, request.offset) {
            Agreement::Diverged(end) => return Err(FetchVerdict::Diverged(end)),
            Agreement::UnknownEpoch => {
                return refuse(FetchRefusal::UnknownRecordEpoch {
                    requested: request.last_fetched_epoch.unwrap_or(-1),
                    current: self.leader_epoch(),
                });
            }
            Agreement::Prefix => {}
        }
        if request.offset > log.end {
            return refuse(out_of_range);
        }
        Ok(at)
    }

    /// Whether the log of a follower that ends where this one begins was equal to it: up to `start`,
    /// with a last record of `epoch`.
    ///
    /// The table can't tell. It says that an epoch below its lowest ends at the log start, and by
    /// that records that were never committed would stay readable at the follower. But one that was
    /// found equal up to there before the records were deleted is equal now; and so is one whose
    /// last record has an epoch that goes on here, or is this leader's own, who wrote all of it.
    /// Others have to begin anew: they fetch everything once more, which must not happen to who is in
    /// sync.
    fn knows_deleted(&self, at: usize, start: i64, epoch: i32, epochs: &impl EpochView) -> bool {
        let was_equal = self.followers[at].durable_end.is_some_and(|end| end >= start);
        let goes_on = || {
            let end = epochs.end_of_epoch(epoch);
            end.is_some_and(|end| end.epoch == epoch && end.end_offset > start)
        };
        was_equal || epoch == self.leader_epoch() || goes_on()
    }

    fn count_fetch(&mut self, at: usize, now: Duration, request: &FetchRequest, log: LogPositions) -> Counted {
        let follower = &mut self.followers[at];
        if request.sequence <= follower.sequence {
            return Counted::No;
        }
        follower.sequence = request.sequence;
        if follower.lost_data {
            return Counted::No;
        }
        // Only what was compared with this log counts, whatever the follower claims.
        let durable_end = request.durable_end.min(request.offset);
        match follower.durable_end {
            // Within one epoch and one life a log that agreed never gets shorter, unless its
            // disk has lost what it had acknowledged.
            Some(acknowledged) if request.offset < acknowledged => {
                follower.mark_lost();
                Counted::LostData { acknowledged }
            }
            _ => {
                follower.count(now, durable_end, log.end);
                follower.log_start = Some(request.log_start);
                Counted::Yes
            }
        }
    }
}
