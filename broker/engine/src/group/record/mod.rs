//! What of groups is stored: one record to a fact, by key, in a compacted topic.
//!
//! ```text
//!  key:   version u8 = 1 | type u8 | group id (u32 length, UTF-8) | rest, by type
//!  value: version u8 = 1 | fields, by type                         none: the fact is no more
//!
//!  type         rest of the key              value
//!  1 group      -                            epochs, assignor, empty since
//!  2 member     member id                    instance id, details, subscription
//!  3 target     member id                    partitions that it shall have
//!  4 current    member id                    epochs, state, partitions that it has and gives back
//!  5 offset     topic id, partition          offset, leader epoch, text, time
//!  6 topic      topic id                     where to begin, and up to which partition
//!  7 pattern    pattern                      topics that it matches
//! ```
//!
//! Why not Kafka's own records of `__consumer_offsets`: their offsets are keyed by the topic's name, so
//! that a topic which is created anew inherits them; and they have no room for the epoch in which a
//! partition was assigned (KIP-1251), for the version of an assignment that a member was told, or
//! for where a group began. The batches around them are Kafka's.
//!
//! What a later version has added is never dropped: the beginning of a key, up to the group's id,
//! is the same for ever, so that a record that can't be read stops its group, and only that, until
//! a version comes that reads it (`ReadError::Group`). A key that can't even be read so far stops
//! the coordinator.

mod codec;
mod key;
mod value;

#[cfg(test)]
mod tests;

use uuid::Uuid;

pub use codec::Malformed;
pub use key::{ReadError, Unreadable};
pub use value::{CurrentRecord, GroupRecord, MemberRecord, OffsetRecord, TopicRecord};

use super::types::{GroupId, MemberId, TopicPartition};

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The value's bytes; `None`: a tombstone.
    pub value: Option<Vec<u8>>,
}

impl StoredRecord {
    /// About how many bytes it takes in a batch.
    pub(super) fn size(&self) -> usize {
        const OVERHEAD: usize = 16;
        OVERHEAD + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// A record about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which group.
    pub group: GroupId,
    /// What about it.
    pub fact: Fact,
}

/// What is said of a group; without a value it is said no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The group itself.
    Group(Option<GroupRecord>),
    /// A member.
    Member(MemberId, Option<MemberRecord>),
    /// What a member shall have.
    Target(MemberId, Option<Vec<TopicPartition>>),
    /// What a member has.
    Current(MemberId, Option<CurrentRecord>),
    /// A committed offset.
    Offset(TopicPartition, Option<OffsetRecord>),
    /// A topic that the group has read.
    Topic(Uuid, Option<TopicRecord>),
    /// Which topics a pattern matches.
    Pattern(String, Option<Vec<String>>),
}

impl Record {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> StoredRecord {
        StoredRecord {
            key: key::encode(self),
            value: value::encode(&self.fact),
        }
    }

    /// A record from bytes, whatever they are.
    ///
    /// # Errors
    /// Whom it stops that the bytes can't be read.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, ReadError> {
        let (group, slot) = key::decode(key)?;
        match value::decode(slot, value) {
            Ok(fact) => Ok(Self { group, fact }),
            Err(reason) => Err(ReadError::Group { group, reason }),
        }
    }
}
