//! Cutting the log's tail, or all of it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, LogInner, Writer};
use crate::checkpoint::{cleaned, leader_epochs};
use crate::error::ChangeError;
use crate::fs::{OpenMode, temporary_path, write_atomic};
use crate::producer::{ProducerState, snapshot};
use crate::segment::{LocateError, Segment, names};

/// Holds the offset at which an emptied log begins, from before the first file goes until after the last one: a crash
/// in between is finished when the log is opened.
pub(super) const MARKER_FILE_NAME: &str = "truncate-fully";

/// What an emptied log knows of producers, a snapshot that gets its name when the other files are gone. Durable before
/// the marker is written; without a marker it means nothing.
pub(super) const PRODUCERS_FILE_NAME: &str = "truncate-fully-producers";

/// Stands behind the offset in the marker where there is such a file.
const WITH_PRODUCERS: &str = "producers";

const COPY_CHUNK: usize = 1 << 20;

/// What an emptied log begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub offset: i64,
    /// There is a snapshot of producers.
    pub knows_producers: bool,
}

impl Marker {
    /// The marker file, one line.
    fn encode(self) -> String {
        match self.knows_producers {
            true => format!("{} {WITH_PRODUCERS}\n", self.offset),
            false => format!("{}\n", self.offset),
        }
    }

    /// Reads the marker file; `None` if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim();
        let (offset, knows_producers) = match text.split_once(' ') {
            None => (text, false),
            Some((offset, WITH_PRODUCERS)) => (offset, true),
            Some(_) => return None,
        };
        let offset = offset.parse().ok().filter(|offset| *offset >= 0)?;
        Some(Self {
            offset,
            knows_producers,
        })
    }
}

/// Raises the truncation counter to odd, and to even again whatever happens in between.
struct Truncating<'a>(&'a LogInner);

impl<'a> Truncating<'a> {
    fn begin(inner: &'a LogInner) -> Self {
        inner.truncations.fetch_add(1, Ordering::SeqCst);
        Truncating(inner)
    }
}

impl Drop for Truncating<'_> {
    fn drop(&mut self) {
        self.0.truncations.fetch_add(1, Ordering::SeqCst);
    }
}

impl Log {
    /// Removes all records from `offset` on, physically and durably: when this returns nothing of them comes back.
    /// A batch that holds `offset` goes whole, so that the log may end lower. Leader epochs that begin at or after
    /// the new end go too, also if no record is cut (KAFKA-10706). Below the log start everything goes and the log
    /// begins at `offset`. What kept records below the new end told of producers stays known. Returns the new log end.
    ///
    /// Where compaction has taken out records because of later ones that would go now, all goes, and the log begins anew
    /// at its start: whoever asks for such a cut never had the later ones (an unclean election), and the ones taken out
    /// are the last of their keys there.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if the disk is too full to begin; [`ChangeError::OffsetOutOfRange`] for a negative
    /// offset.
    pub fn truncate_to(&self, offset: i64) -> Result<i64, ChangeError> {
        let inner = &*self.inner;
        let _no_flush = inner.flush_lock.lock();
        let mut writer = inner.writer.lock();
        inner.check_change()?;
        let (log_start, log_end) = (inner.log_start(), inner.log_end());
        if offset < 0 {
            return Err(ChangeError::OffsetOutOfRange {
                offset,
                log_start,
                log_end,
            });
        }
        if offset < log_start {
            let known = inner.producers_at(offset).map_err(ChangeError::from_read)?;
            inner.truncate_fully(&mut writer, offset, known.state)?;
            return Ok(offset);
        }
        if offset >= log_end {
            writer.epochs_dirty |= inner.epochs.write().truncate_to(offset);
            return Ok(log_end);
        }
        let replaced_below = inner.cleaned().map_err(ChangeError::from_read)?.replaced_below;
        if offset < replaced_below {
            tracing::warn!(partition = %inner.name, offset, replaced_below, "cut below what has made compacted records go: the log begins anew");
            let known = inner.producers_below_start().map_err(ChangeError::from_read)?;
            inner.truncate_fully(&mut writer, log_start, known)?;
            return Ok(log_start);
        }
        inner.truncate_tail(&mut writer, offset)
    }

    /// Empties the log; the next record gets `offset`. Log start, durable end and log end move together
    /// (KAFKA-9491). `producers` is what records below `offset` told ([`Log::producers_at_start`] of the log that this
    /// one is to follow): without it a retry of what is deleted would be stored once more. As durable as the rest.
    ///
    /// # Errors
    /// As [`Log::truncate_to`].
    pub fn truncate_fully_and_start_at(&self, offset: i64, producers: ProducerState) -> Result<(), ChangeError> {
        let inner = &*self.inner;
        let _no_flush = inner.flush_lock.lock();
        let mut writer = inner.writer.lock();
        inner.check_change()?;
        if offset < 0 {
            let (log_start, log_end) = (inner.log_start(), inner.log_end());
            return Err(ChangeError::OffsetOutOfRange {
                offset,
                log_start,
                log_end,
            });
        }
        inner.truncate_fully(&mut writer, offset, producers)
    }
}

