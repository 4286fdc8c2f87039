//! One partition's log.
//!
//! ```text
//!    log start            durable end          log end
//!        |                     |                  |
//!   -----+----------+----------+----+-------------+
//!        | sealed   | sealed        | active      |
//!   -----+----------+---------------+-------------+
//! ```
//!
//! `log start <= durable end <= log end`, always. Everything that changes a log takes its one writer lock; readers
//! take none and compare a truncation counter before and after; an fsync holds no lock that an append needs.

mod append;
mod batch_time;
mod checked;
mod cleaned;
mod compact;
mod damage;
mod flush;
mod gaps;
mod lookup;
mod open;
mod producers;
mod read;
mod recover;
mod replay;
mod report;
mod retention;
mod roll;
mod scrub;
mod truncate;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::checkpoint::flushed::FlushedPoint;
use crate::checkpoint::leader_epochs::{self, EpochEntry};
use crate::checkpoint::topic_partition::TopicPartition;
use crate::config::LogConfig;
use crate::dir::shared::DirShared;
use crate::epochs::EpochCache;
use crate::error::{ChangeError, Offline, ReadError};
use crate::fs::write_atomic;
use crate::producer::ProducerState;
use crate::segment::Segment;

pub use append::{AppendOptions, Appended, FollowerAppended};
pub use checked::CheckedBatch;
pub use compact::{Compaction, CompactionOptions, CompactionReport, CompactionStep, CompactionTraffic};
pub use lookup::{FoundBatch, FoundOffset};
pub(crate) use open::OpenLog;
pub use producers::ProducerDescription;
pub use read::ReadData;
pub use report::{DamagedRange, RecoveryReport};
pub use retention::{DeletedSegment, DeletionReason, RetentionReport};
pub use scrub::ScrubReport;

/// A partition's log. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct Log {
    pub(crate) inner: Arc<LogInner>,
}

/// What only the holder of the writer lock touches.
pub(crate) struct Writer {
    pub producers: ProducerState,
    /// Segments with bytes that no fsync covered yet, oldest first; the active one is among them if it is dirty.
    pub unsynced: Vec<Arc<Segment>>,
    /// Producer snapshots that were written and not synced: their offsets.
    pub unsynced_snapshots: Vec<i64>,
    /// Names in the partition's directory changed.
    pub dir_unsynced: bool,
    /// The epoch cache differs from its file.
    pub epochs_dirty: bool,
    /// Bytes appended since the indexes and the producers were last made durable.
    pub bytes_since_checkpoint: u64,
    /// Bytes appended since the last flush began.
    pub bytes_since_flush: u64,
    /// When the active segment got its first record, by the broker's clock; `None` if that was in an earlier life.
    pub active_since_ms: Option<i64>,
    /// The log end at which the last snapshot was taken.
    pub snapshot_offset: i64,
}

pub(crate) struct LogInner {
    pub shared: Arc<DirShared>,
    pub name: TopicPartition,
    pub topic_id: Uuid,
    pub dir: Arc<Path>,
    pub config: RwLock<Arc<LogConfig>>,
    /// Taken by flush and truncation, which therefore never overlap: a flush that ended after a truncation would
    /// declare bytes durable that it never saw.
    pub flush_lock: Mutex<()>,
    pub writer: Mutex<Writer>,
    /// Oldest first; the last one is active. Never empty.
    pub segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    pub epochs: RwLock<EpochCache>,
    /// Taken to write the epoch checkpoint, as a flush and an append that begins the log anew behind a gap may both do
    /// so at once: they would share the temporary file, and the older contents could come last.
    pub epochs_file: Mutex<()>,
    pub log_start: AtomicI64,
    pub log_end: AtomicI64,
    pub durable_end: AtomicI64,
    /// The index files are durable up to here.
    pub indexed_end: AtomicI64,
    /// The epoch checkpoint could not be written for want of space, or an empty log was made to begin lower: the
    /// stored flushed point must not rise before the next flush. Only while [`Writer::epochs_dirty`] is set, so that
    /// there is something to flush.
    pub epochs_behind: AtomicBool,
    /// Whether the next checkpoint looks at this log; see [`LogInner::touch`].
    pub touched: AtomicBool,
    /// Odd while a truncation is under way; readers that see it change begin again (KAFKA-18723).
    pub truncations: AtomicU64,
    pub has_damage: AtomicBool,
    pub damage: RwLock<Vec<DamagedRange>>,
    /// Below this offset the stored bound permits gaps: a copy of what is known of [`LogInner::cleaned`], to be read
    /// without its lock. Falls only under the writer lock.
    pub gaps_below: AtomicI64,
    /// How far the log is compacted; `None` until the file was read.
    pub cleaned: Mutex<Option<cleaned::KnownCleaned>>,
    /// Whether a compaction is under way.
    pub compacting: AtomicBool,
    pub closed: AtomicBool,
    pub gone: AtomicBool,
    pub report: RecoveryReport,
}

