//! The snapshot files beside the metadata log: `<last index, 20 digits>-<term, 10 digits>.checkpoint`
//! (KIP-630). A snapshot is on the disk, name and all, before any log is given up behind it;
//! the newest two are kept.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millrace_log::fs::{FileSystem, read_whole, write_atomic};
use parking_lot::Mutex;

use super::{
    error::QuorumError,
    snapshot::Snapshot,
    types::{LogId, SnapshotMeta, log_id},
};

const SUFFIX: &str = ".checkpoint";
/// What the suffix of a damaged file becomes, so that someone can look at it.
const DAMAGED_SUFFIX: &str = ".checkpoint.damaged";
const KEPT: usize = 2;
/// The largest metadata that a cluster may have needs about a tenth.
const MAX_BYTES: u64 = 1 << 30;

/// Room that a snapshot leaves.
const MIN_ROOM_BYTES: u64 = 1 << 20;

/// The snapshots of one voter.
pub(super) struct SnapshotStore {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    newest: Mutex<Option<SnapshotMeta>>,
    /// Keeps writers apart, and readers from what is being pruned; `true` once no more may be
    /// written.
    closed: Mutex<bool>,
}

impl SnapshotStore {
    /// Opens the directory and reads the newest snapshot.
    ///
    /// `joins(last, newest)` tells whether the log makes up for a snapshot that ends at `last`
    /// (none: the beginning) where one that ends at `newest` is damaged.
    ///
    /// # Errors
    /// [`QuorumError::Damaged`] if the newest snapshot is damaged and no older one together
    /// with the log makes up for it: metadata that is missing is never taken for metadata that
    /// is not there.
    pub(super) fn open(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        joins: impl Fn(Option<LogId>, LogId) -> bool,
    ) -> Result<(Self, Option<Snapshot>), QuorumError> {
        let listed = list(&*fs, &dir).map_err(QuorumError::io(dir.display().to_string()))?;
        let mut damaged: Vec<(PathBuf, LogId, String)> = Vec::new();
        let mut found = None;
        for (id, path) in listed {
            match read(&*fs, &path, id) {
                Ok((snapshot, _)) => {
                    found = Some(snapshot);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    damaged.push((path, id, error.to_string()));
                }
                Err(source) => {
                    return Err(QuorumError::Io {
                        what: path.display().to_string(),
                        source,
                    });
                }
            }
        }
        if let Some((path, newest, reason)) = damaged.first()
            && !joins(found.as_ref().map(|snapshot| snapshot.last), *newest)
        {
            return Err(QuorumError::damaged(path.display().to_string(), reason.clone()));
        }
        for (path, _, reason) in &damaged {
            tracing::warn!(path = %path.display(), reason, "damaged metadata snapshot set aside");
            let aside = path.with_extension("").with_extension(&DAMAGED_SUFFIX[1..]);
            fs.rename(path, &aside)
                .and_then(|()| fs.sync_dir(&dir))
                .map_err(QuorumError::io(path.display().to_string()))?;
        }
        let newest = Mutex::new(found.as_ref().map(Snapshot::meta));
        Ok((
            Self {
                fs,
                dir,
                newest,
                closed: Mutex::new(false),
            },
            found,
        ))
    }

    /// Whether the disk has room for a snapshot of about the newest one's size. Where it can't
    /// be told, writing will tell.
    pub(super) fn has_room(&self) -> bool {
        let size = self.newest_id().and_then(|id| self.fs.metadata(&self.path(id)).ok());
        let wanted = size.map_or(0, |found| found.len.saturating_mul(2)) + MIN_ROOM_BYTES;
        self.fs
            .available_bytes(&self.dir)
            .map_or(true, |available| available >= wanted)
    }

    /// Stores a snapshot; on return it is on the disk. Returns its bytes.
    ///
    /// An older one than the newest is not stored: it would never be read.
    pub(super) fn store(&self, snapshot: &Snapshot) -> io::Result<Bytes> {
        let bytes = snapshot.encode()?;
        let closed = self.closed.lock();
        if *closed {
            return Err(io::Error::other("the metadata quorum is shut down"));
        }
        let known = self.newest_id();
        if known.is_some_and(|known| known >= snapshot.last) {
            return Ok(bytes);
        }
        write_atomic(&*self.fs, &self.path(snapshot.last), &bytes)?;
        *self.newest.lock() = Some(snapshot.meta());
        self.prune()?;
        Ok(bytes)
    }

    /// Waits for a snapshot that is being written; after this none is.
    pub(super) fn close(&self) {
        *self.closed.lock() = true;
    }

    fn newest_id(&self) -> Option<LogId> {
        self.newest.lock().as_ref().and_then(|meta| meta.last_log_id)
    }

    /// The newest snapshot's description and bytes, as stored.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` if it was damaged since it was written.
    pub(super) fn newest(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let _no_pruning = self.closed.lock();
        let Some(id) = self.newest_id() else { return Ok(None) };
        let (snapshot, bytes) = read(&*self.fs, &self.path(id), id)?;
        Ok(Some((snapshot.meta(), bytes)))
    }

