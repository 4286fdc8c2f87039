//! openraft's own test suite for storage, over a real file system and over the faulty twin.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use millrace_engine::Cluster;
use millrace_log::{FaultyFileSystem, FileSystem, OsFileSystem};
use openraft::{
    LogState, OptionalSend, StorageError,
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use tokio::sync::watch;

use super::{
    super::{
        entry_log::EntryLog,
        handle, io_thread,
        log_store::{LogReader, LogStore},
        options::QuorumOptions,
        state_machine::{SnapshotBuilder, StateMachine},
        types::{Entry, LogId, RaftSnapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id},
    },
    open_dir,
};

/// The suite gives up entries without a snapshot and begins logs at any index: both are
/// refused by the store, as they must be, so this makes them legal first.
struct Lenient {
    store: LogStore,
    log: Arc<EntryLog>,
}

impl RaftLogStorage<TypeConfig> for Lenient {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.store.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.store.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries[0].log_id.index;
        if self.log.end() == 0 && first > 0 {
            self.log.drop_below(first)?;
        }
        self.store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, last: LogId) -> io::Result<()> {
        self.log.set_snapshot(last.index);
        self.store.purge(last).await
    }
}

/// The suite applies entries with gaps between them.
struct LenientMachine(StateMachine);

impl RaftStateMachine<TypeConfig> for LenientMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, _) = item.as_ref().unwrap();
            if let Some(before) = entry.log_id.index.checked_sub(1) {
                self.0.pretend_applied(log_id(entry.log_id.leader_id.term, before));
            }
            self.0.apply(stream::iter([item])).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        self.0.install_snapshot(meta, bytes).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        self.0.get_current_snapshot().await
    }
}

enum Disk {
    Real,
    Twin,
}

struct Builder {
    disk: Disk,
    built: AtomicU64,
}

impl StoreBuilder<TypeConfig, Lenient, LenientMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Lenient, LenientMachine), StorageError<TypeConfig>> {
        let guard = tempfile::tempdir().unwrap();
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        let (fs, path): (Arc<dyn FileSystem>, _) = match self.disk {
            Disk::Real => (Arc::new(OsFileSystem), guard.path().join("data")),
            Disk::Twin => (FaultyFileSystem::new(number).shared(), "/data".into()),
        };
        let dir = open_dir(&fs, &path);
        let options = QuorumOptions::new(1, super::directory_id(1), "a:1", fs, dir);
        let (published, _) = watch::channel(Arc::new(Cluster::default()));
        let (log, _, machine) = handle::recover(&options, published)
            .map_err(|error| StorageError::read(TypeConfig::err_from_string(error.to_string())))?;
        let (failed, _) = watch::channel(None);
        let (io, _) = io_thread::start(Arc::clone(&log), failed).unwrap();
        let store = LogStore::new(Arc::clone(&log), io);
        Ok((guard, Lenient { store, log }, LenientMachine(machine)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_a_real_disk() {
    let builder = Builder {
        disk: Disk::Real,
        built: AtomicU64::new(0),
    };
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_the_faulty_twin() {
    let builder = Builder {
        disk: Disk::Twin,
        built: AtomicU64::new(0),
    };
    Suite::test_all(builder).await.unwrap();
}

/// What the suite's leniency above stands in for.
#[tokio::test]
async fn holes_and_unfounded_purges_are_refused() {
    let fs = FaultyFileSystem::new(1).shared();
    let options = QuorumOptions::new(
        1,
        super::directory_id(1),
        "a:1",
        Arc::clone(&fs),
        open_dir(&fs, "/data".as_ref()),
    );
    let log = EntryLog::open(&options).unwrap();
    let blank = |term, index| Entry {
        log_id: log_id(term, index),
        payload: openraft::EntryPayload::Blank,
    };
    assert!(log.append(&[blank(1, 1)]).is_err(), "a hole before the first entry");
    log.append(&[blank(1, 0), blank(1, 1)]).unwrap();
    assert!(log.append(&[blank(1, 3)]).is_err(), "a hole");
    assert!(log.append(&[blank(1, 1)]).is_err(), "an entry twice");
    assert!(
        log.append(&[blank(1 << 31, 2)]).is_err(),
        "a term that is no leader epoch"
    );
    assert!(log.purge(&log_id(1, 0)).is_err(), "no snapshot has it");
    log.set_snapshot(0);
    log.purge(&log_id(1, 0)).unwrap();
    assert!(log.purge(&log_id(1, 1)).is_err(), "no snapshot has it");
    assert_eq!(log.read(0..9, usize::MAX).unwrap(), [blank(1, 1)]);
}
