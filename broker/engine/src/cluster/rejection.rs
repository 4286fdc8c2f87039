//! Why a command changes nothing.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{
    limits::MAX_CHANGES,
    refusal::{BrokerError, MaintenanceError, RefusedMove, RegistrationError, UnfenceError, VoterError},
    state::BrokerId,
};
use crate::{config::ConfigError, names::NameError};

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
    #[error("topic {name:?} exists already: go on with it as it is, or choose another name")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// Somebody else manages the topic.
    #[error("topic {name:?} belongs to {owner}, which alone may change it in its owner's name")]
    TopicOwned {
        /// The topic's name.
        name: String,
        /// Who, as `namespace/name/uid`.
        owner: String,
    },
    /// Nobody manages the topic.
    #[error(
        "topic {name:?} belongs to nobody: claim it, with adoption permitted, before it is changed in an owner's name"
    )]
    TopicNotOwned {
        /// The topic's name.
        name: String,
    },
    /// A command that no owner of a topic may give, or that is about another topic.
    #[error("the owner of topic {name:?} may delete, grow, configure and move that topic, and nothing else")]
    NotAnOwnersCommand {
        /// The topic's name.
        name: String,
    },
    /// These can't be an owner's names.
    #[error("{reason}")]
    InvalidOwner {
        /// Which of them.
        field: String,
        /// Why.
        reason: String,
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
    /// The command names too many partitions.
    #[error("a command may name {MAX_CHANGES} partitions: send several")]
    TooManyChanges,
    /// A broker's start is refused.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// A broker is not put into service.
    #[error(transparent)]
    Unfence(#[from] UnfenceError),
    /// A move is refused, and with it all of the command.
    #[error(transparent)]
    Move(#[from] RefusedMove),
    /// A broker is not removed, drained or given a new disk.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A broker may not be taken down now.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    /// A voter id is not given out or taken back.
    #[error(transparent)]
    Voter(#[from] VoterError),
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
        let key = error.key().to_owned();
        Self::InvalidConfig { key, reason }
    }
}
