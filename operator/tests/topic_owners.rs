//! Whose a topic is: several objects that name one, objects that come and go, and other namespaces.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod topic_support;

use millrace_client::{NewTopic, v1};
use millrace_operator::{
    commands::release_finalizers,
    options::{Namespaces, ReleaseOptions},
};
use serde_json::json;
use topic_support::{World, pair};

/// A Cluster that takes Topics from everywhere.
async fn open() -> World {
    let world = World::new().await;
    world.cluster("c", json!({"topics": {"allowedNamespaces": {"from": "All"}}}));
    world
}

#[tokio::test]
async fn of_two_objects_the_first_has_the_topic_and_the_other_touches_nothing() {
    for (namespace, name) in [("a", "second"), ("b", "first"), ("b", "second")] {
        let world = open().await;
        world.topic("a", "first", json!({"name": "t", "partitions": 1}));
        world.pass("a", "first").await;
        let before = world.described("t").await;
        let loser = json!({
            "name": "t", "partitions": 9, "config": {"retention.ms": "1"}, "deletionPolicy": "Delete",
        });
        world.topic(namespace, name, loser);
        world.pass(namespace, name).await;
        assert_eq!(world.ready(namespace, name), pair("False", "Conflict"));
        assert!(world.message(namespace, name, "Ready").contains("Topic a/first"));
        assert_eq!(world.object(namespace, name)["status"]["owner"], "a/first");
        assert!(!world.has_finalizer(namespace, name));
        assert_eq!(world.described("t").await, before);
        world.pass("a", "first").await;
        assert_eq!(world.ready("a", "first"), pair("True", "Ready"));

        // It goes without the topic, also if it has the finalizer from somewhere.
        let mut object = world.object(namespace, name);
        object["metadata"]["finalizers"] = json!([topic_support::FINALIZER]);
        world.api.lose("topics", namespace, name);
        world.api.apply("topics", object);
        world.api.delete("topics", namespace, name);
        world.pass(namespace, name).await;
        assert_eq!(world.api.get("topics", namespace, name), None);
        assert_eq!(world.described("t").await, before);
    }
}

#[tokio::test]
async fn when_the_owner_goes_with_the_topic_the_other_makes_its_own() {
    let world = open().await;
    world.topic("a", "first", json!({"name": "t"}));
    world.pass("a", "first").await;
    world.topic("b", "second", json!({"name": "t"}));
    world.pass("b", "second").await;
    let id = world.described("t").await.unwrap().topic.unwrap().topic_id;
    world.api.delete("topics", "a", "first");
    world.pass("a", "first").await;
    world.pass("b", "second").await;
    assert_eq!(world.ready("b", "second"), pair("True", "Ready"));
    let now = world.described("t").await.unwrap().topic.unwrap();
    assert_ne!(now.topic_id, id);
    assert_eq!(now.owner.unwrap().name, "second");
}

#[tokio::test]
async fn when_the_owner_goes_with_retain_the_other_takes_the_topic_over() {
    let world = open().await;
    world.topic("a", "first", json!({"name": "t", "deletionPolicy": "Retain"}));
    world.pass("a", "first").await;
    world.topic("b", "second", json!({"name": "t"}));
    world.topic("b", "never", json!({"name": "t", "adoptionPolicy": "Never"}));
    world.pass("b", "second").await;
    assert_eq!(world.ready("b", "second"), pair("False", "Conflict"));
    let id = world.described("t").await.unwrap().topic.unwrap().topic_id;
    world.api.delete("topics", "a", "first");
    assert_eq!(
        world.api.get("topics", "a", "first"),
        None,
        "nothing held it, so nobody was told"
    );
    world.pass("b", "never").await;
    assert_eq!(world.ready("b", "never"), pair("False", "AlreadyExists"));
    assert_eq!(
        world.owner("t").await.unwrap().name,
        "first",
        "who does not want it takes nothing away"
    );
    world.pass("b", "second").await;
    assert_eq!(world.ready("b", "second"), pair("True", "Ready"));
    assert_eq!(world.object("b", "second")["status"]["adopted"], true);
    let now = world.described("t").await.unwrap().topic.unwrap();
    assert_eq!((now.topic_id, now.owner.unwrap().name), (id, "second".into()));
    world.pass("b", "never").await;
    assert_eq!(world.ready("b", "never"), pair("False", "Conflict"));
}

