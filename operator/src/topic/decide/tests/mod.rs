//! What is seen, and exactly what is done and reported.

mod deletion;
mod live;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use millrace_crds::{ClusterReference, Defaults, Settings, TopicSpec};

use super::*;
use crate::{
    conditions::Wanted,
    topic::seen::{Found, Object, Offer, Reach, Refusal, Replicas, Rival, Tried, Why},
};

pub(super) const ID: [u8; 16] = [7; 16];
pub(super) const ID_TEXT: &str = "07070707-0707-0707-0707-070707070707";

pub(super) fn owner(namespace: &str, name: &str, uid: &str) -> TopicOwner {
    TopicOwner {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
    }
}

fn settings(all: &[(&str, &str)]) -> Settings {
    all.iter().copied().collect()
}

fn strings(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn keys(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|key| (*key).to_owned()).collect()
}

/// Nothing was done yet, and there is no topic.
pub(super) fn fresh() -> Seen {
    Seen {
        object: Object {
            namespace: "a".into(),
            name: "t".into(),
            uid: "u".into(),
            generation: Some(1),
            spec: TopicSpec {
                cluster_ref: ClusterReference {
                    name: "c".into(),
                    namespace: None,
                },
                ..TopicSpec::default()
            },
            ..Object::default()
        },
        reach: Reach::Reached(Offer {
            defaults: Defaults::default(),
            replicas: 3,
        }),
        topic: None,
        refused: Vec::new(),
    }
}

/// All is done.
fn settled() -> Seen {
    let mut seen = fresh();
    seen.object.finalizer = true;
    seen.object.memory.topic_id = Some(ID_TEXT.into());
    seen.topic = Some(Found {
        id: ID.into(),
        owner: Some(owner("a", "t", "u")),
        partitions: 3,
        replicas: Replicas {
            fewest: 3,
            targets: [3].into(),
            ..Replicas::default()
        },
        ..Found::default()
    });
    seen
}

/// The topic of [`settled`].
pub(super) fn topic(seen: &mut Seen) -> &mut Found {
    seen.topic.as_mut().unwrap()
}

/// The object was as its spec says when it was last looked at.
fn synced_before(seen: &mut Seen) {
    seen.object.status.conditions = vec![Condition {
        type_: "Synced".into(),
        status: "True".into(),
        reason: "Synced".into(),
        message: String::new(),
        observed_generation: seen.object.generation,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }];
}

fn refuse(seen: &mut Seen, what: Tried, why: Why) {
    seen.refused.push(Refusal {
        what,
        why,
        words: "The broker says so.".into(),
    });
}

fn steps(seen: &Seen) -> Vec<Step> {
    match decide(seen) {
        Decision::Act(steps) => steps,
        other => panic!("nothing is done: {other:?}"),
    }
}

fn reported(seen: &Seen) -> (Report, Next) {
    match decide(seen) {
        Decision::Report(report, next) => (*report, next),
        other => panic!("nothing is reported: {other:?}"),
    }
}

/// Type, status and reason of each condition.
fn conditions(seen: &Seen) -> Vec<(&'static str, &'static str, &'static str)> {
    let (report, _) = reported(seen);
    let short = |one: &Wanted| (one.kind, one.status.as_str(), one.reason);
    report.conditions.iter().map(short).collect()
}

fn message(seen: &Seen, kind: &str) -> String {
    let (report, _) = reported(seen);
    report
        .conditions
        .into_iter()
        .find(|one| one.kind == kind)
        .unwrap()
        .message
}

fn remember(seen: &Seen, change: impl FnOnce(&mut Memory), finalizer: bool) -> Step {
    let mut memory = seen.object.memory.clone();
    change(&mut memory);
    Step::Remember {
        memory,
        finalizer,
        recreated: false,
    }
}

fn create(config: &[(&str, &str)]) -> Step {
    Step::Create(Creation {
        partitions: 3,
        replication_factor: 3,
        config: strings(config),
    })
}
