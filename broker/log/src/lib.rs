//! One partition's log on a disk: segments, indexes, leader epochs, producer state, retention and recovery.
//!
//! Synchronous and local: no network, no async, no clock (times are arguments), and files only through [`fs`].
//! [`LogDir`] is a data directory, [`Log`] one partition's log in it. File formats are Kafka's own.

pub mod checkpoint;
mod compact;
mod config;
mod dir;
pub mod dump;
mod epochs;
mod error;
pub mod fs;
pub mod index;
mod log;
pub mod producer;
pub mod segment;

pub use checkpoint::leader_epochs::EpochEntry;
pub use checkpoint::meta_properties::DirIdentity;
pub use checkpoint::topic_partition::TopicPartition;
pub use compact::{CompactionBounds, CompactionNeed};
pub use config::{CleanupPolicy, LogConfig, MAX_SEGMENT_BYTES};
pub use dir::{DeletedLog, DirOptions, FoundPartition, JOIN_FILE_NAME, LogDir, OpenLogOptions, PartitionState};
pub use epochs::EpochCache;
pub use error::{
    AppendError, ChangeError, CompactionError, DiskFull, FlushError, FormatDirError, Offline, OpenDirError,
    OpenLogError, ReadError,
};
pub use fs::faulty::FaultyFileSystem;
pub use fs::handles::keep_at_most;
pub use fs::os::OsFileSystem;
pub use fs::{File, FileSystem};
pub use log::{
    AppendOptions, Appended, CheckedBatch, Compaction, CompactionOptions, CompactionReport, CompactionStep,
    CompactionTraffic, DamagedRange, DeletedSegment, DeletionReason, FollowerAppended, FoundBatch, FoundOffset, Log,
    ProducerDescription, ReadData, RecoveryReport, RetentionReport, ScrubReport,
};
pub use producer::SequenceRule;
