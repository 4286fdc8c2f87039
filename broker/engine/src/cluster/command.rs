//! What can be asked of the metadata quorum, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::state::BrokerId;
use crate::{config::ConfigError, names::NameError};

/// A change to the metadata, as it stands in the metadata log. Field names are part of
/// the stored format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A broker process has started.
    RegisterBroker(RegisterBroker),
    /// Create a topic.
    CreateTopic(CreateTopic),
    /// Delete a topic.
    DeleteTopic {
        /// Its name.
        name: String,
        /// Only if it has this id.
        id: Option<Uuid>,
    },
    /// Change a topic's settings.
    AlterTopicConfigs {
        /// The topic's name.
        name: String,
        /// What to change.
        change: ConfigChange,
    },
    /// Add partitions to a topic.
    CreatePartitions {
        /// The topic's name.
        name: String,
        /// How many it had when the new ones were placed; refused if that has changed.
        present: u32,
        /// The replicas of each new partition.
        added: Vec<Vec<BrokerId>>,
    },
    /// Give a broker a block of producer ids.
    AllocateProducerIds {
        /// Who asks.
        broker_id: BrokerId,
        /// In which life.
        broker_epoch: i64,
    },
}

/// A broker process introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisterBroker {
    /// Its number.
    pub broker_id: BrokerId,
    /// Drawn at the process's start.
    pub incarnation: Uuid,
    /// The cluster that its disk belongs to.
    pub cluster_id: String,
    /// The id of its log directory.
    pub directory_id: Uuid,
    /// HOST:PORT for clients.
    pub address: String,
    /// Failure domain; empty if none.
    pub rack: String,
    /// Its software's version.
    pub version: String,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
}

/// A topic to create, already placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// Its name.
    pub name: String,
    /// Its id, drawn by the caller.
    pub id: Uuid,
    /// The replicas of each partition, preferred leader first.
    pub assignments: Vec<Vec<BrokerId>>,
    /// Settings that differ from the broker's defaults.
    pub configs: BTreeMap<String, String>,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
}

/// A change of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Set these.
    pub set: BTreeMap<String, String>,
    /// Set these back to the broker's defaults.
    pub unset: Vec<String>,
}

/// Producer ids `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The broker is registered with this epoch.
    Registered {
        /// One process life.
        broker_epoch: i64,
    },
    /// These ids are the broker's.
    ProducerIds(ProducerIdBlock),
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Rejection {
    /// No topic has this name.
    #[error("there is no topic {name:?}")]
    UnknownTopic {
        /// The name.
        name: String,
    },
    /// The topic has another id.
    #[error("topic {name:?} has another id: it was deleted and created anew")]
    OtherTopicId {
        /// The name.
        name: String,
    },
    /// A topic has this name already.
    #[error("topic {name:?} exists already")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// The name breaks a rule.
    #[error("{reason}")]
    InvalidTopicName {
        /// Which.
        reason: String,
    },
    /// A setting breaks a rule.
    #[error("{reason}")]
    InvalidConfig {
        /// Which setting.
        key: String,
        /// Which rule.
        reason: String,
    },
    /// The number of partitions breaks a rule.
    #[error("{reason}")]
    InvalidPartitionCount {
        /// Which.
        reason: String,
    },
    /// The cluster would have too many partitions.
    #[error("the cluster would have more than {limit} partitions: delete topics or use fewer partitions")]
    TooManyPartitions {
        /// The most.
        limit: u64,
    },
    /// The placement names brokers that can't be used.
    #[error("{reason}")]
    InvalidAssignment {
        /// Why.
        reason: String,
    },
    /// The topic's partitions changed since they were looked at.
    #[error("topic {name:?} has {actual} partitions by now: try again")]
    PartitionsChanged {
        /// The topic.
        name: String,
        /// How many it has.
        actual: u32,
    },
    /// No broker has this number.
    #[error("broker {id} is not registered")]
    UnknownBroker {
        /// The number.
        id: BrokerId,
    },
    /// The broker has begun a newer life.
    #[error("broker {id} has registered anew since (epoch {current}): this process must stop")]
    StaleBrokerEpoch {
        /// The broker.
        id: BrokerId,
        /// Its epoch now.
        current: i64,
    },
    /// The broker's disk belongs to another cluster.
    #[error("the disk belongs to cluster {found:?}, this is cluster {expected:?}: mount the right volume")]
    OtherCluster {
        /// This cluster.
        expected: String,
        /// The disk's.
        found: String,
    },
    /// The disk is registered to another broker.
    #[error("the disk {directory_id} belongs to broker {owner}: volumes were swapped, mount the right one")]
    DirectoryOfOtherBroker {
        /// The disk.
        directory_id: Uuid,
        /// Whose it is.
        owner: BrokerId,
    },
    /// The broker came with another disk than it had.
    #[error("broker {id} had disk {expected} and comes with {found}: its data is missing; mount the right volume")]
    OtherDirectory {
        /// The broker.
        id: BrokerId,
        /// The disk that it had.
        expected: Uuid,
        /// The disk that it comes with.
        found: Uuid,
    },
    /// All producer ids are given out.
    #[error("all producer ids are given out")]
    ProducerIdsExhausted,
}

impl From<NameError> for Rejection {
    fn from(error: NameError) -> Self {
        Self::InvalidTopicName {
            reason: error.to_string(),
        }
    }
}

impl From<ConfigError> for Rejection {
    fn from(error: ConfigError) -> Self {
        let reason = error.to_string();
        let (ConfigError::UnknownKey { key, .. } | ConfigError::InvalidValue { key, .. }) = error;
        Self::InvalidConfig { key, reason }
    }
}
