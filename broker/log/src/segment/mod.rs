//! One segment: a `.log` file of batches with its offset and time index.
//!
//! Only the newest segment of a log is appended to; the others are sealed, may be memory mapped by readers, and are
//! never changed or cut in place.

mod locate;
pub mod names;
mod replaced;
pub mod scan;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millrace_proto::batch::{BatchHeader, NO_TIMESTAMP};
use parking_lot::Mutex;

use crate::fs::{File, FileSystem, OpenMode, handles::KeptFile, is_disk_full};
use crate::index::{IndexFile, OffsetEntry, TimeEntry};
pub(crate) use locate::{LocateError, Located};
use scan::{Chain, Scan};

/// Where recent readers stopped, so that the next read needs no lookup.
const HINTS: usize = 4;

pub(crate) struct Segment {
    pub base_offset: i64,
    fs: Arc<dyn FileSystem>,
    dir: Arc<Path>,
    interval_bytes: u32,
    file: Arc<KeptFile>,
    /// Set by each use, cleared by [`Segment::close_if_idle`].
    used: AtomicBool,
    size: AtomicU64,
    sealed: AtomicBool,
    /// Once sealed a file may be mapped, and must never be cut again even if it is appended to once more.
    may_be_mapped: AtomicBool,
    hints: Mutex<Vec<(i64, u64)>>,
    indexes: Mutex<Indexes>,
}

/// The indexes and what is known of the segment's times.
pub(crate) struct Indexes {
    pub offsets: IndexFile<OffsetEntry>,
    pub times: IndexFile<TimeEntry>,
    /// False until the files of a sealed segment were looked at.
    pub loaded: bool,
    /// The files are another segment's by now, and must neither be read nor written.
    pub detached: bool,
    /// Position of the last batch in the offset index (0 if none), from which the interval counts.
    pub last_indexed_position: u64,
    /// The largest record time, and the last offset of the first batch that has it.
    pub max_timestamp: i64,
    pub max_timestamp_offset: i64,
    /// The largest record time of the first batch.
    pub first_timestamp: Option<i64>,
}

impl Indexes {
    fn empty(dir: &Path, base_offset: i64, loaded: bool) -> Self {
        Indexes {
            offsets: IndexFile::empty(names::index_path(dir, base_offset)),
            times: IndexFile::empty(names::time_index_path(dir, base_offset)),
            loaded,
            detached: false,
            last_indexed_position: 0,
            max_timestamp: NO_TIMESTAMP,
            max_timestamp_offset: base_offset,
            first_timestamp: None,
        }
    }

    /// Indexes to be filled by a walk over the segment.
    pub(crate) fn rebuilt(dir: &Path, base_offset: i64) -> Self {
        let mut indexes = Self::empty(dir, base_offset, true);
        indexes.offsets = IndexFile::in_memory(names::index_path(dir, base_offset), Vec::new());
        indexes.times = IndexFile::in_memory(names::time_index_path(dir, base_offset), Vec::new());
        indexes
    }

    /// Takes in a batch at `position`; the same rule as Kafka's, so that a rebuilt index equals the first one.
    pub fn note_batch(&mut self, base_offset: i64, interval_bytes: u32, position: u64, header: &BatchHeader) {
        if position == 0 {
            self.first_timestamp = Some(header.max_timestamp);
        }
        if header.max_timestamp > self.max_timestamp {
            self.max_timestamp = header.max_timestamp;
            self.max_timestamp_offset = header.last_offset();
        }
        if position - self.last_indexed_position > u64::from(interval_bytes) {
            let relative = header.last_offset() - base_offset;
            if let (Ok(relative_offset), Ok(position_32)) = (u32::try_from(relative), u32::try_from(position))
                && self.offsets.append(OffsetEntry {
                    relative_offset,
                    position: position_32,
                })
            {
                self.last_indexed_position = position;
                self.append_time(base_offset);
            }
        }
    }

    /// Adds the largest time so far to the time index, if it is news.
    pub fn append_time(&mut self, base_offset: i64) {
        if self.max_timestamp > self.times.last().map_or(NO_TIMESTAMP, |last| last.timestamp)
            && let Ok(relative_offset) = u32::try_from(self.max_timestamp_offset - base_offset)
        {
            self.times.append(TimeEntry {
                timestamp: self.max_timestamp,
                relative_offset,
            });
        }
    }

    fn write_if_due(&mut self, fs: &dyn FileSystem) -> io::Result<()> {
        if self.offsets.wants_write() {
            self.offsets.write_pending(fs)?;
            self.times.write_pending(fs)?;
        }
        Ok(())
    }
}

