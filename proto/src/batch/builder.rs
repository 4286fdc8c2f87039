//! Encodes batches.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::compress::Compressor;
use super::crc::crc32c;
use super::varint::{self, MAX_VARINT_LEN, MAX_VARLONG_LEN};
use super::{
    Attributes, BatchError, BatchHeader, Codec, HEADER_LEN, Header, LENGTH_PREFIX_LEN, NO_LEADER_EPOCH,
    NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, TimestampType, field,
};

/// Most bytes that a record adds to its key, value and headers: length, attributes, timestamp
/// delta, offset delta, key length, value length and header count.
pub const MAX_RECORD_OVERHEAD: usize = 5 * MAX_VARINT_LEN + 1 + MAX_VARLONG_LEN;
/// Most bytes of a batch: its length field counts to `i32::MAX`.
const MAX_BATCH_LEN: usize = i32::MAX as usize;
/// How much of the last ratio stays in the estimate of the next.
const RATIO_MEMORY: f64 = 0.7;

/// Why a batch can't be built. The builder stays as it was before the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The batch would exceed the length field.
    #[error("batch of {size} bytes exceeds {MAX_BATCH_LEN}")]
    BatchTooLarge {
        /// What it would be, in bytes.
        size: usize,
    },
    /// The batch has `i32::MAX` records.
    #[error("batch is full of records")]
    TooManyRecords,
    /// A record's time is too far from the first one's to be written as a difference.
    #[error("timestamp {timestamp} is too far from the batch's first, {base}")]
    Timestamp {
        /// The record's, in milliseconds.
        timestamp: i64,
        /// The first record's, in milliseconds.
        base: i64,
    },
    /// A level that the codec does not have.
    #[error("{codec} has no compression level {level}")]
    Level {
        /// The codec.
        codec: Codec,
        /// The level asked for.
        level: i32,
    },
    /// A batch without records.
    #[error("batch has no records")]
    Empty,
    /// Producer fields, flags or base offset that no valid batch has.
    #[error("batch would be invalid: {0}")]
    Invalid(#[from] BatchError),
    /// The codec's library failed.
    #[error("{codec}: {reason}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// What it said.
        reason: String,
    },
}

/// Encodes records into one batch after another.
///
/// Records are encoded as they come; [`build`](Self::build) compresses them at once, sets the
/// checksum and leaves the builder empty for the next batch, with its memory and its codec's state.
/// Uncompressed batches are not copied: the `Bytes` is the builder's buffer, which is used again
/// once all its batches are dropped.
///
/// ```
/// use millrace_proto::batch::{BatchBuilder, BatchView, Codec, DecodeLimits};
///
/// let mut builder = BatchBuilder::new(Codec::Lz4);
/// builder.append(1_700_000_000_000, Some(b"key"), Some(b"value"), &[])?;
/// let bytes = builder.build()?;
///
/// let batch = BatchView::parse(&bytes)?;
/// batch.verify_crc()?;
/// for record in &batch.records(&DecodeLimits::default())? {
///     assert_eq!(record?.value, Some(&b"value"[..]));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BatchBuilder {
    codec: Codec,
    compressor: Compressor,
    compressed: Vec<u8>,
    /// Compressed by uncompressed size of the batches so far.
    ratio: f64,
    /// Room for the header, then the encoded records.
    buffer: BytesMut,
    capacity: usize,
    fields: Fields,
}

impl fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchBuilder")
            .field("codec", &self.codec)
            .field("fields", &self.fields)
            .field("size_in_bytes", &self.size_in_bytes())
            .finish_non_exhaustive()
    }
}

/// What the next batch's header will say.
#[derive(Clone, Copy, Debug)]
struct Fields {
    base_offset: i64,
    leader_epoch: i32,
    attributes: Attributes,
    base_timestamp: i64,
    max_timestamp: i64,
    append_time: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: i32,
}

impl Fields {
    const NEW: Fields = Fields {
        base_offset: 0,
        leader_epoch: NO_LEADER_EPOCH,
        attributes: Attributes::EMPTY,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        append_time: NO_TIMESTAMP,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        record_count: 0,
    };
}

impl BatchBuilder {
    /// A builder with the codec's default level.
    pub fn new(codec: Codec) -> Self {
        Self::create(codec, None)
    }

    /// A builder with a compression level; `None` is the codec's default: gzip 6, zstd 3.
    ///
    /// # Errors
    /// [`BuildError::Level`] if the level is not one of [`Codec::levels`].
    pub fn with_level(codec: Codec, level: Option<i32>) -> Result<Self, BuildError> {
        if let Some(level) = level
            && !codec.levels().is_some_and(|levels| levels.contains(&level))
        {
            return Err(BuildError::Level { codec, level });
        }
        Ok(Self::create(codec, level))
    }

