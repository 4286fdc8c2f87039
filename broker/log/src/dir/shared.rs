//! What all logs of a data directory share: whether it is offline, how much space is left, and the checkpoints.

use std::collections::{BTreeMap, BTreeSet};
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

/// What opening a directory found of its flushed points.
pub(crate) enum StoredFlushed {
    Known(FlushedPoints),
    /// Their file is lost or was garbled; these partitions may have been in it.
    LostFor(BTreeSet<TopicPartition>),
}

/// The checkpoints, and whether their files may say something else.
struct Checkpoints {
    flushed: FlushedPoints,
    /// Partitions whose point is lost and that were not opened yet. While there are any no file is written: one that
    /// does not name them would say that nothing of them was flushed, and make a torn tail of any damage.
    lost: BTreeSet<TopicPartition>,
    /// Whether it was logged that they are.
    lost_told: bool,
    starts: Offsets,
    flushed_differ: bool,
    starts_differ: bool,
}

pub(crate) struct DirShared {
    pub fs: Arc<dyn FileSystem>,
    pub path: Arc<PathBuf>,
    offline: OnceLock<Offline>,
    is_offline: AtomicBool,
    checkpoints: Mutex<Checkpoints>,
    /// Bytes that were flushed since the flushed points were last stored.
    unrecorded_bytes: AtomicU64,
    pub logs: Mutex<BTreeMap<TopicPartition, Weak<LogInner>>>,
    /// Logs that the next checkpoint looks at. Bounded by their number: none stands here twice.
    touched: Mutex<BTreeSet<TopicPartition>>,
    reserve_bytes: AtomicU64,
    credit: AtomicU64,
}

