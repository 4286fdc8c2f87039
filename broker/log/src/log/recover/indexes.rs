//! Which entries of an index file count when a log is opened, and making the others anew.

use std::io;
use std::path::Path;

use super::Recovery;
use crate::fs::FileSystem;
use crate::index::{IndexEntry, IndexFile, OffsetEntry, TimeEntry};
use crate::segment::scan::{Chain, Scan};
use crate::segment::{Indexes, Segment, names};

/// The part of a segment's indexes that counts.
pub(super) struct Trusted {
    pub indexes: Indexes,
    /// Where the batch of the last entry begins: what follows is made anew from there.
    pub position: u64,
    /// That batch's base offset, which is right if the entry is.
    pub base_offset: i64,
}

impl Recovery<'_> {
    pub(super) fn put_indexes(&self, segment: &Segment, mut indexes: Indexes, claimed: bool) -> io::Result<()> {
        if claimed {
            let base = segment.base_offset;
            let (offsets, times) = (indexes.offsets.entries(&**self.fs)?, indexes.times.entries(&**self.fs)?);
            indexes.offsets = IndexFile::replace(&**self.fs, names::index_path(self.dir, base), offsets);
            indexes.times = IndexFile::replace(&**self.fs, names::time_index_path(self.dir, base), times);
        }
        segment.set_indexes(indexes);
        Ok(())
    }

    /// The entries that were durable with the flushed point, and the position from which the rest is made anew.
    pub(super) fn trusted_indexes(&self, segment: &Segment, indexed: i64) -> io::Result<Trusted> {
        let base = segment.base_offset;
        let trusted = self.read_trusted(segment, indexed)?;
        if trusted.is_none() {
            // What the files say would only mislead whoever looks at them before they are written anew.
            for path in [
                names::index_path(self.dir, base),
                names::time_index_path(self.dir, base),
            ] {
                crate::fs::remove_if_exists(&**self.fs, &path)?;
            }
        }
        Ok(trusted.unwrap_or_else(|| Trusted {
            indexes: Indexes::rebuilt(self.dir, base),
            position: 0,
            base_offset: base,
        }))
    }

    fn read_trusted(&self, segment: &Segment, indexed: i64) -> io::Result<Option<Trusted>> {
        let base = segment.base_offset;
        let mut indexes = Indexes::rebuilt(self.dir, base);
        if indexed <= base {
            return Ok(None);
        }
        let covered = |relative: u32| base + i64::from(relative) < indexed;
        let mut offsets: Vec<OffsetEntry> = read_prefix(&**self.fs, &names::index_path(self.dir, base))?;
        offsets.retain(|entry| covered(entry.relative_offset) && u64::from(entry.position) < segment.size());
        let time_path = names::time_index_path(self.dir, base);
        let mut times: Vec<TimeEntry> = read_prefix(&**self.fs, &time_path)?;
        // Entries that do not rise, right behind ones that count, may have been damaged ones that counted.
        let len = self.fs.metadata(&time_path).map_or(0, |metadata| metadata.len);
        let cut_short = len > (times.len() * TimeEntry::SIZE) as u64;
        if cut_short && times.last().is_none_or(|last| covered(last.relative_offset)) {
            return Ok(None);
        }
        // Without any the segment's times are not known: its records have none, or the file is lost.
        if times.is_empty() {
            return Ok(None);
        }
        // The last entry's batch must be where it says, else nothing in the files counts.
        let Some(last) = offsets.last().copied() else {
            return Ok(None);
        };
        let file = segment.file()?;
        let mut scan = Scan::new(&*file, u64::from(last.position), segment.size());
        let base_offset = match scan.next_header(base, &mut Chain::at(base))? {
            Ok(Some((_, header))) if header.last_offset() == base + i64::from(last.relative_offset) => {
                header.base_offset
            }
            _ => return Ok(None),
        };
        // A seal or a close has added entries about batches behind it. Those that count stay, as the file was said to be
        // durable with them; the others are about batches that are walked again. Unless one says something that is not
        // so: then it may be a damaged entry about the batches before.
        let behind = times.partition_point(|entry| entry.relative_offset <= last.relative_offset);
        let counting = times.partition_point(|entry| covered(entry.relative_offset));
        for entry in &times[behind..times.len().min(counting + 1)] {
            if !segment.is_time_right(*entry, u64::from(last.position))? {
                return Ok(None);
            }
        }
        times.truncate(counting);
        indexes.last_indexed_position = u64::from(last.position);
        if let Some(last_time) = times.last() {
            indexes.max_timestamp = last_time.timestamp;
            indexes.max_timestamp_offset = base + i64::from(last_time.relative_offset);
        }
        indexes.offsets = IndexFile::resume(&**self.fs, names::index_path(self.dir, base), offsets)?;
        indexes.times = IndexFile::resume(&**self.fs, time_path, times)?;
        if !segment.is_last_time_right(&indexes)? {
            return Ok(None);
        }
        Ok(Some(Trusted {
            indexes,
            position: u64::from(last.position),
            base_offset,
        }))
    }
}

fn read_prefix<E: crate::index::IndexEntry>(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<E>> {
    match IndexFile::<E>::read_valid_prefix(fs, path) {
        Ok(entries) => Ok(entries),
        // No index, or one too long to be one, is one to be made anew.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
