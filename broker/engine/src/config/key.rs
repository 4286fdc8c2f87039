//! The table of topic settings, and the check of one key and value.

use thiserror::Error;

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No setting has this name.
    #[error("there is no topic setting {key:?}{}", suggestion.map(|s| format!("; did you mean {s:?}?")).unwrap_or_default())]
    UnknownKey {
        /// What was asked for.
        key: String,
        /// The most alike name.
        suggestion: Option<&'static str>,
    },
    /// The value is not of the setting's kind or outside its bounds.
    #[error("{key} can't be {value:?}: it must be {expected}")]
    InvalidValue {
        /// The setting.
        key: String,
        /// What was asked for.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Two settings that are allowed each, but not together.
    #[error("{key} can't be {value:?}: {conflict}")]
    Conflict {
        /// One of them.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it contradicts.
        conflict: String,
    },
}

impl ConfigError {
    /// The setting that is wrong.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::UnknownKey { key, .. } | Self::InvalidValue { key, .. } => key,
            Self::Conflict { key, .. } => key,
        }
    }
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A whole number within bounds (both included).
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number from 0 to 1.
    Ratio,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One or more of these words, each once, separated by commas, in any order.
    List(&'static [&'static str]),
}

impl ValueKind {
    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Integer { min, max } => value.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number)),
            Self::Ratio => ratio_ppm(value).is_some(),
            Self::Choice(words) => words.contains(&value),
            Self::List(words) => {
                let mut seen = Vec::new();
                list(value).all(|word| {
                    let is_new = words.contains(&word) && !seen.contains(&word);
                    seen.push(word);
                    is_new
                })
            }
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Integer { min, max: i64::MAX } => format!("a whole number from {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Ratio => "a number from 0 to 1, such as 0.5".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List(words) => format!("one or more of {}, separated by commas", words.join(", ")),
        }
    }
}

/// The words of a list.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim)
}

/// A number from 0 to 1 in millionths: digits with at most one point among them, so that there is one way to write it.
pub(super) fn ratio_ppm(value: &str) -> Option<u32> {
    let is_plain = value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let ratio = value.parse::<f64>().ok().filter(|_| is_plain)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to a million"
    )]
    (0.0..=1.0).contains(&ratio).then(|| (ratio * 1e6).round() as u32)
}

/// One setting: what people read in `topic describe` and what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Its name.
    pub name: &'static str,
    /// The value where nobody sets one.
    pub default: &'static str,
    /// The values it takes.
    pub kind: ValueKind,
    /// What it does, with its unit.
    pub documentation: &'static str,
}

const fn integer(
    name: &'static str,
    default: &'static str,
    min: i64,
    max: i64,
    documentation: &'static str,
) -> ConfigKey {
    ConfigKey {
        name,
        default,
        kind: ValueKind::Integer { min, max },
        documentation,
    }
}

const fn choice(
    name: &'static str,
    default: &'static str,
    words: &'static [&'static str],
    documentation: &'static str,
) -> ConfigKey {
    ConfigKey {
        name,
        default,
        kind: ValueKind::Choice(words),
        documentation,
    }
}

/// All topic settings, by name.
pub const TOPIC_KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "cleanup.policy",
        default: "delete",
        kind: ValueKind::List(&["delete", "compact"]),
        documentation: "What happens to old records: delete removes segments by retention.ms and retention.bytes; compact keeps of each key the last record, and refuses records without a key; delete,compact does both. Records without a key that a topic holds when it gets compact are deleted by compaction.",
    },
    choice(
        "compression.type",
        "producer",
        &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
        "How batches are stored: producer keeps them as they were sent; any other value re-encodes batches that differ, at the broker's cost.",
    ),
    integer(
        "delete.retention.ms",
        "86400000",
        0,
        i64::MAX,
        "With cleanup.policy=compact: for so many milliseconds after it was first compacted a tombstone (a key without a value) is kept, so that who reads from the beginning within that time sees that the key was deleted (KIP-534). Keep it above the longest outage or move of a replica: one that gets there later keeps what was deleted.",
    ),
    choice(
        "flush",
        "ack",
        &["ack", "interval", "os"],
        "When written data is forced to the disk: ack before it is acknowledged (one fdatasync for all that waited), interval every flush.ms, os when the operating system likes. With interval and os a power failure of all replicas loses acknowledged messages. After a change to ack a broker's disk is trusted after a crash only once the broker has been restarted.",
    ),
    integer(
        "flush.ms",
        "1000",
        1,
        3_600_000,
        "With flush=interval: at most this many milliseconds between writing and forcing to the disk.",
    ),
    integer(
        "index.interval.bytes",
        "4096",
        0,
        i32::MAX as i64,
        "About one entry of the offset index for this many bytes of log.",
    ),
    integer(
        "max.compaction.lag.ms",
        "9223372036854775807",
        1,
        i64::MAX,
        "With cleanup.policy=compact: a record is compacted, and its segment rolled for it, about so many milliseconds after it was written, however little there is to compact (KIP-354).",
    ),
    integer(
        "max.message.bytes",
        "8388608",
        1_024,
        16_777_216,
        "The largest record batch, in bytes after compression.",
    ),
    integer(
        "message.timestamp.after.max.ms",
        "3600000",
        0,
        i64::MAX,
        "How far ahead of the broker's clock a message's time may be, in milliseconds (KIP-937).",
    ),
    integer(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        0,
        i64::MAX,
        "How far behind the broker's clock a message's time may be, in milliseconds (KIP-937).",
    ),
    choice(
        "message.timestamp.type",
        "CreateTime",
        &["CreateTime", "LogAppendTime"],
        "Whether a message keeps its producer's time or gets the broker's at append (KIP-32).",
    ),
    ConfigKey {
        name: "min.cleanable.dirty.ratio",
        default: "0.5",
        kind: ValueKind::Ratio,
        documentation: "With cleanup.policy=compact: a partition is compacted when so much of its log, not counting the active segment, was not compacted yet. 0 to 1: less wastes less disk and compacts more often.",
    },
    integer(
        "min.compaction.lag.ms",
        "0",
        0,
        i64::MAX,
        "With cleanup.policy=compact: a record stays for at least so many milliseconds, also if a later one has its key.",
    ),
    integer(
        "min.insync.replicas",
        "2",
        1,
        32_767,
        "With acks=all, how many in-sync replicas must have a message on disk before it is acknowledged; at most the replication factor counts.",
    ),
    integer(
        "retention.bytes",
        "-1",
        -1,
        i64::MAX,
        "Per partition: older segments go while more than this many bytes are stored. -1: no limit.",
    ),
    integer(
        "retention.ms",
        "604800000",
        -1,
        i64::MAX,
        "Segments whose newest message is older than this many milliseconds go. -1: no limit.",
    ),
    integer(
        "segment.bytes",
        "1073741824",
        1_024,
        i32::MAX as i64,
        "A segment file is rolled before it gets larger than this many bytes.",
    ),
    integer(
        "segment.index.bytes",
        "10485760",
        24,
        i32::MAX as i64,
        "The largest size of a segment's index, in bytes; a full index rolls the segment.",
    ),
    integer(
        "segment.ms",
        "604800000",
        1,
        i64::MAX,
        "A segment is rolled when its first message is older than this many milliseconds, so that retention can remove it.",
    ),
];

