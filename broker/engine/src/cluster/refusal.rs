//! Why a command of the replicated cluster is refused: one enum to an operation.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{
    command::PartitionRef,
    limits::{MAX_BROKERS, MAX_MAINTENANCE_MS, MAX_TEXT_BYTES, MAX_VOTERS},
    outcome::PartitionList,
    state::BrokerId,
};

/// A partition that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum PartitionError {
    /// No topic has this name.
    #[error("there is no topic {topic:?}")]
    UnknownTopic {
        /// The name.
        topic: String,
    },
    /// The topic has another id.
    #[error("topic {topic:?} has another id: it was deleted and created anew")]
    OtherTopicId {
        /// The name.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic {topic:?} has no partition {partition}: it has {count}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The number asked for.
        partition: u32,
        /// How many it has.
        count: usize,
    },
}

/// Why a broker's start is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum RegistrationError {
    /// A field breaks a rule.
    #[error("{reason}")]
    Invalid {
        /// Which.
        reason: String,
    },
    /// The broker was removed for good.
    #[error(
        "broker {id} was removed from the cluster: use another number, or have the operator permit a new disk for it"
    )]
    Removed {
        /// The number.
        id: BrokerId,
    },
    /// The disk was a removed broker's.
    #[error("the disk {directory_id} was that of broker {owner}, which was removed: use an empty disk")]
    DirectoryOfRemovedBroker {
        /// The disk.
        directory_id: Uuid,
        /// Whose it was.
        owner: BrokerId,
    },
    /// The registration was made before the present life began: by a process that is dead by now,
    /// or by one that has old metadata (KIP-631).
    #[error(
        "broker {id} has begun a life with epoch {current} of which this registration does not know: read the metadata up to it, and register again if this process is not the one that it replaced"
    )]
    EarlierLife {
        /// The number.
        id: BrokerId,
        /// The epoch of the present life.
        current: i64,
    },
    /// There are too many brokers.
    #[error("there are {MAX_BROKERS} brokers, the most a cluster has: remove those that are gone")]
    TooManyBrokers,
    /// The broker lives by leases, and is registered without.
    #[error("broker {id} belongs to a cluster of many: start it with a version that replicates")]
    NeedsLease {
        /// The broker.
        id: BrokerId,
    },
}

/// Why a broker is not put into service.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum UnfenceError {
    /// It has not applied the metadata up to its own registration.
    #[error("broker {id} has applied the metadata up to {applied}, its registration is at {needed}: catch up first")]
    CatchingUp {
        /// The broker.
        id: BrokerId,
        /// How far it is.
        applied: u64,
        /// How far it must be.
        needed: u64,
    },
    /// It is shutting down.
    #[error("broker {id} is shutting down: it serves again after its restart")]
    ShuttingDown {
        /// The broker.
        id: BrokerId,
    },
    /// Its disk failed in this life.
    #[error("the disk of broker {id} failed: restart it, and replace the disk if it fails again")]
    DirectoryFailed {
        /// The broker.
        id: BrokerId,
    },
}

/// Why an in-sync set is not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum IsrError {
    /// The partition is not there.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The sender knows of a later record than this state holds: this state is the stale one.
    #[error("the proposal builds on a later record than this one: ask the present leader of the metadata quorum")]
    StateBehind,
    /// The sender's leadership has ended.
    #[error("leader epoch {proposed} is over, it is {current} now: apply the metadata")]
    FencedLeaderEpoch {
        /// The sender's.
        proposed: i32,
        /// The one in force.
        current: i32,
    },
    /// The sender does not lead the partition.
    #[error("the partition is not led by broker {sender}: apply the metadata")]
    NotLeader {
        /// The sender.
        sender: BrokerId,
    },
    /// The record has changed since.
    #[error("the proposal builds on partition epoch {proposed}, it is {current} now: apply the metadata")]
    InvalidUpdateVersion {
        /// What it builds on.
        proposed: i32,
        /// The one in force.
        current: i32,
    },
    /// The set is none that the partition can have.
    #[error("{reason}")]
    InvalidIsr {
        /// Why.
        reason: String,
    },
    /// A leader that recovers from an unclean election stays alone (KIP-704).
    #[error("{reason}")]
    InvalidRecovery {
        /// Why.
        reason: String,
    },
    /// A member may not be counted.
    #[error("broker {broker_id} can't be in sync: {reason}")]
    IneligibleReplica {
        /// Who.
        broker_id: BrokerId,
        /// Why.
        reason: Ineligible,
    },
}

