//! Each rule of the schemas, evaluated without a server: what it lets through, what it refuses, and the words.

use std::fmt::Debug;

use kube::{
    CustomResourceExt,
    core::cel::{validate_cel, validate_cel_update},
};
use millrace_crds::{Cluster, Topic};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"))
}

/// The rules' words, if the object is refused.
fn created<T: CustomResourceExt + Serialize + DeserializeOwned>(object: &Value) -> String {
    said(validate_cel(&read::<T>(object)))
}

fn updated<T: CustomResourceExt + Serialize + DeserializeOwned>(old: &Value, new: &Value) -> String {
    said(validate_cel_update(&read::<T>(new), &read::<T>(old)))
}

fn said<E: ToString + Debug>(result: Result<(), E>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

fn cluster(spec: Value) -> Value {
    named_cluster("orders", spec)
}

fn named_cluster(name: &str, mut spec: Value) -> Value {
    if spec.get("storage").is_none() {
        spec["storage"] = json!({"size": "10Gi"});
    }
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": name, "namespace": "platform"}, "spec": spec,
    })
}

fn topic(spec: Value) -> Value {
    named_topic("clicks", spec)
}

fn named_topic(name: &str, mut spec: Value) -> Value {
    if spec.get("clusterRef").is_none() {
        spec["clusterRef"] = json!({"name": "orders"});
    }
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

fn with_status(mut object: Value, status: Value) -> Value {
    object["status"] = status;
    object
}

#[track_caller]
fn assert_says(said: &str, words: &str) {
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

#[test]
fn the_shortest_cluster_is_taken() {
    assert_eq!(created::<Cluster>(&cluster(json!({}))), "");
}

#[test]
fn a_clusters_name_must_fit_services() {
    for name in ["orders", "o", "a-1", &"a".repeat(40)] {
        assert_eq!(created::<Cluster>(&named_cluster(name, json!({}))), "", "{name}");
    }
    for name in ["1orders", "orders-", "a.b", &"a".repeat(41)] {
        assert_says(
            &created::<Cluster>(&named_cluster(name, json!({}))),
            "at most 40 lower case letters",
        );
    }
}

#[test]
fn voters_are_odd_and_brokers() {
    for (replicas, voters) in [(1, 1), (3, 1), (3, 3), (5, 5), (200, 5)] {
        let spec = json!({"replicas": replicas, "quorum": {"voters": voters}});
        assert_eq!(created::<Cluster>(&cluster(spec)), "", "{replicas} {voters}");
    }
    let even = json!({"replicas": 5, "quorum": {"voters": 4}});
    assert_says(&created::<Cluster>(&cluster(even)), "voters must be 1, 3 or 5");
    let more = json!({"replicas": 1, "quorum": {"voters": 3}});
    assert_says(
        &created::<Cluster>(&cluster(more)),
        "quorum.voters must not be more than replicas",
    );
}

#[test]
fn a_topics_replicas_are_on_different_brokers() {
    let spec = |replicas: i32, factor: i32| json!({"replicas": replicas, "defaults": {"replicationFactor": factor}});
    assert_eq!(created::<Cluster>(&cluster(spec(3, 3))), "");
    assert_says(
        &created::<Cluster>(&cluster(spec(2, 3))),
        "defaults.replicationFactor must not be more than replicas",
    );
    // Also when brokers are taken away.
    assert_says(
        &updated::<Cluster>(&cluster(spec(3, 3)), &cluster(spec(2, 3))),
        "defaults.replicationFactor must not be more than replicas",
    );
}

#[test]
fn records_can_be_written_with_the_defaults() {
    let spec = |replicas: i32, defaults: Value| cluster(json!({"replicas": replicas, "defaults": defaults}));
    for (replicas, defaults) in [
        (3, json!({"minInSyncReplicas": 3})),
        (1, json!({"minInSyncReplicas": 1})),
        (5, json!({"replicationFactor": 5, "minInSyncReplicas": 4})),
    ] {
        assert_eq!(
            created::<Cluster>(&spec(replicas, defaults.clone())),
            "",
            "{replicas} {defaults}"
        );
    }
    for (replicas, defaults) in [
        (1, json!({"minInSyncReplicas": 2})),
        (5, json!({"minInSyncReplicas": 4})),
        (5, json!({"replicationFactor": 2, "minInSyncReplicas": 3})),
    ] {
        assert_says(
            &created::<Cluster>(&spec(replicas, defaults)),
            "defaults.minInSyncReplicas must not be more than",
        );
    }
}

#[test]
fn sizes_are_quantities() {
    let spec = |size: &str| cluster(json!({"storage": {"size": size}}));
    for size in ["1Gi", "10Gi", "2Ti", "1.5Gi", "2000000000"] {
        assert_eq!(created::<Cluster>(&spec(size)), "", "{size}");
    }
    for size in ["10GB", "large", "1Mi", "-10Gi", "0"] {
        assert_says(
            &created::<Cluster>(&spec(size)),
            "size must be a quantity of at least 1Gi",
        );
    }
    let rate = |rate: &str| cluster(json!({"rebalance": {"maxBytesPerSecond": rate}}));
    assert_eq!(created::<Cluster>(&rate("50Mi")), "");
    for wrong in ["50MB", "1", "0"] {
        assert_says(
            &created::<Cluster>(&rate(wrong)),
            "maxBytesPerSecond must be a quantity of at least 64Ki",
        );
    }
}

#[test]
fn disks_keep_size_and_class() {
    let spec = |storage: Value| cluster(json!({"storage": storage}));
    let plain = spec(json!({"size": "10Gi"}));
    let fast = spec(json!({"size": "10Gi", "storageClassName": "fast"}));
    let slow = spec(json!({"size": "10Gi", "storageClassName": "slow"}));
    assert_eq!(updated::<Cluster>(&fast, &fast), "");
    assert_eq!(updated::<Cluster>(&plain, &plain), "");
    for (old, new) in [(&fast, &slow), (&fast, &plain), (&plain, &fast)] {
        assert_says(&updated::<Cluster>(old, new), "storageClassName can not be changed");
    }
    for size in ["20Gi", "5Gi"] {
        assert_says(
            &updated::<Cluster>(&plain, &spec(json!({"size": size}))),
            "size can not be changed yet",
        );
    }
    let retained = spec(json!({"size": "10Gi", "whenScaled": "Retain"}));
    assert_eq!(updated::<Cluster>(&plain, &retained), "");
}

#[test]
fn a_selector_belongs_to_selector() {
    let spec = |allowed: Value| cluster(json!({"topics": {"allowedNamespaces": allowed}}));
    let selector = json!({"matchLabels": {"team": "shop"}});
    for allowed in [
        json!({"from": "Same"}),
        json!({"from": "All"}),
        json!({"from": "Selector", "selector": selector}),
    ] {
        assert_eq!(created::<Cluster>(&spec(allowed.clone())), "", "{allowed}");
    }
    for allowed in [
        json!({"from": "Selector"}),
        json!({"from": "All", "selector": selector}),
    ] {
        assert_says(
            &created::<Cluster>(&spec(allowed)),
            "selector must be there with from: Selector, and only then",
        );
    }
}

#[test]
fn settings_have_names() {
    assert_eq!(
        created::<Cluster>(&cluster(json!({"config": {"log.segment.bytes": 1_048_576}}))),
        ""
    );
    for name in ["", &"x".repeat(250)] {
        for object in [
            created::<Cluster>(&cluster(json!({"config": {name: "1"}}))),
            created::<Cluster>(&cluster(json!({"defaults": {"config": {name: "1"}}}))),
            created::<Topic>(&topic(json!({"config": {name: "1"}}))),
        ] {
            assert_says(&object, "each setting has a name of 1 to 249 characters");
        }
    }
}

#[test]
fn the_shortest_topic_is_taken() {
    assert_eq!(created::<Topic>(&topic(json!({}))), "");
}

#[test]
fn a_topics_name_may_be_given_apart() {
    for name in ["Orders.v1", "_a", "...", "a__b", &"x".repeat(249)] {
        assert_eq!(created::<Topic>(&topic(json!({"name": name}))), "", "{name}");
    }
    for name in [".", "..", "__offsets"] {
        assert_says(
            &created::<Topic>(&topic(json!({"name": name}))),
            "such topics are the cluster's own",
        );
    }
    let long = "x".repeat(250);
    assert_says(
        &created::<Topic>(&named_topic(&long, json!({}))),
        "give a shorter one as spec.name",
    );
    assert_eq!(created::<Topic>(&named_topic(&long, json!({"name": "x"}))), "");
}

#[test]
fn a_topic_keeps_its_name() {
    let (plain, other) = (topic(json!({})), topic(json!({"name": "other"})));
    for (old, new) in [(&plain, &other), (&other, &plain)] {
        assert_says(&updated::<Topic>(old, new), "a topic's name can not be changed");
    }
    // What is written out does not change it.
    assert_eq!(updated::<Topic>(&plain, &topic(json!({"name": "clicks"}))), "");
    assert_eq!(updated::<Topic>(&topic(json!({"name": "clicks"})), &plain), "");
}

#[test]
fn a_topic_keeps_its_cluster() {
    let plain = topic(json!({}));
    for reference in [
        json!({"name": "other"}),
        json!({"name": "orders", "namespace": "platform"}),
    ] {
        let other = topic(json!({"clusterRef": reference}));
        for (old, new) in [(&plain, &other), (&other, &plain)] {
            assert_says(&updated::<Topic>(old, new), "clusterRef can not be changed");
        }
        assert_eq!(updated::<Topic>(&other, &other), "");
    }
}

#[test]
fn partitions_are_only_added() {
    let has = |spec: Value, partitions: i32| with_status(topic(spec), json!({"partitions": partitions}));
    let wants = |partitions: i32| topic(json!({"partitions": partitions}));
    for (old, new) in [
        (has(json!({"partitions": 3}), 3), wants(3)),
        (has(json!({"partitions": 3}), 3), wants(4)),
        (has(json!({"partitions": 3}), 3), topic(json!({}))),
        (wants(3), wants(2)),
        // Asked for too many, not there yet: it may be taken back.
        (has(json!({"partitions": 3000}), 3), wants(3)),
    ] {
        assert_eq!(updated::<Topic>(&old, &new), "", "{old} {new}");
    }
    for (old, new) in [
        (has(json!({"partitions": 3}), 3), wants(2)),
        (has(json!({}), 3), wants(2)),
        (has(json!({"partitions": 3}), 5), wants(4)),
    ] {
        assert_says(&updated::<Topic>(&old, &new), "partitions can only be added");
    }
}

/// A command may have added partitions: the operator must still be able to report that, and people to change the rest.
#[test]
fn what_has_more_partitions_than_its_object_says_can_be_changed_otherwise() {
    let spec = json!({"partitions": 3});
    let old = with_status(topic(spec.clone()), json!({"partitions": 5}));
    let reported = with_status(topic(spec), json!({"partitions": 6}));
    assert_eq!(updated::<Topic>(&old, &reported), "");
    let changed = topic(json!({"partitions": 3, "config": {"retention.ms": 1}}));
    assert_eq!(updated::<Topic>(&old, &changed), "");
}
