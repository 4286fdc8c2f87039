//! What changed for one broker between two versions of the metadata.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    partition::Partition,
    state::{BrokerId, Cluster, Topic},
};

/// The difference of two versions, for one broker. Topics that are the same object in both are
/// not looked into, so that it costs what has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataDelta {
    /// Partitions of which the broker holds a replica in one of the versions, and that differ.
    pub replicas: Vec<ReplicaChange>,
    /// Topics that are in the earlier version and, under their id, not in the later.
    pub deleted_topics: Vec<Arc<Topic>>,
    /// Topics with other settings than before, of which the broker holds replicas.
    pub reconfigured_topics: Vec<Arc<Topic>>,
    /// Brokers that registered, were fenced, removed, or otherwise differ.
    pub brokers: Vec<BrokerId>,
    /// Whether the settings of all topics differ.
    pub topic_defaults: bool,
}

/// What happened to a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaChange {
    /// The topic, in the later version if it is there.
    pub topic: Arc<Topic>,
    /// The partition's number.
    pub partition: u32,
    /// What.
    pub kind: ReplicaChangeKind,
}

/// What happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaChangeKind {
    /// The broker holds it from now on.
    Added,
    /// The broker holds it, and its leader epoch rose: leaders and followers begin anew.
    NewLeaderEpoch,
    /// The broker holds it, and its record differs under the same leader epoch: what a leader
    /// or follower knows of its peers stays (KAFKA-13790).
    Changed,
    /// A move or its cancellation has taken it from the broker.
    Removed,
    /// Its topic was deleted.
    Deleted,
}

impl MetadataDelta {
    /// What changed from `before` to `after` for `broker`.
    #[must_use]
    pub fn between(before: &Cluster, after: &Cluster, broker: BrokerId) -> Self {
        let mut delta = Self {
            topic_defaults: before.topic_defaults != after.topic_defaults,
            brokers: changed_keys(&before.brokers, &after.brokers),
            ..Self::default()
        };
        for (name, old) in &before.topics {
            match after.topics.get(name) {
                Some(new) if Arc::ptr_eq(old, new) => {}
                Some(new) if old.id == new.id => delta.add_differences(old, new, broker),
                _ => {
                    delta.add_all(old, broker, ReplicaChangeKind::Deleted);
                    delta.deleted_topics.push(Arc::clone(old));
                }
            }
        }
        for (name, new) in &after.topics {
            if before.topics.get(name).is_none_or(|old| old.id != new.id) {
                delta.add_all(new, broker, ReplicaChangeKind::Added);
            }
        }
        delta
    }

    /// Whether nothing changed for the broker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add_all(&mut self, topic: &Arc<Topic>, broker: BrokerId, kind: ReplicaChangeKind) {
        for (number, partition) in (0u32..).zip(&topic.partitions) {
            if partition.replicas.contains(&broker) {
                self.push(topic, number, kind);
            }
        }
    }

    fn add_differences(&mut self, old: &Topic, new: &Arc<Topic>, broker: BrokerId) {
        let mut holds = false;
        for (number, partition) in (0u32..).zip(&new.partitions) {
            let former = old.partitions.get(number as usize);
            let held = former.is_some_and(|former| former.replicas.contains(&broker));
            let holds_now = partition.replicas.contains(&broker);
            holds |= holds_now;
            let kind = match (held, holds_now) {
                (false, false) => continue,
                (false, true) => ReplicaChangeKind::Added,
                (true, false) => ReplicaChangeKind::Removed,
                (true, true) => match kind_of_change(former, partition) {
                    Some(kind) => kind,
                    None => continue,
                },
            };
            self.push(new, number, kind);
        }
        if holds && old.configs != new.configs {
            self.reconfigured_topics.push(Arc::clone(new));
        }
    }

    fn push(&mut self, topic: &Arc<Topic>, partition: u32, kind: ReplicaChangeKind) {
        self.replicas.push(ReplicaChange {
            topic: Arc::clone(topic),
            partition,
            kind,
        });
    }
}

fn kind_of_change(former: Option<&Partition>, now: &Partition) -> Option<ReplicaChangeKind> {
    let former = former?;
    if former.leader_epoch != now.leader_epoch {
        Some(ReplicaChangeKind::NewLeaderEpoch)
    } else if former != now {
        Some(ReplicaChangeKind::Changed)
    } else {
        None
    }
}

fn changed_keys<V: PartialEq>(before: &BTreeMap<BrokerId, V>, after: &BTreeMap<BrokerId, V>) -> Vec<BrokerId> {
    let gone = before.keys().filter(|id| !after.contains_key(id));
    let new_or_other = after.iter().filter(|(id, now)| before.get(id) != Some(now));
    let mut keys: Vec<BrokerId> = gone.chain(new_or_other.map(|(id, _)| id)).copied().collect();
    keys.sort_unstable();
    keys
}
