//! Reading: the API server, without any cache between, and the brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, PersistentVolumeClaim, Pod as KubePod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use millrace_client::{Client, v1};
use millrace_crds::Cluster;
use serde_json::Value;

use super::{
    blueprint,
    seen::{Claim, OperatorDefaults, Pod, Reach, Seen, Told},
    wishes::Wishes,
};
use crate::{
    context::Context,
    names::{ClusterKey, TEMPLATE_HASH},
    options::VERSION,
    pass::get_opt,
    render::Kind,
};

/// Brokers that do not answer by then are for this pass not there: what it mends may be why they don't.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// The container that runs the broker.
const CONTAINER: &str = "broker";

/// The API of a kind of object.
#[must_use]
pub fn api(context: &Context, key: &ClusterKey, kind: Kind) -> Api<DynamicObject> {
    let (group, version, name, plural) = kind.api();
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
    Api::namespaced_with(context.kube.clone(), &key.namespace, &resource)
}

/// Looks at all that belongs to a cluster.
///
/// # Errors
/// The API server can't be asked. That brokers can't be is something seen.
pub async fn observe(context: &Context, key: &ClusterKey, cluster: &Cluster) -> anyhow::Result<Seen> {
    let objects = join_all(Kind::ALL.map(|kind| async move {
        let object = api(context, key, kind).get_opt(&kind.name(key)).await;
        let object = object.with_context(|| format!("read {} {}", kind.api().2, kind.name(key)))?;
        let value = object.map(serde_json::to_value).transpose()?;
        anyhow::Ok(value.map(|value| (kind, value)))
    }))
    .await;
    // The first in their order: what is told of it must not change from pass to pass.
    let objects: Vec<Option<(Kind, Value)>> = objects.into_iter().collect::<anyhow::Result<_>>()?;
    let selected = ListParams::default().labels(&key.selector());
    let pods: Api<KubePod> = Api::namespaced(context.kube.clone(), &key.namespace);
    let pods = pods.list(&selected).await.context("list the brokers' pods")?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.kube.clone(), &key.namespace);
    let labelled = claims.list(&selected).await.context("list the brokers' claims")?;
    let options = &context.options;
    let secrets = options.image_pull_secrets.iter().filter(|name| !name.is_empty());
    let mut seen = Seen {
        now: Timestamp::now(),
        key: key.clone(),
        cluster: cluster.clone(),
        operator: OperatorDefaults {
            version: VERSION.to_owned(),
            image: options.image.clone(),
            image_pull_policy: options.image_pull_policy.clone(),
            image_pull_secrets: secrets.cloned().collect(),
        },
        objects: objects.into_iter().flatten().collect(),
        pods: pods.into_iter().filter_map(|each| pod(key, &each)).collect(),
        claims: labelled.into_iter().filter_map(|each| claim(key, &each)).collect(),
        brokers: Reach::Unasked,
    };
    if !seen.objects.contains_key(&Kind::ConfigMap) {
        // Whether there once was a cluster of this name is about to be judged: claims that were restored from a backup
        // may lack our labels.
        for id in (0..cluster.spec.replicas)
            .filter(|id| !seen.claims.contains_key(id))
            .collect::<Vec<_>>()
        {
            let found = claims
                .get_opt(&key.claim(id))
                .await
                .context("read the brokers' claims")?;
            seen.claims.extend(found.and_then(|found| claim(key, &found)));
        }
    }
    if seen.pods.values().any(|pod| pod.running) {
        seen.brokers = ask(context, &seen).await;
    }
    Ok(seen)
}

async fn ask(context: &Context, seen: &Seen) -> Reach {
    let uid = seen.cluster.metadata.uid.as_deref().unwrap_or_default();
    let told = async {
        let client = context.links.client(&seen.key, uid).await?;
        tell(&client, seen).await
    };
    match tokio::time::timeout(ASK_WITHIN, told).await {
        Ok(Ok(told)) => Reach::Reached(Box::new(told)),
        Ok(Err(error)) => Reach::Unreachable(error.to_string()),
        Err(_) => Reach::Unreachable(format!("no answer within {ASK_WITHIN:?}")),
    }
}

