//! A data directory: its identity, its lock, its partitions and the checkpoints they share.

mod listing;
mod open;
mod partitions;
pub(crate) mod reserve;
pub(crate) mod shared;

use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::thread;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::checkpoint::clean_mark;
use crate::checkpoint::meta_properties::DirIdentity;
use crate::checkpoint::topic_partition::TopicPartition;
use crate::error::{ChangeError, FlushError, Offline};
use crate::fs::{OpenMode, remove_if_exists, write_atomic};
use crate::log::LogInner;
pub use listing::{FoundPartition, PartitionState};
pub use open::JOIN_FILE_NAME;
pub use partitions::DeletedLog;
use shared::DirShared;

const LOCK_FILE_NAME: &str = ".lock";
/// How a directory is opened.
#[derive(Clone, Debug, Default)]
pub struct DirOptions {
    /// Appends are refused when they would leave less than this, so that checkpoints, metadata and retention go on.
    /// 0 turns the guard off.
    pub reserve_bytes: u64,
    /// The cluster that the directory must belong to.
    pub expected_cluster_id: Option<String>,
    /// The broker that the directory must belong to.
    pub expected_node_id: Option<i32>,
    /// The directory id that the directory must have.
    pub expected_directory_id: Option<Uuid>,
}

/// What whoever opens a log knows of it. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenLogOptions {
    /// The partition's latest leader epoch, from metadata at least as new as any under which this broker appended to
    /// the log: older metadata would make torn batches of sound ones. Batches of a later epoch are bytes that no leader
    /// wrote: above the flushed point they and what follows are cut, below it they are damage. `None`: not known, any
    /// epoch passes that does not fall.
    pub latest_epoch: Option<i32>,
}

/// Logs that are closed at the same time: each waits for the disk several times.
const CLOSE_THREADS: usize = 8;

/// Flushes and closes logs; a directory that goes offline meanwhile ends that.
fn close_all(logs: &[Arc<LogInner>]) -> Result<(), Offline> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match log.close() {
                Ok(()) | Err(FlushError::Closed) => {}
                Err(FlushError::Offline(offline)) => return Err(offline),
            }
        }
        Ok(())
    };
    if logs.len() < 2 * CLOSE_THREADS {
        return work();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLOSE_THREADS).map(|_| scope.spawn(work)).collect();
        // All of them end with the scope.
        let mut ends = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ends.try_for_each(|end| end.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// An open data directory. Holds the lock until it is dropped.
pub struct LogDir {
    shared: Arc<DirShared>,
    identity: DirIdentity,
    was_clean: bool,
    stored_broker_epoch: Option<i64>,
    flushed_known: bool,
    starts_known: bool,
    broker_epoch: Mutex<Option<i64>>,
    _lock: Box<dyn Send + Sync>,
}

impl LogDir {
    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> &DirIdentity {
        &self.identity
    }

    /// Whether the last process closed it properly, in the broker epoch that it had last, and every checkpoint could
    /// be read.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// The broker epoch of the last process life that used it, if it got one.
    #[must_use]
    pub fn stored_broker_epoch(&self) -> Option<i64> {
        self.stored_broker_epoch
    }

    /// Stores the broker epoch of this process life. Durable when this returns.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] on a full disk, else the directory is offline.
    pub fn set_broker_epoch(&self, epoch: i64) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        let path = self.shared.path.join(clean_mark::LAST_EPOCH_FILE_NAME);
        write_atomic(&*self.shared.fs, &path, &clean_mark::encode(epoch))
            .map_err(|error| self.shared.refuse_or_fail("storing the broker epoch", &error))?;
        *self.broker_epoch.lock() = Some(epoch);
        Ok(())
    }

    /// Why the directory is offline, if it is. It stays so until it is opened anew.
    #[must_use]
    pub fn offline(&self) -> Option<Offline> {
        self.shared.offline()
    }

    /// Bytes that may still be written, reserve included.
    ///
    /// # Errors
    /// The file system's.
    pub fn available_bytes(&self) -> io::Result<u64> {
        self.shared.fs.available_bytes(&self.shared.path)
    }

    /// Changes how many bytes appends must leave.
    pub fn set_reserve_bytes(&self, bytes: u64) {
        self.shared.set_reserve_bytes(bytes);
    }

    /// Every directory in it and what it seems to be.
    ///
    /// # Errors
    /// The file system's.
    pub fn partitions(&self) -> io::Result<Vec<FoundPartition>> {
        listing::list(&*self.shared.fs, &self.shared.path)
    }

    fn partition_path(&self, name: &TopicPartition) -> PathBuf {
        self.shared.path.join(name.dir_name())
    }

    /// Bytes that were flushed, in all logs together, since [`LogDir::write_checkpoints`] was last called.
    #[must_use]
    pub fn unrecorded_bytes(&self) -> u64 {
        self.shared.unrecorded_bytes()
    }

    /// Stores where each log is flushed and where it begins, after making what recovery needs durable; writes nothing
    /// if nothing has changed. To be called every second or so, and when [`LogDir::unrecorded_bytes`] has grown: a
    /// recovery reads from the disk what was appended since.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] on a full disk: the old checkpoints stay, and stay right.
    pub fn write_checkpoints(&self) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        let logs = self.shared.take_touched();
        let written = self.write_checkpoints_of(&logs);
        if written.is_err() {
            // To be tried again.
            logs.iter().for_each(|log| log.touch());
        }
        written?;
        self.shared
            .hold_reserve()
            .map_err(|error| self.shared.refuse_or_fail("keeping room in reserve", &error))
    }

    fn write_checkpoints_of(&self, logs: &[Arc<LogInner>]) -> Result<(), ChangeError> {
        for log in logs {
            match log.checkpoint(false) {
                Ok(()) | Err(FlushError::Closed) => {}
                Err(FlushError::Offline(offline)) => return Err(offline.into()),
            }
        }
        self.shared
            .store_all(logs)
            .map_err(|error| self.shared.refuse_or_fail("writing checkpoints", &error))
    }

    /// Flushes and closes every log, stores the checkpoints and, last of all, the clean mark with the broker epoch.
    ///
    /// # Errors
    /// Then there is no clean mark, and the next opening is an unclean one.
    pub fn close_clean(&self, broker_epoch: i64) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        let logs = self.shared.open_logs();
        close_all(&logs)?;
        let failed = |what: &'static str| move |error: io::Error| self.shared.refuse_or_fail(what, &error);
        self.shared.store_all(&logs).map_err(failed("writing checkpoints"))?;
        if *self.broker_epoch.lock() != Some(broker_epoch) {
            self.set_broker_epoch(broker_epoch)?;
        }
        self.shared.check_online()?;
        let path = self.shared.path.join(clean_mark::FILE_NAME);
        write_atomic(&*self.shared.fs, &path, &clean_mark::encode(broker_epoch))
            .map_err(failed("writing the clean mark"))
    }

    /// Tries whether the disk still takes and keeps a small file: to find a dead disk that nobody writes to.
    ///
    /// # Errors
    /// The directory is offline, or goes offline now.
    pub fn probe(&self) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        let path = self.shared.path.join(".probe");
        let fs = &*self.shared.fs;
        let probed = fs
            .open(&path, OpenMode::CreateOrTruncate)
            .and_then(|file| {
                file.write_all_vectored_at(&[io::IoSlice::new(b"probe\n")], 0)?;
                file.sync_all()
            })
            .and_then(|()| remove_if_exists(fs, &path).map(|_| ()));
        probed.map_err(|error| self.shared.refuse_or_fail("probing the disk", &error))
    }
}
