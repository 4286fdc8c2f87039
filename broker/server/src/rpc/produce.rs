//! `Log.Produce`: a pipelined stream of record batches.
//!
//! Requests are appended one after the other in the order in which they come; while one
//! waits for its acknowledgement the next ones are appended already.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use millrace_proto::v1::{self, ErrorReason};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    acknowledgements::{self, Acknowledgement},
    convert::{self, Acks},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome, broker_stopping},
    groups::check_not_internal,
    limits,
    memory::{ConnectionBudget, MemoryPermit, MessagePermits},
    partition::{AppendRequest, Appended, SequenceRule},
    turns,
};

/// An answer and the memory it counts until it is sent; none for requests that want no answer.
type Answer = BoxFuture<'static, Option<ProduceAnswer>>;

/// A request that waits for the memory of its answer and for turns of its batches' work, until all of them are
/// appended; or can't have that memory.
type Beginning = BoxFuture<'static, Result<Answer, ApiError>>;

/// An answer, and the memory it counts.
pub type ProduceAnswer = Acknowledgement<v1::ProduceResponse>;

/// Serves one stream until it ends or the reader of its answers goes away.
pub async fn serve(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    permits: MessagePermits,
    mut requests: Streaming<v1::ProduceRequest>,
    answers: mpsc::Sender<Result<ProduceAnswer, Status>>,
) {
    permits.claim();
    let mut pending: FuturesOrdered<Answer> = FuturesOrdered::new();
    // Those before it are answered meanwhile.
    let mut beginning: Option<Beginning> = None;
    let mut failed: Option<Status> = None;
    let mut open = true;
    let stopping = broker.stopping.clone();
    while open || beginning.is_some() || !pending.is_empty() {
        tokio::select! {
            biased;
            () = stopping.cancelled(), if open => open = false,
            Some(answer) = pending.next(), if !pending.is_empty() => {
                if let Some(answer) = answer && answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            () = answers.closed() => return,
            begun = begun(&mut beginning), if beginning.is_some() => {
                beginning = None;
                match begun {
                    Ok(answer) => pending.push_back(answer),
                    Err(error) => {
                        broker.metrics.count_error(&error);
                        failed = Some(error.into());
                        open = false;
                    }
                }
            }
            request = requests.message(),
                if open && beginning.is_none() && pending.len() < limits::MAX_PRODUCE_IN_FLIGHT =>
            {
                match request {
                    Ok(Some(request)) => {
                        let own = permits.take();
                        beginning = Some(begin(broker.clone(), budget.clone(), request, own).boxed());
                    }
                    Ok(None) => open = false,
                    Err(status) => {
                        tracing::debug!(%status, "a produce stream broke");
                        // What was appended is answered as far as it can be.
                        failed = Some(status);
                        open = false;
                    }
                }
            }
        }
    }
    if let Some(status) = failed {
        let _ = answers.send(Err(status)).await;
    } else if stopping.is_cancelled() {
        let _ = answers.send(Err(broker_stopping().into())).await;
    }
}

/// The result of `beginning`; never, if nothing begins.
async fn begun(beginning: &mut Option<Beginning>) -> Result<Answer, ApiError> {
    match beginning {
        Some(beginning) => beginning.await,
        None => std::future::pending().await,
    }
}

/// Takes the memory of a request's answer before anything is written: an error for each of
/// thousands of partitions is a lot more than the request.
async fn admit(
    budget: Option<&ConnectionBudget>,
    request: &v1::ProduceRequest,
) -> Result<Option<MemoryPermit>, ApiError> {
    let named = request.partitions.iter().take(limits::MAX_PARTITIONS_PER_REQUEST);
    let bytes: usize = named.map(|part| answer_part_bytes(&part.topic)).sum();
    acknowledgements::admit(budget, bytes, "take the answers, and name fewer partitions at once").await
}

/// Appends the request's batches one after the other and answers with the future of its acknowledgement. `_own` is
/// the request's memory: held until the batches are in the log, as from there they are the page cache's.
async fn begin(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    request: v1::ProduceRequest,
    _own: Option<MemoryPermit>,
) -> Result<Answer, ApiError> {
    let permit = admit(budget.as_ref(), &request).await?;
    let correlation_id = request.correlation_id;
    let (acks, timeout) = match check(&request) {
        Ok(checked) => checked,
        Err(error) => return Ok(answer_all(&broker, &request, &error, permit)),
    };
    let waiting = append_all(&broker, request.partitions, acks).await;
    if acks == Acks::None {
        for (_, _, appended) in &waiting {
            if let Err(error) = appended {
                broker.metrics.count_error(error);
            }
        }
        return Ok(futures::future::ready(None).boxed());
    }
    let answer = async move {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut partitions = Vec::with_capacity(waiting.len());
        for (topic, partition, appended) in waiting {
            let result = match appended {
                Ok(appended) => acknowledge(appended, acks, deadline).await,
                Err(error) => Err(error),
            };
            partitions.push(produced(&broker, topic, partition, result));
        }
        let response = v1::ProduceResponse {
            correlation_id,
            partitions,
        };
        Some(ProduceAnswer { response, permit })
    };
    Ok(answer.boxed())
}

fn check(request: &v1::ProduceRequest) -> Result<(Acks, Duration), ApiError> {
    let acks = convert::acks(request.acks)?;
    let expects = request
        .partitions
        .iter()
        .position(|part| part.expected_offset.is_some());
    if let Some(at) = expects.filter(|_| acks == Acks::None) {
        return Err(convert::offset_expected_without_answer(format!(
            "partitions[{at}].expected_offset"
        )));
    }
    let timeout = convert::duration(
        "timeout",
        request.timeout,
        limits::DEFAULT_PRODUCE_TIMEOUT,
        limits::MAX_PRODUCE_TIMEOUT,
    )?;
    check_partitions(
        request
            .partitions
            .iter()
            .map(|part| (part.topic.as_str(), part.partition)),
    )?;
    Ok((acks, timeout))
}

/// About what an answer takes in memory at most for one partition of `topic`, apart from records:
/// the topic's name, and the same in an error's text and facts, and all of it encoded.
pub fn answer_part_bytes(topic: &str) -> usize {
    limits::ANSWER_PART_BYTES + 6 * topic.len()
}

/// Checks that a request names 1 to 10,000 partitions.
///
/// # Errors
/// None or too many.
pub fn check_partition_count(count: usize) -> Result<(), ApiError> {
    if (1..=limits::MAX_PARTITIONS_PER_REQUEST).contains(&count) {
        return Ok(());
    }
    let problem = format!("must name 1 to {} partitions", limits::MAX_PARTITIONS_PER_REQUEST);
    Err(ApiError::field("partitions", problem))
}

/// Checks that a request names 1 to 10,000 partitions, each once.
///
/// # Errors
/// Which rule is broken, and where.
pub fn check_partitions<'a>(named: impl ExactSizeIterator<Item = (&'a str, i32)>) -> Result<(), ApiError> {
    let count = named.len();
    check_partition_count(count)?;
    if count > 1 {
        let mut seen = HashSet::with_capacity(count);
        for (at, name) in named.enumerate() {
            if !seen.insert(name) {
                return Err(ApiError::field(
                    format!("partitions[{at}]"),
                    "names a partition for the second time",
                ));
            }
        }
    }
    Ok(())
}

