//! What one pass has seen: all that [`decide`](super::decide) goes by.

use std::collections::{BTreeMap, BTreeSet};

use millrace_client::v1::TopicOwner;
use millrace_crds::{AdoptionPolicy, Defaults, DeletionPolicy, TopicSpec, TopicStatus};

use super::memory::Memory;
use crate::names::ClusterKey;

/// A Topic object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of that name it is.
    pub uid: String,
    /// The spec's number.
    pub generation: Option<i64>,
    /// What is wanted.
    pub spec: TopicSpec,
    /// What was last reported. It decides nothing but which changes are worth an event.
    pub status: TopicStatus,
    /// By the spec or the annotation.
    pub paused: bool,
    /// The annotation says that a topic that is gone may be made anew, empty.
    pub recreate: bool,
    /// Somebody has deleted it.
    pub deleting: bool,
    /// It has our finalizer.
    pub finalizer: bool,
    /// What it has done before.
    pub memory: Memory,
}

impl Object {
    /// The topic's name in the cluster.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.spec.name.as_deref().unwrap_or(&self.name)
    }

    /// The cluster that it is on.
    #[must_use]
    pub fn cluster(&self) -> ClusterKey {
        let namespace = self.spec.cluster_ref.namespace.as_ref();
        ClusterKey::new(namespace.unwrap_or(&self.namespace), &self.spec.cluster_ref.name)
    }

    /// As whom it owns topics.
    #[must_use]
    pub fn owner(&self) -> TopicOwner {
        TopicOwner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// What becomes of the topic when the object is deleted.
    #[must_use]
    pub fn deletion_policy(&self, adopted: bool) -> DeletionPolicy {
        self.spec.deletion_policy.unwrap_or(if adopted {
            DeletionPolicy::Retain
        } else {
            DeletionPolicy::Delete
        })
    }

    /// Whether a topic that nobody owns may be taken over.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.spec.adoption_policy.unwrap_or_default() == AdoptionPolicy::IfUnowned
    }
}

/// How the Cluster is, or what is in the way to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// There is no such Cluster in the Topic's own namespace.
    NotFound,
    /// There is none elsewhere, or it does not take this Topic: the one sentence for both.
    Refused(String),
    /// It goes away, or with it what the Topic stands on: why. Nothing is changed any more, and data stays.
    Ending(String),
    /// Something goes away, and whether that is the Topic alone can't be known yet: looked at again in a moment.
    Settling,
    /// Its brokers don't answer, or the object can't be read: why.
    Unreachable(String),
    /// Its brokers answer.
    Reached(Offer),
}

/// What a Cluster gives a topic that does not say it itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// What the Cluster says.
    pub defaults: Defaults,
    /// How many brokers it has.
    pub replicas: i32,
}

/// What is known of an owner that is another object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rival {
    /// It is there, or this is the owner itself.
    #[default]
    There,
    /// It is gone: the record is left over from an object that was deleted with Retain.
    Gone,
    /// This operator may not look there.
    Unknown,
}

/// A topic as the cluster has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its id.
    pub id: Vec<u8>,
    /// Who owns it.
    pub owner: Option<TopicOwner>,
    /// Whether that owner is still there.
    pub rival: Rival,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many of them have no leader.
    pub leaderless: i32,
    /// Its replicas.
    pub replicas: Replicas,
    /// The settings that it has itself.
    pub config: BTreeMap<String, String>,
}

/// A topic's replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// How many each partition has; the fewest, without those that are being added.
    pub fewest: i32,
    /// How many partitions have or are to have.
    pub targets: BTreeSet<i32>,
    /// Partitions whose number of replicas is being changed. One that only moves to other brokers is none.
    pub changing: i32,
    /// Bytes that are left to copy for that, rounded.
    pub bytes_remaining: i64,
}

/// What was tried in this pass and refused: it is not tried again in it, but reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried.
    pub what: Tried,
    /// Why it was refused.
    pub why: Why,
    /// The broker's own words.
    pub words: String,
}

/// What can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Making the topic.
    Create,
    /// Taking it over.
    Claim,
    /// Changing its settings.
    Config,
    /// Adding partitions.
    Partitions,
    /// Changing how many replicas it has.
    Replicas,
    /// Deleting it.
    Delete,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A setting that there is not, or a value that it can't have.
    InvalidConfig,
    /// A name that no topic can have, or a number out of bounds.
    InvalidSpec,
    /// Fewer brokers than replicas.
    TooFewBrokers,
    /// Brokers or racks that are cordoned or missing.
    PlacementBlocked,
    /// There are as many topics or partitions as there may be.
    LimitReached,
    /// Not now; the same again soon.
    Later,
    /// Another reason.
    Other,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The object.
    pub object: Object,
    /// The way to its cluster.
    pub reach: Reach,
    /// The topic; none also if the cluster was not reached.
    pub topic: Option<Found>,
    /// What was refused before in this pass.
    pub refused: Vec<Refusal>,
}

impl Seen {
    /// Whether something was refused before in this pass.
    #[must_use]
    pub fn refusal(&self, what: Tried) -> Option<&Refusal> {
        self.refused.iter().find(|refusal| refusal.what == what)
    }
}

/// An id as people are shown it: a UUID, as the command-line tool prints it.
#[must_use]
pub fn uuid(id: &[u8]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    if id.len() != 16 {
        return hex;
    }
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
