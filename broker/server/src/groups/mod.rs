//! Consumer groups: the coordinators of the partitions of the groups' topic that this broker leads.
//!
//! ```text
//!  rpc/groups --Ask--> Runtime (one to a partition and leader epoch) --append, acks=all--> Partition
//!      ^                 |  engine::group::Coordinator                          |
//!      '---- Answer -----'<---------------- committed, or lost -----------------'
//! ```
//!
//! What a group's rules are is `millrace-engine`'s (`group`). Here is what they need: a queue of events,
//! the log before (`load`), the topics of the cluster and where reading begins (`topics`, `starts`),
//! timers, and which members are connected (`stream`). A coordinator lives for one leader epoch: whatever
//! is not certain ends it, and the next one reads what is there.

mod census;
pub mod lag;
mod lag_survey;
mod load;
mod memory;
mod runtime;
mod starts;
mod stream;
#[cfg(test)]
mod tests;
mod topic;
mod topics;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_engine::{
    Partition as Record,
    group::{Answer, GroupRejection, Request},
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use stream::MemberStream;
pub use topic::{NAME, check_not_internal, find_or_create, find_topic};
pub use topics::{Snapshot, check_pattern};

use self::{
    census::{Census, Counted},
    memory::StateBytes,
    runtime::Runtime,
    topics::SharedTopics,
};
use crate::{broker::Broker, limits, memory::MemoryPermit, partition::Partition, rpc::admin::placement};

/// The coordinators of one broker.
#[derive(Debug)]
pub struct Coordinators {
    /// Turns at listing groups, which takes memory by the page.
    pub listing: Semaphore,
    running: Mutex<HashMap<u32, Arc<Coordinator>>>,
    topics: SharedTopics,
    /// Held while the groups' topic is made.
    making: tokio::sync::Mutex<()>,
    /// How many brokers were known to this one last that may hold that topic, and since when.
    known: Mutex<(usize, Instant)>,
    /// What they have in memory.
    state_bytes: StateBytes,
}

/// The way to a coordinator that runs.
#[derive(Debug)]
pub struct Coordinator {
    partition: Arc<Partition>,
    leader_epoch: i32,
    queue: mpsc::Sender<Ask>,
    /// One message to a stream at most.
    ended: mpsc::UnboundedSender<Arc<MemberStream>>,
    stop: CancellationToken,
    counted: Counted,
}

/// A request on its way to a coordinator.
#[derive(Debug)]
struct Ask {
    request: Box<Request>,
    /// The stream that a heartbeat came by.
    stream: Option<Arc<MemberStream>>,
    answer: oneshot::Sender<Result<Answer, GroupRejection>>,
    /// What the request takes of the memory budget.
    _memory: Option<MemoryPermit>,
}

impl Coordinator {
    /// Asks it; `memory` is what the request takes.
    ///
    /// # Errors
    /// The coordinator's. What it had not answered when it ended has an unknown outcome.
    pub async fn ask(
        &self,
        request: Request,
        stream: Option<Arc<MemberStream>>,
        memory: Option<MemoryPermit>,
    ) -> Result<Answer, GroupRejection> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            request: Box::new(request),
            stream,
            answer,
            _memory: memory,
        };
        self.queue.try_send(ask).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => GroupRejection::Overloaded,
            mpsc::error::TrySendError::Closed(_) => GroupRejection::NotCoordinator { outcome_unknown: false },
        })?;
        let unknown = GroupRejection::NotCoordinator { outcome_unknown: true };
        answered.await.unwrap_or(Err(unknown))
    }

    /// Whether its partition is led here in its epoch still, by the replica and by all metadata that is known here. It may
    /// run for a moment longer. While the replica leads it is in sync, so that no other leader's records are committed,
    /// unless this broker was fenced, for which there is its lease.
    pub fn leads(&self, broker: &Broker) -> bool {
        let cluster = broker.quorum.cluster();
        let number = usize::try_from(self.partition.number()).unwrap_or(usize::MAX);
        let record = cluster.topics.get(NAME).and_then(|topic| topic.partitions.get(number));
        let is_led_here =
            |record: &Record| (record.leader, record.leader_epoch) == (Some(broker.config.node_id), self.leader_epoch);
        record.is_some_and(is_led_here) && self.partition.check_epoch(Some(self.leader_epoch)).is_ok()
    }

    /// A stream by which heartbeats came has ended; `lost`: its client has gone with it, perhaps.
    pub fn stream_ended(&self, stream: &Arc<MemberStream>, lost: bool) {
        stream.end(lost);
        // One that has ended itself has forgotten all connections.
        let _ = self.ended.send(stream.clone());
    }
}

