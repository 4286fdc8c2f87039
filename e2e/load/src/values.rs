//! What a message holds, so that it can be recognised wherever it turns up:
//!
//! ```text
//! | magic 4 | run 4 | producer 4 | partition 4 | sequence 8 | checksum 4 | padding |
//! ```
//!
//! All numbers are big-endian. The checksum is CRC-32C of the topic's name, what stands before the checksum, and the
//! padding, which follows from the sequence.

use crc_fast::{CrcAlgorithm, Digest};

const MAGIC: [u8; 4] = *b"MRL1";
const CHECKSUM_AT: usize = 24;
/// The smallest value.
pub const MIN_SIZE: usize = 28;

/// Who sent a message, and as which of its messages to this partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The process that sent it.
    pub run: u32,
    /// Its producer.
    pub producer: u32,
    /// The number, from 0 for each producer and partition.
    pub sequence: u64,
}

/// The value's bytes.
pub fn encode(topic: &str, partition: i32, value: Value, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size.max(MIN_SIZE));
    bytes.extend(MAGIC);
    bytes.extend(value.run.to_be_bytes());
    bytes.extend(value.producer.to_be_bytes());
    bytes.extend(partition.to_be_bytes());
    bytes.extend(value.sequence.to_be_bytes());
    bytes.extend([0; 4]);
    // Different in each message, so that parts of one in another are noticed.
    let mut state = value.sequence | 1 << 63;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(&state.to_be_bytes()[..8.min(size - bytes.len())]);
    }
    let sum = checksum(topic, &bytes);
    bytes[CHECKSUM_AT..MIN_SIZE].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What a message says, if it is whole and was sent to this partition.
pub fn decode(topic: &str, partition: i32, bytes: &[u8]) -> Result<Value, String> {
    if bytes.len() < MIN_SIZE || bytes[..4] != MAGIC {
        return Err(format!("{} bytes that are none of ours", bytes.len()));
    }
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let value = Value {
        run: word(4),
        producer: word(8),
        sequence: u64::from(word(16)) << 32 | u64::from(word(20)),
    };
    if word(CHECKSUM_AT) != checksum(topic, bytes) {
        return Err(format!("{value:?} is damaged, or of another topic"));
    }
    if word(12) != partition.cast_unsigned() {
        return Err(format!("{value:?} was sent to partition {}", word(12)));
    }
    Ok(value)
}

fn checksum(topic: &str, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(topic.as_bytes());
    digest.update(&bytes[..CHECKSUM_AT]);
    digest.update(&bytes[MIN_SIZE..]);
    // 32 bits by its algorithm.
    #[allow(clippy::cast_possible_truncation)]
    let sum = digest.finalize() as u32;
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: Value = Value {
        run: 7,
        producer: 2,
        sequence: 5_000_000_000,
    };

    #[test]
    fn a_value_comes_back() {
        for size in [0, MIN_SIZE, 29, 100, 1000] {
            let bytes = encode("t", 3, VALUE, size);
            assert_eq!(bytes.len(), size.max(MIN_SIZE));
            assert_eq!(decode("t", 3, &bytes), Ok(VALUE));
        }
    }

    #[test]
    fn any_other_bit_and_place_is_noticed() {
        let bytes = encode("t", 3, VALUE, 64);
        assert!(decode("u", 3, &bytes).is_err_and(|why| why.contains("of another topic")));
        assert!(decode("t", 4, &bytes).is_err_and(|why| why.contains("sent to partition 3")));
        assert!(decode("t", 3, &bytes[..20]).is_err_and(|why| why.contains("none of ours")));
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(decode("t", 3, &other).is_err(), "bit {bit}");
        }
    }
}