impl LogInner {
    /// Has the next checkpoint look at this log: called after each change of what a checkpoint stores (where the log
    /// begins and how far it is durable) or makes durable (what was appended). One that nobody called it for costs a
    /// checkpoint nothing.
    pub(crate) fn touch(&self) {
        if !self.touched.swap(true, Ordering::AcqRel) {
            self.shared.look_at_next(self.name.clone());
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the log was deleted: its checkpoints must not come back.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    pub(crate) fn log_end(&self) -> i64 {
        self.log_end.load(Ordering::Acquire)
    }

    pub(crate) fn durable_end(&self) -> i64 {
        self.durable_end.load(Ordering::Acquire)
    }

    pub(crate) fn flushed_point(&self) -> FlushedPoint {
        // Read the lower one first: both only rise, except in a truncation, which stores them itself.
        let indexed = self.indexed_end.load(Ordering::Acquire);
        let durable = self.durable_end();
        // A log whose last segment is empty is one that recovery lets end at that segment's base.
        let active = self.active();
        let offset = if active.size() == 0 {
            durable.min(active.base_offset)
        } else {
            durable
        };
        FlushedPoint {
            offset,
            indexed: indexed.min(offset),
        }
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments.read().clone()
    }

    pub(crate) fn active(&self) -> Arc<Segment> {
        let segments = self.segments.read();
        // A log is never without a segment.
        segments[segments.len() - 1].clone()
    }

    pub(crate) fn config(&self) -> Arc<LogConfig> {
        self.config.read().clone()
    }

    pub(crate) fn fail(&self, what: &str, error: &std::io::Error) -> Offline {
        self.shared.fail(&format!("{}: {what}", self.name), error)
    }

    pub(crate) fn check_change(&self) -> Result<(), ChangeError> {
        if self.is_closed() {
            return Err(ChangeError::Closed);
        }
        Ok(self.shared.check_online()?)
    }

    pub(crate) fn check_read(&self) -> Result<(), ReadError> {
        if self.is_closed() {
            return Err(ReadError::Closed);
        }
        Ok(self.shared.check_online()?)
    }

    /// Brings the epoch cache, as it is now, onto the disk.
    pub(crate) fn write_epochs(&self) -> io::Result<()> {
        let _only_one = self.epochs_file.lock();
        let epochs = leader_epochs::encode(self.epochs.read().entries());
        write_atomic(&*self.shared.fs, &self.dir.join(leader_epochs::FILE_NAME), &epochs)
    }

    /// Notes that the epoch checkpoint is what the cache is.
    pub(crate) fn note_epochs_stored(&self, writer: &mut Writer) {
        writer.epochs_dirty = false;
        self.epochs_behind.store(false, Ordering::Release);
        self.touch();
    }

    /// Adds to the list of what must be synced, once.
    pub(crate) fn mark_unsynced(writer: &mut Writer, segment: &Arc<Segment>) {
        if !writer.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, segment))
            && !writer.unsynced.iter().any(|other| Arc::ptr_eq(other, segment))
        {
            writer.unsynced.push(segment.clone());
        }
    }

