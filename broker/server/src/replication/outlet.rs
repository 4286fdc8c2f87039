//! Answers to one follower, from the moment a replica gives them until they are sent.

use std::{collections::VecDeque, num::NonZeroU64, sync::Arc, time::Instant};

use millrace_engine::partition::{FetchRefusal, FetchRequest, FetchVerdict};
use millrace_proto::internal::v1::{
    ReplicaAnswer, ReplicaDivergence, ReplicaOutOfRange, ReplicaRecords, ReplicateResponse, replica_answer::Outcome,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Key, limits, throttle::Throttle};
use crate::partition::Partition;

/// Answers to one follower that wait to be sent. One fetch of a partition is under way at a
/// time, so the follower's partitions bound it; what is read from the log for it is not held
/// before it is sent.
#[derive(Debug)]
pub struct Outlet {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Ready>,
    /// Records for replicas that are far behind: after all others, as no producer waits for them.
    copies: VecDeque<Ready>,
    /// When the last of these was taken.
    copied_at: Instant,
    throttle: Throttle,
    closed: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Ready {
    /// The partition.
    pub key: Key,
    /// The leader epoch of the request.
    pub leader_epoch: i32,
    /// The number of the request.
    pub sequence: u64,
    /// What to answer.
    pub what: ReadyOutcome,
}

/// What to answer.
#[derive(Debug)]
pub enum ReadyOutcome {
    /// Records of the partition, read when they are sent.
    Read {
        /// From where.
        partition: Arc<Partition>,
        /// From this offset on.
        offset: i64,
        /// Below this one.
        up_to: i64,
        /// The leader's high watermark.
        high_watermark: i64,
        /// The leader's log start.
        log_start: i64,
        /// Whether it goes to a replica that no producer waits for.
        is_copy: bool,
        /// At most so many bytes a second of this and others like it.
        throttle: Option<NonZeroU64>,
    },
    /// Nothing that the follower has can go on: where this log begins, and what is known of producers there.
    OutOfRange {
        /// Where to ask.
        partition: Arc<Partition>,
        /// The log's end.
        log_end: i64,
    },
    /// Something else.
    Other(Outcome),
}

impl Ready {
    /// A replica's verdict on a request. Records of a copy, for a replica that no producer waits for, go out when
    /// nothing else waits, and at `throttle` bytes a second at most.
    pub fn of(
        partition: &Arc<Partition>,
        request: &FetchRequest,
        verdict: FetchVerdict,
        is_copy: bool,
        throttle: Option<NonZeroU64>,
    ) -> Self {
        let what = match verdict {
            FetchVerdict::Serve {
                up_to,
                high_watermark,
                log_start,
                ..
            } => ReadyOutcome::Read {
                partition: partition.clone(),
                offset: request.offset,
                up_to,
                high_watermark,
                log_start,
                is_copy: is_copy && request.offset < up_to,
                throttle,
            },
            FetchVerdict::Diverged(end) => ReadyOutcome::Other(Outcome::Diverged(ReplicaDivergence {
                epoch: end.epoch,
                end_offset: end.end_offset,
            })),
            FetchVerdict::Refused(FetchRefusal::OffsetOutOfRange { log_end, .. }) => ReadyOutcome::OutOfRange {
                partition: partition.clone(),
                log_end,
            },
            FetchVerdict::Refused(refusal) => ReadyOutcome::Other(Outcome::Refused(refusal.to_string())),
        };
        Self {
            key: partition.key(),
            leader_epoch: request.leader_epoch,
            sequence: request.sequence,
            what,
        }
    }

    /// The bound on its records, if there is one.
    fn throttle(&self) -> Option<NonZeroU64> {
        match &self.what {
            ReadyOutcome::Read { throttle, .. } => *throttle,
            ReadyOutcome::OutOfRange { .. } | ReadyOutcome::Other(_) => None,
        }
    }

    /// Whether no producer waits for it: a follower that is told where to begin anew lacks everything.
    fn is_copy(&self) -> bool {
        matches!(
            self.what,
            ReadyOutcome::Read { is_copy: true, .. } | ReadyOutcome::OutOfRange { .. }
        )
    }

    /// The answer with its records left out: the follower learns the rest, and asks again.
    pub fn without_records(mut self) -> Self {
        if let ReadyOutcome::Read { offset, up_to, .. } = &mut self.what {
            *up_to = *offset;
        }
        self
    }

    /// No answer can be had here.
    pub fn refused(key: Key, request: &FetchRequest, why: impl Into<String>) -> Self {
        Self {
            key,
            leader_epoch: request.leader_epoch,
            sequence: request.sequence,
            what: ReadyOutcome::Other(Outcome::Refused(why.into())),
        }
    }
}

impl Default for Outlet {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                copies: VecDeque::new(),
                copied_at: Instant::now(),
                throttle: Throttle::new(Instant::now()),
                closed: false,
            }),
            wake: Notify::new(),
        }
    }
}

impl State {
    fn push(&mut self, ready: Ready, now: Instant) {
        if ready.throttle().is_some() {
            self.throttle.hold(ready, now);
        } else if ready.is_copy() {
            self.copies.push_back(ready);
        } else {
            self.ready.push_back(ready);
        }
    }

    /// What may be sent now.
    fn next(&mut self, now: Instant) -> Option<Ready> {
        // Who is behind gets on, however busy the others are.
        let copy_is_due = now.saturating_duration_since(self.copied_at) >= limits::COPY_AT_LEAST_EVERY;
        if self.ready.is_empty() || copy_is_due {
            let copy = self.copies.pop_front();
            if copy.is_some() {
                self.copied_at = now;
                return copy;
            }
        }
        self.ready.pop_front().or_else(|| self.throttle.next(now))
    }
}

