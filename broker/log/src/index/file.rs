//! An index file: entries on the disk, the newest ones in memory until there are enough to write.
//!
//! No handle is kept: a partition that nobody uses costs no open file, and lookups are rare because readers remember
//! where they were.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use crate::fs::{File, FileSystem, OpenMode};

/// Entries collected in memory before they are written: one write a megabyte or so of log.
const PENDING_LIMIT: usize = 128;

/// An entry of fixed size whose fields rise along the file.
pub trait IndexEntry: Copy {
    /// Bytes of an entry.
    const SIZE: usize;
    /// Appends the entry's bytes.
    fn encode(self, out: &mut Vec<u8>);
    /// Reads an entry from at least [`IndexEntry::SIZE`] bytes.
    fn decode(bytes: &[u8]) -> Self;
    /// Whether the entry is possible at all, and may come right after `previous`.
    fn follows(self, previous: Option<Self>) -> bool;
}

/// The entries of one index. `written` entries are in the file, `pending` ones follow them.
pub struct IndexFile<E> {
    path: PathBuf,
    written: u64,
    pending: Vec<E>,
    last: Option<E>,
    /// Whether the file may hold bytes that no fsync covered.
    unsynced: bool,
}

impl<E: IndexEntry> IndexFile<E> {
    /// An index without entries; the file is made when there is something to write.
    #[must_use]
    pub fn empty(path: PathBuf) -> Self {
        IndexFile {
            path,
            written: 0,
            pending: Vec::new(),
            last: None,
            unsynced: false,
        }
    }

    /// Opens an index by its length and last entry alone. `Ok(None)` if it can't be one: bytes over, or a last entry
    /// that is not possible.
    ///
    /// # Errors
    /// The file system's; a missing file is [`io::ErrorKind::NotFound`].
    pub fn open(fs: &dyn FileSystem, path: PathBuf) -> io::Result<Option<Self>> {
        let file = fs.open(&path, OpenMode::Read)?;
        let len = file.len()?;
        if len % E::SIZE as u64 != 0 {
            return Ok(None);
        }
        let written = len / E::SIZE as u64;
        let last = match written {
            0 => None,
            _ => Some(read_entry::<E>(&*file, written - 1)?),
        };
        if last.is_some_and(|entry| !entry.follows(None)) {
            return Ok(None);
        }
        Ok(Some(IndexFile {
            path,
            written,
            pending: Vec::new(),
            last,
            unsynced: false,
        }))
    }

