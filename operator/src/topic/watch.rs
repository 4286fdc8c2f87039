//! What makes a pass begin: the Topic itself, and its Cluster.

use std::{collections::HashMap, sync::Arc};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _, predicates,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use millrace_crds::{Cluster, Topic};

use super::reconciler::Reconciler;
use crate::{
    names::ClusterKey,
    pass::{WatchBackoff, scoped},
};

/// What the watch knows of a Topic. Only metadata: an object that this operator can't read must not stop the others
/// (kube-rs/kube#774).
pub type Seed = PartialObjectMeta<Topic>;

/// Topics whose spec, annotations or finalizers have changed. The generation alone would swallow what follows our own
/// finalizer and the annotations by which people speak to us; status alone is our own doing.
pub fn topics(
    api: Api<Seed>,
    reconciler: Arc<Reconciler>,
) -> (
    Store<Seed>,
    impl Stream<Item = Result<Seed, watcher::Error>> + Send + 'static,
) {
    let writer = Writer::<Seed>::default();
    let reader = writer.as_reader();
    let changed = watcher(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .modify(|topic| topic.managed_fields_mut().clear())
        .inspect(move |event| {
            if let Ok(Event::Delete(topic)) = event {
                reconciler.forget(&topic.namespace().unwrap_or_default(), &topic.name_any());
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            kube::runtime::Predicate::combine(
                kube::runtime::Predicate::combine(
                    predicates::generation as fn(&Seed) -> Option<u64>,
                    predicates::annotations as fn(&Seed) -> Option<u64>,
                ),
                predicates::finalizers as fn(&Seed) -> Option<u64>,
            ),
            kube::runtime::PredicateConfig::default(),
        );
    (reader, changed)
}

/// The Topics of each Cluster that has changed in what Topics go by: its spec, whether it is being deleted, whether it
/// is ready. Its other status changes all the time.
pub fn clusters(
    client: &Client,
    namespace: Option<&str>,
    reconciler: Arc<Reconciler>,
) -> impl Stream<Item = ObjectRef<Seed>> + Send + 'static {
    let api: Api<DeserializeGuard<Cluster>> = scoped(client, namespace);
    let mut known = Known::default();
    watcher(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .filter_map(move |event| {
            let changed = match event {
                Ok(Event::Apply(cluster) | Event::InitApply(cluster)) => known.sees(&cluster),
                Ok(Event::Delete(cluster)) => Some(known.loses(&cluster)),
                Ok(Event::Init | Event::InitDone) => None,
                Err(error) => {
                    tracing::debug!(%error, "the watch of Clusters is begun again");
                    None
                }
            };
            std::future::ready(changed)
        })
        .flat_map(move |cluster| {
            let topics = reconciler.changed(&cluster);
            stream::iter(
                topics
                    .into_iter()
                    .map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)),
            )
        })
}

/// What Topics go by.
#[derive(Debug, PartialEq, Eq)]
struct Matters {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    ready: Option<String>,
}

#[derive(Debug, Default)]
struct Known(HashMap<ClusterKey, Matters>);

impl Known {
    /// The Cluster, if it is not as it was.
    fn sees(&mut self, cluster: &DeserializeGuard<Cluster>) -> Option<ClusterKey> {
        let key = key(cluster);
        let matters = Matters {
            uid: cluster.uid(),
            generation: cluster.meta().generation,
            deleting: cluster.meta().deletion_timestamp.is_some(),
            ready: ready(cluster),
        };
        (self.0.insert(key.clone(), matters).as_ref() != self.0.get(&key)).then_some(key)
    }

    fn loses(&mut self, cluster: &DeserializeGuard<Cluster>) -> ClusterKey {
        let key = key(cluster);
        self.0.remove(&key);
        key
    }
}

fn key(cluster: &DeserializeGuard<Cluster>) -> ClusterKey {
    ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
}

fn ready(cluster: &DeserializeGuard<Cluster>) -> Option<String> {
    let status = cluster.0.as_ref().ok()?.status.as_ref()?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(ready.status.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster(generation: i64, ready: &str, brokers: i64) -> DeserializeGuard<Cluster> {
        guard(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
            "metadata": {"namespace": "a", "name": "c", "uid": "u", "generation": generation},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {"readyReplicas": brokers, "conditions": [{
                "type": "Ready", "status": ready, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        }))
    }

    fn guard(value: Value) -> DeserializeGuard<Cluster> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_topics_go_by_wakes_them() {
        let key = Some(ClusterKey::new("a", "c"));
        let mut known = Known::default();
        assert_eq!(known.sees(&cluster(1, "False", 0)), key);
        assert_eq!(known.sees(&cluster(1, "False", 2)), None, "other status");
        assert_eq!(known.sees(&cluster(1, "True", 3)), key);
        assert_eq!(known.sees(&cluster(2, "True", 3)), key);
        assert_eq!(known.sees(&cluster(2, "True", 3)), None);
        let going = guard(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
            "metadata": {
                "namespace": "a", "name": "c", "uid": "u", "generation": 2,
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"storage": 7},
        }));
        assert!(going.0.is_err(), "it is of another version");
        assert_eq!(known.sees(&going), key);
        assert_eq!(Some(known.loses(&going)), key);
        assert_eq!(known.sees(&going), key);
    }
}
