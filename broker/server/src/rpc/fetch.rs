//! `Log.Fetch`: a pipelined stream of reads, with long polling.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::partition::FetchBound;
use millrace_proto::v1::{self, ErrorReason};
use tokio::{sync::Notify, time::Instant};
use tonic::{Status, Streaming};

use super::{
    convert,
    produce::check_partitions,
    read_ahead::{Next, ReadAhead},
};
use crate::{
    broker::Broker,
    error::{ApiError, broker_stopping},
    limits,
    memory::ConnectionBudget,
    partition::{Offsets, Partition},
};

/// A checked request.
#[derive(Debug)]
struct Fetch {
    correlation_id: u64,
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    partitions: Vec<v1::FetchPartition>,
}

/// What a reader was told last of a partition, to tell only what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
}

/// How one partition of a request is read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Bytes that are left for it.
    room: usize,
    /// Nothing was read for this request yet: one batch is given however large it is.
    first: bool,
    /// It is the only partition of the request.
    alone: bool,
}

/// One fetch stream.
#[derive(Debug)]
pub struct FetchSession {
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    told: std::collections::HashMap<(String, i32), Told>,
    /// Where the reader of one partition goes on after the present answer.
    next: Option<Next>,
    ahead: Option<ReadAhead>,
}

impl FetchSession {
    /// A session of a connection.
    #[must_use]
    pub fn new(broker: Arc<Broker>, budget: Option<ConnectionBudget>) -> Self {
        Self {
            broker,
            budget,
            told: std::collections::HashMap::new(),
            next: None,
            ahead: None,
        }
    }