impl Outlet {
    /// Adds an answer; after the follower has gone this does nothing.
    pub fn push(&self, ready: Ready) {
        let mut state = self.state.lock();
        if !state.closed {
            state.push(ready, Instant::now());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The follower has gone.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ready.clear();
        state.copies.clear();
        state.throttle.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// The next message, once there is something to send; `None` once the follower has gone.
    pub async fn next(&self) -> Option<ReplicateResponse> {
        loop {
            let (first, wake_at) = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                (state.next(Instant::now()), state.throttle.wake_at())
            };
            match (first, wake_at) {
                (Some(first), _) => return Some(self.fill(first).await),
                (None, None) => self.wake.notified().await,
                (None, Some(at)) => {
                    let _ = tokio::time::timeout_at(at.into(), self.wake.notified()).await;
                }
            }
        }
    }

    async fn fill(&self, first: Ready) -> ReplicateResponse {
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(ready) = next {
            let (key, throttle) = (ready.key, ready.throttle());
            let answer = answer(ready).await;
            match &answer.outcome {
                Some(Outcome::Records(records)) => {
                    let sent = records.records.len();
                    bytes += sent;
                    if let Some(rate) = throttle.filter(|_| sent > 0) {
                        self.state.lock().throttle.sent(key, sent, rate, Instant::now());
                    }
                }
                Some(Outcome::OutOfRange(range)) => bytes += range.producers.len(),
                _ => {}
            }
            answers.push(answer);
            next = if bytes < limits::RESPONSE_BYTES && answers.len() < limits::RESPONSE_ANSWERS {
                self.state.lock().next(Instant::now())
            } else {
                None
            };
        }
        ReplicateResponse { answers }
    }
}

async fn answer(ready: Ready) -> ReplicaAnswer {
    let outcome = match ready.what {
        ReadyOutcome::Other(outcome) => outcome,
        ReadyOutcome::OutOfRange { partition, log_end } => match producers(partition).await {
            // The start may have moved since; then the follower is to begin there.
            Ok((log_start, producers)) => Outcome::OutOfRange(ReplicaOutOfRange {
                log_start,
                log_end: log_end.max(log_start),
                producers: producers.into(),
            }),
            Err(problem) => Outcome::Refused(problem),
        },
        ReadyOutcome::Read {
            partition,
            offset,
            up_to,
            high_watermark,
            log_start,
            ..
        } => match read(partition, offset, up_to).await {
            Ok(records) => Outcome::Records(ReplicaRecords {
                records,
                high_watermark,
                log_start,
            }),
            Err(problem) => Outcome::Refused(problem),
        },
    };
    ReplicaAnswer {
        topic_id: ready.key.0.as_bytes().to_vec().into(),
        partition: ready.key.1,
        leader_epoch: ready.leader_epoch,
        sequence: ready.sequence,
        outcome: Some(outcome),
    }
}

/// Reads what a follower lacks. What was written a moment ago is read at once; older records may
/// have to come from the disk, which must not hold up other tasks.
async fn read(partition: Arc<Partition>, offset: i64, up_to: i64) -> Result<bytes::Bytes, String> {
    if offset >= up_to {
        return Ok(bytes::Bytes::new());
    }
    let cached = partition.likely_cached(offset);
    let reading = move || {
        let read = partition.read_for_replica(offset, limits::PARTITION_BYTES, up_to);
        read.map_err(|error| error.to_message().message)
    };
    if cached {
        return reading();
    }
    tokio::task::spawn_blocking(reading)
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// The log start, and a snapshot of the producers there: of up to 100,000 of them, and some may have to be looked up.
async fn producers(partition: Arc<Partition>) -> Result<(i64, Vec<u8>), String> {
    tokio::task::spawn_blocking(move || {
        partition
            .producers_for_replica()
            .map_err(|error| error.to_message().message)
    })
    .await
    .unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestBroker;

    /// A replica that catches up with much must not hold up those that producers wait for.
    #[tokio::test(flavor = "multi_thread")]
    async fn copies_go_out_when_nothing_else_waits_and_now_and_then() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        let begun = Instant::now();
        let mut state = State {
            ready: VecDeque::new(),
            copies: VecDeque::new(),
            copied_at: begun,
            throttle: Throttle::new(begun),
            closed: false,
        };
        let request = |sequence| FetchRequest {
            replica: 1,
            broker_epoch: 1,
            leader_epoch: 1,
            sequence,
            offset: 0,
            last_fetched_epoch: None,
            durable_end: 0,
            log_start: 0,
            high_watermark: 0,
        };
        let verdict = FetchVerdict::Serve {
            up_to: 10,
            high_watermark: 0,
            log_start: 0,
            at_once: true,
        };
        let begin_anew = FetchVerdict::Refused(FetchRefusal::OffsetOutOfRange {
            offset: 0,
            log_start: 5,
            log_end: 10,
        });
        for sequence in [101, 102, 1, 2, 103, 3] {
            let verdict = if sequence == 102 { begin_anew } else { verdict };
            let ready = Ready::of(&partition, &request(sequence), verdict, sequence > 100, None);
            state.push(ready, begun);
        }
        let mut next = |after| state.next(begun + after).map(|ready| ready.sequence);
        let soon = limits::COPY_AT_LEAST_EVERY / 2;
        let late = limits::COPY_AT_LEAST_EVERY;
        assert_eq!([next(soon), next(late), next(late)], [Some(1), Some(101), Some(2)]);
        assert_eq!([next(late + soon), next(late + soon)], [Some(3), Some(102)]);
        assert_eq!([next(late * 9), next(late * 9)], [Some(103), None]);
    }
}
