//! One Topic from its making to its end, against a real broker.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod topic_support;

use http::Method;
use k8s_openapi::api::core::v1::ObjectReference;
use millrace_client::NewTopic;
use millrace_operator::context::Told;
use serde_json::{Value, json};
use topic_support::{World, pair};

fn annotation(object: &Value, name: &str) -> Option<String> {
    object["metadata"]["annotations"][format!("millrace.dev/{name}")]
        .as_str()
        .map(str::to_owned)
}

fn configs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_topic_is_made_and_the_second_pass_writes_nothing() {
    let world = World::new().await;
    world.cluster(
        "c",
        json!({"defaults": {"partitions": 2, "minInSyncReplicas": 1, "config": {"segment.ms": "60000"}}}),
    );
    world.topic("a", "t", json!({"config": {"retention.ms": 3_600_000}}));
    world.pass("a", "t").await;

    let conditions = world.conditions("a", "t");
    assert_eq!(
        conditions,
        [("Ready", "True", "Ready"), ("Synced", "True", "Synced")].map(|(a, b, c)| (a.into(), b.into(), c.into()))
    );
    let object = world.object("a", "t");
    let status = &object["status"];
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(
        (&status["partitions"], &status["replicationFactor"]),
        (&json!(2), &json!(1))
    );
    assert_eq!((&status["topicName"], &status["owner"]), (&json!("t"), &json!("a/t")));
    assert_eq!(status["adopted"], false);
    assert_eq!(
        status["effectiveConfig"],
        json!({"retention.ms": "3600000"}),
        "only what the object sets"
    );
    let described = world.described("t").await.unwrap().topic.unwrap();
    assert_eq!(
        described.owner.unwrap().uid,
        object["metadata"]["uid"].as_str().unwrap()
    );
    let id: String = described.topic_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(status["topicID"].as_str().unwrap().replace('-', ""), id);
    assert_eq!(annotation(&object, "topic-id").as_deref(), status["topicID"].as_str());
    assert_eq!(annotation(&object, "managed-config").as_deref(), Some("retention.ms"));
    assert!(world.has_finalizer("a", "t"));
    assert_eq!(
        world.config("t").await,
        configs(&[
            ("min.insync.replicas", "1"),
            ("retention.ms", "3600000"),
            ("segment.ms", "60000")
        ])
    );
    assert_eq!(world.reasons("t"), ["TopicCreated"]);

    world.api.take_requests();
    world.pass("a", "t").await;
    let requests = world.api.take_requests();
    assert!(!requests.is_empty());
    assert!(
        requests.iter().all(|(method, _)| *method == Method::GET),
        "{requests:?}"
    );
    assert_eq!(world.object("a", "t"), object);
}

