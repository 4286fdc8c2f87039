//! What is to be done for an object that is not being deleted.

use std::collections::{BTreeMap, BTreeSet};

use millrace_client::v1::TopicOwner;
use millrace_crds::DeletionPolicy;

use super::{Creation, Drift, Step};
use crate::{
    conditions::Status,
    topic::{
        memory::Memory,
        seen::{Found, Object, Offer, Reach, Refusal, Rival, Seen, Tried, uuid},
    },
};

/// What the topic is to the object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing<'a> {
    /// There is none yet.
    New,
    /// There was one, and somebody else has deleted it.
    Missing,
    /// It is the object's.
    Mine(&'a Found),
    /// It may become the object's.
    Claimable {
        /// The topic.
        topic: &'a Found,
        /// Nobody owns it.
        adopt: bool,
        /// The owner that must be taken off it first, since it is no more.
        stale: Option<&'a TopicOwner>,
    },
    /// It was there before, and the object does not want it then.
    Exists(&'a Found),
    /// It is another object's.
    Other(&'a Found, &'a TopicOwner),
}

pub(super) fn standing(seen: &Seen) -> Standing<'_> {
    let object = &seen.object;
    let Some(topic) = &seen.topic else {
        return if object.memory.topic_id.is_some() && !object.recreate {
            Standing::Missing
        } else {
            Standing::New
        };
    };
    let claimable = |adopt, stale| Standing::Claimable { topic, adopt, stale };
    let me = object.owner();
    match &topic.owner {
        Some(owner) if *owner == me => Standing::Mine(topic),
        // This object took the place of the one that owned it: it inherits.
        Some(owner) if owner.namespace == me.namespace && owner.name == me.name => claimable(false, None),
        Some(owner) => match topic.rival {
            Rival::Gone if object.adopts() => claimable(true, Some(owner)),
            Rival::Gone => Standing::Exists(topic),
            Rival::There | Rival::Unknown => Standing::Other(topic, owner),
        },
        None if is_known(object, topic) || object.adopts() => claimable(true, None),
        None => Standing::Exists(topic),
    }
}

/// The very topic that this object has managed before.
fn is_known(object: &Object, topic: &Found) -> bool {
    object.memory.topic_id == Some(uuid(&topic.id))
}

pub(super) fn steps(seen: &Seen) -> Vec<Step> {
    let object = &seen.object;
    let Reach::Reached(offer) = &seen.reach else {
        // What is not reached is not managed; but what would keep the object must not outlive the wish for it.
        let keeps = object.finalizer && keeps(object, object.memory.adopted);
        return remember(object, object.memory.clone(), keeps, false)
            .into_iter()
            .collect();
    };
    match standing(seen) {
        Standing::New => create(seen, offer),
        Standing::Missing => {
            let keeps = keeps(object, object.memory.adopted);
            remember(object, object.memory.clone(), keeps, false)
                .into_iter()
                .collect()
        }
        Standing::Exists(_) | Standing::Other(..) => remember(object, object.memory.clone(), false, false)
            .into_iter()
            .collect(),
        Standing::Claimable { topic, adopt, stale } => claim(seen, topic, adopt, stale),
        Standing::Mine(topic) => manage(seen, topic),
    }
}

/// Whether the object is kept until its topic is deleted.
fn keeps(object: &Object, adopted: bool) -> bool {
    object.deletion_policy(adopted) == DeletionPolicy::Delete
}

/// Writes down what has changed of what must be known.
fn remember(object: &Object, memory: Memory, finalizer: bool, recreated: bool) -> Option<Step> {
    let known = object.memory == memory && object.finalizer == finalizer && !recreated;
    (!known).then_some(Step::Remember {
        memory,
        finalizer,
        recreated,
    })
}

