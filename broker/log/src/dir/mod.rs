//! A data directory: its identity, its lock, its partitions and the checkpoints they share.

mod listing;
pub(crate) mod reserve;
pub(crate) mod shared;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::checkpoint::flushed;
use crate::checkpoint::meta_properties::{self, DirIdentity};
use crate::checkpoint::topic_partition::{TopicPartition, is_legal_topic};
use crate::checkpoint::{Loaded, clean_mark, load, partition_metadata, start_offsets};
use crate::config::LogConfig;
use crate::error::{ChangeError, FlushError, FormatDirError, Offline, OpenDirError, OpenLogError};
use crate::fs::{FileSystem, OpenMode, remove_if_exists, write_atomic};
use crate::log::{Log, LogInner, OpenLog};
pub use listing::{FoundPartition, PartitionState};
use shared::DirShared;

const LOCK_FILE_NAME: &str = ".lock";
/// What a fresh file system may hold.
const HARMLESS_NAMES: [&str; 3] = ["lost+found", LOCK_FILE_NAME, "flushed-offset-checkpoint.tmp"];

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

fn open_error(path: &Path) -> impl FnOnce(io::Error) -> OpenDirError + '_ {
    move |source| OpenDirError::Io {
        path: path.to_owned(),
        source,
    }
}

fn log_error(path: &Path) -> impl FnOnce(io::Error) -> OpenLogError + '_ {
    move |source| OpenLogError::Io {
        path: path.to_owned(),
        source,
    }
}

