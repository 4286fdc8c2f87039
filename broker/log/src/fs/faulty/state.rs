//! What the disk holds, and whether the next write or sync fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::inode::Inode;
use super::names::Directory;
use super::plan::{FaultCounts, FaultPlan};
use super::rng::SplitMix64;
use crate::fs::parent_of;

/// A name's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

pub(super) const ROOT: u64 = 0;

#[derive(Clone)]
pub(super) struct State {
    pub rng: SplitMix64,
    pub plan: FaultPlan,
    pub counts: FaultCounts,
    pub next_inode: u64,
    pub files: BTreeMap<u64, Inode>,
    pub dirs: BTreeMap<u64, Directory>,
    /// Files that have lost their name, with the directory it was in: kept while a crash could bring the name back, or a
    /// handle is open. A file has no more than one name and never changes its directory.
    pub nameless: Vec<(u64, u64)>,
    pub locks: Vec<PathBuf>,
    /// Raised by each crash: handles of an earlier generation are dead.
    pub generation: u64,
    pub clock_ms: i64,
    pub used_bytes: u64,
    pub bytes_read: u64,
}

pub(super) fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

pub(super) fn eio(what: &str) -> io::Error {
    io::Error::other(format!("injected I/O error: {what}"))
}

impl State {
    /// Finds the directory that holds `path`, and the last component.
    pub(super) fn resolve_parent(&self, path: &Path) -> io::Result<(u64, String)> {
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

    pub(super) fn resolve(&self, path: &Path) -> io::Result<Node> {
        self.walk(path, |directory, name| directory.current.get(name).copied())
    }

    /// As [`State::resolve`], by the names that are on the disk.
    pub(super) fn resolve_durable(&self, path: &Path) -> io::Result<Node> {
        self.walk(path, |directory, name| directory.durable.get(name).copied())
    }

    fn walk(&self, path: &Path, step: impl Fn(&Directory, &str) -> Option<Node>) -> io::Result<Node> {
        let mut node = Node::Dir(ROOT);
        for component in path.components() {
            let name = match component {
                std::path::Component::Normal(name) => name.to_str().ok_or(io::ErrorKind::InvalidInput)?,
                _ => continue,
            };
            let Node::Dir(dir) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            node = step(&self.dirs[&dir], name).ok_or_else(|| not_found(path))?;
        }
        Ok(node)
    }

    pub(super) fn recount(&mut self) {
        self.used_bytes = self.files.values().map(|inode| inode.current.len() as u64).sum();
    }

    /// Notes that the name of `node` in the directory `dir` is gone.
    pub(super) fn lost_name(&mut self, dir: u64, node: Option<Node>) {
        if let Some(Node::File(id)) = node {
            self.nameless.push((dir, id));
        }
    }

    /// Drops what neither a current nor a durable name reaches. Open handles keep an inode alive by holding a count.
    pub(super) fn collect_garbage(&mut self) {
        let Self {
            files, dirs, nameless, ..
        } = self;
        nameless.retain(|(dir, id)| {
            let node = Node::File(*id);
            let keeps = files[id].handles > 0 || dirs[dir].reachable_after_crash().any(|other| *other == node);
            if !keeps {
                files.remove(id);
            }
            keeps
        });
    }

    /// The same after a crash, which loses names that were not synced and brings back others.
    pub(super) fn collect_after_crash(&mut self) {
        let named = self.dirs.values().flat_map(|directory| directory.current.values());
        let live: BTreeSet<u64> = named
            .filter_map(|node| match node {
                Node::File(id) => Some(*id),
                Node::Dir(_) => None,
            })
            .collect();
        self.files.retain(|id, _| live.contains(id));
        self.nameless.clear();
    }

    pub(super) fn write_fault(&mut self, path: &Path) -> io::Result<()> {
        if self.plan.matches(path) && self.rng.chance(self.plan.write_error_per_million) {
            self.counts.write_errors += 1;
            return Err(eio("write"));
        }
        Ok(())
    }

    pub(super) fn sync_fault(&mut self, path: &Path) -> bool {
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