#[tokio::test]
async fn a_restored_object_inherits_and_keeps_the_topic_at_its_end() {
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    let before = world.owner("t").await.unwrap();
    let annotations = world.object("a", "t")["metadata"]["annotations"].clone();
    world.api.lose("topics", "a", "t");
    world.annotated("a", "t", json!({}), annotations);
    // Another one is no heir.
    world.topic("a", "other", json!({"name": "t"}));
    world.pass("a", "other").await;
    assert_eq!(world.ready("a", "other"), pair("False", "Conflict"));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    let now = world.owner("t").await.unwrap();
    assert_ne!(now.uid, before.uid);
    assert_eq!(now.uid, world.object("a", "t")["metadata"]["uid"].as_str().unwrap());
    assert!(!world.has_finalizer("a", "t"), "it was there before this object");
    world.api.delete("topics", "a", "t");
    assert_eq!(world.api.get("topics", "a", "t"), None);
    assert!(world.described("t").await.is_some());
}

#[tokio::test]
async fn a_name_that_stands_for_another_topic_now_is_no_owner() {
    let world = World::new().await;
    world.topic("a", "x", json!({"name": "t", "deletionPolicy": "Retain"}));
    world.pass("a", "x").await;
    world.api.delete("topics", "a", "x");
    world.topic("a", "x", json!({"name": "elsewhere"}));
    world.topic("a", "y", json!({"name": "t"}));
    world.pass("a", "y").await;
    assert_eq!(world.ready("a", "y"), pair("True", "Ready"));
    assert_eq!(world.owner("t").await.unwrap().name, "y");
}

