//! Typed errors, one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_proto::batch::BatchError;

use crate::producer::SequenceError;

/// The log directory is not used any more: a write or an fsync failed, so what is on the disk is no longer known.
/// Only a restart, which reads everything back, ends this (Rebello et al., USENIX ATC'20; KAFKA-10778).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log directory {} is offline: {reason}", directory.display())]
pub struct Offline {
    /// The data directory.
    pub directory: Arc<PathBuf>,
    /// What failed first.
    pub reason: Arc<str>,
}

/// Too little space is left to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk full: {available_bytes} bytes are available, of which {reserve_bytes} are kept in reserve")]
pub struct DiskFull {
    /// Bytes available on the file system.
    pub available_bytes: u64,
    /// Bytes that appends must leave.
    pub reserve_bytes: u64,
}

/// Why an append did not happen. Nothing was written, except with [`AppendError::Offline`], after which the batch may
/// or may not be found in the log, and with [`AppendError::DiskFull`] where a follower appends to several segments at
/// once (see [`Log::append_as_follower`](crate::Log::append_as_follower)).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not one valid batch.
    #[error("invalid batch: {0}")]
    Corrupt(#[from] BatchError),
    /// The bytes are more or other than batches that a leader or follower may append.
    #[error("invalid batch: {0}")]
    Invalid(String),
    /// Larger than `max.message.bytes`.
    #[error("the batch has {size_bytes} bytes, more than max.message.bytes ({max_bytes})")]
    TooLarge {
        /// The batch's size.
        size_bytes: usize,
        /// The limit.
        max_bytes: u32,
    },
    /// A record time is too far from the broker's clock (KIP-937).
    #[error("record time {timestamp} is not between {earliest} and {latest}")]
    InvalidTimestamp {
        /// The offending time.
        timestamp: i64,
        /// The earliest allowed one.
        earliest: i64,
        /// The latest allowed one.
        latest: i64,
    },
    /// The sequence was stored before, longer ago than the batches that are remembered;
    /// [`Log::find_batch`](crate::Log::find_batch) may find it.
    #[error("producer {producer_id} sent sequence {sequence} again; the last one stored is {last_sequence}")]
    DuplicateSequence {
        /// The producer.
        producer_id: i64,
        /// The batch's base sequence.
        sequence: i32,
        /// The last sequence stored.
        last_sequence: i32,
    },
    /// The sequence leaves a gap.
    #[error("producer {producer_id} sent sequence {sequence} where {expected} comes next")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// The batch's base sequence.
        sequence: i32,
        /// What would have been right.
        expected: i32,
    },
    /// A newer instance of the producer has written.
    #[error("producer {producer_id} has epoch {current}; {epoch} is fenced")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// The batch's epoch.
        epoch: i16,
        /// The newest epoch.
        current: i16,
    },
    /// The append was conditional, and the log ends elsewhere.
    #[error("the log ends at {log_end}, not at {expected}")]
    OffsetMismatch {
        /// What the caller expected.
        expected: i64,
        /// Where the log ends.
        log_end: i64,
    },
    /// Batches that do not follow the log's end (followers).
    #[error("the batch begins at {found} where {expected} or more must follow")]
    OutOfOrderOffset {
        /// The log end offset.
        expected: i64,
        /// The batch's base offset.
        found: i64,
    },
    /// The leader epoch lies below the log's, or (followers) above the one that was fetched under (KAFKA-18723).
    #[error("leader epoch {epoch} is not between {lowest} and {highest}")]
    InvalidLeaderEpoch {
        /// The epoch.
        epoch: i32,
        /// The latest epoch in the log.
        lowest: i32,
        /// The highest allowed one.
        highest: i32,
    },
    /// No room.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The directory failed, now or before.
    #[error(transparent)]
    Offline(#[from] Offline),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
}

impl From<SequenceError> for AppendError {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::OutOfOrder {
                producer_id,
                sequence,
                expected,
            } => AppendError::OutOfOrderSequence {
                producer_id,
                sequence,
                expected,
            },
            SequenceError::Duplicate {
                producer_id,
                sequence,
                last_sequence,
            } => AppendError::DuplicateSequence {
                producer_id,
                sequence,
                last_sequence,
            },
            SequenceError::InvalidEpoch {
                producer_id,
                epoch,
                current,
            } => AppendError::InvalidProducerEpoch {
                producer_id,
                epoch,
                current,
            },
        }
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {offset} is not in the log, which spans {log_start} to {log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// First offset in the log.
        log_start: i64,
        /// Next offset to be appended.
        log_end: i64,
    },
    /// The records are damaged. They are kept, and never served.
    #[error("records from {from} {} are damaged: {reason}", before(*to))]
    Corrupt {
        /// First damaged offset.
        from: i64,
        /// First offset behind the damage, where reading goes on; `None` if it is not known.
        to: Option<i64>,
        /// What is wrong.
        reason: String,
    },
    /// The file system failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// The directory failed.
    #[error(transparent)]
    Offline(#[from] Offline),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
}

