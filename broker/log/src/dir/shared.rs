//! What all logs of a data directory share: whether it is offline, how much space is left, and the checkpoints.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::reserve;
use crate::checkpoint::flushed::{self, FlushedPoint, FlushedPoints};
use crate::checkpoint::start_offsets::{self, Offsets};
use crate::checkpoint::topic_partition::TopicPartition;
use crate::error::{DiskFull, Offline};
use crate::fs::{FileSystem, is_disk_full, write_atomic};
use crate::log::LogInner;

/// Appends between two looks at the free space, at most.
const SPACE_CREDIT_BYTES: u64 = 16 << 20;

/// The checkpoints as stored, and whether the files are known to be so.
struct Checkpoints {
    flushed: FlushedPoints,
    starts: Offsets,
}

pub(crate) struct DirShared {
    pub fs: Arc<dyn FileSystem>,
    pub path: Arc<PathBuf>,
    offline: OnceLock<Offline>,
    is_offline: AtomicBool,
    checkpoints: Mutex<Checkpoints>,
    pub logs: Mutex<BTreeMap<TopicPartition, Weak<LogInner>>>,
    reserve_bytes: AtomicU64,
    credit: AtomicU64,
}

impl DirShared {
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        path: &Path,
        reserve_bytes: u64,
        flushed: FlushedPoints,
        starts: Offsets,
    ) -> Self {
        DirShared {
            fs,
            path: Arc::new(path.to_owned()),
            offline: OnceLock::new(),
            is_offline: AtomicBool::new(false),
            checkpoints: Mutex::new(Checkpoints { flushed, starts }),
            logs: Mutex::new(BTreeMap::new()),
            reserve_bytes: AtomicU64::new(reserve_bytes),
            credit: AtomicU64::new(0),
        }
    }

    /// Takes the directory offline for good; the first reason stays.
    pub(crate) fn fail(&self, what: &str, error: &io::Error) -> Offline {
        let reason: Arc<str> = format!("{what}: {error}").into();
        let offline = self.offline.get_or_init(|| {
            tracing::error!(directory = %self.path.display(), %reason, "log directory goes offline");
            Offline {
                directory: self.path.clone(),
                reason,
            }
        });
        self.is_offline.store(true, Ordering::SeqCst);
        offline.clone()
    }

    pub(crate) fn offline(&self) -> Option<Offline> {
        if self.is_offline.load(Ordering::SeqCst) {
            self.offline.get().cloned()
        } else {
            None
        }
    }

    pub(crate) fn check_online(&self) -> Result<(), Offline> {
        self.offline().map_or(Ok(()), Err)
    }

    pub(crate) fn set_reserve_bytes(&self, bytes: u64) {
        self.reserve_bytes.store(bytes, Ordering::Relaxed);
        self.credit.store(0, Ordering::Relaxed);
    }

    /// Whether `bytes` may be appended without touching the reserve. Looks at the file system only now and then:
    /// in between, appends use up a credit of at most half of what was free.
    pub(crate) fn claim_space(&self, bytes: u64) -> Result<(), DiskFull> {
        let taken = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| credit.checked_sub(bytes))
            .is_ok();
        let reserve_bytes = self.reserve_bytes.load(Ordering::Relaxed);
        if taken || reserve_bytes == 0 {
            return Ok(());
        }
        // If the file system can't tell, the write itself will.
        let Ok(available_bytes) = self.fs.available_bytes(&self.path) else {
            return Ok(());
        };
        let free = available_bytes.saturating_sub(reserve_bytes);
        if free < bytes {
            return Err(DiskFull {
                available_bytes,
                reserve_bytes,
            });
        }
        self.credit
            .store(((free - bytes) / 2).min(SPACE_CREDIT_BYTES), Ordering::Relaxed);
        Ok(())
    }

    /// Gives up the room kept for a full disk; false if that was done before.
    pub(crate) fn release_reserve(&self) -> bool {
        reserve::release(&*self.fs, &self.path).unwrap_or(false)
    }

    pub(crate) fn hold_reserve(&self) -> io::Result<()> {
        reserve::hold(&*self.fs, &self.path, self.reserve_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn disk_full(&self) -> DiskFull {
        self.credit.store(0, Ordering::Relaxed);
        DiskFull {
            available_bytes: self.fs.available_bytes(&self.path).unwrap_or(0),
            reserve_bytes: self.reserve_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn stored_flushed(&self, name: &TopicPartition) -> Option<FlushedPoint> {
        self.checkpoints.lock().flushed.get(name).copied()
    }

    pub(crate) fn stored_start(&self, name: &TopicPartition) -> Option<i64> {
        self.checkpoints.lock().starts.get(name).copied()
    }

    fn write_flushed(&self, checkpoints: &Checkpoints) -> io::Result<()> {
        write_atomic(
            &*self.fs,
            &self.path.join(flushed::FILE_NAME),
            &flushed::encode(&checkpoints.flushed),
        )
    }

    fn write_starts(&self, checkpoints: &Checkpoints) -> io::Result<()> {
        write_atomic(
            &*self.fs,
            &self.path.join(start_offsets::FILE_NAME),
            &start_offsets::encode(&checkpoints.starts),
        )
    }

    /// Stores a log start offset. Durable when this returns.
    pub(crate) fn store_start(&self, name: &TopicPartition, start: i64) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.starts.get(name) == Some(&start) {
            return Ok(());
        }
        let before = checkpoints.starts.insert(name.clone(), start);
        let written = self.write_starts(&checkpoints);
        if written.is_err() {
            restore(&mut checkpoints.starts, name, before);
        }
        written
    }

    /// Makes sure that the stored flushed point is at most `to` and the indexes count at most up to `indexed`, before
    /// anything from there on is cut. Durable when this returns.
    pub(crate) fn lower_flushed(&self, name: &TopicPartition, to: i64, indexed: i64) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let Some(before) = checkpoints.flushed.get(name).copied() else {
            return Ok(());
        };
        let offset = before.offset.min(to);
        let lowered = FlushedPoint {
            offset,
            indexed: before.indexed.min(indexed).min(offset),
        };
        if lowered == before {
            return Ok(());
        }
        checkpoints.flushed.insert(name.clone(), lowered);
        let written = self.write_flushed(&checkpoints);
        if written.is_err() {
            restore(&mut checkpoints.flushed, name, Some(before));
        }
        written
    }

    /// Stores that everything below `offset` is durable, where recovery could not find that out by itself.
    pub(crate) fn raise_flushed(&self, name: &TopicPartition, offset: i64) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let before = checkpoints.flushed.get(name).copied();
        let raised = FlushedPoint {
            offset,
            indexed: before.map_or(0, |point| point.indexed),
        };
        checkpoints.flushed.insert(name.clone(), raised);
        let written = self.write_flushed(&checkpoints);
        if written.is_err() {
            restore(&mut checkpoints.flushed, name, before);
        }
        written
    }

    /// Drops a partition's entries; what the files say of a partition that is gone does no harm, so they are
    /// rewritten at the next occasion.
    pub(crate) fn forget(&self, name: &TopicPartition) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.flushed.remove(name);
        checkpoints.starts.remove(name);
        self.logs.lock().remove(name);
    }

    /// Every partition of which a durable end is recorded.
    pub(crate) fn recorded(&self) -> Vec<TopicPartition> {
        self.checkpoints.lock().flushed.keys().cloned().collect()
    }

    /// Every log that is open.
    pub(crate) fn open_logs(&self) -> Vec<Arc<LogInner>> {
        self.logs.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Writes both checkpoints from what the open logs say; entries of logs that are not open stay as they are.
    pub(crate) fn store_all(&self) -> io::Result<()> {
        // Indexes first, without the lock: they take each log's own.
        let logs = self.open_logs();
        let mut checkpoints = self.checkpoints.lock();
        let before = (checkpoints.flushed.clone(), checkpoints.starts.clone());
        for log in logs {
            // A log that is being deleted may have been forgotten meanwhile.
            if !log.is_gone() {
                if !log.epochs_behind.load(Ordering::Acquire) {
                    checkpoints.flushed.insert(log.name.clone(), log.flushed_point());
                }
                checkpoints.starts.insert(log.name.clone(), log.log_start());
            }
        }
        // Log starts first: a flushed point may lie above what retention is about to delete, never below.
        let written = self
            .write_starts(&checkpoints)
            .and_then(|()| self.write_flushed(&checkpoints));
        if written.is_err() {
            (checkpoints.flushed, checkpoints.starts) = before;
        }
        written
    }

    /// Turns an error of a change that has not begun into "refused" if the disk is merely full, else goes offline.
    pub(crate) fn refuse_or_fail(&self, what: &str, error: &io::Error) -> crate::error::ChangeError {
        if is_disk_full(error) {
            crate::error::ChangeError::Refused(format!("{what}: {error}"))
        } else {
            self.fail(what, error).into()
        }
    }
}

fn restore<V>(map: &mut BTreeMap<TopicPartition, V>, name: &TopicPartition, before: Option<V>) {
    match before {
        Some(value) => map.insert(name.clone(), value),
        None => map.remove(name),
    };
}