    /// Answers the stream's requests in their order.
    pub async fn serve(
        mut self,
        mut requests: Streaming<v1::FetchRequest>,
        answers: tokio::sync::mpsc::Sender<Result<v1::FetchResponse, Status>>,
    ) {
        let stopping = self.broker.stopping.clone();
        loop {
            // Room for the answer first: a slow reader's next answer is not even read.
            let slot = tokio::select! {
                slot = answers.reserve() => slot,
                () = stopping.cancelled() => return,
            };
            let Ok(slot) = slot else { return };
            let request = tokio::select! {
                request = self.request(&mut requests) => request,
                () = stopping.cancelled() => return slot.send(Err(broker_stopping().into())),
            };
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(status) => return slot.send(Err(status)),
            };
            let answer = tokio::select! {
                answer = self.answer(request) => answer,
                () = answers.closed() => return,
                () = stopping.cancelled() => return slot.send(Err(broker_stopping().into())),
            };
            slot.send(answer);
            // Not for a reader who has not even taken the answer before.
            let next = self
                .next
                .take()
                .filter(|_| answers.capacity() + 1 >= answers.max_capacity());
            self.ahead = next.and_then(|next| next.begin(self.budget.as_ref()));
        }
    }

    /// The next request. What was read ahead of it is not kept for long.
    async fn request(
        &mut self,
        requests: &mut Streaming<v1::FetchRequest>,
    ) -> Result<Option<v1::FetchRequest>, Status> {
        if self.ahead.is_some() {
            if let Ok(request) = tokio::time::timeout(limits::READ_AHEAD_KEPT, requests.message()).await {
                return request;
            }
            self.ahead = None;
        }
        requests.message().await
    }

    async fn answer(&mut self, request: v1::FetchRequest) -> Result<v1::FetchResponse, Status> {
        let fetch = check(request)?;
        let deadline = Instant::now() + fetch.max_wait;
        loop {
            let waiter = Arc::new(Notify::new());
            // Where memory is short, a small answer goes out without: readers that do not
            // take theirs must not hold up the others.
            let expected = self.expected_bytes(&fetch);
            let permit = match &self.budget {
                Some(budget) => budget.acquire_for_answer(expected).await,
                None => None,
            };
            let short = self.budget.is_some() && permit.is_none();
            let most = if short {
                limits::SMALL_ANSWER_BYTES
            } else {
                fetch.max_bytes
            };
            let (response, bytes, immediate) = self.read_all(&fetch, most, &waiter).await;
            if short && bytes > limits::SMALL_ANSWER_BYTES {
                return self.hold_large(response, bytes).await;
            }
            if short && bytes > 0 {
                return Ok(response);
            }
            if immediate || bytes >= fetch.min_bytes || Instant::now() >= deadline {
                return Ok(hold(response, permit));
            }
            drop(permit);
            // At the deadline it is read once more, and answered with what is there then.
            let _ = tokio::time::timeout_at(deadline, waiter.notified()).await;
        }
    }

    /// An answer of one large batch though memory is short.
    async fn hold_large(&self, response: v1::FetchResponse, bytes: usize) -> Result<v1::FetchResponse, Status> {
        let Some(budget) = &self.budget else {
            return Ok(response);
        };
        match budget.acquire_for_large_answer(bytes).await {
            Some(permit) => Ok(hold(response, Some(permit))),
            None => Err(ApiError::new(
                ErrorReason::Overloaded,
                "The broker's memory is used up by readers that do not take their answers: try again later.",
            )
            .into()),
        }
    }

    /// About how many bytes the answer will have: at most what is there to read.
    fn expected_bytes(&self, fetch: &Fetch) -> usize {
        let mut expected = 0;
        for part in &fetch.partitions {
            if let Ok(partition) = self
                .broker
                .partitions
                .find_checked(&part.topic, &part.topic_id, part.partition)
            {
                expected += partition.readable_bytes_hint(part.fetch_offset, fetch.max_bytes);
            }
            if expected >= fetch.max_bytes {
                break;
            }
        }
        expected.min(fetch.max_bytes)
    }

    /// Reads what is there. Answers with the response, its bytes, and whether it must be
    /// sent at once (an error, or a changed watermark to tell).
    async fn read_all(&mut self, fetch: &Fetch, most: usize, waiter: &Arc<Notify>) -> (v1::FetchResponse, usize, bool) {
        let mut response = v1::FetchResponse {
            correlation_id: fetch.correlation_id,
            partitions: Vec::with_capacity(fetch.partitions.len().min(64)),
        };
        let (mut total, mut immediate) = (0, false);
        for part in &fetch.partitions {
            let room = most.saturating_sub(total);
            let reading = Reading {
                room,
                first: total == 0,
                alone: fetch.partitions.len() == 1,
            };
            let (answer, changed) = self.read_one(part, reading, waiter).await;
            total += answer.records.len();
            immediate |= answer.error.is_some() || answer.diverging.is_some() || changed;
            let tells = !answer.records.is_empty() || answer.error.is_some() || answer.diverging.is_some();
            if tells || changed {
                response.partitions.push(answer);
            }
        }
        (response, total, immediate)
    }

    async fn read_one(
        &mut self,
        part: &v1::FetchPartition,
        reading: Reading,
        waiter: &Arc<Notify>,
    ) -> (v1::FetchedPartition, bool) {
        let empty = v1::FetchedPartition {
            topic: part.topic.clone(),
            partition: part.partition,
            ..Default::default()
        };
        let read = self.try_read(part, reading, waiter).await;
        match read {
            Ok((offsets, records, diverging)) => {
                let told = Told {
                    high_watermark: offsets.high_watermark,
                    log_start: offsets.log_start,
                };
                let key = (part.topic.clone(), part.partition);
                let changed = self.told.insert(key, told) != Some(told);
                let answer = v1::FetchedPartition {
                    high_watermark: offsets.high_watermark,
                    last_stable_offset: offsets.last_stable,
                    log_start: offsets.log_start,
                    leader_epoch: offsets.leader_epoch,
                    records,
                    diverging,
                    ..empty
                };
                (answer, changed)
            }
            Err(error) => {
                self.broker.metrics.count_error(&error);
                (
                    v1::FetchedPartition {
                        error: Some(error.to_message()),
                        ..empty
                    },
                    true,
                )
            }
        }
    }

    async fn try_read(
        &mut self,
        part: &v1::FetchPartition,
        Reading { room, first, alone }: Reading,
        waiter: &Arc<Notify>,
    ) -> Result<(Offsets, Bytes, Option<v1::EpochEndOffset>), ApiError> {
        if part.fetch_offset < 0 {
            return Err(ApiError::field("fetch_offset", "must be 0 or more"));
        }
        let partition = self
            .broker
            .partitions
            .find_checked(&part.topic, &part.topic_id, part.partition)?;
        // Registered before it is looked at, so that nothing that comes in between is missed.
        partition.notify_on_data(waiter);
        let bound = partition.check_fetch(part.fetch_offset, part.current_leader_epoch)?;
        if let Some(diverging) = diverging(&partition, part) {
            return Ok((partition.offsets(), Bytes::new(), Some(diverging)));
        }
        let limit = match part.max_bytes {
            0 => room,
            bytes => room.min(usize::try_from(bytes).unwrap_or(0)),
        };
        let records = match bound {
            FetchBound::UpTo(up_to) if first || limit > 0 => {
                let ahead = match self.ahead.take() {
                    Some(ahead) => ahead.take(&partition, part.fetch_offset, limit).await,
                    None => None,
                };
                match ahead {
                    Some(records) => {
                        self.broker.metrics.count_fetched(partition.topic(), records.len());
                        records
                    }
                    None => read_records(&self.broker, &partition, part.fetch_offset, limit, first, up_to).await?,
                }
            }
            _ => Bytes::new(),
        };
        if alone {
            self.next = Next::behind(&partition, &records, limit);
        }
        Ok((partition.offsets(), records, None))
    }
}

