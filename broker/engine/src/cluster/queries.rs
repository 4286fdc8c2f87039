//! What the state says about the cluster's health: pure, and the same on each voter.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    command::PartitionRef,
    outcome::{ListedPartition, PartitionList},
    partition::Partition,
    state::{Broker, BrokerId, Cluster, Topic},
};

/// What a broker has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerLoad {
    /// Partitions that it leads.
    pub leaders: usize,
    /// Partitions that it should lead when all are well.
    pub preferred: usize,
    /// Replicas that it holds.
    pub replicas: usize,
}

/// What a partition survives, in numbers of brokers. For records with `acks=all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival {
    /// How many of its brokers may lose their disks without loss of an acknowledged record,
    /// whatever happens before: what its settings promise.
    pub promised_losses: usize,
    /// The same now: the replicas that hold all acknowledged records, less one.
    pub losses_now: usize,
    /// How many brokers may be down without writes stopping, now.
    pub outages_now: usize,
    /// Whether it has a leader.
    pub has_leader: bool,
}

/// A summary of all partitions. A partition may be counted in several lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Without a leader: neither written nor read.
    pub offline: PartitionList,
    /// With fewer in-sync replicas than writes with `acks=all` need.
    pub under_min_isr: PartitionList,
    /// With just as many: one more out stops writes. Only where more could be in sync.
    pub at_min_isr: PartitionList,
    /// With fewer in-sync replicas than the replication factor.
    pub under_replicated: PartitionList,
    /// With a move under way.
    pub moving: PartitionList,
}

impl Cluster {
    /// Every partition with its topic and number.
    pub fn partitions(&self) -> impl Iterator<Item = (&Arc<Topic>, u32, &Partition)> {
        self.topics
            .values()
            .flat_map(|topic| (0u32..).zip(&topic.partitions).map(move |(n, p)| (topic, n, p)))
    }

    /// Whether the broker may be taken down now: every partition keeps enough in-sync replicas
    /// without it. Where one has too few anyhow, its other replicas stay too: each may be the
    /// next to catch up. So does the only source of a move. Partitions whose replication factor
    /// is no more than what writes need could never let a broker go; they don't count, if they
    /// are as well as they can be, but are answered.
    ///
    /// # Errors
    /// The partitions that forbid it.
    pub fn may_restart(&self, broker: BrokerId) -> Result<PartitionList, PartitionList> {
        let mut exempt = PartitionList::default();
        let mut needed = PartitionList::default();
        for (topic, number) in self.replicas_of(broker) {
            let partition = &topic.partitions[number as usize];
            let required = partition.required(self.min_insync_replicas(topic));
            let listed = |reason: String| ListedPartition {
                partition: topic.partition_ref(number),
                reason,
            };
            let in_sync = partition.isr.len();
            let others = partition.isr.iter().filter(|id| **id != broker).count();
            if others >= required {
                continue;
            }
            let factor = partition.original().len();
            if partition.is_moving() && others == 0 && in_sync > 0 {
                needed.push(|| listed("a move has no other source".into()));
            } else if has_no_choice(partition, required) {
                let replicas = if factor == 1 { "replica" } else { "replicas" };
                exempt.push(|| listed(format!("has {factor} {replicas} and needs {required} in sync")));
            } else if in_sync < required {
                needed.push(|| listed(format!("{in_sync} in sync, {required} needed already")));
            } else {
                needed.push(|| listed(format!("{others} in sync without it, {required} needed")));
            }
        }
        if needed.is_empty() { Ok(exempt) } else { Err(needed) }
    }

    /// The partitions with several replicas to which writes with `acks=all` stop while the broker is down,
    /// although it may be taken down: all of their replicas must be in sync.
    #[must_use]
    pub fn writes_stop_without(&self, broker: BrokerId) -> PartitionList {
        let mut stopped = PartitionList::default();
        for (topic, number) in self.replicas_of(broker) {
            let partition = &topic.partitions[number as usize];
            let required = partition.required(self.min_insync_replicas(topic));
            let others = partition.isr.iter().filter(|id| **id != broker).count();
            if partition.original().len() > 1 && others < required && has_no_choice(partition, required) {
                stopped.push(|| ListedPartition {
                    partition: topic.partition_ref(number),
                    reason: format!("needs all of its {required} replicas in sync"),
                });
            }
        }
        stopped
    }