#[tokio::test]
async fn settings_partitions_and_drift_are_followed() {
    let world = World::new().await;
    world.topic(
        "a",
        "t",
        json!({"partitions": 1, "config": {"retention.ms": "1000", "segment.ms": "60000"}}),
    );
    world.pass("a", "t").await;

    // Somebody else's setting stays; one that is taken out of the spec is unset, once.
    world
        .admin
        .alter_configs("t", [("compression.type", "zstd")], Vec::<String>::new())
        .await
        .unwrap();
    world.topic("a", "t", json!({"partitions": 3, "config": {"retention.ms": "2000"}}));
    world.pass("a", "t").await;
    assert_eq!(
        world.config("t").await,
        configs(&[("compression.type", "zstd"), ("retention.ms", "2000")])
    );
    assert_eq!(world.object("a", "t")["status"]["partitions"], 3);
    assert_eq!(
        annotation(&world.object("a", "t"), "managed-config").as_deref(),
        Some("retention.ms")
    );
    assert_eq!(
        world.reasons("t"),
        ["TopicCreated", "PartitionsAdded"],
        "a newer spec is no drift"
    );
    world
        .admin
        .alter_configs("t", [("segment.ms", "70000")], Vec::<String>::new())
        .await
        .unwrap();
    world.pass("a", "t").await;
    assert!(
        world.config("t").await.contains(&("segment.ms".into(), "70000".into())),
        "handed back"
    );

    world
        .admin
        .alter_configs("t", [("retention.ms", "9")], Vec::<String>::new())
        .await
        .unwrap();
    world.pass("a", "t").await;
    assert!(
        world
            .config("t")
            .await
            .contains(&("retention.ms".into(), "2000".into()))
    );
    let (reason, note) = world.api.events("t").pop().unwrap();
    assert_eq!(
        (reason.as_str(), note.as_str()),
        ("DriftCorrected", r#"retention.ms: found "9", wanted "2000"."#)
    );

    // More partitions than asked for are not fought.
    world.admin.create_partitions("t", 4).await.unwrap();
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    assert_eq!(
        world.condition("a", "t", "Synced"),
        pair("False", "MorePartitionsThanSpec")
    );
    assert_eq!(world.described("t").await.unwrap().partitions.len(), 4);
}

#[tokio::test]
async fn what_the_broker_refuses_is_told_in_its_words() {
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    world.topic(
        "a",
        "t",
        json!({"partitions": 5, "replicationFactor": 7, "config": {"no.such.key": "1"}}),
    );
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"), "the topic is there");
    assert_eq!(world.condition("a", "t", "Synced"), pair("False", "InvalidConfig"));
    assert_eq!(world.condition("a", "t", "Stalled"), pair("True", "InvalidConfig"));
    assert!(world.message("a", "t", "Synced").contains("no.such.key"));
    assert_eq!(
        world.described("t").await.unwrap().partitions.len(),
        5,
        "the rest is done all the same"
    );
    world.topic("a", "t", json!({"partitions": 5, "replicationFactor": 7}));
    world.pass("a", "t").await;
    assert_eq!(world.condition("a", "t", "Synced"), pair("False", "TooFewBrokers"));
    world.topic("a", "t", json!({"partitions": 5, "replicationFactor": 1}));
    world.pass("a", "t").await;
    assert_eq!(world.condition("a", "t", "Synced"), pair("True", "Synced"));

    for (name, spec, reason) in [
        ("wide", json!({"replicationFactor": 3}), "TooFewBrokers"),
        ("odd", json!({"config": {"cleanup.policy": "burn"}}), "InvalidConfig"),
    ] {
        world.topic("a", name, spec);
        world.pass("a", name).await;
        assert_eq!(world.ready("a", name), pair("False", reason));
        let object = world.object("a", name);
        world.pass("a", name).await;
        assert_eq!(world.object("a", name), object, "told once");
        assert_eq!(world.described(name).await, None);
        world.topic("a", name, json!({}));
        world.pass("a", name).await;
        assert_eq!(world.ready("a", name), pair("True", "Ready"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_added_and_taken_away_while_the_topic_stays_ready() {
    let world = World::of_three().await;
    world.topic("a", "t", json!({"partitions": 4, "replicationFactor": 1}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    world.topic("a", "u", json!({"partitions": 1}));
    world.pass("a", "u").await;
    assert_eq!(
        world.object("a", "u")["status"]["replicationFactor"],
        3,
        "as many as there are brokers"
    );
    for (factor, drifted) in [(3, false), (2, false), (2, true)] {
        if drifted {
            let none: [(String, String); 0] = [];
            world
                .admin
                .alter_topic("t", none, Vec::<String>::new(), Some(3))
                .await
                .unwrap();
        } else {
            world.topic("a", "t", json!({"partitions": 4, "replicationFactor": factor}));
        }
        for _ in 0..100 {
            world.pass("a", "t").await;
            assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
            let status = world.object("a", "t")["status"].clone();
            if world.condition("a", "t", "Synced") == pair("True", "Synced") {
                assert_eq!(
                    (&status["replicaChange"], &status["replicationFactor"]),
                    (&Value::Null, &json!(factor))
                );
                break;
            }
            assert_eq!(world.condition("a", "t", "Synced"), pair("False", "MovingReplicas"));
            assert_eq!(world.condition("a", "t", "Reconciling"), pair("True", "MovingReplicas"));
            assert_eq!(status["replicaChange"]["target"], factor);
            assert!(status["replicaChange"]["movesRemaining"].as_i64().unwrap() > 0);
        }
        assert_eq!(world.condition("a", "t", "Synced"), pair("True", "Synced"));
        let described = world.described("t").await.unwrap();
        assert!(described.partitions.iter().all(|one| one.replicas.len() == factor));
    }
    let told = world.api.events("t");
    let drift = told
        .iter()
        .filter(|(reason, _)| reason == "DriftCorrected")
        .map(|(_, note)| note.as_str());
    assert_eq!(
        drift.collect::<Vec<_>>(),
        [r#"replicationFactor: found "3", wanted "2"."#]
    );
}

#[tokio::test]
async fn a_topic_that_somebody_deleted_is_made_anew_only_by_permission() {
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    let id = world.object("a", "t")["status"]["topicID"].clone();
    world.admin.delete_topic("t").await.unwrap();
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("False", "TopicMissing"));
    assert_eq!(world.described("t").await, None);
    assert_eq!(world.reasons("t"), ["TopicCreated", "TopicMissing"]);

    world.annotated("a", "t", json!({}), json!({"millrace.dev/recreate": "true"}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
    let object = world.object("a", "t");
    assert_eq!(annotation(&object, "recreate"), None, "the permission is used up");
    assert_ne!(object["status"]["topicID"], id);
    world.admin.delete_topic("t").await.unwrap();
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("False", "TopicMissing"));
    world.api.delete("topics", "a", "t");
    world.pass("a", "t").await;
    assert_eq!(world.api.get("topics", "a", "t"), None);
}

#[tokio::test]
async fn a_copied_manifest_is_an_object_of_its_own() {
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    let annotations = world.object("a", "t")["metadata"]["annotations"].clone();
    world.annotated("a", "copy", json!({}), annotations);
    world.pass("a", "copy").await;
    assert_eq!(world.ready("a", "copy"), pair("True", "Ready"));
}

#[tokio::test]
async fn paused_nothing_is_changed() {
    for by in ["spec", "annotation"] {
        let world = World::new().await;
        let (spec, annotations) = match by {
            "spec" => (json!({"paused": true}), json!({})),
            _ => (json!({}), json!({"millrace.dev/paused": "true"})),
        };
        world.annotated("a", "new", spec.clone(), annotations.clone());
        world.pass("a", "new").await;
        assert_eq!(world.ready("a", "new"), pair("False", "Paused"));
        assert_eq!(world.described("new").await, None);

        world.topic("a", "t", json!({"partitions": 1}));
        world.pass("a", "t").await;
        let mut more = spec;
        more["partitions"] = 2.into();
        world.annotated("a", "t", more, annotations);
        world.pass("a", "t").await;
        assert_eq!(world.ready("a", "t"), pair("True", "Ready"));
        assert_eq!(world.condition("a", "t", "Synced"), pair("Unknown", "Paused"));
        assert_eq!(world.described("t").await.unwrap().partitions.len(), 1);
        world.api.delete("topics", "a", "t");
        world.pass("a", "t").await;
        assert_eq!(world.api.get("topics", "a", "t"), None, "it is let go");
        assert!(world.described("t").await.is_some(), "and the topic stays");
        assert!(world.reasons("t").contains(&"TopicKept".to_owned()));
    }
}

#[tokio::test]
async fn a_deleted_object_takes_its_topic_with_it_if_it_says_so() {
    for (policy, stays) in [
        (json!({}), false),
        (json!({"deletionPolicy": "Delete"}), false),
        (json!({"deletionPolicy": "Retain"}), true),
    ] {
        let world = World::new().await;
        world.topic("a", "t", policy.clone());
        world.pass("a", "t").await;
        assert_eq!(world.has_finalizer("a", "t"), !stays);
        world.api.delete("topics", "a", "t");
        world.pass("a", "t").await;
        assert_eq!(world.api.get("topics", "a", "t"), None);
        assert_eq!(world.described("t").await.is_some(), stays, "{policy}");
    }
    // The wish may come at the last moment, when the finalizer is there.
    let world = World::new().await;
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    world.topic("a", "t", json!({"deletionPolicy": "Retain"}));
    world.api.delete("topics", "a", "t");
    world.pass("a", "t").await;
    assert_eq!(world.api.get("topics", "a", "t"), None);
    assert_eq!(world.owner("t").await, None, "others may have it");
}

#[tokio::test]
async fn what_goes_away_with_the_object_leaves_the_data() {
    type Act = fn(&World);
    let ways: [(&str, Act); 6] = [
        ("the Cluster is gone", |world| world.api.lose("clusters", "a", "c")),
        ("the Cluster is being deleted", |world| {
            let mut cluster = world.api.get("clusters", "a", "c").unwrap();
            cluster["metadata"]["finalizers"] = json!(["x/y"]);
            world.api.lose("clusters", "a", "c");
            world.api.apply("clusters", cluster);
            world.api.delete("clusters", "a", "c");
        }),
        ("the Cluster's namespace is being deleted", |world| {
            hold_and_delete(world, "namespaces", "a")
        }),
        ("the definition is being deleted", |world| {
            hold_and_delete(world, "customresourcedefinitions", "topics.millrace.dev");
        }),
        ("the definition is gone", |world| {
            world.api.lose("customresourcedefinitions", "", "topics.millrace.dev");
        }),
        (
            "the definition may not be read, and discovery says that it goes",
            |world| {
                world.api.forbid("/apis/apiextensions.k8s.io");
                world.api.stop_creation_of_topics();
            },
        ),
    ];
    for (what, act) in ways {
        let world = World::new().await;
        world.topic("a", "t", json!({}));
        world.pass("a", "t").await;
        act(&world);
        world.api.delete("topics", "a", "t");
        world.pass("a", "t").await;
        assert_eq!(world.api.get("topics", "a", "t"), None, "{what}: it is held up");
        assert!(world.described("t").await.is_some(), "{what}: the data is gone");
        assert!(world.reasons("t").contains(&"TopicKept".to_owned()), "{what}");
    }
}

fn hold_and_delete(world: &World, resource: &str, name: &str) {
    let mut object = world.api.get(resource, "", name).unwrap();
    object["metadata"]["finalizers"] = json!(["x/y"]);
    world.api.lose(resource, "", name);
    world.api.apply(resource, object);
    world.api.delete(resource, "", name);
}

#[tokio::test]
async fn without_the_right_to_look_a_deletion_waits_a_moment_and_goes_on() {
    let world = World::new().await;
    world.api.forbid("/apis/apiextensions.k8s.io");
    world.api.forbid("/api/v1/namespaces/");
    world.topic("a", "t", json!({}));
    world.pass("a", "t").await;
    world.api.delete("topics", "a", "t");
    let began = std::time::Instant::now();
    while world.api.get("topics", "a", "t").is_some() {
        assert!(began.elapsed().as_secs() < 20, "it is held up");
        world.pass("a", "t").await;
    }
    assert!(
        began.elapsed().as_secs() >= 4,
        "what else is being deleted would not have shown yet"
    );
    assert_eq!(world.described("t").await, None);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_told_and_holds_only_a_deletion() {
    let world = World::new().await;
    world.topic("a", "t", json!({"clusterRef": {"name": "nowhere"}}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("False", "ClusterNotFound"));
    assert!(!world.has_finalizer("a", "t"));

    world.cluster("dead", json!({}));
    world.topic("a", "u", json!({"clusterRef": {"name": "dead"}}));
    world.pass("a", "u").await;
    assert_eq!(world.ready("a", "u"), pair("False", "ClusterNotReady"));
    let object = world.object("a", "u");
    world.pass("a", "u").await;
    assert_eq!(world.object("a", "u"), object, "told once");

    let mut held = object;
    held["metadata"]["finalizers"] = json!([topic_support::FINALIZER]);
    world.api.lose("topics", "a", "u");
    world.api.apply("topics", held);
    world.api.delete("topics", "a", "u");
    world.pass("a", "u").await;
    assert_eq!(world.ready("a", "u"), pair("False", "Deleting"));
    world.topic(
        "a",
        "u",
        json!({"clusterRef": {"name": "dead"}, "deletionPolicy": "Retain"}),
    );
    world.pass("a", "u").await;
    assert_eq!(world.api.get("topics", "a", "u"), None, "a person can help");
}

#[tokio::test]
async fn an_object_of_another_version_is_told_so_and_let_go() {
    let world = World::new().await;
    world.topic("a", "t", json!({"deletionPolicy": "Archive"}));
    world.pass("a", "t").await;
    assert_eq!(world.ready("a", "t"), pair("False", "InvalidSpec"));
    assert!(world.message("a", "t", "Ready").contains("unknown variant `Archive`"));
    let object = world.object("a", "t");
    world.pass("a", "t").await;
    assert_eq!(world.object("a", "t"), object, "told once");

    world
        .admin
        .create_topic(NewTopic::new("u").partitions(1))
        .await
        .unwrap();
    let mut held = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic",
        "metadata": {"namespace": "a", "name": "u"},
        "spec": {"clusterRef": {"name": "c"}, "deletionPolicy": "Archive"},
    });
    held["metadata"]["finalizers"] = json!([topic_support::FINALIZER]);
    world.api.apply("topics", held);
    world.api.delete("topics", "a", "u");
    world.pass("a", "u").await;
    assert_eq!(world.api.get("topics", "a", "u"), None);
    assert!(world.described("u").await.is_some());
}

/// An event that is told again in other words must not be taken for the one before.
#[tokio::test]
async fn events_are_joined_by_their_words() {
    let world = World::new().await;
    let about = ObjectReference {
        kind: Some("Topic".to_owned()),
        name: Some("t".to_owned()),
        namespace: Some("a".to_owned()),
        ..ObjectReference::default()
    };
    for note in ["paused", "broker 1 ends again and again", "paused", "paused"] {
        world
            .context
            .tell(&about, Told::warning("Stalled", "Observe", note))
            .await;
    }
    let told: Vec<String> = world.api.events("t").into_iter().map(|(_, note)| note).collect();
    assert_eq!(told, ["paused", "broker 1 ends again and again"]);
}
