//! The objects that need no versions: changing them restarts nothing.

use serde_json::{Value, json};

use super::{Blueprint, RenderError, config};
use crate::names::{
    BROKER_COMPONENT, CLIENT_PORT, CLUSTER_LABEL, COMPONENT_LABEL, HTTP_PORT, INTERNAL_PORT, MANAGED_BY,
    OPENED_FOR_ROLL,
};

/// What selects the brokers' pods; a StatefulSet can never change it.
pub(super) fn selector(blueprint: &Blueprint) -> Value {
    json!({ CLUSTER_LABEL: blueprint.key.name, COMPONENT_LABEL: BROKER_COMPONENT })
}

/// The labels of all objects.
pub(super) fn labels(blueprint: &Blueprint) -> Value {
    json!({
        "app.kubernetes.io/name": "millrace",
        "app.kubernetes.io/instance": blueprint.key.name,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/part-of": "millrace",
        COMPONENT_LABEL: BROKER_COMPONENT,
        CLUSTER_LABEL: blueprint.key.name,
    })
}

fn object(blueprint: &Blueprint, api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": blueprint.key.namespace,
            "labels": labels(blueprint),
            "annotations": {},
            // The object goes with the Cluster. Claims have no owner: data never goes by itself.
            "ownerReferences": [{
                "apiVersion": "millrace.dev/v1alpha1",
                "kind": "Cluster",
                "name": blueprint.key.name,
                "uid": blueprint.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
    })
}

pub(super) fn service_account(blueprint: &Blueprint) -> Value {
    let mut account = object(blueprint, "v1", "ServiceAccount", &blueprint.key.brokers());
    account["automountServiceAccountToken"] = json!(false);
    account
}

pub(super) fn config_map(blueprint: &Blueprint) -> Value {
    let mut map = object(blueprint, "v1", "ConfigMap", &blueprint.key.brokers());
    map["metadata"]["annotations"] = blueprint.record.annotations();
    map["data"] = json!({ "broker.properties": config::file(blueprint) });
    map
}

fn port(name: &str, port: i32) -> Value {
    json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" })
}

fn grpc(name: &str, number: i32) -> Value {
    let mut port = port(name, number);
    // What service meshes and gateways go by (KEP-3726).
    port["appProtocol"] = json!("kubernetes.io/h2c");
    port
}

pub(super) fn headless_service(blueprint: &Blueprint) -> Value {
    let mut service = object(blueprint, "v1", "Service", &blueprint.key.brokers());
    service["spec"] = json!({
        "clusterIP": "None",
        // Brokers find each other before they are ready: readiness needs the quorum (nats-io/k8s#441).
        "publishNotReadyAddresses": true,
        "selector": selector(blueprint),
        "ports": [grpc("client", CLIENT_PORT), grpc("internal", INTERNAL_PORT), port("http", HTTP_PORT)],
    });
    service
}

pub(super) fn bootstrap_service(blueprint: &Blueprint) -> Result<Value, RenderError> {
    let mut service = object(blueprint, "v1", "Service", &blueprint.key.bootstrap_service());
    service["spec"] = json!({
        "type": "ClusterIP",
        "selector": selector(blueprint),
        "ports": [grpc("client", CLIENT_PORT)],
    });
    blueprint
        .service_template
        .merge_over(&mut service)
        .map_err(|error| RenderError::Template {
            field: "serviceTemplate",
            error,
        })?;
    Ok(service)
}

pub(super) fn network_policy(blueprint: &Blueprint) -> Value {
    let mut policy = object(
        blueprint,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        &blueprint.key.brokers(),
    );
    policy["spec"] = json!({
        "podSelector": { "matchLabels": selector(blueprint) },
        "policyTypes": ["Ingress"],
        "ingress": [
            { "ports": [{ "port": "client", "protocol": "TCP" }, { "port": "http", "protocol": "TCP" }] },
            {
                "from": [{ "podSelector": { "matchLabels": selector(blueprint) } }],
                "ports": [{ "port": "internal", "protocol": "TCP" }],
            },
        ],
    });
    policy
}

pub(super) fn disruption_budget(blueprint: &Blueprint, disruptions: i32) -> Value {
    let mut budget = object(blueprint, "policy/v1", "PodDisruptionBudget", &blueprint.key.brokers());
    if blueprint.opened_for_roll {
        budget["metadata"]["annotations"][OPENED_FOR_ROLL] = json!("true");
    }
    budget["spec"] = json!({
        "maxUnavailable": disruptions,
        "selector": { "matchLabels": selector(blueprint) },
        // A broker that catches up is not to be taken away by a drain, a sick one may be (KEP-3017).
        "unhealthyPodEvictionPolicy": if blueprint.evicts_unready { "AlwaysAllow" } else { "IfHealthyBudget" },
    });
    budget
}

pub(super) fn stateful_set(blueprint: &Blueprint, template: Value) -> Value {
    let mut set = object(blueprint, "apps/v1", "StatefulSet", &blueprint.key.brokers());
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": "data", "labels": labels(blueprint) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": blueprint.storage_size } },
        },
    });
    if let Some(class) = &blueprint.storage_class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    set["spec"] = json!({
        "replicas": blueprint.replicas,
        "serviceName": blueprint.key.brokers(),
        // A set that starts its pods one after another never starts again if they need each other to become ready
        // (rabbitmq/cluster-operator#609), and one that replaces them by itself asks nobody whether it may.
        "podManagementPolicy": "Parallel",
        "updateStrategy": { "type": "OnDelete" },
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
        "selector": { "matchLabels": selector(blueprint) },
        "template": template,
        "volumeClaimTemplates": [claim],
    });
    set
}
