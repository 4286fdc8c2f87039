//! `flushed-offset-checkpoint`: up to where each log of the directory is known to be on stable storage.
//!
//! The border between "a torn tail may be cut" and "damage must be reported" (Alagappan et al., FAST'18): so it is
//! checksummed, moves only after a successful fsync, and a lost or garbled one means that nothing is known.
//!
//! ```text
//! 0                        version
//! 1                        entries
//! orders 0 1200 1100       topic, partition, flushed up to, indexes durable up to
//! checksum=1c2d3e4f        CRC-32C, hex, of all bytes before this line
//! ```

use std::collections::BTreeMap;

use millrace_proto::batch::crc::crc32c;

use super::topic_partition::TopicPartition;
use super::{FormatError, counted_lines, number, text};

/// The file's name.
pub const FILE_NAME: &str = "flushed-offset-checkpoint";

const CHECKSUM: &str = "checksum=";

/// What is durable of one log. Invariant: `indexed <= offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushedPoint {
    /// Every record below this offset is on stable storage.
    pub offset: i64,
    /// The index files are on stable storage for every record below this offset, so that recovery may rely on them.
    pub indexed: i64,
}

/// Flushed points by partition.
pub type FlushedPoints = BTreeMap<TopicPartition, FlushedPoint>;

/// The file's bytes.
#[must_use]
pub fn encode(points: &FlushedPoints) -> Vec<u8> {
    let mut out = format!("0\n{}\n", points.len());
    for (name, point) in points {
        out.push_str(&format!(
            "{} {} {} {}\n",
            name.topic, name.partition, point.offset, point.indexed
        ));
    }
    let mut out = out.into_bytes();
    let checksum = crc32c(&out);
    out.extend_from_slice(format!("{CHECKSUM}{checksum:08x}\n").as_bytes());
    out
}

/// Reads the file's bytes.
///
/// # Errors
/// A checksum that is missing or does not match, or a body that is not valid.
pub fn decode(bytes: &[u8]) -> Result<FlushedPoints, FormatError> {
    let contents = text(bytes)?;
    let at = contents
        .rfind(CHECKSUM)
        .filter(|at| *at > 0 && bytes[at - 1] == b'\n')
        .ok_or_else(|| FormatError::new("the checksum line is missing"))?;
    let stored = contents[at + CHECKSUM.len()..].trim_end_matches('\n');
    let computed = crc32c(&bytes[..at]);
    if stored.len() != 8 || u32::from_str_radix(stored, 16) != Ok(computed) {
        return Err(FormatError::new(format!(
            "checksum {stored} does not match the contents ({computed:08x})"
        )));
    }
    let mut points = FlushedPoints::new();
    for line in counted_lines(&contents[..at], 0)? {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [topic, partition, offset, indexed] = fields[..] else {
            return Err(FormatError::new(format!(
                "line {line:?} is not: topic partition offset indexed"
            )));
        };
        let name = TopicPartition::new(topic, number("partition", partition)?);
        let point = FlushedPoint {
            offset: number("offset", offset)?,
            indexed: number("offset", indexed)?,
        };
        if point.indexed < 0 || point.indexed > point.offset || points.insert(name, point).is_some() {
            return Err(FormatError::new(format!(
                "line {line:?} has impossible offsets or names a partition again"
            )));
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let offsets = FlushedPoints::from([
            (
                TopicPartition::new("orders", 0),
                FlushedPoint {
                    offset: 1200,
                    indexed: 1100,
                },
            ),
            (TopicPartition::new("orders", 1), FlushedPoint::default()),
        ]);
        let good = encode(&offsets);
        assert_eq!(decode(&good).unwrap(), offsets);
        for at in 0..good.len() - 1 {
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // The only harmless change is the case of a hex digit.
                assert!(
                    decode(&bad).map_or(true, |found| found == offsets && at > good.len() - 10),
                    "{at}.{bit}"
                );
            }
        }
    }
}
