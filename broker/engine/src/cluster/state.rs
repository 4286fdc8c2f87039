//! What the metadata quorum remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{owner::TopicOwner, partition::Partition};
use crate::config;

/// A broker's number; in Kubernetes the pod's ordinal.
pub type BrokerId = i32;

/// The cluster's metadata after some prefix of the metadata log.
///
/// Topics are shared by `Arc`, so that a copy for readers costs little.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id; empty until the first command gave one.
    pub cluster_id: String,
    /// Registered brokers.
    pub brokers: BTreeMap<BrokerId, Broker>,
    /// Topics by name.
    pub topics: BTreeMap<String, Arc<Topic>>,
    /// The first producer id that was never given out.
    pub next_producer_id: i64,
    /// The index of the last metadata entry that changed this state; rises strictly with
    /// each change.
    pub version: u64,
    /// Settings of all topics that do not set their own. The quorum's rules look only at these
    /// and the topics' own, never at one broker's configuration: all voters must judge alike.
    #[serde(default)]
    pub topic_defaults: BTreeMap<String, String>,
    /// Brokers that were removed for good: neither number nor disk is taken back by itself.
    #[serde(default)]
    pub removed_brokers: BTreeMap<BrokerId, RemovedBroker>,
    /// Who votes, or is about to, in the metadata quorum.
    #[serde(default)]
    pub voters: VoterIds,
    /// Who may be restarted at the moment: one broker in the whole cluster.
    #[serde(default)]
    pub maintenance: Option<MaintenanceSlot>,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// One process life (KIP-631): the metadata index of its registration.
    pub epoch: i64,
    /// Drawn by the process at its start: tells a repeated registration from a new life.
    pub incarnation: Uuid,
    /// The id of its log directory (KIP-858).
    pub directory_id: Uuid,
    /// HOST:PORT for clients.
    pub address: String,
    /// Failure domain; empty if none.
    pub rack: String,
    /// Its software's version.
    pub version: String,
    /// When it registered, in milliseconds since 1970.
    pub registered_at_ms: i64,
    /// A fenced broker leads nothing and is in no in-sync set.
    pub fenced: bool,
    /// Why it is fenced, or was last.
    #[serde(default)]
    pub fence_reason: Option<FenceReason>,
    /// HOST:PORT for other brokers; empty for a broker that has none.
    #[serde(default)]
    pub internal_address: String,
    /// The metadata index at which it asked to shut down. Recorded once: a target that moved
    /// with each heartbeat would never be reached (KAFKA-14292).
    #[serde(default)]
    pub shutting_down_at: Option<u64>,
    /// Gets no new replicas.
    #[serde(default)]
    pub cordoned: bool,
    /// Its replicas are to be moved away.
    #[serde(default)]
    pub draining: bool,
    /// Whether this life lives by a lease: it began with `StartBroker`, not in the way of a
    /// cluster of one.
    #[serde(default)]
    pub leased: bool,
    /// Whether this life was ever in service: it has then shown that its logs reach what is
    /// known to be committed.
    #[serde(default = "in_service")]
    pub proven: bool,
    /// The epoch of its last life that was in service. A life that never was has neither led
    /// nor been counted, and may have died before it noted its epoch on its disk.
    #[serde(default)]
    pub last_served_epoch: Option<i64>,
    /// The disk that it may come with instead of the one it has.
    #[serde(default)]
    pub expected_directory: Option<ExpectedDirectory>,
}

/// Lives that were stored before there were leases were in service at once.
fn in_service() -> bool {
    true
}

/// Why a broker is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceReason {
    /// It has just registered, and catches up.
    Starting,
    /// It was not heard of in time.
    LeaseExpired,
    /// Its disk failed: this life does not come back.
    DirectoryFailed,
    /// An operator asked.
    Requested,
}

/// Which new disk an operator permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpectedDirectory {
    /// Any that is no other broker's.
    Any,
    /// This one.
    Id(Uuid),
}

impl ExpectedDirectory {
    /// Whether a broker may come with `directory_id`.
    #[must_use]
    pub fn permits(self, directory_id: Uuid) -> bool {
        match self {
            Self::Any => true,
            Self::Id(id) => id == directory_id,
        }
    }
}

/// A broker that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedBroker {
    /// The disk that it had; refused from then on, under any number.
    pub directory_id: Uuid,
    /// Its last epoch.
    pub epoch: i64,
    /// The new disk with which an operator permits the number to be used again.
    #[serde(default)]
    pub expected_directory: Option<ExpectedDirectory>,
}

