//! Every way a batch can be wrong.

use super::Codec;

/// Why bytes are not a batch, or a batch's records can't be read.
///
/// Positions are bytes: in header errors from the batch's first byte, in record errors from the
/// first byte of the records after decompression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does. More bytes may make it whole; at a log's end this is a
    /// torn write.
    #[error("batch incomplete: {needed} bytes needed, {available} available")]
    Incomplete {
        /// Bytes needed from the batch's first byte: the header's length where that is not there
        /// yet, else the whole batch's. As hostile as the length field it came from: do not
        /// allocate by it unchecked.
        needed: usize,
        /// Bytes that were there.
        available: usize,
    },
    /// Another message format than v2.
    #[error("unsupported magic {magic}: only message format 2 is supported")]
    UnsupportedMagic {
        /// The magic byte found.
        magic: i8,
    },
    /// A batch length that can't hold the header.
    #[error("batch length {batch_length} is below the header's {minimum}")]
    LengthTooSmall {
        /// The length field.
        batch_length: i32,
        /// The least possible.
        minimum: i32,
    },
    /// Codec bits without a codec.
    #[error("unknown compression codec id {id}")]
    UnknownCodec {
        /// The codec bits.
        id: u8,
    },
    /// A base offset below zero.
    #[error("base offset {base_offset} is negative")]
    NegativeBaseOffset {
        /// The base offset field.
        base_offset: i64,
    },
    /// A last offset below the base offset.
    #[error("last offset delta {last_offset_delta} is negative")]
    NegativeLastOffsetDelta {
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// No room for the offset after this batch.
    #[error("base offset {base_offset} and last offset delta {last_offset_delta} overflow")]
    OffsetOverflow {
        /// The base offset field.
        base_offset: i64,
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// A record count below zero, or above the number of offsets.
    #[error("record count {record_count} does not fit last offset delta {last_offset_delta}")]
    RecordCount {
        /// The record count field.
        record_count: i32,
        /// The last offset delta field.
        last_offset_delta: i32,
    },
    /// Producer id, epoch, sequence and attributes contradict each other.
    #[error(
        "inconsistent producer fields: id {producer_id}, epoch {producer_epoch}, \
         base sequence {base_sequence}: {reason}"
    )]
    Producer {
        /// The producer id field.
        producer_id: i64,
        /// The producer epoch field.
        producer_epoch: i16,
        /// The base sequence field.
        base_sequence: i32,
        /// What contradicts what.
        reason: &'static str,
    },
    /// The checksum does not match the bytes.
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Crc {
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// The compressed records are no valid stream of their codec.
    #[error("{codec} stream is damaged: {reason}")]
    Compressed {
        /// The batch's codec.
        codec: Codec,
        /// What the decoder said.
        reason: String,
    },
    /// The records would take more memory than allowed.
    #[error("{codec} stream decompresses to more than {limit} bytes")]
    DecompressedTooLarge {
        /// The batch's codec.
        codec: Codec,
        /// [`DecodeLimits::max_decompressed_bytes`](super::DecodeLimits::max_decompressed_bytes).
        limit: usize,
    },
    /// More records than allowed.
    #[error("{record_count} records exceed the limit of {limit}")]
    TooManyRecords {
        /// The record count field.
        record_count: i32,
        /// [`DecodeLimits::max_records`](super::DecodeLimits::max_records).
        limit: usize,
    },
    /// More headers in one record than allowed.
    #[error("record {index} at byte {position}: {headers} headers exceed the limit of {limit}")]
    TooManyHeaders {
        /// Which record, from 0.
        index: i32,
        /// Where the record begins.
        position: usize,
        /// The header count field.
        headers: i32,
        /// [`DecodeLimits::max_headers_per_record`](super::DecodeLimits::max_headers_per_record).
        limit: usize,
    },
    /// The records end before a field does.
    #[error("record {index}: {field} at byte {position} runs beyond the end")]
    RecordCut {
        /// Which record, from 0.
        index: i32,
        /// Where the field begins.
        position: usize,
        /// The field.
        field: &'static str,
    },
    /// A variable-length integer of too many bytes or bits.
    #[error("record {index}: {field} at byte {position} is no valid varint")]
    Varint {
        /// Which record, from 0.
        index: i32,
        /// Where the varint begins.
        position: usize,
        /// The field.
        field: &'static str,
    },
    /// A field's value that is not allowed.
    #[error("record {index}: {field} at byte {position} has invalid value {value}")]
    RecordField {
        /// Which record, from 0.
        index: i32,
        /// Where the field begins.
        position: usize,
        /// The field.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// Bytes remain after the last record, or after a record's last field.
    #[error("{count} bytes left over at byte {position} after record {index}")]
    LeftOver {
        /// The last record read, from 0; -1 if there was none.
        index: i32,
        /// Where they begin.
        position: usize,
        /// How many.
        count: usize,
    },
    /// A largest time that is not the records'.
    #[error("max timestamp {max_timestamp} where the records say {expected}")]
    MaxTimestamp {
        /// The max timestamp field, in milliseconds.
        max_timestamp: i64,
        /// The largest of the records' times, in milliseconds; -1 if none is above.
        expected: i64,
    },
    /// A control record that can't be understood.
    #[error("invalid control record: {reason}")]
    Control {
        /// What is wrong.
        reason: &'static str,
    },
}

impl BatchError {
    /// Whether more bytes could make the batch whole.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, BatchError::Incomplete { .. })
    }

    /// Whether a limit of the reader was exceeded, and not a rule of the format.
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            BatchError::DecompressedTooLarge { .. }
                | BatchError::TooManyRecords { .. }
                | BatchError::TooManyHeaders { .. }
        )
    }
}
