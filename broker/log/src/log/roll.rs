//! Sealing the active segment and beginning a new one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_proto::batch::BatchHeader;

use super::{Log, LogInner, Writer};
use crate::config::{LogConfig, MAX_SEGMENT_BYTES};
use crate::error::{AppendError, ChangeError};
use crate::fs::{OpenMode, is_disk_full};
use crate::index::IndexEntry;
use crate::index::{OffsetEntry, TimeEntry};
use crate::segment::{Segment, names};

impl Log {
    /// Seals the active segment and begins a new one at the log end. Nothing happens if the active one is empty:
    /// two segments never have the same base offset (KAFKA-6388). Returns whether a segment was rolled.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] on a full disk; the log goes on as it was.
    pub fn roll(&self) -> Result<bool, ChangeError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_change()?;
        self.inner.roll_locked(&mut writer)
    }

    /// Rolls if the active segment is older than `segment.ms` (or `max.compaction.lag.ms`, where records are compacted),
    /// and gives back what sealed segments that nobody reads hold open. To be called now and then. Returns whether a segment was rolled.
    ///
    /// # Errors
    /// As [`Log::roll`].
    pub fn roll_if_due(&self, now_ms: i64) -> Result<bool, ChangeError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_change()?;
        for segment in self.inner.segments().iter() {
            // A failed writeback is told to the handles that were open then: the fsync of a later one might succeed
            // (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC'20).
            let synced = !writer.unsynced.iter().any(|other| Arc::ptr_eq(other, segment));
            if synced {
                segment.close_if_idle();
            }
        }
        let age_ms = self.inner.active_age_ms(&writer, now_ms);
        if age_ms.is_some_and(|age| age > self.inner.config().roll_ms()) {
            return self.inner.roll_locked(&mut writer);
        }
        Ok(false)
    }
}

impl LogInner {
    /// How long ago the active segment got its first record. By the broker's clock if that was in this process life,
    /// else by the record's time, unless that lies ahead of the clock.
    pub(super) fn active_age_ms(&self, writer: &Writer, now_ms: i64) -> Option<i64> {
        let active = self.active();
        if active.size() == 0 {
            return None;
        }
        if let Some(since) = writer.active_since_ms {
            return Some(now_ms.saturating_sub(since));
        }
        let first = active
            .first_timestamp()
            .ok()
            .flatten()
            .filter(|time| (0..=now_ms).contains(time));
        let since = match first {
            Some(time) => Some(time),
            None => self
                .shared
                .fs
                .metadata(&active.log_path())
                .ok()
                .map(|metadata| metadata.modified_ms),
        };
        since.map(|since| now_ms.saturating_sub(since))
    }

    /// The segment that the batch goes to, after a roll if one is due.
    pub(super) fn roll_for(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        header: &BatchHeader,
        batch_len: u64,
        now_ms: i64,
    ) -> Result<Arc<Segment>, AppendError> {
        let active = self.active();
        let size = active.size();
        let too_far = header.last_offset() - active.base_offset > i64::from(i32::MAX);
        let due = size > 0
            && (size + batch_len > u64::from(config.segment_bytes.min(MAX_SEGMENT_BYTES))
                || too_far
                || self.indexes_full(&active, config)
                || writer
                    .active_since_ms
                    .is_some_and(|since| now_ms.saturating_sub(since) > config.roll_ms()));
        if !due && !too_far {
            return Ok(active);
        }
        // An empty segment whose base lies too far below can't be rolled at its own base: it is replaced by one at the
        // batch's. Only there the end of one segment is not the base of the next.
        if size == 0 {
            self.replace_empty_active(writer, &active, header.base_offset)
                .map_err(|error| self.refused_append(error))?;
            return Ok(self.active());
        }
        match self.roll_locked(writer) {
            Ok(_) => {}
            Err(ChangeError::Refused(_)) if !too_far && size + batch_len <= u64::from(MAX_SEGMENT_BYTES) => {
                // No room for a new file. The old one can still grow if the disk has room for the batch.
                return Ok(active);
            }
            Err(error) => return Err(self.refused_append(error)),
        }
        let active = self.active();
        if header.last_offset() - active.base_offset > i64::from(i32::MAX) {
            self.replace_empty_active(writer, &active, header.base_offset)
                .map_err(|error| self.refused_append(error))?;
        }
        Ok(self.active())
    }

    fn indexes_full(&self, active: &Segment, config: &LogConfig) -> bool {
        let limit = u64::from(config.segment_index_bytes);
        active
            .with_indexes(|indexes| {
                (indexes.offsets.len() + 1) * OffsetEntry::SIZE as u64 > limit
                    || (indexes.times.len() + 1) * TimeEntry::SIZE as u64 > limit
            })
            .unwrap_or(false)
    }

    pub(super) fn roll_locked(&self, writer: &mut Writer) -> Result<bool, ChangeError> {
        let active = self.active();
        if active.size() == 0 {
            return Ok(false);
        }
        let end = self.log_end();
        // The snapshot first: without one at its base a later truncation to this segment had to replay more.
        match self.write_snapshot(writer) {
            Err(error) if is_disk_full(&error) => {}
            other => other.map_err(|error| self.fail("writing a producer snapshot", &error))?,
        }
        let next = self.create_segment(end)?;
        active.seal();
        LogInner::mark_unsynced(writer, &active);
        writer.dir_unsynced = true;
        writer.active_since_ms = None;
        self.change_segments(|segments| segments.push(next));
        Ok(true)
    }

    pub(super) fn create_segment(&self, base_offset: i64) -> Result<Arc<Segment>, ChangeError> {
        let interval = self.config().index_interval_bytes;
        Segment::create(&self.shared.fs, &self.dir, base_offset, interval)
            .map_err(|error| self.shared.refuse_or_fail("creating a segment", &error))
    }

