//! An entry of the metadata log as it lies on the disk: one record batch to an entry.
//!
//! ```text
//!   batch header: base offset = index, partition leader epoch = term, one record
//!   record:       no key; value = {"index":7,"term":3,"payload":{"command":{...}}}
//! ```
//!
//! Kafka's batch checksum does not cover base offset and leader epoch. Both therefore stand in
//! the value too and are compared when an entry is read: a flipped bit in a term would otherwise
//! make another entry of it.

use std::borrow::Cow;

use bytes::Bytes;
use millrace_engine::Command;
use millrace_proto::batch::{BatchBuilder, BatchError, BatchView, BuildError, Codec, DecodeLimits};
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::{
    membership::MembershipRecord,
    types::{Entry, Proposal, log_id},
};

/// The largest entry, in bytes of its batch. A topic with the most partitions a topic may have,
/// three replicas each, takes less than 1 MiB.
pub(super) const MAX_ENTRY_BYTES: usize = 8 << 20;

/// Why an entry can't be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// The term does not fit a leader epoch.
    #[error("term {0} exceeds {max}, the largest leader epoch", max = i32::MAX)]
    TermTooLarge(u64),
    /// The index does not fit an offset.
    #[error("index {0} exceeds the largest offset")]
    IndexTooLarge(u64),
    /// The entry is larger than the log takes.
    #[error("the entry has {size} bytes, more than {MAX_ENTRY_BYTES}")]
    TooLarge {
        /// Its batch, in bytes.
        size: usize,
    },
    /// The batch can't be built.
    #[error("batch: {0}")]
    Build(#[from] BuildError),
    /// The batch is damaged.
    #[error("batch: {0}")]
    Batch(#[from] BatchError),
    /// The batch does not hold exactly one record with a value.
    #[error("a batch of the metadata log must hold one record with a value")]
    NotOneRecord,
    /// The value is not an entry.
    #[error("entry: {0}")]
    Json(#[from] serde_json::Error),
    /// The value names another place than the header.
    #[error(
        "the batch header says term {header_term}, offset {header_index}, its record term {term}, index {index}: damaged"
    )]
    Contradiction {
        /// By the header.
        header_term: i32,
        /// By the header.
        header_index: i64,
        /// By the record.
        term: u64,
        /// By the record.
        index: u64,
    },
    /// The membership is not valid.
    #[error("membership: {0}")]
    Membership(String),
}

#[derive(Serialize, Deserialize)]
struct EntryRecord<'a> {
    index: u64,
    term: u64,
    payload: PayloadRecord<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PayloadRecord<'a> {
    /// What a new leader writes first.
    Blank,
    /// A change of the metadata.
    Command(Cow<'a, Command>),
    /// A change of the voters.
    Membership(MembershipRecord),
}

/// The bytes that `command` adds to the log beyond what every entry has: its JSON form.
pub(super) fn command_bytes(command: &Command) -> Result<usize, serde_json::Error> {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, command)?;
    Ok(counter.0)
}

/// The batch of `entry`. `now_ms` (milliseconds since 1970) is for people who read the log; no
/// rule looks at it.
pub(super) fn encode(entry: &Entry, now_ms: i64) -> Result<Bytes, RecordError> {
    let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
    let epoch = i32::try_from(term).map_err(|_| RecordError::TermTooLarge(term))?;
    let offset = i64::try_from(index).map_err(|_| RecordError::IndexTooLarge(index))?;
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadRecord::Blank,
        EntryPayload::Normal(proposal) => PayloadRecord::Command(Cow::Borrowed(&proposal.0)),
        EntryPayload::Membership(membership) => PayloadRecord::Membership(MembershipRecord::from(membership)),
    };
    let value = serde_json::to_vec(&EntryRecord { index, term, payload })?;
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(now_ms, None, Some(&value), &[])?;
    builder.set_base_offset(offset).set_leader_epoch(epoch);
    let batch = builder.build()?;
    if batch.len() > MAX_ENTRY_BYTES {
        return Err(RecordError::TooLarge { size: batch.len() });
    }
    Ok(batch)
}

