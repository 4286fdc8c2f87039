//! The first revision of the pods' template. Released revisions are never changed.

use serde_json::{Value, json};

use super::{
    Blueprint,
    config::variable,
    objects::{labels, selector},
};
use crate::names::{CLIENT_PORT, HTTP_PORT, INTERNAL_PORT, POD_INDEX_LABEL, RESTARTED_AT, ZONE_LABEL};

/// The user and group that brokers run as: "nobody who may anything", as in distroless images.
const USER: i64 = 65532;

pub(super) fn pod_template(blueprint: &Blueprint) -> Value {
    let mut annotations = json!({
        "kubectl.kubernetes.io/default-container": "broker",
        "prometheus.io/scrape": "true",
        "prometheus.io/port": HTTP_PORT.to_string(),
        "prometheus.io/path": "/metrics",
    });
    if let Some(time) = &blueprint.restarted_at {
        annotations[RESTARTED_AT] = json!(time);
    }
    let mut spec = json!({
        "serviceAccountName": blueprint.key.brokers(),
        "automountServiceAccountToken": false,
        // With links, each Service of the namespace would put variables into the brokers' environment.
        "enableServiceLinks": false,
        // Handing over, flushing and ending calls takes seconds; a full disk's flush may take longer.
        "terminationGracePeriodSeconds": 300,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            // The default walks over all files at each start: minutes for large disks (kubernetes/kubernetes#69699).
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{
                    "labelSelector": { "matchLabels": selector(blueprint) },
                    "topologyKey": "kubernetes.io/hostname",
                }],
            },
        },
        // Not DoNotSchedule: with volumes that are bound to a zone pods would wait for ever after a node is gone
        // (kubernetes/kubernetes#116629). The condition RackSpread tells what is uneven.
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": ZONE_LABEL,
            "whenUnsatisfiable": "ScheduleAnyway",
            "nodeTaintsPolicy": "Honor",
            "labelSelector": { "matchLabels": selector(blueprint) },
        }],
        "containers": [container(blueprint)],
        "volumes": [
            { "name": "config", "configMap": { "name": blueprint.key.brokers() } },
            { "name": "tmp", "emptyDir": { "sizeLimit": "64Mi" } },
        ],
    });
    if !blueprint.image_pull_secrets.is_empty() {
        let secrets = blueprint.image_pull_secrets.iter();
        spec["imagePullSecrets"] = secrets.map(|name| json!({ "name": name })).collect();
    }
    json!({ "metadata": { "labels": labels(blueprint), "annotations": annotations }, "spec": spec })
}

fn container(blueprint: &Blueprint) -> Value {
    let host = format!(
        "$(POD_NAME).{}.{}.svc",
        blueprint.key.brokers(),
        blueprint.key.namespace
    );
    let mut env = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("MILLRACE_NODE_ID", &format!("metadata.labels['{POD_INDEX_LABEL}']")),
        from_field("MILLRACE_RACK", &format!("metadata.labels['{ZONE_LABEL}']")),
        json!({ "name": "MILLRACE_ADVERTISED_ADDRESS", "value": format!("{host}:{CLIENT_PORT}") }),
        json!({ "name": "MILLRACE_ADVERTISED_INTERNAL_ADDRESS", "value": format!("{host}:{INTERNAL_PORT}") }),
        // Below the volume's root: file systems have folders of their own there, as lost+found.
        json!({ "name": "MILLRACE_DATA_DIR", "value": "/var/lib/millrace/data" }),
    ];
    // Fixed with the pod: see `config::file`. A dollar sign alone would begin a reference to another variable.
    env.extend(blueprint.config.iter().map(|(setting, value)| {
        let value = value.replace('$', "$$");
        json!({ "name": variable(setting), "value": value })
    }));
    json!({
        "name": "broker",
        "image": blueprint.image,
        "imagePullPolicy": blueprint.image_pull_policy,
        "command": ["millrace-broker", "--config", "/etc/millrace/broker.properties", "--format-if-empty"],
        "env": env,
        "ports": [
            { "name": "client", "containerPort": CLIENT_PORT, "protocol": "TCP" },
            { "name": "internal", "containerPort": INTERNAL_PORT, "protocol": "TCP" },
            { "name": "http", "containerPort": HTTP_PORT, "protocol": "TCP" },
        ],
        // An hour until it listens at all; recovery goes on behind that, however long it takes.
        "startupProbe": probe("/livez", 1, 3600),
        // Only that the process lives: not the quorum, not the disk. A restart would mend neither.
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 1, 3),
        "resources": { "requests": { "cpu": "250m", "memory": "512Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": "data", "mountPath": "/var/lib/millrace" },
            { "name": "config", "mountPath": "/etc/millrace", "readOnly": true },
            { "name": "tmp", "mountPath": "/tmp" },
        ],
    })
}

fn from_field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "http" },
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}
