//! What `log dump` and `log verify` show: the contents of a partition's files, and whether they fit each other. Reads
//! only, needs no lock, and also reads what Apache Kafka wrote.

mod files;
mod verify;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use millrace_proto::batch::{BatchHeader, BatchView, HEADER_LEN};

use crate::checkpoint::leader_epochs::{self, EpochEntry};
use crate::checkpoint::{FormatError, MAX_CHECKPOINT_BYTES};
use crate::fs::{FileSystem, OpenMode, read_whole};
use crate::index::txn::{self, AbortedTransaction};
use crate::index::{IndexEntry, OffsetEntry, TimeEntry};
use crate::producer::{ProducerState, snapshot};
use crate::segment::names;

pub use files::segment_bytes;
pub use verify::{PartitionReport, Problem, VerifyOptions, verify, verify_partition};

/// Why a file can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file system failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The contents are not what the name says.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// The name is none of a partition's files.
    #[error(
        "{0:?} is not the name of a segment's file (20 digits and .log, .index, .timeindex, .txnindex or .snapshot)"
    )]
    Name(String),
}

/// One batch of a `.log` file.
#[derive(Clone, Debug)]
pub struct DumpedBatch {
    /// Where it begins, in bytes.
    pub position: u64,
    /// Its header.
    pub header: BatchHeader,
    /// Whether the CRC matches.
    pub crc_matches: bool,
    /// All of it; records are read with [`BatchView::records`].
    pub bytes: Bytes,
}

/// How a `.log` file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpEnd {
    /// Bytes of whole batches.
    pub valid_bytes: u64,
    /// The file's length.
    pub file_bytes: u64,
    /// Why the bytes after the last whole batch are none, if there are such.
    pub reason: Option<String>,
}

/// Calls `each` for every batch from `from` (a batch's position) on, until it breaks or bytes follow that are no batch.
///
/// # Errors
/// The file system's.
pub fn dump_batches(
    fs: &dyn FileSystem,
    path: &Path,
    from: u64,
    mut each: impl FnMut(DumpedBatch) -> ControlFlow<()>,
) -> Result<DumpEnd, DumpError> {
    const CHUNK: usize = 4 << 20;
    let file = fs.open(path, OpenMode::Read)?;
    let file_bytes = file.len()?;
    let mut position = from;
    let mut reason = None;
    let mut chunk = Bytes::new();
    while position < file_bytes {
        if chunk.len() < HEADER_LEN {
            chunk = file.read_at(position, CHUNK)?;
        }
        let needed = match BatchView::parse(&chunk) {
            Ok(view) => {
                let size = view.bytes().len();
                let (header, crc_matches) = (*view.header(), view.verify_crc().is_ok());
                let bytes = chunk.split_to(size);
                let batch = DumpedBatch {
                    position,
                    header,
                    crc_matches,
                    bytes,
                };
                position += size as u64;
                if each(batch).is_break() {
                    break;
                }
                continue;
            }
            Err(millrace_proto::batch::BatchError::Incomplete { needed, .. })
                if needed as u64 <= file_bytes - position && needed > chunk.len() =>
            {
                needed
            }
            Err(error) => {
                reason = Some(error.to_string());
                break;
            }
        };
        chunk = file.read_at(position, needed.max(CHUNK))?;
        if chunk.len() < needed {
            reason = Some("the file was cut while it was read".to_owned());
            break;
        }
    }
    Ok(DumpEnd {
        valid_bytes: position,
        file_bytes,
        reason,
    })
}

fn base_offset_of(path: &Path) -> Result<i64, DumpError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    names::parse(name)
        .map(|(offset, _)| offset)
        .ok_or_else(|| DumpError::Name(name.to_owned()))
}

/// The entries of an index file. The zeros at the end of a file that Kafka preallocated are not entries.
fn entries<E: IndexEntry>(fs: &dyn FileSystem, path: &Path) -> Result<Vec<E>, DumpError> {
    let bytes = read_whole(fs, path, MAX_CHECKPOINT_BYTES)?;
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let count = used.div_ceil(E::SIZE);
    if bytes.len() % E::SIZE != 0 {
        return Err(FormatError::new(format!("{} bytes are no whole number of entries", bytes.len())).into());
    }
    Ok(bytes.chunks_exact(E::SIZE).take(count).map(E::decode).collect())
}

/// The entries of an `.index` file: (last offset of a batch, where it begins).
///
/// # Errors
/// The file system's; a length that is no whole number of entries.
pub fn dump_offset_index(fs: &dyn FileSystem, path: &Path) -> Result<Vec<(i64, u64)>, DumpError> {
    let base = base_offset_of(path)?;
    let entries = entries::<OffsetEntry>(fs, path)?;
    Ok(entries
        .iter()
        .map(|entry| {
            (
                base.saturating_add(i64::from(entry.relative_offset)),
                u64::from(entry.position),
            )
        })
        .collect())
}

/// The entries of a `.timeindex` file: (largest timestamp so far, last offset of its batch).
///
/// # Errors
/// As [`dump_offset_index`].
pub fn dump_time_index(fs: &dyn FileSystem, path: &Path) -> Result<Vec<(i64, i64)>, DumpError> {
    let base = base_offset_of(path)?;
    let entries = entries::<TimeEntry>(fs, path)?;
    Ok(entries
        .iter()
        .map(|entry| (entry.timestamp, base.saturating_add(i64::from(entry.relative_offset))))
        .collect())
}

/// The entries of a `.txnindex` file.
///
/// # Errors
/// The file system's; a file that is none.
pub fn dump_transaction_index(fs: &dyn FileSystem, path: &Path) -> Result<Vec<AbortedTransaction>, DumpError> {
    Ok(txn::decode(&read_whole(fs, path, MAX_CHECKPOINT_BYTES)?)?)
}

/// The producers in a `.snapshot` file.
///
/// # Errors
/// The file system's; a file that is none.
pub fn dump_producer_snapshot(fs: &dyn FileSystem, path: &Path) -> Result<ProducerState, DumpError> {
    Ok(snapshot::decode(&read_whole(fs, path, MAX_CHECKPOINT_BYTES)?)?)
}

/// The entries of a partition's `leader-epoch-checkpoint`.
///
/// # Errors
/// The file system's; a file that is none.
pub fn dump_leader_epochs(fs: &dyn FileSystem, partition_dir: &Path) -> Result<Vec<EpochEntry>, DumpError> {
    let path = partition_dir.join(leader_epochs::FILE_NAME);
    Ok(leader_epochs::decode(&read_whole(fs, &path, MAX_CHECKPOINT_BYTES)?)?)
}
