//! Copying partitions between brokers: what a replica's rules ask of others, carried out.
//!
//! ```text
//!  follower                                             leader
//!  Replica --Fetch--> Link ==Replicate (one stream)==> ReplicationService --> Replica
//!  Replica <--------- Link <====answers=============== Outlet <---AnswerFetch----+
//!                                                       Replica --ProposeIsr--> proposals --> quorum
//! ```

mod limits;
mod link;
mod outlet;
mod proposals;
mod service;
mod throttle;
mod timers;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millrace_engine::{
    BrokerId, Cluster,
    partition::{FetchRequest, Proposal, ReplicaConfig},
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use limits::WATERMARK_NEWS_AFTER;
pub use outlet::{Outlet, Ready};
pub use service::ReplicationService;
pub use timers::coalesced;

use self::{
    link::Link,
    proposals::{Proposals, Proposed},
    timers::Timers,
};
use crate::{partition::Partition, quorum::Quorum};

/// A partition on the wire: its topic's id, and its number.
pub type Key = (Uuid, u32);

/// What replicas of this broker reach: other brokers, the controller, the clock.
pub struct Replication {
    own: BrokerId,
    broker_epoch: i64,
    quorum: Quorum,
    links: Mutex<HashMap<BrokerId, Arc<Link>>>,
    proposals: Arc<Proposals>,
    timers: Arc<Timers>,
    /// Whether a replica here has met damage in this life: else none needs to be asked.
    damage_met: AtomicBool,
    /// Replicas ask from threads outside of the runtime too.
    runtime: Handle,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication")
            .field("own", &self.own)
            .field("broker_epoch", &self.broker_epoch)
            .finish_non_exhaustive()
    }
}

impl Replication {
    /// Begins; ends with `stopping`. To be called within the runtime.
    pub fn start(own: BrokerId, broker_epoch: i64, quorum: Quorum, stopping: CancellationToken) -> Arc<Self> {
        let proposals = Arc::new(Proposals::default());
        let timers = Arc::new(Timers::new());
        let replication = Arc::new(Self {
            own,
            broker_epoch,
            quorum: quorum.clone(),
            links: Mutex::default(),
            proposals: proposals.clone(),
            timers: timers.clone(),
            damage_met: AtomicBool::new(false),
            runtime: Handle::current(),
            stopping: stopping.clone(),
        });
        let stop = stopping.clone();
        tokio::spawn(async move { timers.run(stop).await });
        tokio::spawn(proposals.run(quorum, own, stopping));
        replication
    }

    /// What replicas are told once.
    pub fn replica_config(&self) -> ReplicaConfig {
        ReplicaConfig {
            fetch_timeout: limits::FETCH_TIMEOUT,
            ..ReplicaConfig::new(self.own, self.broker_epoch)
        }
    }

    /// The time since an arbitrary beginning; never goes back.
    pub fn now(&self) -> Duration {
        self.timers.now()
    }

    /// Notes that a log of a replica here is damaged.
    pub fn note_damage(&self) {
        self.damage_met.store(true, Ordering::Release);
    }

    /// Whether [`Replication::note_damage`] was ever called.
    pub fn has_met_damage(&self) -> bool {
        self.damage_met.load(Ordering::Acquire)
    }

    /// Has `Partition::on_timer` called at `at`.
    pub fn wake_at(&self, at: Duration, partition: Weak<Partition>) {
        self.timers.wake_at(at, partition);
    }

    /// Sends a fetch to a leader, or tells it what this disk holds.
    pub fn fetch(&self, to: BrokerId, partition: &Arc<Partition>, request: FetchRequest, wants_records: bool) {
        let link = {
            let mut links = self.links.lock();
            links.entry(to).or_insert_with(|| self.new_link(to)).clone()
        };
        link.push(partition, request, wants_records);
    }

    fn new_link(&self, to: BrokerId) -> Arc<Link> {
        let link = Arc::new(Link::new(self.own, self.broker_epoch, to, self.quorum.clone()));
        self.runtime.spawn(link.clone().run(self.stopping.clone()));
        link
    }

    /// Asks the controller for another in-sync set.
    pub fn propose(&self, partition: Arc<Partition>, proposal: Proposal) {
        self.proposals.push(Proposed { partition, proposal });
    }

    /// The metadata as this broker has it.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.quorum.cluster()
    }
}