impl DirShared {
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        path: &Path,
        reserve_bytes: u64,
        flushed: StoredFlushed,
        starts: Offsets,
    ) -> Self {
        let (flushed, lost, flushed_differ) = match flushed {
            StoredFlushed::Known(points) => (points, BTreeSet::new(), false),
            StoredFlushed::LostFor(names) => (FlushedPoints::new(), names, true),
        };
        DirShared {
            fs,
            path: Arc::new(path.to_owned()),
            offline: OnceLock::new(),
            is_offline: AtomicBool::new(false),
            checkpoints: Mutex::new(Checkpoints {
                flushed,
                lost,
                lost_told: false,
                starts,
                flushed_differ,
                starts_differ: false,
            }),
            unrecorded_bytes: AtomicU64::new(0),
            logs: Mutex::new(BTreeMap::new()),
            touched: Mutex::default(),
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

    /// Counts bytes that an fsync covered and of which no stored flushed point tells yet.
    pub(crate) fn note_flushed_bytes(&self, bytes: u64) {
        self.unrecorded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unrecorded_bytes(&self) -> u64 {
        self.unrecorded_bytes.load(Ordering::Relaxed)
    }

    fn write_flushed(&self, checkpoints: &mut Checkpoints) -> io::Result<()> {
        // Until it is known to be written the file may hold anything.
        checkpoints.flushed_differ = true;
        if !checkpoints.lost.is_empty() {
            if !std::mem::replace(&mut checkpoints.lost_told, true) {
                tracing::warn!(
                    partitions = checkpoints.lost.len(),
                    "the flushed points were lost; they are stored again when all partitions could be opened, until then a start scans them whole"
                );
            }
            return Ok(());
        }
        write_atomic(
            &*self.fs,
            &self.path.join(flushed::FILE_NAME),
            &flushed::encode(&checkpoints.flushed),
        )?;
        checkpoints.flushed_differ = false;
        Ok(())
    }

    fn write_starts(&self, checkpoints: &mut Checkpoints) -> io::Result<()> {
        checkpoints.starts_differ = true;
        write_atomic(
            &*self.fs,
            &self.path.join(start_offsets::FILE_NAME),
            &start_offsets::encode(&checkpoints.starts),
        )?;
        checkpoints.starts_differ = false;
        Ok(())
    }

    /// Stores a log start offset. Durable when this returns.
    pub(crate) fn store_start(&self, name: &TopicPartition, start: i64) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.starts.get(name) == Some(&start) {
            return Ok(());
        }
        let before = checkpoints.starts.insert(name.clone(), start);
        self.look_at_next(name.clone());
        let written = self.write_starts(&mut checkpoints);
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
        self.store_flushed(&mut checkpoints, name, lowered)
    }

    /// Stores that everything below `offset` is durable, where recovery could not find that out by itself. Only if
    /// that succeeds, `publish` makes the log say the same, and no checkpoint is written between the two: one that
    /// asks the log would store an older point over this one, or keep this one for a log that never came so far.
    pub(crate) fn raise_flushed(&self, name: &TopicPartition, offset: i64, publish: impl FnOnce()) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let before = checkpoints.flushed.get(name).copied();
        let raised = FlushedPoint {
            offset,
            indexed: before.map_or(0, |point| point.indexed.min(offset)),
        };
        self.store_flushed(&mut checkpoints, name, raised)?;
        publish();
        Ok(())
    }

    fn store_flushed(
        &self,
        checkpoints: &mut Checkpoints,
        name: &TopicPartition,
        point: FlushedPoint,
    ) -> io::Result<()> {
        let before = checkpoints.flushed.insert(name.clone(), point);
        self.look_at_next(name.clone());
        let written = self.write_flushed(checkpoints);
        if written.is_err() {
            restore(&mut checkpoints.flushed, name, before);
        }
        written
    }

    /// Takes in a log that was just opened.
    pub(crate) fn add(&self, log: &Arc<LogInner>) {
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.lost.remove(&log.name) {
            checkpoints.flushed.insert(log.name.clone(), log.flushed_point());
        }
        self.logs.lock().insert(log.name.clone(), Arc::downgrade(log));
        log.touch();
    }

    /// Makes sure that the files do not name a partition that is about to be made. Durable when this returns.
    pub(crate) fn forget_for_good(&self, name: &TopicPartition) -> io::Result<()> {
        self.forget(name);
        let mut checkpoints = self.checkpoints.lock();
        if checkpoints.starts_differ {
            self.write_starts(&mut checkpoints)?;
        }
        if checkpoints.flushed_differ {
            self.write_flushed(&mut checkpoints)?;
        }
        Ok(())
    }

    /// Drops a partition's entries; what the files say of a partition that is gone does no harm, so they are
    /// rewritten at the next occasion.
    pub(crate) fn forget(&self, name: &TopicPartition) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.lost.remove(name);
        checkpoints.flushed_differ |= checkpoints.flushed.remove(name).is_some();
        checkpoints.starts_differ |= checkpoints.starts.remove(name).is_some();
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

    /// Has the next checkpoint compare a log's entries with the log. For one that is open it is [`LogInner::touch`]
    /// that calls this when the log changes.
    pub(crate) fn look_at_next(&self, name: TopicPartition) {
        self.touched.lock().insert(name);
    }

    /// The open logs that were touched since this was called last.
    pub(crate) fn take_touched(&self) -> Vec<Arc<LogInner>> {
        let touched = std::mem::take(&mut *self.touched.lock());
        let logs = self.logs.lock();
        let open = touched.iter().filter_map(|name| logs.get(name)?.upgrade());
        open.inspect(|log| {
            // Before anything of it is looked at: what changes from here on is looked at the next time.
            log.touched.swap(false, Ordering::AcqRel);
        })
        .collect()
    }

    /// Writes both checkpoints from what `logs` say, each only if it differs from its file; entries of others stay as
    /// they are.
    pub(crate) fn store_all(&self, logs: &[Arc<LogInner>]) -> io::Result<()> {
        let mut checkpoints = self.checkpoints.lock();
        let checkpoints = &mut *checkpoints;
        self.unrecorded_bytes.store(0, Ordering::Relaxed);
        let mut flushed_before = Vec::new();
        let mut starts_before = Vec::new();
        for log in logs {
            // A log that is being deleted may have been forgotten meanwhile.
            if log.is_gone() {
                continue;
            }
            let point = log.flushed_point();
            let stored = checkpoints.flushed.get(&log.name).copied();
            let behind = log.epochs_behind.load(Ordering::Acquire);
            if stored != Some(point) && !behind {
                flushed_before.push((log.name.clone(), stored));
                checkpoints.flushed.insert(log.name.clone(), point);
            }
            let start = log.log_start();
            let stored = checkpoints.starts.get(&log.name).copied();
            if stored != Some(start) {
                starts_before.push((log.name.clone(), stored));
                checkpoints.starts.insert(log.name.clone(), start);
            }
        }
        let flushed_differ = checkpoints.flushed_differ || !flushed_before.is_empty();
        let starts_differ = checkpoints.starts_differ || !starts_before.is_empty();
        // Log starts first: a flushed point may lie above what retention is about to delete, never below.
        let mut written = Ok(());
        if starts_differ {
            written = self.write_starts(checkpoints);
        }
        if flushed_differ && written.is_ok() {
            written = self.write_flushed(checkpoints);
        }
        if written.is_err() {
            for (name, before) in flushed_before {
                restore(&mut checkpoints.flushed, &name, before);
            }
            for (name, before) in starts_before {
                restore(&mut checkpoints.starts, &name, before);
            }
            // The first of the two may have been written.
            checkpoints.flushed_differ = true;
            checkpoints.starts_differ = true;
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
