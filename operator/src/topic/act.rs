//! The one place that changes anything: the object's metadata, and the topic.

use kube::{
    Api,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use millrace_client::{Admin, Error, ErrorKind, ErrorReason, NewTopic};
use serde_json::{Value, json};

use super::{
    decide::{Drift, Step},
    memory::Memory,
    seen::{Object, Refusal, Tried, Why, uuid},
};
use crate::{
    context::Told,
    names::{FIELD_MANAGER, RECREATE, TOPIC_FINALIZER},
};

/// What became of a step.
#[derive(Debug)]
pub enum Done {
    /// It was done; the object, if that was changed, and what is to be told.
    Yes(Option<Box<DynamicObject>>, Vec<Told>),
    /// The cluster refuses it.
    Refused(Refusal),
    /// Things are not as they were when it was decided.
    Outdated,
}

/// Does one step.
///
/// # Errors
/// The API server refuses, also if the object is not as it was seen (409).
pub async fn act(
    api: &Api<DynamicObject>,
    raw: &DynamicObject,
    object: &Object,
    admin: Option<&Admin>,
    step: Step,
) -> kube::Result<Done> {
    match step {
        Step::Remember {
            memory,
            finalizer,
            recreated,
        } => {
            let changed = patch(api, raw, Some((&memory, &object.uid)), finalizer, recreated).await?;
            return Ok(Done::Yes(Some(changed.into()), Vec::new()));
        }
        Step::Release { .. } => {
            let changed = patch(api, raw, None, false, false).await?;
            return Ok(Done::Yes(Some(changed.into()), Vec::new()));
        }
        _ => {}
    }
    let Some(admin) = admin else {
        // No step about the topic is decided on without a way to it.
        return Ok(Done::Outdated);
    };
    let (tried, result) = in_cluster(object, admin, step).await;
    Ok(match result {
        Ok(told) => Done::Yes(None, told),
        Err(error) => refused(tried, &error),
    })
}

async fn in_cluster(object: &Object, admin: &Admin, step: Step) -> (Tried, Result<Vec<Told>, Error>) {
    let topic = object.topic();
    let owned = || admin.clone().in_name_of(object.owner());
    match step {
        Step::Create(creation) => {
            let new = NewTopic::new(topic)
                .partitions(creation.partitions)
                .replication_factor(creation.replication_factor)
                .owner(object.owner());
            let new = creation
                .config
                .into_iter()
                .fold(new, |new, (key, value)| new.config(key, value));
            let made = admin.create_topic(new).await.map(|made| {
                let note = format!(
                    "Made topic {topic} ({} partitions, {} replicas).",
                    made.partitions, made.replication_factor
                );
                vec![Told::normal("TopicCreated", "Create", note)]
            });
            (Tried::Create, made)
        }
        Step::Claim { id, adopt } => {
            let claimed = admin
                .claim_topic(topic, id.clone().into(), object.owner(), adopt)
                .await
                .map(|adopted| {
                    let note = if adopted {
                        format!("Took over topic {topic} ({}), which nobody owned.", uuid(&id))
                    } else {
                        format!(
                            "Took over topic {topic} ({}) from a former object of this name.",
                            uuid(&id)
                        )
                    };
                    vec![Told::normal("TopicAdopted", "Adopt", note)]
                });
            (Tried::Claim, claimed)
        }
        Step::Disown(owner) => {
            let released = admin.release_topic(topic, owner).await.map(|()| Vec::new());
            (Tried::Claim, released)
        }
        Step::Configure { set, unset, drift } => {
            let altered = owned().alter_topic(topic, set, unset, None).await;
            (Tried::Config, altered.map(|_| corrected(&drift)))
        }
        Step::Grow(partitions) => {
            let grown = owned().create_partitions(topic, partitions).await.map(|partitions| {
                let note = format!("Topic {topic} has {partitions} partitions now.");
                vec![Told::normal("PartitionsAdded", "Grow", note)]
            });
            (Tried::Partitions, grown)
        }
        Step::Replicate { factor, drift } => {
            let none: [(String, String); 0] = [];
            let altered = owned()
                .alter_topic(topic, none, Vec::<String>::new(), Some(factor))
                .await;
            let told = altered.map(|moves| {
                let mut told = corrected(drift.as_slice());
                let note = format!(
                    "Topic {topic} gets {factor} replicas: {} partitions change.",
                    moves.partitions
                );
                told.push(Told::normal("ReplicasChanging", "Replicate", note));
                told
            });
            (Tried::Replicas, told)
        }
        Step::Delete { id } => {
            let deleted = owned().delete_topic_with_id(topic, id.clone().into()).await.map(|()| {
                let note = format!("Deleted topic {topic} ({}) with all its records.", uuid(&id));
                vec![Told::normal("TopicDeleted", "Delete", note)]
            });
            (Tried::Delete, deleted)
        }
        // Done without the cluster.
        Step::Remember { .. } | Step::Release { .. } => (Tried::Claim, Ok(Vec::new())),
    }
}

/// One event for all keys: of several with the same reason Kubernetes' clients keep the first one's note only.
fn corrected(drifts: &[Drift]) -> Vec<Told> {
    let each = drifts.iter().map(|drift| {
        let found = drift
            .found
            .as_deref()
            .map_or_else(|| "not set".to_owned(), |found| format!("{found:?}"));
        format!("{}: found {found}, wanted {:?}.", drift.key, drift.wanted)
    });
    let note = each.collect::<Vec<_>>().join(" ");
    let told = (!note.is_empty()).then(|| Told::normal("DriftCorrected", "Correct", note));
    told.into_iter().collect()
}

fn refused(what: Tried, error: &Error) -> Done {
    let why = match error.reason() {
        Some(ErrorReason::UnknownTopic | ErrorReason::TopicExists | ErrorReason::TopicOwned) => return Done::Outdated,
        Some(ErrorReason::InvalidConfig) => Why::InvalidConfig,
        Some(ErrorReason::InvalidTopicName | ErrorReason::InvalidRequest) => Why::InvalidSpec,
        Some(ErrorReason::NotEnoughBrokers) => Why::TooFewBrokers,
        Some(ErrorReason::PlacementBlocked) => Why::PlacementBlocked,
        Some(ErrorReason::LimitReached) => Why::LimitReached,
        _ if error.is_retriable() || !matches!(error.kind(), ErrorKind::Server(_)) => Why::Later,
        _ => Why::Other,
    };
    tracing::debug!(?what, %error, "the cluster refuses");
    Done::Refused(Refusal {
        what,
        why,
        words: error.to_string(),
    })
}

/// Changes the object's metadata, if it is as it was seen. A merge patch and no server-side apply: the object is its
/// users', and an annotation or finalizer that somebody has copied or restored with it must go all the same, whoever
/// is said to manage it.
async fn patch(
    api: &Api<DynamicObject>,
    raw: &DynamicObject,
    memory: Option<(&Memory, &str)>,
    finalizer: bool,
    recreated: bool,
) -> kube::Result<DynamicObject> {
    let mut finalizers = raw.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|one| one != TOPIC_FINALIZER);
    if finalizer {
        finalizers.push(TOPIC_FINALIZER.to_owned());
    }
    let mut annotations = memory.map(|(memory, uid)| memory.patch(uid)).unwrap_or_default();
    if recreated {
        annotations.insert(RECREATE.to_owned(), Value::Null);
    }
    let mut metadata = json!({ "resourceVersion": raw.metadata.resource_version, "finalizers": finalizers });
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations);
    }
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = raw.metadata.name.as_deref().unwrap_or_default();
    api.patch(name, &params, &Patch::Merge(json!({ "metadata": metadata })))
        .await
}

/// Lets an object go whose spec can't be read. Its topic stays.
///
/// # Errors
/// The API server refuses.
pub async fn let_go(api: &Api<DynamicObject>, raw: &DynamicObject) -> kube::Result<()> {
    patch(api, raw, None, false, false).await.map(drop)
}
