//! Storing messages: from the contract's messages to one batch for each partition.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use millrace_engine::{Cluster, Topic};
use millrace_proto::{
    batch::{BatchBuilder, BuildError, Codec},
    partitioner::partition_for_key,
    v1::{self, ErrorReason},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    acknowledgements,
    convert::{self, Acks},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    forward::{Batch, Delivery, Flows, Stored, Target},
    groups::check_not_internal,
    limits,
    memory::{ConnectionBudget, MemoryPermit},
    partition::{SequenceRule, SoundBatch, too_large, without_key},
    turns,
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
    acknowledgements::admit(budget, bytes, "publish fewer messages at once, and try again later").await
}

/// One partition's messages of a request, by their places there.
#[derive(Debug)]
struct Plan {
    partition: i32,
    messages: Vec<usize>,
    codec: Codec,
    max_message_bytes: u32,
}

/// Checks the request and appends its batches, or sends them to those who lead. A publisher's batches
/// keep their order in each partition by `flows`, which are the same for all of its requests. `memory` is the
/// request's, and what is sent to others has it until it has gone.
///
/// # Errors
/// The request is wrong as a whole; nothing is written.
pub async fn begin(
    broker: &Arc<Broker>,
    request: v1::PublishRequest,
    publisher: Option<Publisher>,
    flows: &mut Flows,
    memory: Option<MemoryPermit>,
) -> Result<Publishing, ApiError> {
    let begun = begin_checked(broker, request, publisher, flows, memory).await;
    begun.map_err(|error| error.or_outcome(WriteOutcome::NotWritten))
}

async fn begin_checked(
    broker: &Arc<Broker>,
    request: v1::PublishRequest,
    publisher: Option<Publisher>,
    flows: &mut Flows,
    mut memory: Option<MemoryPermit>,
) -> Result<Publishing, ApiError> {
    let acks = check(&request)?;
    check_not_internal(&request.topic).map_err(|error| error.outcome(WriteOutcome::NotWritten))?;
    let (cluster, topic) = broker.topic(&request.topic).await?;
    let now_ms = broker.now_ms();
    let times = request
        .messages
        .iter()
        .enumerate()
        .map(|(at, message)| convert::check_message(at, message, now_ms))
        .collect::<Result<Vec<i64>, ApiError>>()?;
    let plans = plan(broker, &cluster, &topic, &request, publisher)?;
    let (count, expected_offset) = (request.messages.len(), request.expected_offset);
    // Nothing is written before all of it is checked and encoded.
    let encoded = encode(request, times, plans, publisher).await?;
    memory.iter_mut().for_each(MemoryPermit::release_decoded);
    let deadline = Instant::now() + limits::DEFAULT_PRODUCE_TIMEOUT;
    let mut parts = Vec::with_capacity(encoded.len());
    let mut encoded = encoded.into_iter();
    while let Some(next) = encoded.next() {
        let bytes = next.records.bytes().len();
        let target = Target::new(&topic, next.partition);
        // Without a producer nothing tells a repeated batch, and callers do not wait for each other.
        let flow = publisher.and_then(|_| flows.to(broker, &target));
        let batch = Batch {
            target,
            records: Some(next.records),
            acks,
            expected_offset,
            sequence_rule: SequenceRule::Increasing,
            deadline,
            memory: memory.clone(),
        };
        parts.push(Part {
            partition: next.partition,
            messages: next.messages,
            times: next.times,
            delivery: Delivery::begin(broker, batch, flow),
        });
        if encoded.len() > 0 {
            turns::pause(bytes).await;
        }
    }
    Ok(Publishing { acks, count, parts })
}

/// Checks what needs no topic.
fn check(request: &v1::PublishRequest) -> Result<Acks, ApiError> {
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
    if request.expected_offset.is_some() && acks == Acks::None {
        return Err(convert::offset_expected_without_answer("expected_offset".into()));
    }
    Ok(acks)
}

fn plan(
    broker: &Broker,
    cluster: &Cluster,
    topic: &Topic,
    request: &v1::PublishRequest,
    publisher: Option<Publisher>,
) -> Result<Vec<Plan>, ApiError> {
    let spread = spread(broker, topic, request, publisher)?;
    let keyless = request.messages.iter().position(|message| message.key.is_none());
    spread
        .into_iter()
        .map(|(partition, messages)| {
            let config = broker.partitions.config_of(cluster, topic, partition)?;
            // Before anything of the request is written to other partitions.
            if let Some(at) = keyless.filter(|_| config.cleanup.compact) {
                return Err(without_key(at, "Field messages: message"));
            }
            let asked = convert::codec(request.compression, config.compression)?;
            Ok(Plan {
                partition,
                messages,
                // As the leader would encode it anew.
                codec: convert::topic_codec(config.compression).unwrap_or(asked),
                max_message_bytes: config.max_message_bytes,
            })
        })
        .collect()
}

/// One partition's batch.
struct Encoded {
    partition: i32,
    messages: Vec<usize>,
    times: Vec<i64>,
    records: SoundBatch,
}

