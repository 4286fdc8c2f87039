//! What the operator reports of a cluster. It is a report: nothing is decided by it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Reconciling, Stalled, UpToDate, ReplicasInSync, RackSpread, StorageReady.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,

    /// Brokers that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Brokers that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Brokers that run what is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,

    /// The brokers' labels, as a selector, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The version that brokers are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// The cluster's id, which it has for life.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// The address that clients are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,

    /// The metadata quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,

    /// The brokers, by id; the first 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    #[schemars(length(max = 200))]
    pub brokers: Vec<BrokerStatus>,

    /// How many partitions there are, and how they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<PartitionCounts>,

    /// Replicas that are being moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<Moves>,

    /// The restart of brokers one by one, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,

    /// The revision of the operator's templates that this cluster's brokers run with. A newer operator keeps to it until
    /// brokers are restarted for another reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renderer_revision: Option<i32>,

    /// The version of the operator that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,
}

/// The metadata quorum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// The broker that leads it; absent while nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<i32>,

    /// The brokers that vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 16))]
    pub voters: Vec<i32>,
}

/// A broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Its id, which is also its pod's number.
    pub id: i32,

    /// The rack (zone) that it has registered with; absent if it knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,

    /// Whether its pod is ready.
    pub ready: bool,

    /// Whether all its replicas are in sync.
    pub in_sync: bool,

    /// The version that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// How partitions are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionCounts {
    /// All.
    pub total: i32,
    /// Those with a replica that is not in sync.
    pub under_replicated: i32,
    /// Those with fewer replicas in sync than a record needs: they take none with acks=all.
    #[serde(rename = "underMinISR")]
    pub under_min_isr: i32,
    /// Those without a leader.
    pub offline: i32,
}

/// Replicas that are being moved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Moves {
    /// Partitions that are being moved.
    pub active: i32,
}

/// A restart of brokers one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The hash of what brokers are to run. With rollout.mode: Approved, what the annotation millrace.dev/approve has to
    /// name.
    pub template_hash: String,

    /// The broker that is being restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<i32>,

    /// What it waits for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub waiting_for: Option<String>,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_time: Option<Time>,
}
