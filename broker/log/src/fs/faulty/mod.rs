//! An in-memory file system that does to the log what disks and power cuts do: it forgets what was not synced (bytes
//! and names), tears writes, flips bits, fails an fsync and then drops the dirty pages, refuses writes and fills up.
//!
//! Seeded and single-clocked: the same seed and the same calls give the same outcome. One clone of the handle
//! survives [`FaultyFileSystem::crash`] and is what the log is reopened on; handles from before the crash are dead.

mod file;
mod inode;
mod names;
mod plan;
mod rng;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::{DirEntry, File, FileSystem, Metadata, OpenMode};
use file::FaultyFile;
use inode::Inode;
use names::Directory;
pub use plan::{FaultCounts, FaultPlan};
pub use rng::SplitMix64;
use state::{Node, ROOT, State, eio, not_found};

/// The handle. Clones share one disk.
#[derive(Clone)]
pub struct FaultyFileSystem(Arc<Mutex<State>>);

impl FaultyFileSystem {
    /// An empty disk with no faults on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dirs = BTreeMap::new();
        dirs.insert(ROOT, Directory::default());
        FaultyFileSystem(Arc::new(Mutex::new(State {
            rng: SplitMix64::new(seed),
            plan: FaultPlan::default(),
            counts: FaultCounts::default(),
            next_inode: 1,
            files: BTreeMap::new(),
            dirs,
            nameless: Vec::new(),
            locks: Vec::new(),
            generation: 0,
            clock_ms: 0,
            used_bytes: 0,
            bytes_read: 0,
        })))
    }

    /// The file system behind the trait object that the rest of the crate takes.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// An independent disk that holds the same, also what is not synced, with no handle open and nothing locked.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut state = self.0.lock().clone();
        state.locks.clear();
        for inode in state.files.values_mut() {
            inode.handles = 0;
        }
        FaultyFileSystem(Arc::new(Mutex::new(state)))
    }

    /// Sets which faults happen from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.0.lock().plan = plan;
    }

    /// The faults as set.
    #[must_use]
    pub fn plan(&self) -> FaultPlan {
        self.0.lock().plan.clone()
    }

    /// How often each fault happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.0.lock().counts.clone()
    }

    /// Sets the clock that [`Metadata::modified_ms`] is taken from.
    pub fn set_clock_ms(&self, now_ms: i64) {
        self.0.lock().clock_ms = now_ms;
    }

    /// Bytes in all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().used_bytes
    }

    /// Bytes that were read from all files so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.0.lock().bytes_read
    }

    /// The power goes: what was not synced is lost in part or in whole, locks are released, open handles die.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.counts.crashes += 1;
        state.generation += 1;
        state.locks.clear();
        for directory in state.dirs.values_mut() {
            directory.crash(&mut state.rng, &state.plan);
        }
        for inode in state.files.values_mut() {
            inode.handles = 0;
            inode.crash(&mut state.rng, &state.plan);
        }
        state.collect_after_crash();
        state.recount();
    }

    /// The process dies but the machine lives: the page cache stays, locks are released, open handles die.
    pub fn kill_process(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locks.clear();
        for inode in state.files.values_mut() {
            inode.handles = 0;
        }
        state.collect_garbage();
        state.recount();
    }

    /// The kernel fails to write a file's dirty pages back and drops them. The handles that are open now report it at
    /// their next sync; those opened later never do (Rebello et al., USENIX ATC'20).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn fail_writeback(&self, path: &Path) -> io::Result<()> {
        self.with_inode(path, |inode| {
            inode.drop_dirty();
            inode.failed_writebacks += 1;
        })
    }

    /// How many handles of a file are open.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_handles(&self, path: &Path) -> io::Result<u32> {
        self.with_inode(path, |inode| inode.handles)
    }

    fn with_inode<T>(&self, path: &Path, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.0.lock();
        let Node::File(id) = state.resolve(path)? else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        state.files.get_mut(&id).map(act).ok_or_else(|| not_found(path))
    }

    /// Flips one bit of a file, in the cache and on the disk.
    ///
    /// # Errors
    /// `NotFound`, or `UnexpectedEof` beyond the end.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        self.edit(path, |bytes| {
            let at = usize::try_from(byte).unwrap_or(usize::MAX);
            let target = bytes.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            *target ^= 1 << (bit & 7);
            Ok(())
        })
    }

    /// Changes a file's bytes in the cache and on the disk alike, as damage from outside.
    ///
    /// # Errors
    /// `NotFound`, and what the closure returns.
    pub fn edit(&self, path: &Path, change: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.0.lock();
        let Node::File(id) = state.resolve(path)? else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let inode = state.files.get_mut(&id).ok_or_else(|| not_found(path))?;
        inode.edit(change)?;
        state.recount();
        Ok(())
    }

    /// A file's bytes as the process sees them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        match state.resolve(path)? {
            Node::File(id) => Ok(state.files[&id].current.clone()),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// A file's bytes as a crash would leave them if it lost all that was not synced, the names among it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn durable_contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        match state.resolve_durable(path)? {
            Node::File(id) => Ok(state.files[&id].durable.clone()),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Every file's path and length, sorted by path.
    #[must_use]
    pub fn list_files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        let mut found = Vec::new();
        let mut todo = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            for (name, node) in &state.dirs[&dir].current {
                match node {
                    Node::File(id) => found.push((path.join(name), state.files[id].current.len() as u64)),
                    Node::Dir(id) => todo.push((path.join(name), *id)),
                }
            }
        }
        found.sort();
        found
    }
}

