//! A log's settings, named as Kafka's topic configs.

use millrace_proto::batch::TimestampType;

/// `cleanup.policy`: what becomes of old records. With neither nothing is ever deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Segments go by `retention.ms` and `retention.bytes`.
    pub delete: bool,
    /// Records go that have a later one of their key.
    pub compact: bool,
}

/// Settings of one log. Times are milliseconds, sizes bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is rolled before it grows beyond this. At most 2 GiB less one, as positions are
    /// stored in 31 bits. Default 1 GiB.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment is rolled when its first record is older than this. Default 7 days.
    pub segment_ms: i64,
    /// `segment.index.bytes`: a segment is rolled when an index grows to this. Default 10 MiB.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: at most one index entry for so many bytes of log. Default 4 KiB.
    pub index_interval_bytes: u32,
    /// `retention.ms`: segments whose newest record is older are deleted. `None` keeps them. Default 7 days.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the oldest segments are deleted while the rest is at least this. `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy`. Default delete. Without delete only what lies below the log start goes (KAFKA-7400).
    pub cleanup_policy: CleanupPolicy,
    /// `min.compaction.lag.ms`: records are not compacted away before they are as old. Default 0.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a compaction is due at the latest when a record that was not compacted yet is as old,
    /// and the active segment is rolled for it (KIP-354). Default `None`: no limit.
    pub max_compaction_lag_ms: Option<i64>,
    /// `delete.retention.ms`: for so long after its first compaction a tombstone is kept, so that whoever reads from
    /// the start within that time sees it (KIP-534). Default one day.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio` in millionths: a compaction is due when so much of the log was not compacted yet.
    /// Default 500,000.
    pub min_cleanable_dirty_ppm: u32,
    /// `max.message.bytes`: the largest batch a leader takes. Default 1 MiB and 12 bytes, as Kafka's.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`. Default create time.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far record times may lie behind the broker's clock (KIP-937).
    pub message_timestamp_before_max_ms: Option<i64>,
    /// `message.timestamp.after.max.ms`: how far record times may lie ahead of the broker's clock (KIP-937).
    /// Default one hour.
    pub message_timestamp_after_max_ms: Option<i64>,
    /// `producer.id.expiration.ms`: a producer unused for so long is forgotten. Default one day.
    pub producer_id_expiration_ms: i64,
    /// Producers remembered at most; the least recently used are forgotten first (KIP-854). Default 100,000.
    pub max_producer_ids: usize,
    /// Appends may use the room that others must leave: for the cluster's own metadata, without which no room can be
    /// made. Default off.
    pub uses_reserve: bool,
    /// Check each batch's CRC when it is read, so that damage that nobody found yet is never served. Default on: it
    /// costs a few percent of copying the bytes once.
    pub verify_crc_on_read: bool,
}

/// Positions in a segment are stored in 31 bits.
pub const MAX_SEGMENT_BYTES: u32 = i32::MAX as u32;

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            cleanup_policy: CleanupPolicy {
                delete: true,
                compact: false,
            },
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: None,
            delete_retention_ms: DAY_MS,
            min_cleanable_dirty_ppm: 500_000,
            max_message_bytes: (1 << 20) + 12,
            timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: None,
            message_timestamp_after_max_ms: Some(60 * 60 * 1000),
            producer_id_expiration_ms: DAY_MS,
            max_producer_ids: 100_000,
            uses_reserve: false,
            verify_crc_on_read: true,
        }
    }
}

impl LogConfig {
    /// How old the first record of the active segment gets before it is rolled: records are compacted in sealed segments
    /// only.
    #[must_use]
    pub fn roll_ms(&self) -> i64 {
        match self.max_compaction_lag_ms {
            Some(lag) if self.cleanup_policy.compact => self.segment_ms.min(lag),
            _ => self.segment_ms,
        }
    }
}