    /// Reads every entry of a file and keeps the longest prefix whose entries follow each other.
    ///
    /// # Errors
    /// The file system's; a missing file is [`io::ErrorKind::NotFound`].
    pub fn read_valid_prefix(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<E>> {
        // A segment of 2 GiB with an entry for each 100 bytes has 20 million entries.
        let bytes = crate::fs::read_whole(fs, path, 512 << 20)?;
        let mut entries: Vec<E> = Vec::with_capacity(bytes.len() / E::SIZE);
        for chunk in bytes.chunks_exact(E::SIZE) {
            let entry = E::decode(chunk);
            if !entry.follows(entries.last().copied()) {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest entry.
    #[must_use]
    pub fn last(&self) -> Option<E> {
        self.last
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether enough entries wait that [`IndexFile::write_pending`] should be called.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.pending.len() >= PENDING_LIMIT
    }

    /// Adds an entry if it follows the last one; returns whether it did.
    pub fn append(&mut self, entry: E) -> bool {
        let follows = entry.follows(self.last);
        if follows {
            self.pending.push(entry);
            self.last = Some(entry);
        }
        follows
    }

    /// Writes the entries that wait, and makes the file if there is none.
    ///
    /// # Errors
    /// The file system's; the entries keep waiting, so that a later call may succeed.
    pub fn write_pending(&mut self, fs: &dyn FileSystem) -> io::Result<()> {
        let file = fs.open(&self.path, OpenMode::CreateOrOpen)?;
        let end = self.written * E::SIZE as u64;
        let mut bytes = Vec::with_capacity(self.pending.len() * E::SIZE);
        for entry in &self.pending {
            entry.encode(&mut bytes);
        }
        if file.len()? > end {
            // An earlier write failed half way, or an unknown hand added bytes.
            file.set_len(end)?;
        }
        if let Err(error) = file.write_all_vectored_at(&[IoSlice::new(&bytes)], end) {
            let _ = file.set_len(end);
            return Err(error);
        }
        self.written += self.pending.len() as u64;
        self.pending = Vec::new();
        self.unsynced = true;
        Ok(())
    }

    /// Writes what waits and makes it durable. The directory must be synced by the caller if the file is new.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync(&mut self, fs: &dyn FileSystem) -> io::Result<()> {
        self.write_pending(fs)?;
        if self.unsynced {
            fs.open(&self.path, OpenMode::ReadWrite)?.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// The last entry for which `below` holds, where it holds for a prefix of the entries.
    ///
    /// # Errors
    /// The file system's.
    pub fn last_where(&self, fs: &dyn FileSystem, below: impl Fn(E) -> bool) -> io::Result<Option<E>> {
        let in_memory = self.pending.partition_point(|entry| below(*entry));
        if in_memory > 0 {
            return Ok(Some(self.pending[in_memory - 1]));
        }
        if self.written == 0 {
            return Ok(None);
        }
        let file = fs.open(&self.path, OpenMode::Read)?;
        let count = count_where(&*file, self.written, &below)?;
        if count == 0 {
            Ok(None)
        } else {
            read_entry(&*file, count - 1).map(Some)
        }
    }

    /// The first entry after those for which `below` holds.
    ///
    /// # Errors
    /// The file system's.
    pub fn first_not(&self, fs: &dyn FileSystem, below: impl Fn(E) -> bool) -> io::Result<Option<E>> {
        if self.written > 0 {
            let file = fs.open(&self.path, OpenMode::Read)?;
            let count = count_where(&*file, self.written, &below)?;
            if count < self.written {
                return read_entry(&*file, count).map(Some);
            }
        }
        Ok(self
            .pending
            .get(self.pending.partition_point(|entry| below(*entry)))
            .copied())
    }

    /// Drops all entries from the first one for which `keep` does not hold; the shortened file is synced before this
    /// returns, so that no dropped entry can come back and meet newer ones.
    ///
    /// # Errors
    /// The file system's.
    pub fn truncate_where(&mut self, fs: &dyn FileSystem, keep: impl Fn(E) -> bool) -> io::Result<()> {
        self.pending
            .truncate(self.pending.partition_point(|entry| keep(*entry)));
        if self.written > 0 {
            let file = fs.open(&self.path, OpenMode::ReadWrite)?;
            let count = count_where(&*file, self.written, &keep)?;
            if count < self.written {
                self.pending.clear();
                file.set_len(count * E::SIZE as u64)?;
                file.sync_all()?;
                self.written = count;
            }
        }
        self.last = match (self.pending.last(), self.written) {
            (Some(entry), _) => Some(*entry),
            (None, 0) => None,
            (None, written) => Some(read_entry(&*fs.open(&self.path, OpenMode::Read)?, written - 1)?),
        };
        Ok(())
    }

    /// Replaces the file by these entries, atomically and durably. If it can't be written now (a full or read-only
    /// disk) the entries stay in memory and are written with the next ones.
    #[must_use]
    pub fn replace(fs: &dyn FileSystem, path: PathBuf, entries: Vec<E>) -> Self {
        let mut bytes = Vec::with_capacity(entries.len() * E::SIZE);
        for entry in &entries {
            entry.encode(&mut bytes);
        }
        match crate::fs::write_atomic(fs, &path, &bytes) {
            Ok(()) => IndexFile {
                path,
                written: entries.len() as u64,
                pending: Vec::new(),
                last: entries.last().copied(),
                unsynced: false,
            },
            Err(_) => {
                // Whatever is there now is not these entries.
                let _ = fs.remove_file(&path);
                Self::in_memory(path, entries)
            }
        }
    }

    /// Entries in memory only, for an index whose file can't be written now. They are written with the next ones.
    #[must_use]
    pub fn in_memory(path: PathBuf, entries: Vec<E>) -> Self {
        IndexFile {
            path,
            written: 0,
            last: entries.last().copied(),
            pending: entries,
            unsynced: true,
        }
    }

    /// Goes on with a file of which these entries, a prefix of it, are right and durable; the rest of it is cut.
    ///
    /// # Errors
    /// The file system's.
    pub fn resume(fs: &dyn FileSystem, path: PathBuf, entries: Vec<E>) -> io::Result<Self> {
        let file = fs.open(&path, OpenMode::CreateOrOpen)?;
        let len = (entries.len() * E::SIZE) as u64;
        let unsynced = file.len()? != len;
        if unsynced {
            file.set_len(len)?;
            // Cut for good, as in `truncate_where`.
            file.sync_all()?;
        }
        Ok(IndexFile {
            path,
            written: entries.len() as u64,
            pending: Vec::new(),
            last: entries.last().copied(),
            unsynced,
        })
    }

    /// All entries, oldest first.
    ///
    /// # Errors
    /// The file system's.
    pub fn entries(&self, fs: &dyn FileSystem) -> io::Result<Vec<E>> {
        let mut entries = Vec::new();
        if self.written > 0 {
            let len = usize::try_from(self.written)
                .unwrap_or(usize::MAX)
                .saturating_mul(E::SIZE);
            let bytes = fs.open(&self.path, OpenMode::Read)?.read_at(0, len)?;
            entries.extend(bytes.chunks_exact(E::SIZE).map(E::decode));
        }
        entries.extend_from_slice(&self.pending);
        Ok(entries)
    }
}

fn read_entry<E: IndexEntry>(file: &dyn File, index: u64) -> io::Result<E> {
    // No entry is longer than 16 bytes.
    let mut buffer = [0; 16];
    let bytes = &mut buffer[..E::SIZE];
    file.read_exact_at(bytes, index * E::SIZE as u64)?;
    Ok(E::decode(bytes))
}

/// How many of the first `count` entries satisfy `below`, by binary search.
fn count_where<E: IndexEntry>(file: &dyn File, count: u64, below: &impl Fn(E) -> bool) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if below(read_entry(file, middle)?) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::super::{OffsetEntry, TimeEntry};
    use super::*;
    use crate::fs::faulty::FaultyFileSystem;

    fn entry(relative_offset: u32, position: u32) -> OffsetEntry {
        OffsetEntry {
            relative_offset,
            position,
        }
    }

    #[test]
    fn entries_on_disk_and_in_memory_are_one_index() {
        let disk = FaultyFileSystem::new(1);
        let mut index = IndexFile::empty(PathBuf::from("/0.index"));
        for at in 1..=300 {
            assert!(index.append(entry(at * 10, at * 100)));
            if index.wants_write() {
                index.write_pending(&disk).unwrap();
            }
        }
        assert!(!index.append(entry(3000, 40_000)), "offsets must rise");
        assert!(!index.append(entry(4000, 30_000)), "positions must rise");
        assert_eq!(index.len(), 300);
        for offset in 0..3100 {
            let expected = (offset >= 10)
                .then(|| (offset / 10).min(300))
                .map(|at| entry(at * 10, at * 100));
            let found = index
                .last_where(&disk, |entry| entry.relative_offset <= offset)
                .unwrap();
            assert_eq!(found, expected, "offset {offset}");
            let next = index.first_not(&disk, |entry| entry.relative_offset <= offset).unwrap();
            let expected = (offset / 10 < 300).then(|| entry((offset / 10 + 1) * 10, (offset / 10 + 1) * 100));
            assert_eq!(next, expected, "offset {offset}");
        }
        for keep in [299, 256, 200, 0] {
            index
                .truncate_where(&disk, |entry| entry.relative_offset <= keep * 10)
                .unwrap();
            assert_eq!(index.len(), u64::from(keep));
            assert_eq!(index.last(), (keep > 0).then(|| entry(keep * 10, keep * 100)));
            assert_eq!(index.entries(&disk).unwrap().len(), keep as usize);
        }
    }

    #[test]
    fn bytes_are_kafkas() {
        let disk = FaultyFileSystem::new(1);
        let _ = IndexFile::replace(&disk, "/i".into(), vec![entry(1, 2)]);
        assert_eq!(disk.contents(Path::new("/i")).unwrap(), [0, 0, 0, 1, 0, 0, 0, 2]);
        let _ = IndexFile::replace(
            &disk,
            "/t".into(),
            vec![TimeEntry {
                timestamp: 3,
                relative_offset: 4,
            }],
        );
        assert_eq!(
            disk.contents(Path::new("/t")).unwrap(),
            [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4]
        );
    }

    #[test]
    fn damaged_files_are_cut_to_what_rises() {
        let disk = FaultyFileSystem::new(1);
        let entries: Vec<_> = (1..=10).map(|at| entry(at, at * 50)).collect();
        let _ = IndexFile::replace(&disk, "/i".into(), entries.clone());
        assert!(IndexFile::<OffsetEntry>::open(&disk, "/i".into()).unwrap().is_some());
        // A hole of zeros, as a crash leaves it.
        disk.edit(Path::new("/i"), |bytes| {
            bytes[40..48].fill(0);
            bytes.truncate(77);
            Ok(())
        })
        .unwrap();
        assert!(IndexFile::<OffsetEntry>::open(&disk, "/i".into()).unwrap().is_none());
        assert_eq!(
            IndexFile::<OffsetEntry>::read_valid_prefix(&disk, Path::new("/i")).unwrap(),
            entries[..5]
        );
    }
}
