//! Making the log durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, LogInner};
use crate::error::FlushError;
use crate::fs::{OpenMode, temporary_path, write_atomic};
use crate::producer::{ProducerState, snapshot};
use crate::segment::{Segment, names};

/// Bytes appended after which the indexes and the producer state are made durable at the next checkpoint, so that
/// recovery has no more than this to walk.
const CHECKPOINT_BYTES: u64 = 32 << 20;

/// A segment as it was when the flush began.
struct Dirty {
    segment: Arc<Segment>,
    size: u64,
    sealed: bool,
}

impl Dirty {
    fn unchanged(&self, segment: &Arc<Segment>) -> bool {
        Arc::ptr_eq(&self.segment, segment) && segment.size() == self.size && segment.is_sealed() == self.sealed
    }
}

/// Which derived files a flush could store; a full disk may refuse them.
struct Synced {
    epochs_stored: bool,
    indexes_stored: bool,
}

/// What one flush has to sync, taken under the writer lock and worked off without it.
struct Work {
    end: i64,
    bytes: u64,
    truncations: u64,
    segments: Vec<Dirty>,
    snapshots: Vec<i64>,
    sync_dir: bool,
    epochs: bool,
}

impl Log {
    /// Makes everything durable that was appended before the call, and returns the durable end offset. One fsync
    /// covers all that were appended: callers that wait together share it. Appends go on meanwhile.
    ///
    /// # Errors
    /// The log is closed, or the directory offline: after the first failed fsync nothing is ever reported durable
    /// again in this process.
    pub fn flush(&self) -> Result<i64, FlushError> {
        let _only_one = self.inner.flush_lock.lock();
        self.inner.flush_locked()
    }
}

impl LogInner {
    /// The flush itself; the caller holds the flush lock.
    pub(super) fn flush_locked(&self) -> Result<i64, FlushError> {
        let Some(work) = self.take_work()? else {
            return Ok(self.durable_end());
        };
        let Synced {
            epochs_stored,
            indexes_stored,
        } = self.sync(&work).map_err(|(what, error)| self.fail(what, &error))?;
        // Another log's failure of the same disk may have come in between.
        self.shared.check_online()?;

        let mut writer = self.writer.lock();
        debug_assert_eq!(
            work.truncations,
            self.truncations.load(Ordering::SeqCst),
            "truncation holds the flush lock"
        );
        if work.truncations == self.truncations.load(Ordering::SeqCst) {
            // A segment that has grown or was sealed since has more to sync; what it held is durable.
            // So has a sealed one whose indexes did not fit the disk.
            writer.unsynced.retain(|segment| {
                let done = work.segments.iter().any(|done| done.unchanged(segment));
                !done || (segment.is_sealed() && !indexes_stored)
            });
            if !epochs_stored {
                writer.epochs_dirty = true;
            }
            self.epochs_behind
                .store(writer.epochs_dirty && !epochs_stored, Ordering::Release);
            writer
                .unsynced_snapshots
                .retain(|offset| !work.snapshots.contains(offset));
            self.durable_end.fetch_max(work.end, Ordering::AcqRel);
            self.shared.note_flushed_bytes(work.bytes);
            if indexes_stored && let Some(sealed) = work.segments.iter().rfind(|dirty| dirty.sealed) {
                let segments = self.segments();
                let next = segments.partition_point(|next| next.base_offset <= sealed.segment.base_offset);
                if let Some(next) = segments.get(next).filter(|next| next.base_offset <= work.end) {
                    self.indexed_end.fetch_max(next.base_offset, Ordering::AcqRel);
                }
            }
            self.touch();
        }
        Ok(self.durable_end())
    }

    fn take_work(&self) -> Result<Option<Work>, FlushError> {
        let mut writer = self.writer.lock();
        if self.is_closed() {
            return Err(FlushError::Closed);
        }
        self.shared.check_online()?;
        let nothing = writer.unsynced.is_empty()
            && writer.unsynced_snapshots.is_empty()
            && !writer.dir_unsynced
            && !writer.epochs_dirty;
        if nothing {
            let end = self.log_end();
            if self.durable_end.swap(end, Ordering::AcqRel) != end {
                self.touch();
            }
            return Ok(None);
        }
        Ok(Some(Work {
            end: self.log_end(),
            bytes: std::mem::take(&mut writer.bytes_since_flush),
            truncations: self.truncations.load(Ordering::SeqCst),
            segments: writer
                .unsynced
                .iter()
                .map(|segment| Dirty {
                    segment: segment.clone(),
                    size: segment.size(),
                    sealed: segment.is_sealed(),
                })
                .collect(),
            snapshots: writer.unsynced_snapshots.clone(),
            sync_dir: std::mem::take(&mut writer.dir_unsynced),
            epochs: std::mem::take(&mut writer.epochs_dirty),
        }))
    }

