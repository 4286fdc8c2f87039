//! What a process sees of its machine's disk: nothing any more once it has died, which may be between any two things
//! that it does there.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use millrace_log::{
    File, FileSystem,
    fs::{DirEntry, Metadata, OpenMode},
};

/// How many more times a process changes anything on its disk.
#[derive(Debug)]
pub(crate) struct Power(AtomicU64);

impl Power {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(u64::MAX)))
    }

    /// The process dies after so many changes, unless [`Power::stays`] comes first.
    pub(crate) fn ends_after(&self, changes: u64) {
        self.0.store(changes, Ordering::Relaxed);
    }

    pub(crate) fn stays(&self) {
        self.ends_after(u64::MAX);
    }

    /// The process dies: whatever it still tries, and be it to clean up, changes nothing.
    pub(crate) fn end(&self) {
        self.ends_after(0);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn change(&self) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("the process has died"));
        }
        if left < u64::MAX {
            self.0.store(left - 1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A disk for as long as a process lives.
pub(crate) struct Powered {
    pub disk: Arc<dyn FileSystem>,
    pub power: Arc<Power>,
}

impl FileSystem for Powered {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode != OpenMode::Read {
            self.power.change()?;
        }
        Ok(Arc::new(PoweredFile {
            file: self.disk.open(path, mode)?,
            power: Arc::clone(&self.power),
        }))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.disk.metadata(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.power.change()?;
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.power.change()?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.power.change()?;
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.power.change()?;
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.power.change()?;
        self.disk.sync_dir(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.available_bytes(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
}

struct PoweredFile {
    file: Arc<dyn File>,
    power: Arc<Power>,
}

impl File for PoweredFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, pos)
    }

    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.file.read_at(pos, len)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.power.change()?;
        self.file.write_all_vectored_at(slices, pos)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.power.change()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.power.change()?;
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.power.change()?;
        self.file.sync_all()
    }

    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.file.map(pos, len)
    }

    fn start_writeback(&self, pos: u64, len: u64) {
        self.file.start_writeback(pos, len);
    }

    fn drop_cache(&self, from: u64) {
        self.file.drop_cache(from);
    }
}
