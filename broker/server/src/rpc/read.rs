//! `Messaging.Read`: decoded messages from given positions, without a group.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use millrace_engine::partition::FetchBound;
use millrace_proto::{
    batch::{Codec, DecodeLimits, OwnedRecord, owned_batches},
    v1::{self, ErrorReason, start::At},
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tonic::Status;
use uuid::Uuid;

use super::{convert, fetch::no_memory};
use crate::{
    broker::Broker,
    error::{ApiError, broker_stopping, unknown_topic},
    forward::{LOST_LOOK_EVERY, READER_LEADER_WAIT, Source, Target, Watches, find_sources, open_sources},
    limits,
    memory::{ConnectionBudget, MemoryPermit},
};

/// What the broker decodes for plain readers costs at most this.
const DECODE: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: limits::MAX_DECOMPRESSED_BYTES,
    max_records: 10_000_000,
    max_headers_per_record: 65_536,
};

/// A reader's place in one partition.
#[derive(Debug)]
struct Cursor {
    source: Source,
    /// Whether the partition can't be read where it was: its new leader is looked for.
    lost: bool,
    /// Since when it can't be read.
    trouble_since: Option<Instant>,
    next: i64,
    /// Where a reader that does not follow stops.
    stop: Option<i64>,
    /// Whether the reader was told where this partition stands.
    told: bool,
}

impl Cursor {
    fn has_ended(&self) -> bool {
        self.stop.is_some_and(|stop| self.next >= stop)
    }
}

/// A reader.
#[derive(Debug)]
pub struct Reader {
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    topic: String,
    topic_id: Uuid,
    /// Partitions that the topic gets later are read as well.
    all: bool,
    cursors: Vec<Cursor>,
    /// Waits for news of partitions that are led elsewhere.
    watches: Watches,
    /// When leaders were looked for last.
    looked_at: Option<Instant>,
    remaining: Option<u64>,
    follow: bool,
}

type Answers = mpsc::Sender<Result<v1::ReadResponse, Status>>;

impl Reader {
    /// Checks the request and finds where each partition's reading begins.
    ///
    /// # Errors
    /// The request is wrong, or a position is outside of its partition.
    pub async fn open(
        broker: Arc<Broker>,
        budget: Option<ConnectionBudget>,
        request: v1::ReadRequest,
    ) -> Result<Self, ApiError> {
        convert::check_isolation(request.isolation)?;
        let cluster = broker.quorum.cluster();
        let topic = cluster
            .topics
            .get(&request.topic)
            .ok_or_else(|| unknown_topic(&request.topic))?;
        let topic_id = topic.id;
        let all = request.partitions.is_empty();
        let common = request.start.and_then(|start| start.at);
        let starts: Vec<(i32, Option<At>)> = if request.partitions.is_empty() {
            (0..)
                .zip(&topic.partitions)
                .map(|(number, _)| (number, common))
                .collect()
        } else {
            if request.partitions.len() > limits::MAX_PARTITIONS_PER_REQUEST {
                let problem = format!("has over {} entries", limits::MAX_PARTITIONS_PER_REQUEST);
                return Err(ApiError::field("partitions", problem));
            }
            request
                .partitions
                .into_iter()
                .map(|part| (part.partition, part.start.and_then(|start| start.at).or(common)))
                .collect()
        };
        let distinct: BTreeSet<i32> = starts.iter().map(|(number, _)| *number).collect();
        if distinct.len() != starts.len() {
            return Err(ApiError::field("partitions", "names a partition twice"));
        }
        let beginning = At::Edge(v1::Edge::Beginning.into());
        let starts: Vec<(i32, At)> = starts
            .into_iter()
            .map(|(number, at)| (number, at.unwrap_or(beginning)))
            .collect();
        for (number, _) in &starts {
            // Says if there is no such partition.
            broker.partitions.config_of(&cluster, topic, *number)?;
        }
        let sources = open_sources(&broker, topic, &starts, !request.follow).await?;
        let cursors = sources
            .into_iter()
            .map(|(source, next)| Cursor {
                stop: (!request.follow).then(|| source.offsets().last_stable),
                source,
                lost: false,
                trouble_since: None,
                next,
                told: false,
            })
            .collect();
        Ok(Self {
            broker,
            budget,
            topic: request.topic,
            topic_id,
            all,
            cursors,
            watches: Watches::default(),
            looked_at: None,
            remaining: Some(request.max_messages).filter(|count| *count > 0),
            follow: request.follow,
        })
    }