impl LogInner {
    /// What batches that end at or below the log start told of producers: one that holds it is not among them.
    fn producers_below_start(&self) -> io::Result<ProducerState> {
        let log_start = self.log_start();
        let segments = self.segments();
        let at = segments
            .partition_point(|segment| segment.base_offset <= log_start)
            .saturating_sub(1);
        let resume = self.resume_points(segments[at].base_offset);
        let end = match segments[at].locate(log_start, &resume) {
            Ok(Some(found)) => found.header.base_offset.min(log_start),
            Err(LocateError::Io(error)) => return Err(error),
            Ok(None) | Err(LocateError::Bad { .. }) => log_start,
        };
        Ok(self.producers_at(end)?.state)
    }

    fn truncate_tail(&self, writer: &mut Writer, offset: i64) -> Result<i64, ChangeError> {
        let segments = self.segments();
        let at = segments
            .partition_point(|segment| segment.base_offset <= offset)
            .saturating_sub(1);
        let segment = &segments[at];
        let resume = self.resume_points(segment.base_offset);
        let (position, new_end) = match segment.locate(offset, &resume) {
            // In a gap the log ends with the batch before it: recovery could not tell where in the gap.
            Ok(Some(found)) => (
                found.position,
                segment.end_before(found.position).map_err(ChangeError::from_read)?,
            ),
            Ok(None) => (
                segment.size(),
                segment.end_before(segment.size()).map_err(ChangeError::from_read)?,
            ),
            // Damage before the place: all that can't be read goes with the rest.
            Err(LocateError::Bad {
                position, next_offset, ..
            }) => (position, next_offset),
            Err(LocateError::Io(error)) => return Err(ChangeError::from_read(error)),
        };
        if new_end < self.log_start() || new_end > offset {
            // The batch that holds the log start is cut, or the log has no batch below: nothing readable is left.
            let log_start = self.log_start();
            let known = self.producers_at(new_end).map_err(ChangeError::from_read)?;
            self.truncate_fully(writer, log_start, known.state)?;
            return Ok(log_start);
        }
        // Everything that may be refused comes before anything is changed.
        // The file may be longer than its valid part: damaged bytes that nothing follows are kept until now.
        let physical = segment
            .file()
            .and_then(|file| file.len())
            .map_err(ChangeError::from_read)?;
        let replacement = (segment.may_be_mapped() && position < physical)
            .then(|| self.copy_prefix(segment, position))
            .transpose()
            .map_err(|error| {
                self.shared
                    .refuse_or_fail("copying the kept part of a sealed segment", &error)
            })?;

        self.lower_cleaned(new_end)
            .map_err(|error| self.shared.refuse_or_fail("lowering what is compacted", &error))?;

        let _truncating = Truncating::begin(self);
        // The indexes of a replaced file are made anew.
        let indexed = if replacement.is_some() {
            segment.base_offset
        } else {
            new_end
        };
        let before = (self.durable_end(), self.indexed_end.load(Ordering::Acquire));
        self.durable_end.fetch_min(new_end, Ordering::AcqRel);
        self.indexed_end.fetch_min(indexed, Ordering::AcqRel);
        if let Err(error) = self.shared.lower_flushed(&self.name, new_end, indexed) {
            // Nothing was cut.
            self.durable_end.store(before.0, Ordering::Release);
            self.indexed_end.store(before.1, Ordering::Release);
            return Err(self.shared.refuse_or_fail("lowering the flushed point", &error));
        }
        self.touch();
        let cut = self.cut(&segments, at, position, new_end, replacement);
        let active = cut.map_err(|error| self.fail("truncating", &error))?;

        writer
            .unsynced
            .retain(|other| Arc::ptr_eq(other, &active) || segments[..at].iter().any(|kept| Arc::ptr_eq(kept, other)));
        writer.unsynced_snapshots.retain(|snapshot| *snapshot <= new_end);
        writer.active_since_ms = None;
        self.change_segments(|list| {
            list.truncate(at);
            list.push(active.clone());
        });
        let mut damage = self.damage.write();
        damage.retain(|range| range.from < new_end);
        self.has_damage.store(!damage.is_empty(), Ordering::Release);
        drop(damage);
        self.epochs.write().truncate_to(new_end);
        self.write_epochs()
            .map_err(|error| self.fail("writing leader epochs", &error))?;
        self.note_epochs_stored(writer);
        // The producers before the new end is published (KAFKA-12153).
        self.reload_producers(writer, new_end)
            .map_err(|error| self.fail("reloading producers", &error))?;
        self.log_end.store(new_end, Ordering::Release);
        Ok(new_end)
    }