    fn path(&self, id: LogId) -> PathBuf {
        self.dir
            .join(format!("{:020}-{:010}{SUFFIX}", id.index, id.leader_id.term))
    }

    fn prune(&self) -> io::Result<()> {
        for (_, path) in list(&*self.fs, &self.dir)?.into_iter().skip(KEPT) {
            self.fs.remove_file(&path)?;
        }
        Ok(())
    }
}

/// Snapshot files, newest first. Leftovers of a write that did not finish are no snapshots.
fn list(fs: &dyn FileSystem, dir: &Path) -> io::Result<Vec<(LogId, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs.read_dir(dir)? {
        if let Some(id) = entry.name.to_str().and_then(parse_name) {
            found.push((id, dir.join(&entry.name)));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    Ok(found)
}

fn parse_name(name: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(index, 20) || !digits(term, 10) {
        return None;
    }
    Some(log_id(term.parse().ok()?, index.parse().ok()?))
}

fn read(fs: &dyn FileSystem, path: &Path, id: LogId) -> io::Result<(Snapshot, Bytes)> {
    let bytes = read_whole(fs, path, MAX_BYTES)?;
    let damaged = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let snapshot = Snapshot::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    if snapshot.last != id {
        return Err(damaged(format!(
            "it ends at {}, not where its name says",
            snapshot.last
        )));
    }
    Ok((snapshot, bytes))
}

#[cfg(test)]
mod tests {
    use millrace_log::FaultyFileSystem;

    use super::{super::snapshot::tests::example, *};

    const DIR: &str = "/q";

    fn disk() -> FaultyFileSystem {
        let disk = FaultyFileSystem::new(1);
        disk.create_dir(Path::new(DIR)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn open(disk: &FaultyFileSystem, joins: bool) -> Result<(SnapshotStore, Option<Snapshot>), QuorumError> {
        SnapshotStore::open(disk.shared(), DIR.into(), |_, _| joins)
    }

    #[test]
    fn a_stored_snapshot_outlives_a_power_cut_and_two_are_kept() {
        let disk = disk();
        let (store, none) = open(&disk, false).unwrap();
        assert!(none.is_none() && store.newest().unwrap().is_none());
        let mut names: Vec<PathBuf> = Vec::new();
        for index in [5, 9, 12] {
            let snapshot = example(2, index);
            store.store(&snapshot).unwrap();
            names = disk.list_files().into_iter().map(|(path, _)| path).collect();
            disk.crash();
            let (reopened, found) = open(&disk, false).unwrap();
            assert_eq!(found, Some(snapshot.clone()));
            assert_eq!(reopened.newest().unwrap().unwrap().0, snapshot.meta());
        }
        let expected = ["9", "12"].map(|index| format!("{DIR}/{index:0>20}-0000000002.checkpoint"));
        assert_eq!(names, expected.map(PathBuf::from));
    }

    #[test]
    fn a_closed_store_writes_nothing_more() {
        let disk = disk();
        let (store, _) = open(&disk, false).unwrap();
        store.store(&example(2, 5)).unwrap();
        store.close();
        assert!(store.store(&example(2, 9)).is_err());
        assert_eq!(disk.list_files().len(), 1);
        assert_eq!(store.newest().unwrap().unwrap().0.last_log_id, Some(log_id(2, 5)));
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let disk = disk();
        let (store, _) = open(&disk, false).unwrap();
        store.store(&example(2, 9)).unwrap();
        store.store(&example(2, 5)).unwrap();
        assert_eq!(store.newest().unwrap().unwrap().0.last_log_id, Some(log_id(2, 9)));
    }

    #[test]
    fn a_damaged_newest_snapshot_stops_the_start_unless_the_log_makes_up_for_it() {
        let disk = disk();
        let (store, _) = open(&disk, false).unwrap();
        store.store(&example(2, 5)).unwrap();
        store.store(&example(2, 9)).unwrap();
        disk.flip_bit(&store.path(log_id(2, 9)), 200, 3).unwrap();
        assert!(store.newest().is_err());
        let error = open(&disk, false).err().unwrap();
        assert!(matches!(error, QuorumError::Damaged { .. }), "{error}");
        let asked = Mutex::new(Vec::new());
        let (_, found) = SnapshotStore::open(disk.shared(), DIR.into(), |last, newest| {
            asked.lock().push((last, newest));
            true
        })
        .unwrap();
        assert_eq!(found.unwrap().last, log_id(2, 5));
        assert_eq!(*asked.lock(), [(Some(log_id(2, 5)), log_id(2, 9))]);
        // Set aside, not deleted; the next start does not stumble over it.
        assert!(
            disk.list_files()
                .iter()
                .any(|(path, _)| path.ends_with("00000000000000000009-0000000002.checkpoint.damaged"))
        );
        open(&disk, false).unwrap();
    }

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(
            parse_name("00000000000000000009-0000000002.checkpoint"),
            Some(log_id(2, 9))
        );
        for name in [
            "00000000000000000009-0000000002.checkpoint.tmp",
            "9-2.checkpoint",
            "+0000000000000000009-0000000002.checkpoint",
            "00000000000000000009-0000000002.checkpoint.damaged",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
