//! What the metadata quorum answers to a command that it accepts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    command::PartitionRef,
    limits::MAX_LISTED,
    partition::{CommittedFloor, Partition},
    refusal::{ElectionError, IsrError},
    state::MaintenanceSlot,
};

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
    /// The broker is in service.
    Unfenced {
        /// Partitions whose log on its disk ends before what is known to be committed: an older
        /// image of the disk, or lost data. It is not eligible to lead them.
        lost: PartitionList,
    },
    /// How far a controlled shutdown is.
    Shutdown(ShutdownProgress),
    /// What became of each proposed in-sync set, in the order asked.
    Altered(Vec<Result<Altered, IsrError>>),
    /// What became of each election, in the order asked.
    Elected(Vec<Result<Elected, ElectionError>>),
    /// The broker may be taken down.
    Maintenance {
        /// The permission.
        slot: MaintenanceSlot,
        /// Partitions that stop for the time, as their replication factor leaves no choice.
        exempt: PartitionList,
    },
    /// The topic is the owner's.
    Claimed {
        /// Nobody owned it before.
        adopted: bool,
    },
    /// The voter id of that broker and disk.
    Voter {
        /// Never given out before, or to this disk.
        voter_id: u64,
    },
}

/// Producer ids `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// An in-sync set that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The record in force.
    pub partition: Partition,
    /// How many replicas must be in sync, as it was counted for this very record: `Partition::required`
    /// of the topic's `min.insync.replicas` at that moment (KIP-966).
    pub required: usize,
}

/// A leader that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The record in force.
    pub partition: Partition,
    /// For an unclean choice: what was known to be committed before. If the new leader's log
    /// ends below, the records between are lost; above it others may be.
    pub floor_before: Option<CommittedFloor>,
}

/// How far a controlled shutdown is. The broker may exit once nothing remains and the others in
/// service have applied `target_index`, and the version of the metadata in which nothing remained: they
/// know of all new leaders then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownProgress {
    /// The metadata index of the first request; never moves within a life (KAFKA-14292).
    pub target_index: u64,
    /// Partitions that the broker still leads, as no other replica is in sync. A shutdown must
    /// not wait for them without a limit.
    pub remaining: PartitionList,
    /// Partitions that it left with fewer in-sync replicas than writes need.
    pub below_min_isr: PartitionList,
}

/// Partitions, each with the reason why it is listed: all counted, the first
/// `MAX_LISTED` named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionList {
    /// How many there are.
    pub count: u64,
    /// The first of them, by topic and number.
    pub first: Vec<ListedPartition>,
}

/// A partition and why it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPartition {
    /// Which.
    pub partition: PartitionRef,
    /// In words.
    pub reason: String,
}

impl PartitionList {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one. `entry` is made only if it will be named.
    pub(super) fn push(&mut self, entry: impl FnOnce() -> ListedPartition) {
        self.count += 1;
        if self.first.len() < MAX_LISTED {
            self.first.push(entry());
        }
    }
}

impl fmt::Display for PartitionList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, listed) in self.first.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{} ({})", listed.partition, listed.reason)?;
        }
        match self.count.saturating_sub(self.first.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for PartitionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