    /// Removes snapshots, indexes and later segments, then cuts: derived files never outlive their data.
    fn cut(
        &self,
        segments: &[Arc<Segment>],
        at: usize,
        position: u64,
        new_end: i64,
        replacement: Option<Arc<Segment>>,
    ) -> io::Result<Arc<Segment>> {
        let fs = &*self.shared.fs;
        self.remove_snapshots_where(|offset| offset > new_end)?;
        let segment = &segments[at];
        if replacement.is_none() {
            segment.cut_indexes(position)?;
        }
        for later in segments[at + 1..].iter().rev() {
            self.remove_segment_files(later.base_offset, false)?;
        }
        let active = match replacement {
            Some(replacement) => {
                // The indexes of the old file go before the new file takes its name.
                crate::fs::remove_if_exists(fs, &names::index_path(&self.dir, segment.base_offset))?;
                crate::fs::remove_if_exists(fs, &names::time_index_path(&self.dir, segment.base_offset))?;
                fs.sync_dir(&self.dir)?;
                let path = names::log_path(&self.dir, segment.base_offset);
                fs.rename(&temporary_path(&path), &path)?;
                fs.sync_dir(&self.dir)?;
                let rebuilt = replacement.rebuild_indexes()?;
                replacement.set_indexes(rebuilt);
                replacement
            }
            None => {
                if position < segment.file()?.len()? {
                    segment.cut_in_place(position)?;
                }
                segment.clone()
            }
        };
        fs.sync_dir(&self.dir)?;
        if active.is_sealed() {
            active.unseal();
        }
        Ok(active)
    }

    /// Copies what stays of a sealed segment to a new file beside it: readers may have the old one mapped.
    fn copy_prefix(&self, segment: &Segment, len: u64) -> io::Result<Arc<Segment>> {
        let fs = &self.shared.fs;
        let temporary = temporary_path(&segment.log_path());
        let source = segment.file()?;
        let copied = (|| {
            let target = fs.open(&temporary, OpenMode::CreateOrTruncate)?;
            let mut position = 0;
            while position < len {
                let chunk = usize::try_from((len - position).min(COPY_CHUNK as u64)).unwrap_or(COPY_CHUNK);
                let bytes = source.read_at(position, chunk)?;
                if bytes.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                target.write_all_vectored_at(&[IoSlice::new(&bytes)], position)?;
                position += bytes.len() as u64;
            }
            target.sync_all()
        })();
        if let Err(error) = copied {
            let _ = fs.remove_file(&temporary);
            return Err(error);
        }
        let interval = self.config().index_interval_bytes;
        Ok(Segment::open(fs, &self.dir, segment.base_offset, interval, len, false))
    }

    fn truncate_fully(
        &self,
        writer: &mut Writer,
        offset: i64,
        mut producers: ProducerState,
    ) -> Result<(), ChangeError> {
        producers.bound(self.config().max_producer_ids);
        let marker = Marker {
            offset,
            knows_producers: !producers.entries().is_empty(),
        };
        self.announce_truncation(marker, &producers)
            .map_err(|error| self.shared.refuse_or_fail("writing the truncation marker", &error))?;

        let _truncating = Truncating::begin(self);
        let active = self
            .start_over(marker)
            .map_err(|error| self.fail("truncating fully", &error))?;
        self.note_cleaned_removed();
        writer.unsynced.clear();
        writer.unsynced_snapshots.clear();
        writer.dir_unsynced = false;
        // There are none, and no file.
        self.note_epochs_stored(writer);
        writer.bytes_since_checkpoint = 0;
        writer.active_since_ms = None;
        writer.snapshot_offset = if marker.knows_producers { offset } else { -1 };
        writer.producers = producers;
        *self.segments.write() = Arc::new(vec![active]);
        self.epochs.write().clear();
        self.damage.write().clear();
        self.has_damage.store(false, Ordering::Release);
        self.log_start.store(offset, Ordering::Release);
        self.log_end.store(offset, Ordering::Release);
        Ok(())
    }

