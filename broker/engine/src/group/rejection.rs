//! Why a request about a group is refused. Nothing has changed then, except where said.

use thiserror::Error;

use super::limits::{MAX_ANSWER_BYTES, MAX_OFFSET_METADATA_BYTES, MAX_PARTITIONS_PER_REQUEST};

/// Why a request is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupRejection {
    /// The group's records are still being read, or the cluster's topics are not known yet. What is
    /// not known yet is not "nothing": no offset is called absent before all are read, and nobody
    /// joins a group that can't be assigned.
    #[error("the group's coordinator is loading its state: try again")]
    Loading,
    /// This broker does not coordinate the group, or not any more.
    #[error("this broker does not coordinate the group: look the coordinator up again{}", if *.outcome_unknown { "; whether the change is stored is unknown" } else { "" })]
    NotCoordinator {
        /// Whether a change that was asked for may have been stored all the same.
        outcome_unknown: bool,
    },
    /// The coordinator was not able to read its records.
    #[error("the group's coordinator can't read its records: {reason}")]
    CoordinatorFailed {
        /// What it met.
        reason: String,
    },
    /// Some record of this group can't be read. Nothing of it is dropped or overwritten.
    #[error("group {group:?} is stopped: {reason}")]
    GroupUnreadable {
        /// The group.
        group: String,
        /// What it is about its record.
        reason: String,
    },
    /// The change was certainly not stored.
    #[error("the change was not stored: try again")]
    NotStored,
    /// Too many answers wait for the log.
    #[error("the group's coordinator has too many requests waiting: slow down and try again")]
    Overloaded,
    /// Not a group's name.
    #[error("{reason}")]
    InvalidGroupId {
        /// Why.
        reason: String,
    },
    /// Something in the request breaks a rule.
    #[error("{field}: {reason}")]
    InvalidRequest {
        /// What.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The session time-out is outside of what this cluster allows.
    #[error("session_timeout: must be from {min_ms} ms to {max_ms} ms")]
    InvalidSessionTimeout {
        /// The least, in milliseconds.
        min_ms: u64,
        /// The most, in milliseconds.
        max_ms: u64,
    },
    /// There is no such group.
    #[error("there is no group {group:?}")]
    GroupNotFound {
        /// The name.
        group: String,
    },
    /// The group has members.
    #[error("group {group:?} still has members ({members}): stop them first")]
    GroupNotEmpty {
        /// The name.
        group: String,
        /// How many.
        members: usize,
    },
    /// The group is at another version than an operator has seen.
    #[error(
        "group {group:?} has changed since: offsets were committed, or members came or went; look at it again, and do it under its new version"
    )]
    GroupChanged {
        /// The name.
        group: String,
    },
    /// The group is full.
    #[error("group {group:?} has {max} members, which is the most")]
    GroupMaxSizeReached {
        /// The name.
        group: String,
        /// The most.
        max: usize,
    },
    /// The coordinator has too many groups.
    #[error("this coordinator has {max} groups, which is the most: delete unused groups")]
    TooManyGroups {
        /// The most.
        max: usize,
    },
    /// What it has takes all the memory that it may have.
    #[error(
        "this coordinator has no room for more (all of its broker may take {max_bytes} bytes together): delete unused groups, or subscribe to less"
    )]
    CoordinatorFull {
        /// The most, in bytes.
        max_bytes: usize,
    },
    /// No such member; its session ended, perhaps.
    #[error("the group has no member {member:?}: give its partitions up and join again under a new member id")]
    UnknownMember {
        /// The member's id.
        member: String,
    },
    /// The epoch is none that this member has, or the member was fenced.
    #[error(
        "member {member:?} is fenced (epoch {given}, the group has {current}): give its partitions up and join again under a new member id"
    )]
    FencedMemberEpoch {
        /// The member's id.
        member: String,
        /// What came.
        given: i32,
        /// What the coordinator knows.
        current: i32,
    },
    /// The epoch is not the member's present one.
    #[error("member {member:?} has epoch {current}, not {given}: send a heartbeat, then try again")]
    StaleMemberEpoch {
        /// The member's id.
        member: String,
        /// What came.
        given: i32,
        /// What it is.
        current: i32,
    },
    /// Another member has this instance id and may be alive.
    #[error("instance id {instance:?} is in use by another member: stop that one, or wait for its session to end")]
    UnreleasedInstanceId {
        /// The instance id.
        instance: String,
        /// After this many milliseconds the other one's session ends, if it is gone.
        retry_after_ms: u64,
    },
    /// Another stream has resumed as this member.
    #[error("another stream resumed as member {member:?}: go on there")]
    TakenOver {
        /// The member.
        member: String,
    },
    /// Another member has taken this instance id over.
    #[error("instance id {instance:?} was taken over by a newer process: this one must stop")]
    FencedInstanceId {
        /// The instance id.
        instance: String,
    },
    /// The member left for a restart: this id's life has ended.
    #[error("member {member:?} has left for a restart: join with the instance id, under a new member id")]
    MemberLeft {
        /// The member's id.
        member: String,
    },
    /// The request names too many partitions, or the answer would be too large.
    #[error(
        "a request may name {MAX_PARTITIONS_PER_REQUEST} partitions, and an answer have {MAX_ANSWER_BYTES} bytes: send several, or ask page by page"
    )]
    TooManyPartitions,
}

/// Why one partition's offset is not stored; the others of the request may be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetRejection {
    /// No such topic or partition.
    #[error("there is no such topic or partition")]
    UnknownPartition,
    /// The member does not own it.
    #[error("the partition is not assigned to this member: stop to process it")]
    NotAssigned,
    /// It was given to this member in a later epoch than the commit's: the commit is of an
    /// earlier ownership (KIP-1251).
    #[error(
        "the partition was assigned in epoch {assigned}, after the commit's epoch {given}: its offset is older than what others have done since"
    )]
    StaleAssignment {
        /// When it was assigned.
        assigned: i32,
        /// The commit's epoch.
        given: i32,
    },
    /// It would go back.
    #[error(
        "offset {committed} is committed, which is later: to go back, commit with `rewind` or reset the group's offsets"
    )]
    OffsetBehind {
        /// What is committed.
        committed: i64,
    },
    /// Not an offset.
    #[error("an offset is 0 or more, not {offset}")]
    InvalidOffset {
        /// What came.
        offset: i64,
    },
    /// The text beside the offset is too long.
    #[error("the text beside an offset has at most {MAX_OFFSET_METADATA_BYTES} bytes, not {length}")]
    MetadataTooLarge {
        /// Its length.
        length: usize,
    },
    /// What the coordinator has takes all the memory that it may have; offsets that are there are
    /// still renewed.
    #[error("this coordinator has no room for more offsets: delete unused groups, or commit shorter texts")]
    CoordinatorFull,
    /// A member owns it.
    #[error("member {member:?} owns the partition: stop it first")]
    Owned {
        /// Who.
        member: String,
    },
}
