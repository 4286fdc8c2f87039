//! Millrace's Kubernetes resources: what users write ([`ClusterSpec`], [`TopicSpec`]), what the operator reports
//! ([`ClusterStatus`], [`TopicStatus`]), the rules that the API server checks by itself, and the definitions
//! ([`definitions`]) from which the YAML in `crds/yaml` is made.
//!
//! Conventions are those of Kubernetes (`sig-architecture/api-conventions.md`): enum values in CamelCase, durations as
//! `fooSeconds`, references as `fooRef`, no floats and no unsigned numbers, no `phase`, conditions keyed by type. A
//! default stands in the schema only where it is part of a field's meaning: the API server writes it into each object
//! for ever. Others are chosen where they are used.

#![warn(missing_docs)]

mod cluster;
mod settings;
mod template;
mod topic;

pub use cluster::{
    AllowedNamespaces, BrokerStatus, Cluster, ClusterSpec, ClusterStatus, Defaults, Moves, NamespacesFrom,
    PartitionCounts, QuorumSpec, QuorumStatus, Rebalance, Rollout, RolloutMode, RolloutStatus, ScaledStorage, Storage,
    TopicAccess, WorkMode,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
pub use settings::{MAX_SETTINGS, Setting, Settings};
pub use template::{Template, TemplateError};
pub use topic::{
    AdoptionPolicy, ClusterReference, DeletionPolicy, MAX_TOPIC_NAME_LEN, ReplicaChange, Topic, TopicSpec, TopicStatus,
};

/// The group of all resources.
pub const GROUP: &str = "millrace.dev";

/// The definitions of all resources, sorted by name.
///
/// A field that may be left out may not be `null`: the rules ask `has()`, which `null` passes, and the API server takes
/// a `null` that is not allowed for a field that was left out.
///
/// # Panics
/// Never: a definition can be written as JSON and read back.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [Cluster::crd(), Topic::crd()]
        .into_iter()
        .map(|definition| {
            let mut value = serde_json::to_value(definition).expect("a definition is JSON");
            take_nullable_out(&mut value);
            serde_json::from_value(value).expect("the same definition")
        })
        .collect()
}

fn take_nullable_out(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            if fields.get("nullable").is_some_and(serde_json::Value::is_boolean) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(take_nullable_out);
        }
        serde_json::Value::Array(elements) => elements.iter_mut().for_each(take_nullable_out),
        _ => {}
    }
}
