//! A replica that follows: what it asks for, and what it does with the answer.
//!
//! ```text
//!              fetch                records               appended
//!   [ready] ---------> [in flight] ---------> [appending] ---------> [ready]
//!      ^ ^                 |   | diverged                  truncated    ^
//!      | |   refused, lost |   +------------> [truncating] -------------+
//!      | +--- after a while -+
//!      +----- empty, with the leader's high watermark
//! ```

use std::time::Duration;

use super::{
    effect::{Alarm, Effect, OfflineReason},
    epochs::{EpochEnd, EpochView, truncation_point},
    event::{FetchOutcome, FetchReply, FetchedBatch},
    fetch::{FetchRefusal, FetchRequest},
    log_state::LogPositions,
    replica::{Busy, Replica, Role},
};
use crate::cluster::{BrokerId, CommittedFloor};

/// A follower in one leader epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    /// `None`: there is no leader to fetch from.
    pub leader: Option<BrokerId>,
    in_flight: Option<InFlight>,
    /// No fetch before.
    not_before: Duration,
    /// The durable end that the leader was last told.
    told: i64,
    /// How many times in a row the log found the leader's batches damaged.
    damaged: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    sequence: u64,
    offset: i64,
    sent_at: Duration,
}

impl Follower {
    pub(super) fn new(leader: Option<BrokerId>) -> Self {
        Self {
            leader,
            in_flight: None,
            not_before: Duration::ZERO,
            told: -1,
            damaged: 0,
        }
    }
}

/// Up to which offset a log was found equal to the log of the leader of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Matched {
    pub leader_epoch: i32,
    pub end: i64,
}

/// Whether fetched batches may follow a log that ends at `log_end` with a record of `last_epoch`:
/// offsets rise without overlap (compaction at the leader leaves gaps), epochs do not fall, none
/// is later than the request's: the leader may be cutting and appending anew while its answer
/// is read from the segment (KAFKA-18723). Answers with the log's end after them.
fn check_batches(
    batches: &[FetchedBatch],
    log: LogPositions,
    last_epoch: Option<i32>,
    request_epoch: i32,
) -> Result<i64, &'static str> {
    let mut next = log.end;
    let mut epoch = last_epoch.unwrap_or(0).max(0);
    for (at, batch) in batches.iter().enumerate() {
        if batch.next_offset <= batch.base_offset || batch.next_offset <= next {
            return Err("a batch ends before it begins or where the log already is");
        }
        // An empty log may begin within a batch: log starts are set by record.
        let within_first = at == 0 && log.start == log.end;
        if batch.base_offset < next && !within_first {
            return Err("a batch begins below the log's end");
        }
        if batch.leader_epoch < epoch {
            return Err("a batch's leader epoch is lower than that of the record before it");
        }
        if batch.leader_epoch > request_epoch {
            return Err("a batch's leader epoch is later than the fetch's");
        }
        next = batch.next_offset;
        epoch = batch.leader_epoch;
    }
    Ok(next)
}

impl Replica {
    /// Asks the leader for more, if there is one and nothing else is under way.
    pub(super) fn fetch_if_ready(&mut self, now: Duration, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        let fetch_timeout = self.config.fetch_timeout;
        let damaged_from = self.damage_to_refill();
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(leader) = follower.leader else { return };
        let expired = |sent: &InFlight| now.saturating_sub(sent.sent_at) >= fetch_timeout;
        if self.busy.is_some() || now < follower.not_before {
            return;
        }
        if let Some(from) = damaged_from {
            if !self.known.may_be_chosen {
                // What was asked for before is not waited for: it may have no answer for long.
                follower.in_flight = None;
                let log_end = self.log.end;
                out.push(Effect::Alarm(Alarm::DamagedReplica { from, log_end }));
                self.busy = Some(Busy::Truncating);
                out.push(Effect::Truncate { to: from });
            }
            return;
        }
        if follower.in_flight.is_some_and(|sent| !expired(&sent)) {
            return;
        }
        // An epoch in which this broker led and wrote nothing: older records that it lacks may
        // follow here, and the table must not say that they are of a later epoch (KAFKA-10706).
        if epochs.ends_with_empty_epoch() {
            self.busy = Some(Busy::Truncating);
            out.push(Effect::Truncate { to: self.log.end });
            return;
        }
        self.sequence += 1;
        follower.in_flight = Some(InFlight {
            sequence: self.sequence,
            offset: self.log.end,
            sent_at: now,
        });
        follower.told = self.log.durable_end;
        let request = self.fetch_request(epochs);
        out.push(Effect::Fetch { to: leader, request });
    }

