//! The narrow door to the disk: everything the log does to files goes through [`FileSystem`] and [`File`].
//!
//! [`os::OsFileSystem`] is the real one and the only place in this crate that calls `std::fs`;
//! [`faulty::FaultyFileSystem`] is its in-memory twin that loses, tears and refuses what a real disk may lose, tear
//! and refuse. No rule about logs belongs in here.

pub mod faulty;
pub(crate) mod handles;
pub mod os;
mod pool;

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

/// How [`FileSystem::open`] treats a file that exists or is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read an existing file. Works on a read-only file system.
    Read,
    /// Read and write an existing file.
    ReadWrite,
    /// Create the file; an existing one is an error ([`io::ErrorKind::AlreadyExists`]).
    CreateNew,
    /// Create the file, or empty an existing one.
    CreateOrTruncate,
    /// Open the file for reading and writing, creating an empty one if it is missing.
    CreateOrOpen,
}

/// What [`FileSystem::metadata`] tells about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes (0 for a directory).
    pub len: u64,
    /// Whether the path is a directory.
    pub is_dir: bool,
    /// Time of the last change of the contents, milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The last component of the path.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Directory-level operations. A name that was created, renamed or removed survives a power loss only after
/// [`FileSystem::sync_dir`] of its directory; file contents only after [`File::sync_data`] or [`File::sync_all`].
pub trait FileSystem: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// Whatever the operating system says; a missing file is [`io::ErrorKind::NotFound`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// The names in a directory, in no particular order.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Length and kind of a path.
    ///
    /// # Errors
    /// A missing path is [`io::ErrorKind::NotFound`].
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Creates one directory whose parent exists.
    ///
    /// # Errors
    /// An existing path is [`io::ErrorKind::AlreadyExists`].
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames within one directory, replacing an existing file of the new name atomically.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open handles and maps stay readable.
    ///
    /// # Errors
    /// A missing file is [`io::ErrorKind::NotFound`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all below it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// A failure means that no name changed since the last success is known to be durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written on the file system that holds `path`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Takes an exclusive lock on a file, creating it; held until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process or handle holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Whether a path exists. An error is an error, never "no".
    ///
    /// # Errors
    /// Whatever the operating system says except "not found".
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// One open file. All positions are absolute, so that many threads can share a handle.
pub trait File: Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no byte.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` from `pos`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends first.
    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()>;
    /// Reads up to `len` bytes from `pos` into a buffer of its own; shorter only where the file ends.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes>;
    /// Writes all slices one after the other from `pos`, extending the file as needed.
    ///
    /// # Errors
    /// After an error any part of the bytes may have been written.
    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable (`fdatasync`).
    ///
    /// # Errors
    /// After an error the pages may have been dropped: a later success proves nothing about the bytes written before
    /// (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC'20).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and all metadata durable (`fsync`).
    ///
    /// # Errors
    /// As [`File::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
    /// A window on `len` bytes from `pos`, which must lie within the file. The real one is a memory map of just that
    /// range, unmapped when the last clone is dropped: the file must never be cut below it while it lives.
    ///
    /// # Errors
    /// Whatever the operating system says; [`io::ErrorKind::UnexpectedEof`] if the range is not in the file.
    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes>;
    /// Hint: begin to write a range back without waiting for it. Promises nothing about durability.
    fn start_writeback(&self, pos: u64, len: u64) {
        let _ = (pos, len);
    }
    /// Hint: forget clean cached pages from byte `from` on (and, where pages are larger, a few before it), so that the
    /// next read comes from the disk. After a failed fsync the cache may hold bytes that the disk does not.
    fn drop_cache(&self, from: u64) {
        let _ = from;
    }
}

/// The name under which [`write_atomic`] prepares the new contents of `path`.
#[must_use]
pub fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Replaces a small file so that after a crash either the old or the new contents are there, whole: temporary file,
/// fsync, rename, fsync of the directory (torn checkpoints: KAFKA-3968, KAFKA-16541).
///
/// # Errors
/// Whatever the file system says. The old contents are untouched unless the last step, the directory's fsync, failed;
/// its error never counts as a full disk ([`is_disk_full`]).
pub fn write_atomic(fs: &dyn FileSystem, path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = temporary_path(path);
    let file = fs.open(&temporary, OpenMode::CreateOrTruncate)?;
    file.write_all_vectored_at(&[IoSlice::new(contents)], 0)?;
    file.sync_all()?;
    drop(file);
    fs.rename(&temporary, path)?;
    fs.sync_dir(parent_of(path)).map_err(io::Error::other)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is longer than `limit`; otherwise whatever the file system says.
pub fn read_whole(fs: &dyn FileSystem, path: &Path, limit: u64) -> io::Result<Bytes> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is {len} bytes long, more than the {limit} it may have",
                path.display()
            ),
        ));
    }
    // `len` fits: it is at most `limit`, which callers keep far below the address space.
    file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX))
}

/// The directory a path lies in (`.` for a bare name).
#[must_use]
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes a file; a file that is not there is fine.
///
/// # Errors
/// Whatever the file system says except "not found".
pub fn remove_if_exists(fs: &dyn FileSystem, path: &Path) -> io::Result<bool> {
    match fs.remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error says that the disk (or a quota) is full: the one write error after which the disk itself is
/// still to be trusted.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