/// Appends to each partition, and lets other tasks run in between.
async fn append_all(
    broker: &Broker,
    parts: Vec<v1::ProducePartition>,
    acks: Acks,
) -> Vec<(String, i32, Result<Appended, ApiError>)> {
    let mut appended = Vec::with_capacity(parts.len());
    let mut parts = parts.into_iter();
    while let Some(part) = parts.next() {
        let (topic, partition, bytes) = (part.topic.clone(), part.partition, part.records.len());
        appended.push((topic, partition, append(broker, part, acks).await));
        if parts.len() > 0 {
            turns::pause(bytes).await;
        }
    }
    appended
}

async fn append(broker: &Broker, part: v1::ProducePartition, acks: Acks) -> Result<Appended, ApiError> {
    check_not_internal(&part.topic).map_err(|error| error.outcome(WriteOutcome::NotWritten))?;
    let partition = broker
        .partitions
        .find_checked(&part.topic, &part.topic_id, part.partition)
        .map_err(|error| error.or_outcome(WriteOutcome::NotWritten))?;
    if part.expected_offset.is_some_and(|offset| offset < 0) {
        return Err(ApiError::field("expected_offset", "must be 0 or more").outcome(WriteOutcome::NotWritten));
    }
    let batch = partition.check(part.records).await?;
    partition.append(
        &batch,
        &AppendRequest {
            acks,
            leader_epoch: part.leader_epoch,
            expected_offset: part.expected_offset,
            sequence_rule: SequenceRule::Contiguous,
        },
    )
}

