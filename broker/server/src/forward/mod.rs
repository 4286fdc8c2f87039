//! Calls for partitions that other brokers lead: passed on to the leader, and on to the next one
//! when the leader changes.
//!
//! ```text
//!  Publish, PublishStream --> Delivery --here--> Partition
//!                                 |  `--there--> Conversation ==Append (one stream)==> ForwardService --> Partition
//!                               Flow (order of one session's batches in one partition)
//!  Read --> Source --here--> Partition
//!             `--there--> Peer --Read, Describe--> ForwardService --> Partition
//! ```
//! Lags are made of ends (Describe) and times (Times) of many partitions at once (`lag`).
//! Plans that move replicas, and unclean elections, ask all brokers what they hold (`inventory`).
//!
//! A leader's refusal, and a stream that breaks before a batch was sent, are no news for the caller:
//! the new leader is looked for and asked. Where a batch may have been written, it is sent
//! again only if its producer id and sequence keep it from being stored twice.

mod appends;
mod conversation;
mod delivery;
mod flow;
mod inventory;
mod lag;
mod limits;
mod peer;
mod place;
mod service;
mod source;
mod times;
mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millrace_engine::BrokerId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use delivery::{Batch, Delivery, Stored};
pub use flow::Flows;
#[cfg(test)]
pub use inventory::StoredReplica;
pub use inventory::{Inventories, Inventory, log_ends, take_inventories, unasked};
pub use lag::{ends_of, times_of};
pub use limits::{LOST_LOOK_EVERY, READER_LEADER_WAIT};
pub use peer::{MemberStreams, Peer};
#[cfg(test)]
pub use place::delete_here;
pub use place::{Search, Target, asks_for_leader, delete_messages, describe};
pub use service::{Budgeted, ForwardService, budgeted, check, first, hosted};
pub use source::{Data, ReadFrom, Source, Watches, find_sources, open_sources};

pub use wire::{error_in, error_out};

use crate::quorum::Quorum;

/// The ways to all other brokers. Dropped, they end.
pub struct Forwarder {
    own: BrokerId,
    quorum: Quorum,
    peers: Mutex<HashMap<BrokerId, Arc<Peer>>>,
    /// Numbers of flows given out; they are told apart within one stream.
    flows: AtomicU64,
    end: CancellationToken,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Forwarder {
    /// No connections yet.
    pub fn new(own: BrokerId, quorum: Quorum) -> Arc<Self> {
        Arc::new(Self {
            own,
            quorum,
            peers: Mutex::default(),
            flows: AtomicU64::new(1),
            end: CancellationToken::new(),
        })
    }

    /// The way to another broker.
    pub fn peer(&self, to: BrokerId) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        let peer = peers
            .entry(to)
            .or_insert_with(|| Arc::new(Peer::new(self.own, to, self.quorum.clone(), self.end.clone())));
        peer.clone()
    }

    fn next_flow(&self) -> u64 {
        self.flows.fetch_add(1, Ordering::Relaxed)
    }
}
