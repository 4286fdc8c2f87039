//! What can be asked of the metadata quorum. Names of variants and fields are part of the
//! stored format: new fields have defaults, and nothing is renamed.

use std::{collections::BTreeMap, num::NonZeroU64};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    owner::TopicOwner,
    state::{BrokerId, ExpectedDirectory, FenceReason},
};

/// A change to the metadata, as it stands in the metadata log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A broker process of a cluster of one has started: it is in service at once. Where brokers
    /// live by leases, `StartBroker` takes its place.
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
    /// Make a topic an owner's.
    ClaimTopic {
        /// Its name.
        name: String,
        /// Only if it has this id.
        id: Option<Uuid>,
        /// Whose it shall be.
        owner: TopicOwner,
        /// Also if nobody owns it.
        adopt: bool,
    },
    /// Leave a topic, with its data, to nobody.
    ReleaseTopic {
        /// Its name.
        name: String,
        /// Who owns it.
        owner: TopicOwner,
    },
    /// Delete a topic, grow it, change its settings or move its replicas, only if it has this owner.
    AsOwner {
        /// Its name.
        name: String,
        /// Who must own it.
        owner: TopicOwner,
        /// What to do with it; of no other topic.
        command: Box<Command>,
    },
    /// Change a topic's settings.
    AlterTopicConfigs {
        /// The topic's name.
        name: String,
        /// What to change.
        change: ConfigChange,
    },
    /// Change the settings of all topics that do not set their own.
    AlterTopicDefaults {
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
    /// A broker process has started: it begins fenced, and catches up.
    StartBroker(StartBroker),
    /// A broker's lease has ended, or it must not serve for another reason. Leases are judged by
    /// the quorum leader's clock; this is the decision.
    FenceBroker {
        /// The broker.
        broker_id: BrokerId,
        /// The life that is meant.
        broker_epoch: i64,
        /// Why.
        reason: FenceReason,
    },
    /// A broker has caught up and may lead and be counted.
    UnfenceBroker(UnfenceBroker),
    /// A broker asks to leave in order: its leaderships move, it leaves the in-sync sets. To be
    /// repeated until nothing remains.
    ControlledShutdown {
        /// The broker.
        broker_id: BrokerId,
        /// In which life.
        broker_epoch: i64,
    },
    /// A leader changes in-sync sets.
    AlterPartitions(AlterPartitions),
    /// A broker in service can't open some of its logs (KIP-858).
    ReportOfflineReplicas(ReportOfflineReplicas),
    /// Choose leaders.
    ElectLeaders {
        /// Each of them on its own: one that can't be had stops no other.
        elections: Vec<Election>,
    },
    /// Move replicas, or cancel moves; all or none.
    ReassignPartitions {
        /// At most one to a partition.
        moves: Vec<Move>,
    },
    /// Give a broker no new replicas, or give it some again.
    CordonBroker {
        /// The broker.
        broker_id: BrokerId,
        /// Whether it is cordoned from now on.
        cordoned: bool,
    },
    /// Mark that a broker's replicas are to be moved away (and give it no new ones), or unmark
    /// it. Placement makes the moves.
    DrainBroker {
        /// The broker.
        broker_id: BrokerId,
        /// Whether it is drained from now on.
        draining: bool,
    },
    /// Remove a broker that holds nothing any more. Its number and its disk are refused from
    /// then on.
    RemoveBroker {
        /// The broker.
        broker_id: BrokerId,
        /// Also if it is in service, or under maintenance; never if it holds replicas or votes.
        force: bool,
        /// The time, in milliseconds since 1970: maintenance whose time is up is none.
        #[serde(default)]
        now_ms: i64,
    },
    /// An operator's word that a broker comes with a new disk: its replicas stop counting, and
    /// the new disk is admitted. Also admits a removed broker's number again.
    ReplaceDirectory {
        /// The broker; it must be down.
        broker_id: BrokerId,
        /// Which disk is admitted.
        directory: ExpectedDirectory,
        /// Also if partitions have no other clean replica. Their acknowledged records are lost.
        accept_data_loss: bool,
        /// Only if the number is a removed broker's.
        #[serde(default)]
        only_if_removed: bool,
    },
    /// Ask for the one permission to take a broker down.
    AcquireMaintenance(AcquireMaintenance),
    /// Give the permission back.
    ReleaseMaintenance {
        /// Who had it.
        holder: String,
        /// For which broker.
        broker_id: BrokerId,
        /// Only the one that ends then, in milliseconds since 1970: asked for again it ends at another time.
        #[serde(default)]
        until_ms: Option<i64>,
    },
    /// Give out a voter id.
    RegisterVoter {
        /// The broker that will run the voter.
        broker_id: BrokerId,
        /// The disk that it votes with.
        directory_id: Uuid,
        /// The highest voter id in the quorum's membership: no id up to it is given out.
        highest_in_use: u64,
        /// The id under which this disk votes already: the quorum's first voter has one before
        /// there is a log to give it out. Taken over only as the first registration of all.
        #[serde(default)]
        bootstrap_id: Option<u64>,
    },
    /// An operator has taken a broker's vote away, or gives it back: until then it must not become
    /// a voter by itself.
    WithholdVote {
        /// The id of its member.
        voter_id: u64,
        /// Whether it is withheld from now on.
        withheld: bool,
    },
    /// A voter has left the quorum's membership; its id is never used again.
    RemoveVoter {
        /// Its id.
        voter_id: u64,
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

/// A broker process introduces itself and says what its disk knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartBroker {
    /// Who it is.
    pub registration: RegisterBroker,
    /// HOST:PORT for other brokers.
    pub internal_address: String,
    /// What its log directory says of its last life.
    pub directory: DirectoryReport,
    /// The broker epoch of the life that this one comes after, as far as the process knows:
    /// `Cluster::replaced_epoch`. One that names an earlier life than the present is refused, as
    /// a copy of it may have been under way since before the present life began.
    #[serde(default)]
    pub replaces: Option<i64>,
}

/// What a log directory says of the life before this one (KIP-966).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryReport {
    /// The broker epoch in the clean-shutdown file; `None`: there is none, the stop was unclean.
    pub clean_shutdown_epoch: Option<i64>,
    /// The last broker epoch that was noted on the disk.
    pub last_epoch: Option<i64>,
    /// Whether damage was found below the flushed point, in any partition.
    pub damaged: bool,
}

