//! The real file system: `std::fs`, `pread`/`pwritev`, `fdatasync` and memory maps.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::{DirEntry, File, FileSystem, Metadata, OpenMode, handles, pool};

/// The page cache may hold a file in units of up to this size (large folios).
const LARGEST_PAGE_BYTES: u64 = 2 << 20;

/// Reads from `pos` until the buffer is full or the file ends; returns how many bytes.
fn fill(file: &fs::File, buffer: &mut [u8], pos: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], pos + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFileSystem;

impl OsFileSystem {
    /// The file system behind the trait object that the rest of the crate takes.
    #[must_use]
    pub fn shared() -> Arc<dyn FileSystem> {
        Arc::new(OsFileSystem)
    }
}

fn to_metadata(metadata: &fs::Metadata) -> Metadata {
    let modified_ms = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|age| i64::try_from(age.as_millis()).ok())
        .unwrap_or(0);
    Metadata {
        len: if metadata.is_dir() { 0 } else { metadata.len() },
        is_dir: metadata.is_dir(),
        modified_ms,
    }
}

impl FileSystem for OsFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::CreateOrTruncate => options.write(true).create(true).truncate(true),
            OpenMode::CreateOrOpen => options.write(true).create(true).truncate(false),
        };
        let file = handles::open_with(|| options.open(path))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in handles::open_with(|| fs::read_dir(path))? {
            let entry = entry?;
            entries.push(DirEntry {
                name: entry.file_name(),
                is_dir: entry.file_type()?.is_dir(),
            });
        }
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(path).map(|metadata| to_metadata(&metadata))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        handles::open_with(|| fs::File::open(path))?.sync_all()
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(path)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

struct OsFile(fs::File);

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, pos)
    }

    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        // Never allocate by what a damaged length field claims: the file's own length is the bound.
        let left = self.len()?.saturating_sub(pos);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(mut buffer) = pool::take(len) {
            let read = fill(&self.0, &mut buffer[..len], pos)?;
            return Ok(pool::share(buffer, read));
        }
        let mut buffer: Vec<u8> = Vec::with_capacity(len);
        while buffer.len() < len {
            let at = pos + buffer.len() as u64;
            // `spare_capacity` reads into memory that was not zeroed first, and grows the vector by what was read.
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(&mut buffer), at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(len);
        let read = buffer.len();
        Ok(pool::share(buffer, read))
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        let mut pos = pos;
        let mut slices = slices;
        // Bytes of the first slice that are already written.
        let mut done = 0;
        while !slices.is_empty() {
            let written = if done == 0 {
                match rustix::io::pwritev(&self.0, slices, pos) {
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
            } else {
                match rustix::io::pwrite(&self.0, &slices[0][done..], pos) {
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if written == 0 && slices.iter().any(|slice| slice.len() > done) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            pos += written as u64;
            done += written;
            while let Some(first) = slices.first() {
                if done < first.len() {
                    break;
                }
                done -= first.len();
                slices = &slices[1..];
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        if self.len()?.saturating_sub(pos) < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the map is read-only and shared. The log never changes or cuts a byte of a sealed segment in place
        // (a truncation writes a new inode and renames it over), and maps only sealed segments, so the bytes behind
        // the slice do not change while it lives.
        let map = unsafe {
            memmap2::MmapOptions::new()
                .offset(pos)
                .len(len)
                .populate()
                .map(&self.0)?
        };
        Ok(Bytes::from_owner(map))
    }

    fn start_writeback(&self, pos: u64, len: u64) {
        // rustix has no sync_file_range; WILLNEED-like hints do not start writeback. Left to the kernel.
        let _ = (pos, len);
    }

    fn drop_cache(&self, from: u64) {
        // The kernel keeps pages that are only in part within the range. Only clean ones go, so this cannot lose
        // anything.
        let from = from / LARGEST_PAGE_BYTES * LARGEST_PAGE_BYTES;
        let _ = rustix::fs::fadvise(&self.0, from, None, rustix::fs::Advice::DontNeed);
    }
}