impl IsrError {
    /// Whether the refusal proves that this proposal was not applied earlier either, so that its
    /// leader may go back to the committed set. All others leave it open: a first copy of the
    /// proposal may have been applied and overtaken (KIP-497, KIP-841).
    #[must_use]
    pub fn proves_not_applied(&self) -> bool {
        matches!(
            self,
            Self::InvalidIsr { .. } | Self::InvalidRecovery { .. } | Self::IneligibleReplica { .. }
        )
    }
}

/// Why a broker may not be in an in-sync set (KIP-841, KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Ineligible {
    /// It is not registered.
    #[error("it is not registered")]
    Unknown,
    /// It is fenced.
    #[error("it is fenced")]
    Fenced,
    /// It is shutting down.
    #[error("it is shutting down")]
    ShuttingDown,
    /// The fetches that were counted are those of another of its lives.
    #[error("it has begun another life (epoch {current})")]
    OtherEpoch {
        /// Its epoch now.
        current: i64,
    },
}

/// Why a leader is not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ElectionError {
    /// The partition is not there.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The command names the partition twice.
    #[error("the partition is named twice")]
    Repeated,
    /// It leads already.
    #[error("broker {replica} leads already")]
    NotNeeded {
        /// Who.
        replica: BrokerId,
    },
    /// It holds no replica.
    #[error("broker {replica} holds no replica of it")]
    NotReplica {
        /// Who.
        replica: BrokerId,
    },
    /// It is not in sync.
    #[error("broker {replica} is not in sync: wait until it has caught up")]
    NotInSync {
        /// Who.
        replica: BrokerId,
    },
    /// It is fenced or shutting down.
    #[error("broker {replica} is not in service")]
    NotAvailable {
        /// Who.
        replica: BrokerId,
    },
    /// There is a leader, so nothing must be given up.
    #[error(
        "broker {leader} leads it: an unclean choice is only for a partition without a leader; if that one says that it can't serve it, stop it first"
    )]
    HasLeader {
        /// Who.
        leader: BrokerId,
    },
}

/// Why a move is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum MoveError {
    /// The partition is not there.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The target is none that a partition can have.
    #[error("{reason}")]
    InvalidTarget {
        /// Why.
        reason: String,
    },
    /// The command names a partition twice.
    #[error("the partition is named twice")]
    Repeated,
    /// There is nothing to cancel.
    #[error("no move is under way")]
    NoMove,
    /// What the move under way has added is all that is left of the partition's records.
    #[error(
        "without the replicas that the move has added no replica is left that may hold all acknowledged records: bring another back, or choose a leader first"
    )]
    OnlyCandidates,
    /// Without what the move under way has added, too few replicas are left that surely hold all
    /// acknowledged records.
    #[error(
        "without the replicas that the move has added {clean} in sync or eligible are left and {required} are needed: wait until more have caught up"
    )]
    TooFewClean {
        /// How many would be.
        clean: usize,
        /// How many must be.
        required: usize,
    },
    /// Taking back what the move has added would leave too few in sync.
    #[error(
        "without the replicas that the move has added {in_sync} are in sync and {required} are needed: wait until more have caught up"
    )]
    TooFewInSync {
        /// How many would be.
        in_sync: usize,
        /// How many must be.
        required: usize,
    },
}

