//! What the operator makes of a Cluster, held by files. A revision of the pods' template that was released never
//! changes: a difference here would restart everybody's brokers when the operator is upgraded.
//!
//! `UPDATE=1 cargo test -p millrace-operator --test renders` writes the files anew; those of revisions that were
//! released must not be among the changes.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use millrace_crds::Template;
use millrace_operator::{
    names::ClusterKey,
    record::Record,
    render::{self, Blueprint, Kind, render},
};
use serde_json::{Value, json};

fn plain(revision: i32) -> Blueprint {
    Blueprint {
        key: ClusterKey::new("platform", "orders"),
        uid: "6e5ba9b4-0000-4000-8000-000000000000".into(),
        revision,
        image: "millrace/millrace:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        image_pull_secrets: Vec::new(),
        config: BTreeMap::new(),
        auto_voters: 3,
        replicas: 3,
        storage_size: "100Gi".into(),
        storage_class: None,
        disruptions: Some(1),
        opened_for_roll: false,
        evicts_unready: false,
        restarted_at: None,
        pod_template: Template::default(),
        service_template: Template::default(),
        record: Record {
            cluster_id: Some("c5bb6f01".into()),
            version: Some("0.1.0".into()),
            image: Some("millrace/millrace:0.1.0".into()),
            renderer: Some(revision),
            balanced: [0, 1, 2].into(),
            ..Record::default()
        },
    }
}

fn template(value: Value) -> Template {
    serde_json::from_value(value).unwrap()
}

fn all_fields(revision: i32) -> Blueprint {
    Blueprint {
        image: "registry.example/millrace@sha256:0123".into(),
        image_pull_policy: "Always".into(),
        image_pull_secrets: vec!["registry".into()],
        config: [
            ("max.connections".into(), "5000".into()),
            ("log.level".into(), "debug".into()),
        ]
        .into(),
        replicas: 5,
        storage_class: Some("fast".into()),
        disruptions: Some(0),
        restarted_at: Some("2026-01-01T00:00:00Z".into()),
        pod_template: template(json!({
            "metadata": { "labels": { "team": "a" } },
            "spec": {
                "priorityClassName": "data",
                "containers": [
                    { "name": "broker", "resources": { "limits": { "memory": "4Gi" } } },
                    { "name": "sidecar", "image": "sidecar:1" },
                ],
            },
        })),
        service_template: template(
            json!({ "spec": { "ports": [{ "port": 9650, "nodePort": 30650 }], "type": "NodePort" } }),
        ),
        ..plain(revision)
    }
}

fn forming(revision: i32) -> Blueprint {
    let mut blueprint = plain(revision);
    blueprint.replicas = 1;
    blueprint.auto_voters = 1;
    blueprint.disruptions = None;
    blueprint.record = Record {
        forming: Some(blueprint.uid.clone()),
        ..Record::default()
    };
    blueprint
}

fn text(blueprint: &Blueprint) -> String {
    let template = render::pod_template(blueprint).unwrap();
    render(blueprint, Some(template))
        .0
        .into_iter()
        .fold(String::new(), |mut out, object| {
            let _ = writeln!(out, "---\n{}", serde_saphyr::to_string(&object.value).unwrap());
            out
        })
}

#[test]
fn objects_are_as_the_files_say() {
    for revision in 1..=render::NEWEST {
        for (name, blueprint) in [
            ("plain", plain(revision)),
            ("all-fields", all_fields(revision)),
            ("forming", forming(revision)),
        ] {
            let file = format!("{name}-v{revision}.yaml");
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden")
                .join(&file);
            let now = text(&blueprint);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &now).unwrap();
            }
            let known = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(known == now, "{file} differs: see the head of this test");
        }
    }
}

#[test]
fn who_is_added_or_moved_restarts_nobody() {
    let hash = |blueprint: &Blueprint| render::template_hash(&render::pod_template(blueprint).unwrap()).to_owned();
    let one = plain(1);
    let mut other = plain(1);
    other.replicas = 9;
    other.auto_voters = 1;
    other.disruptions = Some(0);
    other.record.forming = Some("uid".into());
    other.record.balanced = [5].into();
    other.service_template = template(json!({ "spec": { "type": "LoadBalancer" } }));
    assert_eq!(hash(&one), hash(&other));

    let mut changed = plain(1);
    changed.config = [("max.connections".into(), "1".into())].into();
    assert_ne!(hash(&one), hash(&changed));
    let mut asked = plain(1);
    asked.restarted_at = Some("now".into());
    assert_ne!(hash(&one), hash(&asked));
}

#[test]
fn claims_have_no_owner_and_all_else_has() {
    let template = render::pod_template(&plain(1)).unwrap();
    for object in render(&plain(1), Some(template)).0 {
        assert_eq!(
            object.value["metadata"]["ownerReferences"].as_array().map(Vec::len),
            Some(1),
            "{:?}",
            object.kind
        );
        if object.kind == Kind::StatefulSet {
            let claim = &object.value["spec"]["volumeClaimTemplates"][0]["metadata"];
            assert!(claim.get("ownerReferences").is_none());
        }
    }
}

#[test]
fn a_template_that_does_not_fit_is_told_with_its_place() {
    let mut blueprint = plain(1);
    blueprint.pod_template = template(json!({ "spec": { "containers": "broker" } }));
    let error = render::pod_template(&blueprint).unwrap_err();
    assert_eq!(
        error.to_string(),
        "podTemplate.spec.containers must be a list, not a string"
    );
}
