//! `leader-epoch-checkpoint`: where each leader epoch began, in Kafka's format (KIP-101).
//!
//! ```text
//! 0                        version
//! 2                        entries
//! 0 0                      epoch, first offset
//! 3 1200
//! ```

use super::{FormatError, counted_lines, number, text};

/// The file's name.
pub const FILE_NAME: &str = "leader-epoch-checkpoint";

/// A leader epoch and the first offset that was or would be written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    /// The leader epoch.
    pub epoch: i32,
    /// The log end offset when the epoch began.
    pub start_offset: i64,
}

/// The file's bytes.
#[must_use]
pub fn encode(entries: &[EpochEntry]) -> Vec<u8> {
    let mut out = format!("0\n{}\n", entries.len());
    for entry in entries {
        out.push_str(&format!("{} {}\n", entry.epoch, entry.start_offset));
    }
    out.into_bytes()
}

/// Reads the file's bytes.
///
/// # Errors
/// Another version, a wrong count, epochs or offsets that do not rise.
pub fn decode(bytes: &[u8]) -> Result<Vec<EpochEntry>, FormatError> {
    let mut entries: Vec<EpochEntry> = Vec::new();
    for line in counted_lines(text(bytes)?, 0)? {
        let (epoch, start) = line
            .trim()
            .split_once(' ')
            .ok_or_else(|| FormatError::new(format!("line {line:?} is not: epoch offset")))?;
        let entry = EpochEntry {
            epoch: number("epoch", epoch)?,
            start_offset: number("offset", start)?,
        };
        let rises = entries
            .last()
            .is_none_or(|last| last.epoch < entry.epoch && last.start_offset <= entry.start_offset);
        if entry.epoch < 0 || entry.start_offset < 0 || !rises {
            return Err(FormatError::new(format!(
                "line {line:?} is negative or does not follow the line before"
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let entries = [
            EpochEntry {
                epoch: 0,
                start_offset: 0,
            },
            EpochEntry {
                epoch: 3,
                start_offset: 1200,
            },
        ];
        assert_eq!(encode(&entries), b"0\n2\n0 0\n3 1200\n");
        assert_eq!(decode(&encode(&entries)).unwrap(), entries);
        assert_eq!(decode(b"0\n0\n").unwrap(), []);
        for bad in [
            "",
            "0\n",
            "0\n1\n",
            "0\n1\n-1 0\n",
            "0\n2\n1 5\n1 6\n",
            "0\n2\n1 5\n2 4\n",
            "0\n1\nx y\n",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