/// The entry in `batch`, whose checksum is verified.
pub(super) fn decode(batch: &BatchView<'_>) -> Result<Entry, RecordError> {
    batch.verify_crc()?;
    let limits = DecodeLimits {
        max_records: 1,
        ..DecodeLimits::DEFAULT
    };
    let records = batch.records(&limits)?;
    let mut records = records.iter();
    let record = records.next().ok_or(RecordError::NotOneRecord)??;
    let value = record.value.ok_or(RecordError::NotOneRecord)?;
    let stored: EntryRecord<'_> = serde_json::from_slice(value)?;
    let header = batch.header();
    if i64::try_from(stored.index) != Ok(header.base_offset)
        || i32::try_from(stored.term) != Ok(header.partition_leader_epoch)
    {
        return Err(RecordError::Contradiction {
            header_term: header.partition_leader_epoch,
            header_index: header.base_offset,
            term: stored.term,
            index: stored.index,
        });
    }
    let payload = match stored.payload {
        PayloadRecord::Blank => EntryPayload::Blank,
        PayloadRecord::Command(command) => EntryPayload::Normal(Proposal(command.into_owned())),
        PayloadRecord::Membership(membership) => {
            EntryPayload::Membership(membership.decode().map_err(RecordError::Membership)?)
        }
    };
    Ok(Entry {
        log_id: log_id(stored.term, stored.index),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::types::{Membership, Voter};
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        let command = Command::DeleteTopic {
            name: "t\u{1F600}\"".into(),
            id: None,
        };
        Entry {
            log_id: log_id(term, index),
            payload: EntryPayload::Normal(Proposal(command)),
        }
    }

    #[test]
    fn every_payload_comes_back_as_it_was() {
        let voters = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        let member = |id: u64| {
            (
                id,
                Voter {
                    address: format!("h:{id}"),
                    directory_id: uuid::Uuid::from_u128(7),
                    state_id: uuid::Uuid::from_u128(8),
                },
            )
        };
        let nodes: BTreeMap<u64, Voter> = (1..5).map(member).collect();
        let membership = Membership::new(voters, nodes).unwrap();
        let payloads = [
            EntryPayload::Blank,
            entry(0, 0).payload,
            EntryPayload::Membership(membership),
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let entry = Entry {
                log_id: log_id(i32::MAX as u64, index as u64),
                payload,
            };
            let bytes = encode(&entry, 5).unwrap();
            assert_eq!(decode(&BatchView::parse(&bytes).unwrap()).unwrap(), entry);
        }
    }

    #[test]
    fn a_term_that_is_no_leader_epoch_is_refused() {
        let error = encode(&entry(1 << 31, 0), 0).unwrap_err();
        assert!(matches!(error, RecordError::TermTooLarge(_)), "{error}");
        let error = encode(&entry(0, 1 << 63), 0).unwrap_err();
        assert!(matches!(error, RecordError::IndexTooLarge(_)), "{error}");
    }

    /// Offset, epoch, checksum and everything after it: no flipped bit makes another entry.
    #[test]
    fn any_flipped_bit_is_noticed() {
        let entry = entry(3, 9);
        let bytes = encode(&entry, 5).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            let decoded = BatchView::parse(&damaged).map_err(Into::into).and_then(|v| decode(&v));
            assert!(decoded.is_err(), "bit {at} was not noticed");
        }
    }

    #[test]
    fn the_size_of_a_command_is_that_of_its_json() {
        let command = Command::DeleteTopic {
            name: "abc".into(),
            id: None,
        };
        assert_eq!(
            command_bytes(&command).unwrap(),
            serde_json::to_vec(&command).unwrap().len()
        );
    }
}
