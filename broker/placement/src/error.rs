//! Why a plan can't be made, and what would make it possible.

use thiserror::Error;
use uuid::Uuid;

use crate::{BrokerState, TopicPartition};

/// Why one partition's replicas have no place to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockReason {
    /// Fewer brokers than replicas.
    #[error(
        "{wanted} replicas need {wanted} brokers and {usable} can be used: add or uncordon brokers, or lower the replication factor"
    )]
    TooFewBrokers {
        /// Replicas it must have.
        wanted: usize,
        /// Brokers that hold it and stay, or could get it.
        usable: usize,
    },
    /// Every broker that could get a replica would be too full.
    #[error(
        "a replica of {bytes} bytes would fill every broker's disk beyond {max_disk_percent} %: add brokers or disk space, or shorten retention"
    )]
    DiskFull {
        /// Bytes of the replica.
        bytes: u64,
        /// The bound.
        max_disk_percent: u32,
    },
    /// The brokers that can take the replica are in racks that hold too many of the partition's others.
    #[error(
        "its replicas would be spread worse over racks than they are: add or uncordon brokers in the other racks, or free disk space there"
    )]
    RackSpread,
}

/// A partition that stands in a plan's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("partition {partition}: {reason}")]
pub struct Blocked {
    /// The partition.
    pub partition: TopicPartition,
    /// Why.
    pub reason: BlockReason,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A replication factor of zero.
    #[error("a partition needs at least one replica")]
    NoReplicas,
    /// Fewer brokers than a partition shall have replicas.
    #[error(
        "a replication factor of {wanted} needs {wanted} brokers and {usable} can be used: add or uncordon brokers, or ask for fewer replicas"
    )]
    TooFewBrokers {
        /// Replicas of each partition.
        wanted: usize,
        /// Active brokers; for new partitions, those with room.
        usable: usize,
    },
    /// Fewer racks than replicas, where each replica is to have its own.
    #[error(
        "one replica per rack needs {wanted} racks for a replication factor of {wanted} and there are {racks}: add brokers in more racks, lower the replication factor, or let replicas share racks"
    )]
    TooFewRacks {
        /// Replicas of each partition.
        wanted: usize,
        /// Racks with a broker that stays.
        racks: usize,
    },
    /// New partitions would have two replicas in one rack, where each replica is to have its own: the
    /// brokers of some racks can't take replicas.
    #[error(
        "one replica per rack is asked for and the brokers of too many racks are cordoned, fenced or full: uncordon or mend them"
    )]
    RacksUnavailable,
    /// Some partitions' replicas can't go anywhere; at least one, by partition.
    #[error("{} partitions stand in the way; {}", .0.len(), first(.0))]
    Blocked(Vec<Blocked>),
    /// A topic has no partition here.
    #[error("topic {topic} has no partitions")]
    UnknownTopic {
        /// Its id.
        topic: Uuid,
    },
    /// A broker to fill is not listed.
    #[error("broker {id} is not known")]
    UnknownBroker {
        /// Its number.
        id: i32,
    },
    /// A broker to fill may not get replicas.
    #[error("broker {id} is {state:?} and can't get replicas: only active brokers can")]
    NotActive {
        /// Its number.
        id: i32,
        /// Its state.
        state: BrokerState,
    },
}

fn first(blocked: &[Blocked]) -> String {
    blocked.first().map(ToString::to_string).unwrap_or_default()
}
