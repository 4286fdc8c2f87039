//! Entries of the aborted-transaction index (KIP-98). Read only by `log dump` until transactions write them.

use crate::checkpoint::FormatError;

/// One aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer that wrote it.
    pub producer_id: i64,
    /// Offset of its first record in this partition.
    pub first_offset: i64,
    /// Offset of the abort marker.
    pub last_offset: i64,
    /// The last stable offset after the marker.
    pub last_stable_offset: i64,
}

/// Bytes of one entry.
pub const ENTRY_SIZE: usize = 34;

/// Reads a whole file.
///
/// # Errors
/// A length that is no multiple of an entry, or a version that is not 0.
pub fn decode(bytes: &[u8]) -> Result<Vec<AbortedTransaction>, FormatError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_SIZE>();
    if !rest.is_empty() {
        return Err(FormatError::new(format!(
            "{} bytes are no whole number of entries",
            bytes.len()
        )));
    }
    entries
        .iter()
        .map(|entry| {
            let long = |at: usize| {
                let mut value = [0; 8];
                value.copy_from_slice(&entry[at..at + 8]);
                i64::from_be_bytes(value)
            };
            match [entry[0], entry[1]] {
                [0, 0] => Ok(AbortedTransaction {
                    producer_id: long(2),
                    first_offset: long(10),
                    last_offset: long(18),
                    last_stable_offset: long(26),
                }),
                other => Err(FormatError::new(format!(
                    "version {} is not 0",
                    i16::from_be_bytes(other)
                ))),
            }
        })
        .collect()
}
