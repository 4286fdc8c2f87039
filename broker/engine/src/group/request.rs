//! What is asked of a coordinator, and what it answers.

use std::time::Duration;

use uuid::Uuid;

use super::{
    rejection::OffsetRejection,
    types::{Assignor, GroupId, MemberDetails, MemberId, MemberState, Start, TopicPartition},
};

/// Asked of a coordinator.
#[allow(clippy::large_enum_variant, reason = "events hold a request in a box")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A member joins, or says that it lives.
    Heartbeat(Heartbeat),
    /// A member leaves.
    Leave(Leave),
    /// Offsets are committed.
    Commit(Commit),
    /// Offsets are asked for.
    FetchOffsets(FetchOffsets),
    /// An operator sets offsets.
    ResetOffsets(ResetOffsets),
    /// A group without members is deleted, with its offsets.
    DeleteGroup(GroupId),
    /// A group, with its first members: as `DescribePage` from the beginning.
    Describe(GroupId),
    /// A group, with some of its members.
    DescribePage {
        /// Which group.
        group: GroupId,
        /// Only members with ids after this one.
        after: String,
        /// At most so many, and `MAX_DESCRIBED_MEMBERS`; fewer where they are large.
        limit: usize,
    },
    /// Some of a group's offsets, in their order: for a group that has more than one answer holds.
    OffsetPage {
        /// Which group.
        group: GroupId,
        /// Only partitions after this one; `None`: from the first on.
        after: Option<TopicPartition>,
        /// At most so many, and `MAX_PARTITIONS_PER_REQUEST`; fewer where their texts are long.
        limit: usize,
    },
    /// Which groups there are.
    List {
        /// Only those with ids after this one.
        after: String,
        /// At most so many, and `MAX_LISTED_GROUPS`.
        limit: usize,
    },
}

/// A member joins, or says that it lives (KIP-848). Late copies of it do no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group: GroupId,
    /// The member's id, which it has drawn.
    pub member: MemberId,
    /// Its instance id, for a static member (KIP-345).
    pub instance: Option<String>,
    /// The epoch of the last answer; 0: it joins.
    pub epoch: i32,
    /// The version of the last answer; 0: there was none.
    pub version: u32,
    /// Needed to join; later only when something changes. Taken only from a member that has seen
    /// its present version, so that a late copy sets nothing back: it is to be repeated until an
    /// answer has the version that the heartbeat had.
    pub details: Option<MemberDetails>,
    /// All partitions that it uses at this moment; `None`: as before. What it has been told to give
    /// back counts as given back once this does not have it. Taken as `details` are, and so to be
    /// repeated likewise.
    pub owned: Option<Vec<TopicPartition>>,
    /// Of a member that a broker plays for a subscriber; `None`: a client's own.
    pub subscriber: Option<Subscriber>,
}

/// The stream for which a broker is a member. A subscriber that resumes has another one, and the one before may
/// stand yet, at another broker: only one of them is the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The stream.
    pub stream: Uuid,
    /// It was not answered yet: it becomes the one.
    pub takes_over: bool,
}

/// A member leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// For a static member: it comes back within a session time, and its partitions are kept for
    /// it. It must have stopped to use them, in each case.
    pub temporary: bool,
}

/// Offsets are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The group.
    pub group: GroupId,
    /// The member and the epoch that it knows; `None`: without membership, for a group that has
    /// no members.
    pub member: Option<(MemberId, i32)>,
    /// Let offsets go back: somebody has gone back on purpose.
    pub rewind: bool,
    /// What.
    pub offsets: Vec<CommitOffset>,
}

/// One partition's offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    /// The partition.
    pub at: TopicPartition,
    /// The next offset to be read.
    pub offset: i64,
    /// The leader epoch of the last record read, if known.
    pub leader_epoch: Option<i32>,
    /// The member's own text, up to `MAX_OFFSET_METADATA_BYTES`.
    pub metadata: String,
}

/// Offsets are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsets {
    /// The group.
    pub group: GroupId,
    /// The member and its epoch, if a member asks.
    pub member: Option<(MemberId, i32)>,
    /// Which; `None`: all that are committed, if one answer holds them (else `Request::OffsetPage`).
    pub partitions: Option<Vec<TopicPartition>>,
}

