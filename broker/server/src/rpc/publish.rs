//! Storing messages: from the contract's messages to one batch for each partition.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use millrace_engine::Topic;
use millrace_proto::{
    batch::{BatchBuilder, BuildError},
    partitioner::partition_for_key,
    v1::{self, ErrorReason},
};
use tokio::time::Instant;

use super::convert::{self, Acks};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome, unknown_topic},
    forward::{Batch, Delivery, Flows, Stored, Target},
    limits,
    memory::{ConnectionBudget, MemoryPermit},
    partition::{SequenceRule, too_large},
};

/// Who publishes, where a repeated request must be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The stream's producer id.
    pub producer_id: i64,
    /// The request's id, as the batches' base sequence.
    pub sequence: i32,
}

/// A request whose batches are in the log, or on their way to it, and wait for their
/// acknowledgement.
#[derive(Debug)]
pub struct Publishing {
    acks: Acks,
    /// The messages' number.
    count: usize,
    /// For each partition: which messages, their times, and what became of the batch.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    partition: i32,
    messages: Vec<usize>,
    times: Vec<i64>,
    delivery: Delivery,
}

/// Takes the memory of what becomes of so many messages and of the answer, before anything is written.
/// `None` if that is little, or there is no budget.
///
/// # Errors
/// There was no memory in time; nothing is written.
pub async fn admit(budget: Option<&ConnectionBudget>, messages: usize) -> Result<Option<MemoryPermit>, ApiError> {
    let bytes = messages * limits::PUBLISHED_MESSAGE_BYTES;
    let Some(budget) = budget.filter(|_| bytes > limits::UNCOUNTED_ANSWER_BYTES) else {
        return Ok(None);
    };
    let permit = budget.acquire_for_acknowledgement(bytes).await;
    permit.map(Some).ok_or_else(|| {
        ApiError::new(
            ErrorReason::Overloaded,
            "The broker had no memory for the request's answer in time: publish fewer messages at once, and try again later.",
        )
        .outcome(WriteOutcome::NotWritten)
    })
}

/// Checks the request and appends its batches, or sends them to those who lead. A publisher's batches
/// keep their order in each partition by `flows`, which are the same for all of its requests.
///
/// # Errors
/// The request is wrong as a whole; nothing is written.
pub fn begin(
    broker: &Arc<Broker>,
    request: &v1::PublishRequest,
    publisher: Option<Publisher>,
    flows: &mut Flows,
) -> Result<Publishing, ApiError> {
    begin_checked(broker, request, publisher, flows).map_err(|error| error.or_outcome(WriteOutcome::NotWritten))
}

fn begin_checked(
    broker: &Arc<Broker>,
    request: &v1::PublishRequest,
    publisher: Option<Publisher>,
    flows: &mut Flows,
) -> Result<Publishing, ApiError> {
    if !(1..=limits::MAX_MESSAGES_PER_PUBLISH).contains(&request.messages.len()) {
        let problem = format!("must have 1 to {} entries", limits::MAX_MESSAGES_PER_PUBLISH);
        return Err(ApiError::field("messages", problem));
    }
    if request.expected_offset.is_some() && request.partition.is_none() {
        return Err(ApiError::field("expected_offset", "needs partition to be set too"));
    }
    if request.expected_offset.is_some_and(|offset| offset < 0) {
        return Err(ApiError::field("expected_offset", "must be 0 or more"));
    }
    let acks = convert::acks(request.acks)?;
    let cluster = broker.quorum.cluster();
    let topic = cluster
        .topics
        .get(&request.topic)
        .ok_or_else(|| unknown_topic(&request.topic))?;
    let now_ms = broker.now_ms();
    let times = request
        .messages
        .iter()
        .enumerate()
        .map(|(at, message)| convert::check_message(at, message, now_ms))
        .collect::<Result<Vec<i64>, ApiError>>()?;

    // Nothing is written before all of it is checked and encoded.
    let mut batches = Vec::new();
    for (number, messages) in spread(broker, topic, request, publisher)? {
        let config = broker.partitions.config_of(&cluster, topic, number)?;
        let codec = convert::codec(request.compression, config.compression)?;
        let mut builder = BatchBuilder::new(codec);
        for at in &messages {
            let message = &request.messages[*at];
            let headers = convert::record_headers(message);
            builder
                .append(times[*at], message.key.as_deref(), message.value.as_deref(), &headers)
                .map_err(build_error)?;
        }
        if let Some(publisher) = publisher {
            builder.set_producer(publisher.producer_id, 0, publisher.sequence);
        }
        let batch = builder.build().map_err(build_error)?;
        if batch.len() > config.max_message_bytes as usize {
            return Err(too_large(batch.len(), config.max_message_bytes));
        }
        batches.push((number, messages, batch));
    }
    let deadline = Instant::now() + limits::DEFAULT_PRODUCE_TIMEOUT;
    let parts = batches
        .into_iter()
        .map(|(number, messages, bytes)| {
            let target = Target::new(topic, number);
            // Without a producer nothing tells a repeated batch, and callers do not wait for each other.
            let flow = publisher.and_then(|_| flows.to(broker, &target));
            let batch = Batch {
                target,
                bytes,
                acks,
                expected_offset: request.expected_offset,
                sequence_rule: SequenceRule::Increasing,
                deadline,
            };
            Part {
                partition: number,
                times: messages.iter().map(|at| times[*at]).collect(),
                messages,
                delivery: Delivery::begin(broker, batch, flow),
            }
        })
        .collect();
    Ok(Publishing {
        acks,
        count: request.messages.len(),
        parts,
    })
}

