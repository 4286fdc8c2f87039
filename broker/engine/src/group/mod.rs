//! Consumer groups: the server's side of KIP-848 (who has which partition, by epochs and
//! heartbeats), and committed offsets.
//!
//! [`Coordinator`] is a pure step: events in, effects out, time an argument. There is one for each
//! partition of the internal, compacted topic of groups, at its leader; which partition a group
//! belongs to tells [`group_partition`].
//!
//! ```text
//!   clients --Requested------------> +-------------+ --Append--------------> internal partition
//!   log ------Committed, Refused---> | Coordinator | --Answer, Wake--------> clients
//!   log ------Replayed, Loaded-----> |             | --ResolvePattern------> metadata
//!   metadata--TopicsChanged--------> |             | --ResolveStart--------> partitions' leaders
//!   timer ----Tick-----------------> +-------------+ --GroupStopped, ...---> operator
//!
//!  [loading] --Loaded--> [active] --Resigned--> [resigned]
//!      +-----a key or the log can't be read---> [failed]
//! ```
//!
//! All that a coordinator knows is what its records say. A record is applied when it is made, by
//! the code that applies it when it is read back, together with what takes it back; no answer
//! leaves before all that it may tell of is committed. An append that was certainly not written is
//! taken back, with all later ones; one whose outcome is not known ends the coordinator, and the
//! next one reads what is there. Timers are not stored: whoever takes over gives everybody the
//! whole time again.
//!
//! What needs no append is answered without the log's word that this broker still leads. The caller
//! therefore asks, and passes answers on, only while its broker's lease holds: a heartbeat that a
//! replaced coordinator answers would keep a member going whose session has ended at the new one.
//!
//! Epochs and positions, and their order:
//!
//! ```text
//!  epoch in which a partition was assigned ≤ member epoch ≤ target epoch ≤ group epoch
//! ```
//!
//! A member *owns* a partition from the answer that tells it so until it has reported the release
//! under the version of the assignment that asked for it, or its session has ended on both sides:
//! it stops by itself once it had no answer for a session time since it sent the heartbeat that was
//! answered last, which is before the coordinator's own time ends. A member whose client's connection
//! the coordinator knows to be closed has its reconnect time there instead. It judges itself by its
//! session all the same: one that lives connects again at once, and a broker that dies, whose clients
//! nobody knows to be gone, must take nothing from anybody. Where something between them cuts the
//! connection of a client, which then can't connect for so long, two may use a partition, of which only
//! the new one commits.
//!
//! | file | rules |
//! |---|---|
//! | `membership`, `ended` | joining, epochs of heartbeats, static members, fencing (KIP-848, KIP-345) |
//! | `reconcile` | giving back before getting (KIP-848) |
//! | `target`, `assignor` | when is assigned, and how |
//! | `subscription`, `first_sight` | topics and patterns; where to begin in them (KAFKA-20742) |
//! | `offsets` | commits, positions, retention (KIP-211, KIP-1251) |
//! | `budget`, `limits` | how much of all that there may be |
//! | `state`, `record` | what is known, and how it is stored |
//! | `writes`, `timers`, `coordinator` | what waits for what |
//!
//! Not here: connections, and what patterns mean; transactions' offsets; the lag of a group, which
//! needs the ends of partitions.

mod admin;
mod assignor;
mod budget;
mod cause;
mod coordinator;
mod ended;
mod event;
mod first_sight;
mod limits;
mod membership;
mod offsets;
mod partitioner;
mod reconcile;
mod record;
mod rejection;
mod request;
mod state;
mod subscription;
mod target;
mod timers;
mod topics;
mod types;
mod validate;
mod writes;

#[cfg(test)]
mod tests;

pub use coordinator::Coordinator;
pub use event::{Effect, Event};
pub use limits::{
    GroupConfig, MAX_ANSWER_BYTES, MAX_APPEND_BYTES, MAX_DESCRIBED_MEMBERS, MAX_ENDED_MEMBERS, MAX_GROUP_ID_BYTES,
    MAX_LISTED_GROUPS, MAX_OFFSET_METADATA_BYTES, MAX_OWNED_PARTITIONS, MAX_PARTITIONS_PER_REQUEST, MAX_PATTERN_BYTES,
    MAX_SUBSCRIBED_TOPICS, MAX_TEXT_BYTES, MAX_VERSION, MAX_WAITING_ANSWERS, MAX_WAITING_BYTES,
};
pub use partitioner::group_partition;
pub use record::{
    CurrentRecord, Fact, GroupRecord, Malformed, MemberRecord, OffsetRecord, ReadError, Record, StoredRecord,
    TopicRecord, Unreadable,
};
pub use rejection::{GroupRejection, OffsetRejection};
pub use request::{
    Answer, Assignment, Commit, CommitOffset, FetchOffsets, GroupDescription, GroupListing, GroupState, Heartbeat,
    HeartbeatAnswer, Leave, MemberDescription, Position, Rebalance, Request, ResetOffsets, Subscriber,
};
pub use state::{Group, Groups, Member};
pub use topics::{TopicView, Topics};
pub use types::{Assigned, Assignor, GroupId, MemberDetails, MemberId, MemberState, Now, Start, TopicPartition};
pub use validate::check_group_id;