    pub(super) fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut slot = self.segments.write();
        let mut segments = Vec::clone(&slot);
        change(&mut segments);
        debug_assert!(
            segments
                .windows(2)
                .all(|pair| pair[0].base_offset < pair[1].base_offset)
        );
        *slot = Arc::new(segments);
    }

    /// Begins the log anew at `base_offset` behind a gap that no segment can span. Recovery takes a gap between two segments for a lost one,
    /// unless the flushed point lies behind it: so all before it is synced, here and now, and the flushed point is
    /// stored. The old, empty segment goes last: without it a point that could not be stored would lie in a segment
    /// that is gone. Of both recovery keeps the one that the stored point speaks of. A disk too full for one of these
    /// steps leaves the log as it was.
    pub(super) fn replace_empty_active(
        &self,
        writer: &mut Writer,
        active: &Arc<Segment>,
        base_offset: i64,
    ) -> Result<(), ChangeError> {
        debug_assert!(active.base_offset < base_offset && active.size() == 0);
        let fs = &*self.shared.fs;
        if writer.dir_unsynced {
            // Were only the new one's name to survive a crash, the log would begin there.
            fs.sync_dir(&self.dir)
                .map_err(|error| self.fail("syncing the partition's directory", &error))?;
        }
        let synced = || -> io::Result<()> {
            // The old one among them: what a refused append left in it must stay erased.
            for segment in &writer.unsynced {
                segment.sync_data()?;
            }
            for offset in &writer.unsynced_snapshots {
                let path = names::snapshot_path(&self.dir, *offset);
                fs.open(&path, OpenMode::ReadWrite)?.sync_all()?;
            }
            Ok(())
        };
        synced().map_err(|error| self.fail("syncing before a gap", &error))?;
        // Recovery will not look at the batches before the gap: their epochs must be in the file.
        self.write_epochs()
            .map_err(|error| self.shared.refuse_or_fail("writing leader epochs", &error))?;
        let next = self.create_segment(base_offset)?;
        next.sync_data()
            .and_then(|()| fs.sync_dir(&self.dir))
            .map_err(|error| self.fail("syncing a segment behind a gap", &error))?;
        let raised = self.shared.raise_flushed(&self.name, base_offset, || {
            self.replace_last_segment(writer, active, next);
            self.log_end.store(base_offset, Ordering::Release);
            self.durable_end.fetch_max(base_offset, Ordering::AcqRel);
        });
        self.touch();
        if let Err(error) = raised {
            if is_disk_full(&error) {
                // Beside records that the old segment may still get, a later one would look like a lost part of the log.
                self.remove_segment_files(base_offset, false)
                    .and_then(|()| fs.sync_dir(&self.dir))
                    .map_err(|error| self.fail("removing a segment behind a gap", &error))?;
            }
            return Err(self.shared.refuse_or_fail("storing the flushed point", &error));
        }
        self.remove_segment_files(active.base_offset, false)
            .and_then(|()| fs.sync_dir(&self.dir))
            .map_err(|error| self.fail("removing an empty segment", &error))?;
        match self.write_snapshot(writer) {
            Err(error) if is_disk_full(&error) => Ok(()),
            other => Ok(other.map_err(|error| self.fail("writing a producer snapshot", &error))?),
        }
    }

    /// Lets an empty log begin lower than it did, at `base_offset`. The caller holds the flush lock: until the next
    /// flush has made what is written there durable, the stored flushed point must not lie above it, or recovery
    /// would miss records.
    pub(super) fn begin_lower(&self, writer: &mut Writer, base_offset: i64) -> Result<(), ChangeError> {
        writer.epochs_dirty = true;
        self.epochs_behind.store(true, Ordering::Release);
        self.shared
            .lower_flushed(&self.name, base_offset, base_offset)
            .map_err(|error| self.shared.refuse_or_fail("lowering the flushed point", &error))?;
        let active = self.active();
        if active.base_offset <= base_offset {
            // An earlier attempt came as far as this.
            return Ok(());
        }
        // Where the disk has no room for it nothing is begun, or a restart would not know them.
        if !writer.producers.entries().is_empty() {
            self.write_snapshot_in_need(base_offset, &writer.producers)
                .map_err(|error| self.shared.refuse_or_fail("writing a producer snapshot", &error))?;
            writer.snapshot_offset = base_offset;
        }
        let next = self.create_segment(base_offset)?;
        self.indexed_end.fetch_min(base_offset, Ordering::AcqRel);
        self.touch();
        self.replace_last_segment(writer, &active, next);
        writer.unsynced_snapshots.retain(|snapshot| *snapshot <= base_offset);
        self.remove_segment_files(active.base_offset, false)
            // One that is of a place within the first batch does not know of that.
            .and_then(|()| self.remove_snapshots_where(|snapshot| snapshot > base_offset))
            .and_then(|()| self.shared.fs.sync_dir(&self.dir))
            .map_err(|error| self.fail("beginning the log lower", &error).into())
    }

    fn replace_last_segment(&self, writer: &mut Writer, last: &Arc<Segment>, next: Arc<Segment>) {
        self.change_segments(|segments| {
            segments.pop();
            segments.push(next);
        });
        writer.unsynced.retain(|segment| !Arc::ptr_eq(segment, last));
        writer.dir_unsynced = true;
    }

    /// What an append answers if a change that it needs is refused or fails.
    pub(super) fn refused_append(&self, error: ChangeError) -> AppendError {
        match error {
            ChangeError::Refused(_) => self.shared.disk_full().into(),
            other => other.into(),
        }
    }
}
