//! A topic's settings, typed.

use std::collections::BTreeMap;

use super::key::{ConfigError, TOPIC_KEYS, check};

/// When written data is forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Before it is acknowledged.
    Ack,
    /// At the latest after `flush.ms`.
    Interval,
    /// When the operating system likes.
    Os,
}

/// Whose time a message has (KIP-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampKind {
    /// Its producer's.
    CreateTime,
    /// The broker's at append.
    LogAppendTime,
}

/// How batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// As they were sent.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// A topic's settings in force: its own, else the broker's defaults, else the table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `compression.type`.
    pub compression: TopicCompression,
    /// `flush`.
    pub flush: FlushPolicy,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub timestamp_kind: TimestampKind,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `retention.bytes`; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`; `None`: no limit.
    pub retention_ms: Option<i64>,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.index.bytes`.
    pub segment_index_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: i64,
}

impl TopicConfig {
    /// Parses settings: `own` over `defaults` over the table's defaults.
    ///
    /// # Errors
    /// The first unknown key or value that is not allowed, in `own` or `defaults`.
    pub fn parse(own: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        for (key, value) in defaults.iter().chain(own) {
            check(key, value)?;
        }
        let in_force = |name: &str| -> &str {
            own.get(name)
                .or_else(|| defaults.get(name))
                .map(String::as_str)
                .or_else(|| TOPIC_KEYS.iter().find(|key| key.name == name).map(|key| key.default))
                .unwrap_or_default()
        };
        // `check` has bounded each of them, so that no conversion below can fail.
        let number = |name: &str| in_force(name).parse::<i64>().unwrap_or_default();
        let unsigned = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
        Ok(Self {
            compression: match in_force("compression.type") {
                "uncompressed" => TopicCompression::Uncompressed,
                "gzip" => TopicCompression::Gzip,
                "snappy" => TopicCompression::Snappy,
                "lz4" => TopicCompression::Lz4,
                "zstd" => TopicCompression::Zstd,
                _ => TopicCompression::Producer,
            },
            flush: match in_force("flush") {
                "interval" => FlushPolicy::Interval,
                "os" => FlushPolicy::Os,
                _ => FlushPolicy::Ack,
            },
            flush_ms: number("flush.ms"),
            index_interval_bytes: unsigned("index.interval.bytes"),
            max_message_bytes: unsigned("max.message.bytes"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_kind: match in_force("message.timestamp.type") {
                "LogAppendTime" => TimestampKind::LogAppendTime,
                _ => TimestampKind::CreateTime,
            },
            min_insync_replicas: unsigned("min.insync.replicas"),
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            retention_ms: Some(number("retention.ms")).filter(|ms| *ms >= 0),
            segment_bytes: unsigned("segment.bytes"),
            segment_index_bytes: unsigned("segment.index.bytes"),
            segment_ms: number("segment.ms"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn own_settings_win_over_the_brokers_and_these_over_the_tables() {
        let config = TopicConfig::parse(
            &map(&[("retention.ms", "-1"), ("flush", "os")]),
            &map(&[("retention.ms", "5"), ("segment.bytes", "2048")]),
        )
        .unwrap();
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.flush, FlushPolicy::Os);
        assert_eq!(config.segment_bytes, 2048);
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, 8 << 20);
        assert_eq!(config.min_insync_replicas, 2);
    }

    #[test]
    fn a_wrong_setting_is_refused_wherever_it_stands() {
        assert!(TopicConfig::parse(&map(&[("nope", "1")]), &map(&[])).is_err());
        assert!(TopicConfig::parse(&map(&[]), &map(&[("flush", "never")])).is_err());
    }
}