/// A broker has caught up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnfenceBroker {
    /// The broker.
    pub broker_id: BrokerId,
    /// In which life.
    pub broker_epoch: i64,
    /// Up to which metadata index it has applied; at least its registration.
    pub applied_index: u64,
    /// How far its logs reach: of all partitions in whose record it is an eligible replica. Needed
    /// once in a life; what is missing counts as lost where the partition has other replicas.
    pub log_ends: Vec<TopicLogEnds>,
}

/// How far a topic's logs reach on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicLogEnds {
    /// The topic's id.
    pub topic_id: Uuid,
    /// Its partitions on that broker.
    pub ends: Vec<LogEnd>,
}

/// How far one log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// The partition's number.
    pub partition: u32,
    /// Its durable log end offset.
    pub log_end: i64,
    /// The leader epoch of its last record; -1 if it has none.
    pub last_epoch: i32,
}

/// Names one partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionRef {
    /// The topic's name.
    pub topic: String,
    /// Its id: a topic that was deleted and created anew is another.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: u32,
}

/// A broker changes the in-sync sets of partitions that it leads (KIP-497).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlterPartitions {
    /// The leader.
    pub broker_id: BrokerId,
    /// Its life.
    pub broker_epoch: i64,
    /// The changes; each is judged on its own, after those before it.
    pub changes: Vec<IsrChange>,
}

/// Replicas that their broker can't serve. What they hold is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportOfflineReplicas {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its life.
    pub broker_epoch: i64,
    /// Which of its partitions; those that are not its, or not any more, are passed over.
    pub partitions: Vec<PartitionRef>,
}

/// A new in-sync set for one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrChange {
    /// The partition.
    pub partition: PartitionRef,
    /// The leader epoch in which it was proposed.
    pub leader_epoch: i32,
    /// The version of the record that it is built on.
    pub partition_epoch: i32,
    /// The new set, with the broker epochs of the fetches that were counted (KIP-903).
    pub isr: Vec<IsrMember>,
    /// Whether an uncleanly chosen leader has not recovered yet (KIP-704).
    #[serde(default)]
    pub recovering: bool,
    /// The leader's high watermark: all below it is committed.
    #[serde(default)]
    pub high_watermark: i64,
    /// Replicas outside of the new set of which the leader saw that they have lost data: they are
    /// not eligible to lead.
    #[serde(default)]
    pub lost: Vec<BrokerId>,
    /// The partition epoch must rise although the set is the present one: a copy of an earlier
    /// proposal may be under way, and must be refused when it arrives.
    #[serde(default)]
    pub supersedes: bool,
}

/// A member of a proposed in-sync set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its life, as its fetches told it.
    pub broker_epoch: i64,
}

/// A leader to choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The partition.
    pub partition: PartitionRef,
    /// By which rule.
    pub kind: ElectionKind,
}

/// How a leader is chosen on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElectionKind {
    /// The first replica, if it is in sync.
    Preferred,
    /// This replica, if it is in sync. It becomes the first one, unless a move takes it away, so that it stays the
    /// leader.
    InSync {
        /// Which.
        replica: BrokerId,
    },
    /// This replica, whatever it holds, where there is no leader. Acknowledged records may be
    /// lost; never done by itself (KIP-966, KAFKA-19522).
    Unclean {
        /// Which.
        replica: BrokerId,
    },
}

/// A move of one partition's replicas (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The partition.
    pub partition: PartitionRef,
    /// The replicas that it shall have, preferred leader first; `None`: cancel the move under
    /// way.
    pub target: Option<Vec<BrokerId>>,
    /// At most so many bytes a second go to each broker that is added, until it is in sync;
    /// `None`: as fast as it can. Ends with the move (KIP-73 leaves such bounds behind when the
    /// tool that set them dies).
    #[serde(default)]
    pub throttle: Option<NonZeroU64>,
}

/// A wish to take a broker down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireMaintenance {
    /// Who asks. The same holder may ask again for the same broker, to have it longer.
    pub holder: String,
    /// The broker.
    pub broker_id: BrokerId,
    /// Its life.
    pub broker_epoch: i64,
    /// For how long, in milliseconds; at most a day.
    pub ttl_ms: i64,
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
    /// Who manages it; `None`: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<TopicOwner>,
}

/// A change of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Set these.
    pub set: BTreeMap<String, String>,
    /// Set these back to the broker's defaults.
    pub unset: Vec<String>,
}
