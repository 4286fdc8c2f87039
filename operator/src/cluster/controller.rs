//! When a cluster is looked at, and one look.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim, Pod, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, PartialObjectMeta, Patch, PatchParams},
    runtime::{
        Controller, Predicate as _, WatchStreamExt as _,
        controller::{Action, Config},
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use millrace_crds::{Cluster, ClusterStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    act::Actor,
    decide::{self, Decision},
    observe::{self, Read},
    pulse::{self, Pulses},
    report,
    seen::Seen,
};
use crate::{
    conditions::{self, Wanted},
    context::{Context, Told},
    http::Life,
    metrics::Reconciled,
    names::{BROKER_COMPONENT, CLUSTER_LABEL, COMPONENT_LABEL, ClusterKey, FIELD_MANAGER},
    pass::{self, WatchBackoff, scoped},
};

/// So many clusters are looked at at once.
const CONCURRENCY: u16 = 8;
/// Changes of pods come in bursts: one look for several.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// While something is under way the brokers are asked so often: they don't tell by themselves.
const BUSY: Duration = Duration::from_secs(2);
/// Something has changed between the look and the act: another look.
const SOON: Duration = Duration::from_millis(300);
/// Numbers in the status are written so often at most.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);

/// What passes share.
struct Shared {
    context: Context,
    life: Arc<Life>,
    /// When the status was last written.
    written: Mutex<HashMap<ClusterKey, Instant>>,
    /// What of their health the last passes have seen.
    pulses: Arc<Pulses>,
}

/// Reconciles all Clusters of a namespace, or all, until it is told to end.
pub async fn run(context: Context, life: Arc<Life>, namespace: Option<String>, ending: CancellationToken) {
    let kube = context.kube.clone();
    let scope = namespace.as_deref();
    let (reader, writer) = reflector::store();
    let known: Store<PartialObjectMeta<Cluster>> = reader.clone();
    life.expect(move || known.len());
    // Metadata alone: one object that can't be read must not stop the others (kube-rs/kube#774).
    let clusters = watcher(
        scoped::<PartialObjectMeta<Cluster>>(&kube, scope),
        watcher::Config::default(),
    )
    .backoff(WatchBackoff::default())
    .reflect(writer)
    .inspect_ok(forget_gone(context.clone(), reader.clone(), namespace.clone()))
    .applied_objects()
    .predicate_filter(
        predicates::generation
            .combine(predicates::annotations)
            .combine(predicates::finalizers),
        Default::default(),
    );
    let brokers = watcher::Config::default().labels(&format!("{COMPONENT_LABEL}={BROKER_COMPONENT},{CLUSTER_LABEL}"));
    let pulses = Arc::<Pulses>::default();
    let beats = pulse::changes(context.clone(), pulses.clone(), reader.clone());
    let shared = Arc::new(Shared {
        context,
        life,
        written: Mutex::default(),
        pulses,
    });
    Controller::for_stream(clusters, reader)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(scoped::<PartialObjectMeta<StatefulSet>>(&kube, scope), brokers.clone())
        .owns(scoped::<PartialObjectMeta<Service>>(&kube, scope), brokers.clone())
        .owns(scoped::<PartialObjectMeta<ConfigMap>>(&kube, scope), brokers.clone())
        .owns(
            scoped::<PartialObjectMeta<PodDisruptionBudget>>(&kube, scope),
            brokers.clone(),
        )
        .watches(scoped::<PartialObjectMeta<Pod>>(&kube, scope), brokers.clone(), |pod| {
            of_cluster(&pod)
        })
        .watches(
            scoped::<PartialObjectMeta<PersistentVolumeClaim>>(&kube, scope),
            brokers,
            |claim| of_cluster(&claim),
        )
        .reconcile_on(beats)
        .trigger_backoff(WatchBackoff::default())
        .graceful_shutdown_on(async move { ending.cancelled().await })
        .run(
            reconcile,
            |_, _: &std::convert::Infallible, _| Action::requeue(BUSY),
            shared,
        )
        .for_each(|result| async move {
            // An object that is gone before its turn is no news; a watch that fails is.
            if let Err(error) = result
                && !matches!(error, kube::runtime::controller::Error::ObjectNotFound(_))
            {
                tracing::warn!(%error, "watching");
            }
        })
        .await;
}

/// Drops the connections of Clusters that are gone: of one that is deleted, and of those that were deleted while nobody
/// watched.
fn forget_gone(
    context: Context,
    known: Store<PartialObjectMeta<Cluster>>,
    namespace: Option<String>,
) -> impl Fn(&watcher::Event<PartialObjectMeta<Cluster>>) {
    move |event| match event {
        watcher::Event::Delete(cluster) => {
            let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
            context.links.forget(&key);
        }
        watcher::Event::InitDone => context.links.retain(|key| {
            let elsewhere = namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace);
            elsewhere || known.get(&ObjectRef::new(&key.name).within(&key.namespace)).is_some()
        }),
        _ => {}
    }
}