fn build_error(error: BuildError) -> ApiError {
    let reason = match error {
        BuildError::BatchTooLarge { .. } | BuildError::TooManyRecords => ErrorReason::MessageTooLarge,
        BuildError::Timestamp { .. } => ErrorReason::InvalidTimestamp,
        _ => return ApiError::internal("encoding a batch", &error),
    };
    ApiError::new(reason, format!("The messages can't be one batch: {error}."))
}

/// Which messages go to which partition: the one named; or each by its key; those without
/// a key together to one, another one with each request.
fn spread(
    broker: &Broker,
    topic: &Topic,
    request: &v1::PublishRequest,
    publisher: Option<Publisher>,
) -> Result<BTreeMap<i32, Vec<usize>>, ApiError> {
    let all: Vec<usize> = (0..request.messages.len()).collect();
    if let Some(partition) = request.partition {
        return Ok(BTreeMap::from([(partition, all)]));
    }
    let partitions = topic.partitions_for_producer(publisher.map(|p| p.producer_id));
    // A repeated request of a stream must choose as the first time did, so it is its id
    // that chooses there.
    let sticky = match publisher {
        Some(publisher) => publisher.sequence.unsigned_abs() % partitions.max(1),
        None => broker.next_sticky() % partitions.max(1),
    };
    let mut spread: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for at in all {
        let number = match &request.messages[at].key {
            Some(key) => partition_for_key(key, partitions),
            None => sticky,
        };
        let number = i32::try_from(number).map_err(|error| ApiError::internal("choosing a partition", &error))?;
        spread.entry(number).or_default().push(at);
    }
    Ok(spread)
}

/// Which messages went to a partition.
struct Placed {
    partition: i32,
    messages: Vec<usize>,
    times: Vec<i64>,
}

impl Part {
    async fn finish(self) -> (Placed, Result<Stored, ApiError>) {
        let Self {
            partition,
            messages,
            times,
            delivery,
        } = self;
        let placed = Placed {
            partition,
            messages,
            times,
        };
        let stored = delivery.finish().await;
        (placed, stored.map_err(|error| error.with("partition", partition)))
    }
}

impl Publishing {
    /// Whether it keeps batches for other brokers, so that the request's memory counts on.
    pub fn keeps_batches(&self) -> bool {
        self.parts.iter().any(|part| part.delivery.keeps_batch())
    }

    /// Waits for the acknowledgement; answers with each message's position.
    ///
    /// # Errors
    /// The first failed batch's error; its outcome is "unknown" unless nothing of the
    /// request was written.
    pub async fn finish(self, broker: &Broker) -> Result<v1::PublishResponse, ApiError> {
        let mut positions = vec![v1::Position::default(); self.count];
        let mut failed: Option<ApiError> = None;
        let mut written = false;
        // All at once: each may have to look for its leader.
        let finished = join_all(self.parts.into_iter().map(Part::finish));
        for (part, result) in finished.await {
            match result {
                Ok(appended) => {
                    written = true;
                    let known = self.acks != Acks::None && appended.base_offset >= 0;
                    for ((at, time), delta) in part.messages.iter().zip(part.times).zip(0i64..) {
                        positions[*at] = v1::Position {
                            partition: part.partition,
                            offset: if known { appended.base_offset + delta } else { -1 },
                            timestamp: convert::ms_to_timestamp(appended.log_append_time.unwrap_or(time)),
                        };
                    }
                }
                Err(error) => {
                    broker.metrics.count_error(&error);
                    written |= !error.is_not_written();
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => Ok(v1::PublishResponse { positions }),
            Some(_) if self.acks == Acks::None => Ok(v1::PublishResponse {
                positions: vec![
                    v1::Position {
                        offset: -1,
                        ..Default::default()
                    };
                    self.count
                ],
            }),
            Some(error) if written => Err(error.outcome(WriteOutcome::Unknown)),
            Some(error) => Err(error.or_outcome(WriteOutcome::Unknown)),
        }
    }
}
