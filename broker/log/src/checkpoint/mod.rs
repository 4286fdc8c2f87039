//! The small files beside the segments: who owns the directory, what is flushed, where logs and epochs begin.
//!
//! Kafka's own formats where Kafka has the file; each of ours carries a checksum, so that a torn or garbled one is
//! told apart from an old one. All are replaced atomically (see [`crate::fs::write_atomic`]).

pub mod clean_mark;
pub mod cleaned;
pub mod flushed;
pub mod leader_epochs;
pub mod meta_properties;
pub mod partition_metadata;
pub mod properties;
pub mod start_offsets;
pub mod topic_partition;

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::fs::{FileSystem, read_whole};

/// No checkpoint is longer: a million partitions with long names fit in.
pub const MAX_CHECKPOINT_BYTES: u64 = 512 << 20;

/// Why a checkpoint's contents can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);

impl FormatError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        FormatError(reason.into())
    }
}

/// A checkpoint as found. Missing, unreadable and damaged are three answers, and none of them is "empty".
#[derive(Debug)]
pub enum Loaded<T> {
    /// Read and valid.
    Found(T),
    /// There is no such file.
    Missing,
    /// There is one, but its contents are not valid.
    Damaged(FormatError),
}

/// Reads and decodes a checkpoint.
///
/// # Errors
/// The file system's, except "not found".
pub fn load<T>(
    fs: &dyn FileSystem,
    path: &Path,
    decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
) -> io::Result<Loaded<T>> {
    let bytes: Bytes = match read_whole(fs, path, MAX_CHECKPOINT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Loaded::Damaged(FormatError::new(error.to_string())));
        }
        Err(error) => return Err(error),
    };
    Ok(match decode(&bytes) {
        Ok(value) => Loaded::Found(value),
        Err(error) => Loaded::Damaged(error),
    })
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, FormatError> {
    std::str::from_utf8(bytes).map_err(|_| FormatError::new("not UTF-8 text"))
}

pub(crate) fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, FormatError> {
    text.trim()
        .parse()
        .map_err(|_| FormatError::new(format!("{what} {text:?} is not a number in range")))
}

/// Kafka's line-based checkpoint: a version line, a count line, then so many lines of entries.
pub(crate) fn counted_lines<'a>(contents: &'a str, version: u32) -> Result<Vec<&'a str>, FormatError> {
    let mut lines = contents.lines();
    let found: u32 = number(
        "version",
        lines.next().ok_or_else(|| FormatError::new("the file is empty"))?,
    )?;
    if found != version {
        return Err(FormatError::new(format!("version {found} is not {version}")));
    }
    let count: usize = number(
        "count",
        lines
            .next()
            .ok_or_else(|| FormatError::new("the count line is missing"))?,
    )?;
    let entries: Vec<&'a str> = lines.filter(|line| !line.trim().is_empty()).collect();
    if entries.len() != count {
        return Err(FormatError::new(format!(
            "{} entries where {count} are announced",
            entries.len()
        )));
    }
    Ok(entries)
}