/// The Cluster whose label an object carries.
fn of_cluster<K: kube::Resource>(object: &K) -> Option<ObjectRef<PartialObjectMeta<Cluster>>> {
    let name = object.labels().get(CLUSTER_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn reconcile(
    object: Arc<PartialObjectMeta<Cluster>>,
    shared: Arc<Shared>,
) -> Result<Action, std::convert::Infallible> {
    let key = ClusterKey::new(object.namespace().unwrap_or_default(), object.name_any());
    let looked = look(&shared, &key);
    Ok(pass::run(
        &shared.context,
        &shared.life,
        Reconciled::Cluster,
        &key.namespace,
        &key.name,
        looked,
    )
    .await)
}

/// One look at one cluster.
async fn look(shared: &Shared, key: &ClusterKey) -> anyhow::Result<Action> {
    let context = &shared.context;
    let cluster = match observe::cluster(context, key).await? {
        Read::There(cluster) => *cluster,
        Read::Unreadable(value, problem) => {
            refuse(context, key, &value, &problem).await?;
            return Ok(Action::await_change());
        }
        Read::Gone => {
            context.links.forget(key);
            shared.pulses.forget(key);
            shared.written.lock().remove(key);
            return Ok(Action::await_change());
        }
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // What belongs to it goes with it by its owner references; claims, and so the data, stay.
        context.links.forget(key);
        shared.pulses.forget(key);
        return Ok(Action::await_change());
    }
    let reference = cluster.object_ref(&());
    let uid = cluster.metadata.uid.clone().unwrap_or_default();
    let seen = match observe::observe(context, key, &cluster).await {
        Ok(seen) => seen,
        Err(error) => {
            blind(context, key, &cluster, &error).await?;
            return Err(error);
        }
    };
    shared.pulses.note(key, seen.brokers.told());
    let decision = decide::decide(&seen);
    if let Some(waiting) = &decision.roll.waiting {
        context.metrics.blocked(waiting.gate);
    }
    let actor = Actor::new(context, &seen, reference.clone());
    let (outcome, result) = actor.run(&decision.steps).await;
    let error = result.as_ref().err().map(pass::in_words);
    let status = report::status(&seen, &decision, &outcome, error.as_deref());
    tell_changes(context, &reference, &seen, &status).await;
    let written = write(shared, &seen, &status).await?;
    if outcome.outran {
        return Ok(Action::requeue(SOON));
    }
    result?;
    if outcome.done == 0 && !outcome.refused.is_empty() {
        // Asked again, but not all the time.
        return Ok(Action::requeue(NUMBERS_EVERY));
    }
    Ok(Action::requeue(if is_busy(&decision, outcome.done, &status) {
        BUSY
    } else if written {
        context.resync(&uid)
    } else {
        NUMBERS_EVERY
    }))
}

/// Whether something is under way that nobody will tell of.
fn is_busy(decision: &Decision, done: usize, status: &ClusterStatus) -> bool {
    let has = |kind: &str| {
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    done > 0 || !decision.steps.is_empty() || has("Reconciling") || !has("Ready") || !has("ReplicasInSync")
}

/// An event for each condition that has become something else.
async fn tell_changes(context: &Context, reference: &ObjectReference, seen: &Seen, status: &ClusterStatus) {
    let before = seen
        .cluster
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    for condition in &status.conditions {
        let known = before.iter().find(|known| known.type_ == condition.type_);
        let same = known.is_some_and(|known| known.status == condition.status && known.reason == condition.reason);
        if same {
            continue;
        }
        let told = match (condition.type_.as_str(), condition.status.as_str()) {
            ("Ready", "True") => Told::normal("Ready", "Observe", condition.message.clone()),
            ("Ready", _) if known.is_some_and(|known| known.status == "True") => Told::warning(
                "NotReady",
                "Observe",
                format!("{}: {}", condition.reason, condition.message),
            ),
            ("Stalled", "True") => Told::warning(
                "Stalled",
                "Observe",
                format!("{}: {}", condition.reason, condition.message),
            ),
            _ => continue,
        };
        context.tell(reference, told).await;
    }
}

/// Writes the status if it differs: at once if a condition or the generation does, numbers not more often than every
/// ten seconds. `false`: it is still to be written.
async fn write(shared: &Shared, seen: &Seen, status: &ClusterStatus) -> anyhow::Result<bool> {
    let before = seen.cluster.status.clone().unwrap_or_default();
    if before == *status {
        return Ok(true);
    }
    let urgent = words(&before.conditions) != words(&status.conditions)
        || before.observed_generation != status.observed_generation;
    let recently = shared
        .written
        .lock()
        .get(&seen.key)
        .is_some_and(|last| last.elapsed() < NUMBERS_EVERY);
    if !urgent && recently {
        return Ok(false);
    }
    apply_status(&shared.context, &seen.key, serde_json::to_value(status)?).await?;
    shared.written.lock().insert(seen.key.clone(), Instant::now());
    Ok(true)
}

/// What conditions say to programs. Their messages have numbers in them.
fn words(conditions: &[Condition]) -> Vec<(&str, &str, &str)> {
    let words = conditions.iter();
    words
        .map(|condition| {
            (
                condition.type_.as_str(),
                condition.status.as_str(),
                condition.reason.as_str(),
            )
        })
        .collect()
}

async fn apply_status(context: &Context, key: &ClusterKey, status: Value) -> anyhow::Result<()> {
    let resource = ApiResource::erase::<Cluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.kube.clone(), &key.namespace, &resource);
    let patch = json!({
        "apiVersion": Cluster::api_version(&()),
        "kind": Cluster::kind(&()),
        "metadata": { "name": key.name },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if pass::is_not_found(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The operator may not see all that belongs to a cluster: only its user can mend that, so it is told where they look.
/// All else that keeps it from looking passes.
async fn blind(context: &Context, key: &ClusterKey, cluster: &Cluster, error: &anyhow::Error) -> anyhow::Result<()> {
    if !pass::is_forbidden(error) {
        return Ok(());
    }
    let wanted = [
        Wanted::unknown("Ready", "Forbidden", "the operator cannot look"),
        Wanted::yes("Stalled", "Forbidden", pass::lacking(&pass::in_words(error))),
    ];
    let status = serde_json::to_value(&cluster.status)?;
    tell_only(context, key, status, cluster.metadata.generation, &wanted).await
}

/// A Cluster that this version can't read: told in its own status, and nothing else is done.
async fn refuse(context: &Context, key: &ClusterKey, value: &Value, problem: &str) -> anyhow::Result<()> {
    let text = format!("this object can't be read: {problem}. Mend it, or use an operator of its version.");
    let wanted = [
        Wanted::no("Ready", "InvalidSpec", text.clone()),
        Wanted::yes("Stalled", "InvalidSpec", text),
    ];
    let generation = value["metadata"]["generation"].as_i64();
    tell_only(context, key, value["status"].clone(), generation, &wanted).await
}

/// Writes conditions where nothing else is known. The rest of the status stays as it was: an apply takes away what is
/// not in it, and the cluster's id is one of the things that keep a second cluster from being begun.
async fn tell_only(
    context: &Context,
    key: &ClusterKey,
    before: Value,
    generation: Option<i64>,
    wanted: &[Wanted],
) -> anyhow::Result<()> {
    let known: Vec<Condition> = serde_json::from_value(before["conditions"].clone()).unwrap_or_default();
    let conditions = conditions::merge(&known, wanted, generation, k8s_openapi::jiff::Timestamp::now());
    if conditions == known {
        return Ok(());
    }
    let mut status = if before.is_object() { before } else { json!({}) };
    status["observedGeneration"] = json!(generation);
    status["conditions"] = serde_json::to_value(conditions)?;
    apply_status(context, key, status).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vote, a move and a replica that catches up change no object: who waits for them has to look.
    #[test]
    fn what_nobody_tells_of_is_looked_at_again_soon() {
        let busy = |conditions: &[(&str, &str)]| {
            let each = |(kind, status): &(&str, &str)| {
                json!({
                    "type": kind, "status": status, "reason": "R", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            };
            let conditions: Vec<Value> = conditions.iter().map(each).collect();
            let status = serde_json::from_value(json!({ "conditions": conditions })).unwrap();
            is_busy(&Decision::default(), 0, &status)
        };
        let (ready, in_sync) = (("Ready", "True"), ("ReplicasInSync", "True"));
        assert!(!busy(&[ready, in_sync]));
        assert!(busy(&[("Ready", "False"), in_sync]));
        assert!(busy(&[ready, ("ReplicasInSync", "False")]));
        assert!(busy(&[ready, in_sync, ("Reconciling", "True")]));
    }
}
