//! One batch on its way to the leader of its partition, wherever that is and goes.

use std::sync::Arc;

use millrace_proto::{internal::v1::ForwardAppend, v1::ErrorReason};
use tokio::{sync::oneshot, time::Instant};

use super::{
    conversation::{Answered, Conversation},
    flow::{Flow, Go},
    limits,
    place::{Place, Search, Target},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    memory::{MemoryPermit, hold},
    partition::{AppendRequest, Appended, Partition, SequenceRule, SoundBatch},
    rpc::{acknowledge, convert::Acks, timed_out},
};

/// A batch to be stored.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where.
    pub target: Target,
    /// One record batch; none once it is stored and not sent again.
    pub records: Option<SoundBatch>,
    /// When it counts as done.
    pub acks: Acks,
    /// Append only if the log ends here.
    pub expected_offset: Option<i64>,
    /// How its sequence must follow its producer's last one.
    pub sequence_rule: SequenceRule,
    /// When its caller is answered at the latest.
    pub deadline: Instant,
    /// The memory of the request that it is of: what waits for another broker counts, also when its caller has gone.
    pub memory: Option<MemoryPermit>,
}

/// A batch that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The offset of its first record; -1 if it is not remembered.
    pub base_offset: i64,
    /// The leader's time, if the topic uses that.
    pub log_append_time: Option<i64>,
}

/// A leader, in one epoch and over one connection.
#[derive(Debug)]
pub enum Way {
    /// This broker.
    Here {
        /// The partition.
        partition: Arc<Partition>,
        /// The epoch; none if it does not matter.
        leader_epoch: Option<i32>,
    },
    /// Another one.
    There {
        /// The stream to it.
        conversation: Arc<Conversation>,
        /// The epoch.
        leader_epoch: i32,
        /// The flow on the stream; 0: of none.
        flow: u64,
    },
}

/// What became of sending a batch once.
#[derive(Debug)]
pub enum Attempt {
    /// This broker has appended it, or refused.
    Here(Box<Result<Appended, ApiError>>),
    /// Another one will tell.
    There {
        /// The answer.
        answered: Answered,
        /// The epoch that it was sent for.
        leader_epoch: i32,
    },
    /// It was not sent: others of its flow come first.
    Waiting(oneshot::Receiver<Go>),
}

impl Way {
    /// A way of its own for one flow.
    pub fn to(broker: &Broker, place: Place) -> Self {
        match place {
            Place::Here(partition) => Self::Here {
                leader_epoch: Some(partition.offsets().leader_epoch),
                partition,
            },
            Place::There { peer, leader_epoch } => Self::There {
                conversation: peer.conversation(),
                leader_epoch,
                flow: broker.forward.next_flow(),
            },
        }
    }

    /// The same for one batch that is of no flow.
    fn for_one(place: Place) -> Self {
        match place {
            Place::Here(partition) => Self::Here {
                partition,
                leader_epoch: None,
            },
            Place::There { peer, leader_epoch } => Self::There {
                conversation: peer.conversation(),
                leader_epoch,
                flow: 0,
            },
        }
    }

    /// Appends here, or hands to the stream. Never waits for another broker.
    pub fn send(&self, batch: &Batch) -> Attempt {
        let Some(records) = &batch.records else {
            return Attempt::refused(never_sent());
        };
        match self {
            Self::Here {
                partition,
                leader_epoch,
            } => {
                let request = AppendRequest {
                    acks: batch.acks,
                    leader_epoch: *leader_epoch,
                    expected_offset: batch.expected_offset,
                    sequence_rule: batch.sequence_rule,
                };
                Attempt::Here(Box::new(partition.append(records, &request)))
            }
            Self::There {
                conversation,
                leader_epoch,
                flow,
            } => {
                let bytes = records.bytes().clone();
                let left = batch.deadline.saturating_duration_since(Instant::now());
                let pushed = conversation.push(ForwardAppend {
                    number: 0,
                    flow: *flow,
                    topic_id: batch.target.wire_id(),
                    partition: batch.target.wire_number(),
                    leader_epoch: *leader_epoch,
                    batch: match &batch.memory {
                        Some(memory) => hold(bytes, memory.clone()),
                        None => bytes,
                    },
                    acks_all: batch.acks == Acks::All,
                    expected_offset: batch.expected_offset,
                    sequence_gaps: batch.sequence_rule == SequenceRule::Increasing,
                    timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
                });
                match pushed {
                    Some(answered) => Attempt::There {
                        answered,
                        leader_epoch: *leader_epoch,
                    },
                    None => Attempt::refused(ApiError::new(
                        ErrorReason::LeaderNotAvailable,
                        "The connection to the partition's leader has ended: try again.",
                    )),
                }
            }
        }
    }
}