#[tokio::test]
async fn an_existing_topic_is_adopted_and_kept_or_left_alone() {
    let world = World::new().await;
    let admin = &world.admin;
    admin
        .create_topic(NewTopic::new("t").partitions(2).config("segment.ms", "60000"))
        .await
        .unwrap();
    world.topic("a", "never", json!({"name": "t", "adoptionPolicy": "Never"}));
    world.pass("a", "never").await;
    assert_eq!(world.ready("a", "never"), pair("False", "AlreadyExists"));
    assert_eq!(world.owner("t").await, None);

    world.topic("a", "t", json!({"config": {"retention.ms": "1000"}}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    let object = world.object("a", "t");
    assert_eq!(object["status"]["adopted"], true);
    assert_eq!(object["status"]["partitions"], 2);
    assert_eq!(object["metadata"]["annotations"]["millrace.dev/adopted"], "true");
    assert_eq!(world.reasons("t"), ["TopicAdopted"]);
    assert_eq!(world.config("t").await.len(), 2, "what was set stays");
    world.api.delete("topics", "a", "t");
    assert_eq!(world.api.get("topics", "a", "t"), None);
    assert!(world.described("t").await.is_some());

    // Adopted, and asked for.
    world.topic("a", "u", json!({"name": "t", "deletionPolicy": "Delete"}));
    world.pass("a", "u").await;
    assert!(world.has_finalizer("a", "u"));
    world.api.delete("topics", "a", "u");
    world.pass("a", "u").await;
    assert_eq!(world.described("t").await, None);
}

#[tokio::test]
async fn a_topic_made_anew_behind_our_back_is_somebody_s_data() {
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    world.admin.delete_topic("t").await.unwrap();
    world
        .admin
        .create_topic(NewTopic::new("t").partitions(1))
        .await
        .unwrap();
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    assert_eq!(world.object("a", "t")["status"]["adopted"], true);
    assert!(!world.has_finalizer("a", "t"));
}

#[tokio::test]
async fn an_owner_that_the_operator_can_t_look_at_stays_the_owner() {
    let world = World::with(&["--watch-namespaces", "a"]).await;
    let foreign = v1::TopicOwner {
        namespace: "elsewhere".into(),
        name: "x".into(),
        uid: "y".into(),
    };
    world
        .admin
        .create_topic(NewTopic::new("t").owner(foreign.clone()))
        .await
        .unwrap();
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("False", "Conflict"));
    assert!(world.message("a", "t", "Ready").contains("can't look"));
    assert_eq!(world.owner("t").await, Some(foreign));
}

#[tokio::test]
async fn another_namespace_comes_in_by_its_labels_and_goes_out_by_them() {
    let world = World::new().await;
    let selector = json!({"matchLabels": {"topics": "yes"}});
    let open = json!({"topics": {
        "allowedNamespaces": {"from": "Selector", "selector": selector}, "namePrefix": "{namespace}.",
    }});
    world.cluster("c", open);
    world.topic("b", "t", json!({"name": "b.t", "partitions": 1}));
    world.topic("b", "wrong", json!({}));
    world.topic(
        "b",
        "absent",
        json!({"clusterRef": {"name": "nowhere", "namespace": "a"}}),
    );
    for name in ["t", "wrong", "absent"] {
        world.pass("b", name).await;
        assert_eq!(world.ready("b", name), pair("False", "NotAllowedOrNotFound"));
        assert!(!world.has_finalizer("b", name));
    }
    let said = |name: &str| world.message("b", name, "Ready").replace("a/nowhere", "a/c");
    assert_eq!(said("t"), said("absent"), "nothing tells the one from the other");
    assert_eq!(said("wrong"), said("absent"));

    world.namespace("b", json!({"topics": "yes"}));
    world.pass("b", "t").await;
    assert_eq!(world.ready("b", "t"), pair("True", "Ready"));
    world.pass("b", "wrong").await;
    assert_eq!(
        world.ready("b", "wrong"),
        pair("False", "NotAllowedOrNotFound"),
        "its name"
    );
    world.topic("a", "plain", json!({}));
    world.pass("a", "plain").await;
    assert_eq!(
        world.ready("a", "plain"),
        pair("False", "NotAllowedOrNotFound"),
        "the prefix is for all"
    );
    assert!(world.message("a", "plain", "Ready").contains("\"a.\""));

    // Withdrawn: neither changed nor deleted.
    world.namespace("b", json!({}));
    world.topic(
        "b",
        "t",
        json!({"name": "b.t", "partitions": 4, "config": {"retention.ms": "1"}}),
    );
    let before = world.described("b.t").await;
    world.pass("b", "t").await;
    assert_eq!(world.ready("b", "t"), pair("False", "NotAllowedOrNotFound"));
    assert_eq!(world.described("b.t").await, before);
    world.api.delete("topics", "b", "t");
    world.pass("b", "t").await;
    assert_eq!(world.api.get("topics", "b", "t"), None);
    assert_eq!(world.described("b.t").await, before);
}

#[tokio::test]
async fn a_missing_right_is_told_and_tells_nothing_of_the_cluster() {
    let world = World::new().await;
    world.api.forbid("/api/v1/namespaces/");
    world.cluster(
        "c",
        json!({"topics": {"allowedNamespaces": {"from": "Selector", "selector": {}}}}),
    );
    world.topic("b", "t", json!({}));
    world.topic(
        "b",
        "absent",
        json!({"clusterRef": {"name": "nowhere", "namespace": "a"}}),
    );
    for name in ["t", "absent"] {
        world.pass("b", name).await;
        assert_eq!(world.ready("b", name), pair("False", "NotAllowedOrNotFound"));
        assert!(
            world
                .message("b", name, "Ready")
                .contains("may not read namespaces (get)"),
            "{name}"
        );
    }
    world.topic("a", "own", json!({}));
    world.pass("a", "own").await;
    assert_eq!(
        world.ready("a", "own"),
        pair("True", "Ready"),
        "the own namespace needs no such right"
    );
}

#[tokio::test]
async fn a_namespace_that_is_not_watched_has_no_clusters() {
    let world = World::with(&["--watch-namespaces", "b"]).await;
    world.cluster("c", json!({"topics": {"allowedNamespaces": {"from": "All"}}}));
    world.topic("b", "t", json!({}));
    world.api.take_requests();
    world.pass("b", "t").await;
    assert_eq!(world.ready("b", "t"), pair("False", "NotAllowedOrNotFound"));
    let asked = world.api.take_requests();
    assert!(asked.iter().all(|(_, path)| !path.contains("/clusters/")), "{asked:?}");
}

/// With a namespace its RoleBinding is gone, and the API server refuses to list what was in it.
#[tokio::test]
async fn finalizers_are_released_although_one_of_the_namespaces_is_gone() {
    let world = open().await;
    let mut topic = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic",
        "metadata": {"namespace": "a", "name": "t", "finalizers": [topic_support::FINALIZER]},
        "spec": {"clusterRef": {"name": "c"}, "partitions": 1},
    });
    world.api.apply("topics", topic.clone());
    world.api.forbid("/apis/millrace.dev/v1alpha1/namespaces/gone/");
    let release = |namespaces: &[&str]| {
        let watch_namespaces = namespaces.iter().map(ToString::to_string).collect();
        let options = ReleaseOptions {
            namespaces: Namespaces { watch_namespaces },
            ..ReleaseOptions::default()
        };
        let client = world.api.client();
        async move { release_finalizers::run(client, &options).await }
    };
    release(&["a", "gone"]).await.unwrap();
    assert!(!world.has_finalizer("a", "t"));
    // Who looks after all namespaces must be able to look.
    topic["metadata"]["name"] = json!("u");
    world.api.apply("topics", topic);
    world.api.forbid("/apis/millrace.dev/v1alpha1/topics");
    assert!(release(&[]).await.is_err());
    assert!(world.has_finalizer("a", "u"));
}
