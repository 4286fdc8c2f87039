//! The metadata quorum: openraft behind one door.
//!
//! Brokers agree here on the order of metadata commands and each applies them to its own
//! [`Cluster`](millrace_engine::Cluster). The log is an ordinary partition of the broker's log
//! directory (`__metadata-0`), so `millrace log dump` reads it; vote and snapshots are files
//! beside it. Nothing outside this module names an openraft type, and no rule about topics or
//! brokers belongs in here: those are `millrace-engine`'s.
//!
//! What becomes durable when, from left to right (a later one never passes an earlier one):
//!
//! ```text
//!   purged ≤ snapshot ≤ applied ≤ committed
//!                                 committed ≤ flushed on a majority
//!            flushed here ≤ written here (readable, replicated)
//! ```
//!
//! - A vote is on the disk before anyone hears of it (Raft, section 5.2).
//! - An entry counts for the majority on this voter only once it is flushed; it is replicated
//!   as soon as it is written. A restarted leader must therefore never lead again in its old
//!   term: it may have lost a tail that followers hold, and would give the same (term, index)
//!   to another entry. The configuration that openraft gets sees to that.
//! - The state lives in memory and is rebuilt from snapshot and log at each start, so an
//!   applied index and the state it belongs to can't diverge (etcd #13766).
//! - Members are added, promoted and removed one at a time (`members`); each request between
//!   them names whom it is for (`network`), so that neither a wrong address nor an emptied disk
//!   takes part.
//! - Log is given up only behind a snapshot that is on the disk (KIP-630).

mod addresses;
mod ask;
mod bootstrap;
mod config;
mod entry_log;
mod error;
mod handle;
mod io_thread;
mod leadership;
mod log_store;
mod member_rules;
mod members;
mod membership;
mod network;
mod options;
mod record;
mod recovery;
mod snapshot;
mod snapshot_store;
mod state_file;
mod state_machine;
mod status;
mod stop;
mod types;

pub use error::QuorumError;
pub use handle::{Quorum, stored_voter_id};
pub use member_rules::MAX_VOTERS;
pub use members::NewMember;
pub use network::QuorumService;
pub use options::{METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID, QuorumOptions};
pub use recovery::{NamedMember, RecoveryError, Stake, recover};
pub use status::{LeaderAddress, MemberStatus, QuorumStatus};

#[cfg(test)]
mod tests;