/// Why a broker is not removed, drained or given a new disk.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum BrokerError {
    /// It holds replicas.
    #[error("broker {id} still holds {replicas}: move them away first")]
    HoldsReplicas {
        /// The broker.
        id: BrokerId,
        /// Of these.
        replicas: PartitionList,
    },
    /// It runs a voter.
    #[error("broker {id} runs voter {voter_id} of the metadata quorum: remove the voter first")]
    Votes {
        /// The broker.
        id: BrokerId,
        /// The voter.
        voter_id: u64,
    },
    /// It is in service.
    #[error("broker {id} is in service: stop it first; one that was killed counts until its session ends")]
    InService {
        /// The broker.
        id: BrokerId,
    },
    /// It is one of the cluster's brokers, and only a removed one was to be permitted.
    #[error("broker {id} is not removed: it has registered, and has a disk")]
    NotRemoved {
        /// The broker.
        id: BrokerId,
    },
    /// It is under maintenance.
    #[error("broker {id} is under maintenance by {holder:?}: wait, or force it")]
    UnderMaintenance {
        /// The broker.
        id: BrokerId,
        /// By whom.
        holder: String,
    },
    /// Its disk has the only clean replica of partitions.
    #[error(
        "the disk of broker {id} has the only clean replica of {partitions}: bring it back, or accept that their records are lost"
    )]
    OnlyCleanReplica {
        /// The broker.
        id: BrokerId,
        /// Of these.
        partitions: PartitionList,
    },
    /// The disk is another broker's, or was.
    #[error("the disk {directory_id} belongs to broker {owner}")]
    DirectoryTaken {
        /// The disk.
        directory_id: Uuid,
        /// Whose it is.
        owner: BrokerId,
    },
}

/// Why a broker may not be taken down now.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum MaintenanceError {
    /// Another has the permission.
    #[error("{holder:?} has broker {broker_id} under maintenance: wait until it is given back")]
    Taken {
        /// Who.
        holder: String,
        /// Which broker.
        broker_id: BrokerId,
    },
    /// Partitions would be left with too few in-sync replicas.
    #[error("without broker {id} writes would stop for {partitions}: wait until more replicas are in sync")]
    Needed {
        /// The broker.
        id: BrokerId,
        /// Of these.
        partitions: PartitionList,
    },
    /// The time is none that is given.
    #[error("a maintenance slot is given for 1 to {MAX_MAINTENANCE_MS} ms, not {ttl_ms}")]
    InvalidTime {
        /// What was asked for.
        ttl_ms: i64,
    },
    /// The name is too long, or empty.
    #[error("the holder must have a name of at most {MAX_TEXT_BYTES} bytes")]
    InvalidHolder,
    /// It is not the one any more that was to be given back.
    #[error("{holder:?} has asked for broker {broker_id} again since, until another time: look again")]
    AcquiredAgain {
        /// Who has it.
        holder: String,
        /// For which broker.
        broker_id: BrokerId,
    },
    /// Who gives it back does not have it.
    #[error("{holder:?} does not have broker {broker_id} under maintenance")]
    NotHeld {
        /// Who.
        holder: String,
        /// Which broker.
        broker_id: BrokerId,
        /// Who has one instead.
        present_holder: String,
        /// Which one.
        present_broker_id: BrokerId,
    },
}

/// Why a voter id is not given out or taken back.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum VoterError {
    /// No voter has this id.
    #[error("there is no voter {voter_id}")]
    Unknown {
        /// The id.
        voter_id: u64,
    },
    /// The disk is not the one that the broker is registered with.
    #[error("disk {directory_id} is not that of broker {broker_id}: a voter votes with its broker's disk")]
    OtherDirectory {
        /// The broker.
        broker_id: BrokerId,
        /// The disk.
        directory_id: Uuid,
    },
    /// There are too many.
    #[error("there are {MAX_VOTERS} voters: remove those that have left")]
    TooMany,
    /// All ids are given out.
    #[error("all voter ids are given out")]
    Exhausted,
}

/// A move that is refused, and which.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{partition}: {error}")]
pub struct RefusedMove {
    /// Of which partition.
    pub partition: PartitionRef,
    /// Why.
    pub error: MoveError,
}