impl Segment {
    /// A new, empty segment to append to. Neither the file nor its name is durable yet.
    pub(crate) fn create(
        fs: &Arc<dyn FileSystem>,
        dir: &Arc<Path>,
        base_offset: i64,
        interval_bytes: u32,
    ) -> io::Result<Arc<Self>> {
        let file = fs.open(&names::log_path(dir, base_offset), OpenMode::CreateNew)?;
        Ok(Self::assemble(
            fs,
            dir,
            base_offset,
            interval_bytes,
            Some(file),
            0,
            false,
        ))
    }

    /// An existing segment of which `size` bytes are valid. Nothing is read.
    pub(crate) fn open(
        fs: &Arc<dyn FileSystem>,
        dir: &Arc<Path>,
        base_offset: i64,
        interval_bytes: u32,
        size: u64,
        sealed: bool,
    ) -> Arc<Self> {
        Self::assemble(fs, dir, base_offset, interval_bytes, None, size, sealed)
    }

    fn assemble(
        fs: &Arc<dyn FileSystem>,
        dir: &Arc<Path>,
        base_offset: i64,
        interval_bytes: u32,
        file: Option<Arc<dyn File>>,
        size: u64,
        sealed: bool,
    ) -> Arc<Self> {
        Arc::new(Segment {
            base_offset,
            fs: fs.clone(),
            dir: dir.clone(),
            interval_bytes,
            file: KeptFile::new(file),
            used: AtomicBool::new(true),
            size: AtomicU64::new(size),
            sealed: AtomicBool::new(sealed),
            may_be_mapped: AtomicBool::new(sealed),
            hints: Mutex::new(Vec::new()),
            indexes: Mutex::new(Indexes::empty(dir, base_offset, !sealed && size == 0)),
        })
    }

    /// The open file; opened on first use.
    pub(crate) fn file(&self) -> io::Result<Arc<dyn File>> {
        self.used.store(true, Ordering::Relaxed);
        let mode = if self.is_sealed() {
            OpenMode::Read
        } else {
            OpenMode::ReadWrite
        };
        self.file
            .get(|| self.fs.open(&names::log_path(&self.dir, self.base_offset), mode))
    }

    /// Gives the handle of a sealed segment back if nobody used it since the last call.
    pub(crate) fn close_if_idle(&self) {
        if self.is_sealed() && !self.used.swap(false, Ordering::Relaxed) {
            self.close();
        }
    }

    /// Gives the handle back. Who reads from it at this moment keeps it for so long.
    pub(crate) fn close(&self) {
        self.file.close();
        self.hints.lock().clear();
    }

