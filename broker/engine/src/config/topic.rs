//! A topic's settings, typed.

use std::collections::BTreeMap;

use super::key::{ConfigError, TOPIC_KEYS, check, list, ratio_ppm};

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

/// What happens to old records; at least one of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Segments go by `retention.ms` and `retention.bytes`.
    pub delete: bool,
    /// Records go that have a later one of their key, and all have a key.
    pub compact: bool,
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
    /// `cleanup.policy`.
    pub cleanup: CleanupPolicy,
    /// `compression.type`.
    pub compression: TopicCompression,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `flush`.
    pub flush: FlushPolicy,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.compaction.lag.ms`; `None`: no limit.
    pub max_compaction_lag_ms: Option<i64>,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub timestamp_kind: TimestampKind,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub min_cleanable_dirty_ppm: u32,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
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
        let in_force = |name: &str| in_force(name, own, defaults);
        // `check` has bounded each of them, so that no conversion below can fail.
        let number = |name: &str| in_force(name).parse::<i64>().unwrap_or_default();
        let unsigned = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
        let policy = |word: &str| list(in_force("cleanup.policy")).any(|set| set == word);
        Ok(Self {
            cleanup: CleanupPolicy {
                delete: policy("delete"),
                compact: policy("compact"),
            },
            compression: match in_force("compression.type") {
                "uncompressed" => TopicCompression::Uncompressed,
                "gzip" => TopicCompression::Gzip,
                "snappy" => TopicCompression::Snappy,
                "lz4" => TopicCompression::Lz4,
                "zstd" => TopicCompression::Zstd,
                _ => TopicCompression::Producer,
            },
            delete_retention_ms: number("delete.retention.ms"),
            flush: match in_force("flush") {
                "interval" => FlushPolicy::Interval,
                "os" => FlushPolicy::Os,
                _ => FlushPolicy::Ack,
            },
            flush_ms: number("flush.ms"),
            index_interval_bytes: unsigned("index.interval.bytes"),
            max_compaction_lag_ms: Some(number("max.compaction.lag.ms")).filter(|ms| *ms < i64::MAX),
            max_message_bytes: unsigned("max.message.bytes"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_kind: match in_force("message.timestamp.type") {
                "LogAppendTime" => TimestampKind::LogAppendTime,
                _ => TimestampKind::CreateTime,
            },
            min_cleanable_dirty_ppm: ratio_ppm(in_force("min.cleanable.dirty.ratio")).unwrap_or_default(),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            min_insync_replicas: unsigned("min.insync.replicas"),
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            retention_ms: Some(number("retention.ms")).filter(|ms| *ms >= 0),
            segment_bytes: unsigned("segment.bytes"),
            segment_index_bytes: unsigned("segment.index.bytes"),
            segment_ms: number("segment.ms"),
        })
    }
}

/// The value in force: `own`, else of `defaults`, else the table's.
fn in_force<'a>(name: &str, own: &'a BTreeMap<String, String>, defaults: &'a BTreeMap<String, String>) -> &'a str {
    own.get(name)
        .or_else(|| defaults.get(name))
        .map(String::as_str)
        .or_else(|| TOPIC_KEYS.iter().find(|key| key.name == name).map(|key| key.default))
        .unwrap_or_default()
}

/// Checks whether settings that are allowed each, and that somebody is about to give a topic, go together, as Kafka does.
/// A later change of the defaults may lead to two that do not: that stops no topic, and `min.compaction.lag.ms` is held.
///
/// # Errors
/// Two that contradict each other.
pub fn check_together(own: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let lag = |name: &str| in_force(name, own, defaults).parse::<i64>().ok();
    match (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms")) {
        (Some(min), Some(max)) if min > max => Err(ConfigError::Conflict {
            key: "min.compaction.lag.ms",
            value: min.to_string(),
            conflict: format!("it must be at most max.compaction.lag.ms, which is {max}"),
        }),
        _ => Ok(()),
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
    fn what_is_compacted_and_when_is_as_in_kafka() {
        let with = |own: &[(&str, &str)]| TopicConfig::parse(&map(own), &map(&[])).unwrap();
        let usual = with(&[]);
        assert_eq!((usual.cleanup.delete, usual.cleanup.compact), (true, false));
        assert_eq!(usual.delete_retention_ms, 86_400_000);
        assert_eq!((usual.min_compaction_lag_ms, usual.max_compaction_lag_ms), (0, None));
        assert_eq!(usual.min_cleanable_dirty_ppm, 500_000);
        for (policy, delete, compact) in [
            ("compact", false, true),
            ("compact,delete", true, true),
            ("delete , compact", true, true),
        ] {
            let config = with(&[("cleanup.policy", policy)]);
            assert_eq!(
                (config.cleanup.delete, config.cleanup.compact),
                (delete, compact),
                "{policy}"
            );
        }
        let lags = with(&[("min.compaction.lag.ms", "7"), ("max.compaction.lag.ms", "9")]);
        assert_eq!((lags.min_compaction_lag_ms, lags.max_compaction_lag_ms), (7, Some(9)));
        assert_eq!(
            with(&[("min.cleanable.dirty.ratio", "0.25")]).min_cleanable_dirty_ppm,
            250_000
        );
    }

    #[test]
    fn lags_that_contradict_each_other_are_not_set_but_stop_nobody() {
        let none = map(&[]);
        for (own, defaults) in [
            (
                map(&[("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")]),
                &none,
            ),
            (
                map(&[("min.compaction.lag.ms", "9")]),
                &map(&[("max.compaction.lag.ms", "8")]),
            ),
        ] {
            let refused = check_together(&own, defaults).unwrap_err();
            assert_eq!(refused.key(), "min.compaction.lag.ms");
            assert!(TopicConfig::parse(&own, defaults).is_ok());
        }
        let equal = map(&[("min.compaction.lag.ms", "8"), ("max.compaction.lag.ms", "8")]);
        assert_eq!(check_together(&equal, &none), Ok(()));
        assert_eq!(check_together(&none, &none), Ok(()));
    }

    #[test]
    fn a_wrong_setting_is_refused_wherever_it_stands() {
        assert!(TopicConfig::parse(&map(&[("nope", "1")]), &map(&[])).is_err());
        assert!(TopicConfig::parse(&map(&[]), &map(&[("flush", "never")])).is_err());
    }
}