fn before(end: Option<i64>) -> String {
    end.map_or_else(
        || "on, up to an unknown offset,".to_owned(),
        |end| format!("up to, not including, {end}"),
    )
}

/// Why nothing more is durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The directory failed, now or before.
    #[error(transparent)]
    Offline(#[from] Offline),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
}

/// Why a log was not changed: truncation, roll, retention, delete-records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The offset is outside the log.
    #[error("offset {offset} is not in the log, which spans {log_start} to {log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// First offset in the log.
        log_start: i64,
        /// Next offset to be appended.
        log_end: i64,
    },
    /// The file system refused something before anything was changed.
    #[error("{0}")]
    Refused(String),
    /// The directory failed, now or before.
    #[error(transparent)]
    Offline(#[from] Offline),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
}

/// Why a log is not compacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactionError {
    /// A batch is damaged, or can't be taken apart. To go on without it would lose the last record of a key, or bring
    /// back a deleted one: so the log is not compacted until the batch is repaired (from another replica) or deleted.
    #[error(
        "segment {segment} at byte {position}, offset {offset}: {reason}; the log is not compacted until this is repaired"
    )]
    Damaged {
        /// Base offset of the segment.
        segment: i64,
        /// Where in it the batch begins, in bytes.
        position: u64,
        /// The first offset that can't be read.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// Another compaction of the log is under way.
    #[error("the log is being compacted already")]
    Busy,
    /// The file system refused something; nothing was changed by it.
    #[error("{0}")]
    Refused(String),
    /// The directory failed, now or before.
    #[error(transparent)]
    Offline(#[from] Offline),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
}

impl CompactionError {
    /// Nothing was changed, because a file could not be read.
    pub(crate) fn from_read(error: io::Error) -> Self {
        ChangeError::from_read(error).into()
    }
}

impl From<ChangeError> for CompactionError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Offline(offline) => CompactionError::Offline(offline),
            ChangeError::Closed => CompactionError::Closed,
            other => CompactionError::Refused(other.to_string()),
        }
    }
}

impl From<FlushError> for CompactionError {
    fn from(error: FlushError) -> Self {
        ChangeError::from(error).into()
    }
}

/// Why a log was not opened or created.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// There is no such partition in the directory.
    #[error("there is no partition {0} here")]
    NotFound(String),
    /// There is one already.
    #[error("partition {0} exists already")]
    AlreadyExists(String),
    /// The name can't be a topic's, or the number not a partition's.
    #[error("{0:?} is not a legal topic name or partition number")]
    InvalidName(String),
    /// The partition's directory belongs to another topic of the same name (KIP-516).
    #[error("the partition belongs to topic id {found}, not {expected}")]
    TopicIdMismatch {
        /// The id asked for.
        expected: uuid::Uuid,
        /// The id on the disk.
        found: uuid::Uuid,
    },
    /// The partition's metadata is missing or damaged.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being worked on.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The directory failed.
    #[error(transparent)]
    Offline(#[from] Offline),
}

/// Why a directory was not formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatDirError {
    /// It has an identity already.
    #[error("{} is formatted already", .0.display())]
    AlreadyFormatted(PathBuf),
    /// It is not empty. Formatting never hides data.
    #[error("{} is not empty: it holds {found:?}", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// The identity is not possible.
    #[error("invalid identity: {0}")]
    InvalidIdentity(String),
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being worked on.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Why a directory was not opened. Missing, foreign, damaged and locked disks are told apart; none is "new".
#[derive(Debug, thiserror::Error)]
pub enum OpenDirError {
    /// It is missing or empty: it was never formatted, or the disk is not mounted.
    #[error("{} is not formatted", .0.display())]
    NotFormatted(PathBuf),
    /// It belongs to another cluster, broker or directory id.
    #[error(
        "{} belongs to {found}, not to {expected}: mount {expected}'s own volume, or start {found} with this one; nothing was changed on it",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Another process uses it.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// It holds data but no valid identity.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was being worked on.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl ChangeError {
    /// Nothing was changed, because what to change could not be read.
    pub(crate) fn from_read(error: io::Error) -> Self {
        ChangeError::Refused(format!("reading failed: {error}"))
    }
}

impl From<FlushError> for ChangeError {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::Offline(offline) => ChangeError::Offline(offline),
            FlushError::Closed => ChangeError::Closed,
        }
    }
}
