//! The attribute bits of a batch.
//!
//! ```text
//! bit 15 ............ 7 |        6        |    5    |       4       |       3        | 2 1 0
//!     unused, kept      | delete horizon  | control | transactional | timestamp type | codec
//! ```

use super::{BatchError, Codec};

const CODEC_MASK: u16 = 0b111;
const TIMESTAMP_TYPE: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;
const DELETE_HORIZON: u16 = 1 << 6;

/// Who gave a batch's records their time (KIP-32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer: each record has its own.
    #[default]
    CreateTime,
    /// The broker at append: the header's max timestamp holds for every record.
    LogAppendTime,
}

/// The attribute bits of a batch; the codec bits are always a known [`Codec`]. Unused bits are kept
/// as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes(u16);

impl Attributes {
    /// No bit set: uncompressed, create time.
    pub const EMPTY: Attributes = Attributes(0);

    /// Checks the codec bits.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`] for the codec ids 5 to 7.
    pub fn from_bits(bits: u16) -> Result<Self, BatchError> {
        let id = (bits & CODEC_MASK) as u8;
        match Codec::from_id(id) {
            Some(_) => Ok(Self(bits)),
            None => Err(BatchError::UnknownCodec { id }),
        }
    }

    /// The bits as they stand in the header.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// How the records are compressed.
    pub fn codec(self) -> Codec {
        // `from_bits` refuses what has no codec, so the fallback is never reached.
        Codec::from_id((self.0 & CODEC_MASK) as u8).unwrap_or(Codec::None)
    }

    /// Who gave the records their time.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & TIMESTAMP_TYPE == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction (KIP-98).
    pub fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which consumers never see.
    pub fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Whether the base timestamp is the time from which the cleaner may drop tombstones (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }

    /// The same with this codec.
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self(self.0 & !CODEC_MASK | u16::from(codec.id()))
    }

    /// The same with this timestamp type.
    #[must_use]
    pub fn with_timestamp_type(self, kind: TimestampType) -> Self {
        self.with_bit(TIMESTAMP_TYPE, kind == TimestampType::LogAppendTime)
    }

    /// The same, part of a transaction or not.
    #[must_use]
    pub fn with_transactional(self, on: bool) -> Self {
        self.with_bit(TRANSACTIONAL, on)
    }

    /// The same, a control batch or not.
    #[must_use]
    pub fn with_control(self, on: bool) -> Self {
        self.with_bit(CONTROL, on)
    }

    /// The same, with or without a delete horizon.
    #[must_use]
    pub fn with_delete_horizon(self, on: bool) -> Self {
        self.with_bit(DELETE_HORIZON, on)
    }

    fn with_bit(self, bit: u16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}