impl Attempt {
    /// Nothing was written.
    pub fn refused(error: ApiError) -> Self {
        Self::Here(Box::new(Err(error.or_outcome(WriteOutcome::NotWritten))))
    }

    /// Whether it has failed already in a way after which the batch is sent again.
    pub fn must_be_repeated(&self, broker: &Broker, target: &Target) -> bool {
        match self {
            Self::Here(result) => {
                let error = result.as_ref().as_ref().err();
                error.is_some_and(|error| target.repeats_in_flow(broker, error))
            }
            Self::There { .. } | Self::Waiting(_) => false,
        }
    }
}

/// A batch on its way.
#[derive(Debug)]
pub struct Delivery {
    broker: Arc<Broker>,
    batch: Batch,
    /// The flow that it belongs to, and its place there. With it the batch may be sent again though its
    /// outcome is unknown: its sequence keeps it from being stored twice.
    order: Option<(Arc<Flow>, u64)>,
    attempt: Attempt,
}

impl Delivery {
    /// Sends a batch: before this returns, it stands in the log if this broker leads, or in line to
    /// the leader.
    pub fn begin(broker: &Arc<Broker>, mut batch: Batch, flow: Option<Arc<Flow>>) -> Self {
        let (order, attempt) = match flow {
            Some(flow) => {
                let (ticket, attempt) = flow.begin(broker, &batch);
                (Some((flow, ticket)), attempt)
            }
            None => {
                let attempt = match batch.target.locate(broker) {
                    Ok(place) => Way::for_one(place).send(&batch),
                    Err(error) => Attempt::refused(error),
                };
                if matches!(&attempt, Attempt::Here(result) if result.is_ok()) {
                    // It is in the log, and is not sent again.
                    (batch.records, batch.memory) = (None, None);
                }
                (None, attempt)
            }
        };
        Self {
            broker: broker.clone(),
            batch,
            order,
            attempt,
        }
    }

    /// Waits until it is stored as it asks for. Looks for the leader, and for the next one.
    ///
    /// # Errors
    /// Refused for another reason than that the leader has changed; or the new leader is not found in
    /// time; or the outcome is unknown and sending it again might store it twice.
    pub async fn finish(self) -> Result<Stored, ApiError> {
        let Self {
            broker,
            batch,
            order,
            mut attempt,
        } = self;
        let mut search: Option<Search> = None;
        // The way of an attempt that was made alone.
        let mut alone_on = None;
        let mut maybe_written = false;
        let mut last = never_sent();
        let ended = loop {
            let failed = match attempt {
                Attempt::Waiting(go) => {
                    let search = search.get_or_insert_with(|| search_for(&batch));
                    match wait_for_turn(&broker, order.as_ref(), go, search).await {
                        Some(Go::Sent(sent)) => {
                            attempt = sent;
                            continue;
                        }
                        Some(Go::Turn) => last,
                        None => break Err(last),
                    }
                }
                sent => match outcome(&broker, &batch, order.is_some(), sent).await {
                    Ok(stored) => break Ok(stored),
                    Err(error) => {
                        maybe_written |= !error.is_not_written();
                        let repeat = match &order {
                            Some(_) => batch.target.repeats_in_flow(&broker, &error),
                            None => !maybe_written && batch.target.may_be_elsewhere(&broker, &error),
                        };
                        if !repeat {
                            break Err(error);
                        }
                        alone_on = None;
                        if let Some((flow, ticket)) = &order {
                            attempt = Attempt::Waiting(flow.failed(*ticket, &batch));
                            last = error;
                            continue;
                        }
                        error
                    }
                },
            };
            let search = search.get_or_insert_with(|| search_for(&batch));
            match find_way(&broker, &batch, order.is_some(), search, failed).await {
                Ok(way) => {
                    let way = Arc::new(way);
                    attempt = way.send(&batch);
                    alone_on = Some(way);
                }
                Err(error) => break Err(error),
            }
            last = never_sent();
        };
        if let Some((flow, ticket)) = &order {
            flow.done(&broker, *ticket, alone_on.filter(|_| ended.is_ok()));
        }
        ended.map_err(|error| {
            if maybe_written && error.is_not_written() {
                // Only this attempt has surely written nothing.
                error.outcome(WriteOutcome::Unknown)
            } else {
                error
            }
        })
    }
}

