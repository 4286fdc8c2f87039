//! A file system for one life of a process: its syncs of log segments can be held back or
//! delayed, and after its death nothing it still tries reaches the disk. Each vote that came onto the
//! disk is noted.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use millrace_log::fs::{DirEntry, File, FileSystem, Metadata, OpenMode};

use super::super::state_file::{FILE_NAME, QuorumState};

/// Controls one process's disk.
#[derive(Default)]
pub struct Gate {
    held: Mutex<bool>,
    opened: Condvar,
    dead: AtomicBool,
    /// How many syncs of segments wait.
    waiting: AtomicU64,
    /// How many syncs of segments were done.
    pub syncs: AtomicU64,
    /// How long a sync takes, in microseconds.
    pub delay_us: AtomicU64,
    /// What the file of the vote said each time it was durable.
    states: Mutex<Vec<QuorumState>>,
}

impl Gate {
    /// From now on no segment becomes durable.
    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    /// Lets held syncs go on.
    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.opened.notify_all();
    }

    /// The process is dead: whatever it does fails.
    pub fn kill(&self) {
        self.dead.store(true, SeqCst);
        self.release();
    }

    /// How many syncs wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    /// The votes since the last call, each from when nobody may forget it any more.
    pub fn take_states(&self) -> Vec<QuorumState> {
        std::mem::take(&mut *self.states.lock().unwrap())
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.load(SeqCst) {
            Err(io::Error::other("this process is dead"))
        } else {
            Ok(())
        }
    }

    fn pass(&self) -> io::Result<()> {
        let delay = self.delay_us.load(SeqCst);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        self.waiting.fetch_add(1, SeqCst);
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.opened.wait(held).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
        self.syncs.fetch_add(1, SeqCst);
        self.alive()
    }
}

/// The file system of one process.
pub struct GatedFileSystem {
    pub inner: Arc<dyn FileSystem>,
    pub gate: Arc<Gate>,
}

impl FileSystem for GatedFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.gate.alive()?;
        let inner = self.inner.open(path, mode)?;
        let segment = path.extension().is_some_and(|extension| extension == "log");
        Ok(Arc::new(GatedFile {
            inner,
            gate: Arc::clone(&self.gate),
            segment,
        }))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.sync_dir(path)?;
        if let Ok(Some(state)) = QuorumState::load(&*self.inner, &path.join(FILE_NAME)) {
            let mut states = self.gate.states.lock().unwrap();
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
        Ok(())
    }
    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.available_bytes(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.gate.alive()?;
        self.inner.lock(path)
    }
}

struct GatedFile {
    inner: Arc<dyn File>,
    gate: Arc<Gate>,
    segment: bool,
}

impl File for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, pos)
    }
    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.inner.read_at(pos, len)
    }
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.write_all_vectored_at(slices, pos)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.alive()?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.segment {
            self.gate.pass()?;
        }
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        if self.segment {
            self.gate.pass()?;
        }
        self.inner.sync_all()
    }
    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.inner.map(pos, len)
    }
}
