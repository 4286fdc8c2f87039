//! The partitions that this broker holds: the engine's rules over a log on disk.
//!
//! An append writes to the log and is flushed by one of a few threads, which forces to the
//! disk all that was written meanwhile at once; then the high watermark moves, those who
//! wait for an acknowledgement are answered and readers are woken. What a follower's or a
//! leader's rules ask for is done in `replica`.

mod append;
mod committed;
mod compaction;
mod damage;
mod deletion;
mod ends;
mod errors;
mod flusher;
mod hosting;
mod housekeeping;
mod registry;
mod removal;
mod replica;
mod sound;
#[cfg(test)]
mod tests;
mod writes;

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering},
};

use bytes::Bytes;
use millrace_engine::{
    TopicConfig,
    partition::{FetchBound, OffsetQuery},
};
use millrace_log::{FlushError, Log, ReadData, ReadError, producer::snapshot};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use uuid::Uuid;

pub use append::{AppendRequest, Appended};
pub use committed::Committed;
pub use compaction::run as run_compaction;
pub use errors::{too_large, without_key};
pub use flusher::Flusher;
pub use housekeeping::{run as run_housekeeping, run_interval_flush};
pub use millrace_log::SequenceRule;
pub use registry::Partitions;
pub use sound::SoundBatch;

use crate::{
    error::ApiError,
    limits,
    metrics::Metrics,
    replication::{Key, Replication},
};
use committed::Waiters;
use damage::DamageMet;
use replica::ReplicaCell;

/// Reads that begin this close to the log's end were written a moment ago, so they are in
/// the page cache and cost no wait for the disk.
const HOT_BYTES: u64 = 64 << 20;

/// Where a partition stands.
///
/// `log_start ≤ last_stable ≤ high_watermark ≤ log_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The oldest offset that is kept.
    pub log_start: i64,
    /// Readers of committed transactions see below this.
    pub last_stable: i64,
    /// All below is committed.
    pub high_watermark: i64,
    /// Where the next record goes.
    pub log_end: i64,
    /// The leader's epoch.
    pub leader_epoch: i32,
}

/// Why a partition is not this broker's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// Its topic was deleted.
    Deleted,
    /// Other brokers hold it.
    MovedAway,
}

/// A partition of which this broker holds a replica.
pub struct Partition {
    topic: String,
    topic_id: Uuid,
    number: i32,
    log: Log,
    cell: Mutex<ReplicaCell>,
    /// Held by producers' appends, and exclusively by what may change the role.
    roles: RwLock<()>,
    config: RwLock<Arc<TopicConfig>>,
    /// Copies of the replica's, to be read without its lock.
    high_watermark: AtomicI64,
    leader_epoch: AtomicI32,
    leads: AtomicBool,
    flush_turn: flusher::Turn,
    waiters: Waiters,
    /// Who waits for records; not kept alive here: one that waits for many partitions must be
    /// forgotten by those where nothing comes.
    readers: Mutex<Vec<Weak<Notify>>>,
    damage: DamageMet,
    /// Set once it is not this broker's any more.
    gone: OnceLock<Gone>,
    metrics: Arc<Metrics>,
    flusher: Arc<Flusher>,
    replication: Arc<Replication>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("topic", &self.topic)
            .field("number", &self.number)
            .field("offsets", &self.offsets())
            .finish_non_exhaustive()
    }
}

