//! The cluster's metadata, and how a command changes it.
//!
//! The metadata quorum replicates commands; each broker applies them in order to the
//! same state. `Cluster::apply` is therefore deterministic: what a command needs of
//! time or randomness stands in the command.
//!
//! ```text
//!  command ─ apply ─┬─ topics, registration, fencing, shutdown, brokers, maintenance, voters
//!                   └─ isr, offline, election, reassignment
//!                          └── each: check, then change ── settles leader, in-sync set,
//!                                                          eligible replicas and epochs
//! ```

mod apply;
mod brokers;
mod change;
mod command;
mod delta;
mod election;
mod fencing;
mod isr;
mod limits;
mod maintenance;
mod offline;
mod outcome;
mod owner;
mod partition;
mod queries;
mod reassignment;
mod refusal;
mod registration;
mod rejection;
mod shutdown;
mod state;
mod topics;
mod validate;
mod voters;

#[cfg(test)]
mod tests;

pub use command::{
    AcquireMaintenance, AlterPartitions, Command, ConfigChange, CreateTopic, DirectoryReport, Election, ElectionKind,
    IsrChange, IsrMember, LogEnd, Move, PartitionRef, RegisterBroker, ReportOfflineReplicas, StartBroker, TopicLogEnds,
    UnfenceBroker,
};
pub use delta::{MetadataDelta, ReplicaChange, ReplicaChangeKind};
pub use election::{ReplicaLogEnd, longest_log};
pub use limits::{
    MAX_BROKERS, MAX_CHANGES, MAX_LISTED, MAX_MAINTENANCE_MS, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_TEXT_BYTES,
    MAX_VOTERS, PRODUCER_ID_BLOCK,
};
pub use outcome::{Altered, Elected, ListedPartition, Outcome, PartitionList, ProducerIdBlock, ShutdownProgress};
pub use owner::{OwnerError, TopicOwner};
pub use partition::{CommittedFloor, Partition};
pub use queries::{BrokerLoad, Health, Survival};
pub use refusal::{
    BrokerError, ElectionError, Ineligible, IsrError, MaintenanceError, MoveError, PartitionError, RefusedMove,
    RegistrationError, UnfenceError, VoterError,
};
pub use rejection::Rejection;
pub use state::{
    Broker, BrokerId, Cluster, ExpectedDirectory, FenceReason, MaintenanceSlot, PartitionGrowth, RemovedBroker, Topic,
    VoterIdentity, VoterIds,
};