impl FileSystem for FaultyFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (dir, name) = state.resolve_parent(path)?;
        let existing = state.dirs[&dir].current.get(&name).copied();
        let id = match (existing, mode) {
            (Some(Node::Dir(_)), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Node::File(id)), OpenMode::CreateOrTruncate) => {
                state.write_fault(path)?;
                let clock = state.clock_ms;
                if let Some(inode) = state.files.get_mut(&id) {
                    inode.set_len(0, clock);
                }
                state.recount();
                id
            }
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(not_found(path)),
            (None, _) => {
                state.write_fault(path)?;
                let id = state.next_inode;
                state.next_inode += 1;
                state.files.insert(id, Inode::new(state.clock_ms));
                if let Some(directory) = state.dirs.get_mut(&dir) {
                    directory.link(&name, Node::File(id));
                }
                id
            }
        };
        let mut failures = 0;
        if let Some(inode) = state.files.get_mut(&id) {
            inode.handles += 1;
            failures = inode.failed_writebacks;
        }
        Ok(Arc::new(FaultyFile {
            seen_failures: AtomicU64::new(failures),
            disk: self.clone(),
            path: path.to_owned(),
            id,
            generation: state.generation,
            writable: mode != OpenMode::Read,
        }))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        match state.resolve(path)? {
            Node::Dir(dir) => Ok(state.dirs[&dir]
                .current
                .iter()
                .map(|(name, node)| DirEntry {
                    name: name.into(),
                    is_dir: matches!(node, Node::Dir(_)),
                })
                .collect()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.0.lock();
        Ok(match state.resolve(path)? {
            Node::Dir(_) => Metadata {
                len: 0,
                is_dir: true,
                modified_ms: 0,
            },
            Node::File(id) => {
                let inode = &state.files[&id];
                Metadata {
                    len: inode.current.len() as u64,
                    is_dir: false,
                    modified_ms: inode.modified_ms,
                }
            }
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (parent, name) = state.resolve_parent(path)?;
        if state.dirs[&parent].current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.write_fault(path)?;
        let id = state.next_inode;
        state.next_inode += 1;
        state.dirs.insert(id, Directory::default());
        if let Some(directory) = state.dirs.get_mut(&parent) {
            directory.link(&name, Node::Dir(id));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (from_dir, from_name) = state.resolve_parent(from)?;
        let (to_dir, to_name) = state.resolve_parent(to)?;
        if from_dir != to_dir {
            return Err(io::Error::new(
                io::ErrorKind::CrossesDevices,
                "the log renames within one directory only",
            ));
        }
        if !state.dirs[&from_dir].current.contains_key(&from_name) {
            return Err(not_found(from));
        }
        state.write_fault(to)?;
        if let Some(directory) = state.dirs.get_mut(&from_dir) {
            let replaced = directory
                .current
                .get(&to_name)
                .copied()
                .filter(|_| from_name != to_name);
            directory.rename(&from_name, &to_name);
            state.lost_name(to_dir, replaced);
        }
        state.collect_garbage();
        state.recount();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (dir, name) = state.resolve_parent(path)?;
        let node = state.dirs[&dir].current.get(&name).copied();
        match node {
            Some(Node::File(_)) => {}
            Some(Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(not_found(path)),
        }
        if let Some(directory) = state.dirs.get_mut(&dir) {
            directory.unlink(&name);
        }
        state.lost_name(dir, node);
        state.collect_garbage();
        state.recount();
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (dir, name) = state.resolve_parent(path)?;
        if !matches!(state.dirs[&dir].current.get(&name), Some(Node::Dir(_))) {
            return Err(not_found(path));
        }
        if let Some(directory) = state.dirs.get_mut(&dir) {
            directory.unlink(&name);
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let Node::Dir(dir) = state.resolve(path)? else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        if state.sync_fault(path) {
            let hides = state.plan.failed_syncs_succeed;
            return if hides {
                Ok(())
            } else {
                Err(eio("fsync of a directory"))
            };
        }
        if !state.plan.sync_dir_does_nothing
            && let Some(directory) = state.dirs.get_mut(&dir)
        {
            directory.sync();
        }
        state.collect_garbage();
        state.recount();
        Ok(())
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.plan.capacity_bytes.saturating_sub(state.used_bytes))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let generation = {
            let mut state = self.0.lock();
            if state.locks.iter().any(|held| held == path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.locks.push(path.to_owned());
            state.generation
        };
        match self.open(path, OpenMode::CreateOrOpen) {
            Ok(_) => Ok(Box::new(LockGuard {
                disk: self.clone(),
                path: path.to_owned(),
                generation,
            })),
            Err(error) => {
                self.0.lock().locks.retain(|held| held != path);
                Err(error)
            }
        }
    }
}

struct LockGuard {
    disk: FaultyFileSystem,
    path: PathBuf,
    generation: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.generation == self.generation {
            state.locks.retain(|held| *held != self.path);
        }
    }
}

#[cfg(test)]
mod tests;
