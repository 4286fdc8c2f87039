//! The partitions of a directory: making, opening, deleting them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, atomic::Ordering};

use uuid::Uuid;

use super::{LogDir, OpenLogOptions, PartitionState, listing, shared::DirShared};
use crate::checkpoint::topic_partition::{TopicPartition, is_legal_topic};
use crate::checkpoint::{Loaded, load, partition_metadata};
use crate::config::LogConfig;
use crate::error::{ChangeError, OpenLogError};
use crate::fs::write_atomic;
use crate::log::{Log, LogInner, OpenLog};

/// A partition that is deleted, and whose files take room still: until [`DeletedLog::remove`].
#[must_use = "its files are still there"]
pub struct DeletedLog {
    shared: Arc<DirShared>,
    path: PathBuf,
}

impl DeletedLog {
    /// Removes the files. Others that remove them at the same time do no harm.
    ///
    /// # Errors
    /// The directory goes offline, unless the disk is full.
    pub fn remove(self) -> Result<(), ChangeError> {
        match self.shared.fs.remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.shared.refuse_or_fail("removing a deleted partition", &error))
            }
            _ => Ok(()),
        }
    }
}

fn log_error(path: &Path) -> impl FnOnce(io::Error) -> OpenLogError + '_ {
    move |source| OpenLogError::Io {
        path: path.to_owned(),
        source,
    }
}

impl LogDir {
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
        let (name, path) = self.place_of(topic, partition)?;
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
        // A partition of the same name may have been here before: its flushed point would make damage of all that
        // the new one does not have.
        self.shared
            .forget_for_good(&name)
            .map_err(log_error(&self.shared.path))?;
        let metadata_path = path.join(partition_metadata::FILE_NAME);
        write_atomic(fs, &metadata_path, &partition_metadata::encode(topic_id))
            .and_then(|()| fs.sync_dir(&self.shared.path))
            .map_err(log_error(&metadata_path))?;
        self.open_inner(name, topic_id, config, OpenLogOptions::default())
    }

    /// Opens a partition's log and recovers it: [`LogDir::open_log_with`] without options.
    ///
    /// # Errors
    /// As there.
    pub fn open_log(
        &self,
        topic: &str,
        partition: i32,
        topic_id: Uuid,
        config: LogConfig,
    ) -> Result<Log, OpenLogError> {
        self.open_log_with(topic, partition, topic_id, config, OpenLogOptions::default())
    }

    /// Opens a partition's log and recovers it.
    ///
    /// # Errors
    /// See [`OpenLogError`]; a partition of another topic id is never opened.
    pub fn open_log_with(
        &self,
        topic: &str,
        partition: i32,
        topic_id: Uuid,
        config: LogConfig,
        options: OpenLogOptions,
    ) -> Result<Log, OpenLogError> {
        let (name, path) = self.place_of(topic, partition)?;
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
        self.open_inner(name, topic_id, config, options)
    }

    /// A partition's name and the path that its directory has or would have.
    fn place_of(&self, topic: &str, partition: i32) -> Result<(TopicPartition, PathBuf), OpenLogError> {
        self.shared.check_online()?;
        if !is_legal_topic(topic) || partition < 0 {
            return Err(OpenLogError::InvalidName(format!("{topic}-{partition}")));
        }
        let name = TopicPartition::new(topic, partition);
        let path = self.partition_path(&name);
        Ok((name, path))
    }

    fn open_inner(
        &self,
        name: TopicPartition,
        topic_id: Uuid,
        config: LogConfig,
        options: OpenLogOptions,
    ) -> Result<Log, OpenLogError> {
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
        let path = self.partition_path(&name);
        let open = OpenLog {
            log_start: self.shared.stored_start(&name).unwrap_or(0),
            clean: self.was_clean,
            name,
            topic_id,
            config,
            flushed,
            options,
        };
        let inner =
            LogInner::open(&self.shared, path, open).map_err(|(path, source)| OpenLogError::Io { path, source })?;
        self.shared.add(&inner);
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
        self.begin_deletion(topic, partition)?.remove()
    }

    /// The first part of [`LogDir::delete_log`]: from here on the partition is gone, also after a crash. To remove its
    /// files may take the disk seconds, if they are large.
    ///
    /// # Errors
    /// As [`LogDir::delete_log`].
    pub fn begin_deletion(&self, topic: &str, partition: i32) -> Result<DeletedLog, ChangeError> {
        let path = self.rename_away(&TopicPartition::new(topic, partition), listing::DELETE_SUFFIX)?;
        Ok(DeletedLog {
            shared: self.shared.clone(),
            path,
        })
    }

    /// Renames a partition that should not be here aside, to `<name>.<uuid>-stray`. Nothing is deleted (KAFKA-14616).
    /// Returns the new path.
    ///
    /// # Errors
    /// As [`LogDir::delete_log`].
    pub fn set_aside_stray(&self, topic: &str, partition: i32) -> Result<PathBuf, ChangeError> {
        self.rename_away(&TopicPartition::new(topic, partition), listing::STRAY_SUFFIX)
    }

    /// What deletions left that a crash interrupted.
    ///
    /// # Errors
    /// The file system's.
    pub fn deleted_logs(&self) -> io::Result<Vec<DeletedLog>> {
        let found = self.partitions()?.into_iter();
        let deleted = found.filter(|found| found.state == PartitionState::Deleted);
        Ok(deleted
            .map(|found| DeletedLog {
                shared: self.shared.clone(),
                path: found.path,
            })
            .collect())
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
}
