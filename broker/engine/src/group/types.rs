//! The words that all rules of groups use.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use uuid::Uuid;

/// A group's name.
pub type GroupId = Arc<str>;

/// One life of one member, drawn at random by the client: after it has left or was fenced, it
/// comes back under another one, so that a late copy of an old request can't be taken for its.
pub type MemberId = Arc<str>;

/// A partition, by its topic's id: a topic that is deleted and created anew is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's id.
    pub topic: Uuid,
    /// The partition's number.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Partitions, each with the member epoch in which it was assigned.
pub type Assigned = BTreeMap<TopicPartition, i32>;

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// A clock that never falls: for time-outs.
    pub monotonic: Duration,
    /// Milliseconds since 1970: for what outlives a coordinator.
    pub unix_ms: i64,
}

/// How partitions are shared out (KIP-848's server-side assignors).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// Equal numbers, with as few moves as can be; a member's own rack is preferred.
    #[default]
    Uniform,
    /// Of each topic a run of neighbouring partitions, so that equal numbers of two topics meet
    /// at one member; a member's own rack is preferred where that leaves the numbers equal.
    Range,
}

/// Where a group begins to read a partition that has no committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Start {
    /// At the oldest record.
    #[default]
    Beginning,
    /// After the newest record at the time when the group first had the topic; a topic that is
    /// created after the group has subscribed to its name or to a pattern of it is read from its
    /// beginning, as are partitions that are added.
    End,
    /// At the first record of this time or later, in milliseconds since 1970.
    Time(i64),
}

/// What a member says of itself. What it leaves out in a heartbeat is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDetails {
    /// The application's name for itself, for people.
    pub client_id: String,
    /// Where it is connected from, for people.
    pub client_host: String,
    /// Its failure domain.
    pub rack: Option<String>,
    /// Without a heartbeat for this long it is fenced. It must itself stop to use its partitions
    /// once it had no answer for this long since it sent the last heartbeat that was answered.
    pub session_timeout: Duration,
    /// The same once its connection is gone (`Event::ConnectionLost`); not above `session_timeout`.
    pub reconnect_timeout: Duration,
    /// For how long it may keep a partition that it is told to give back: from
    /// `GroupConfig::min_rebalance_timeout` to `GroupConfig::max_rebalance_timeout`, so that a field
    /// that was left unset does not fence it with its first revocation.
    pub rebalance_timeout: Duration,
    /// Which assignor it would have; the group takes what most members name.
    pub assignor: Option<Assignor>,
    /// Topics by name.
    pub topics: Vec<String>,
    /// A pattern of names of topics, besides. It must have been checked: the coordinator only
    /// asks for what it matches.
    pub pattern: Option<String>,
    /// Where to begin in a topic that this member is the first of the group to name.
    pub start: Start,
}

/// What a member is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// It sends heartbeats.
    #[default]
    Active,
    /// A static member that is being restarted: what it had is kept for it for a session time.
    Left,
    /// It did not give partitions back in time. What it holds is free once its session has
    /// ended, since it may not know before.
    Fenced,
}
