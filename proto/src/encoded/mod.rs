//! Answers of messages, encoded straight from the records of stored batches.
//!
//! A message for each record, made only to be encoded, costs more than all else on a record's way to a plain stub. Here
//! its fields are written into the answer's bytes at once, with all lengths known before the first byte. The bytes are
//! those that the generated types encode to.
//!
//! ```text
//! ReadResponse       | messages... | progress |
//! SubscribeResponse  | key, length | delivery id | messages... | progress |
//!
//! message            | key, length | topic, partition | offset | time | key, length | key | value | headers | time |
//!                                    the same in all                    of what the producer sent
//! ```

mod message;
#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

pub use message::MessageEncoder;

use crate::v1::{PartitionProgress, ReadResponse, SubscribeMessages};

/// Answers that hold messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// [`ReadResponse`].
    Read,
    /// [`SubscribeMessages`].
    Subscribe,
}

impl Answers {
    /// The number of the field that has the messages.
    const fn field(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Subscribe => 2,
        }
    }
}

/// Of `SubscribeResponse`: the field that has `SubscribeMessages`.
const SUBSCRIBE_MESSAGES_FIELD: u32 = 5;

/// An encoded answer, in parts that follow each other.
#[derive(Clone, Debug, Default)]
pub struct EncodedAnswer([Bytes; 3]);

impl EncodedAnswer {
    /// Any message.
    pub fn new(message: &impl Message) -> Self {
        Self([message.encode_to_vec().into(), Bytes::new(), Bytes::new()])
    }

    /// A `ReadResponse`: messages of [`Answers::Read`], and where their partition stands.
    #[must_use]
    pub fn read(messages: Bytes, progress: PartitionProgress) -> Self {
        let end = ReadResponse {
            messages: Vec::new(),
            progress: vec![progress],
        };
        Self([messages, end.encode_to_vec().into(), Bytes::new()])
    }

    /// A `SubscribeResponse` with messages of [`Answers::Subscribe`].
    #[must_use]
    pub fn subscribe(delivery_id: u64, messages: Bytes, progress: PartitionProgress) -> Self {
        // Fields are encoded in the order of their numbers: messages stand between the other two.
        let begin = SubscribeMessages {
            delivery_id,
            ..SubscribeMessages::default()
        };
        let end = SubscribeMessages {
            progress: Some(progress),
            ..SubscribeMessages::default()
        };
        let (begin, end) = (begin.encode_to_vec(), end.encode_to_vec());
        let length = begin.len() + messages.len() + end.len();
        let mut head = Vec::with_capacity(16 + begin.len());
        encode_key(SUBSCRIBE_MESSAGES_FIELD, WireType::LengthDelimited, &mut head);
        encode_varint(length as u64, &mut head);
        head.extend_from_slice(&begin);
        Self([head.into(), messages, end.into()])
    }

    /// Its length, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether it has no bytes: a message of default values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its parts; some may be empty.
    #[must_use]
    pub fn into_parts(self) -> [Bytes; 3] {
        self.0
    }

    /// All its bytes, to be read.
    pub fn into_buf(self) -> impl Buf {
        let [begin, middle, end] = self.0;
        begin.chain(middle).chain(end)
    }
}
