//! `Log.Fetch`: a pipelined stream of reads, with long polling.

mod admission;
mod allowance;
#[cfg(test)]
mod tests;
mod told;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use millrace_engine::partition::FetchBound;
use millrace_log::ReadData;
use millrace_proto::v1::{self, ErrorReason};
use tokio::{sync::Notify, time::Instant};
use tonic::Status;

pub use self::allowance::no_memory;
use self::{
    admission::{Admitted, admit},
    allowance::Allowance,
    told::{News, ToldOf},
};
use super::{
    convert,
    produce::{answer_part_bytes, check_partitions},
    read_ahead::{Next, ReadAhead},
};
use crate::{
    broker::Broker,
    error::{ApiError, broker_stopping},
    limits,
    memory::{self, ConnectionBudget, MemoryPermit, MessagePermits},
    partition::{Offsets, Partition},
    replication::Key,
};

/// An answer, and the memory it counts until all of it is sent.
#[derive(Debug)]
pub struct FetchAnswer {
    /// What is sent.
    pub response: v1::FetchResponse,
    /// Its memory, unless it is small.
    pub permit: Option<MemoryPermit>,
}

impl FetchAnswer {
    /// The answer alone, its memory held by each partition's records.
    #[must_use]
    pub fn into_response(mut self) -> v1::FetchResponse {
        if let Some(permit) = self.permit {
            for part in &mut self.response.partitions {
                part.records = memory::hold(std::mem::take(&mut part.records), permit.clone());
            }
        }
        self.response
    }
}

/// A checked request.
#[derive(Debug)]
struct Fetch {
    correlation_id: u64,
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    partitions: Vec<v1::FetchPartition>,
}

/// How one partition of a request is read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Bytes that the request leaves for it.
    asked: usize,
    /// Bytes that are left of the answer's memory.
    room: usize,
    /// Nothing was read for this request yet: one batch is given however large it is.
    first: bool,
    /// It is the only partition of the request.
    alone: bool,
}

/// What was read for a request.
#[derive(Debug, Default)]
struct ReadAll {
    response: v1::FetchResponse,
    /// Of records.
    bytes: usize,
    /// It is sent at once: it has an error or a changed watermark to tell.
    immediate: bool,
    /// The answer's memory ended before what there is to read.
    cut: bool,
}

/// What was read of one partition.
#[derive(Debug)]
struct ReadOne {
    key: Key,
    offsets: Offsets,
    records: Bytes,
    /// Where reading goes on behind the records.
    next_offset: Option<i64>,
    diverging: Option<v1::EpochEndOffset>,
    cut: bool,
}

/// Why a partition was not read.
#[derive(Debug)]
enum NotRead {
    /// It is told in the answer.
    Failed(ApiError),
    /// There is no memory for its one batch, which ends the stream.
    NoMemory,
}

impl<E: Into<ApiError>> From<E> for NotRead {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One fetch stream.
#[derive(Debug)]
pub struct FetchSession {
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    permits: MessagePermits,
    told: ToldOf,
    /// Where the reader of one partition goes on after the present answer.
    next: Option<Next>,
    ahead: Option<ReadAhead>,
}

impl FetchSession {
    /// A session of a connection.
    #[must_use]
    pub fn new(broker: Arc<Broker>, budget: Option<ConnectionBudget>, permits: MessagePermits) -> Self {
        let memory = budget.as_ref().map(ConnectionBudget::stream_state).unwrap_or_default();
        Self {
            broker,
            budget,
            permits,
            told: ToldOf::nothing(memory),
            next: None,
            ahead: None,
        }
    }

    /// Answers the stream's requests, which come encoded, in their order.
    pub async fn serve(
        mut self,
        mut requests: impl Stream<Item = Result<Bytes, Status>> + Unpin,
        answers: tokio::sync::mpsc::Sender<Result<FetchAnswer, Status>>,
    ) {
        let stopping = self.broker.stopping.clone();
        self.permits.claim();
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
        requests: &mut (impl Stream<Item = Result<Bytes, Status>> + Unpin),
    ) -> Result<Option<Bytes>, Status> {
        if self.ahead.is_some() {
            if let Ok(request) = tokio::time::timeout(limits::READ_AHEAD_KEPT, requests.try_next()).await {
                return request;
            }
            self.ahead = None;
        }
        requests.try_next().await
    }

