//! What a voter is opened with.

use std::{sync::Arc, time::Duration};

use millrace_log::{FileSystem, LogDir};
use uuid::Uuid;

/// The topic whose only partition is the metadata log.
pub const METADATA_TOPIC: &str = "__metadata";

/// The metadata log's partition.
pub const METADATA_PARTITION: i32 = 0;

/// The metadata topic's id: the one that Kafka reserves for its own (KIP-516).
pub const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);

/// What a voter is opened with. [`QuorumOptions::new`] fills in the defaults.
#[derive(Clone)]
pub struct QuorumOptions {
    /// This voter. Never given to another disk, not even after the voter was removed.
    pub voter_id: u64,
    /// The id of the log directory that it votes with.
    pub directory_id: Uuid,
    /// HOST:PORT for other brokers.
    pub address: String,
    /// The file system of `log_dir`.
    pub fs: Arc<dyn FileSystem>,
    /// The broker's log directory: the metadata log is its partition `__metadata-0`.
    pub log_dir: Arc<LogDir>,
    /// A snapshot is taken after so many entries; about as many are kept in the log behind it.
    /// At least 1. Default 5,000: replaying them takes less than a tenth of a second.
    pub snapshot_every: u64,
    /// How often a leader tells its followers that it lives. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing for a random time between this and twice this stands for
    /// election. Default 500 ms: several times the worst fsync of a healthy disk.
    pub election_timeout: Duration,
    /// How long [`submit`](super::Quorum::submit) and [`read_index`](super::Quorum::read_index)
    /// wait for a majority. Default 10 s.
    pub request_timeout: Duration,
    /// The most commands that may wait for the quorum at a time. Default 8,192: bounds memory,
    /// and is more than all brokers of a large cluster ask for at once.
    pub max_pending: usize,
    /// Whether a voter that is the only one by its own log leads at once. Off: it waits for
    /// [`Quorum::lead_alone`](super::Quorum::lead_alone), so that someone can first find out
    /// whether that log is an old one. Default on.
    pub leads_alone: bool,
}

impl QuorumOptions {
    /// Options with defaults for all but identity and place.
    pub fn new(
        voter_id: u64,
        directory_id: Uuid,
        address: impl Into<String>,
        fs: Arc<dyn FileSystem>,
        log_dir: Arc<LogDir>,
    ) -> Self {
        Self {
            voter_id,
            directory_id,
            address: address.into(),
            fs,
            log_dir,
            snapshot_every: 5_000,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(10),
            max_pending: 8_192,
            leads_alone: true,
        }
    }
}
