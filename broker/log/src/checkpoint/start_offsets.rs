//! `log-start-offset-checkpoint`: where each log of the directory begins, in Kafka's format.
//!
//! ```text
//! 0                        version
//! 2                        entries
//! orders 0 1200            topic partition offset
//! orders 1 900
//! ```

use std::collections::BTreeMap;

use super::topic_partition::TopicPartition;
use super::{FormatError, counted_lines, number, text};

/// The file's name.
pub const FILE_NAME: &str = "log-start-offset-checkpoint";

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// The file's bytes.
#[must_use]
pub fn encode(offsets: &Offsets) -> Vec<u8> {
    let mut out = format!("0\n{}\n", offsets.len());
    for (name, offset) in offsets {
        out.push_str(&format!("{} {} {offset}\n", name.topic, name.partition));
    }
    out.into_bytes()
}

/// Reads the file's bytes.
///
/// # Errors
/// Another version, a wrong count, a line that is not topic, partition and a non-negative offset.
pub fn decode(bytes: &[u8]) -> Result<Offsets, FormatError> {
    let mut offsets = Offsets::new();
    for line in counted_lines(text(bytes)?, 0)? {
        let mut parts = line.split_ascii_whitespace();
        let (Some(topic), Some(partition), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(FormatError::new(format!(
                "line {line:?} is not: topic partition offset"
            )));
        };
        let name = TopicPartition::new(topic, number("partition", partition)?);
        let offset: i64 = number("offset", offset)?;
        if offset < 0 || offsets.insert(name, offset).is_some() {
            return Err(FormatError::new(format!(
                "line {line:?} has a negative offset or names a partition again"
            )));
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let offsets = Offsets::from([
            (TopicPartition::new("a", 0), 5),
            (TopicPartition::new("b.c", 12), i64::MAX),
        ]);
        assert_eq!(decode(&encode(&offsets)).unwrap(), offsets);
        assert_eq!(encode(&offsets), b"0\n2\na 0 5\nb.c 12 9223372036854775807\n");
        for bad in [
            "",
            "1\n0\n",
            "0\n1\n",
            "0\n1\na 0\n",
            "0\n1\na 0 -1\n",
            "0\n2\na 0 1\na 0 2\n",
            "0\n1\na 0 1 2\n",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
