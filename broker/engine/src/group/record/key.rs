//! Keys: what a record is about.

use thiserror::Error;
use uuid::Uuid;

use super::{
    Fact, Record,
    codec::{Malformed, Reader, Writer},
};
use crate::group::types::{GroupId, MemberId, TopicPartition};

const VERSION: u8 = 1;

const GROUP: u8 = 1;
const MEMBER: u8 = 2;
const TARGET: u8 = 3;
const CURRENT: u8 = 4;
const OFFSET: u8 = 5;
const TOPIC: u8 = 6;
const PATTERN: u8 = 7;

/// What it is about a record that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// A later version of the software has written it.
    #[error("a later version has written its {what} {version}: upgrade this broker")]
    Newer {
        /// Which of its versions or types.
        what: &'static str,
        /// What it says.
        version: u8,
    },
    /// It is damaged.
    #[error("a record of it is damaged: {0}")]
    Damaged(#[from] Malformed),
}

/// Whom it stops that a record can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Its group is known: only that.
    #[error("group {group:?}: {reason}")]
    Group {
        /// Which.
        group: GroupId,
        /// Why.
        reason: Unreadable,
    },
    /// It may be any group's: all.
    #[error("a record of an unknown group: {0}")]
    Key(Unreadable),
}

/// What a record is about, within its group.
pub(super) enum Slot {
    Group,
    Member(MemberId),
    Target(MemberId),
    Current(MemberId),
    Offset(TopicPartition),
    Topic(Uuid),
    Pattern(String),
}

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut writer = Writer::default();
    let kind = match &record.fact {
        Fact::Group(_) => GROUP,
        Fact::Member(..) => MEMBER,
        Fact::Target(..) => TARGET,
        Fact::Current(..) => CURRENT,
        Fact::Offset(..) => OFFSET,
        Fact::Topic(..) => TOPIC,
        Fact::Pattern(..) => PATTERN,
    };
    writer.u8(VERSION);
    writer.u8(kind);
    writer.text(&record.group);
    match &record.fact {
        Fact::Group(_) => {}
        Fact::Member(member, _) | Fact::Target(member, _) | Fact::Current(member, _) => writer.text(member),
        Fact::Offset(at, _) => {
            writer.uuid(at.topic);
            writer.u32(at.partition);
        }
        Fact::Topic(topic, _) => writer.uuid(*topic),
        Fact::Pattern(pattern, _) => writer.text(pattern),
    }
    writer.0
}

pub(super) fn decode(bytes: &[u8]) -> Result<(GroupId, Slot), ReadError> {
    let key = |malformed: Malformed| ReadError::Key(malformed.into());
    let mut reader = Reader(bytes);
    let version = reader.u8("key's version").map_err(key)?;
    if version != VERSION {
        let what = "key's version";
        return Err(ReadError::Key(Unreadable::Newer { what, version }));
    }
    let kind = reader.u8("type").map_err(key)?;
    let group: GroupId = reader.text("group id").map_err(key)?.into();
    match slot(kind, reader) {
        Ok(slot) => Ok((group, slot)),
        Err(reason) => Err(ReadError::Group { group, reason }),
    }
}

fn slot(kind: u8, mut reader: Reader<'_>) -> Result<Slot, Unreadable> {
    let slot = match kind {
        GROUP => Slot::Group,
        MEMBER => Slot::Member(reader.text("member id")?.into()),
        TARGET => Slot::Target(reader.text("member id")?.into()),
        CURRENT => Slot::Current(reader.text("member id")?.into()),
        OFFSET => Slot::Offset(TopicPartition {
            topic: reader.uuid("topic id")?,
            partition: reader.u32("partition")?,
        }),
        TOPIC => Slot::Topic(reader.uuid("topic id")?),
        PATTERN => Slot::Pattern(reader.text("pattern")?),
        version => {
            return Err(Unreadable::Newer {
                what: "record type",
                version,
            });
        }
    };
    reader.end()?;
    Ok(slot)
}
