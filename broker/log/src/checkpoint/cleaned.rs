//! `cleaned-offset`: how far a partition's log is compacted, and where it may have gaps. In the partition's directory, so that it goes where the
//! log goes, and goes with it.
//!
//! ```text
//! version=0
//! cleaned.offset=1200          below it each key has one record
//! gaps.below.offset=1500       below it batches may leave gaps: taken out here, or at the leader
//! earliest.horizon.ms=17000    the next delete horizon that passes; left out if there is none
//! tombstones.gone.below.offset=900   below it tombstones were taken out
//! replaced.below.offset=1200  below it lie records that made others go
//! longest.copy.ms=250          the longest time from the setting of a horizon to the end of what it counts from
//! checksum=1c2d3e4f            CRC-32C, hex, of all bytes before this line
//! ```
//!
//! Cut before the log is cut (KAFKA-3330). A garbled file means that nothing is known: all of the log is dirty.

use super::properties::{self, required};
use super::{FormatError, number};

/// The file's name.
pub const FILE_NAME: &str = "cleaned-offset";

/// What compaction has done to a log. Invariant: `0 <= offset <= gaps_below`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Below this offset no record has a later one of its key below this offset.
    pub offset: i64,
    /// Below this offset batches may be missing. Rises before the first of them goes, or the first behind a gap is
    /// written.
    pub gaps_below: i64,
    /// The earliest delete horizon of a kept tombstone, in milliseconds since the Unix epoch.
    pub earliest_horizon_ms: Option<i64>,
    /// Below this offset compaction has taken out tombstones whose time had come, here or where this log was copied
    /// from. Rises before the first of them goes.
    pub tombstones_gone_below: i64,
    /// Records went because of later ones of their keys, all of which lie below this offset. Rises before the first of
    /// them goes. Files of former versions do not tell it: then that is [`Cleaned::offset`].
    pub replaced_below: i64,
    /// The longest time in milliseconds from when a delete horizon was set to when the older records of its keys
    /// were gone from the segments that were copied with it: readers may have read them for so long.
    pub longest_copy_ms: i64,
}

/// The file's bytes.
#[must_use]
pub fn encode(cleaned: &Cleaned) -> Vec<u8> {
    let mut pairs = vec![
        ("version", "0".to_owned()),
        ("cleaned.offset", cleaned.offset.to_string()),
        ("gaps.below.offset", cleaned.gaps_below.to_string()),
    ];
    if let Some(horizon) = cleaned.earliest_horizon_ms {
        pairs.push(("earliest.horizon.ms", horizon.to_string()));
    }
    pairs.push((
        "tombstones.gone.below.offset",
        cleaned.tombstones_gone_below.to_string(),
    ));
    pairs.push(("replaced.below.offset", cleaned.replaced_below.to_string()));
    pairs.push(("longest.copy.ms", cleaned.longest_copy_ms.to_string()));
    properties::encode(&pairs)
}

/// Reads the file's bytes.
///
/// # Errors
/// A wrong checksum or version, a value that is missing or not possible.
pub fn decode(bytes: &[u8]) -> Result<Cleaned, FormatError> {
    let pairs = properties::decode(bytes, true)?;
    match required(&pairs, "version")? {
        "0" => {}
        other => return Err(FormatError::new(format!("version {other} is not 0"))),
    }
    let get = |key: &str| number(key, required(&pairs, key)?);
    let offset = get("cleaned.offset")?;
    let optional = |key: &str| match required(&pairs, key) {
        Ok(text) => number(key, text).map(Some),
        Err(_) => Ok(None),
    };
    let cleaned = Cleaned {
        offset,
        gaps_below: get("gaps.below.offset")?,
        earliest_horizon_ms: optional("earliest.horizon.ms")?,
        tombstones_gone_below: get("tombstones.gone.below.offset")?,
        replaced_below: optional("replaced.below.offset")?.unwrap_or(offset),
        longest_copy_ms: get("longest.copy.ms")?,
    };
    if cleaned.tombstones_gone_below < 0
        || cleaned.offset < 0
        || cleaned.gaps_below < cleaned.offset
        || cleaned.longest_copy_ms < 0
        || cleaned.replaced_below < 0
    {
        return Err(FormatError::new(format!("impossible values: {cleaned:?}")));
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        for earliest_horizon_ms in [None, Some(-1), Some(i64::MAX)] {
            let cleaned = Cleaned {
                offset: 1200,
                gaps_below: 1500,
                earliest_horizon_ms,
                tombstones_gone_below: 900,
                replaced_below: 1300,
                longest_copy_ms: 3,
            };
            let good = encode(&cleaned);
            assert_eq!(decode(&good).unwrap(), cleaned);
            for at in 0..good.len() - 1 {
                assert!(decode(&good[..at]).is_err(), "cut at {at}");
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    // The only harmless change is the case of a hex digit.
                    let harmless = at > good.len() - 10;
                    assert!(
                        decode(&bad).map_or(true, |found| found == cleaned && harmless),
                        "{at}.{bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_file_of_a_former_version_tells_as_much_as_it_can() {
        let text = properties::encode(&[
            ("version", "0".to_owned()),
            ("cleaned.offset", "12".to_owned()),
            ("gaps.below.offset", "15".to_owned()),
            ("tombstones.gone.below.offset", "9".to_owned()),
            ("longest.copy.ms", "3".to_owned()),
        ]);
        assert_eq!(decode(&text).unwrap().replaced_below, 12);
    }

    #[test]
    fn impossible_values_are_refused() {
        for (offset, gaps_below, tombstones_gone_below, longest_copy_ms) in
            [(-1, 5, 0, 0), (6, 5, 0, 0), (1, 5, 0, -1), (1, 5, -1, 0)]
        {
            let bad = encode(&Cleaned {
                offset,
                gaps_below,
                earliest_horizon_ms: None,
                tombstones_gone_below,
                replaced_below: 0,
                longest_copy_ms,
            });
            assert!(decode(&bad).is_err());
        }
    }
}