/// Makes the batches; what may take long waits for a turn.
async fn encode(
    request: v1::PublishRequest,
    times: Vec<i64>,
    plans: Vec<Plan>,
    publisher: Option<Publisher>,
) -> Result<Vec<Encoded>, ApiError> {
    let compressed = plans.iter().filter(|plan| plan.codec != Codec::None).count();
    let bytes = request.encoded_len() + compressed * limits::CODED_BATCH_BYTES;
    let at_once = match compressed {
        0 => limits::CHECKED_IN_PLACE_BYTES,
        _ => limits::CODED_IN_PLACE_BYTES,
    };
    let encode_all = move || {
        let encoded = plans
            .into_iter()
            .map(|plan| encode_one(&request, &times, plan, publisher));
        encoded.collect()
    };
    if bytes <= at_once {
        encode_all()
    } else {
        turns::CODECS.run(move |_turn| encode_all()).await?
    }
}

fn encode_one(
    request: &v1::PublishRequest,
    times: &[i64],
    plan: Plan,
    publisher: Option<Publisher>,
) -> Result<Encoded, ApiError> {
    let times: Vec<i64> = plan.messages.iter().map(|at| times[*at]).collect();
    let mut builder = BatchBuilder::new(plan.codec);
    let keyless = plan.messages.iter().position(|at| request.messages[*at].key.is_none());
    for (at, time) in plan.messages.iter().zip(&times) {
        let message = &request.messages[*at];
        let headers = convert::record_headers(message);
        builder
            .append(*time, message.key.as_deref(), message.value.as_deref(), &headers)
            .map_err(build_error)?;
    }
    if let Some(publisher) = publisher {
        builder.set_producer(publisher.producer_id, 0, publisher.sequence);
    }
    let records = SoundBatch::build(&mut builder, &times, keyless).map_err(build_error)?;
    let size = records.bytes().len();
    if size > plan.max_message_bytes as usize {
        return Err(too_large(size, plan.max_message_bytes));
    }
    Ok(Encoded {
        partition: plan.partition,
        messages: plan.messages,
        times,
        records,
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

#[cfg(test)]
mod tests {
    use millrace_proto::batch::BatchView;

    use super::*;
    use crate::testing::TestBroker;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topics_codec_goes_before_the_senders() {
        let test = TestBroker::start().await;
        for (setting, stored) in [("zstd", Codec::Zstd), ("producer", Codec::Gzip)] {
            let configs = BTreeMap::from([("compression.type".to_owned(), setting.to_owned())]);
            let partition = test.partition_with(setting, &[0], configs).await;
            // One that is encoded in place, and one that takes a turn.
            for bytes in [10, 1 << 20] {
                let message = v1::Message {
                    value: Some(vec![7; bytes].into()),
                    ..Default::default()
                };
                let request = v1::PublishRequest {
                    topic: setting.into(),
                    messages: vec![message],
                    compression: v1::Compression::Gzip.into(),
                    ..Default::default()
                };
                let begun = begin(test.broker(), request, None, &mut Flows::default(), None).await;
                let published = begun.unwrap().finish(test.broker()).await.unwrap();
                let offset = published.positions[0].offset;
                let read = partition.read_within(offset, 1 << 20, offset + 1).unwrap();
                assert_eq!(BatchView::parse(&read.bytes).unwrap().header().codec(), stored);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_request_with_a_message_without_a_key_nothing_is_stored_in_a_compacted_topic() {
        let test = TestBroker::start().await;
        let policy = |policy: &str| BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]);
        let publish = async |topic: &str, keys: &[Option<&str>]| {
            let messages = keys.iter().map(|key| v1::Message {
                key: key.map(|key| key.to_owned().into()),
                ..Default::default()
            });
            let request = v1::PublishRequest {
                topic: topic.into(),
                messages: messages.collect(),
                ..Default::default()
            };
            begin(test.broker(), request, None, &mut Flows::default(), None)
                .await?
                .finish(test.broker())
                .await
        };
        for (topic, set) in [("c", "compact"), ("b", "delete,compact")] {
            let partition = test.partition_with(topic, &[0], policy(set)).await;
            publish(topic, &[Some("a"), Some("")]).await.unwrap();
            let end = partition.offsets().log_end;
            let refused = publish(topic, &[Some("a"), None]).await.unwrap_err();
            assert_eq!(refused.reason(), ErrorReason::InvalidRecord);
            assert!(refused.is_not_written());
            let text = refused.to_message().message;
            assert!(text.contains("message 1 (from 0) has no key"), "{text}");
            assert_eq!(partition.offsets().log_end, end);
        }
        test.partition_with("d", &[0], policy("delete")).await;
        publish("d", &[Some("a"), None]).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_messages_time_is_held_to_the_topics_bound() {
        let test = TestBroker::start().await;
        let bound = BTreeMap::from([("message.timestamp.before.max.ms".to_owned(), "60000".to_owned())]);
        test.partition_with("t", &[0], bound).await;
        let publish = async |ages: &[i64], compression: v1::Compression| {
            let now_ms = test.broker().now_ms();
            let messages = ages.iter().map(|age| v1::Message {
                timestamp: convert::ms_to_timestamp(now_ms - age),
                ..Default::default()
            });
            let request = v1::PublishRequest {
                topic: "t".into(),
                messages: messages.collect(),
                compression: compression.into(),
                ..Default::default()
            };
            let begun = begin(test.broker(), request, None, &mut Flows::default(), None).await;
            begun.unwrap().finish(test.broker()).await
        };
        for compression in [v1::Compression::None, v1::Compression::Zstd] {
            publish(&[0, 30_000, 0], compression).await.unwrap();
            // Neither the batch's base time, which is the first one's, nor its largest one.
            let refused = publish(&[0, 120_000, 0], compression).await.unwrap_err();
            assert_eq!(refused.reason(), ErrorReason::InvalidTimestamp);
        }
    }
}
