//! The cluster as metadata tells it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use millrace_proto::v1;

/// Brokers, topics and leaders at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's id.
    pub cluster_id: String,
    /// Rises with each change.
    pub version: i64,
    /// All registered brokers, by id.
    pub brokers: BTreeMap<i32, Broker>,
    /// All topics, by name.
    pub topics: HashMap<Arc<str>, Arc<Topic>>,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// HOST:PORT for clients.
    pub address: Arc<str>,
    /// Its failure domain; empty if none was given.
    pub rack: String,
    /// False: fenced, so it leads nothing.
    pub available: bool,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// 16 bytes; another one if the topic is deleted and created anew.
    pub id: Bytes,
    /// In the order of their numbers, from 0.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The broker that leads it, if one does.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The brokers that hold it, preferred leader first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync_replicas: Vec<i32>,
}

impl Cluster {
    /// The address and leader epoch of a partition's leader, if it has one.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(Arc<str>, i32)> {
        let partition = self.topics.get(topic)?.partition(partition)?;
        let broker = self.brokers.get(&partition.leader?)?;
        Some((broker.address.clone(), partition.leader_epoch))
    }

    pub(crate) fn from_proto(answer: v1::MetadataResponse) -> Self {
        Self {
            cluster_id: answer.cluster_id,
            version: answer.version,
            brokers: answer
                .brokers
                .into_iter()
                .map(|broker| {
                    let told = Broker {
                        address: broker.address.into(),
                        rack: broker.rack,
                        available: broker.available,
                    };
                    (broker.broker_id, told)
                })
                .collect(),
            topics: answer
                .topics
                .into_iter()
                .map(|topic| {
                    let topic = Arc::new(Topic::from_proto(topic));
                    (topic.name.clone(), topic)
                })
                .collect(),
        }
    }

    /// Whether this is to replace `known`. An answer of a broker that lags behind is not; another
    /// cluster's is, since its versions can't be compared.
    pub(crate) fn replaces(&self, known: &Cluster) -> bool {
        self.cluster_id != known.cluster_id || self.version >= known.version
    }
}

impl Topic {
    /// The partition of this number.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number).ok()?)
    }

    fn from_proto(topic: v1::TopicMetadata) -> Self {
        Self {
            name: topic.name.into(),
            id: topic.topic_id,
            partitions: topic
                .partitions
                .into_iter()
                .map(|partition| Partition {
                    leader: partition.leader_id,
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replicas,
                    in_sync_replicas: partition.in_sync_replicas,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(cluster_id: &str, version: i64) -> Cluster {
        Cluster::from_proto(v1::MetadataResponse {
            cluster_id: cluster_id.into(),
            version,
            brokers: vec![v1::BrokerMetadata {
                broker_id: 7,
                address: "b:1".into(),
                ..Default::default()
            }],
            topics: vec![v1::TopicMetadata {
                name: "t".into(),
                partitions: vec![
                    v1::PartitionMetadata {
                        partition: 0,
                        leader_id: Some(7),
                        leader_epoch: 3,
                        ..Default::default()
                    },
                    v1::PartitionMetadata {
                        partition: 1,
                        leader_id: None,
                        ..Default::default()
                    },
                    v1::PartitionMetadata {
                        partition: 2,
                        leader_id: Some(8),
                        ..Default::default()
                    },
                ],
                ..Default::default()
            }],
        })
    }

    #[test]
    fn leaders_are_found_only_where_there_is_one() {
        let cluster = answer("c", 1);
        assert_eq!(cluster.leader("t", 0), Some(("b:1".into(), 3)));
        for (topic, partition) in [("t", 1), ("t", 2), ("t", 3), ("t", -1), ("u", 0)] {
            assert_eq!(cluster.leader(topic, partition), None, "{topic} {partition}");
        }
    }

    #[test]
    fn older_metadata_of_the_same_cluster_is_ignored() {
        assert!(!answer("c", 1).replaces(&answer("c", 2)));
        assert!(answer("c", 2).replaces(&answer("c", 2)));
        assert!(answer("d", 1).replaces(&answer("c", 2)));
    }
}
