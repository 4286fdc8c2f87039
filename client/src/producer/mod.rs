//! The producer: records are encoded where they are sent from, straight into their partition's
//! batch; one task sends the batches.

mod buffer;
mod builder;
mod delivery;
mod link;
mod links;
mod memory;
mod partitioner;
mod sender;
mod sequencer;
mod slot;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use millrace_proto::{batch, partitioner::murmur2, v1};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use builder::{Acks, ProducerBuilder};
pub use delivery::Delivery;
pub use partitioner::{Partitioner, PartitionerInput};

use self::{
    buffer::{PartitionBuffer, RecordParts, TopicBuffers},
    builder::ProducerConfig,
    memory::MemoryBudget,
    partitioner::TopicCursor,
    sender::Sender,
    sequencer::Identity,
};
use crate::{
    client::Client,
    cluster::Topic,
    error::{Error, ErrorKind, Result, WriteOutcome},
    limits,
    offsets::retrying,
    record::Record,
};

/// Sends records. Cheap to clone; all clones share batches, buffer and order.
///
/// Records of one partition are stored in the order in which `send` was called. When the last clone
/// is dropped, what was sent before is still delivered in the background; [`close`](Self::close)
/// waits for it.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Ends the sender with the last clone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    sender: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.mailbox.bell.notify_one();
    }
}

/// What producers and their sender share.
#[derive(Debug)]
struct Shared {
    client: Client,
    config: ProducerConfig,
    /// What partitions begin with.
    identity: Option<Identity>,
    topics: RwLock<HashMap<Arc<str>, Arc<TopicBuffers>>>,
    memory: MemoryBudget,
    mailbox: Mailbox,
    /// The first failure since the last flush.
    failure: Mutex<Option<Error>>,
    closing: AtomicBool,
}

/// Partitions that the sender is to look at.
#[derive(Debug, Default)]
struct Mailbox {
    partitions: Mutex<Vec<(Arc<TopicBuffers>, usize)>>,
    bell: Notify,
}

impl Mailbox {
    fn tell(&self, topic: &Arc<TopicBuffers>, partition: usize) {
        self.partitions.lock().push((topic.clone(), partition));
        self.bell.notify_one();
    }
}