    /// From where on a damaged log is to be fetched again. Not while this replica may be chosen to
    /// lead: who has told its log's end, and then cuts it, is chosen for what it has no more.
    fn damage_to_refill(&self) -> Option<i64> {
        let from = self.damaged_from.filter(|_| self.known.replicated)?;
        Some(from.max(self.log.start))
    }

    /// Tells the leader at once what the disk holds now, if a fetch is on its way already: it
    /// may wait there for records that come only when this is known.
    pub(super) fn acknowledge_if_new(&mut self, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(leader) = follower.leader else { return };
        if follower.in_flight.is_none() || self.log.durable_end <= follower.told {
            return;
        }
        follower.told = self.log.durable_end;
        self.sequence += 1;
        let request = self.fetch_request(epochs);
        out.push(Effect::Acknowledge { to: leader, request });
    }

    fn fetch_request(&self, epochs: &impl EpochView) -> FetchRequest {
        FetchRequest {
            replica: self.config.id,
            broker_epoch: self.config.broker_epoch,
            leader_epoch: self.known.leader_epoch,
            sequence: self.sequence,
            offset: self.log.end,
            last_fetched_epoch: epochs.last_record_epoch(),
            durable_end: self.log.durable_end,
            log_start: self.log.start,
            high_watermark: self.high_watermark,
        }
    }

    /// An answer is used only if this replica still waits for it from that leader in that epoch,
    /// and its log still ends where it asked (KAFKA-13207). The number of the request tells a
    /// log that was cut and has grown to the same end.
    pub(super) fn on_fetch_answered(
        &mut self,
        now: Duration,
        reply: &FetchReply<'_>,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        let leader_epoch = self.known.leader_epoch;
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let Some(sent) = follower.in_flight.filter(|sent| sent.sequence == reply.sequence) else {
            return;
        };
        if follower.leader != Some(reply.from) || reply.leader_epoch != leader_epoch {
            return;
        }
        follower.in_flight = None;
        if sent.offset != self.log.end {
            self.fetch_if_ready(now, epochs, out);
            return;
        }
        match reply.outcome {
            FetchOutcome::Records {
                batches,
                high_watermark,
                log_start,
            } => {
                let last_epoch = epochs.last_record_epoch();
                match check_batches(batches, self.log, last_epoch, leader_epoch) {
                    Err(problem) => self.bad_answer(now, reply.from, problem, out),
                    Ok(next_offset) => {
                        self.matched = Some(Matched {
                            leader_epoch,
                            end: self.log.end,
                        });
                        let told = Busy::Appending {
                            leader_epoch,
                            high_watermark,
                            log_start,
                        };
                        if batches.is_empty() {
                            self.finish_answer(told, out);
                            self.fetch_if_ready(now, epochs, out);
                        } else {
                            self.busy = Some(told);
                            out.push(Effect::Append {
                                next_offset,
                                leader_epoch,
                            });
                        }
                    }
                }
            }
            FetchOutcome::Diverged(end) => self.on_diverged(now, reply.from, end, epochs, out),
            FetchOutcome::Refused(FetchRefusal::OffsetOutOfRange { log_start, .. }) => {
                self.on_out_of_range(now, reply.from, log_start, epochs, out);
            }
            FetchOutcome::Refused(_) | FetchOutcome::Failed => self.back_off(now),
        }
    }

    /// After the records of an answer are in the log: what else it told. The watermark comes one
    /// fetch late (KIP-207), and none of it came with a diverged answer (KAFKA-14704).
    pub(super) fn finish_answer(&mut self, told: Busy, out: &mut Vec<Effect>) {
        let Busy::Appending {
            leader_epoch,
            high_watermark,
            log_start,
        } = told
        else {
            return;
        };
        if let Role::Follower(follower) = &mut self.role {
            follower.damaged = 0;
        }
        self.matched = Some(Matched {
            leader_epoch,
            end: self.log.end,
        });
        self.raise_high_watermark(high_watermark.min(self.log.end), out);
        let log_start = log_start.min(self.high_watermark);
        if log_start > self.log.start {
            out.push(Effect::AdvanceLogStart { to: log_start });
        }
    }