    async fn answer(&mut self, request: Bytes) -> Result<FetchAnswer, Status> {
        let Admitted {
            request,
            permit: _permit,
        } = admit(self.budget.as_ref(), request).await?;
        // It counts among the answers by now.
        drop(self.permits.take());
        let fetch = check(request)?;
        self.told.begin();
        let deadline = Instant::now() + fetch.max_wait;
        loop {
            let waiter = Arc::new(Notify::new());
            let mut allowance = self.allow(&fetch).await.ok_or_else(no_memory)?;
            let read = self.read_all(&fetch, &mut allowance, &waiter).await?;
            let enough = read.bytes >= fetch.min_bytes || read.cut || allowance.is_short() && read.bytes > 0;
            if read.immediate || enough || Instant::now() >= deadline {
                self.told.forget_others(fetch.partitions.len());
                return Ok(FetchAnswer {
                    response: read.response,
                    permit: allowance.into_permit(),
                });
            }
            drop((read, allowance));
            // At the deadline it is read once more, and answered with what is there then.
            let _ = tokio::time::timeout_at(deadline, waiter.notified()).await;
        }
    }

    /// Takes the memory of an answer; `None` if there is none even for its partitions' heads.
    async fn allow(&self, fetch: &Fetch) -> Option<Allowance> {
        let heads = fetch.partitions.iter().map(|part| answer_part_bytes(&part.topic)).sum();
        match &self.budget {
            Some(budget) => Allowance::take(budget, heads, self.expected_bytes(fetch)).await,
            None => Some(Allowance::unbounded(fetch.max_bytes)),
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

    /// Reads what is there.
    ///
    /// # Errors
    /// There is no memory for a large batch.
    async fn read_all(
        &mut self,
        fetch: &Fetch,
        allowance: &mut Allowance,
        waiter: &Arc<Notify>,
    ) -> Result<ReadAll, ApiError> {
        let mut all = ReadAll::default();
        all.response.correlation_id = fetch.correlation_id;
        for part in &fetch.partitions {
            let reading = Reading {
                asked: fetch.max_bytes.saturating_sub(all.bytes),
                room: allowance.room().saturating_sub(all.bytes),
                first: all.bytes == 0,
                alone: fetch.partitions.len() == 1,
            };
            let empty = v1::FetchedPartition {
                topic: part.topic.clone(),
                partition: part.partition,
                ..Default::default()
            };
            let (answer, news) = match self.read_one(part, reading, allowance, waiter).await {
                Ok(read) => {
                    all.cut |= read.cut;
                    let news = self.told.tell(read.key, &read.offsets);
                    let answer = v1::FetchedPartition {
                        high_watermark: read.offsets.high_watermark,
                        last_stable_offset: read.offsets.last_stable,
                        log_start: read.offsets.log_start,
                        leader_epoch: read.offsets.leader_epoch,
                        records: read.records,
                        diverging: read.diverging,
                        next_offset: read.next_offset,
                        ..empty
                    };
                    (answer, news)
                }
                Err(NotRead::Failed(error)) => {
                    self.broker.metrics.count_error(&error);
                    let error = Some(error.to_message());
                    (v1::FetchedPartition { error, ..empty }, News::Yes)
                }
                Err(NotRead::NoMemory) => return Err(no_memory()),
            };
            all.bytes += answer.records.len();
            let tells = !answer.records.is_empty() || answer.error.is_some() || answer.diverging.is_some();
            all.immediate |= answer.diverging.is_some() || news == News::Yes;
            if tells || news != News::No {
                all.response.partitions.push(answer);
            }
        }
        Ok(all)
    }

    async fn read_one(
        &mut self,
        part: &v1::FetchPartition,
        reading: Reading,
        allowance: &mut Allowance,
        waiter: &Arc<Notify>,
    ) -> Result<ReadOne, NotRead> {
        if part.fetch_offset < 0 {
            return Err(ApiError::field("fetch_offset", "must be 0 or more").into());
        }
        let partition = self
            .broker
            .partitions
            .find_checked(&part.topic, &part.topic_id, part.partition)?;
        // Registered before it is looked at, so that nothing that comes in between is missed.
        partition.notify_on_data(waiter);
        let checked = check_position(
            &self.broker,
            &partition,
            part.fetch_offset,
            part.current_leader_epoch,
            part.last_fetched_epoch,
        );
        let (bound, diverging) = checked.await?;
        let asked = match part.max_bytes {
            0 => reading.asked,
            bytes => reading.asked.min(usize::try_from(bytes).unwrap_or(0)),
        };
        let (records, next_offset, cut) = match bound {
            FetchBound::UpTo(up_to) if diverging.is_none() && (reading.first || asked > 0) => {
                let (data, cut) = self
                    .read(&partition, part.fetch_offset, asked, up_to, reading, allowance)
                    .await?;
                if reading.alone {
                    self.next = Next::behind(&partition, &data, asked);
                }
                let next_offset = (!data.bytes.is_empty()).then_some(data.next_offset);
                (data.bytes, next_offset, cut)
            }
            _ => (Bytes::new(), None, false),
        };
        self.broker.metrics.count_fetched(partition.topic(), records.len());
        Ok(ReadOne {
            key: partition.key(),
            offsets: partition.offsets(),
            records,
            next_offset,
            diverging,
            cut,
        })
    }

    /// Reads at most `asked` bytes and what memory allows, or one batch if nothing was read for
    /// the request before. Answers also with whether it was memory that ended it.
    async fn read(
        &mut self,
        partition: &Arc<Partition>,
        offset: i64,
        asked: usize,
        up_to: i64,
        reading: Reading,
        allowance: &mut Allowance,
    ) -> Result<(ReadData, bool), NotRead> {
        // It has memory of its own.
        if let Some(ahead) = self.ahead.take()
            && let Some(data) = ahead.take(partition, offset, asked).await
        {
            return Ok((data, false));
        }
        let limit = asked.min(reading.room);
        let mut data = read_within(partition, offset, limit, up_to).await?;
        if let Some(bytes) = data.first_batch_too_large
            && reading.first
        {
            if bytes > reading.room && !allowance.enlarge(self.budget.as_ref(), bytes).await {
                return Err(NotRead::NoMemory);
            }
            data = read_within(partition, offset, bytes, up_to).await?;
        }
        let cut = limit < asked && !data.bytes.is_empty() && data.next_offset < up_to;
        Ok((data, cut))
    }
}

/// Reads at most `max_bytes`, off the async threads where the disk may have to be waited for.
///
/// # Errors
/// As of the log.
pub async fn read_within(
    partition: &Arc<Partition>,
    offset: i64,
    max_bytes: usize,
    up_to: i64,
) -> Result<ReadData, ApiError> {
    if partition.likely_cached(offset) {
        return partition.read_within(offset, max_bytes, up_to);
    }
    let partition = partition.clone();
    tokio::task::spawn_blocking(move || partition.read_within(offset, max_bytes, up_to))
        .await
        .map_err(|error| ApiError::internal("reading", &error))?
}

/// Up to where a reader at `offset` may see, and where the log has parted from the one that it has read, if it has
/// (KIP-320, KIP-595): then there is nothing to see. `current_epoch`: the leader epoch that it knows; `last_epoch`: that
/// of the record before `offset`. What is absent is not checked.
///
/// # Errors
/// Another leader epoch, or an offset outside of the log; or it can't be told yet.
pub async fn check_position(
    broker: &Broker,
    partition: &Partition,
    offset: i64,
    current_epoch: Option<i32>,
    last_epoch: Option<i32>,
) -> Result<(FetchBound, Option<v1::EpochEndOffset>), ApiError> {
    let checked = broker.check_fetch(partition, offset, current_epoch).await;
    let diverging = last_epoch.and_then(|last_epoch| diverging(partition, offset, last_epoch));
    let bound = match checked {
        // Behind an unclean election: it is told where its log and this one part, and need not start over. Below the log
        // start nothing can be compared any more (KAFKA-12996).
        Err(error)
            if diverging.is_some()
                && error.reason() == ErrorReason::OffsetOutOfRange
                && offset > partition.offsets().log_start =>
        {
            FetchBound::Nothing
        }
        checked => checked?,
    };
    Ok((bound, diverging))
}

/// Whether the log was cut behind the reader's back.
fn diverging(partition: &Partition, offset: i64, last_epoch: i32) -> Option<v1::EpochEndOffset> {
    let (leader_epoch, end_offset) = partition.end_of_epoch(last_epoch)?;
    (leader_epoch < last_epoch || end_offset < offset).then_some(v1::EpochEndOffset {
        leader_epoch,
        end_offset,
    })
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
