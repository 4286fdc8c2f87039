//! The 61 bytes in front of a batch's records; the layout is drawn in the [module header](super).

use super::{
    Attributes, BatchError, Codec, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP,
    TimestampType, field,
};

/// The least batch length: a header without records.
const MIN_BATCH_LENGTH: i32 = (HEADER_LEN - LENGTH_PREFIX_LEN) as i32;

/// All header fields. A plain value: it does not know the records.
///
/// Invariants of a decoded header: `base_offset >= 0`, `last_offset_delta >= 0`, `0 <= record_count
/// <= last_offset_delta + 1`, `next_offset()` does not overflow, and a batch with a producer id has
/// an epoch and, unless it is a control batch, a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record (of the first record there once was, in a compacted batch).
    pub base_offset: i64,
    /// Bytes after this field: the whole batch less 12.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch; -1 before that.
    pub partition_leader_epoch: i32,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// The attribute bits.
    pub attributes: Attributes,
    /// Last offset less base offset. Compaction keeps it, so that offsets and sequences stay known.
    pub last_offset_delta: i32,
    /// Time in milliseconds that the records' times count from, or the delete horizon (KIP-534).
    pub base_timestamp: i64,
    /// The largest record time in milliseconds, or the append time.
    pub max_timestamp: i64,
    /// Id of the idempotent producer, or -1.
    pub producer_id: i64,
    /// Epoch of the producer, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch; 0 only where compaction left an empty one.
    pub record_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes` and checks all that the header alone can tell.
    /// The checksum is not looked at.
    ///
    /// A record count below the number of offsets is accepted: compaction leaves such batches. A
    /// broker that takes batches from producers must insist on `record_count == last_offset_delta +
    /// 1` itself.
    ///
    /// # Errors
    /// [`BatchError::Incomplete`] below 61 bytes, else the rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(raw) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Self::short(bytes));
        };
        check_prefix(
            raw[field::MAGIC] as i8,
            i32::from_be_bytes(get(raw, field::BATCH_LENGTH)),
        )?;
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(get(raw, field::BASE_OFFSET)),
            batch_length: i32::from_be_bytes(get(raw, field::BATCH_LENGTH)),
            partition_leader_epoch: i32::from_be_bytes(get(raw, field::LEADER_EPOCH)),
            crc: u32::from_be_bytes(get(raw, field::CRC)),
            attributes: Attributes::from_bits(u16::from_be_bytes(get(raw, field::ATTRIBUTES)))?,
            last_offset_delta: i32::from_be_bytes(get(raw, field::LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(get(raw, field::BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(get(raw, field::MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(get(raw, field::PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(get(raw, field::PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(get(raw, field::BASE_SEQUENCE)),
            record_count: i32::from_be_bytes(get(raw, field::RECORD_COUNT)),
        };
        header.validate()?;
        Ok(header)
    }

    /// The 61 bytes, with the checksum and length as the fields say.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        put(&mut raw, field::BASE_OFFSET, self.base_offset.to_be_bytes());
        put(&mut raw, field::BATCH_LENGTH, self.batch_length.to_be_bytes());
        put(&mut raw, field::LEADER_EPOCH, self.partition_leader_epoch.to_be_bytes());
        put(&mut raw, field::MAGIC, MAGIC.to_be_bytes());
        put(&mut raw, field::CRC, self.crc.to_be_bytes());
        put(&mut raw, field::ATTRIBUTES, self.attributes.bits().to_be_bytes());
        put(&mut raw, field::LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        put(&mut raw, field::BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        put(&mut raw, field::MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        put(&mut raw, field::PRODUCER_ID, self.producer_id.to_be_bytes());
        put(&mut raw, field::PRODUCER_EPOCH, self.producer_epoch.to_be_bytes());
        put(&mut raw, field::BASE_SEQUENCE, self.base_sequence.to_be_bytes());
        put(&mut raw, field::RECORD_COUNT, self.record_count.to_be_bytes());
        raw
    }

    /// Bytes of the whole batch, header included.
    pub fn size_in_bytes(&self) -> usize {
        LENGTH_PREFIX_LEN + self.batch_length as usize
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The first offset after this batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// Sequence of the last record: wraps from `i32::MAX` to 0; -1 where there is no sequence.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            NO_SEQUENCE
        } else {
            advance_sequence(self.base_sequence, self.last_offset_delta)
        }
    }

    /// Whether an idempotent producer wrote the batch (or a marker was written for one).
    pub fn has_producer(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Whether the batch holds control records.
    pub fn is_control(&self) -> bool {
        self.attributes.is_control()
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes.is_transactional()
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Codec {
        self.attributes.codec()
    }

    /// Who gave the records their time.
    pub fn timestamp_type(&self) -> TimestampType {
        self.attributes.timestamp_type()
    }

    /// From when on the cleaner may drop the batch's tombstones, in milliseconds (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// Compares the largest time with that of the records: `newest`, in milliseconds, where there are any. As a record
    /// without a time has -1, nothing below that counts. An append time is the broker's, whatever the records say.
    ///
    /// # Errors
    /// [`BatchError::MaxTimestamp`] if they differ.
    pub fn verify_max_timestamp(&self, newest: Option<i64>) -> Result<(), BatchError> {
        match newest.map(|newest| newest.max(NO_TIMESTAMP)) {
            Some(expected) if expected != self.max_timestamp && self.timestamp_type() == TimestampType::CreateTime => {
                Err(BatchError::MaxTimestamp {
                    max_timestamp: self.max_timestamp,
                    expected,
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks every rule between the fields.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), BatchError> {
        if self.batch_length < MIN_BATCH_LENGTH {
            return Err(BatchError::LengthTooSmall {
                batch_length: self.batch_length,
                minimum: MIN_BATCH_LENGTH,
            });
        }
        if self.base_offset < 0 {
            return Err(BatchError::NegativeBaseOffset {
                base_offset: self.base_offset,
            });
        }
        if self.last_offset_delta < 0 {
            return Err(BatchError::NegativeLastOffsetDelta {
                last_offset_delta: self.last_offset_delta,
            });
        }
        // One more than the last offset must exist too: it is the log end after this batch.
        if self.base_offset > i64::MAX - 1 - i64::from(self.last_offset_delta) {
            return Err(BatchError::OffsetOverflow {
                base_offset: self.base_offset,
                last_offset_delta: self.last_offset_delta,
            });
        }
        if self.record_count < 0 || i64::from(self.record_count) > i64::from(self.last_offset_delta) + 1 {
            return Err(BatchError::RecordCount {
                record_count: self.record_count,
                last_offset_delta: self.last_offset_delta,
            });
        }
        self.validate_producer().map_err(|reason| BatchError::Producer {
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            reason,
        })
    }

    fn validate_producer(&self) -> Result<(), &'static str> {
        if self.producer_id < NO_PRODUCER_ID {
            return Err("the id is below -1");
        }
        if self.producer_id == NO_PRODUCER_ID {
            // Epoch and sequence mean nothing then. Kafka ignores them and some clients send 0, so
            // they are not held against the batch.
            return if self.is_transactional() {
                Err("a transactional batch needs a producer id")
            } else {
                Ok(())
            };
        }
        if self.producer_epoch < 0 {
            return Err("a producer id needs an epoch");
        }
        // Transaction markers carry the id of the producer they end, but no sequence.
        if self.base_sequence < 0 && !(self.is_control() && self.base_sequence == NO_SEQUENCE) {
            return Err("a producer id needs a sequence");
        }
        Ok(())
    }

    /// Says what fewer than 61 bytes are: already wrong, or not all there.
    fn short(bytes: &[u8]) -> BatchError {
        if let (Some(magic), Some(length)) = (
            bytes.get(field::MAGIC),
            bytes.get(field::BATCH_LENGTH..).and_then(|rest| rest.first_chunk()),
        ) && let Err(error) = check_prefix(*magic as i8, i32::from_be_bytes(*length))
        {
            return error;
        }
        BatchError::Incomplete {
            needed: HEADER_LEN,
            available: bytes.len(),
        }
    }
}

/// The sequence `increment` after `sequence`; wraps from `i32::MAX` to 0, as Kafka's
/// `DefaultRecordBatch.incrementSequence`. Both must not be negative.
pub fn advance_sequence(sequence: i32, increment: i32) -> i32 {
    ((i64::from(sequence) + i64::from(increment)) & i64::from(i32::MAX)) as i32
}

fn check_prefix(magic: i8, batch_length: i32) -> Result<(), BatchError> {
    // Magic first: the older formats have shorter headers, and "too short" would name the wrong
    // cause.
    if magic != MAGIC {
        return Err(BatchError::UnsupportedMagic { magic });
    }
    if batch_length < MIN_BATCH_LENGTH {
        return Err(BatchError::LengthTooSmall {
            batch_length,
            minimum: MIN_BATCH_LENGTH,
        });
    }
    Ok(())
}

fn get<const N: usize>(raw: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&raw[at..at + N]);
    value
}

fn put<const N: usize>(raw: &mut [u8; HEADER_LEN], at: usize, value: [u8; N]) {
    raw[at..at + N].copy_from_slice(&value);
}