    fn on_diverged(
        &mut self,
        now: Duration,
        leader: BrokerId,
        end: EpochEnd,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        if epochs.last_record_epoch().is_none_or(|last| end.epoch > last) || end.end_offset < 0 {
            self.bad_answer(now, leader, "a divergence in an epoch later than the log's", out);
            return;
        }
        let to = truncation_point(epochs, end, self.log.end);
        if to >= self.log.end {
            self.bad_answer(now, leader, "a divergence without a record to cut", out);
        } else if to < self.log.start {
            // Nothing of this log is the leader's.
            self.cut(leader, to, Effect::TruncateFully { start: to }, epochs, out);
        } else {
            self.cut(leader, to, Effect::Truncate { to }, epochs, out);
        }
    }

    /// The leader has deleted all that this log holds, or this log is empty outside of the
    /// leader's: begin at the leader's start (KAFKA-12996).
    fn on_out_of_range(
        &mut self,
        now: Duration,
        leader: BrokerId,
        leader_start: i64,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        let empty = self.log.start == self.log.end;
        let possible = if empty {
            leader_start != self.log.end
        } else {
            leader_start >= self.log.end
        };
        if leader_start < 0 || !possible {
            self.bad_answer(now, leader, "out of range, yet within the leader's log", out);
            return;
        }
        let start = leader_start;
        self.cut(leader, start, Effect::TruncateFully { start }, epochs, out);
    }

    /// Cuts, unless that would remove what is known to be committed: then the leader is the one
    /// that lost data, and this copy must be kept from it.
    fn cut(&mut self, leader: BrokerId, to: i64, effect: Effect, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        let floor = self.floor;
        if to < floor.offset && to < self.log.end && self.holds(floor, epochs) {
            out.push(Effect::Alarm(Alarm::CutBelowFloor { leader, to, floor }));
            self.go_offline(OfflineReason::CommittedAtRisk, out);
            return;
        }
        if to < self.high_watermark.min(self.log.end) {
            out.push(Effect::Alarm(Alarm::CutBelowHighWatermark {
                to,
                high_watermark: self.high_watermark,
            }));
        }
        self.busy = Some(Busy::Truncating);
        out.push(effect);
    }

    /// Whether this log surely holds all below the floor. A log that ends above it may not: its
    /// records may be of an earlier epoch, and others were committed in their place. Proof is a
    /// record of the floor's epoch or a later one, or to have been found equal to the log of the
    /// leader of such an epoch.
    fn holds(&self, floor: CommittedFloor, epochs: &impl EpochView) -> bool {
        self.log.end >= floor.offset
            && (epochs
                .last_record_epoch()
                .is_some_and(|epoch| epoch >= floor.leader_epoch)
                || self
                    .matched
                    .is_some_and(|known| known.leader_epoch >= floor.leader_epoch && known.end >= floor.offset))
    }

    fn bad_answer(&mut self, now: Duration, leader: BrokerId, problem: &'static str, out: &mut Vec<Effect>) {
        out.push(Effect::Alarm(Alarm::InvalidAnswer { leader, problem }));
        self.back_off(now);
    }

    fn back_off(&mut self, now: Duration) {
        let backoff = self.config.retry_backoff;
        if let Role::Follower(follower) = &mut self.role {
            follower.not_before = now.saturating_add(backoff);
        }
    }

    /// The log would not append or cut.
    pub(super) fn on_log_refused(&mut self, now: Duration, damaged: bool, out: &mut Vec<Effect>) {
        if self.busy.take().is_none() {
            return;
        }
        let offset = self.log.end;
        if let Role::Follower(follower) = &mut self.role
            && damaged
        {
            follower.damaged = follower.damaged.saturating_add(1);
            // Once may be the way; twice is the copy it comes from. Told once, not each time.
            if follower.damaged == 2
                && let Some(leader) = follower.leader
            {
                out.push(Effect::Alarm(Alarm::SuspectLeader { leader, offset }));
            }
        }
        self.back_off(now);
    }

    /// When a follower wants to be woken.
    pub(super) fn follower_deadline(&self, follower: &Follower) -> Option<Duration> {
        let waits = self.known.may_be_chosen && self.damage_to_refill().is_some();
        if self.busy.is_some() || follower.leader.is_none() || waits {
            return None;
        }
        Some(match follower.in_flight {
            Some(sent) => sent.sent_at.saturating_add(self.config.fetch_timeout),
            None => follower.not_before,
        })
    }
}
