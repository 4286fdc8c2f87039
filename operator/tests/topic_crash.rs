//! The operator dies at any request, before it is sent or before its answer comes. The next pass ends where an
//! undisturbed one does.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod topic_support;

use std::time::Duration;

use millrace_client::NewTopic;
use millrace_operator::topic::reconciler::Reconciler;
use serde_json::{Value, json};
use topic_support::{World, api_server::Fault, pair};

/// Runs passes, the first of them with a fault, until one after it has succeeded. Each has an operator of its own.
/// False: the fault did not come any more.
async fn interrupted(world: &World, name: &str, request: usize, fault: Fault) -> bool {
    world.api.fail(request, fault);
    let first = Reconciler::new(world.context.clone()).pass("a", name).await;
    if world.api.take_fault() {
        first.unwrap();
        return false;
    }
    // Events may be lost: they are no part of the state. Some failures are swallowed by that.
    let _ = first;
    for _ in 0..3 {
        Reconciler::new(world.context.clone()).pass("a", name).await.unwrap();
    }
    true
}

/// What must be the same: the object without versions, times and ids.
fn outcome(object: &Value) -> Value {
    let mut object = object.clone();
    for field in ["resourceVersion", "uid"] {
        object["metadata"][field] = Value::Null;
    }
    for name in ["recorded-for", "topic-id"] {
        let annotation = &mut object["metadata"]["annotations"][format!("millrace.dev/{name}")];
        assert!(annotation.is_string(), "{name} is remembered");
        *annotation = Value::Null;
    }
    assert!(object["status"]["topicID"].is_string());
    object["status"]["topicID"] = Value::Null;
    for condition in object["status"]["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = Value::Null;
    }
    object
}

#[tokio::test]
async fn a_creation_that_is_cut_off_anywhere_ends_the_same() {
    let world = World::new().await;
    let spec = |name: &str| json!({"name": name, "partitions": 2, "config": {"retention.ms": "1000"}});
    world.topic("a", "t0", spec("t"));
    world.pass("a", "t0").await;
    let mut expected = outcome(&world.object("a", "t0"));
    let mut cut_off = 0;
    for fault in [Fault::Unsent, Fault::Unanswered] {
        for request in 0.. {
            let name = format!("t-{fault:?}-{request}").to_lowercase();
            world.topic("a", &name, spec(&name));
            let came = interrupted(&world, &name, request, fault).await;
            expected["metadata"]["name"] = name.clone().into();
            expected["spec"]["name"] = name.clone().into();
            expected["status"]["topicName"] = name.clone().into();
            expected["status"]["owner"] = format!("a/{name}").into();
            assert_eq!(
                outcome(&world.object("a", &name)),
                expected,
                "{fault:?} at request {request}"
            );
            let described = world.described(&name).await.unwrap();
            assert_eq!(described.partitions.len(), 2);
            if !came {
                break;
            }
            cut_off += 1;
        }
    }
    assert!(cut_off >= 12, "only {cut_off} places were tried");
}

#[tokio::test]
async fn an_adoption_that_is_cut_off_anywhere_is_an_adoption() {
    let world = World::new().await;
    let mut cut_off = 0;
    for fault in [Fault::Unsent, Fault::Unanswered] {
        for request in 0.. {
            let name = format!("t-{fault:?}-{request}").to_lowercase();
            world
                .admin
                .create_topic(NewTopic::new(&name).partitions(1))
                .await
                .unwrap();
            world.topic("a", &name, json!({}));
            let came = interrupted(&world, &name, request, fault).await;
            assert_eq!(
                world.ready("a", &name),
                pair("True", "Ready"),
                "{fault:?} at request {request}"
            );
            assert_eq!(world.object("a", &name)["status"]["adopted"], true);
            assert!(!world.has_finalizer("a", &name));
            if !came {
                break;
            }
            cut_off += 1;
        }
    }
    assert!(cut_off >= 10, "only {cut_off} places were tried");
}

#[tokio::test]
async fn a_deletion_that_is_cut_off_anywhere_ends_the_same() {
    let world = World::new().await;
    let mut cut_off = 0;
    for fault in [Fault::Unsent, Fault::Unanswered] {
        for request in 0.. {
            let name = format!("t-{fault:?}-{request}").to_lowercase();
            world.topic("a", &name, json!({"partitions": 1}));
            world.pass("a", &name).await;
            world.api.delete("topics", "a", &name);
            let came = interrupted(&world, &name, request, fault).await;
            assert_eq!(
                world.api.get("topics", "a", &name),
                None,
                "{fault:?} at request {request}"
            );
            assert_eq!(world.described(&name).await, None, "{fault:?} at request {request}");
            if !came {
                break;
            }
            cut_off += 1;
        }
    }
    assert!(cut_off >= 8, "only {cut_off} places were tried");
}

#[tokio::test]
async fn a_setting_that_was_taken_out_is_unset_whatever_happens_between() {
    let world = World::new().await;
    let mut cut_off = 0;
    for fault in [Fault::Unsent, Fault::Unanswered] {
        for request in 0.. {
            let name = format!("t-{fault:?}-{request}").to_lowercase();
            world.topic(
                "a",
                &name,
                json!({"config": {"retention.ms": "1000", "segment.ms": "60000"}}),
            );
            world.pass("a", &name).await;
            world.topic(
                "a",
                &name,
                json!({"config": {"segment.ms": "70000", "retention.bytes": "1000000"}}),
            );
            tokio::time::sleep(Duration::from_millis(210)).await;
            let came = interrupted(&world, &name, request, fault).await;
            let mut config = world.config(&name).await;
            config.sort();
            let expected = [("retention.bytes", "1000000"), ("segment.ms", "70000")];
            let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(config, expected, "{fault:?} at request {request}");
            let object = world.object("a", &name);
            assert_eq!(
                object["metadata"]["annotations"]["millrace.dev/managed-config"],
                "retention.bytes,segment.ms"
            );
            if !came {
                break;
            }
            cut_off += 1;
        }
    }
    assert!(cut_off >= 6, "only {cut_off} places were tried");
}
