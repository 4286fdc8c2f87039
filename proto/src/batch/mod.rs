//! The record batch: Kafka's message format v2, byte for byte (KIP-98, "Message Format").
//!
//! What a producer encodes is what is stored and what a consumer gets: a broker checks the header
//! and the checksum, stamps offset and leader epoch in place and treats the rest as opaque. No IO
//! here, no clock, no sockets.
//!
//! ```text
//!  0  base offset             i64
//!  8  batch length            i32  of all that follows it
//! 12  partition leader epoch  i32
//! 16  magic                   i8   2
//! 17  CRC-32C                 u32  of all that follows it
//! 21  attributes              u16
//! 23  last offset delta       i32
//! 27  base timestamp          i64
//! 35  max timestamp           i64
//! 43  producer id             i64
//! 51  producer epoch          i16
//! 53  base sequence           i32
//! 57  record count            i32
//! 61  records
//! ```
//!
//! All integers are big-endian. Base offset and leader epoch lie outside the checksum so that the
//! leader can set them without reading the records. The records may be compressed, as one stream,
//! by the codec in the attributes.

mod attributes;
mod builder;
mod codec;
mod compress;
mod control;
pub mod crc;
mod error;
mod header;
mod limits;
mod owned;
mod record;
mod retain;
mod stamp;
pub(crate) mod varint;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use attributes::{Attributes, TimestampType};
pub use builder::{BatchBuilder, BuildError, MAX_RECORD_OVERHEAD, record_size_upper_bound};
pub use codec::{Codec, UnknownCodec};
pub use control::{ControlRecord, ControlRecordType, end_transaction_batch};
pub use error::BatchError;
pub use header::{BatchHeader, advance_sequence};
pub use limits::DecodeLimits;
pub use owned::{OwnedBatch, OwnedBatches, OwnedHeader, OwnedRecord, OwnedRecords, owned_batches};
pub use record::{Header, Headers, Record, RecordIter, Records};
pub use retain::{BatchFilter, empty_batch};
pub use stamp::{stamp_header_log_append_time, stamp_log_append_time, stamp_offset_and_epoch};
pub use view::{BatchView, Batches, batches};

/// Bytes from the base offset to the record count: the fixed part in front of the records.
pub const HEADER_LEN: usize = 61;
/// Bytes of base offset (8) and batch length (4), which the batch length does not count.
pub const LENGTH_PREFIX_LEN: usize = 12;
/// The only message format version understood (v0 and v1 were dropped by KIP-724).
pub const MAGIC: i8 = 2;
/// Producer id of a batch that no idempotent producer wrote.
pub const NO_PRODUCER_ID: i64 = -1;
/// Producer epoch of a batch without a producer id.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// Base sequence of a batch without a producer id, and of a transaction marker.
pub const NO_SEQUENCE: i32 = -1;
/// Timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;
/// Leader epoch of a batch that no leader has stamped yet.
pub const NO_LEADER_EPOCH: i32 = -1;

/// Where each header field begins.
pub(crate) mod field {
    pub const BASE_OFFSET: usize = 0;
    pub const BATCH_LENGTH: usize = 8;
    pub const LEADER_EPOCH: usize = 12;
    pub const MAGIC: usize = 16;
    pub const CRC: usize = 17;
    pub const ATTRIBUTES: usize = 21;
    pub const LAST_OFFSET_DELTA: usize = 23;
    pub const BASE_TIMESTAMP: usize = 27;
    pub const MAX_TIMESTAMP: usize = 35;
    pub const PRODUCER_ID: usize = 43;
    pub const PRODUCER_EPOCH: usize = 51;
    pub const BASE_SEQUENCE: usize = 53;
    pub const RECORD_COUNT: usize = 57;
}
