//! All bounds of groups, and why each has its number.

use std::time::Duration;

use crate::cluster::MAX_PARTITIONS;

/// The longest group id, in bytes. Kafka sets no bound; a topic's name, which ids are often made
/// of, has 249.
pub const MAX_GROUP_ID_BYTES: usize = 255;

/// The longest member id, instance id, client id, rack or host name, in bytes: a DNS name has 253.
pub const MAX_TEXT_BYTES: usize = 255;

/// The longest pattern of topics, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1_024;

/// The most topics that one member names.
pub const MAX_SUBSCRIBED_TOPICS: usize = 1_000;

/// The longest text that is stored beside an offset, in bytes, as Kafka's
/// `offset.metadata.max.bytes`.
pub const MAX_OFFSET_METADATA_BYTES: usize = 4_096;

/// The most partitions that one commit or reset names: as many as one topic has at most.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// The most partitions that a member says it owns: all of a cluster, as one member may have them
/// all. The list can't be sent in parts, since what is not in it counts as given back.
pub const MAX_OWNED_PARTITIONS: usize = MAX_PARTITIONS;

/// The highest version of a member's assignment that is read: far above what changes come to, and
/// as far below the type's end, so that a coordinator's own changes don't get there.
pub const MAX_VERSION: u32 = u32::MAX / 2;

/// About how many bytes of keys and values go into one append, so that it stays below the usual
/// largest batch of 1 MiB. A step that needs more is cut between records, in an order that leaves
/// a valid state at each cut.
pub const MAX_APPEND_BYTES: usize = 768 * 1_024;

/// The most answers that wait for an append: more are refused, so that a log that does not
/// advance fills no memory.
pub const MAX_WAITING_ANSWERS: usize = 65_536;

/// The most bytes that wait with them: to be answered, and to be taken back.
pub const MAX_WAITING_BYTES: usize = 64 * 1_024 * 1_024;

/// About the most bytes of what one answer tells of members or offsets, so that it stays below the
/// usual largest message of 4 MiB. What is asked for page by page ends its page there, with at least
/// one member or offset.
pub const MAX_ANSWER_BYTES: usize = 2 * 1_024 * 1_024;

/// How many members one page of a description has at most.
pub const MAX_DESCRIBED_MEMBERS: usize = 1_000;

/// The most members that are remembered after their end, so that late copies of their joins are
/// known as such: more than leave together when a large group is rolled.
pub const MAX_ENDED_MEMBERS: usize = 16_384;

/// How many groups one page of a list has at most.
pub const MAX_LISTED_GROUPS: usize = 1_000;

/// How a coordinator is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The most groups of one coordinator.
    pub max_groups: usize,
    /// About how many bytes the state of all coordinators of one broker may take together. Beyond
    /// seven eighths of it no group, member or larger subscription is let in, beyond it no new offset.
    pub max_state_bytes: usize,
    /// The most members of one group.
    pub max_members: usize,
    /// The shortest session time-out that a member may ask for.
    pub min_session_timeout: Duration,
    /// The longest one: for so long a dead member keeps its partitions.
    pub max_session_timeout: Duration,
    /// The shortest time that a member may ask for to give partitions back: the heartbeat that
    /// reports it must fit in, and another one, as an answer gets lost.
    pub min_rebalance_timeout: Duration,
    /// The longest one.
    pub max_rebalance_timeout: Duration,
    /// How often members are told to send heartbeats.
    pub heartbeat_interval: Duration,
    /// The least time between two assignments of one group: what comes in between is one
    /// assignment.
    pub assignment_interval: Duration,
    /// How long an offset outlives the last use of it (`offsets.retention.minutes`).
    pub offset_retention: Duration,
    /// How often expired offsets are looked for.
    pub retention_check_interval: Duration,
    /// A timer that fires later than this was held up by this process, and so were heartbeats:
    /// nobody is fenced for that.
    pub late_timer_tolerance: Duration,
}

impl Default for GroupConfig {
    /// Time-outs that move a frozen member's share within six seconds; Kafka's retention of seven
    /// days (KIP-186).
    fn default() -> Self {
        Self {
            max_groups: 10_000,
            max_state_bytes: 256 * 1_024 * 1_024,
            max_members: 10_000,
            min_session_timeout: Duration::from_secs(1),
            max_session_timeout: Duration::from_secs(30 * 60),
            min_rebalance_timeout: Duration::from_secs(2),
            max_rebalance_timeout: Duration::from_secs(24 * 60 * 60),
            heartbeat_interval: Duration::from_secs(1),
            assignment_interval: Duration::from_millis(100),
            offset_retention: Duration::from_secs(7 * 24 * 60 * 60),
            retention_check_interval: Duration::from_secs(10 * 60),
            late_timer_tolerance: Duration::from_secs(2),
        }
    }
}
