//! Giving a directory an identity, and opening it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::shared::{DirShared, StoredFlushed};
use super::{DirOptions, LOCK_FILE_NAME, LogDir, listing, reserve};
use crate::checkpoint::meta_properties::{self, DirIdentity};
use crate::checkpoint::{Loaded, clean_mark, flushed, load, start_offsets};
use crate::error::{FormatDirError, OpenDirError};
use crate::fs::{FileSystem, remove_if_exists, write_atomic};

/// What a fresh file system may hold, and what a broker notes there before it has an identity.
const HARMLESS_NAMES: [&str; 5] = [
    "lost+found",
    LOCK_FILE_NAME,
    "flushed-offset-checkpoint.tmp",
    JOIN_FILE_NAME,
    "join-state.tmp",
];

/// Where a broker that joins a cluster notes how far it is: it begins before the directory can be formatted, as the
/// cluster's id is not known yet.
pub const JOIN_FILE_NAME: &str = "join-state";

fn open_error(path: &Path) -> impl FnOnce(io::Error) -> OpenDirError + '_ {
    move |source| OpenDirError::Io {
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
        Self::prepare_format(fs, path)?;
        write_atomic(
            &**fs,
            &path.join(flushed::FILE_NAME),
            &flushed::encode(&flushed::FlushedPoints::new()),
        )
        .and_then(|()| write_atomic(&**fs, &path.join(meta_properties::FILE_NAME), &identity.encode()))
        .map_err(io_error)
    }

    /// Checks that a directory can be formatted, and creates it if its parent exists.
    ///
    /// # Errors
    /// As [`LogDir::format`].
    pub fn prepare_format(fs: &Arc<dyn FileSystem>, path: &Path) -> Result<(), FormatDirError> {
        let io_error = |source: io::Error| FormatDirError::Io {
            path: path.to_owned(),
            source,
        };
        match fs.create_dir(path) {
            Ok(()) => fs.sync_dir(crate::fs::parent_of(path)).map_err(io_error)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(error)),
        }
        let temporary = crate::fs::temporary_path(Path::new(meta_properties::FILE_NAME));
        let entries = fs.read_dir(path).map_err(io_error)?;
        // First of all: a directory in use holds other things, too.
        if entries.iter().any(|entry| entry.name == meta_properties::FILE_NAME) {
            return Err(FormatDirError::AlreadyFormatted(path.to_owned()));
        }
        for entry in entries {
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
        Ok(())
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
                        reason: format!(
                            "the file is missing, but the directory holds {:?}: give a broker's own directory, or restore the file",
                            entry.name
                        ),
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
            remove_if_exists(&**fs, &mark_path).map_err(open_error(&mark_path))?;
        }
        // Also for the checkpoints' sake: one that a killed process could not make durable under its name must not
        // count now and be gone, its predecessor back, after the next power cut.
        fs.sync_dir(path).map_err(open_error(path))?;
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
                // A missing file says the same, and can't become a valid one of long ago.
                remove_if_exists(&**fs, &flushed_path)
                    .and_then(|_| fs.sync_dir(path))
                    .map_err(open_error(&flushed_path))?;
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
        let flushed = match flushed {
            Some(points) => StoredFlushed::Known(points),
            None => StoredFlushed::LostFor(listing::names(&**fs, path).map_err(open_error(path))?),
        };
        let shared = DirShared::new(fs.clone(), path, options.reserve_bytes, flushed, starts);
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
