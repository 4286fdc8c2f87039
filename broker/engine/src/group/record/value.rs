//! Values: what is said of a group, a member, an offset.

use std::time::Duration;

use super::{
    Fact,
    codec::{Malformed, Reader, Writer},
    key::{Slot, Unreadable},
};
use crate::group::{
    limits::MAX_VERSION,
    types::{Assigned, Assignor, MemberDetails, MemberState, Start},
};

const VERSION: u8 = 1;

/// A group. `target_epoch ≤ epoch < i32::MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// Rises with each change of members, subscriptions or topics.
    pub epoch: i32,
    /// The epoch that the members' targets were computed for.
    pub target_epoch: i32,
    /// By which assignor.
    pub assignor: Assignor,
    /// Since when it has no members, in milliseconds since 1970.
    pub empty_since_ms: Option<i64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// The name that it keeps over restarts (KIP-345).
    pub instance_id: Option<String>,
    /// What it says of itself.
    pub details: MemberDetails,
}

/// What a member has. `previous_epoch ≤ epoch < i32::MAX`, `version ≤ MAX_VERSION`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentRecord {
    /// The epoch that it has reached; also if it does not know that yet.
    pub epoch: i32,
    /// An epoch that it has shown to know: it may come with any from here on, as answers get lost.
    pub previous_epoch: i32,
    /// Rises with each change of this record. A member tells which one it has seen; what it owned
    /// before it saw this one says nothing about what it owns now.
    pub version: u32,
    /// What it is in.
    pub state: MemberState,
    /// What it may use; each with the epoch in which it got it.
    pub assigned: Assigned,
    /// What it must give back; nobody else gets it before.
    pub revoking: Assigned,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRecord {
    /// The next offset to be read.
    pub offset: i64,
    /// The leader epoch of the last record read, if the member knows it (KIP-320).
    pub leader_epoch: Option<i32>,
    /// The member's own text.
    pub metadata: String,
    /// When it was committed, in milliseconds since 1970.
    pub committed_at_ms: i64,
}

/// A topic that the group has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    /// How many partitions it had when the group subscribed to it: those begin at `start`; those
    /// that were added later are read from their beginning (KAFKA-20742). 0: it was created later.
    pub known_partitions: u32,
    /// Where to begin.
    pub start: Start,
    /// Since when no member subscribes to it, in milliseconds since 1970.
    pub unsubscribed_since_ms: Option<i64>,
}

pub(super) fn encode(fact: &Fact) -> Option<Vec<u8>> {
    let mut writer = Writer::default();
    writer.u8(VERSION);
    match fact {
        Fact::Group(group) => encode_group(&mut writer, group.as_ref()?),
        Fact::Member(_, member) => encode_member(&mut writer, member.as_ref()?),
        Fact::Target(_, target) => writer.partitions(target.as_ref()?.iter().map(|at| (*at, ())), |_, ()| {}),
        Fact::Current(_, current) => encode_current(&mut writer, current.as_ref()?),
        Fact::Offset(_, offset) => encode_offset(&mut writer, offset.as_ref()?),
        Fact::Topic(_, topic) => encode_topic(&mut writer, topic.as_ref()?),
        Fact::Pattern(_, topics) => encode_texts(&mut writer, topics.as_ref()?),
    }
    Some(writer.0)
}

pub(super) fn decode(slot: Slot, value: Option<&[u8]>) -> Result<Fact, Unreadable> {
    Ok(match slot {
        Slot::Group => Fact::Group(read(value, decode_group)?),
        Slot::Member(id) => Fact::Member(id, read(value, decode_member)?),
        Slot::Target(id) => Fact::Target(id, read(value, decode_target)?),
        Slot::Current(id) => Fact::Current(id, read(value, decode_current)?),
        Slot::Offset(at) => Fact::Offset(at, read(value, decode_offset)?),
        Slot::Topic(id) => Fact::Topic(id, read(value, decode_topic)?),
        Slot::Pattern(pattern) => Fact::Pattern(pattern, read(value, decode_texts)?),
    })
}

