//! Answers to one follower, from the moment a replica gives them until they are sent.

use std::{collections::VecDeque, sync::Arc};

use millrace_engine::partition::{FetchRefusal, FetchRequest, FetchVerdict};
use millrace_proto::internal::v1::{
    ReplicaAnswer, ReplicaDivergence, ReplicaOutOfRange, ReplicaRecords, ReplicateResponse, replica_answer::Outcome,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Key, limits};
use crate::partition::Partition;

/// Answers to one follower that wait to be sent. One fetch of a partition is under way at a
/// time, so the follower's partitions bound it; what is read from the log for it is not held
/// before it is sent.
#[derive(Debug, Default)]
pub struct Outlet {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Ready>,
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
    },
    /// Something else.
    Other(Outcome),
}

impl Ready {
    /// A replica's verdict on a request.
    pub fn of(partition: &Arc<Partition>, request: &FetchRequest, verdict: FetchVerdict) -> Self {
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
            },
            FetchVerdict::Diverged(end) => ReadyOutcome::Other(Outcome::Diverged(ReplicaDivergence {
                epoch: end.epoch,
                end_offset: end.end_offset,
            })),
            FetchVerdict::Refused(FetchRefusal::OffsetOutOfRange { log_start, log_end, .. }) => {
                ReadyOutcome::Other(Outcome::OutOfRange(ReplicaOutOfRange { log_start, log_end }))
            }
            FetchVerdict::Refused(refusal) => ReadyOutcome::Other(Outcome::Refused(refusal.to_string())),
        };
        Self {
            key: partition.key(),
            leader_epoch: request.leader_epoch,
            sequence: request.sequence,
            what,
        }
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

impl Outlet {
    /// Adds an answer; after the follower has gone this does nothing.
    pub fn push(&self, ready: Ready) {
        let mut state = self.state.lock();
        if !state.closed {
            state.ready.push_back(ready);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The follower has gone.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ready.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// The next message, once there is something to send; `None` once the follower has gone.
    pub async fn next(&self) -> Option<ReplicateResponse> {
        loop {
            let first = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                state.ready.pop_front()
            };
            match first {
                Some(first) => return Some(self.fill(first).await),
                None => self.wake.notified().await,
            }
        }
    }

    async fn fill(&self, first: Ready) -> ReplicateResponse {
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(ready) = next {
            let answer = answer(ready).await;
            if let Some(Outcome::Records(records)) = &answer.outcome {
                bytes += records.records.len();
            }
            answers.push(answer);
            next = if bytes < limits::RESPONSE_BYTES && answers.len() < limits::RESPONSE_ANSWERS {
                self.state.lock().ready.pop_front()
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
        ReadyOutcome::Read {
            partition,
            offset,
            up_to,
            high_watermark,
            log_start,
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