async fn tell(client: &Client, seen: &Seen) -> Result<Told, millrace_client::Error> {
    let admin = client.admin();
    let record = blueprint::record(seen);
    let wishes = Wishes::of(&seen.cluster);
    let cluster = admin.describe_cluster().await?;
    let members = admin.describe_quorum().await?.members;
    let health = cluster.health.clone().unwrap_or_default();
    let moving = health.moving.is_some_and(|moving| moving.count > 0);
    let moves = if moving {
        admin.list_reassignments(None).await?
    } else {
        Vec::new()
    };
    let topic_defaults = if record.topic_defaults.is_empty() && wishes.topic_defaults.is_empty() {
        BTreeMap::new()
    } else {
        let all = admin.describe_topic_defaults().await?;
        let set = all
            .into_iter()
            .filter(|config| config.source() == v1::ConfigSource::Cluster);
        set.map(|config| (config.name, config.value)).collect()
    };
    let settings = if wishes.settings.is_empty() {
        BTreeSet::new()
    } else {
        settings(&admin, &cluster).await
    };
    let mut placements: BTreeMap<Vec<i32>, usize> = BTreeMap::new();
    let mut out_of_sync = BTreeSet::new();
    for topic in client.cluster().topics.values() {
        for partition in &topic.partitions {
            *placements.entry(partition.replicas.clone()).or_default() += 1;
            let behind = partition
                .replicas
                .iter()
                .filter(|id| !partition.in_sync_replicas.contains(id));
            out_of_sync.extend(behind.copied());
        }
    }
    Ok(Told {
        cluster,
        members,
        moves,
        placements,
        out_of_sync,
        topic_defaults,
        settings,
    })
}

/// The settings that brokers know; none if the broker that answers is on its way out.
async fn settings(admin: &millrace_client::Admin, cluster: &v1::DescribeClusterResponse) -> BTreeSet<String> {
    for broker in cluster.brokers.iter().filter(|broker| broker.available) {
        if let Ok(configs) = admin.describe_broker_configs(broker.broker_id).await {
            return configs.into_iter().map(|config| config.name).collect();
        }
    }
    BTreeSet::new()
}

/// A broker's pod, with its number; others that carry the labels are not brokers.
fn pod(key: &ClusterKey, pod: &KubePod) -> Option<(i32, Pod)> {
    let id = number(&pod.name_any(), &format!("{}-", key.brokers()))?;
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let (ready, unready) = match condition("Ready") {
        Some(condition) if condition.status == "True" => (Some(condition), None),
        condition => (None, condition),
    };
    let unscheduled = condition("PodScheduled").filter(|condition| condition.status == "False");
    let containers = status.container_statuses.unwrap_or_default();
    let broker = containers.iter().find(|container| container.name == CONTAINER);
    let waiting = broker.and_then(|broker| broker.state.as_ref()?.waiting.as_ref());
    let ended = broker.and_then(last_end);
    let seen = Pod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        resource_version: pod.resource_version().unwrap_or_default(),
        hash: pod.annotations().get(TEMPLATE_HASH).cloned().unwrap_or_default(),
        created: pod.creation_timestamp().map(|time| time.0),
        ready_since: ready
            .and_then(|ready| ready.last_transition_time.as_ref())
            .map(|time| time.0),
        unready_since: unready
            .and_then(|unready| unready.last_transition_time.as_ref())
            .map(|time| time.0),
        scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
        unschedulable: unscheduled.and_then(|condition| condition.message.clone()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        running: broker.is_some_and(|broker| broker.state.as_ref().is_some_and(|state| state.running.is_some())),
        waiting: waiting.map(|waiting| {
            let reason = waiting.reason.clone().unwrap_or_default();
            (reason, waiting.message.clone().unwrap_or_default())
        }),
        last_end: ended.map(last_words),
        last_ended: ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0),
        last_run: ended.and_then(last_run),
        restarts: broker.map_or(0, |broker| broker.restart_count),
    };
    Some((id, seen))
}

/// How the process ended the last time.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [&container.state, &container.last_state];
    states.into_iter().flatten().find_map(|state| state.terminated.as_ref())
}

/// What the process wrote last before it ended.
fn last_words(ended: &ContainerStateTerminated) -> String {
    let words = ended.message.as_deref().unwrap_or_default();
    let last = words.trim().lines().last().unwrap_or_default();
    if last.is_empty() {
        let reason = ended.reason.as_deref().unwrap_or_default();
        return format!("{reason} (exit code {})", ended.exit_code);
    }
    last.to_owned()
}

