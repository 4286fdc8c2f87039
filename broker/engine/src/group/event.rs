//! What happens to a coordinator, and what it wants done.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    record::StoredRecord,
    rejection::GroupRejection,
    request::{Answer, Request},
    topics::Topics,
    types::{GroupId, MemberId, Start},
};

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A committed record of the coordinator's partition, in their order, while it loads.
    Replayed {
        /// The key.
        key: &'a [u8],
        /// The value; `None`: a tombstone.
        value: Option<&'a [u8]>,
    },
    /// All committed records were replayed, up to the end of the log that this leader began with.
    /// Never said after an error: then `LoadFailed`.
    Loaded,
    /// The log could not be read to its end. Not the same as an empty log.
    LoadFailed {
        /// Why.
        reason: &'a str,
    },
    /// The cluster's topics have changed.
    TopicsChanged {
        /// All of them.
        topics: Arc<Topics>,
        /// Ids of topics that were deleted: only for these are offsets deleted. That a topic is
        /// not among `topics` may mean that this broker does not know it yet.
        deleted: &'a [Uuid],
    },
    /// A request; answered by `Effect::Answer` of the same number.
    Requested {
        /// The caller's number for it.
        id: u64,
        /// What is asked.
        request: Box<Request>,
    },
    /// The appends up to this one are committed: below the high watermark.
    Committed {
        /// `Effect::Append`'s number.
        sequence: u64,
    },
    /// This append and all later ones were not written, for certain. Whatever of it may yet
    /// be in the log is `Resigned`.
    Refused {
        /// The first of them.
        sequence: u64,
    },
    /// This broker does not lead the coordinator's partition any more, or does not know what
    /// became of an append. Whoever leads next replays the log into a new coordinator.
    Resigned,
    /// A client's connection is closed with the last stream of a member, and its process has ended, perhaps:
    /// it has its reconnect time to come again.
    ConnectionLost {
        /// The group.
        group: &'a str,
        /// The member.
        member: &'a str,
    },
    /// What a pattern matches, as asked for.
    PatternResolved {
        /// The group.
        group: &'a str,
        /// The pattern.
        pattern: &'a str,
        /// Names of topics.
        topics: Vec<String>,
    },
    /// Where to begin, as asked for. What could not be looked up is left out.
    StartResolved {
        /// The group.
        group: &'a str,
        /// The topic.
        topic: Uuid,
        /// Partitions with their offsets.
        offsets: &'a [(u32, i64)],
    },
    /// Time has passed; due at `Coordinator::next_deadline`.
    Tick,
}

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append these records as one batch, all or none. Once one is refused, later ones must not be
    /// written before the step that was told so.
    Append {
        /// Its number; they rise by one.
        sequence: u64,
        /// What.
        records: Vec<StoredRecord>,
    },
    /// Answer a request.
    Answer {
        /// Which.
        id: u64,
        /// With what.
        answer: Box<Result<Answer, GroupRejection>>,
    },
    /// Tell these members, if they are connected here, to send a heartbeat now: there is news for
    /// them. A hint: without it they learn it with their next heartbeat.
    Wake {
        /// The group.
        group: GroupId,
        /// Which members.
        members: Vec<MemberId>,
    },
    /// Find out which topics a pattern matches.
    ResolvePattern {
        /// The group.
        group: GroupId,
        /// The pattern.
        pattern: String,
    },
    /// Find out the offset where to begin.
    ResolveStart {
        /// The group.
        group: GroupId,
        /// The topic.
        topic: Uuid,
        /// Its partitions.
        partitions: Vec<u32>,
        /// Where.
        start: Start,
    },
    /// A group's records can't be read: it is stopped, and an operator should look.
    GroupStopped {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The coordinator's records can't be read: it serves nothing.
    CoordinatorStopped {
        /// Why.
        reason: String,
    },
}
