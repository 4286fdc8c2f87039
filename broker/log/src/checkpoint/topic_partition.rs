//! A partition's name, and how Kafka spells it as a directory.

use std::fmt;

/// The longest topic name (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const MAX_TOPIC_NAME_LEN: usize = 249;

/// A topic's name and a partition's number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition; the name is not checked.
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        TopicPartition {
            topic: topic.into(),
            partition,
        }
    }

    /// The name of the partition's directory: `<topic>-<partition>`.
    #[must_use]
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    /// Reads a directory name as [`TopicPartition::dir_name`] writes it; anything else is `None`.
    #[must_use]
    pub fn parse_dir_name(name: &str) -> Option<Self> {
        let (topic, number) = name.rsplit_once('-')?;
        let partition: i32 = number.parse().ok()?;
        // "+1", "007" and "-0" are not how we write numbers.
        (partition >= 0 && partition.to_string() == number && is_legal_topic(topic))
            .then(|| TopicPartition::new(topic, partition))
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Whether a name may be a topic's: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..` (Kafka's rule).
#[must_use]
pub fn is_legal_topic(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_TOPIC_NAME_LEN
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_others_are_refused() {
        for (topic, partition) in [("a", 0), ("a-b-1", 2), ("a.b_c", i32::MAX)] {
            let name = TopicPartition::new(topic, partition);
            assert_eq!(TopicPartition::parse_dir_name(&name.dir_name()), Some(name));
        }
        let long = format!("{}-0", "x".repeat(250));
        for name in [
            "",
            "a",
            "-0",
            "a-",
            "a-01",
            "a-+1",
            "a b-0",
            "..-0",
            "a-2147483648",
            "a-0-stray",
            &long,
        ] {
            assert_eq!(TopicPartition::parse_dir_name(name), None, "{name}");
        }
    }
}
