//! Control records: what a log says to its readers and not to consumers.
//!
//! ```text
//! key    version i16 = 0 | type i16
//! value  of a transaction marker: version i16 = 0 | coordinator epoch i32
//! ```
//!
//! Later versions may append fields, so bytes beyond these are passed over (KIP-98, "Control
//! Messages").

use bytes::Bytes;

use super::{BatchBuilder, BatchError, BuildError, Codec, NO_SEQUENCE, Record};

const KEY_VERSION: i16 = 0;
const MARKER_VERSION: i16 = 0;

/// What a control record is, by the ids of Kafka's `ControlRecordType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlRecordType {
    /// A transaction was aborted: 0.
    Abort,
    /// A transaction was committed: 1.
    Commit,
    /// A new leader's first record in a Raft log (KIP-595): 2.
    LeaderChange,
    /// First record of a snapshot (KIP-630): 3.
    SnapshotHeader,
    /// Last record of a snapshot (KIP-630): 4.
    SnapshotFooter,
    /// Version of the Raft protocol (KIP-853): 5.
    KRaftVersion,
    /// Voters of the Raft quorum (KIP-853): 6.
    KRaftVoters,
    /// An id this version does not know. Readers pass over it.
    Unknown(i16),
}

impl ControlRecordType {
    /// Kafka's id.
    pub fn id(self) -> i16 {
        match self {
            ControlRecordType::Abort => 0,
            ControlRecordType::Commit => 1,
            ControlRecordType::LeaderChange => 2,
            ControlRecordType::SnapshotHeader => 3,
            ControlRecordType::SnapshotFooter => 4,
            ControlRecordType::KRaftVersion => 5,
            ControlRecordType::KRaftVoters => 6,
            ControlRecordType::Unknown(id) => id,
        }
    }

    /// The type with Kafka's id.
    pub fn from_id(id: i16) -> Self {
        match id {
            0 => ControlRecordType::Abort,
            1 => ControlRecordType::Commit,
            2 => ControlRecordType::LeaderChange,
            3 => ControlRecordType::SnapshotHeader,
            4 => ControlRecordType::SnapshotFooter,
            5 => ControlRecordType::KRaftVersion,
            6 => ControlRecordType::KRaftVoters,
            id => ControlRecordType::Unknown(id),
        }
    }
}

/// One control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord<'a> {
    /// Ends the producer's transaction: its records are not to be read.
    Abort {
        /// Epoch of the transaction coordinator that wrote it; an older one is a zombie's.
        coordinator_epoch: i32,
    },
    /// Ends the producer's transaction: its records may be read.
    Commit {
        /// Epoch of the transaction coordinator that wrote it; an older one is a zombie's.
        coordinator_epoch: i32,
    },
    /// Any other; its value is not looked into.
    Other {
        /// Which.
        kind: ControlRecordType,
        /// The value's bytes, a Kafka message with a version of its own.
        value: &'a [u8],
    },
}

impl<'a> ControlRecord<'a> {
    /// Reads a record of a control batch.
    ///
    /// # Errors
    /// [`BatchError::Control`] if key or value are missing, too short or of a negative version.
    pub fn decode(record: &Record<'a>) -> Result<ControlRecord<'a>, BatchError> {
        let key = record.key.ok_or(BatchError::Control { reason: "no key" })?;
        let (version, key) = i16_at_front(key, "key too short")?;
        if version < KEY_VERSION {
            return Err(BatchError::Control {
                reason: "negative key version",
            });
        }
        let (id, _) = i16_at_front(key, "key too short")?;
        let value = record.value.ok_or(BatchError::Control { reason: "no value" })?;
        Ok(match ControlRecordType::from_id(id) {
            ControlRecordType::Abort => ControlRecord::Abort {
                coordinator_epoch: marker(value)?,
            },
            ControlRecordType::Commit => ControlRecord::Commit {
                coordinator_epoch: marker(value)?,
            },
            kind => ControlRecord::Other { kind, value },
        })
    }

    /// Its type.
    pub fn kind(&self) -> ControlRecordType {
        match self {
            ControlRecord::Abort { .. } => ControlRecordType::Abort,
            ControlRecord::Commit { .. } => ControlRecordType::Commit,
            ControlRecord::Other { kind, .. } => *kind,
        }
    }

    /// The record's key.
    pub fn encode_key(&self) -> [u8; 4] {
        let [a, b] = KEY_VERSION.to_be_bytes();
        let [c, d] = self.kind().id().to_be_bytes();
        [a, b, c, d]
    }

    /// The record's value.
    pub fn encode_value(&self) -> Vec<u8> {
        match self {
            ControlRecord::Abort { coordinator_epoch } | ControlRecord::Commit { coordinator_epoch } => {
                [&MARKER_VERSION.to_be_bytes()[..], &coordinator_epoch.to_be_bytes()].concat()
            }
            ControlRecord::Other { value, .. } => value.to_vec(),
        }
    }
}

/// A batch of one transaction marker, as Kafka writes it: transactional, control, uncompressed,
/// with the producer's id and epoch and no sequence. The leader stamps offset and epoch.
///
/// # Errors
/// [`BuildError::Invalid`] if id or epoch are negative.
pub fn end_transaction_batch(
    marker: ControlRecord<'_>,
    producer_id: i64,
    producer_epoch: i16,
    timestamp: i64,
) -> Result<Bytes, BuildError> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(timestamp, Some(&marker.encode_key()), Some(&marker.encode_value()), &[])?;
    builder
        .set_producer(producer_id, producer_epoch, NO_SEQUENCE)
        .set_transactional(true)
        .set_control(true);
    builder.build()
}

fn marker(value: &[u8]) -> Result<i32, BatchError> {
    let (version, rest) = i16_at_front(value, "marker too short")?;
    if version < MARKER_VERSION {
        return Err(BatchError::Control {
            reason: "negative marker version",
        });
    }
    let epoch = rest.first_chunk().ok_or(BatchError::Control {
        reason: "marker too short",
    })?;
    Ok(i32::from_be_bytes(*epoch))
}

fn i16_at_front<'a>(bytes: &'a [u8], reason: &'static str) -> Result<(i16, &'a [u8]), BatchError> {
    let (front, rest) = bytes.split_first_chunk().ok_or(BatchError::Control { reason })?;
    Ok((i16::from_be_bytes(*front), rest))
}