impl Producer {
    async fn start(client: Client, config: ProducerConfig) -> Result<Self> {
        let identity = if config.rules.idempotent {
            Some(init_producer(&client).await?)
        } else {
            None
        };
        let shared = Arc::new(Shared {
            memory: MemoryBudget::new(config.buffer_bytes),
            client,
            config,
            identity,
            topics: RwLock::default(),
            mailbox: Mailbox::default(),
            failure: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let sender = tokio::spawn(Sender::new(shared.clone()).run());
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                sender: tokio::sync::Mutex::new(Some(sender)),
            }),
        })
    }

    /// Enqueues a record; waits while the buffer is full. What comes back is the promise that it is
    /// stored: await it, or call [`flush`](Self::flush) later.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION, [`RecordTooLarge`](ErrorKind::RecordTooLarge),
    /// [`Closed`](ErrorKind::Closed). Nothing was written then.
    pub async fn send(&self, record: Record) -> Result<Delivery> {
        let headers = borrowed(&record)?;
        let parts = RecordParts {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: record.timestamp.unwrap_or_else(now_ms),
        };
        self.send_parts(&record.topic, record.partition, &parts).await
    }

    /// The same for borrowed bytes, which are copied once, into the batch: the fast way.
    /// `partition`: `None` lets the partitioner decide. The time is now.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub async fn send_to(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Delivery> {
        let parts = RecordParts {
            key,
            value,
            headers: &[],
            timestamp: now_ms(),
        };
        self.send_parts(topic, partition, &parts).await
    }

    /// Enqueues a record if that needs no waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`BufferFull`](ErrorKind::BufferFull) if there is no room. A topic
    /// that metadata does not show yet is unknown at once.
    pub fn try_send(&self, record: &Record) -> Result<Delivery> {
        let shared = self.shared();
        let headers = borrowed(record)?;
        let parts = RecordParts {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: record.timestamp.unwrap_or_else(now_ms),
        };
        let size = check_size(&parts)?;
        let topic = shared
            .find(&record.topic)
            .map_or_else(|| shared.add_known(&record.topic), Ok)?;
        if !shared.memory.try_acquire(size) {
            return Err(Error::new(
                ErrorKind::BufferFull,
                "The producer's buffer is full: wait, send slower, or make buffer_bytes larger.",
            )
            .with_outcome(WriteOutcome::NotWritten));
        }
        self.append(&topic, record.partition, &parts, size)
    }

    /// Sends all that waits, without linger, and waits until all that was enqueued before is
    /// stored or failed.
    ///
    /// # Errors
    /// The first failure of any record since the last flush, also if its [`Delivery`] was awaited.
    pub async fn flush(&self) -> Result<()> {
        let shared = self.shared();
        let mut pending = Vec::new();
        let topics: Vec<_> = shared.topics.read().values().cloned().collect();
        for topic in &topics {
            for (at, partition) in topic.partitions.iter().enumerate() {
                if partition.flush(&mut pending) {
                    shared.mailbox.tell(topic, at);
                }
            }
        }
        for state in pending {
            state.done().await;
        }
        shared.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Flushes and ends the producer and all its clones. Records sent at the same time by clones may
    /// be refused.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<()> {
        let flushed = self.flush().await;
        self.shared().closing.store(true, Ordering::Release);
        self.shared().mailbox.bell.notify_one();
        if let Some(sender) = self.handle.sender.lock().await.take() {
            // The task answers nothing; a panic of it was told where it happened.
            let _ = sender.await;
        }
        flushed
    }

    /// Bytes that wait for their acknowledgement.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.shared().memory.used()
    }

    #[inline]
    async fn send_parts(&self, topic: &str, partition: Option<i32>, parts: &RecordParts<'_>) -> Result<Delivery> {
        let shared = self.shared();
        let size = check_size(parts)?;
        let buffers = match shared.find(topic) {
            Some(buffers) => buffers,
            None => shared.add(topic).await?,
        };
        if !shared.memory.try_acquire(size) {
            // Open batches are sent early then: see the sender.
            shared.mailbox.bell.notify_one();
            shared.memory.acquire(size).await;
        }
        self.append(&buffers, partition, parts, size)
    }

    /// Appends a record whose `size` was taken of the budget; gives it back on failure.
    #[inline]
    fn append(
        &self,
        topic: &Arc<TopicBuffers>,
        partition: Option<i32>,
        parts: &RecordParts<'_>,
        size: usize,
    ) -> Result<Delivery> {
        let shared = self.shared();
        let appended = shared.choose(topic, partition, parts).and_then(|at| {
            if shared.is_closing() {
                return Err(Error::closed("producer").with_outcome(WriteOutcome::NotWritten));
            }
            let buffer = &topic.partitions[at];
            Ok((at, buffer.append(parts, size, &shared.memory)?))
        });
        let (at, appended) = appended.inspect_err(|_| shared.memory.release(size))?;
        if appended.ended {
            topic.batch_ended(&shared.config.partitioner, topic.partitions[at].partition());
        }
        if appended.tell {
            shared.mailbox.tell(topic, at);
        }
        Ok(appended.delivery)
    }

    #[inline]
    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Shared {
    #[inline]
    fn find(&self, topic: &str) -> Option<Arc<TopicBuffers>> {
        self.topics.read().get(topic).cloned()
    }

    #[cold]
    async fn add(&self, topic: &str) -> Result<Arc<TopicBuffers>> {
        let known = self
            .client
            .topic(topic)
            .await
            .map_err(|error| error.with_outcome(WriteOutcome::NotWritten))?;
        self.insert(&known)
    }

    #[cold]
    fn add_known(&self, topic: &str) -> Result<Arc<TopicBuffers>> {
        let known = self.client.cluster().topics.get(topic).cloned();
        let known = known.ok_or_else(|| Error::unknown_topic(topic).with_outcome(WriteOutcome::NotWritten))?;
        self.insert(&known)
    }

    /// Adds a topic's partitions; those of the same topic that are there already stay.
    fn insert(&self, topic: &Topic) -> Result<Arc<TopicBuffers>> {
        let mut topics = self.topics.write();
        let known = topics.get(&topic.name).filter(|known| known.id == topic.id).cloned();
        let mut partitions = known.as_ref().map(|known| known.partitions.clone()).unwrap_or_default();
        if let Some(known) = &known
            && known.partitions.len() >= topic.partitions.len()
        {
            return Ok(known.clone());
        }
        for number in partitions.len()..topic.partitions.len() {
            let number = i32::try_from(number).map_err(|_| Error::invalid("The topic has too many partitions."))?;
            let buffer = PartitionBuffer::new(number, self.config.batch, self.identity)
                .map_err(|error| Error::invalid(format!("No batch can be made ({error}).")))?;
            partitions.push(Arc::new(buffer));
        }
        let cursor = known.map_or_else(
            || Arc::new(TopicCursor::new(seed(&topic.name))),
            |known| known.cursor.clone(),
        );
        let buffers = Arc::new(TopicBuffers {
            name: topic.name.clone(),
            id: topic.id.clone(),
            cursor,
            partitions,
        });
        topics.insert(topic.name.clone(), buffers.clone());
        Ok(buffers)
    }

    /// The index of the record's partition.
    #[inline]
    fn choose(&self, topic: &TopicBuffers, partition: Option<i32>, parts: &RecordParts<'_>) -> Result<usize> {
        let count = topic.partitions.len();
        let unknown =
            |partition| Error::unknown_partition(&topic.name, partition, count).with_outcome(WriteOutcome::NotWritten);
        match partition {
            Some(partition) => usize::try_from(partition)
                .ok()
                .filter(|at| *at < count)
                .ok_or_else(|| unknown(partition)),
            None if count == 0 => Err(unknown(0)),
            None => {
                let partitions = u32::try_from(count).unwrap_or(u32::MAX);
                let input = PartitionerInput {
                    topic: &topic.name,
                    key: parts.key,
                    value: parts.value,
                    partitions,
                };
                Ok(topic.cursor.choose(&self.config.partitioner, &input) as usize)
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn note_failure(&self, error: &Error) {
        self.failure.lock().get_or_insert_with(|| error.clone());
    }
}

/// An id that no other producer has or had.
async fn init_producer(client: &Client) -> Result<Identity> {
    let answer = retrying(client, client.inner.request_timeout, |contact| async move {
        let mut log = client.inner.connections.log(&contact)?;
        Ok(log.init_producer(v1::InitProducerRequest {}).await?.into_inner())
    })
    .await?;
    let producer_epoch = i16::try_from(answer.producer_epoch)
        .map_err(|_| Error::invalid("The broker gave a producer epoch that no batch can hold: update the client."))?;
    Ok(Identity {
        producer_id: answer.producer_id,
        producer_epoch,
    })
}

/// The most that a record may take, if a batch can hold it.
#[inline]
fn check_size(parts: &RecordParts<'_>) -> Result<usize> {
    let size = parts.size();
    if size <= limits::MAX_RECORD_BYTES {
        return Ok(size);
    }
    Err(Error::new(
        ErrorKind::RecordTooLarge,
        format!(
            "The record has {size} bytes and no batch can hold more than {}: split it, or store it elsewhere.",
            limits::MAX_RECORD_BYTES
        ),
    )
    .with_outcome(WriteOutcome::NotWritten))
}

fn borrowed(record: &Record) -> Result<Vec<batch::Header<'_>>> {
    if record.headers.len() > 1_000 {
        return Err(Error::invalid(format!(
            "The record has {} headers: send at most 1,000.",
            record.headers.len()
        ))
        .with_outcome(WriteOutcome::NotWritten));
    }
    let headers = record.headers.iter();
    Ok(headers
        .map(|header| batch::Header {
            key: &header.name,
            value: header.value.as_deref(),
        })
        .collect())
}

/// Milliseconds since 1970; a clock before that is taken as 1970.
#[inline]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Where sticky partitioning begins: not the same for all topics and producers.
fn seed(topic: &Arc<str>) -> u32 {
    let mut bytes = Bytes::copy_from_slice(topic.as_bytes()).to_vec();
    bytes.extend_from_slice(&now_ms().to_le_bytes());
    murmur2(&bytes)
}
