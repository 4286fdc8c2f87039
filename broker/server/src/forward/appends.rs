//! The batches that another broker passes on, in one stream.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millrace_proto::{
    internal::v1::{
        ForwardAppend, ForwardAppendAnswer, ForwardAppendRequest, ForwardAppendResponse, ForwardAppended,
        forward_append_answer::Result as Answer,
    },
    v1::ErrorReason,
};
use tokio::{
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    time::Instant,
};
use tonic::{Status, Streaming};

use super::{limits, place::ends_flow, service::find, wire};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    limits::is_looked_through,
    memory::{MemoryPermit, MessagePermits},
    partition::{AppendRequest, Partition, SequenceRule, SoundBatch},
    rpc::{acknowledge, convert::Acks},
};

/// The batches of one stream.
pub(super) struct Appends {
    broker: Arc<Broker>,
    /// Flows of which something was refused, and when.
    refused: HashMap<u64, Instant>,
    /// Of each flow, what ends with the turn of its last batch.
    turns: HashMap<u64, oneshot::Receiver<()>>,
}

type Pending = BoxFuture<'static, ForwardAppendAnswer>;

/// A batch that was looked into, and where it belongs; or why it is refused.
type Checked = Result<(Arc<Partition>, SoundBatch), ApiError>;

/// A request whose batch was looked into, and whose turn it is in its flow.
struct Next {
    append: ForwardAppend,
    checked: Checked,
    /// Its memory: held until it is in the log.
    _memory: Option<MemoryPermit>,
    /// Dropped, the next one of its flow has its turn.
    _turn: oneshot::Sender<()>,
}

type Checking = BoxFuture<'static, Next>;

impl Appends {
    /// Of a stream that begins.
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            refused: HashMap::new(),
            turns: HashMap::new(),
        }
    }

    /// Serves the stream until it ends or its sender goes away.
    pub(super) async fn serve(
        mut self,
        mut requests: Streaming<ForwardAppendRequest>,
        permits: MessagePermits,
        answers: mpsc::Sender<Result<ForwardAppendResponse, Status>>,
    ) {
        let stopping = self.broker.stopping.clone();
        let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
        // Small batches do not wait behind large ones that are looked into, unless they are of the same flow.
        let mut checking: FuturesUnordered<Checking> = FuturesUnordered::new();
        let mut open = true;
        while open || !checking.is_empty() || !pending.is_empty() {
            tokio::select! {
                biased;
                () = stopping.cancelled(), if open => open = false,
                () = answers.closed() => return,
                Some(first) = pending.next(), if !pending.is_empty() => {
                    let mut ready = vec![first];
                    while ready.len() < limits::ANSWERS_AT_ONCE
                        && let Some(Some(next)) = pending.next().now_or_never()
                    {
                        ready.push(next);
                    }
                    if answers.send(Ok(ForwardAppendResponse { answers: ready })).await.is_err() {
                        return;
                    }
                }
                Some(next) = checking.next(), if !checking.is_empty() => {
                    pending.push(self.begin(&next.append, next.checked));
                }
                request = requests.message(),
                    if open && checking.len() + pending.len() < limits::APPENDS_IN_FLIGHT =>
                {
                    match request {
                        Ok(Some(request)) => {
                            let memory = permits.take();
                            checking.extend(request.append.map(|append| self.check(append, memory)));
                        }
                        // The sender has gone, and with it who would take the answers.
                        Ok(None) | Err(_) => return,
                    }
                }
            }
        }
    }

    /// Looks into a batch, unless it is refused whatever it holds, and waits until those before it in its flow are in
    /// the log.
    fn check(&mut self, mut append: ForwardAppend, memory: Option<MemoryPermit>) -> Checking {
        let batch = std::mem::take(&mut append.batch);
        let partition = if self.refused.contains_key(&append.flow) {
            Err(refused())
        } else {
            find(&self.broker, &append.topic_id, append.partition)
        };
        let (turn, before) = self.turn(append.flow);
        async move {
            let checked = match partition {
                Ok(partition) => partition.check(batch).await.map(|batch| (partition, batch)),
                Err(error) => Err(error.or_outcome(WriteOutcome::NotWritten)),
            };
            if let Some(before) = before {
                // Its sender is only ever dropped.
                let _ = before.await;
            }
            Next {
                append,
                checked,
                _memory: memory,
                _turn: turn,
            }
        }
        .boxed()
    }

    /// A turn in a flow, and what ends with the one before it; flow 0 is none.
    fn turn(&mut self, flow: u64) -> (oneshot::Sender<()>, Option<oneshot::Receiver<()>>) {
        let (turn, ends) = oneshot::channel();
        if flow == 0 {
            return (turn, None);
        }
        if is_looked_through(self.turns.len(), limits::FLOWS_LOOKED_THROUGH) {
            self.turns
                .retain(|_, ends| matches!(ends.try_recv(), Err(TryRecvError::Empty)));
        }
        (turn, self.turns.insert(flow, ends))
    }

    /// Appends a batch now; answers with the future of its acknowledgement.
    fn begin(&mut self, append: &ForwardAppend, checked: Checked) -> Pending {
        let number = append.number;
        let acks = if append.acks_all { Acks::All } else { Acks::Leader };
        let timeout = Duration::from_millis(append.timeout_ms.into()).min(limits::APPEND_TIMEOUT_LONGEST);
        let request = AppendRequest {
            acks,
            leader_epoch: Some(append.leader_epoch),
            expected_offset: append.expected_offset,
            sequence_rule: if append.sequence_gaps {
                SequenceRule::Increasing
            } else {
                SequenceRule::Contiguous
            },
        };
        let appended = match checked {
            // One before it may have been refused while it was looked into.
            Ok(_) if self.refused.contains_key(&append.flow) => Err(refused().outcome(WriteOutcome::NotWritten)),
            checked => checked.and_then(|(partition, batch)| partition.append(&batch, &request)),
        };
        // After another error the batch is not sent again, so that later ones may go on.
        if append.flow > 0 && appended.as_ref().is_err_and(ends_flow) {
            self.refuse(append.flow);
        }
        let deadline = Instant::now() + timeout;
        async move {
            let result = match appended {
                Ok(appended) => acknowledge(appended, acks, deadline).await,
                Err(error) => Err(error),
            };
            let result = match result {
                Ok(stored) => Answer::Appended(ForwardAppended {
                    base_offset: stored.base_offset,
                    log_append_time_ms: stored.log_append_time,
                }),
                Err(error) => Answer::Error(wire::error_out(&error)),
            };
            ForwardAppendAnswer {
                number,
                result: Some(result),
            }
        }
        .boxed()
    }

    /// Takes no more batches of a flow. Its sender opens another one.
    fn refuse(&mut self, flow: u64) {
        let now = Instant::now();
        if is_looked_through(self.refused.len(), limits::FLOWS_LOOKED_THROUGH) {
            self.refused
                .retain(|_, since| now.duration_since(*since) < limits::REFUSED_FLOW_KEPT);
        }
        self.refused.insert(flow, now);
    }
}

fn refused() -> ApiError {
    ApiError::new(
        ErrorReason::NotLeader,
        "An earlier batch of this flow was refused: send both again.",
    )
}
