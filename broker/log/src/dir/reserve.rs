//! A file that does nothing but hold some room on the disk, to be given up when there is none left.
//!
//! A broker must be able to start on a full disk: the metadata quorum writes a vote and an entry before retention or a
//! deletion can make room. Refusing appends early is not enough, as others may write to the same disk.

use std::io::{self, IoSlice};
use std::path::Path;

use crate::fs::{FileSystem, OpenMode, remove_if_exists};

/// Kafka's tools skip names that begin with a dot.
const FILE_NAME: &str = ".reserve";
/// Enough for thousands of votes, metadata entries and checkpoints.
const MAX_BYTES: u64 = 4 << 20;
const CHUNK_BYTES: u64 = 64 << 10;

/// How much the file holds where appends leave `reserve_bytes`. None where these are not guarded either.
fn size(reserve_bytes: u64) -> u64 {
    MAX_BYTES.min(reserve_bytes / 4)
}

/// Gives up the file if less than its size is left on the disk. Returns whether there was one.
///
/// # Errors
/// The file system's.
pub(crate) fn release_if_short(fs: &dyn FileSystem, dir: &Path, reserve_bytes: u64) -> io::Result<bool> {
    if fs.available_bytes(dir)? >= size(reserve_bytes) {
        return Ok(false);
    }
    release(fs, dir)
}

/// Gives up the file. Returns whether there was one.
///
/// # Errors
/// The file system's.
pub(crate) fn release(fs: &dyn FileSystem, dir: &Path) -> io::Result<bool> {
    let path = dir.join(FILE_NAME);
    let released = remove_if_exists(fs, &path)?;
    if released {
        tracing::warn!(path = %path.display(), "the disk is full: the room kept for this case is used now");
    }
    Ok(released)
}

/// Makes the file if it is missing and the disk has twice its size to spare.
///
/// # Errors
/// The file system's; what was written so far is removed again.
pub(crate) fn hold(fs: &dyn FileSystem, dir: &Path, reserve_bytes: u64) -> io::Result<()> {
    let path = dir.join(FILE_NAME);
    let size = size(reserve_bytes);
    if size == 0 || fs.exists(&path)? || fs.available_bytes(dir)? < 3 * size {
        return Ok(());
    }
    let written = write(fs, &path, size);
    if written.is_err() {
        let _ = remove_if_exists(fs, &path);
    }
    written
}

/// Real bytes: a sparse file holds no room.
fn write(fs: &dyn FileSystem, path: &Path, size: u64) -> io::Result<()> {
    let file = fs.open(path, OpenMode::CreateOrTruncate)?;
    let chunk = vec![0xa5; CHUNK_BYTES as usize];
    let mut position = 0;
    while position < size {
        let len = CHUNK_BYTES.min(size - position);
        file.write_all_vectored_at(&[IoSlice::new(&chunk[..len as usize])], position)?;
        position += len;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::os::OsFileSystem;

    #[test]
    fn room_is_held_once_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let fs = OsFileSystem::shared();
        hold(&*fs, dir.path(), 1 << 20).unwrap();
        let path = dir.path().join(FILE_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 256 << 10);
        hold(&*fs, dir.path(), 1 << 20).unwrap();
        assert!(
            !release_if_short(&*fs, dir.path(), 1 << 20).unwrap(),
            "there is room enough"
        );
        assert!(release(&*fs, dir.path()).unwrap());
        assert!(!release(&*fs, dir.path()).unwrap());
        hold(&*fs, dir.path(), 0).unwrap();
        assert!(!path.exists());
    }
}