    fn create(codec: Codec, level: Option<i32>) -> Self {
        Self {
            codec,
            compressor: Compressor::new(codec, level),
            compressed: Vec::new(),
            ratio: 1.0,
            buffer: BytesMut::new(),
            capacity: 0,
            fields: Fields::NEW,
        }
    }

    /// Takes buffers of at least this many bytes (header and records, uncompressed) from now on, so
    /// that a batch of that size needs one allocation.
    pub fn reserve(&mut self, bytes: usize) {
        self.capacity = bytes;
    }

    /// Adds a record and returns its offset delta: 0 for the first. `timestamp` is in milliseconds,
    /// -1 for none.
    ///
    /// # Errors
    /// If the batch's length, count or time can't hold it.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<i32, BuildError> {
        let offset_delta = self.fields.record_count;
        if offset_delta == i32::MAX {
            return Err(BuildError::TooManyRecords);
        }
        let base = if offset_delta == 0 {
            timestamp
        } else {
            self.fields.base_timestamp
        };
        let timestamp_delta = timestamp
            .checked_sub(base)
            .ok_or(BuildError::Timestamp { timestamp, base })?;

        self.put_record(timestamp_delta, offset_delta, key, value, headers.iter().copied())?;
        self.fields.base_timestamp = base;
        self.fields.max_timestamp = self.fields.max_timestamp.max(timestamp);
        Ok(offset_delta)
    }

    /// Encodes a record with these differences from the batch's first time and offset.
    #[inline]
    pub(super) fn put_record<'h>(
        &mut self,
        timestamp_delta: i64,
        offset_delta: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = Header<'h>> + Clone,
    ) -> Result<(), BuildError> {
        let body = 1
            + varint::len(timestamp_delta)
            + varint::len(i64::from(offset_delta))
            + nullable_len(key)
            + nullable_len(value)
            + varint::len(headers.len() as i64)
            + headers.clone().map(|header| header_len(&header)).sum::<usize>();
        let size = varint::len(body as i64) + body;
        if self.size_in_bytes() + size > MAX_BATCH_LEN {
            return Err(BuildError::BatchTooLarge {
                size: self.size_in_bytes() + size,
            });
        }
        if self.buffer.is_empty() {
            self.buffer.reserve(self.capacity.max(HEADER_LEN + size));
            self.buffer.extend_from_slice(&[0; HEADER_LEN]);
        }
        self.buffer.reserve(size);

        let mut head = [0; MAX_RECORD_OVERHEAD];
        let mut at = 0;
        varint::write(&mut head, &mut at, body as i64);
        at += 1; // attributes: 0
        varint::write(&mut head, &mut at, timestamp_delta);
        varint::write(&mut head, &mut at, i64::from(offset_delta));
        varint::write(&mut head, &mut at, key.map_or(-1, |key| key.len() as i64));
        if let Some(key) = key {
            self.buffer.extend_from_slice(&head[..at]);
            self.buffer.extend_from_slice(key);
            at = 0;
        }
        varint::write(&mut head, &mut at, value.map_or(-1, |value| value.len() as i64));
        self.buffer.extend_from_slice(&head[..at]);
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self.put_varint(headers.len() as i64);
        for header in headers {
            self.put_varint(header.key.len() as i64);
            self.buffer.extend_from_slice(header.key);
            self.put_varint(header.value.map_or(-1, |value| value.len() as i64));
            self.buffer.extend_from_slice(header.value.unwrap_or_default());
        }

        self.fields.record_count += 1;
        Ok(())
    }

    /// The idempotent producer's id, its epoch and the sequence of the batch's first record.
    pub fn set_producer(&mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> &mut Self {
        self.fields.producer_id = producer_id;
        self.fields.producer_epoch = producer_epoch;
        self.fields.base_sequence = base_sequence;
        self
    }

    /// Makes the batch part of a transaction.
    pub fn set_transactional(&mut self, on: bool) -> &mut Self {
        self.fields.attributes = self.fields.attributes.with_transactional(on);
        self
    }

    /// Makes the batch one of control records.
    pub fn set_control(&mut self, on: bool) -> &mut Self {
        self.fields.attributes = self.fields.attributes.with_control(on);
        self
    }

    /// Offset of the first record, for those who know it; else 0, which the leader replaces.
    pub fn set_base_offset(&mut self, base_offset: i64) -> &mut Self {
        self.fields.base_offset = base_offset;
        self
    }

    /// Epoch of the leader, for those who know it; else -1, which the leader replaces.
    pub fn set_leader_epoch(&mut self, leader_epoch: i32) -> &mut Self {
        self.fields.leader_epoch = leader_epoch;
        self
    }

    /// Gives all records the append time `now_ms`, in milliseconds.
    pub fn set_log_append_time(&mut self, now_ms: i64) -> &mut Self {
        self.fields.attributes = self.fields.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        self.fields.append_time = now_ms;
        self
    }

    /// The codec of all batches of this builder.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Records in the batch so far.
    pub fn record_count(&self) -> i32 {
        self.fields.record_count
    }

    /// Whether the batch has no record yet.
    pub fn is_empty(&self) -> bool {
        self.fields.record_count == 0
    }

    /// Bytes of the batch so far, uncompressed, header included; exact where there is no
    /// compression.
    pub fn size_in_bytes(&self) -> usize {
        self.buffer.len().max(HEADER_LEN)
    }

    /// Bytes the batch would have if built now: exact where there is no compression, else by how
    /// well the batches before could be compressed. Add [`record_size_upper_bound`] to decide
    /// whether one more record fits.
    pub fn size_estimate(&self) -> usize {
        HEADER_LEN + ((self.size_in_bytes() - HEADER_LEN) as f64 * self.ratio).ceil() as usize
    }

    /// Ends the batch. All but codec, level and memory is then as in a new builder: no sequence is
    /// ever used twice.
    ///
    /// # Errors
    /// If there are no records, or the header's fields contradict each other. Nothing is lost then:
    /// the fields can be set right and the batch built again.
    pub fn build(&mut self) -> Result<Bytes, BuildError> {
        if self.is_empty() {
            return Err(BuildError::Empty);
        }
        self.finish(self.header())
    }

    /// Ends the batch with this header; its length and checksum are those of the records.
    pub(super) fn finish(&mut self, mut header: BatchHeader) -> Result<Bytes, BuildError> {
        header.validate()?;
        let mut batch = if self.codec == Codec::None {
            self.buffer.split()
        } else {
            self.compress()?
        };
        header.batch_length = (batch.len() - LENGTH_PREFIX_LEN) as i32;
        batch[..HEADER_LEN].copy_from_slice(&header.encode());
        let crc = crc32c(&batch[field::ATTRIBUTES..]);
        batch[field::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
        self.clear();
        Ok(batch.freeze())
    }

    /// Drops the batch so far.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.fields = Fields::NEW;
    }

    fn header(&self) -> BatchHeader {
        let fields = &self.fields;
        let is_append_time = fields.attributes.timestamp_type() == TimestampType::LogAppendTime;
        BatchHeader {
            base_offset: fields.base_offset,
            batch_length: (self.size_in_bytes() - LENGTH_PREFIX_LEN) as i32,
            partition_leader_epoch: fields.leader_epoch,
            crc: 0,
            attributes: fields.attributes.with_codec(self.codec),
            last_offset_delta: fields.record_count - 1,
            base_timestamp: fields.base_timestamp,
            max_timestamp: if is_append_time {
                fields.append_time
            } else {
                fields.max_timestamp
            },
            producer_id: fields.producer_id,
            producer_epoch: fields.producer_epoch,
            base_sequence: fields.base_sequence,
            record_count: fields.record_count,
        }
    }

    fn compress(&mut self) -> Result<BytesMut, BuildError> {
        let records = &self.buffer[HEADER_LEN..];
        self.compressed.clear();
        self.compressor
            .compress(records, &mut self.compressed)
            .map_err(|reason| BuildError::Compress {
                codec: self.codec,
                reason,
            })?;
        let size = HEADER_LEN + self.compressed.len();
        if size > MAX_BATCH_LEN {
            return Err(BuildError::BatchTooLarge { size });
        }
        let ratio = self.compressed.len() as f64 / records.len() as f64;
        self.ratio = self.ratio * RATIO_MEMORY + ratio * (1.0 - RATIO_MEMORY);
        // Copied to its exact size: the scratch buffer is as large as the worst case and stays
        // here.
        let mut batch = BytesMut::with_capacity(size);
        batch.extend_from_slice(&[0; HEADER_LEN]);
        batch.extend_from_slice(&self.compressed);
        Ok(batch)
    }

    #[inline]
    fn put_varint(&mut self, value: i64) {
        let mut bytes = [0; MAX_VARLONG_LEN];
        let mut at = 0;
        varint::write(&mut bytes, &mut at, value);
        self.buffer.extend_from_slice(&bytes[..at]);
    }
}

/// Most bytes that a record adds to a batch, whatever its time and place. Header names and values
/// count with their lengths.
pub fn record_size_upper_bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
    MAX_RECORD_OVERHEAD
        + key.map_or(0, <[u8]>::len)
        + value.map_or(0, <[u8]>::len)
        + headers.iter().map(header_len).sum::<usize>()
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::len(bytes.len() as i64) + bytes.len())
}

fn header_len(header: &Header<'_>) -> usize {
    varint::len(header.key.len() as i64) + header.key.len() + nullable_len(header.value)
}