impl Partition {
    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }

    /// What names it between brokers.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.topic_id, u32::try_from(self.number).unwrap_or_default())
    }

    /// Whether this broker leads it.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// The topic's settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().clone()
    }

    /// Where it stands now.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let leader_epoch = self.leader_epoch.load(Ordering::Acquire);
        let high_watermark = self.high_watermark.load(Ordering::Acquire);
        Offsets {
            log_start: self.log.log_start_offset(),
            last_stable: high_watermark,
            high_watermark,
            log_end: self.log.log_end_offset(),
            leader_epoch,
        }
    }

    /// The latest leader epoch that its log knows: of its last record, or if all are deleted, of the last one that was.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<i32> {
        self.log
            .last_record_epoch()
            .or_else(|| self.log.latest_epoch().map(|entry| entry.epoch))
    }

    /// Whether some of its records can't be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.cell.lock().replica.damaged_from().is_some() || !self.log.damage().is_empty()
    }

    /// Whether its disk has failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.log.offline().is_some()
    }

    /// Bytes in its segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// Why it can't be used, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(offline) = self.log.offline() {
            return Some(offline.to_string());
        }
        self.log
            .damage()
            .first()
            .map(|range| format!("offsets {} to {} are damaged and not served", range.from, range.to - 1))
    }

    /// Checks a caller's leader epoch.
    ///
    /// # Errors
    /// Older or newer than the leader's.
    pub fn check_epoch(&self, epoch: Option<i32>) -> Result<(), ApiError> {
        let cell = self.cell.lock();
        let leader = cell.replica.as_leader().map_err(|error| self.refused(error))?;
        Ok(leader.check_epoch(epoch)?)
    }

    /// Whether a question about offsets may be answered.
    ///
    /// # Errors
    /// It can't be told yet.
    pub fn check_offset_query(&self, query: OffsetQuery) -> Result<(), ApiError> {
        let cell = self.cell.lock();
        cell.replica
            .check_offset_query(query)
            .map_err(|error| self.refused(error))
    }

    /// Up to where a read at `offset` may see.
    ///
    /// # Errors
    /// A wrong epoch, or an offset outside of the log.
    pub fn check_fetch(&self, offset: i64, epoch: Option<i32>) -> Result<FetchBound, ApiError> {
        if self.is_gone() {
            return Err(errors::removed(self));
        }
        let cell = self.cell.lock();
        let leader = cell.replica.as_leader().map_err(|error| self.refused(error))?;
        leader.check_epoch(epoch)?;
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        Ok(leader.check_fetch(offset, start, end, i64::MAX)?)
    }

    /// Reads whole batches from `offset` on, at most `max_bytes` of them, below `up_to`. Where the
    /// first one alone is larger, nothing is read and its size is told.
    ///
    /// # Errors
    /// Damage, or a failed disk.
    pub fn read_within(&self, offset: i64, max_bytes: usize, up_to: i64) -> Result<ReadData, ApiError> {
        self.log
            .read(offset, max_bytes, false, up_to)
            .map_err(|error| self.read_error(error))
    }

    /// Reads whole batches for a follower from `offset` on, below `up_to`: about `max_bytes`, and
    /// at least one.
    ///
    /// # Errors
    /// Damage, or a failed disk.
    pub fn read_for_replica(&self, offset: i64, max_bytes: usize, up_to: i64) -> Result<Bytes, ApiError> {
        let read = self.log.read(offset, max_bytes, true, up_to);
        Ok(read.map_err(|error| self.read_error(error))?.bytes)
    }

    /// The log start, and a snapshot of the producers as of it, for a replica that begins there.
    ///
    /// # Errors
    /// Damage, or a failed disk: what is not known must not be given as nothing.
    pub fn producers_for_replica(&self) -> Result<(i64, Vec<u8>), ApiError> {
        let known = self.log.producers_at_start(self.high_watermark.load(Ordering::Acquire));
        let (log_start, producers) = known.map_err(|error| self.read_error(error))?;
        Ok((log_start, snapshot::encode(&producers)))
    }

    /// The first record at or after a time, below `up_to`: its offset, time and epoch.
    ///
    /// # Errors
    /// Damage, or a failed disk.
    pub fn offset_for_time(&self, time_ms: i64, up_to: i64) -> Result<Option<(i64, i64, i32)>, ApiError> {
        self.log
            .offset_for_timestamp(time_ms, up_to)
            .map(|found| found.map(|found| (found.offset, found.timestamp, found.leader_epoch)))
            .map_err(|error| self.read_error(error))
    }

    /// Since when the first committed record at `offset` or behind it has been there, in milliseconds since 1970: the
    /// time of its batch, by the batch's header. `None`: there is none, or it has no time.
    ///
    /// # Errors
    /// It is not led here, damage, or a failed disk.
    pub fn batch_time(&self, offset: i64) -> Result<Option<i64>, ApiError> {
        self.check_epoch(None)?;
        let up_to = self.high_watermark.load(Ordering::Acquire);
        self.log
            .batch_time(offset, up_to)
            .map_err(|error| self.read_error(error))
    }

    /// The largest epoch up to `epoch`, and where it ends; `None` if there is none.
    #[must_use]
    pub fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.log.end_offset_for_epoch(epoch)
    }

    /// Deletes what is below `offset` (at most the high watermark); answers with the log
    /// start.
    ///
    /// # Errors
    /// A failed disk.
    pub fn delete_before(self: &Arc<Self>, offset: i64) -> Result<i64, ApiError> {
        self.log
            .advance_log_start(offset)
            .map_err(|error| self.change_error(error))?;
        self.on_log_start();
        self.wake_readers();
        Ok(self.log.log_start_offset())
    }

    /// Whether a read at `offset` will hardly wait for the disk.
    #[must_use]
    pub fn likely_cached(&self, offset: i64) -> bool {
        let behind = self.log.log_end_offset().saturating_sub(offset);
        let records = self
            .log
            .log_end_offset()
            .saturating_sub(self.log.log_start_offset())
            .max(1);
        let size = self.log.size_bytes();
        // By the log's mean size of a record; exact enough to choose a thread by.
        let per_record = size / records.unsigned_abs() + 1;
        behind.unsigned_abs().saturating_mul(per_record) <= HOT_BYTES
    }

    /// About how many bytes a read at `offset` would find, at most `max`.
    #[must_use]
    pub fn readable_bytes_hint(&self, offset: i64, max: usize) -> usize {
        let readable = self.high_watermark.load(Ordering::Acquire).saturating_sub(offset);
        if readable <= 0 {
            return 0;
        }
        let records = self
            .log
            .log_end_offset()
            .saturating_sub(self.log.log_start_offset())
            .max(1);
        let per_record = self.log.size_bytes() / records.unsigned_abs() + 1;
        let bytes = readable.unsigned_abs().saturating_mul(per_record).saturating_mul(2);
        usize::try_from(bytes).unwrap_or(max).min(max)
    }

    /// Has `waiter` notified once when there is more to read, or something else changed.
    pub fn notify_on_data(&self, waiter: &Arc<Notify>) {
        let mut readers = self.readers.lock();
        // Waiters that have gone on are dropped here, so that the list stays as long as there are
        // readers.
        if limits::is_looked_through(readers.len(), limits::READERS_LOOKED_THROUGH) {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(waiter));
    }

    fn wake_readers(&self) {
        for reader in self.readers.lock().drain(..) {
            if let Some(reader) = reader.upgrade() {
                reader.notify_one();
            }
        }
    }

    /// Asks for a flush, unless one is coming anyway.
    fn queue_flush(self: &Arc<Self>) {
        if self.flush_turn.ask() {
            self.flusher.push(self.clone());
        }
    }

    /// Forces what is written to the disk; called by the flusher's threads.
    fn flush(self: &Arc<Self>) {
        let begun = std::time::Instant::now();
        // As it was when the flush began: a cut in between makes it say nothing.
        let generation = self.cell.lock().replica.generation();
        match self.log.flush() {
            Ok(durable_end) => {
                self.metrics.flush_seconds.observe(begun.elapsed().as_secs_f64());
                self.on_flushed(durable_end, generation);
            }
            Err(FlushError::Closed) => self.fail_waiters(&errors::removed(self)),
            Err(FlushError::Offline(offline)) => {
                tracing::error!(topic = self.topic, partition = self.number, %offline, "a flush failed: the disk is not used any more");
                self.fail_waiters(&errors::offline(&offline));
                self.on_directory_failed();
            }
        }
    }

    fn fail_waiters(&self, error: &ApiError) {
        self.waiters.fail(error);
        self.wake_readers();
    }

    /// Takes over new settings.
    fn update_config(self: &Arc<Self>, config: Arc<TopicConfig>) {
        self.log.update_config(registry::log_config(&config));
        *self.config.write() = config;
        // What was appended under another flush policy may wait for one.
        self.queue_flush();
    }

    /// Ends all calls on it, and takes no more.
    fn remove(self: &Arc<Self>, why: Gone) {
        // No producer's append spans it: one would wait for an answer that nobody gives any more.
        let _roles = self.roles.write();
        let mut cell = self.cell.lock();
        let _ = self.gone.set(why);
        self.retire(&mut cell);
        self.fail_waiters(&errors::removed(self));
    }

    fn is_gone(&self) -> bool {
        self.gone.get().is_some()
    }

    fn read_error(&self, error: ReadError) -> ApiError {
        if let ReadError::Corrupt { from, .. } = &error {
            self.note_damage(*from);
        }
        errors::read(self, error)
    }

    fn change_error(&self, error: millrace_log::ChangeError) -> ApiError {
        errors::change(self, error)
    }
}
