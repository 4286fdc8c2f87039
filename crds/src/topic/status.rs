//! What the operator reports of a topic.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// What the operator last saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Synced, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,

    /// The topic's name in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,

    /// The topic's id: another one after it was deleted and made again.
    #[serde(default, rename = "topicID", skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,

    /// How many partitions it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// How many replicas each partition has; the fewest while that is being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,

    /// Whether the topic was there before this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<bool>,

    /// The object that the cluster knows as its owner (namespace/name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,

    /// The change of its replicas that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_change: Option<ReplicaChange>,

    /// What the cluster has of the settings that this object sets.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub effective_config: Settings,
}

/// A change of a topic's replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaChange {
    /// The replicas that each partition is to have.
    pub target: i32,
    /// Partitions that are left.
    pub moves_remaining: i32,
    /// Bytes that are left to copy, rounded.
    pub bytes_remaining: i64,
}