/// How long the process had run when it ended. One that could not be started at all has begun in 1970 for the kubelet.
fn last_run(ended: &ContainerStateTerminated) -> Option<SignedDuration> {
    let (started, finished) = (ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0);
    Some(if started > Timestamp::UNIX_EPOCH {
        finished.duration_since(started)
    } else {
        SignedDuration::ZERO
    })
}

fn claim(key: &ClusterKey, claim: &PersistentVolumeClaim) -> Option<(i32, Claim)> {
    let id = number(&claim.name_any(), &format!("data-{}-", key.brokers()))?;
    let requests = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.clone());
    let seen = Claim {
        name: claim.name_any(),
        uid: claim.uid().unwrap_or_default(),
        resource_version: claim.resource_version().unwrap_or_default(),
        bound: claim
            .status
            .as_ref()
            .is_some_and(|status| status.phase.as_deref() == Some("Bound")),
        terminating: claim.metadata.deletion_timestamp.is_some(),
        requested: requests.and_then(|requests| requests.get("storage").map(|size| size.0.clone())),
    };
    Some((id, seen))
}

fn number(name: &str, prefix: &str) -> Option<i32> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// A Cluster as the API server has it.
pub enum Read {
    /// It is there.
    There(Box<Cluster>),
    /// It is there, and this version can't read it.
    Unreadable(Value, String),
    /// It is not.
    Gone,
}

/// Reads a Cluster, anew.
///
/// # Errors
/// The API server can't be asked.
pub async fn cluster(context: &Context, key: &ClusterKey) -> anyhow::Result<Read> {
    let resource = ApiResource::erase::<Cluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.kube.clone(), &key.namespace, &resource);
    let Some(object) = get_opt(&api, &key.name).await.context("read the Cluster")? else {
        return Ok(Read::Gone);
    };
    let value = serde_json::to_value(object)?;
    Ok(match serde_json::from_value(value.clone()) {
        Ok(cluster) => Read::There(Box::new(cluster)),
        Err(error) => Read::Unreadable(value, error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(status: &Value) -> Pod {
        let object = json!({ "metadata": { "name": "orders-broker-1" }, "status": status });
        let object: KubePod = serde_json::from_value(object).unwrap();
        let (id, seen) = pod(&ClusterKey::new("demo", "orders"), &object).unwrap();
        assert_eq!(id, 1);
        seen
    }

    fn at(time: &str) -> Option<Timestamp> {
        Some(time.parse().unwrap())
    }

    #[test]
    fn since_when_a_pod_is_or_is_not_ready() {
        let ready = |status: &str| {
            let condition = json!({ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T10:00:00Z" });
            let seen = seen(&json!({ "conditions": [condition] }));
            (seen.ready_since, seen.unready_since)
        };
        let then = at("2026-01-01T10:00:00Z");
        assert_eq!(ready("True"), (then, None));
        assert_eq!(ready("False"), (None, then));
        assert_eq!(ready("Unknown"), (None, then), "its node does not tell any more");
        assert_eq!(seen(&json!({})).unready_since, None);
    }

    #[test]
    fn how_a_broker_has_ended_is_known_until_it_ends_again() {
        let ended = |from: &str, message: &str| {
            json!({ "terminated": {
                "exitCode": 1, "reason": "Error", "message": message,
                "startedAt": from, "finishedAt": "2026-01-01T10:00:00Z",
            } })
        };
        let container = |state: Value, last: Value| {
            let container = json!({
                "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": state, "lastState": last,
            });
            seen(&json!({ "containerStatuses": [container] }))
        };
        let (early, late) = ("2026-01-01T08:00:00Z", "2026-01-01T09:59:30Z");
        let again = container(
            json!({ "running": { "startedAt": "2026-01-01T10:00:20Z" } }),
            ended(late, "one\ntwo\n"),
        );
        assert_eq!((again.running, again.restarts), (true, 3));
        assert_eq!(again.last_end.as_deref(), Some("two"));
        assert_eq!(again.last_ended, at("2026-01-01T10:00:00Z"));
        assert_eq!(again.last_run, Some(SignedDuration::from_secs(30)));
        let now = container(ended(late, ""), ended(early, "before"));
        assert_eq!(
            now.last_end.as_deref(),
            Some("Error (exit code 1)"),
            "the newest counts"
        );
        assert_eq!(now.last_run, Some(SignedDuration::from_secs(30)));
        let never = container(json!({ "waiting": {} }), ended("1970-01-01T00:00:00Z", "no such file"));
        assert_eq!(never.last_run, Some(SignedDuration::ZERO));
    }
}
