//! What is told of a Topic: its conditions and what the cluster has.

use millrace_crds::{ReplicaChange, Settings};

use super::{
    Next,
    live::{Standing, is_other_factor, refused, standing, wanted},
};
use crate::{
    conditions::Wanted,
    topic::seen::{Found, Reach, Refusal, Rival, Seen, Tried, Why, uuid},
};

const READY: &str = "Ready";
const SYNCED: &str = "Synced";
const RECONCILING: &str = "Reconciling";
const STALLED: &str = "Stalled";

/// What is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// How it is.
    pub conditions: Vec<Wanted>,
    /// What the cluster has; none: it was not asked, and what was told before stays.
    pub facts: Option<Facts>,
}

/// What the cluster has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The topic's id.
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: Option<i32>,
    /// How many replicas each has.
    pub replication_factor: Option<i32>,
    /// Whether it was there before the object.
    pub adopted: Option<bool>,
    /// Whose it is (namespace/name).
    pub owner: Option<String>,
    /// The change of its replicas.
    pub replica_change: Option<ReplicaChange>,
    /// Those of its settings that the object sets.
    pub config: Settings,
}

/// For an object that nobody has looked at yet. Without it a wait for `Ready=False` or a look at the object before the
/// first pass has ended shows nothing at all.
pub fn first_sight() -> Vec<Wanted> {
    [READY, SYNCED]
        .map(|kind| Wanted::unknown(kind, "Pending", "The operator has just seen it."))
        .into()
}

/// For an object that this operator can't read.
pub fn unreadable(words: &str) -> Vec<Wanted> {
    let message = format!("This operator can't read the object: {words}");
    vec![
        Wanted::no(READY, "InvalidSpec", &message),
        Wanted::unknown(SYNCED, "InvalidSpec", &message),
        Wanted::yes(STALLED, "InvalidSpec", message),
    ]
}

/// For an object that is being deleted and has to wait.
pub(super) fn deleting(why: &str) -> Report {
    let message = format!(
        "The topic is to be deleted with this object, and can't be yet: {why}. To let the object go and keep the topic, \
         set deletionPolicy: Retain, or paused: true."
    );
    Report {
        conditions: vec![
            Wanted::no(READY, "Deleting", &message),
            Wanted::unknown(SYNCED, "Deleting", &message),
            Wanted::yes(RECONCILING, "Deleting", message),
        ],
        facts: None,
    }
}

pub(super) fn report(seen: &Seen) -> (Report, Next) {
    let unseen = |reason: &'static str, message: &str| {
        let report = Report {
            conditions: vec![
                Wanted::no(READY, reason, message),
                Wanted::unknown(SYNCED, reason, message),
            ],
            facts: None,
        };
        (report, Next::Later)
    };
    match &seen.reach {
        Reach::NotFound => {
            let message = format!("There is no Cluster {}.", seen.object.cluster());
            return unseen("ClusterNotFound", &message);
        }
        Reach::Refused(message) => return unseen("NotAllowedOrNotFound", message),
        Reach::Ending(why) => return unseen("ClusterNotReady", &format!("The topic is left as it is: {why}.")),
        Reach::Settling => return unseen("ClusterNotReady", "It is looked at again in a moment."),
        Reach::Unreachable(message) => return unseen("ClusterNotReady", message),
        Reach::Reached(_) => {}
    }
    match standing(seen) {
        Standing::Mine(topic) => mine(seen, topic),
        Standing::New => absent(seen),
        Standing::Missing => {
            let message = "Somebody has deleted the topic in the cluster, and its records with it. To have it made anew, \
                           empty, set the annotation millrace.dev/recreate=true; otherwise delete this object.";
            let (conditions, next) = human("TopicMissing", message);
            told(conditions, Facts::default(), next)
        }
        Standing::Exists(_) => {
            let message = "The cluster has a topic of this name already, and adoptionPolicy is Never.";
            let (conditions, next) = human("AlreadyExists", message);
            told(conditions, Facts::default(), next)
        }
        Standing::Other(topic, owner) => {
            let owner = format!("{}/{}", owner.namespace, owner.name);
            let hint = match topic.rival {
                Rival::Unknown => " This operator can't look whether that object is still there.",
                Rival::There | Rival::Gone => "",
            };
            let message = format!(
                "The topic is managed by Topic {owner}, which came first. Delete one of the two objects: this one \
                 changes nothing.{hint}"
            );
            let (conditions, _) = human("Conflict", &message);
            let facts = Facts {
                owner: Some(owner),
                ..Facts::default()
            };
            told(conditions, facts, Next::Later)
        }
        Standing::Claimable { .. } => absent(seen),
    }
}

fn told(conditions: Vec<Wanted>, facts: Facts, next: Next) -> (Report, Next) {
    let report = Report {
        conditions,
        facts: Some(facts),
    };
    (report, next)
}

/// Only somebody else can help.
fn human(reason: &'static str, message: &str) -> (Vec<Wanted>, Next) {
    let conditions = vec![
        Wanted::no(READY, reason, message),
        Wanted::no(SYNCED, reason, message),
        Wanted::yes(STALLED, reason, message),
    ];
    (conditions, Next::Settled)
}