    /// Syncs without the writer lock (KAFKA-15046). Returns whether the epochs are stored: a disk too full for them
    /// is no failure, as recovery finds the epochs of all records above the stored flushed point by itself, and that
    /// point does not move before they are stored.
    fn sync(&self, work: &Work) -> Result<Synced, (&'static str, std::io::Error)> {
        let fs = &*self.shared.fs;
        let mut epochs_stored = true;
        let mut indexes_stored = true;
        if work.epochs {
            match self.write_epochs() {
                Err(error) if crate::fs::is_disk_full(&error) => epochs_stored = false,
                other => other.map_err(|error| ("writing leader epochs", error))?,
            }
        }
        for Dirty { segment, sealed, .. } in &work.segments {
            segment.sync_data().map_err(|error| ("syncing a segment", error))?;
            if *sealed {
                match segment.sync_indexes() {
                    // The entries stay in memory; a recovery would rebuild them.
                    Err(error) if crate::fs::is_disk_full(&error) => indexes_stored = false,
                    other => other.map_err(|error| ("syncing an index", error))?,
                }
            }
        }
        // Snapshots before the flushed point passes them (KAFKA-9892).
        for offset in &work.snapshots {
            fs.open(&names::snapshot_path(&self.dir, *offset), OpenMode::ReadWrite)
                .and_then(|file| file.sync_all())
                .map_err(|error| ("syncing a producer snapshot", error))?;
        }
        if work.sync_dir || !work.snapshots.is_empty() {
            fs.sync_dir(&self.dir)
                .map_err(|error| ("syncing the partition's directory", error))?;
        }
        Ok(Synced {
            epochs_stored,
            indexes_stored,
        })
    }

    /// Writes the producer state as of the log end. Synced by the next flush. A full disk only means that the next
    /// recovery has more to replay.
    pub(super) fn write_snapshot(&self, writer: &mut super::Writer) -> std::io::Result<()> {
        let offset = self.log_end();
        if writer.snapshot_offset == offset {
            return Ok(());
        }
        let state = std::mem::take(&mut writer.producers);
        let written = self.write_snapshot_at(writer, offset, &state);
        writer.producers = state;
        written?;
        writer.snapshot_offset = offset;
        Ok(())
    }

    /// Writes a producer state as of an offset. Synced by the next flush. What a full disk leaves of it is removed.
    pub(super) fn write_snapshot_at(
        &self,
        writer: &mut super::Writer,
        offset: i64,
        state: &ProducerState,
    ) -> std::io::Result<()> {
        let fs = &*self.shared.fs;
        let path = names::snapshot_path(&self.dir, offset);
        let bytes = snapshot::encode(state);
        let written = fs
            .open(&path, OpenMode::CreateOrTruncate)
            .and_then(|file| file.write_all_vectored_at(&[std::io::IoSlice::new(&bytes)], 0));
        if written.is_err() {
            let _ = fs.remove_file(&path);
            return written;
        }
        writer.unsynced_snapshots.push(offset);
        writer.dir_unsynced = true;
        Ok(())
    }

    /// Writes a producer state as of an offset that may lie below the flushed point, where an unclean start takes every
    /// snapshot for a durable one: so it gets its name only when it is. What a full disk leaves of it is removed.
    pub(super) fn write_snapshot_below(&self, offset: i64, state: &ProducerState) -> std::io::Result<()> {
        let fs = &*self.shared.fs;
        let path = names::snapshot_path(&self.dir, offset);
        let written = write_atomic(fs, &path, &snapshot::encode(state));
        if written.is_err() {
            let _ = fs.remove_file(&temporary_path(&path));
        }
        written
    }

