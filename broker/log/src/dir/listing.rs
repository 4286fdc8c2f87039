//! What lies in a data directory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::checkpoint::topic_partition::TopicPartition;
use crate::checkpoint::{Loaded, load, partition_metadata};
use crate::fs::FileSystem;
use crate::segment::names;

/// Ends the name of a partition that is being deleted, as in Kafka.
pub(super) const DELETE_SUFFIX: &str = "-delete";
/// Ends the name of a partition that was set aside, as in Kafka.
pub(super) const STRAY_SUFFIX: &str = "-stray";

/// What a directory within a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// A partition of this topic.
    Present {
        /// The topic's id.
        topic_id: Uuid,
    },
    /// A partition whose creation a crash interrupted: no metadata and no segment. It may be created anew.
    Incomplete,
    /// A partition by its name, but not to be opened.
    Broken {
        /// Why not.
        reason: String,
    },
    /// Renamed to be deleted.
    Deleted,
    /// Renamed aside.
    Stray,
    /// No partition at all.
    Unknown,
}

/// One directory within a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPartition {
    /// Whose it is, where the name says so.
    pub name: Option<TopicPartition>,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub state: PartitionState,
}

pub(super) fn is_incomplete(fs: &dyn FileSystem, path: &Path) -> io::Result<bool> {
    if fs.exists(&path.join(partition_metadata::FILE_NAME))? {
        return Ok(false);
    }
    let holds_data = fs
        .read_dir(path)?
        .iter()
        .any(|entry| entry.name.to_str().and_then(names::parse).is_some());
    Ok(!holds_data)
}

pub(super) fn list(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<FoundPartition>> {
    let mut found = Vec::new();
    for entry in fs
        .read_dir(path)?
        .into_iter()
        .filter(|entry| entry.is_dir && entry.name != "lost+found")
    {
        let path = path.join(&entry.name);
        let text = entry.name.to_str().unwrap_or_default();
        let name = TopicPartition::parse_dir_name(text);
        let state = match &name {
            Some(_) => classify(fs, &path)?,
            None if text.ends_with(DELETE_SUFFIX) => PartitionState::Deleted,
            None if text.ends_with(STRAY_SUFFIX) => PartitionState::Stray,
            None => PartitionState::Unknown,
        };
        found.push(FoundPartition { name, path, state });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The partitions that directories are named after.
pub(super) fn names(fs: &dyn FileSystem, path: &Path) -> io::Result<BTreeSet<TopicPartition>> {
    let entries = fs.read_dir(path)?;
    let dirs = entries.iter().filter(|entry| entry.is_dir);
    Ok(dirs
        .filter_map(|entry| TopicPartition::parse_dir_name(entry.name.to_str()?))
        .collect())
}

fn classify(fs: &dyn FileSystem, path: &Path) -> io::Result<PartitionState> {
    Ok(
        match load(
            fs,
            &path.join(partition_metadata::FILE_NAME),
            partition_metadata::decode,
        )? {
            Loaded::Found(topic_id) => PartitionState::Present { topic_id },
            Loaded::Missing if is_incomplete(fs, path)? => PartitionState::Incomplete,
            Loaded::Missing => PartitionState::Broken {
                reason: format!("{} is missing", partition_metadata::FILE_NAME),
            },
            Loaded::Damaged(error) => PartitionState::Broken {
                reason: format!("{}: {error}", partition_metadata::FILE_NAME),
            },
        },
    )
}