fn never_sent() -> ApiError {
    ApiError::new(
        ErrorReason::LeaderNotAvailable,
        "The partition has no leader that answers, and earlier requests of this stream wait for it: try again.",
    )
    .outcome(WriteOutcome::NotWritten)
}

fn search_for(batch: &Batch) -> Search {
    Search::until(batch.deadline.min(Instant::now() + limits::LEADER_WAIT))
}

/// Waits until a batch may be sent, or was; none if there is no more time.
async fn wait_for_turn(
    broker: &Arc<Broker>,
    order: Option<&(Arc<Flow>, u64)>,
    mut go: oneshot::Receiver<Go>,
    search: &Search,
) -> Option<Go> {
    let waited = tokio::select! {
        went = &mut go => return went.ok(),
        () = tokio::time::sleep_until(search.end()) => order,
        () = broker.stopping.cancelled() => order,
    };
    let (flow, ticket) = waited?;
    if flow.withdraw(broker, *ticket) {
        return None;
    }
    go.await.ok()
}

/// Looks for the partition's leader.
async fn find_way(
    broker: &Arc<Broker>,
    batch: &Batch,
    ordered: bool,
    search: &mut Search,
    mut failed: ApiError,
) -> Result<Way, ApiError> {
    loop {
        if !search.again(broker).await {
            return Err(failed);
        }
        match batch.target.locate(broker) {
            Ok(place) if ordered => return Ok(Way::to(broker, place)),
            Ok(place) => return Ok(Way::for_one(place)),
            Err(error) => {
                failed = error.or_outcome(WriteOutcome::NotWritten);
                if !batch.target.may_be_elsewhere(broker, &failed) {
                    return Err(failed);
                }
            }
        }
    }
}

/// Waits for what becomes of an attempt.
async fn outcome(broker: &Broker, batch: &Batch, may_repeat: bool, attempt: Attempt) -> Result<Stored, ApiError> {
    match attempt {
        Attempt::Here(result) => {
            let appended = acknowledge((*result)?, batch.acks, batch.deadline).await?;
            Ok(Stored {
                base_offset: appended.base_offset,
                log_append_time: appended.log_append_time,
            })
        }
        Attempt::There { answered, leader_epoch } => {
            let result = tokio::select! {
                answered = answered => answered.unwrap_or_else(|_| Err(deposed(batch))),
                () = tokio::time::sleep_until(batch.deadline) => Err(timed_out()),
                () = deposition(broker, batch, leader_epoch), if may_repeat => Err(deposed(batch)),
            };
            let appended = result?;
            Ok(Stored {
                base_offset: appended.base_offset,
                log_append_time: appended.log_append_time_ms,
            })
        }
        Attempt::Waiting(_) => Err(never_sent()),
    }
}

/// Resolves a while after the metadata has a later leader than that of `leader_epoch`: one that does not
/// answer any more, as it stands still or is cut off, must not be waited for.
async fn deposition(broker: &Broker, batch: &Batch, leader_epoch: i32) {
    let mut changes = broker.quorum.watch();
    loop {
        let later = {
            let cluster = changes.borrow_and_update();
            let record = batch.target.record(&cluster);
            record.is_none_or(|record| record.leader_epoch > leader_epoch)
        };
        if later {
            break;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    tokio::time::sleep(limits::DEPOSED_WAIT).await;
}

fn deposed(batch: &Batch) -> ApiError {
    ApiError::new(
        ErrorReason::NotLeader,
        format!(
            "The leader of partition {} changed before it answered; the write may still be committed: repeat it with the same sequence.",
            batch.target.number
        ),
    )
    .outcome(WriteOutcome::Unknown)
}