    /// Valid bytes. Published after they were written.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn may_be_mapped(&self) -> bool {
        self.may_be_mapped.load(Ordering::Acquire)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        names::log_path(&self.dir, self.base_offset)
    }

    /// Writes bytes at the end. They count only after [`Segment::publish`].
    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let file = self.file()?;
        let written = file.write_all_vectored_at(slices, self.size());
        self.file.note_write();
        written
    }

    /// Takes in what [`Segment::write`] wrote: `batches` with their positions.
    ///
    /// # Errors
    /// A failed write of an index, other than for want of space: then the entries wait in memory.
    pub(crate) fn publish(&self, batches: &[(u64, BatchHeader)], new_size: u64) -> io::Result<()> {
        let mut indexes = self.indexes.lock();
        for (position, header) in batches {
            indexes.note_batch(self.base_offset, self.interval_bytes, *position, header);
        }
        self.size.store(new_size, Ordering::Release);
        match indexes.write_if_due(&*self.fs) {
            Err(error) if is_disk_full(&error) => Ok(()),
            other => other,
        }
    }

    /// No more appends. The final entry of the time index is added; files are synced by [`Segment::sync_indexes`].
    pub(crate) fn seal(&self) {
        self.indexes.lock().append_time(self.base_offset);
        self.may_be_mapped.store(true, Ordering::Release);
        self.sealed.store(true, Ordering::Release);
    }

    /// Back to be appended to, after the segments behind it were cut away.
    pub(crate) fn unseal(&self) {
        self.close();
        self.sealed.store(false, Ordering::Release);
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        let file = self.file()?;
        self.file.sync_data(&*file)
    }

    pub(crate) fn sync_indexes(&self) -> io::Result<()> {
        let mut indexes = self.indexes.lock();
        let indexes = &mut *indexes;
        if indexes.loaded {
            indexes.offsets.sync(&*self.fs)?;
            indexes.times.sync(&*self.fs)?;
        }
        Ok(())
    }

    /// Adds the largest time to the time index and makes both index files durable: before a clean close.
    pub(crate) fn finish_indexes(&self) -> io::Result<()> {
        self.with_indexes(|indexes| indexes.append_time(self.base_offset))?;
        self.sync_indexes()
    }

    /// The indexes, read from disk or rebuilt if they were not looked at yet.
    pub(crate) fn with_indexes<T>(&self, act: impl FnOnce(&mut Indexes) -> T) -> io::Result<T> {
        let mut indexes = self.indexes.lock();
        if !indexes.loaded {
            *indexes = self.load_indexes()?;
        }
        Ok(act(&mut indexes))
    }

    /// Puts rebuilt indexes in place.
    pub(crate) fn set_indexes(&self, indexes: Indexes) {
        *self.indexes.lock() = indexes;
    }

    fn load_indexes(&self) -> io::Result<Indexes> {
        match self.open_index_files()? {
            Some(indexes) if self.is_last_time_right(&indexes)? => Ok(indexes),
            _ => self.rebuild_indexes(),
        }
    }

    /// Whether the last entry of the time index, which stands for the whole segment, is what its batch says.
    pub(crate) fn is_last_time_right(&self, indexes: &Indexes) -> io::Result<bool> {
        let Some(last) = indexes.times.last() else {
            return Ok(true);
        };
        let start = indexes
            .offsets
            .last_where(&*self.fs, |entry| entry.relative_offset <= last.relative_offset)?;
        self.is_time_right(last, start.map_or(0, |entry| u64::from(entry.position)))
    }

    /// Whether an entry of the time index is what its batch says, which is looked for from `from` on.
    pub(crate) fn is_time_right(&self, entry: TimeEntry, from: u64) -> io::Result<bool> {
        let file = self.file()?;
        let mut chain = Chain::at(self.base_offset);
        let mut scan = Scan::new(&*file, from, self.size());
        let target = self.base_offset + i64::from(entry.relative_offset);
        while let Ok(Some((_, header))) = scan.next_header(self.base_offset, &mut chain)? {
            if header.last_offset() >= target {
                return Ok(header.last_offset() == target && header.max_timestamp == entry.timestamp);
            }
        }
        Ok(false)
    }

    /// Makes the indexes anew: they did not match the segment.
    pub(crate) fn repair_indexes(&self) -> io::Result<()> {
        tracing::warn!(
            segment = self.base_offset,
            "the indexes do not match their segment and are rebuilt"
        );
        // Under the lock, so that this comes wholly before the files become another segment's, or not at all.
        let mut indexes = self.indexes.lock();
        if !indexes.detached {
            *indexes = self.rebuild_indexes()?;
        }
        Ok(())
    }

    /// Opens both files of a sealed segment if they can be its indexes.
    fn open_index_files(&self) -> io::Result<Option<Indexes>> {
        fn open_or_missing<E>(error: io::Error) -> io::Result<Option<IndexFile<E>>> {
            match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            }
        }
        let offsets = IndexFile::<OffsetEntry>::open(&*self.fs, names::index_path(&self.dir, self.base_offset))
            .or_else(open_or_missing)?;
        let times = IndexFile::<TimeEntry>::open(&*self.fs, names::time_index_path(&self.dir, self.base_offset))
            .or_else(open_or_missing)?;
        let (Some(offsets), Some(times)) = (offsets, times) else {
            return Ok(None);
        };
        let last_position = offsets.last().map_or(0, |entry| u64::from(entry.position));
        if last_position >= self.size() && last_position > 0 {
            return Ok(None);
        }
        let mut indexes = Indexes::empty(&self.dir, self.base_offset, true);
        indexes.last_indexed_position = last_position;
        if let Some(last) = times.last() {
            indexes.max_timestamp = last.timestamp;
            indexes.max_timestamp_offset = self.base_offset + i64::from(last.relative_offset);
        } else if self.size() > 0 {
            // Without an entry the segment's times are not known (all records without a time, or a lost file).
            return Ok(None);
        }
        indexes.offsets = offsets;
        indexes.times = times;
        Ok(Some(indexes))
    }

    /// Walks all headers and makes the indexes anew; in memory only if the files can't be written now.
    pub(crate) fn rebuild_indexes(&self) -> io::Result<Indexes> {
        let mut indexes = Indexes::empty(&self.dir, self.base_offset, true);
        let file = self.file()?;
        let mut chain = Chain::at(self.base_offset);
        let mut scan = Scan::new(&*file, 0, self.size());
        let mut entries = (Vec::new(), Vec::new());
        loop {
            match scan.next_header(self.base_offset, &mut chain)? {
                Ok(Some((position, header))) => {
                    indexes.note_batch(self.base_offset, self.interval_bytes, position, &header);
                }
                Ok(None) => break,
                // Damage: go on behind it where there is something to go on with.
                Err(_) => match scan::resync(&*file, scan.position() + 1, self.size(), chain.next_offset)? {
                    Some((position, header)) => {
                        chain.next_offset = header.base_offset;
                        scan = Scan::new(&*file, position, self.size());
                    }
                    None => break,
                },
            }
        }
        indexes.append_time(self.base_offset);
        entries.0.extend(indexes.offsets.entries(&*self.fs)?);
        entries.1.extend(indexes.times.entries(&*self.fs)?);
        let index_path = names::index_path(&self.dir, self.base_offset);
        let time_path = names::time_index_path(&self.dir, self.base_offset);
        indexes.offsets = IndexFile::replace(&*self.fs, index_path, entries.0);
        indexes.times = IndexFile::replace(&*self.fs, time_path, entries.1);
        Ok(indexes)
    }

    /// Largest record time, or -1.
    pub(crate) fn max_timestamp(&self) -> io::Result<i64> {
        self.with_indexes(|indexes| indexes.max_timestamp)
    }

    /// Largest record time of the first batch.
    pub(crate) fn first_timestamp(&self) -> io::Result<Option<i64>> {
        if self.size() == 0 {
            return Ok(None);
        }
        if let Some(timestamp) = self.with_indexes(|indexes| indexes.first_timestamp)? {
            return Ok(Some(timestamp));
        }
        let mut chain = Chain::at(self.base_offset);
        let file = self.file()?;
        let first = Scan::new(&*file, 0, self.size()).next_header(self.base_offset, &mut chain)?;
        let timestamp = first.ok().flatten().map(|(_, header)| header.max_timestamp);
        self.with_indexes(|indexes| indexes.first_timestamp = timestamp)?;
        Ok(timestamp)
    }

    /// Remembers where a reader stopped.
    pub(crate) fn add_hint(&self, next_offset: i64, position: u64) {
        let mut hints = self.hints.lock();
        hints.retain(|(offset, _)| *offset != next_offset);
        if hints.len() == HINTS {
            hints.remove(0);
        }
        hints.push((next_offset, position));
    }

    fn hint(&self, offset: i64) -> Option<u64> {
        let mut hints = self.hints.lock();
        let at = hints.iter().position(|(hinted, _)| *hinted == offset)?;
        // One reader moves on: its place is free for the next.
        Some(hints.remove(at).1)
    }

    /// Cuts the file of a segment that was never sealed to `size` bytes and erases the rest for good. The indexes
    /// must have been cut (and synced) before.
    pub(crate) fn cut_in_place(&self, size: u64) -> io::Result<()> {
        debug_assert!(!self.may_be_mapped());
        let file = self.file()?;
        self.hints.lock().clear();
        self.size.store(size, Ordering::Release);
        file.set_len(size)?;
        file.sync_all()
    }

    /// Makes the segment end at `size` for readers, the bytes behind staying where they are: they are damaged.
    pub(crate) fn limit_size(&self, size: u64) {
        self.hints.lock().clear();
        self.size.store(size, Ordering::Release);
    }

    /// Drops index entries of batches at or behind `size`, and recomputes the times from what is left.
    pub(crate) fn cut_indexes(&self, size: u64) -> io::Result<()> {
        let mut indexes = self.indexes.lock();
        if !indexes.loaded {
            *indexes = self.load_indexes()?;
        }
        let fs = &*self.fs;
        indexes
            .offsets
            .truncate_where(fs, |entry| u64::from(entry.position) < size)?;
        let kept = indexes.offsets.last();
        // Time entries stand at indexed batches, except the final ones of a seal or a close: those go too, unless an
        // indexed batch says the same.
        let bound = kept.map(|entry| entry.relative_offset);
        indexes
            .times
            .truncate_where(fs, |entry| bound.is_some_and(|bound| entry.relative_offset <= bound))?;
        indexes.last_indexed_position = kept.map_or(0, |entry| u64::from(entry.position));
        match indexes.times.last() {
            Some(last) => {
                indexes.max_timestamp = last.timestamp;
                indexes.max_timestamp_offset = self.base_offset + i64::from(last.relative_offset);
            }
            None => {
                indexes.max_timestamp = NO_TIMESTAMP;
                indexes.max_timestamp_offset = self.base_offset;
            }
        }
        // Batches behind the last indexed one (and the first interval) have to be looked at for their times.
        let file = self.file()?;
        let mut chain = Chain::at(self.base_offset);
        let mut scan = Scan::new(&*file, indexes.last_indexed_position, size);
        while let Ok(Some((position, header))) = scan.next_header(self.base_offset, &mut chain)? {
            if position != indexes.last_indexed_position || position == 0 {
                indexes.note_batch(self.base_offset, self.interval_bytes, position, &header);
            }
        }
        if size == 0 {
            indexes.first_timestamp = None;
        }
        Ok(())
    }
}