fn read<T>(
    value: Option<&[u8]>,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Unreadable> {
    let Some(value) = value else { return Ok(None) };
    let mut reader = Reader(value);
    let version = reader.u8("value's version")?;
    if version != VERSION {
        let what = "value's version";
        return Err(Unreadable::Newer { what, version });
    }
    let decoded = decode(&mut reader)?;
    reader.end()?;
    Ok(Some(decoded))
}

fn encode_assignor(assignor: Assignor) -> u8 {
    match assignor {
        Assignor::Uniform => 0,
        Assignor::Range => 1,
    }
}

fn decode_assignor(byte: u8) -> Result<Assignor, Malformed> {
    match byte {
        0 => Ok(Assignor::Uniform),
        1 => Ok(Assignor::Range),
        _ => Err(Malformed::Field { what: "assignor" }),
    }
}

fn encode_start(writer: &mut Writer, start: Start) {
    let (kind, time) = match start {
        Start::Beginning => (0, None),
        Start::End => (1, None),
        Start::Time(time) => (2, Some(time)),
    };
    writer.u8(kind);
    if let Some(time) = time {
        writer.i64(time);
    }
}

fn decode_start(reader: &mut Reader<'_>) -> Result<Start, Malformed> {
    match reader.u8("start")? {
        0 => Ok(Start::Beginning),
        1 => Ok(Start::End),
        2 => reader.i64("start").map(Start::Time),
        _ => Err(Malformed::Field { what: "start" }),
    }
}

fn encode_texts(writer: &mut Writer, texts: &[String]) {
    writer.count(texts.len());
    for text in texts {
        writer.text(text);
    }
}

fn decode_texts(reader: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let count = reader.count(4, "topics")?;
    (0..count).map(|_| reader.text("topics")).collect()
}

fn encode_duration(writer: &mut Writer, duration: Duration) {
    writer.u32(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
}

fn decode_duration(reader: &mut Reader<'_>) -> Result<Duration, Malformed> {
    reader.u32("time-out").map(|ms| Duration::from_millis(ms.into()))
}

fn encode_group(writer: &mut Writer, group: &GroupRecord) {
    writer.i32(group.epoch);
    writer.i32(group.target_epoch);
    writer.u8(encode_assignor(group.assignor));
    writer.option(group.empty_since_ms, Writer::i64);
}

fn decode_group(reader: &mut Reader<'_>) -> Result<GroupRecord, Malformed> {
    let group = GroupRecord {
        epoch: reader.i32("epoch")?,
        target_epoch: reader.i32("target epoch")?,
        assignor: decode_assignor(reader.u8("assignor")?)?,
        empty_since_ms: reader.option("empty since", |reader| reader.i64("empty since"))?,
    };
    if group.target_epoch > group.epoch || group.target_epoch < 0 {
        return Err(Malformed::Field { what: "target epoch" });
    }
    // No epoch comes after it: nothing would ever be assigned anew.
    if group.epoch == i32::MAX {
        return Err(Malformed::Field { what: "epoch" });
    }
    Ok(group)
}

fn encode_member(writer: &mut Writer, member: &MemberRecord) {
    let details = &member.details;
    writer.option(member.instance_id.as_deref(), Writer::text);
    writer.text(&details.client_id);
    writer.text(&details.client_host);
    writer.option(details.rack.as_deref(), Writer::text);
    encode_duration(writer, details.session_timeout);
    encode_duration(writer, details.reconnect_timeout);
    encode_duration(writer, details.rebalance_timeout);
    writer.option(details.assignor, |writer, assignor| {
        writer.u8(encode_assignor(assignor))
    });
    encode_texts(writer, &details.topics);
    writer.option(details.pattern.as_deref(), Writer::text);
    encode_start(writer, details.start);
}

fn decode_member(reader: &mut Reader<'_>) -> Result<MemberRecord, Malformed> {
    Ok(MemberRecord {
        instance_id: reader.option("instance id", |reader| reader.text("instance id"))?,
        details: MemberDetails {
            client_id: reader.text("client id")?,
            client_host: reader.text("client host")?,
            rack: reader.option("rack", |reader| reader.text("rack"))?,
            session_timeout: decode_duration(reader)?,
            reconnect_timeout: decode_duration(reader)?,
            rebalance_timeout: decode_duration(reader)?,
            assignor: reader.option("assignor", |reader| decode_assignor(reader.u8("assignor")?))?,
            topics: decode_texts(reader)?,
            pattern: reader.option("pattern", |reader| reader.text("pattern"))?,
            start: decode_start(reader)?,
        },
    })
}

fn decode_target(reader: &mut Reader<'_>) -> Result<Vec<super::TopicPartition>, Malformed> {
    let target = reader.partitions("target", |_| Ok(()))?;
    Ok(target.into_iter().map(|(at, ())| at).collect())
}

fn encode_current(writer: &mut Writer, current: &CurrentRecord) {
    writer.i32(current.epoch);
    writer.i32(current.previous_epoch);
    writer.u32(current.version);
    writer.u8(match current.state {
        MemberState::Active => 0,
        MemberState::Left => 1,
        MemberState::Fenced => 2,
    });
    writer.assigned(&current.assigned);
    writer.assigned(&current.revoking);
}

fn decode_current(reader: &mut Reader<'_>) -> Result<CurrentRecord, Malformed> {
    let current = CurrentRecord {
        epoch: reader.i32("member epoch")?,
        previous_epoch: reader.i32("previous epoch")?,
        version: reader.u32("version")?,
        state: match reader.u8("state")? {
            0 => MemberState::Active,
            1 => MemberState::Left,
            2 => MemberState::Fenced,
            _ => return Err(Malformed::Field { what: "state" }),
        },
        assigned: reader.assigned("assigned partitions")?,
        revoking: reader.assigned("partitions to give back")?,
    };
    if current.epoch == i32::MAX {
        return Err(Malformed::Field { what: "member epoch" });
    }
    if current.version > MAX_VERSION {
        return Err(Malformed::Field { what: "version" });
    }
    let disjoint = current.revoking.keys().all(|at| !current.assigned.contains_key(at));
    if !disjoint || current.previous_epoch > current.epoch {
        return Err(Malformed::Field {
            what: "present assignment",
        });
    }
    Ok(current)
}

fn encode_offset(writer: &mut Writer, offset: &OffsetRecord) {
    writer.i64(offset.offset);
    writer.option(offset.leader_epoch, Writer::i32);
    writer.text(&offset.metadata);
    writer.i64(offset.committed_at_ms);
}

fn decode_offset(reader: &mut Reader<'_>) -> Result<OffsetRecord, Malformed> {
    let offset = OffsetRecord {
        offset: reader.i64("offset")?,
        leader_epoch: reader.option("leader epoch", |reader| reader.i32("leader epoch"))?,
        metadata: reader.text("text")?,
        committed_at_ms: reader.i64("commit time")?,
    };
    if offset.offset < 0 {
        return Err(Malformed::Field { what: "offset" });
    }
    Ok(offset)
}

fn encode_topic(writer: &mut Writer, topic: &TopicRecord) {
    writer.u32(topic.known_partitions);
    encode_start(writer, topic.start);
    writer.option(topic.unsubscribed_since_ms, Writer::i64);
}

fn decode_topic(reader: &mut Reader<'_>) -> Result<TopicRecord, Malformed> {
    Ok(TopicRecord {
        known_partitions: reader.u32("known partitions")?,
        start: decode_start(reader)?,
        unsubscribed_since_ms: reader.option("unsubscribed since", |reader| reader.i64("unsubscribed since"))?,
    })
}