/// There is no topic of the object's: it could not be made or taken over, or the object is paused.
fn absent(seen: &Seen) -> (Report, Next) {
    let refusal = seen.refusal(Tried::Create).or_else(|| seen.refusal(Tried::Claim));
    let Some(refusal) = refusal else {
        let message = "Paused: nothing is changed, and the topic is not this object's yet.";
        let conditions = vec![
            Wanted::no(READY, "Paused", message),
            Wanted::unknown(SYNCED, "Paused", message),
        ];
        return told(conditions, Facts::default(), Next::Settled);
    };
    let (reason, next) = (reason(refusal.why), next(refusal.why));
    let message = words(refusal);
    let mut conditions = vec![
        Wanted::no(READY, reason, &message),
        Wanted::no(SYNCED, reason, &message),
    ];
    if next == Next::Settled {
        conditions.push(Wanted::yes(STALLED, reason, message));
    }
    told(conditions, Facts::default(), next)
}

fn mine(seen: &Seen, topic: &Found) -> (Report, Next) {
    let (ready, mut next) = if topic.leaderless > 0 {
        let message = format!(
            "{} of {} partitions have no leader: they can be neither written nor read.",
            topic.leaderless, topic.partitions
        );
        (Wanted::no(READY, "WaitingForLeaders", message), Next::Soon)
    } else {
        let message = format!("All {} partitions have a leader.", topic.partitions);
        (Wanted::yes(READY, "Ready", message), Next::Settled)
    };
    let mut conditions = vec![ready, synced(seen, topic)];
    if topic.replicas.changing > 0 {
        let message = format!("Replicas of {} partitions are being changed.", topic.replicas.changing);
        conditions.push(Wanted::yes(RECONCILING, "MovingReplicas", message));
        next = Next::Soon;
    }
    if let Some(refusal) = refused(seen) {
        let later = self::next(refusal.why);
        if later == Next::Settled {
            conditions.push(Wanted::yes(STALLED, reason(refusal.why), words(refusal)));
        }
        next = next.min(later);
    }
    told(conditions, facts(seen, topic), next)
}

fn synced(seen: &Seen, topic: &Found) -> Wanted {
    let spec = &seen.object.spec;
    if seen.object.paused {
        return Wanted::unknown(SYNCED, "Paused", "Paused: nothing is changed.");
    }
    if let Some(refusal) = refused(seen) {
        return Wanted::no(SYNCED, reason(refusal.why), words(refusal));
    }
    if let Some(wanted) = spec.partitions
        && wanted < topic.partitions
    {
        let message = format!(
            "The topic has {} partitions, more than the {wanted} that are asked for. They can't be taken away.",
            topic.partitions
        );
        return Wanted::no(SYNCED, "MorePartitionsThanSpec", message);
    }
    if topic.replicas.changing > 0 {
        return Wanted::no(SYNCED, "MovingReplicas", "Its replicas are being changed.");
    }
    Wanted::yes(SYNCED, "Synced", "The topic is as this object says.")
}

fn facts(seen: &Seen, topic: &Found) -> Facts {
    let owner = seen.object.owner();
    let wanted = wanted(&seen.object);
    let target = seen
        .object
        .spec
        .replication_factor
        .filter(|factor| !is_other_factor(topic, *factor));
    let target = target.or_else(|| topic.replicas.targets.last().copied());
    Facts {
        id: Some(uuid(&topic.id)),
        partitions: Some(topic.partitions),
        replication_factor: Some(topic.replicas.fewest),
        adopted: Some(seen.object.memory.adopted),
        owner: Some(format!("{}/{}", owner.namespace, owner.name)),
        replica_change: (topic.replicas.changing > 0).then(|| ReplicaChange {
            target: target.unwrap_or_default(),
            moves_remaining: topic.replicas.changing,
            bytes_remaining: topic.replicas.bytes_remaining,
        }),
        config: topic
            .config
            .iter()
            .filter(|(key, _)| wanted.contains_key(*key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
    }
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::InvalidConfig => "InvalidConfig",
        Why::InvalidSpec => "InvalidSpec",
        Why::TooFewBrokers => "TooFewBrokers",
        Why::PlacementBlocked => "PlacementBlocked",
        Why::LimitReached => "LimitReached",
        Why::Later => "ClusterNotReady",
        Why::Other => "Refused",
    }
}

/// What the brokers say, unless it says nothing that stays the same: a message that changes with each attempt would be
/// written each time.
fn words(refusal: &Refusal) -> String {
    match refusal.why {
        Why::Later => "The cluster can't do it at the moment; it is tried again.".to_owned(),
        _ => refusal.words.clone(),
    }
}

fn next(why: Why) -> Next {
    match why {
        Why::InvalidConfig | Why::InvalidSpec => Next::Settled,
        Why::Later => Next::Soon,
        Why::TooFewBrokers | Why::PlacementBlocked | Why::LimitReached | Why::Other => Next::Later,
    }
}
