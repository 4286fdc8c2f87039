//! One member of a consumer group, as a pure step: the client's side of KIP-848. The smart client is a member for its
//! application, and a broker is one for a subscriber that has nothing but stubs (`Messaging.Subscribe`).
//!
//! Not here: streams, timers, records, commits; whoever drives a member has them.

pub mod limits;
mod member;

pub use member::{Effect, Event, Member, MemberConfig, PartitionId, Refusal, by_topic};
