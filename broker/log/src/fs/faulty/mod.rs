//! An in-memory file system that does to the log what disks and power cuts do: it forgets what was not synced (bytes
//! and names), tears writes, flips bits, fails an fsync and then drops the dirty pages, refuses writes and fills up.
//!
//! Seeded and single-clocked: the same seed and the same calls give the same outcome. One clone of the handle
//! survives [`FaultyFileSystem::crash`] and is what the log is reopened on; handles from before the crash are dead.

mod inode;
mod names;
mod plan;
mod rng;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirEntry, File, FileSystem, Metadata, OpenMode, parent_of};
use inode::Inode;
use names::Directory;
pub use plan::{FaultCounts, FaultPlan};
pub use rng::SplitMix64;

/// A name's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(u64),
    Dir(u64),
}

const ROOT: u64 = 0;

struct State {
    rng: SplitMix64,
    plan: FaultPlan,
    counts: FaultCounts,
    next_inode: u64,
    files: BTreeMap<u64, Inode>,
    dirs: BTreeMap<u64, Directory>,
    locks: Vec<PathBuf>,
    /// Raised by each crash: handles of an earlier generation are dead.
    generation: u64,
    clock_ms: i64,
    used_bytes: u64,
}

/// The handle. Clones share one disk.
#[derive(Clone)]
pub struct FaultyFileSystem(Arc<Mutex<State>>);

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("injected I/O error: {what}"))
}

impl State {
    /// Finds the directory that holds `path`, and the last component.
    fn resolve_parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
            .to_owned();
        match self.resolve(parent_of(path))? {
            Node::Dir(dir) => Ok((dir, name)),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Dir(ROOT);
        for component in path.components() {
            let name = match component {
                std::path::Component::Normal(name) => name.to_str().ok_or(io::ErrorKind::InvalidInput)?,
                _ => continue,
            };
            let Node::Dir(dir) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            node = *self.dirs[&dir].current.get(name).ok_or_else(|| not_found(path))?;
        }
        Ok(node)
    }

    fn recount(&mut self) {
        self.used_bytes = self.files.values().map(|inode| inode.current.len() as u64).sum();
    }

    /// Drops what neither a current nor a durable name reaches. Open handles keep an inode alive by holding a count.
    fn collect_garbage(&mut self) {
        let mut live: Vec<u64> = Vec::new();
        for directory in self.dirs.values() {
            for node in directory.current.values().chain(directory.reachable_after_crash()) {
                if let Node::File(id) = node {
                    live.push(*id);
                }
            }
        }
        live.sort_unstable();
        self.files
            .retain(|id, inode| inode.handles > 0 || live.binary_search(id).is_ok());
    }

    fn write_fault(&mut self, path: &Path) -> io::Result<()> {
        if self.plan.matches(path) && self.rng.chance(self.plan.write_error_per_million) {
            self.counts.write_errors += 1;
            return Err(eio("write"));
        }
        Ok(())
    }

    fn sync_fault(&mut self, path: &Path) -> bool {
        let one_shot = self.plan.fail_next_syncs > 0 && self.plan.matches(path);
        if one_shot {
            self.plan.fail_next_syncs -= 1;
        }
        let fails = one_shot || (self.plan.matches(path) && self.rng.chance(self.plan.sync_error_per_million));
        if fails {
            self.counts.sync_errors += 1;
        }
        fails
    }
}

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
            locks: Vec::new(),
            generation: 0,
            clock_ms: 0,
            used_bytes: 0,
        })))
    }

    /// The file system behind the trait object that the rest of the crate takes.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
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
        state.collect_garbage();
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
        if let Some(inode) = state.files.get_mut(&id) {
            inode.handles += 1;
        }
        Ok(Arc::new(FaultyFile {
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
            directory.rename(&from_name, &to_name);
        }
        state.collect_garbage();
        state.recount();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (dir, name) = state.resolve_parent(path)?;
        match state.dirs[&dir].current.get(&name) {
            Some(Node::File(_)) => {}
            Some(Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None => return Err(not_found(path)),
        }
        if let Some(directory) = state.dirs.get_mut(&dir) {
            directory.unlink(&name);
        }
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
            return Err(eio("fsync of a directory"));
        }
        if !state.plan.sync_dir_does_nothing
            && let Some(directory) = state.dirs.get_mut(&dir)
        {
            directory.sync();
        }
        state.collect_garbage();
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

struct FaultyFile {
    disk: FaultyFileSystem,
    path: PathBuf,
    id: u64,
    generation: u64,
    writable: bool,
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.generation != self.generation {
            return Err(eio("this handle is from before the crash"));
        }
        act(&mut state, self.id)
    }

    fn read(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.with(|state, id| {
            if state.plan.matches(&self.path) && state.rng.chance(state.plan.read_error_per_million) {
                state.counts.read_errors += 1;
                return Err(eio("read"));
            }
            let bytes = &state.files[&id].current;
            let start = usize::try_from(pos).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(len).min(bytes.len());
            Ok(Bytes::copy_from_slice(&bytes[start..end]))
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, id| {
            let fails = state.sync_fault(&self.path);
            let lies = state.plan.sync_data_does_nothing;
            let Some(inode) = state.files.get_mut(&id) else {
                return Ok(());
            };
            if fails {
                inode.drop_dirty();
                return Err(eio("fsync"));
            }
            if !lies {
                inode.sync();
            }
            Ok(())
        })
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.generation == self.generation
            && let Some(inode) = state.files.get_mut(&self.id)
        {
            inode.handles = inode.handles.saturating_sub(1);
        }
    }
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files[&id].current.len() as u64))
    }

    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let bytes = self.read(pos, buf.len())?;
        if bytes.len() < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.read(pos, len)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        let mut data: Vec<u8> = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices {
            data.extend_from_slice(slice);
        }
        self.with(|state, id| {
            if !self.writable {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if let Err(error) = state.write_fault(&self.path) {
                // Part of the bytes may have arrived all the same.
                let keep = state.rng.below(data.len() as u64 + 1);
                data.truncate(usize::try_from(keep).unwrap_or(0));
                let clock = state.clock_ms;
                if let Some(inode) = state.files.get_mut(&id) {
                    inode.write(pos, &data, clock);
                }
                state.recount();
                return Err(error);
            }
            let clock = state.clock_ms;
            let old_len = state.files[&id].current.len() as u64;
            let grows = (pos + data.len() as u64).saturating_sub(old_len);
            let room = state.plan.capacity_bytes.saturating_sub(state.used_bytes);
            let full = grows > room;
            if full {
                state.counts.disk_full += 1;
                // As a real disk does: what still fits is written, then the call fails.
                let fits = data.len() as u64 - (grows - room).min(data.len() as u64);
                data.truncate(usize::try_from(fits).unwrap_or(0));
            }
            if let Some(inode) = state.files.get_mut(&id) {
                inode.write(pos, &data, clock);
            }
            state.used_bytes += (pos + data.len() as u64).saturating_sub(old_len);
            if full {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, id| {
            state.write_fault(&self.path)?;
            let clock = state.clock_ms;
            if let Some(inode) = state.files.get_mut(&id) {
                inode.set_len(usize::try_from(len).unwrap_or(usize::MAX), clock);
            }
            state.recount();
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.read(pos, len)?;
        if bytes.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }

    fn drop_cache(&self) {
        let _ = self.with(|state, id| {
            if let Some(inode) = state.files.get_mut(&id) {
                inode.drop_cache();
            }
            state.recount();
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests;
