//! Which partitions and files [`verify`](super::verify()) looks through.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::{leader_epochs, partition_metadata, topic_partition::TopicPartition};
use crate::fs::FileSystem;
use crate::segment::names::{self, FileKind};

/// Bytes of all segments that [`verify`](super::verify()) looks through: a running broker may change them meanwhile.
///
/// # Errors
/// The directory can't be read.
pub fn segment_bytes(fs: &dyn FileSystem, path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for partition in partitions_in(fs, path)? {
        for (base, _) in files_of(fs, &partition)?
            .iter()
            .filter(|(_, kind)| *kind == FileKind::Log)
        {
            match fs.metadata(&names::path(&partition, *base, FileKind::Log)) {
                Ok(about) => bytes += about.len,
                // Removed by a running broker since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

/// A partition's directory itself, or those in a data directory.
pub(super) fn partitions_in(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs.read_dir(path)?;
    if entries
        .iter()
        .any(|entry| entry.name.to_str().and_then(names::parse).is_some())
    {
        return Ok(vec![path.to_owned()]);
    }
    let mut partitions: Vec<PathBuf> = Vec::new();
    for entry in &entries {
        let named = entry.is_dir && entry.name.to_str().and_then(TopicPartition::parse_dir_name).is_some();
        let path = path.join(&entry.name);
        if named && is_partition(fs, &path)? {
            partitions.push(path);
        }
    }
    partitions.sort();
    Ok(partitions)
}

/// Whether a directory holds what Millrace or Kafka write into a partition's: its name alone says little, as many
/// end with a dash and a number.
fn is_partition(fs: &dyn FileSystem, path: &Path) -> io::Result<bool> {
    Ok(fs.read_dir(path)?.iter().any(|entry| {
        entry.name.to_str().is_some_and(|name| {
            names::parse(name).is_some() || [partition_metadata::FILE_NAME, leader_epochs::FILE_NAME].contains(&name)
        })
    }))
}

/// Files that belong to a partition's log, in the order of their offsets.
pub(super) fn files_of(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<(i64, FileKind)>> {
    let entries = fs.read_dir(path)?;
    let mut files: Vec<(i64, FileKind)> = entries
        .iter()
        .filter_map(|entry| names::parse(entry.name.to_str()?))
        .collect();
    files.sort_unstable();
    Ok(files)
}
