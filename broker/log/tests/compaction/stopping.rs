//! A file system that dies after so many changes: from then on nothing is done, and all is refused.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use millrace_log::fs::{DirEntry, Metadata, OpenMode, parent_of};
use millrace_log::{File, FileSystem};

/// Called after each change with the file, or with the directory whose names it changed or made durable.
type Hook = Box<dyn Fn(&Path) + Send + Sync>;

/// Changes that are still let through, and that were made.
pub struct Left {
    left: AtomicU64,
    made: AtomicU64,
    hook: OnceLock<Hook>,
    in_hook: AtomicBool,
}

impl Left {
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// From now on so many are let through.
    pub fn stop_after(&self, changes: u64) {
        self.left.store(changes, Ordering::SeqCst);
        self.made.store(0, Ordering::SeqCst);
    }

    /// Calls this after each change from now on, except after its own.
    pub fn after_each(&self, hook: impl Fn(&Path) + Send + Sync + 'static) {
        assert!(self.hook.set(Box::new(hook)).is_ok());
    }

    fn changed<T>(&self, path: &Path, result: T) -> T {
        if let Some(hook) = self.hook.get()
            && !self.in_hook.swap(true, Ordering::SeqCst)
        {
            hook(path);
            self.in_hook.store(false, Ordering::SeqCst);
        }
        result
    }

    fn check(&self) -> io::Result<()> {
        if self.left.load(Ordering::SeqCst) == 0 {
            return Err(io::Error::other("the machine is dead"));
        }
        Ok(())
    }

    fn change(&self) -> io::Result<()> {
        self.check()?;
        self.left.fetch_sub(1, Ordering::SeqCst);
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

pub struct Stopping {
    inner: Arc<dyn FileSystem>,
    left: Arc<Left>,
}

impl Stopping {
    pub fn around(inner: Arc<dyn FileSystem>) -> (Arc<dyn FileSystem>, Arc<Left>) {
        let left = Arc::new(Left {
            left: AtomicU64::new(u64::MAX),
            made: AtomicU64::new(0),
            hook: OnceLock::new(),
            in_hook: AtomicBool::new(false),
        });
        let stopping = Stopping {
            inner,
            left: left.clone(),
        };
        (Arc::new(stopping), left)
    }
}

struct StoppingFile {
    path: PathBuf,
    inner: Arc<dyn File>,
    left: Arc<Left>,
}

impl FileSystem for Stopping {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.left.check()?,
            _ => self.left.change()?,
        }
        Ok(Arc::new(StoppingFile {
            path: path.to_owned(),
            inner: self.inner.open(path, mode)?,
            left: self.left.clone(),
        }))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.left.check()?;
        self.inner.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.left.check()?;
        self.inner.metadata(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.left.change()?;
        self.inner.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.left.change()?;
        self.left.changed(parent_of(to), self.inner.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.left.change()?;
        self.left.changed(parent_of(path), self.inner.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.left.change()?;
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.left.change()?;
        self.left.changed(path, self.inner.sync_dir(path))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.left.check()?;
        self.inner.available_bytes(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.left.change()?;
        self.inner.lock(path)
    }
}

impl File for StoppingFile {
    fn len(&self) -> io::Result<u64> {
        self.left.check()?;
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.left.check()?;
        self.inner.read_exact_at(buf, pos)
    }

    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.left.check()?;
        self.inner.read_at(pos, len)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.left.change()?;
        let written = self.inner.write_all_vectored_at(slices, pos);
        self.left.changed(&self.path, written)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.left.change()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.left.change()?;
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.left.change()?;
        self.left.changed(&self.path, self.inner.sync_all())
    }

    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.left.check()?;
        self.inner.map(pos, len)
    }
}
