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
    acknowledgements::Acknowledgement,
    convert::{self, Acks},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome, broker_stopping},
    limits,
    memory::{ConnectionBudget, MemoryPermit, MessagePermits},
    partition::{AppendRequest, Appended, SequenceRule},
};

/// An answer and the memory it counts until it is sent; none for requests that want no answer.
type Answer = BoxFuture<'static, Option<ProduceAnswer>>;

/// A request that has the memory of its answer, or can't have it.
type Admitted = BoxFuture<'static, Result<(v1::ProduceRequest, Option<MemoryPermit>), ApiError>>;

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
    // A request that waits for the memory of its answer; those before it are answered meanwhile.
    let mut admitting: Option<Admitted> = None;
    let mut failed: Option<Status> = None;
    let mut open = true;
    let stopping = broker.stopping.clone();
    while open || admitting.is_some() || !pending.is_empty() {
        tokio::select! {
            biased;
            () = stopping.cancelled(), if open => open = false,
            Some(answer) = pending.next(), if !pending.is_empty() => {
                if let Some(answer) = answer && answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            () = answers.closed() => return,
            admitted = admitted(&mut admitting), if admitting.is_some() => {
                admitting = None;
                // Held until the batches are in the log: from there they are the page cache's.
                let _permit = permits.take();
                match admitted {
                    Ok((request, permit)) => pending.push_back(begin(&broker, request, permit)),
                    Err(error) => {
                        broker.metrics.count_error(&error);
                        failed = Some(error.into());
                        open = false;
                    }
                }
            }
            request = requests.message(),
                if open && admitting.is_none() && pending.len() < limits::MAX_PRODUCE_IN_FLIGHT =>
            {
                match request {
                    Ok(Some(request)) => admitting = Some(admit(budget.clone(), request)),
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

/// The result of `admitting`; never, if nothing waits.
async fn admitted(admitting: &mut Option<Admitted>) -> Result<(v1::ProduceRequest, Option<MemoryPermit>), ApiError> {
    match admitting {
        Some(admitting) => admitting.await,
        None => std::future::pending().await,
    }
}

/// Takes the memory of a request's answer before anything is written: an error for each of
/// thousands of partitions is a lot more than the request.
fn admit(budget: Option<ConnectionBudget>, request: v1::ProduceRequest) -> Admitted {
    let named = request.partitions.iter().take(limits::MAX_PARTITIONS_PER_REQUEST);
    let bytes: usize = named.map(|part| answer_part_bytes(&part.topic)).sum();
    let Some(budget) = budget.filter(|_| bytes > limits::UNCOUNTED_ANSWER_BYTES) else {
        return futures::future::ready(Ok((request, None))).boxed();
    };
    async move {
        match budget.acquire_for_acknowledgement(bytes).await {
            Some(permit) => Ok((request, Some(permit))),
            None => Err(ApiError::new(
                ErrorReason::Overloaded,
                "The broker had no memory for the request's answer in time: take the answers, and name fewer partitions at once.",
            )
            .outcome(WriteOutcome::NotWritten)),
        }
    }
    .boxed()
}

/// Appends the request's batches now and answers with the future of its acknowledgement.
fn begin(broker: &Arc<Broker>, request: v1::ProduceRequest, permit: Option<MemoryPermit>) -> Answer {
    let correlation_id = request.correlation_id;
    let (acks, timeout) = match check(&request) {
        Ok(checked) => checked,
        Err(error) => return answer_all(broker, &request, &error, permit),
    };
    let mut waiting = Vec::with_capacity(request.partitions.len());
    for part in request.partitions {
        let (topic, partition) = (part.topic.clone(), part.partition);
        let appended = append(broker, part, acks);
        waiting.push((topic, partition, appended));
    }
    if acks == Acks::None {
        for (_, _, appended) in &waiting {
            if let Err(error) = appended {
                broker.metrics.count_error(error);
            }
        }
        return futures::future::ready(None).boxed();
    }
    let broker = broker.clone();
    async move {
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
    }
    .boxed()
}

fn check(request: &v1::ProduceRequest) -> Result<(Acks, Duration), ApiError> {
    let acks = convert::acks(request.acks)?;
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

fn append(broker: &Arc<Broker>, part: v1::ProducePartition, acks: Acks) -> Result<Appended, ApiError> {
    let partition = broker
        .partitions
        .find_checked(&part.topic, &part.topic_id, part.partition)
        .map_err(|error| error.or_outcome(WriteOutcome::NotWritten))?;
    if part.expected_offset.is_some_and(|offset| offset < 0) {
        return Err(ApiError::field("expected_offset", "must be 0 or more").outcome(WriteOutcome::NotWritten));
    }
    partition.append(
        part.records,
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
        let (_, small) = admit(budget.clone(), request(16)).await.unwrap();
        assert!(small.is_none() && memory.acknowledgements_used() == 0);
        let (_, first) = admit(budget.clone(), request(5_000)).await.unwrap();
        let (_, second) = admit(budget.clone(), request(5_000)).await.unwrap();
        assert_eq!(memory.acknowledgements_used(), 2 * 5_000 * limits::ANSWER_PART_BYTES);
        let third = admit(budget.clone(), request(5_000));
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
            assert_eq!(memory.acknowledgements_used(), left * 5_000 * limits::ANSWER_PART_BYTES);
        }
        let (_, third) = admit(budget.clone(), request(5_000)).await.unwrap();
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
