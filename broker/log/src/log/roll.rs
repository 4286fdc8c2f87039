//! Sealing the active segment and beginning a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_proto::batch::BatchHeader;

use super::{Log, LogInner, Writer};
use crate::checkpoint::leader_epochs;
use crate::config::{LogConfig, MAX_SEGMENT_BYTES};
use crate::error::{AppendError, ChangeError};
use crate::fs::{OpenMode, is_disk_full, write_atomic};
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

    /// Rolls if the active segment is older than `segment.ms`, and gives back what sealed segments that nobody reads
    /// hold open. To be called now and then. Returns whether a segment was rolled.
    ///
    /// # Errors
    /// As [`Log::roll`].
    pub fn roll_if_due(&self, now_ms: i64) -> Result<bool, ChangeError> {
        for segment in self.inner.segments().iter() {
            segment.close_if_idle();
        }
        let mut writer = self.inner.writer.lock();
        self.inner.check_change()?;
        let age_ms = self.inner.active_age_ms(&writer, now_ms);
        if age_ms.is_some_and(|age| age > self.inner.config().segment_ms) {
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
                    .is_some_and(|since| now_ms.saturating_sub(since) > config.segment_ms));
        if !due && !too_far {
            return Ok(active);
        }
        // An empty segment whose base lies too far below (a follower behind a gap) can't be rolled at its own base:
        // it is replaced by one at the batch's.
        if size == 0 {
            self.replace_empty_active(writer, &active, header.base_offset)?;
            return Ok(self.active());
        }
        match self.roll_locked(writer) {
            Ok(_) => {}
            Err(ChangeError::Refused(_)) if !too_far && size + batch_len <= u64::from(MAX_SEGMENT_BYTES) => {
                // No room for a new file. The old one can still grow if the disk has room for the batch.
                return Ok(active);
            }
            Err(ChangeError::Refused(_)) => return Err(self.shared.disk_full().into()),
            Err(error) => return Err(error.into()),
        }
        let active = self.active();
        if header.last_offset() - active.base_offset > i64::from(i32::MAX) {
            self.replace_empty_active(writer, &active, header.base_offset)?;
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

    /// Begins the log anew at `base_offset` behind a gap that no segment can span. Recovery takes a gap between two
    /// segments for a lost one, unless the flushed point lies behind it: so all before it is synced, here and now,
    /// and the flushed point is stored.
    pub(super) fn replace_empty_active(
        &self,
        writer: &mut Writer,
        active: &Arc<Segment>,
        base_offset: i64,
    ) -> Result<(), ChangeError> {
        let next = self.create_segment(base_offset)?;
        self.change_segments(|segments| {
            segments.pop();
            segments.push(next);
        });
        writer.unsynced.retain(|segment| !Arc::ptr_eq(segment, active));
        writer.dir_unsynced = true;
        let synced = || -> std::io::Result<()> {
            for segment in &writer.unsynced {
                segment.sync_data()?;
            }
            for offset in &writer.unsynced_snapshots {
                let path = names::snapshot_path(&self.dir, *offset);
                self.shared.fs.open(&path, OpenMode::ReadWrite)?.sync_all()?;
            }
            // Recovery will not look at the batches before the gap: their epochs must be in the file.
            let epochs = leader_epochs::encode(self.epochs.read().entries());
            write_atomic(&*self.shared.fs, &self.dir.join(leader_epochs::FILE_NAME), &epochs)?;
            self.remove_segment_files(active.base_offset, false)?;
            self.shared.fs.sync_dir(&self.dir)
        };
        synced().map_err(|error| self.fail("syncing before a gap", &error))?;
        self.log_end.store(base_offset, Ordering::Release);
        match self.write_snapshot(writer) {
            Err(error) if is_disk_full(&error) => {}
            other => other.map_err(|error| self.fail("writing a producer snapshot", &error))?,
        }
        self.shared
            .raise_flushed(&self.name, base_offset)
            .map_err(|error| self.fail("storing the flushed point", &error))?;
        self.durable_end.fetch_max(base_offset, Ordering::AcqRel);
        Ok(())
    }
}