fn create(seen: &Seen, offer: &Offer) -> Vec<Step> {
    let object = &seen.object;
    let memory = Memory {
        adopted: false,
        managed: wanted(object).into_keys().collect(),
        // That of the former topic, until the new one is known.
        topic_id: object.memory.topic_id.clone(),
    };
    let mut steps: Vec<Step> = remember(object, memory, keeps(object, false), false)
        .into_iter()
        .collect();
    if seen.refusal(Tried::Create).is_none() {
        steps.push(Step::Create(Creation::of(&object.spec, offer)));
    }
    steps
}

fn claim(seen: &Seen, topic: &Found, adopt: bool, stale: Option<&TopicOwner>) -> Vec<Step> {
    let object = &seen.object;
    let mut memory = object.memory.clone();
    if !is_known(object, topic) {
        memory.adopted = true;
    }
    let keeps = keeps(object, memory.adopted);
    let mut steps: Vec<Step> = remember(object, memory, keeps, false).into_iter().collect();
    if seen.refusal(Tried::Claim).is_none() {
        steps.extend(stale.cloned().map(Step::Disown));
        steps.push(Step::Claim {
            id: topic.id.clone(),
            adopt,
        });
    }
    steps
}

/// Makes the topic what the object says, where it says something.
fn manage(seen: &Seen, topic: &Found) -> Vec<Step> {
    let object = &seen.object;
    let wanted = wanted(object);
    let unset: BTreeSet<String> = object
        .memory
        .managed
        .iter()
        .filter(|key| !wanted.contains_key(*key) && topic.config.contains_key(*key))
        .cloned()
        .collect();
    let set: BTreeMap<String, String> = wanted
        .iter()
        .filter(|(key, value)| topic.config.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let memory = Memory {
        topic_id: Some(uuid(&topic.id)),
        adopted: object.memory.adopted,
        managed: wanted.keys().chain(&unset).cloned().collect(),
    };
    let keeps = keeps(object, memory.adopted);
    let mut steps: Vec<Step> = remember(object, memory, keeps, object.recreate).into_iter().collect();
    if !(set.is_empty() && unset.is_empty()) && seen.refusal(Tried::Config).is_none() {
        let drift = if was_synced(object) {
            drift(&set, topic)
        } else {
            Vec::new()
        };
        steps.push(Step::Configure { set, unset, drift });
    }
    if let Some(partitions) = object.spec.partitions.filter(|wanted| *wanted > topic.partitions)
        && seen.refusal(Tried::Partitions).is_none()
    {
        steps.push(Step::Grow(partitions));
    }
    if let Some(factor) = object.spec.replication_factor
        && is_other_factor(topic, factor)
        && seen.refusal(Tried::Replicas).is_none()
    {
        steps.push(Step::Replicate {
            factor,
            drift: was_synced(object).then(|| Drift {
                key: "replicationFactor".to_owned(),
                found: topic
                    .replicas
                    .targets
                    .iter()
                    .find(|target| **target != factor)
                    .map(ToString::to_string),
                wanted: factor.to_string(),
            }),
        });
    }
    steps
}

pub(super) fn is_other_factor(topic: &Found, factor: i32) -> bool {
    topic.replicas.targets.iter().any(|target| *target != factor)
}

pub(super) fn wanted(object: &Object) -> BTreeMap<String, String> {
    let settings = object.spec.config.iter();
    settings
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whether the topic was as this very spec says: a difference is somebody else's then.
fn was_synced(object: &Object) -> bool {
    object.status.conditions.iter().any(|condition| {
        condition.type_ == "Synced"
            && condition.status == Status::True.as_str()
            && condition.observed_generation == object.generation
    })
}

fn drift(set: &BTreeMap<String, String>, topic: &Found) -> Vec<Drift> {
    set.iter()
        .map(|(key, wanted)| Drift {
            key: key.clone(),
            found: topic.config.get(key).cloned(),
            wanted: wanted.clone(),
        })
        .collect()
}

/// The first refusal, of what is tried for a topic that is there.
pub(super) fn refused(seen: &Seen) -> Option<&Refusal> {
    [Tried::Config, Tried::Partitions, Tried::Replicas]
        .into_iter()
        .find_map(|what| seen.refusal(what))
}
