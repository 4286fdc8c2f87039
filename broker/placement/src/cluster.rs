//! The brokers and partitions that a plan starts from.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{Broker, Partition, Plan, TopicPartition};

/// Brokers and partitions that agree with each other.
///
/// Brokers are kept by number and partitions by topic id and number, so that no plan depends on
/// the order in which they were given. Every replica is on a broker of the cluster, and no
/// partition has two replicas on one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    brokers: Vec<Broker>,
    partitions: Vec<Partition>,
}

/// Why brokers and partitions do not make a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// Two brokers have one number.
    #[error("broker {id} is listed twice; list each broker once")]
    DuplicateBroker {
        /// The number.
        id: i32,
    },
    /// Two partitions have one name.
    #[error("partition {partition} is listed twice; list each partition once")]
    DuplicatePartition {
        /// The name.
        partition: TopicPartition,
    },
    /// A partition has no replica, so nothing is known of where its data is.
    #[error("partition {partition} has no replicas; list those it has")]
    NoReplicas {
        /// The partition.
        partition: TopicPartition,
    },
    /// A partition has a broker twice.
    #[error("partition {partition} lists broker {broker} twice")]
    RepeatedReplica {
        /// The partition.
        partition: TopicPartition,
        /// The broker.
        broker: i32,
    },
    /// A replica is on a broker of which nothing is known. A broker that is not listed is not
    /// the same as one that is gone.
    #[error(
        "partition {partition} has a replica on broker {broker}, which is not listed; list it, as gone if it will not come back"
    )]
    UnknownBroker {
        /// The partition.
        partition: TopicPartition,
        /// The broker.
        broker: i32,
    },
    /// A partition is led by a broker that does not hold it.
    #[error("partition {partition} is led by broker {leader}, which is not one of its replicas")]
    LeaderNotReplica {
        /// The partition.
        partition: TopicPartition,
        /// The leader.
        leader: i32,
    },
}

impl Cluster {
    /// A cluster of `brokers` that hold `partitions`, in any order.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn new(mut brokers: Vec<Broker>, mut partitions: Vec<Partition>) -> Result<Self, ClusterError> {
        brokers.sort_by_key(|broker| broker.id);
        for broker in &mut brokers {
            broker.rack = broker.rack.take().filter(|rack| !rack.is_empty());
        }
        if let Some(pair) = brokers.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ClusterError::DuplicateBroker { id: pair[0].id });
        }
        partitions.sort_by_key(|partition| partition.id);
        if let Some(pair) = partitions.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ClusterError::DuplicatePartition { partition: pair[0].id });
        }
        let cluster = Self { brokers, partitions };
        for partition in &cluster.partitions {
            cluster.check(partition)?;
        }
        Ok(cluster)
    }

    fn check(&self, partition: &Partition) -> Result<(), ClusterError> {
        let id = partition.id;
        if partition.replicas.is_empty() {
            return Err(ClusterError::NoReplicas { partition: id });
        }
        let mut sorted = partition.replicas.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ClusterError::RepeatedReplica {
                partition: id,
                broker: pair[0],
            });
        }
        if let Some(broker) = sorted.into_iter().find(|replica| self.broker(*replica).is_none()) {
            return Err(ClusterError::UnknownBroker { partition: id, broker });
        }
        match partition.leader {
            Some(leader) if !partition.replicas.contains(&leader) => {
                Err(ClusterError::LeaderNotReplica { partition: id, leader })
            }
            _ => Ok(()),
        }
    }

    /// The brokers by number.
    #[must_use]
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// The partitions by topic id and number.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The broker with this number.
    #[must_use]
    pub fn broker(&self, id: i32) -> Option<&Broker> {
        let at = self.brokers.binary_search_by_key(&id, |broker| broker.id).ok()?;
        self.brokers.get(at)
    }

    /// The cluster once `plan` is carried out: moved partitions have their new replicas, and a
    /// leader that lost its replica, or the preferred place, has given way to the preferred one.
    ///
    /// Plans of two kinds follow one another this way: drain, then balance leaders of what
    /// the drain leaves. [`Plan::then`] joins the two.
    #[must_use]
    pub fn after(&self, plan: &Plan) -> Self {
        let moved: BTreeMap<TopicPartition, &[i32]> = plan
            .reassignments
            .iter()
            .map(|change| (change.partition, change.to.as_slice()))
            .collect();
        let mut after = self.clone();
        for partition in &mut after.partitions {
            let Some(to) = moved.get(&partition.id) else { continue };
            let preferred_changed = partition.replicas.first() != to.first();
            partition.replicas = to.to_vec();
            let lost = partition.leader.is_some_and(|leader| !to.contains(&leader));
            if lost || preferred_changed {
                partition.leader = to.first().copied();
            }
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn partition(replicas: &[i32]) -> Partition {
        Partition::new(Uuid::nil(), 0, replicas.to_vec(), 1)
    }

    #[test]
    fn contradictions_are_told_apart() {
        let brokers = || vec![Broker::new(1), Broker::new(2)];
        let id = partition(&[1]).id;
        let error = |partitions| Cluster::new(brokers(), partitions).unwrap_err();
        assert_eq!(
            Cluster::new(vec![Broker::new(1), Broker::new(1)], vec![]).unwrap_err(),
            ClusterError::DuplicateBroker { id: 1 }
        );
        assert_eq!(
            error(vec![partition(&[1]), partition(&[2])]),
            ClusterError::DuplicatePartition { partition: id }
        );
        assert_eq!(error(vec![partition(&[])]), ClusterError::NoReplicas { partition: id });
        assert_eq!(
            error(vec![partition(&[1, 2, 1])]),
            ClusterError::RepeatedReplica {
                partition: id,
                broker: 1
            }
        );
        assert_eq!(
            error(vec![partition(&[1, 7])]),
            ClusterError::UnknownBroker {
                partition: id,
                broker: 7
            }
        );
        let mut led_by_two = partition(&[1]);
        led_by_two.leader = Some(2);
        assert_eq!(
            error(vec![led_by_two]),
            ClusterError::LeaderNotReplica {
                partition: id,
                leader: 2
            }
        );
        assert!(Cluster::new(brokers(), vec![partition(&[2, 1])]).is_ok());
    }
}