/// An operator sets offsets. What they stand for (a time, the end, a shift) was looked up before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOffsets {
    /// The group.
    pub group: GroupId,
    /// Only tell what would be done.
    pub validate_only: bool,
    /// Refused unless the group is at this version still; see [`Answer::Reset`].
    pub expected_version: Option<u64>,
    /// Partitions and their offsets; `None`: forget the offset. A partition that a member owns
    /// is left alone.
    pub offsets: Vec<(TopicPartition, Option<i64>)>,
}

/// A coordinator's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a heartbeat.
    Heartbeat(HeartbeatAnswer),
    /// The member has left, the group is deleted.
    Done,
    /// To a commit: what became of each partition, in the order asked.
    Offsets(Vec<(TopicPartition, Result<(), OffsetRejection>)>),
    /// To a reset.
    Reset {
        /// There was no such group.
        is_new: bool,
        /// Names the group's offsets and its members as they are now: another one once an offset is committed or
        /// forgotten, or a member comes or goes.
        version: u64,
        /// What became of each partition, in the order asked.
        results: Vec<(TopicPartition, Result<(), OffsetRejection>)>,
    },
    /// To a question for offsets.
    Fetched(Vec<(TopicPartition, Position)>),
    /// Offsets; `more`: there are others after the last.
    OffsetPage {
        /// By their partitions.
        positions: Vec<(TopicPartition, Position)>,
        /// Whether there are others.
        more: bool,
    },
    /// A group.
    Group(Box<GroupDescription>),
    /// Groups; `more`: there are others after the last.
    Groups {
        /// By their ids.
        groups: Vec<GroupListing>,
        /// Whether there are others.
        more: bool,
    },
}

/// To a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The member's epoch from now on.
    pub epoch: i32,
    /// The version of its assignment.
    pub version: u32,
    /// When to send the next one at the latest.
    pub heartbeat_interval: Duration,
    /// What the member may use, and what it must give back; `None`: it knows, by the version
    /// that it came with.
    pub assignment: Option<Assignment>,
}

/// What a member is told. What is in neither list it must not use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// What it may use.
    pub assigned: Vec<TopicPartition>,
    /// What it must give back: stop, commit, then send a heartbeat without it.
    pub revoking: Vec<TopicPartition>,
    /// Until when, after this answer; nothing to give back: `None`.
    pub revoke_within: Option<Duration>,
}

/// Where to read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// At a committed offset.
    Committed {
        /// The next offset to be read.
        offset: i64,
        /// The leader epoch of the last record read, if known.
        leader_epoch: Option<i32>,
        /// The member's text.
        metadata: String,
        /// When, in milliseconds since 1970.
        committed_at_ms: i64,
    },
    /// At the partition's oldest record.
    Beginning,
    /// Not known yet: it is being looked up (`Effect::ResolveStart`). To be asked again.
    Pending,
    /// Nothing is committed, and the group has never subscribed to the topic.
    None,
}

/// What a group is in (KIP-848).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Its partitions are to be shared out anew.
    Assigning,
    /// Some member does not yet have what it shall have.
    Reconciling,
    /// All have what they shall have.
    Stable,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: GroupId,
    /// What it is in; `None`: its records can't be read.
    pub state: Option<GroupState>,
    /// How many members it has.
    pub members: usize,
}

/// A group, without its offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// What it is in.
    pub state: GroupState,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of its target.
    pub target_epoch: i32,
    /// By which assignor.
    pub assignor: Assignor,
    /// Topics that it has read, and where it began.
    pub topics: Vec<(Uuid, Start)>,
    /// How many members it has.
    pub member_count: usize,
    /// Its members, or some of them, by their ids.
    pub members: Vec<MemberDescription>,
    /// Whether there are members after the last of `members`.
    pub more: bool,
    /// Why it was to be assigned anew last; `None`: not since this coordinator has taken over.
    pub last_rebalance: Option<Rebalance>,
}

/// Why a group was to be assigned anew: for people, and not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// The group's epoch from then on.
    pub epoch: i32,
    /// Why, in a sentence of at most 300 characters.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member: MemberId,
    /// Its instance id.
    pub instance: Option<String>,
    /// What it says of itself.
    pub details: MemberDetails,
    /// What it is in.
    pub state: MemberState,
    /// Its epoch.
    pub epoch: i32,
    /// What it may use.
    pub assigned: Vec<TopicPartition>,
    /// What it is yet to give back.
    pub revoking: Vec<TopicPartition>,
    /// What it shall have.
    pub target: Vec<TopicPartition>,
}