/// Waits until `appended` is acknowledged as asked, or the deadline.
///
/// # Errors
/// Not acknowledged; the outcome is unknown.
pub async fn acknowledge(appended: Appended, acks: Acks, deadline: tokio::time::Instant) -> Result<Appended, ApiError> {
    let Appended { committed, .. } = &appended;
    if acks != Acks::All {
        return Ok(appended);
    }
    match tokio::time::timeout_at(deadline, committed.wait()).await {
        Ok(Ok(())) => Ok(appended),
        Ok(Err(error)) => Err(error.or_outcome(WriteOutcome::Unknown)),
        Err(_) => Err(timed_out()),
    }
}

/// A write that was not acknowledged in time.
pub fn timed_out() -> ApiError {
    ApiError::new(
        ErrorReason::TimedOut,
        "The write was not acknowledged in time; it may still be: repeat it only as an idempotent producer.",
    )
    .outcome(WriteOutcome::Unknown)
}

fn produced(
    broker: &Broker,
    topic: String,
    partition: i32,
    result: Result<Appended, ApiError>,
) -> v1::ProducedPartition {
    let empty = v1::ProducedPartition {
        topic,
        partition,
        ..Default::default()
    };
    match result {
        Ok(appended) => v1::ProducedPartition {
            base_offset: appended.base_offset,
            log_append_time: appended.log_append_time.and_then(convert::ms_to_timestamp),
            log_start: appended.log_start,
            duplicate: appended.duplicate,
            leader_epoch: appended.leader_epoch,
            ..empty
        },
        Err(error) => {
            broker.metrics.count_error(&error);
            v1::ProducedPartition {
                error: Some(error.to_message()),
                ..empty
            }
        }
    }
}

/// The same error for each partition of a request that is wrong as a whole.
fn answer_all(broker: &Broker, request: &v1::ProduceRequest, error: &ApiError, permit: Option<MemoryPermit>) -> Answer {
    let error = error.clone().or_outcome(WriteOutcome::NotWritten);
    let mut named: Vec<(String, i32)> = request
        .partitions
        .iter()
        .take(limits::MAX_PARTITIONS_PER_REQUEST)
        .map(|part| (part.topic.clone(), part.partition))
        .collect();
    if named.is_empty() {
        // An answer without any partition could not carry the error.
        named.push((String::new(), 0));
    }
    let partitions = named
        .into_iter()
        .map(|(topic, partition)| produced(broker, topic, partition, Err(error.clone())))
        .collect();
    let response = v1::ProduceResponse {
        correlation_id: request.correlation_id,
        partitions,
    };
    futures::future::ready(Some(ProduceAnswer { response, permit })).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::MemoryBudget, rpc::acknowledgements::Acknowledgements};

    fn request(partitions: usize) -> v1::ProduceRequest {
        v1::ProduceRequest {
            partitions: vec![v1::ProducePartition::default(); partitions],
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn requests_wait_for_the_memory_of_their_answers() {
        let memory = MemoryBudget::new(64 << 20, 8 << 20);
        let budget = Some(memory.connection());
        let budget = budget.as_ref();
        let small = admit(budget, &request(16)).await.unwrap();
        assert!(small.is_none() && memory.acknowledgements_used() == 0);
        let wide = request(1_000);
        let first = admit(budget, &wide).await.unwrap();
        let second = admit(budget, &wide).await.unwrap();
        assert_eq!(memory.acknowledgements_used(), 2 * 1_000 * limits::ANSWER_PART_BYTES);
        let third = admit(budget, &wide);
        let waited = tokio::time::timeout(Duration::from_millis(20), third).await;
        assert!(waited.is_err(), "there is memory for two such answers");
        let (sender, receiver) = mpsc::channel(4);
        let mut answers = Acknowledgements::new(receiver);
        for permit in [first, second, None] {
            let response = v1::ProduceResponse::default();
            sender.send(Ok(ProduceAnswer { response, permit })).await.unwrap();
        }
        for left in [2, 2, 1] {
            assert!(answers.next().await.is_some());
            assert_eq!(memory.acknowledgements_used(), left * 1_000 * limits::ANSWER_PART_BYTES);
        }
        let third = admit(budget, &wide).await.unwrap();
        let response = v1::ProduceResponse::default();
        sender
            .send(Ok(ProduceAnswer {
                response,
                permit: third,
            }))
            .await
            .unwrap();
        assert!(answers.next().await.is_some());
        assert!(memory.acknowledgements_used() > 0);
        // Nothing that was taken holds up the next request.
        assert!(answers.next().now_or_never().is_none());
        assert_eq!(memory.acknowledgements_used(), 0);
    }
}