    /// Places behind damage where a walk over a segment can begin.
    pub(crate) fn resume_points(&self, base_offset: i64) -> Vec<(i64, u64)> {
        if !self.has_damage.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.damage
            .read()
            .iter()
            .filter(|range| range.segment == base_offset)
            .filter_map(|range| range.resume_position.map(|position| (range.to, position)))
            .collect()
    }
}

impl Log {
    /// Whose log it is.
    #[must_use]
    pub fn name(&self) -> &TopicPartition {
        &self.inner.name
    }

    /// The topic's id.
    #[must_use]
    pub fn topic_id(&self) -> Uuid {
        self.inner.topic_id
    }

    /// The partition's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }

    /// First offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> i64 {
        self.inner.log_start()
    }

    /// The next offset to be appended.
    #[must_use]
    pub fn log_end_offset(&self) -> i64 {
        self.inner.log_end()
    }

    /// Every record below this offset is on stable storage.
    #[must_use]
    pub fn durable_end_offset(&self) -> i64 {
        self.inner.durable_end()
    }

    /// The latest leader epoch, with or without records.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<EpochEntry> {
        self.inner.epochs.read().latest()
    }

    /// The epoch of the last record (of the record before the log end), or `None` if that is not known.
    #[must_use]
    pub fn last_record_epoch(&self) -> Option<i32> {
        let end = self.inner.log_end();
        if end == 0 {
            None
        } else {
            self.inner.epochs.read().epoch_at(end - 1)
        }
    }

    /// All epochs with their first offsets.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochEntry> {
        self.inner.epochs.read().entries().to_vec()
    }

    /// The largest epoch that is not above `epoch`, and where it ends in this log (KIP-101, KIP-279). `None` for an
    /// epoch above the latest, or if no epoch is known. Below the first known epoch the asked one comes back with
    /// the first one's start (KIP-595).
    #[must_use]
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.inner.epochs.read().end_offset_for(epoch, self.inner.log_end())
    }

    /// Notes that a leader epoch begins at the log end, although no record of it was written yet (KAFKA-7415).
    /// Durable with the next flush. Returns false if the epoch is not newer than the latest one.
    ///
    /// # Errors
    /// The log is closed or the directory offline.
    pub fn assign_epoch(&self, epoch: i32) -> Result<bool, ChangeError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_change()?;
        let changed = self.inner.epochs.write().assign(epoch, self.inner.log_end());
        writer.epochs_dirty |= changed;
        Ok(changed)
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.inner.segments.read().iter().map(|segment| segment.size()).sum()
    }

    /// Base offset and size in bytes of each segment, oldest first.
    #[must_use]
    pub fn segment_sizes(&self) -> Vec<(i64, u64)> {
        self.inner
            .segments
            .read()
            .iter()
            .map(|segment| (segment.base_offset, segment.size()))
            .collect()
    }

    /// Largest record time of the first batch of the oldest segment: about how old the oldest record is.
    ///
    /// # Errors
    /// The file system's.
    pub fn oldest_timestamp(&self) -> Result<Option<i64>, ReadError> {
        self.inner.check_read()?;
        let segments = self.inner.segments();
        Ok(segments[0].first_timestamp()?)
    }

    /// What opening the log found.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// Damaged ranges known now. Reads that touch one fail with [`ReadError::Corrupt`].
    #[must_use]
    pub fn damage(&self) -> Vec<DamagedRange> {
        self.inner.damage.read().clone()
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<LogConfig> {
        self.inner.config()
    }

    /// Changes the settings. They count from the next append, roll or retention on.
    pub fn update_config(&self, config: LogConfig) {
        *self.inner.config.write() = Arc::new(config);
    }

    /// Whether the directory is offline, and why.
    #[must_use]
    pub fn offline(&self) -> Option<Offline> {
        self.inner.shared.offline()
    }
}
