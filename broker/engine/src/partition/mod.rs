//! One partition on one broker: what its leader may answer, how far its log is committed, who is
//! in sync, and what a follower fetches, appends and cuts.
//!
//! [`Replica`] is a pure step: events in, effects out, time an argument. It holds no record and
//! does no IO. The caller holds the partition's lock over each step and over the change of the
//! log that the event tells of, and carries out the effects in their order.
//!
//! ```text
//!   metadata log --MetadataChanged--> +-----------+ --AssignEpoch, Truncate, Append--> log
//!   log --Appended, Flushed, ...----> |           | --HighWatermark, FailWaiters-----> clients
//!   peers --ReplicaFetch------------> |  Replica  | --AnswerFetch--------------------> peers
//!   leader --FetchAnswered----------> |           | --Fetch, Acknowledge-------------> leader
//!   controller --ProposalAnswered---> |           | --ProposeIsr---------------------> controller
//!   timer --Tick--------------------> +-----------+ --GoOffline, Alarm---------------> operator
//!
//!                       later leader epoch, leader = this broker
//!        +--------------------------------------------------------------+
//!        |      leader = another or none                                v
//!   [offline] --------------------------> [follower] <-----------> [leader]
//! ```
//!
//! Positions, all offsets, and their order at a leader:
//!
//! ```text
//!  log start ≤ high watermark ≤ durable end of each member of the maximal in-sync set ≤ log end
//! ```
//!
//! | file | rules |
//! |---|---|
//! | `epochs` | where two logs part (KIP-101, KIP-279, KIP-595) |
//! | `fetch`, `progress` | what a follower's fetch counts for (KIP-320, KIP-903) |
//! | `watermark` | how far the log is committed (KIP-497, KIP-966) |
//! | `isr` | proposals to the controller, and what their answers prove (KIP-497, KIP-841) |
//! | `leader`, `queries` | what clients may be told (KIP-207, KIP-320, KIP-392) |
//! | `follower` | fetching, appending, cutting (KIP-101, KIP-595) |
//! | `metadata`, `transitions` | which metadata is taken, and roles (KIP-631, KAFKA-13790) |
//!
//! Not here: bytes, producers' sequences (the log's), elections (the cluster's).

mod effect;
mod epochs;
mod event;
mod fetch;
mod follower;
mod isr;
mod leader;
mod log_state;
mod metadata;
mod progress;
mod queries;
mod replica;
mod transitions;
mod watermark;

pub use effect::{Alarm, Effect, OfflineReason, WaiterFailure};
pub use epochs::{Agreement, EpochEnd, EpochView, compare, truncation_point};
pub use event::{Event, FetchOutcome, FetchReply, FetchedBatch};
pub use fetch::{FetchRefusal, FetchRequest, FetchVerdict};
pub use isr::{Proof, Proposal, ProposalAnswer, ProposalError};
pub use leader::{Acknowledgement, Acknowledgements, FetchBound, Leader, LeaderError, OffsetQuery};
pub use log_state::LogPositions;
pub use metadata::{BrokerView, PartitionView};
pub use queries::ReplicaError;
pub use replica::{Replica, ReplicaConfig};

#[cfg(test)]
mod tests;
