//! The consumer: partitions that are read from positions, fetched ahead within bounds.

mod answers;
mod builder;
mod lane;
mod records;
mod state;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};

pub use builder::{ConsumerBuilder, OffsetReset};
pub use records::{FetchedBatch, FetchedBatches, FetchedRecords, RecordIterator};
pub use state::PartitionStatus;

use self::{builder::ConsumerConfig, state::State};
use crate::{
    client::Client,
    error::{Error, Result},
    limits,
    offsets::{TopicPartition, list_offsets},
    record::{ConsumedRecord, Start},
};

/// Reads partitions from positions, without a group and without storing any position. Dropping it
/// ends all its fetches.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// What `next` is in the middle of.
    current: Option<RecordIterator>,
    manager: tokio::task::AbortHandle,
}

/// Where a partition is read from.
#[derive(Debug)]
pub(crate) struct Placed {
    pub key: TopicPartition,
    pub topic_id: Bytes,
    pub start: Start,
    /// The leader epoch of the record before the start, if known: a broker whose log has another one there tells
    /// that it was truncated (KIP-320).
    pub leader_epoch: Option<i32>,
}

/// What a consumer shares with its tasks.
#[derive(Debug)]
struct Shared {
    client: Client,
    config: ConsumerConfig,
    state: Mutex<State>,
    /// Something can be given out.
    news: Notify,
    /// Something may be fetched.
    work: Notify,
    /// A start is to be looked up, or there are other leaders.
    manage: Notify,
    /// Fetches that wait are to be made anew.
    interrupt: Notify,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.manager.abort();
    }
}

impl Consumer {
    fn start(client: Client, config: ConsumerConfig) -> Self {
        let shared = Arc::new(Shared {
            client,
            config,
            state: Mutex::default(),
            news: Notify::new(),
            work: Notify::new(),
            manage: Notify::new(),
            interrupt: Notify::new(),
        });
        let manager = tokio::spawn(manage(shared.clone())).abort_handle();
        Self {
            shared,
            current: None,
            manager,
        }
    }

    /// Adds partitions, each read from its start; one that is assigned already goes there. Starts
    /// other than offsets are looked up before this returns.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION, a negative offset, or no leader answered in time. Nothing
    /// is assigned then. An offset that is not in the log is told by `next`.
    pub async fn assign<T: AsRef<str>>(&mut self, partitions: impl IntoIterator<Item = (T, i32, Start)>) -> Result<()> {
        let mut starts: Vec<(TopicPartition, Start)> = Vec::new();
        for (topic, partition, start) in partitions {
            let topic = self.shared.client.topic(topic.as_ref()).await?;
            if topic.partition(partition).is_none() {
                return Err(Error::unknown_partition(&topic.name, partition, topic.partitions.len()));
            }
            starts.push(((topic.name.clone(), partition), start));
        }
        let starts = self.look_up(starts).await?;
        let cluster = self.shared.client.cluster();
        let place = |(key, start): (TopicPartition, Start)| {
            // Gone between look-up and here: found out by the first fetch.
            let id = cluster.topics.get(&key.0).map(|topic| topic.id.clone());
            Placed {
                topic_id: id.unwrap_or_default(),
                key,
                start,
                leader_epoch: None,
            }
        };
        self.place(starts.into_iter().map(place));
        Ok(())
    }

    /// Adds partitions, or puts them elsewhere. What can't be looked up at once is looked up by the manager.
    pub(crate) fn place(&mut self, partitions: impl IntoIterator<Item = Placed>) {
        let cluster = self.shared.client.cluster();
        let mut state = self.shared.state.lock();
        for placed in partitions {
            let key = &placed.key;
            self.current.take_if(|current| current.is_of(&key.0, key.1));
            state.place(placed, &cluster);
        }
        drop(state);
        self.shared.changed();
    }