impl Default for Coordinators {
    fn default() -> Self {
        Self {
            listing: Semaphore::new(limits::GROUP_LISTS),
            running: Mutex::default(),
            topics: SharedTopics::default(),
            making: tokio::sync::Mutex::default(),
            known: Mutex::new((0, Instant::now())),
            state_bytes: StateBytes::default(),
        }
    }
}

impl Coordinators {
    /// The coordinator of a partition of the groups' topic, if it runs here.
    pub fn of_partition(&self, partition: u32) -> Option<Arc<Coordinator>> {
        self.running.lock().get(&partition).cloned()
    }

    /// For how long this broker has known of just so many brokers.
    fn known_for(&self, brokers: usize) -> Duration {
        let mut known = self.known.lock();
        if known.0 != brokers {
            *known = (brokers, Instant::now());
        }
        known.1.elapsed()
    }

    /// The topics as this broker's metadata has them now.
    pub fn topics(&self, broker: &Broker) -> Arc<Snapshot> {
        self.topics.of(&broker.quorum.cluster())
    }
}

/// Begins and ends coordinators as leaderships come and go, until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    tokio::spawn(lag_survey::run(broker.clone()));
    let mut reconciled = broker.reconciled.subscribe();
    loop {
        reconciled.mark_unchanged();
        look(&broker);
        tokio::select! {
            changed = reconciled.changed() => if changed.is_err() { break },
            // A replica may also stop to lead by itself, as its disk fails.
            () = tokio::time::sleep(limits::COORDINATORS_LOOK_EVERY) => {}
            () = broker.stopping.cancelled() => break,
        }
    }
    for (_, coordinator) in broker.groups.running.lock().drain() {
        coordinator.stop.cancel();
    }
}

fn look(broker: &Arc<Broker>) {
    let led: HashMap<u32, _> = broker
        .partitions
        .of_topic(NAME)
        .into_iter()
        .filter(|partition| partition.leads())
        .filter_map(|partition| Some((u32::try_from(partition.number()).ok()?, partition)))
        .collect();
    let mut running = broker.groups.running.lock();
    running.retain(|number, coordinator| {
        let epoch = led.get(number).map(|partition| partition.offsets().leader_epoch);
        let stays = epoch == Some(coordinator.leader_epoch) && !coordinator.queue.is_closed();
        if !stays {
            coordinator.stop.cancel();
        }
        stays
    });
    for (number, partition) in led {
        running.entry(number).or_insert_with(|| {
            let leader_epoch = partition.offsets().leader_epoch;
            let (queue, asked) = mpsc::channel(limits::GROUP_QUEUE);
            let (ended, streams) = mpsc::unbounded_channel();
            let (stop, counted) = (CancellationToken::new(), Counted::default());
            let runtime = Runtime::new(broker.clone(), partition.clone(), leader_epoch, counted.clone());
            tokio::spawn(runtime.run(asked, streams, stop.clone()));
            Arc::new(Coordinator {
                partition,
                leader_epoch,
                queue,
                ended,
                stop,
                counted,
            })
        });
    }
    let counted = running.values().map(|coordinator| *coordinator.counted.lock());
    Census::tell(counted, &broker.metrics);
    drop(running);
    let bytes = i64::try_from(broker.groups.state_bytes.all()).unwrap_or(i64::MAX);
    broker.metrics.group_state_bytes.set(bytes);
    let cluster = broker.quorum.cluster();
    broker.groups.known_for(placement::targets(&cluster));
    let lacking = topic::lacking_replicas(&cluster, broker.config.offsets_topic_replication_factor);
    let lacking = i64::try_from(lacking).unwrap_or(i64::MAX);
    broker.metrics.group_topic_lacking_replicas.set(lacking);
    retain_lags(broker);
}

/// Tells no more how far groups are behind that others coordinate.
fn retain_lags(broker: &Broker) {
    let here: HashSet<u32> = broker.groups.running.lock().keys().copied().collect();
    // Not while it is locked: the metrics may just be told.
    broker
        .metrics
        .group_lags
        .retain(|coordinator| here.contains(&coordinator));
}
