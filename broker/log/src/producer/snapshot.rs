//! Producer snapshots in Kafka's format: the state as of the offset that names the file, `%020d.snapshot`.
//!
//! ```text
//! version i16 (1) | crc u32 (CRC-32C of all that follows) | count i32 | entries
//! entry: producer id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32 | timestamp i64
//!        | coordinator epoch i32 | first offset of the open transaction i64 (-1: none)
//! ```
//!
//! Only a producer's last batch is kept, as in Kafka. An offset delta of -1, of a batch without records, says that only
//! where the producer's sequences stood is known ([`RememberedBatch::position`]).

use std::collections::{BTreeMap, VecDeque};

use millrace_proto::batch::crc::crc32c;

use super::{ProducerEntry, ProducerState, RememberedBatch};
use crate::checkpoint::FormatError;

const VERSION: i16 = 1;
const ENTRY_SIZE: usize = 46;
const HEAD_SIZE: usize = 10;

/// The file's bytes.
#[must_use]
pub fn encode(state: &ProducerState) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + state.entries().len() * ENTRY_SIZE);
    // Producers are bounded far below 2^31 a partition.
    let count = i32::try_from(state.entries().len()).unwrap_or(i32::MAX);
    body.extend_from_slice(&count.to_be_bytes());
    for (producer_id, entry) in state.entries() {
        let last = entry.last_batch();
        body.extend_from_slice(&producer_id.to_be_bytes());
        body.extend_from_slice(&entry.epoch.to_be_bytes());
        body.extend_from_slice(&entry.last_sequence().to_be_bytes());
        body.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset).to_be_bytes());
        let delta = last.map_or(0, |batch| {
            i32::try_from(batch.last_offset - batch.base_offset).unwrap_or(i32::MAX)
        });
        body.extend_from_slice(&delta.to_be_bytes());
        body.extend_from_slice(&entry.last_timestamp.to_be_bytes());
        body.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        body.extend_from_slice(&entry.transaction_first_offset.to_be_bytes());
    }
    let mut out = Vec::with_capacity(6 + body.len());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| FormatError::new("the file ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }
}

/// Reads the file's bytes.
///
/// # Errors
/// Another version, a wrong checksum, a count that does not fit, the same producer twice.
pub fn decode(bytes: &[u8]) -> Result<ProducerState, FormatError> {
    let mut reader = Reader(bytes);
    let version = i16::from_be_bytes(reader.take()?);
    if version != VERSION {
        return Err(FormatError::new(format!("version {version} is not {VERSION}")));
    }
    let stored = u32::from_be_bytes(reader.take()?);
    let computed = crc32c(reader.0);
    if stored != computed {
        return Err(FormatError::new(format!(
            "checksum {stored:08x} does not match the contents ({computed:08x})"
        )));
    }
    let count = i32::from_be_bytes(reader.take()?);
    if usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(ENTRY_SIZE))
        != Some(bytes.len() - HEAD_SIZE)
    {
        return Err(FormatError::new(format!(
            "{count} entries do not fit {} bytes",
            bytes.len()
        )));
    }
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let producer_id = i64::from_be_bytes(reader.take()?);
        let epoch = i16::from_be_bytes(reader.take()?);
        let last_sequence = i32::from_be_bytes(reader.take()?);
        let last_offset = i64::from_be_bytes(reader.take()?);
        let delta = i32::from_be_bytes(reader.take()?);
        let last_timestamp = i64::from_be_bytes(reader.take()?);
        let coordinator_epoch = i32::from_be_bytes(reader.take()?);
        let transaction_first_offset = i64::from_be_bytes(reader.take()?);
        let mut batches = VecDeque::new();
        if last_offset >= 0 {
            if delta < -1 || i64::from(delta) > last_offset || last_offset == i64::MAX || last_sequence < 0 {
                return Err(FormatError::new(format!(
                    "producer {producer_id} has an impossible last batch"
                )));
            }
            batches.push_back(RememberedBatch {
                base_sequence: ((i64::from(last_sequence) - i64::from(delta)) & i64::from(i32::MAX)) as i32,
                last_sequence,
                base_offset: last_offset - i64::from(delta),
                last_offset,
                timestamp: last_timestamp,
            });
        }
        let entry = ProducerEntry {
            epoch,
            batches,
            last_timestamp,
            last_used_ms: None,
            coordinator_epoch,
            transaction_first_offset,
        };
        if entries.insert(producer_id, entry).is_some() {
            return Err(FormatError::new(format!("producer {producer_id} is given twice")));
        }
    }
    Ok(ProducerState::from_entries(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ProducerState {
        let entry = |base_sequence: i32, last_offset: i64| ProducerEntry {
            epoch: 2,
            batches: VecDeque::from([RememberedBatch {
                base_sequence,
                last_sequence: ((i64::from(base_sequence) + 4) & i64::from(i32::MAX)) as i32,
                base_offset: last_offset - 4,
                last_offset,
                timestamp: 99,
            }]),
            last_timestamp: 99,
            last_used_ms: None,
            coordinator_epoch: -1,
            transaction_first_offset: -1,
        };
        let mut bare = entry(0, 4);
        bare.batches.clear();
        ProducerState::from_entries(BTreeMap::from([
            (1, entry(0, 44)),
            (2, entry(i32::MAX - 1, 77)),
            (3, bare),
        ]))
    }

    #[test]
    fn round_trip_also_across_a_wrap() {
        assert_eq!(decode(&encode(&state())).unwrap(), state());
        assert_eq!(
            decode(&encode(&ProducerState::default())).unwrap(),
            ProducerState::default()
        );
    }

    #[test]
    fn a_position_behind_the_last_offset_of_all_is_impossible() {
        let mut entries = state().entries().clone();
        for offset in [0, i64::MAX - 1] {
            let position = RememberedBatch::position(7, offset, 99);
            entries.get_mut(&1).unwrap().batches = VecDeque::from([position]);
            let state = ProducerState::from_entries(entries.clone());
            assert_eq!(decode(&encode(&state)).unwrap(), state, "{offset}");
        }
        let mut bytes = encode(&ProducerState::from_entries(entries));
        // The first entry's last offset, which no checksum protects from whoever makes a new one.
        let at = HEAD_SIZE + 8 + 2 + 4;
        bytes[at..at + 8].copy_from_slice(&i64::MAX.to_be_bytes());
        let crc = crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        assert!(decode(&bytes).unwrap_err().to_string().contains("impossible"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encode(&state());
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}