/// The voters of the metadata quorum, with ids that are never given out twice (KIP-853): a
/// laggard may hold an old configuration in which an id that came back is a majority alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterIds {
    /// The first id above all that were ever given out or in use.
    pub next: u64,
    /// Those in use.
    pub registered: BTreeMap<u64, VoterIdentity>,
    /// Those of which an operator has taken the vote away: they don't become voters by themselves.
    #[serde(default)]
    pub withheld: BTreeSet<u64>,
}

/// Whose a voter id is. The disk is part of it: one that came back empty under its old id could
/// vote twice in a term (KIP-853, KAFKA-12181).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterIdentity {
    /// The broker that runs it.
    pub broker_id: BrokerId,
    /// The disk that it votes with.
    pub directory_id: Uuid,
}

/// A permission to take one broker down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceSlot {
    /// Who asked: an operator's name, a pod's.
    pub holder: String,
    /// The broker.
    pub broker_id: BrokerId,
    /// Its life: a new registration ends the permission.
    pub broker_epoch: i64,
    /// Until when, in milliseconds since 1970.
    pub until_ms: i64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity: a topic deleted and created anew has another.
    pub id: Uuid,
    /// By number.
    pub partitions: Vec<Partition>,
    /// Settings that differ from the broker's defaults.
    pub configs: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// How many partitions it had in former times, oldest first.
    pub growth: Vec<PartitionGrowth>,
    /// The metadata index from which on its records are flushed before they are acknowledged, if that
    /// was not so before; 0: since it was created, or not at all.
    #[serde(default)]
    pub flushes_since: u64,
    /// Who manages it; `None`: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<TopicOwner>,
}

/// A time at which a topic got more partitions.
///
/// A producer whose id was allocated before it goes on to spread over the former number:
/// so a request that is repeated after the growth goes to the same partition again, where
/// its first copy is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionGrowth {
    /// The first producer id that was not yet allocated at that moment.
    pub before_producer_id: i64,
    /// How many partitions there were until then.
    pub partitions: u32,
}

impl Broker {
    /// Whether it may lead and be counted: neither fenced nor shutting down (KIP-841).
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && self.shutting_down_at.is_none()
    }
}

impl Cluster {
    /// How many partitions all topics have.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|topic| topic.partitions.len()).sum()
    }

    /// The partitions of which `broker` holds a replica: topic and number.
    pub fn replicas_of(&self, broker: BrokerId) -> impl Iterator<Item = (&Arc<Topic>, u32)> {
        self.topics.values().flat_map(move |topic| {
            (0u32..)
                .zip(&topic.partitions)
                .filter(move |(_, partition)| partition.replicas.contains(&broker))
                .map(move |(number, _)| (topic, number))
        })
    }

    /// `min.insync.replicas` of a topic as the quorum sees it: the topic's own, else the
    /// cluster's, else the table's default. `Partition::required` bounds it by the replication
    /// factor.
    #[must_use]
    pub fn min_insync_replicas(&self, topic: &Topic) -> usize {
        min_insync_replicas(&topic.configs, &self.topic_defaults)
    }
}

impl Topic {
    /// Over how many partitions a producer with this id spreads its messages; `None`: a
    /// producer without an id, which uses all.
    #[must_use]
    pub fn partitions_for_producer(&self, producer_id: Option<i64>) -> u32 {
        let all = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        producer_id
            .and_then(|id| self.growth.iter().find(|growth| id < growth.before_producer_id))
            .map_or(all, |growth| growth.partitions)
    }

    /// How many replicas each partition has; what a move adds does not count before its end.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.partitions
            .first()
            .map_or(0, |partition| partition.replicas.len() - partition.adding.len())
    }
}

/// A setting in force: the topic's own, else the cluster's, else the table's default.
pub(super) fn setting<'a>(
    own: &'a BTreeMap<String, String>,
    defaults: &'a BTreeMap<String, String>,
    key: &str,
) -> &'a str {
    own.get(key)
        .or_else(|| defaults.get(key))
        .map(String::as_str)
        .or_else(|| config::find_key(key).map(|known| known.default))
        .unwrap_or_default()
}

pub(super) fn min_insync_replicas(own: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> usize {
    // Each value was checked when it was set; one that can't be read asks for the most.
    setting(own, defaults, "min.insync.replicas")
        .parse()
        .unwrap_or(usize::MAX)
}

/// Whether a record of the topic that is acknowledged from now on is on the disks that it was counted on.
pub(super) fn flushes_before_ack(own: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> bool {
    setting(own, defaults, "flush") == "ack"
}