/// Reads off the async threads where the disk may have to be waited for.
///
/// # Errors
/// As of the log.
pub async fn read_records(
    broker: &Broker,
    partition: &Arc<Partition>,
    offset: i64,
    max_bytes: usize,
    at_least_one: bool,
    up_to: i64,
) -> Result<Bytes, ApiError> {
    let records = if partition.likely_cached(offset) {
        partition.read(offset, max_bytes, at_least_one, up_to)?
    } else {
        let partition = partition.clone();
        tokio::task::spawn_blocking(move || partition.read(offset, max_bytes, at_least_one, up_to))
            .await
            .map_err(|error| ApiError::internal("reading", &error))??
    };
    broker.metrics.count_fetched(partition.topic(), records.len());
    Ok(records)
}

/// Whether the reader's log was cut behind its back (KIP-320, KIP-595).
fn diverging(partition: &Partition, part: &v1::FetchPartition) -> Option<v1::EpochEndOffset> {
    let last_fetched = part.last_fetched_epoch?;
    let (leader_epoch, end_offset) = partition.end_of_epoch(last_fetched)?;
    (leader_epoch < last_fetched || end_offset < part.fetch_offset).then_some(v1::EpochEndOffset {
        leader_epoch,
        end_offset,
    })
}

fn hold(mut response: v1::FetchResponse, permit: Option<crate::memory::MemoryPermit>) -> v1::FetchResponse {
    // One permit for the whole answer: it goes with the largest part, which is the last
    // to be sent in all but odd cases.
    if let Some(permit) = permit
        && let Some(part) = response.partitions.iter_mut().max_by_key(|part| part.records.len())
    {
        part.records = crate::memory::hold(std::mem::take(&mut part.records), permit);
    }
    response
}

fn check(request: v1::FetchRequest) -> Result<Fetch, ApiError> {
    convert::check_isolation(request.isolation)?;
    let max_wait = convert::duration(
        "max_wait",
        request.max_wait,
        limits::DEFAULT_FETCH_WAIT,
        limits::MAX_FETCH_WAIT,
    )?;
    let bounded = |field: &str, value: i32, default: i32| match value {
        0 => Ok(default),
        value if (1..=limits::MAX_FETCH_BYTES).contains(&value) => Ok(value),
        _ => Err(ApiError::field(
            field,
            format!("must be 0 to {}", limits::MAX_FETCH_BYTES),
        )),
    };
    let min_bytes = bounded("min_bytes", request.min_bytes, 1)?;
    let max_bytes = bounded("max_bytes", request.max_bytes, limits::DEFAULT_FETCH_BYTES)?;
    check_partitions(
        request
            .partitions
            .iter()
            .map(|part| (part.topic.as_str(), part.partition)),
    )?;
    if let Some(at) = request.partitions.iter().position(|part| part.max_bytes < 0) {
        return Err(ApiError::field(
            format!("partitions[{at}].max_bytes"),
            "must be 0 or more",
        ));
    }
    Ok(Fetch {
        correlation_id: request.correlation_id,
        max_wait,
        min_bytes: usize::try_from(min_bytes.min(max_bytes)).unwrap_or(1),
        max_bytes: usize::try_from(max_bytes).unwrap_or(1),
        partitions: request.partitions,
    })
}