/// The setting of this name.
#[must_use]
pub fn find_key(name: &str) -> Option<&'static ConfigKey> {
    TOPIC_KEYS.iter().find(|key| key.name == name)
}

/// Checks one key and value.
///
/// # Errors
/// Unknown key (with the most alike one), or a value that the key does not take.
pub fn check(name: &str, value: &str) -> Result<&'static ConfigKey, ConfigError> {
    let key = find_key(name).ok_or_else(|| ConfigError::UnknownKey {
        key: name.chars().take(100).collect(),
        suggestion: nearest(name, TOPIC_KEYS.iter().map(|key| key.name)),
    })?;
    if key.kind.accepts(value) {
        Ok(key)
    } else {
        Err(ConfigError::InvalidValue {
            key: name.to_owned(),
            value: value.chars().take(100).collect(),
            expected: key.kind.describe(),
        })
    }
}

/// The candidate that differs from `name` in the fewest letters, if few enough.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 100 {
        return None;
    }
    candidates
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_allowed() {
        assert!(TOPIC_KEYS.is_sorted_by(|a, b| a.name < b.name));
        for key in TOPIC_KEYS {
            assert_eq!(check(key.name, key.default), Ok(key));
        }
    }

    #[test]
    fn an_unknown_key_names_the_most_alike() {
        assert_eq!(
            check("retention.mss", "1"),
            Err(ConfigError::UnknownKey {
                key: "retention.mss".into(),
                suggestion: Some("retention.ms")
            })
        );
        assert_eq!(nearest("zzzzzzzz", ["retention.ms"].into_iter()), None);
    }

    #[test]
    fn lists_take_any_order_and_ratios_their_bounds() {
        for (key, value) in [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("cleanup.policy", "delete, compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("min.cleanable.dirty.ratio", "1.0"),
            ("min.cleanable.dirty.ratio", "0.000001"),
            ("max.compaction.lag.ms", "1"),
        ] {
            assert!(check(key, value).is_ok(), "{key}={value}");
        }
    }

    #[test]
    fn values_outside_their_bounds_are_refused() {
        for (key, value) in [
            ("segment.bytes", "1023"),
            ("segment.bytes", "2147483648"),
            ("segment.bytes", "1e9"),
            ("retention.ms", "-2"),
            ("flush", "always"),
            ("cleanup.policy", ""),
            ("cleanup.policy", "compacted"),
            ("cleanup.policy", "compact,"),
            ("cleanup.policy", "delete,delete"),
            ("cleanup.policy", "compact;delete"),
            ("delete.retention.ms", "-1"),
            ("max.compaction.lag.ms", "0"),
            ("min.compaction.lag.ms", "-1"),
            ("min.cleanable.dirty.ratio", "1.01"),
            ("min.cleanable.dirty.ratio", "-0.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("min.cleanable.dirty.ratio", "1e-1"),
            ("min.cleanable.dirty.ratio", ""),
            ("min.cleanable.dirty.ratio", "."),
            ("max.message.bytes", ""),
        ] {
            assert!(
                matches!(check(key, value), Err(ConfigError::InvalidValue { .. })),
                "{key}={value}"
            );
        }
    }
}
