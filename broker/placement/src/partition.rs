//! A partition as placement sees it.

use std::fmt;

use uuid::Uuid;

/// A partition's name. The topic is named by its id, so that a plan made for a topic can't be
/// applied to another one that was created under the same name later (KIP-516).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's id.
    pub topic: Uuid,
    /// The partition's number.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.topic, self.partition)
    }
}

/// A partition and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub id: TopicPartition,
    /// The brokers that hold it, preferred leader first. Of a partition that is being reassigned
    /// (KIP-455), the replicas it will have: what is under way is not planned again.
    pub replicas: Vec<i32>,
    /// The broker that leads it now, one of `replicas`; none if no broker does.
    pub leader: Option<i32>,
    /// The bytes of one replica.
    pub bytes: u64,
}

impl Partition {
    /// A partition led by the first of `replicas`.
    #[must_use]
    pub fn new(topic: Uuid, partition: u32, replicas: Vec<i32>, bytes: u64) -> Self {
        Self {
            id: TopicPartition { topic, partition },
            leader: replicas.first().copied(),
            replicas,
            bytes,
        }
    }
}