    /// Starts as offsets.
    async fn look_up(&self, starts: Vec<(TopicPartition, Start)>) -> Result<Vec<(TopicPartition, Start)>> {
        if let Some((_, Start::Offset(offset))) = starts
            .iter()
            .find(|(_, start)| matches!(start, Start::Offset(offset) if *offset < 0))
        {
            return Err(Error::invalid(format!(
                "Offset {offset} is negative: offsets begin at 0."
            )));
        }
        let (known, unknown): (Vec<_>, Vec<_>) = starts
            .into_iter()
            .partition(|(_, start)| matches!(start, Start::Offset(_)));
        let listed = list_offsets(&self.shared.client, &unknown, self.shared.config.isolation).await?;
        let found = unknown
            .into_iter()
            .zip(listed)
            .map(|((key, _), listed)| (key, Start::Offset(listed.offset)));
        Ok(known.into_iter().chain(found).collect())
    }

    /// Lets a partition stand at a record that can't be decoded; the error is told by `next` and `next_batch`.
    pub(crate) fn stand(&mut self, key: &TopicPartition, position: i64, error: Error) {
        self.shared.state.lock().damaged(key, position, error);
        self.shared.news.notify_one();
    }

    /// Takes partitions away. Those that are not assigned are passed over.
    pub fn unassign<T: AsRef<str>>(&mut self, partitions: impl IntoIterator<Item = (T, i32)>) {
        let mut state = self.shared.state.lock();
        for (topic, partition) in partitions {
            self.current.take_if(|current| current.is_of(topic.as_ref(), partition));
            state.remove(&(topic.as_ref().into(), partition));
        }
        drop(state);
        self.shared.changed();
    }

    /// The assigned partitions, sorted.
    #[must_use]
    pub fn assignment(&self) -> Vec<(Arc<str>, i32)> {
        let mut all: Vec<_> = self.shared.state.lock().partitions.keys().cloned().collect();
        all.sort_unstable();
        all
    }

    /// Goes on elsewhere in an assigned partition. What was fetched of it is thrown away.
    ///
    /// # Errors
    /// The partition is not assigned, or as [`assign`](Self::assign).
    pub async fn seek(&mut self, topic: &str, partition: i32, start: Start) -> Result<()> {
        self.status(topic, partition)?;
        self.assign([(topic, partition, start)]).await
    }

    /// The offset of the next record that `next` gives out of this partition.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn position(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.status(topic, partition)?.position)
    }

    /// Position, high watermark and log start of an assigned partition, as last told.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn status(&self, topic: &str, partition: i32) -> Result<PartitionStatus> {
        let key = (Arc::from(topic), partition);
        let status = self
            .shared
            .state
            .lock()
            .partitions
            .get(&key)
            .map(|state| state.status());
        let mut status = status.ok_or_else(|| not_assigned(topic, partition))?;
        if let Some(current) = self.current.as_ref().filter(|current| current.is_of(topic, partition)) {
            status.position = current.reached();
        }
        Ok(status)
    }

    /// Fetches and gives out nothing of a partition until [`resume`](Self::resume); what is buffered
    /// stays.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn pause(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.set_paused(topic, partition, true)
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.set_paused(topic, partition, false)
    }

    fn set_paused(&mut self, topic: &str, partition: i32, paused: bool) -> Result<()> {
        let known = self.shared.state.lock().set_paused(&(topic.into(), partition), paused);
        if !known {
            return Err(not_assigned(topic, partition));
        }
        if !paused {
            self.shared.changed();
        }
        Ok(())
    }

    /// The next fetched batches, of one partition; waits until there are some. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// No partition is assigned; or one partition's [`Truncated`](crate::ErrorKind::Truncated),
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange),
    /// [`CorruptRecords`](crate::ErrorKind::CorruptRecords), UNKNOWN_TOPIC, DAMAGED_LOG: it stands
    /// until a [`seek`](Self::seek), the others go on. What passes is retried and not told.
    pub async fn next_batch(&mut self) -> Result<FetchedRecords> {
        if let Some(current) = self.current.take() {
            let rest = current.rest();
            if rest.start < rest.next_offset {
                return Ok(rest);
            }
        }
        loop {
            let news = self.shared.news.notified();
            let (item, assigned) = {
                let mut state = self.shared.state.lock();
                (state.take(), !state.partitions.is_empty())
            };
            if let Some(item) = item {
                self.shared.work.notify_waiters();
                let fetched = item?;
                if !self.shared.config.check_crc {
                    return Ok(fetched);
                }
                let (sound, damage) = fetched.sound();
                let Some(error) = damage else { return Ok(sound) };
                self.shared.state.lock().damaged(&sound.key(), sound.next_offset, error);
                if sound.start < sound.next_offset {
                    return Ok(sound);
                }
                continue;
            }
            if !assigned {
                return Err(Error::invalid("No partition is assigned: call assign first."));
            }
            news.await;
        }
    }

    /// The next record; waits until there is one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub async fn next(&mut self) -> Result<ConsumedRecord> {
        loop {
            if let Some(current) = &mut self.current {
                match current.next() {
                    Some(Ok(record)) => return Ok(record),
                    Some(Err(error)) => {
                        let key = current.key();
                        let position = current.reached();
                        self.current = None;
                        self.shared.state.lock().damaged(&key, position, error);
                    }
                    None => self.current = None,
                }
            }
            self.current = Some(self.next_batch().await?.into_iter());
        }
    }
}

