//! What the metadata quorum remembers.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A broker's number; in Kubernetes the pod's ordinal.
pub type BrokerId = i32;

/// How many producer ids a broker gets at once; as in Kafka, so that ids outlast any
/// number of restarts and a broker seldom asks.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;

/// The most partitions one topic may have.
pub const MAX_PARTITIONS_PER_TOPIC: usize = 10_000;

/// The most partitions a cluster may have: what one quorum's state in memory holds well.
pub const MAX_PARTITIONS: usize = 100_000;

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
    /// A fenced broker leads nothing.
    pub fenced: bool,
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

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The brokers that hold it, preferred leader first; no repeats.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas: `isr ⊆ replicas`, and the leader is one of them.
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): left the in-sync set while it was below
    /// `min.insync.replicas`, so that each still holds all that was ever committed.
    /// `elr ⊆ replicas`, without common members with `isr`.
    #[serde(default)]
    pub elr: Vec<BrokerId>,
    /// Were eligible until they lost, or may have lost, data (KIP-966): whom an unclean
    /// recovery asks.
    #[serde(default)]
    pub last_known_elr: Vec<BrokerId>,
    /// The last leader, while there is none: where an unclean recovery looks first.
    #[serde(default)]
    pub last_known_leader: Option<BrokerId>,
    /// Replicas that a move adds: they become full members when they have caught up (KIP-455).
    #[serde(default)]
    pub adding: Vec<BrokerId>,
    /// Replicas that a move takes away when those that it adds have caught up (KIP-455).
    #[serde(default)]
    pub removing: Vec<BrokerId>,
    /// Who leads it.
    pub leader: Option<BrokerId>,
    /// Rises each time a broker is given the lead, also the same broker again.
    pub leader_epoch: i32,
    /// Rises by one with each change to this record.
    pub partition_epoch: i32,
    /// Whether its leader was chosen uncleanly and the in-sync set must stay alone until it has
    /// recovered (KIP-704).
    #[serde(default)]
    pub recovering: bool,
    /// What is known to be committed: who restarts with less has lost data.
    #[serde(default)]
    pub floor: CommittedFloor,
}

/// A lower bound of what is committed, as the leader told it with its last change of the in-sync
/// set. A volume that was restored from an older image of the same process life is recognised by
/// nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFloor {
    /// All below this offset is committed.
    pub offset: i64,
    /// The leader epoch in which that was told.
    pub leader_epoch: i32,
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

    /// Checks what must hold of every state; for tests and the simulator.
    ///
    /// # Errors
    /// The first rule that does not hold, in words.
    pub fn validate(&self) -> Result<(), String> {
        for (id, broker) in &self.brokers {
            if *id != broker.id {
                return Err(format!("broker {} is filed under {id}", broker.id));
            }
            let twin = self
                .brokers
                .values()
                .find(|other| other.id != *id && other.directory_id == broker.directory_id);
            if let Some(twin) = twin {
                return Err(format!("brokers {id} and {} share a directory", twin.id));
            }
        }
        for (name, topic) in &self.topics {
            if *name != topic.name || topic.partitions.is_empty() {
                return Err(format!("topic {name} is misfiled or empty"));
            }
            for (number, partition) in topic.partitions.iter().enumerate() {
                partition
                    .validate()
                    .map_err(|problem| format!("{name}-{number}: {problem}"))?;
            }
        }
        Ok(())
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

    /// How many replicas each partition has.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, |partition| partition.replicas.len())
    }
}

impl Partition {
    /// A new partition: led by the first of `replicas` that is usable, in sync on all
    /// usable ones.
    #[must_use]
    pub fn new(replicas: Vec<BrokerId>, usable: impl Fn(BrokerId) -> bool) -> Self {
        let isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| usable(*id)).collect();
        Self {
            leader: isr.first().copied(),
            replicas,
            isr,
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            last_known_leader: None,
            adding: Vec::new(),
            removing: Vec::new(),
            leader_epoch: 0,
            partition_epoch: 0,
            recovering: false,
            floor: CommittedFloor::default(),
        }
    }

    fn validate(&self) -> Result<(), String> {
        if self.replicas.is_empty() {
            return Err("no replicas".into());
        }
        if let Some(stranger) = self.isr.iter().find(|id| !self.replicas.contains(id)) {
            return Err(format!("{stranger} is in sync but no replica"));
        }
        match self.leader {
            Some(leader) if !self.isr.contains(&leader) => Err(format!("leader {leader} is not in sync")),
            _ => Ok(()),
        }
    }
}