    /// What a partition survives.
    ///
    /// # Errors
    /// It is not there.
    pub fn survival(&self, at: &PartitionRef) -> Result<Survival, super::PartitionError> {
        let (topic, partition) = self.find_partition(at)?;
        Ok(partition.survival(self.min_insync_replicas(topic)))
    }

    /// All partitions that are not as they should be.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = Health::default();
        for (topic, number, partition) in self.partitions() {
            let required = partition.required(self.min_insync_replicas(topic));
            let (in_sync, factor) = (partition.isr.len(), partition.original().len());
            let listed = |reason: String| ListedPartition {
                partition: topic.partition_ref(number),
                reason,
            };
            if partition.leader.is_none() {
                health.offline.push(|| listed(self.why_offline(partition)));
            }
            if in_sync < required {
                let below = || listed(format!("{in_sync} in sync, {required} needed"));
                health.under_min_isr.push(below);
            } else if in_sync == required && required < factor {
                health.at_min_isr.push(|| listed(format!("{in_sync} in sync")));
            }
            if in_sync < factor {
                let missing = super::partition::without(&partition.original(), &partition.isr);
                health
                    .under_replicated
                    .push(|| listed(format!("not in sync: {missing:?}")));
            }
            if partition.is_moving() {
                let (adding, removing) = (&partition.adding, &partition.removing);
                health
                    .moving
                    .push(|| listed(format!("adding {adding:?}, removing {removing:?}")));
            }
        }
        health
    }

    fn why_offline(&self, partition: &Partition) -> String {
        let clean = &partition.elr;
        if !clean.is_empty() {
            return format!("start one of the brokers {clean:?}: they hold all that was acknowledged");
        }
        let asked = if partition.last_known_elr.is_empty() {
            &partition.replicas
        } else {
            &partition.last_known_elr
        };
        format!("no replica surely holds all that was acknowledged; an unclean election may choose among {asked:?}")
    }

    /// What each registered broker has to do.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<BrokerId, BrokerLoad> {
        let mut loads: BTreeMap<BrokerId, BrokerLoad> =
            self.brokers.keys().map(|id| (*id, BrokerLoad::default())).collect();
        for (_, _, partition) in self.partitions() {
            for id in &partition.replicas {
                loads.entry(*id).or_default().replicas += 1;
            }
            if let Some(id) = partition.leader {
                loads.entry(id).or_default().leaders += 1;
            }
            if let Some(id) = partition.preferred_leader() {
                loads.entry(id).or_default().preferred += 1;
            }
        }
        loads
    }

    /// The partitions that another replica leads than should, where that one could. How often
    /// the lead is moved back is for the caller to bound: a broker that comes and goes would
    /// else pull it back and forth.
    pub fn misled(&self) -> impl Iterator<Item = PartitionRef> {
        self.partitions().filter_map(|(topic, number, partition)| {
            let preferred = partition.preferred_leader()?;
            let could =
                partition.isr.contains(&preferred) && self.brokers.get(&preferred).is_some_and(Broker::is_active);
            (could && partition.leader != Some(preferred)).then(|| topic.partition_ref(number))
        })
    }
}

/// Whether writes stop with any of the partition's replicas, as well as it is.
fn has_no_choice(partition: &Partition, required: usize) -> bool {
    let factor = partition.original().len();
    factor <= required && (partition.isr.len() >= required || factor == 1)
}

impl Partition {
    /// What it survives, where its topic asks for `min_insync` in-sync replicas.
    #[must_use]
    pub fn survival(&self, min_insync: usize) -> Survival {
        let required = self.required(min_insync);
        Survival {
            promised_losses: required - 1,
            losses_now: (self.isr.len() + self.elr.len()).saturating_sub(1),
            outages_now: self.isr.len().saturating_sub(required),
            has_leader: self.leader.is_some(),
        }
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has_leader {
            return f.write_str("has no leader: neither written nor read");
        }
        let brokers = |count: usize| match count {
            0 => "no broker".to_owned(),
            1 => "1 broker".to_owned(),
            more => format!("{more} brokers"),
        };
        write!(
            f,
            "acknowledged records survive the loss of {} ({} at the moment); writes go on with {} down",
            brokers(self.promised_losses),
            brokers(self.losses_now),
            brokers(self.outages_now),
        )
    }
}
