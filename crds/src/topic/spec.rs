//! What users want of a topic. Comments on fields are what `kubectl explain` shows.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::TopicStatus;
use crate::{cluster::is_false, settings::Settings};

/// The longest name of a topic, in characters.
pub const MAX_TOPIC_NAME_LEN: usize = 249;

/// A topic of a Millrace cluster. What is left out is not managed by this object: it stays as it is.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Topic",
    namespaced,
    doc = "A topic of a Millrace cluster. What is left out is not managed by this object: it stays as it is.",
    status = "TopicStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "mrt",
    category = "millrace",
    selectable = ".spec.clusterRef.name",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions"),
    printcolumn(
        name = "RF",
        type_ = "integer",
        description = "Replicas of each partition",
        json_path = ".status.replicationFactor"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether records can be written",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why it is ready or not",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Topic",
        type_ = "string",
        description = "The topic's name in the cluster",
        priority = 1,
        json_path = ".status.topicName"
    ),
    printcolumn(
        name = "Owner",
        type_ = "string",
        description = "The object that the cluster knows as the topic's owner",
        priority = 1,
        json_path = ".status.owner"
    ),
    printcolumn(
        name = "Deletion",
        type_ = "string",
        description = "What becomes of the topic when this object is deleted",
        priority = 1,
        json_path = ".spec.deletionPolicy"
    ),
    validation = Rule::new("has(self.spec.name) || size(self.metadata.name) <= 249")
        .message("a topic's name has at most 249 characters: give a shorter one as spec.name")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name) == (has(oldSelf.spec.name) ? oldSelf.spec.name : oldSelf.metadata.name)")
        .message("a topic's name can not be changed: set deletionPolicy: Retain, delete this object, and make one with the other name")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(self.spec.partitions) || !has(oldSelf.status) || !has(oldSelf.status.partitions) || self.spec.partitions >= oldSelf.status.partitions || (has(oldSelf.spec.partitions) && self.spec.partitions == oldSelf.spec.partitions)")
        .message("partitions can only be added: the topic has more already, and keys would go to other ones")
        .reason(Reason::FieldValueInvalid)
)]
#[x_kube(
    validation = Rule::new("self.clusterRef.name == oldSelf.clusterRef.name && (has(self.clusterRef.__namespace__) ? self.clusterRef.__namespace__ : '') == (has(oldSelf.clusterRef.__namespace__) ? oldSelf.clusterRef.__namespace__ : '')")
        .message("clusterRef can not be changed: a topic does not move between clusters; make another Topic")
        .field_path(".clusterRef")
)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// The cluster that the topic is on.
    pub cluster_ref: ClusterReference,

    /// The topic's name in the cluster; this object's name if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = "MAX_TOPIC_NAME_LEN"), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    #[x_kube(
        validation = Rule::new("self != '.' && self != '..' && !self.startsWith('__')")
            .message("name must not be '.' or '..', nor begin with '__': such topics are the cluster's own")
    )]
    pub name: Option<String>,

    /// How many partitions the topic has. Partitions can be added, not taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: Option<i32>,

    /// How many replicas each partition has. When it is changed, replicas are made and taken away in the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replication_factor: Option<i32>,

    /// The topic's settings, such as retention.ms. One that is taken away here goes back to the cluster's default once.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub config: Settings,

    /// What becomes of the topic and its records when this object is deleted. If it is not said: Delete for a topic that
    /// this object has made, Retain for one that was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,

    /// What happens if the topic is there already. IfUnowned, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption_policy: Option<AdoptionPolicy>,

    /// Whether the API server refuses to delete this object (by the policy that the chart installs).
    #[serde(default, skip_serializing_if = "is_false")]
    pub deletion_protection: bool,

    /// Whether the operator leaves the topic as it is. In an emergency the annotation millrace.dev/paused does the same.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
}

/// A cluster by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReference {
    /// The Cluster's name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,

    /// The Cluster's namespace; the Topic's own if it is not said. The Cluster must allow others
    /// (topics.allowedNamespaces).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What becomes of a topic whose object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted, with all its records.
    Delete,
    /// It stays.
    Retain,
}

/// What happens if a topic is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// It is taken over, unless another object owns it.
    #[default]
    IfUnowned,
    /// It is left alone, and this object is not ready.
    Never,
}
