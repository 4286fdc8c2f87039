//! The cluster's metadata, and how a command changes it.
//!
//! The metadata quorum replicates commands; each broker applies them in order to the
//! same state. `Cluster::apply` is therefore deterministic: what a command needs of
//! time or randomness stands in the command.

mod apply;
mod command;
mod state;

pub use command::{Command, ConfigChange, CreateTopic, Outcome, ProducerIdBlock, RegisterBroker, Rejection};
pub use state::{
    Broker, BrokerId, Cluster, CommittedFloor, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, PRODUCER_ID_BLOCK, Partition,
    PartitionGrowth, Topic,
};