    /// As [`LogInner::write_snapshot_below`]; on a full disk with the room that is kept for this.
    pub(super) fn write_snapshot_in_need(&self, offset: i64, state: &ProducerState) -> std::io::Result<()> {
        let written = self.write_snapshot_below(offset, state);
        if written.as_ref().is_err_and(crate::fs::is_disk_full) && self.shared.release_reserve() {
            return self.write_snapshot_below(offset, state);
        }
        written
    }

    /// Bounds what a recovery has to walk: if much was appended since the last time (or `force`), makes the active
    /// segment's indexes and the producer state durable.
    pub(crate) fn checkpoint(&self, force: bool) -> Result<(), FlushError> {
        // Looked at before the flush lock is taken, which a flush holds for as long as its fsync takes: with many
        // partitions those waits would add up.
        if !self.is_checkpoint_due(&self.writer.lock(), force)? {
            return Ok(());
        }
        let _only_one = self.flush_lock.lock();
        // What a full disk refuses is to be tried again the next time: the bytes count as covered only when both the
        // snapshot and the indexes are stored.
        let (end, covered_bytes) = {
            let mut writer = self.writer.lock();
            if !self.is_checkpoint_due(&writer, force)? {
                return Ok(());
            }
            let covered_bytes = match self.write_snapshot(&mut writer) {
                Err(error) if crate::fs::is_disk_full(&error) => 0,
                Err(error) => return Err(self.fail("writing a producer snapshot", &error).into()),
                Ok(()) => writer.bytes_since_checkpoint,
            };
            (self.log_end(), covered_bytes)
        };
        self.flush_locked()?;
        // Appends may add entries meanwhile; those of all batches below `end` are covered.
        let active = self.active();
        let synced = if force {
            active.finish_indexes()
        } else {
            active.sync_indexes()
        };
        match synced.and_then(|()| self.shared.fs.sync_dir(&self.dir)) {
            Ok(()) => {
                let mut writer = self.writer.lock();
                // Not so if a full disk did not take those of an older segment.
                let older = writer.unsynced.iter().any(|segment| segment.is_sealed());
                if active.base_offset <= end && !older {
                    self.indexed_end
                        .fetch_max(end.min(self.durable_end()), Ordering::AcqRel);
                    self.touch();
                    // Less what was appended meanwhile.
                    writer.bytes_since_checkpoint = writer.bytes_since_checkpoint.saturating_sub(covered_bytes);
                }
            }
            Err(error) if crate::fs::is_disk_full(&error) => {}
            Err(error) => return Err(self.fail("syncing an index", &error).into()),
        }
        // Also where the indexes did not fit, or each attempt would leave a snapshot on the full disk.
        self.drop_old_snapshots();
        Ok(())
    }

    fn is_checkpoint_due(&self, writer: &super::Writer, force: bool) -> Result<bool, FlushError> {
        if self.is_closed() {
            return Err(FlushError::Closed);
        }
        self.shared.check_online()?;
        // The state at offset 0 is none: a log that was never written to costs nothing.
        let unsaved = self.log_end() > 0 && writer.snapshot_offset != self.log_end();
        Ok(writer.bytes_since_checkpoint >= CHECKPOINT_BYTES
            || (force && (writer.bytes_since_checkpoint > 0 || unsaved)))
    }

    /// Keeps the snapshots at segment bases, which truncation starts from, and the newest two.
    fn drop_old_snapshots(&self) {
        let fs = &*self.shared.fs;
        let Ok(offsets) = self.snapshot_offsets() else { return };
        let segments = self.segments();
        for offset in offsets.iter().rev().skip(2) {
            if segments
                .binary_search_by_key(offset, |segment| segment.base_offset)
                .is_err()
            {
                // A snapshot too many does no harm.
                let _ = fs.remove_file(&names::snapshot_path(&self.dir, *offset));
            }
        }
    }

    /// Flushes, makes every derived file durable and accepts nothing more.
    pub(crate) fn close(&self) -> Result<(), FlushError> {
        match self.checkpoint(true) {
            Ok(()) => {}
            Err(FlushError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
        let end = {
            let _only_one = self.flush_lock.lock();
            self.flush_locked()?
        };
        debug_assert!(end <= self.log_end());
        let _writer = self.writer.lock();
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