    /// Sends messages until the end, or the caller goes away.
    pub async fn serve(mut self, answers: Answers) {
        let stopping = self.broker.stopping.clone();
        let served = tokio::select! {
            served = self.run(&answers) => served,
            () = answers.closed() => return,
            () = stopping.cancelled() => Err(broker_stopping()),
        };
        if let Err(error) = served {
            self.broker.metrics.count_error(&error);
            let _ = answers.send(Err(error.into())).await;
        }
    }

    async fn run(&mut self, answers: &Answers) -> Result<(), ApiError> {
        loop {
            let waiter = Arc::new(Notify::new());
            let mut progressed = false;
            for at in 0..self.cursors.len() {
                if self.cursors[at].lost {
                    continue;
                }
                self.cursors[at].source.notify_on_data(&waiter);
                match self.advance(at, answers).await {
                    Ok(more) => {
                        progressed |= more;
                        self.cursors[at].trouble_since = None;
                    }
                    Err(error) => self.lose(at, error)?,
                }
                if self.remaining == Some(0) {
                    return Ok(());
                }
            }
            if self.cursors.iter().all(Cursor::has_ended) {
                return Ok(());
            }
            if !progressed {
                self.wait(&waiter).await?;
            }
            self.find_lost().await?;
        }
    }

    /// Waits for more to read.
    async fn wait(&mut self, waiter: &Notify) -> Result<(), ApiError> {
        let watched = self
            .cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| !cursor.lost && !cursor.has_ended());
        self.watches
            .ask(watched.map(|(at, cursor)| (at, &cursor.source, cursor.next)));
        let longest = if self.cursors.iter().any(|cursor| cursor.lost) {
            LOST_LOOK_EVERY
        } else {
            limits::NEW_PARTITIONS_CHECK
        };
        tokio::select! {
            () = waiter.notified() => {}
            news = self.watches.news() => {
                for (at, told) in news {
                    match told {
                        Ok(offsets) => self.cursors[at].source.learn(offsets),
                        Err(error) => self.lose(at, error)?,
                    }
                }
            }
            () = tokio::time::sleep(longest) => {}
        }
        if self.follow {
            self.add_new_partitions().await;
        }
        Ok(())
    }

    /// A partition can't be read where it was. The error, if that is not for the reason that its leader
    /// has changed.
    fn lose(&mut self, at: usize, error: ApiError) -> Result<(), ApiError> {
        let cursor = &mut self.cursors[at];
        let since = *cursor.trouble_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= READER_LEADER_WAIT || !cursor.source.may_have_moved(&self.broker, &error) {
            return Err(error.with("partition", cursor.source.target().number));
        }
        cursor.lost = true;
        Ok(())
    }

    /// Looks for the leaders of partitions that can't be read where they were; goes on there from the
    /// same position.
    async fn find_lost(&mut self) -> Result<(), ApiError> {
        let lost: Vec<usize> = (0..self.cursors.len()).filter(|at| self.cursors[*at].lost).collect();
        // Others may have much to read meanwhile.
        let lately = self.looked_at.is_some_and(|at| at.elapsed() < LOST_LOOK_EVERY);
        if lost.is_empty() || lately {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let cluster = self.broker.quorum.cluster();
        let topic = cluster.topics.get(&self.topic);
        let topic = topic
            .filter(|topic| topic.id == self.topic_id)
            .ok_or_else(|| unknown_topic(&self.topic))?;
        let starts: Vec<(i32, At)> = lost
            .iter()
            .map(|at| {
                let cursor = &self.cursors[*at];
                (cursor.source.target().number, At::Offset(cursor.next))
            })
            .collect();
        let found = find_sources(&self.broker, topic, &starts, false).await;
        for (at, found) in lost.into_iter().zip(found) {
            match found {
                Ok((source, _)) => {
                    self.cursors[at].source = source;
                    self.cursors[at].lost = false;
                }
                Err(error) => self.lose(at, error)?,
            }
        }
        Ok(())
    }

    /// Takes in partitions that the topic got meanwhile, from their beginning: whatever came
    /// since must not be passed over (KAFKA-20742 tells of a reader that did).
    async fn add_new_partitions(&mut self) {
        let cluster = self.broker.quorum.cluster();
        let Some(topic) = cluster
            .topics
            .get(&self.topic)
            .filter(|topic| self.all && topic.id == self.topic_id)
        else {
            return;
        };
        let beginning = At::Edge(v1::Edge::Beginning.into());
        let added: Vec<(i32, At)> = (self.cursors.len()..topic.partitions.len())
            .map(|number| (i32::try_from(number).unwrap_or(i32::MAX), beginning))
            .collect();
        if added.is_empty() {
            return;
        }
        for found in find_sources(&self.broker, topic, &added, false).await {
            // One that is not open yet is there at the next look; those behind it too, as cursors are
            // in the order of partitions.
            let Ok((source, next)) = found else { return };
            self.cursors.push(Cursor {
                source,
                lost: false,
                trouble_since: None,
                next,
                stop: None,
                told: false,
            });
        }
    }

    /// Sends what one partition has next; answers with whether that was anything.
    async fn advance(&mut self, at: usize, answers: &Answers) -> Result<bool, ApiError> {
        let cursor = &self.cursors[at];
        if cursor.told && cursor.has_ended() {
            return Ok(false);
        }
        let bound = match cursor.source.bound(&self.broker, cursor.next).await? {
            FetchBound::UpTo(bound) => bound.min(cursor.stop.unwrap_or(i64::MAX)),
            FetchBound::Nothing => cursor.next,
        };
        if cursor.next >= bound {
            let told = std::mem::replace(&mut self.cursors[at].told, true);
            if !told {
                self.send(at, Vec::new(), answers).await?;
            }
            return Ok(!told);
        }
        let next = cursor.next;
        // Encoded, decoded and as an answer. Where memory is short, a small answer goes out
        // without: readers that do not take theirs must not hold up the others.
        let mut permit = match &self.budget {
            Some(budget) => budget.acquire_for_answer(3 * limits::READ_RESPONSE_BYTES).await,
            None => None,
        };
        let mut small = self.budget.is_some() && permit.is_none();
        let size = if small {
            limits::SMALL_ANSWER_BYTES
        } else {
            limits::READ_RESPONSE_BYTES
        };
        let source = &mut self.cursors[at].source;
        let mut data = source.read(next, size, bound).await?;
        if let Some(bytes) = data.first_batch_too_large {
            // A batch is read whole however large it is, once it has its memory.
            if let Some(budget) = &self.budget {
                drop(permit.take());
                if !small {
                    permit = budget.try_for_answer(3 * limits::READ_RESPONSE_BYTES + bytes);
                    small = permit.is_none();
                }
                if small {
                    permit = Some(budget.acquire_for_large_answer(bytes).await.ok_or_else(no_memory)?);
                }
            }
            data = source.read(next, bytes, bound).await?;
            if data.first_batch_too_large.is_some() {
                // It is another one now, to be looked at anew.
                return Ok(true);
            }
        }
        self.broker.metrics.count_fetched(&self.topic, data.bytes.len());
        self.decode(at, data.bytes, permit, data.up_to, small, answers).await?;
        self.cursors[at].told = true;
        Ok(self.cursors[at].next > next)
    }

    /// Decodes batches, which count `permit`, and sends their messages, in answers of bounded size.
    ///
    /// With `few`, only one small answer of copied messages: then nothing of a large batch is
    /// kept while a slow reader takes them.
    async fn decode(
        &mut self,
        at: usize,
        bytes: Bytes,
        permit: Option<MemoryPermit>,
        bound: i64,
        few: bool,
        answers: &Answers,
    ) -> Result<(), ApiError> {
        let target = self.cursors[at].source.target().clone();
        let (mut messages, mut size) = (Vec::new(), 0);
        if bytes.is_empty() {
            // Nothing left between here and the bound (compaction may leave such gaps).
            self.cursors[at].next = bound.max(self.cursors[at].next);
        }
        'batches: for batch in owned_batches(bytes) {
            let next = self.cursors[at].next;
            let damaged = |error| damaged(&target, next, &error);
            let batch = batch.map_err(damaged)?;
            batch.verify_crc().map_err(damaged)?;
            if !batch.header().is_control() {
                let records = batch.records(&DECODE).map_err(damaged)?;
                // Decompressed records stay until the last of them is taken. Their memory is not waited
                // for: all who wait would hold theirs meanwhile.
                let (few, _held) = match &self.budget {
                    Some(budget) if !few && batch.header().codec() != Codec::None => {
                        let held = budget.try_for_answer(records.len_bytes());
                        (held.is_none(), held)
                    }
                    _ => (few, None),
                };
                let full = if few {
                    limits::SMALL_ANSWER_BYTES
                } else {
                    limits::READ_RESPONSE_BYTES
                };
                for record in records {
                    let mut record = record.map_err(damaged)?;
                    if record.offset < self.cursors[at].next {
                        continue;
                    }
                    if self.remaining == Some(0) {
                        break 'batches;
                    }
                    if size >= full {
                        if few {
                            break 'batches;
                        }
                        size = 0;
                        self.send(at, std::mem::take(&mut messages), answers).await?;
                    }
                    self.remaining = self.remaining.map(|left| left - 1);
                    self.cursors[at].next = record.offset + 1;
                    size += record_size(&record);
                    if few {
                        unshare(&mut record);
                    }
                    messages.push(convert::received(&self.topic, target.number, record));
                }
            }
            self.cursors[at].next = self.cursors[at].next.max(batch.header().next_offset());
        }
        // Of few messages, what is left are copies.
        let _permit = permit.filter(|_| !few);
        self.send(at, messages, answers).await
    }

    async fn send(&mut self, at: usize, messages: Vec<v1::ReceivedMessage>, answers: &Answers) -> Result<(), ApiError> {
        let cursor = &self.cursors[at];
        let offsets = cursor.source.offsets();
        let progress = v1::PartitionProgress {
            partition: cursor.source.target().number,
            next_offset: cursor.next,
            high_watermark: offsets.high_watermark,
            log_start: offsets.log_start,
        };
        let response = v1::ReadResponse {
            messages,
            progress: vec![progress],
        };
        // A closed channel ends `serve` by itself.
        let _ = answers.send(Ok(response)).await;
        Ok(())
    }
}

/// Copies what a record holds of its batch, which then needs not be kept for it.
fn unshare(record: &mut OwnedRecord) {
    let headers = record.headers.iter_mut().filter_map(|header| header.value.as_mut());
    for bytes in [&mut record.key, &mut record.value]
        .into_iter()
        .flatten()
        .chain(headers)
    {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// About what a message takes in memory, in bytes.
fn record_size(record: &OwnedRecord) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|header| header.key.len() + length(&header.value) + 64)
        .sum();
    length(&record.key) + length(&record.value) + headers + 64
}

fn damaged(target: &Target, offset: i64, error: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(topic = &*target.topic, partition = target.number, offset, %error, "a batch can't be decoded");
    ApiError::new(
        ErrorReason::DamagedLog,
        format!(
            "The batch at offset {offset} can't be decoded ({error}): read on behind it, or restore the partition."
        ),
    )
    .with("partition", target.number)
    .with("offset", offset)
}