impl Shared {
    /// Positions or partitions are not what they were.
    fn changed(&self) {
        self.manage.notify_one();
        self.interrupt.notify_waiters();
        self.work.notify_waiters();
        self.news.notify_one();
    }
}

fn not_assigned(topic: &str, partition: i32) -> Error {
    Error::invalid(format!("{topic}-{partition} is not assigned: call assign first."))
}

/// Follows metadata, keeps lanes to all leaders, and looks starts up.
async fn manage(shared: Arc<Shared>) {
    let mut lanes: HashMap<Arc<str>, JoinSet<()>> = HashMap::new();
    let mut changes = shared.client.inner.cluster.subscribe();
    let mut lookups = FuturesUnordered::new();
    let mut looking: HashSet<(TopicPartition, u64)> = HashSet::new();
    loop {
        let cluster = changes.borrow_and_update().clone();
        let (leaders, starts) = {
            let mut state = shared.state.lock();
            state.follow(&cluster);
            (state.leaders(), state.to_resolve())
        };
        lanes.retain(|address, _| leaders.contains(address));
        for leader in leaders {
            lanes.entry(leader.clone()).or_insert_with(|| {
                (0..limits::FETCH_LANES)
                    .map(|_| lane::run(Arc::downgrade(&shared), leader.clone()))
                    .collect()
            });
        }
        shared.work.notify_waiters();
        // A deleted topic is told.
        shared.news.notify_one();
        // Beside each other: a leader that does not answer holds up only what it leads.
        for (key, generation, start) in starts {
            if lookups.len() >= limits::START_LOOKUPS {
                break;
            }
            if looking.insert((key.clone(), generation)) {
                lookups.push(resolve(&shared, key, generation, start));
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shared.manage.notified() => {}
            Some(done) = lookups.next(), if !lookups.is_empty() => {
                looking.remove(&done);
            }
        }
    }
}

/// Looks up where a partition is read from; answers with which it was.
async fn resolve(shared: &Shared, key: TopicPartition, generation: u64, start: Start) -> (TopicPartition, u64) {
    let listed = list_offsets(&shared.client, &[(key.clone(), start)], shared.config.isolation).await;
    let offset = match listed {
        Ok(listed) => listed.first().map(|listed| Ok(listed.offset)),
        // Asked again by the next round; the call itself has waited.
        Err(error) if error.is_retriable() => None,
        Err(error) => Some(Err(error)),
    };
    if let Some(offset) = offset {
        shared.state.lock().resolved(&key, generation, offset);
    }
    (key, generation)
}