    /// From when this returns the log is emptied, sooner or later. Nothing is left of it if there was no room.
    fn announce_truncation(&self, marker: Marker, producers: &ProducerState) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let (path, known) = (self.dir.join(MARKER_FILE_NAME), self.dir.join(PRODUCERS_FILE_NAME));
        let announced = (|| {
            if marker.knows_producers {
                write_atomic(fs, &known, &snapshot::encode(producers))?;
            }
            write_atomic(fs, &path, marker.encode().as_bytes())
        })();
        // A marker that has its name counts, even if that could not be made durable.
        if announced.as_ref().is_err_and(crate::fs::is_disk_full) && fs.metadata(&path).is_err() {
            for leftover in [temporary_path(&path), temporary_path(&known), known] {
                let _ = crate::fs::remove_if_exists(fs, &leftover);
            }
        }
        announced
    }

    /// Removes every file of the log and makes what the marker says: an empty segment, and the producers' snapshot,
    /// which takes no room that it did not have before; durable, the marker gone, at the end.
    pub(super) fn start_over(&self, marker: Marker) -> io::Result<Arc<Segment>> {
        let fs = &*self.shared.fs;
        let offset = marker.offset;
        self.durable_end.fetch_min(offset, Ordering::AcqRel);
        self.indexed_end.fetch_min(offset, Ordering::AcqRel);
        self.remove_all_but_producers(marker)?;
        let interval = self.config().index_interval_bytes;
        let active = Segment::create(&self.shared.fs, &self.dir, offset, interval)?;
        active.sync_data()?;
        fs.sync_dir(&self.dir)?;
        self.shared.lower_flushed(&self.name, 0, 0)?;
        self.shared.store_start(&self.name, offset)?;
        fs.remove_file(&self.dir.join(MARKER_FILE_NAME))?;
        fs.sync_dir(&self.dir)?;
        self.durable_end.store(offset, Ordering::Release);
        self.indexed_end.store(offset, Ordering::Release);
        self.touch();
        Ok(active)
    }

    /// Removes the log's files. The producers' snapshot has its name then.
    fn remove_all_but_producers(&self, marker: Marker) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let (known, named) = (
            self.dir.join(PRODUCERS_FILE_NAME),
            names::snapshot_path(&self.dir, marker.offset),
        );
        if !marker.knows_producers {
            return remove_all_log_files(fs, &self.dir, None);
        }
        // If a crash came after the renaming, the name is the right one's already.
        let is_renamed = match fs.metadata(&known) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        remove_all_log_files(fs, &self.dir, is_renamed.then_some(&*named))?;
        if !is_renamed {
            fs.rename(&known, &named)?;
            fs.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// The offsets of all producer snapshots, rising.
    pub(super) fn snapshot_offsets(&self) -> io::Result<Vec<i64>> {
        super::open::snapshots(&*self.shared.fs, &self.dir)
    }

    pub(super) fn remove_snapshots_where(&self, gone: impl Fn(i64) -> bool) -> io::Result<()> {
        let fs = &*self.shared.fs;
        let mut removed = false;
        for offset in self.snapshot_offsets()?.into_iter().filter(|offset| gone(*offset)) {
            removed |= crate::fs::remove_if_exists(fs, &names::snapshot_path(&self.dir, offset))?;
        }
        if removed { fs.sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Removes a segment's files, derived ones first. With `sync` their absence is durable before the data goes.
    pub(super) fn remove_segment_files(&self, base_offset: i64, sync: bool) -> io::Result<()> {
        let fs = &*self.shared.fs;
        for kind in [
            names::FileKind::OffsetIndex,
            names::FileKind::TimeIndex,
            names::FileKind::TransactionIndex,
        ] {
            crate::fs::remove_if_exists(fs, &names::path(&self.dir, base_offset, kind))?;
        }
        if sync {
            fs.sync_dir(&self.dir)?;
        }
        crate::fs::remove_if_exists(fs, &names::log_path(&self.dir, base_offset))?;
        Ok(())
    }
}

/// Removes segments, indexes, snapshots, the epoch checkpoint and how far all was compacted, all but one file.
pub(super) fn remove_all_log_files(
    fs: &dyn crate::fs::FileSystem,
    dir: &std::path::Path,
    kept: Option<&std::path::Path>,
) -> io::Result<()> {
    for entry in fs.read_dir(dir)? {
        let Some(name) = entry.name.to_str() else { continue };
        let path = dir.join(name);
        let is_ours = names::parse(name).is_some()
            || names::parse_swap(name).is_some()
            || names::is_leftover(name)
            || [leader_epochs::FILE_NAME, cleaned::FILE_NAME].contains(&name);
        if is_ours && kept != Some(&*path) {
            crate::fs::remove_if_exists(fs, &path)?;
        }
    }
    fs.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_read_as_it_was_written() {
        for knows_producers in [false, true] {
            let marker = Marker {
                offset: 77,
                knows_producers,
            };
            assert_eq!(Marker::decode(marker.encode().as_bytes()), Some(marker));
        }
        // As former versions wrote it.
        let plain = Marker {
            offset: 5,
            knows_producers: false,
        };
        assert_eq!(Marker::decode(b"5\n"), Some(plain));
        for bad in [&b""[..], b"-1\n", b"x\n", b"5 people\n", b"5 \xff\n", b"producers\n"] {
            assert_eq!(Marker::decode(bad), None, "{bad:?}");
        }
    }
}