impl LogDir {
    /// Gives an empty directory an identity; creates it if its parent exists.
    ///
    /// # Errors
    /// A directory that is formatted already or holds anything: formatting never hides data.
    pub fn format(fs: &Arc<dyn FileSystem>, path: &Path, identity: &DirIdentity) -> Result<(), FormatDirError> {
        let io_error = |source: io::Error| FormatDirError::Io {
            path: path.to_owned(),
            source,
        };
        if identity.node_id < 0 || identity.cluster_id.is_empty() || identity.cluster_id.contains(['\n', '\r']) {
            return Err(FormatDirError::InvalidIdentity(format!("{identity:?}")));
        }
        match fs.create_dir(path) {
            Ok(()) => fs.sync_dir(crate::fs::parent_of(path)).map_err(io_error)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(error)),
        }
        let temporary = crate::fs::temporary_path(Path::new(meta_properties::FILE_NAME));
        for entry in fs.read_dir(path).map_err(io_error)? {
            if entry.name == meta_properties::FILE_NAME {
                return Err(FormatDirError::AlreadyFormatted(path.to_owned()));
            }
            // A format that a crash interrupted may be repeated.
            let half_done = entry.name == flushed::FILE_NAME
                && matches!(
                    load(&**fs, &path.join(flushed::FILE_NAME), flushed::decode).map_err(io_error)?,
                    Loaded::Found(points) if points.is_empty()
                );
            if !half_done && entry.name != temporary && !HARMLESS_NAMES.iter().any(|name| entry.name == *name) {
                let found = entry.name.to_string_lossy().into_owned();
                return Err(FormatDirError::NotEmpty {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        write_atomic(
            &**fs,
            &path.join(flushed::FILE_NAME),
            &flushed::encode(&flushed::FlushedPoints::new()),
        )
        .and_then(|()| write_atomic(&**fs, &path.join(meta_properties::FILE_NAME), &identity.encode()))
        .map_err(io_error)
    }

    /// Opens and locks a formatted directory. The clean mark is removed before anything else is done (KAFKA-10471).
    ///
    /// # Errors
    /// See [`OpenDirError`].
    pub fn open(fs: &Arc<dyn FileSystem>, path: &Path, options: &DirOptions) -> Result<LogDir, OpenDirError> {
        let entries = match fs.read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenDirError::NotFormatted(path.to_owned()));
            }
            Err(error) => return Err(open_error(path)(error)),
        };
        let meta_path = path.join(meta_properties::FILE_NAME);
        let identity = match DirIdentity::load(&**fs, path).map_err(open_error(&meta_path))? {
            Loaded::Found(identity) => identity,
            Loaded::Damaged(error) => {
                return Err(OpenDirError::Damaged {
                    path: meta_path,
                    reason: error.to_string(),
                });
            }
            Loaded::Missing => {
                let data = entries.iter().find(|entry| entry.is_dir && entry.name != "lost+found");
                return Err(match data {
                    Some(entry) => OpenDirError::Damaged {
                        path: meta_path,
                        reason: format!("the file is missing, but the directory holds {:?}", entry.name),
                    },
                    None => OpenDirError::NotFormatted(path.to_owned()),
                });
            }
        };
        check_identity(path, &identity, options)?;
        let lock = match fs.lock(&path.join(LOCK_FILE_NAME)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(OpenDirError::Locked(path.to_owned()));
            }
            Err(error) => return Err(open_error(path)(error)),
        };
        Self::load(fs, path, options, identity, lock)
    }

    fn load(
        fs: &Arc<dyn FileSystem>,
        path: &Path,
        options: &DirOptions,
        identity: DirIdentity,
        lock: Box<dyn Send + Sync>,
    ) -> Result<LogDir, OpenDirError> {
        // Before the first write of this life; if the file system can't tell, the writes will.
        let _ = reserve::release_if_short(&**fs, path, options.reserve_bytes);
        let mark_path = path.join(clean_mark::FILE_NAME);
        let epoch_path = path.join(clean_mark::LAST_EPOCH_FILE_NAME);
        let mark = load(&**fs, &mark_path, clean_mark::decode).map_err(open_error(&mark_path))?;
        let last_epoch = load(&**fs, &epoch_path, clean_mark::decode).map_err(open_error(&epoch_path))?;
        if !matches!(mark, Loaded::Missing) {
            remove_if_exists(&**fs, &mark_path)
                .and_then(|_| fs.sync_dir(path))
                .map_err(open_error(&mark_path))?;
        }
        let mark = if let Loaded::Found(epoch) = mark {
            Some(epoch)
        } else {
            None
        };
        let stored_broker_epoch = if let Loaded::Found(epoch) = last_epoch {
            Some(epoch)
        } else {
            None
        };
        let was_clean = mark.is_some() && mark == stored_broker_epoch;

        let flushed_path = path.join(flushed::FILE_NAME);
        let flushed = match load(&**fs, &flushed_path, flushed::decode).map_err(open_error(&flushed_path))? {
            Loaded::Found(points) => Some(points),
            Loaded::Missing => None,
            Loaded::Damaged(error) => {
                tracing::error!(path = %flushed_path.display(), %error, "the flushed points are lost");
                None
            }
        };
        let starts_path = path.join(start_offsets::FILE_NAME);
        let (starts, starts_known) =
            match load(&**fs, &starts_path, start_offsets::decode).map_err(open_error(&starts_path))? {
                Loaded::Found(starts) => (starts, true),
                // Written with the first checkpoint.
                Loaded::Missing => (start_offsets::Offsets::new(), true),
                Loaded::Damaged(error) => {
                    tracing::error!(path = %starts_path.display(), %error, "the log start offsets are lost");
                    (start_offsets::Offsets::new(), false)
                }
            };
        let flushed_known = flushed.is_some();
        let shared = DirShared::new(
            fs.clone(),
            path,
            options.reserve_bytes,
            flushed.unwrap_or_default(),
            starts,
        );
        Ok(LogDir {
            shared: Arc::new(shared),
            identity,
            was_clean: was_clean && flushed_known && starts_known,
            stored_broker_epoch,
            flushed_known,
            starts_known,
            broker_epoch: Mutex::new(None),
            _lock: lock,
        })
    }

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

    /// Creates a partition with an empty log that begins at offset 0. A half-made one that a crash left is made anew.
    ///
    /// # Errors
    /// See [`OpenLogError`].
    pub fn create_log(
        &self,
        topic: &str,
        partition: i32,
        topic_id: Uuid,
        config: LogConfig,
    ) -> Result<Log, OpenLogError> {
        self.shared.check_online()?;
        if !is_legal_topic(topic) || partition < 0 {
            return Err(OpenLogError::InvalidName(format!("{topic}-{partition}")));
        }
        let name = TopicPartition::new(topic, partition);
        let path = self.partition_path(&name);
        let fs = &*self.shared.fs;
        match fs.create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !listing::is_incomplete(fs, &path).map_err(log_error(&path))? {
                    return Err(OpenLogError::AlreadyExists(name.to_string()));
                }
            }
            Err(error) => return Err(log_error(&path)(error)),
        }
        // A partition of the same name may have been here before.
        self.shared.forget(&name);
        let metadata_path = path.join(partition_metadata::FILE_NAME);
        write_atomic(fs, &metadata_path, &partition_metadata::encode(topic_id))
            .and_then(|()| fs.sync_dir(&self.shared.path))
            .map_err(log_error(&metadata_path))?;
        self.open_inner(name, topic_id, config)
    }

    /// Opens a partition's log and recovers it.
    ///
    /// # Errors
    /// See [`OpenLogError`]; a partition of another topic id is never opened.
    pub fn open_log(
        &self,
        topic: &str,
        partition: i32,
        topic_id: Uuid,
        config: LogConfig,
    ) -> Result<Log, OpenLogError> {
        self.shared.check_online()?;
        let name = TopicPartition::new(topic, partition);
        let path = self.partition_path(&name);
        let fs = &*self.shared.fs;
        if !fs.exists(&path).map_err(log_error(&path))? {
            return Err(OpenLogError::NotFound(name.to_string()));
        }
        let metadata_path = path.join(partition_metadata::FILE_NAME);
        match load(fs, &metadata_path, partition_metadata::decode).map_err(log_error(&metadata_path))? {
            Loaded::Found(found) if found == topic_id => {}
            Loaded::Found(found) => {
                return Err(OpenLogError::TopicIdMismatch {
                    expected: topic_id,
                    found,
                });
            }
            Loaded::Missing => {
                return Err(OpenLogError::Damaged {
                    path: metadata_path,
                    reason: "the file is missing".into(),
                });
            }
            Loaded::Damaged(error) => {
                return Err(OpenLogError::Damaged {
                    path: metadata_path,
                    reason: error.to_string(),
                });
            }
        }
        self.open_inner(name, topic_id, config)
    }

    fn open_inner(&self, name: TopicPartition, topic_id: Uuid, config: LogConfig) -> Result<Log, OpenLogError> {
        if self
            .shared
            .logs
            .lock()
            .get(&name)
            .is_some_and(|log| log.upgrade().is_some_and(|log| !log.is_closed()))
        {
            return Err(OpenLogError::AlreadyExists(format!("{name} is open already;")));
        }
        let flushed = self
            .flushed_known
            .then(|| self.shared.stored_flushed(&name).unwrap_or_default());
        let open = OpenLog {
            log_start: self.shared.stored_start(&name).unwrap_or(0),
            clean: self.was_clean,
            name: name.clone(),
            topic_id,
            config,
            flushed,
        };
        let path = self.partition_path(&name);
        let inner =
            LogInner::open(&self.shared, path, open).map_err(|(path, source)| OpenLogError::Io { path, source })?;
        self.shared.logs.lock().insert(name, Arc::downgrade(&inner));
        Ok(Log { inner })
    }

    /// Whether the log start offsets could be read when the directory was opened; if not, logs begin at their first
    /// segment.
    #[must_use]
    pub fn log_starts_known(&self) -> bool {
        self.starts_known
    }

    /// The end of what is recorded as durable of a partition, whether or not its directory is there.
    #[must_use]
    pub fn recorded_flushed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.shared
            .stored_flushed(&TopicPartition::new(topic, partition))
            .map(|point| point.offset)
    }

    /// Forgets what is recorded of partitions that have no directory and that `keep` does not name: a deletion that a
    /// crash interrupted before its record was gone too.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_missing(&self, keep: impl Fn(&TopicPartition) -> bool) -> io::Result<()> {
        for name in self.shared.recorded() {
            if !keep(&name) && !self.shared.fs.exists(&self.partition_path(&name))? {
                self.shared.forget(&name);
            }
        }
        Ok(())
    }

    /// Deletes a partition: its directory is renamed to `<name>.<uuid>-delete`, durably, and then removed. The open
    /// log, if there is one, is closed.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if there is no such partition; the directory goes offline if it fails half way.
    pub fn delete_log(&self, topic: &str, partition: i32) -> Result<(), ChangeError> {
        let renamed = self.rename_away(&TopicPartition::new(topic, partition), listing::DELETE_SUFFIX)?;
        self.shared
            .fs
            .remove_dir_all(&renamed)
            .map_err(|error| self.shared.refuse_or_fail("removing a deleted partition", &error))
    }

    /// Renames a partition that should not be here aside, to `<name>.<uuid>-stray`. Nothing is deleted (KAFKA-14616).
    /// Returns the new path.
    ///
    /// # Errors
    /// As [`LogDir::delete_log`].
    pub fn set_aside_stray(&self, topic: &str, partition: i32) -> Result<PathBuf, ChangeError> {
        self.rename_away(&TopicPartition::new(topic, partition), listing::STRAY_SUFFIX)
    }

    /// Removes what deletions left that a crash interrupted; returns how many partitions.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_deleted(&self) -> io::Result<usize> {
        let mut removed = 0;
        for found in self.partitions()? {
            if found.state == PartitionState::Deleted {
                self.shared.fs.remove_dir_all(&found.path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn rename_away(&self, name: &TopicPartition, suffix: &str) -> Result<PathBuf, ChangeError> {
        self.shared.check_online()?;
        let path = self.partition_path(name);
        let fs = &*self.shared.fs;
        match fs.exists(&path) {
            Ok(true) => {}
            Ok(false) => return Err(ChangeError::Refused(format!("there is no partition {name}"))),
            Err(error) => return Err(ChangeError::Refused(error.to_string())),
        }
        let open = self.shared.logs.lock().get(name).and_then(std::sync::Weak::upgrade);
        if let Some(log) = open {
            let _no_flush = log.flush_lock.lock();
            let _writer = log.writer.lock();
            log.closed.store(true, Ordering::Release);
            log.gone.store(true, Ordering::Release);
        }
        // A directory name has at most 255 bytes.
        let kept: String = name.dir_name().chars().take(200).collect();
        let renamed = self
            .shared
            .path
            .join(format!("{kept}.{}{suffix}", Uuid::new_v4().simple()));
        fs.rename(&path, &renamed)
            .and_then(|()| fs.sync_dir(&self.shared.path))
            .map_err(|error| self.shared.fail("renaming a partition", &error))?;
        self.shared.forget(name);
        Ok(renamed)
    }

    /// Stores where each log is flushed and where it begins, after making what recovery needs durable. To be called
    /// every few seconds: a recovery scans what was appended since.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] on a full disk: the old checkpoints stay, and stay right.
    pub fn write_checkpoints(&self) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        for log in self.shared.open_logs() {
            match log.checkpoint(false) {
                Ok(()) | Err(FlushError::Closed) => {}
                Err(FlushError::Offline(offline)) => return Err(offline.into()),
            }
        }
        self.shared
            .store_all()
            .map_err(|error| self.shared.refuse_or_fail("writing checkpoints", &error))?;
        self.shared
            .hold_reserve()
            .map_err(|error| self.shared.refuse_or_fail("keeping room in reserve", &error))
    }

    /// Flushes and closes every log, stores the checkpoints and, last of all, the clean mark with the broker epoch.
    ///
    /// # Errors
    /// Then there is no clean mark, and the next opening is an unclean one.
    pub fn close_clean(&self, broker_epoch: i64) -> Result<(), ChangeError> {
        self.shared.check_online()?;
        for log in self.shared.open_logs() {
            match log.close() {
                Ok(()) | Err(FlushError::Closed) => {}
                Err(FlushError::Offline(offline)) => return Err(offline.into()),
            }
        }
        let failed = |what: &'static str| move |error: io::Error| self.shared.refuse_or_fail(what, &error);
        self.shared.store_all().map_err(failed("writing checkpoints"))?;
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

fn check_identity(path: &Path, identity: &DirIdentity, options: &DirOptions) -> Result<(), OpenDirError> {
    let foreign = |found: String, expected: String| {
        Err(OpenDirError::Foreign {
            path: path.to_owned(),
            found,
            expected,
        })
    };
    if let Some(expected) = options
        .expected_cluster_id
        .as_ref()
        .filter(|id| **id != identity.cluster_id)
    {
        return foreign(
            format!("cluster {}", identity.cluster_id),
            format!("cluster {expected}"),
        );
    }
    if let Some(expected) = options.expected_node_id.filter(|id| *id != identity.node_id) {
        return foreign(format!("broker {}", identity.node_id), format!("broker {expected}"));
    }
    if let Some(expected) = options.expected_directory_id.filter(|id| *id != identity.directory_id) {
        return foreign(
            format!("directory id {}", identity.directory_id),
            format!("directory id {expected}"),
        );
    }
    Ok(())
}
