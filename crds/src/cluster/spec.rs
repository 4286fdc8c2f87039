//! What users want of a cluster. Comments on fields are what `kubectl explain` shows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ClusterStatus;
use crate::{settings::Settings, template::Template};

/// A Millrace cluster: its brokers, their disks, and who may have topics on it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    doc = "A Millrace cluster: its brokers, their disks, and who may have topics on it.",
    status = "ClusterStatus",
    derive = "PartialEq",
    shortname = "mrc",
    category = "millrace",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether it serves as specified",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Brokers",
        type_ = "integer",
        description = "Brokers that are ready",
        json_path = ".status.readyReplicas"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        description = "Brokers that are wanted",
        json_path = ".spec.replicas"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        description = "The version that brokers run",
        json_path = ".status.version"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why it is ready or not",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Under-Min-ISR",
        type_ = "integer",
        description = "Partitions that take no records with acks=all",
        priority = 1,
        json_path = ".status.partitions.underMinISR"
    ),
    printcolumn(
        name = "Leader",
        type_ = "integer",
        description = "The broker that leads the metadata quorum",
        priority = 1,
        json_path = ".status.quorum.leader"
    ),
    printcolumn(
        name = "Bootstrap",
        type_ = "string",
        description = "The address that clients are given",
        priority = 1,
        json_path = ".status.bootstrap"
    ),
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name becomes part of Services' and pods' names: at most 40 lower case letters, digits and '-', a letter first, no '-' at the end")
        .reason(Reason::FieldValueInvalid)
)]
#[x_kube(
    validation = Rule::new("!has(self.quorum) || !has(self.quorum.voters) || self.quorum.voters <= self.replicas")
        .message("quorum.voters must not be more than replicas: each voter is a broker")
        .field_path(".quorum.voters")
)]
#[x_kube(
    validation = Rule::new("!has(self.defaults) || !has(self.defaults.replicationFactor) || self.defaults.replicationFactor <= self.replicas")
        .message("defaults.replicationFactor must not be more than replicas: each replica is on another broker")
        .field_path(".defaults.replicationFactor")
)]
#[x_kube(
    validation = Rule::new("!has(self.defaults) || !has(self.defaults.minInSyncReplicas) || self.defaults.minInSyncReplicas <= (has(self.defaults.replicationFactor) ? self.defaults.replicationFactor : (self.replicas < 3 ? self.replicas : 3))")
        .message("defaults.minInSyncReplicas must not be more than defaults.replicationFactor (by default the smaller of 3 and replicas): no record could be written")
        .field_path(".defaults.minInSyncReplicas")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// How many brokers there are. Fewer than before: the last ones are emptied first, then they go. Leave it out of
    /// what Git holds if an autoscaler sets it.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 200))]
    pub replicas: i32,

    /// The version that brokers run. Without it a cluster begins with the operator's own version and stays at that until
    /// it is told otherwise here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"))]
    pub version: Option<String>,

    /// The image that brokers run in place of the operator's with that version, also by digest
    /// (registry/millrace@sha256:...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// The brokers' disks.
    pub storage: Storage,

    /// The brokers that decide who leads what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumSpec>,

    /// What Topics get that do not say it themselves, when they are made. Topics that exist are not changed, and those
    /// that clients make go by config: num.partitions, default.replication.factor and topic.default.*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,

    /// Settings of all brokers. Those that need it restart the brokers one by one.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub config: Settings,

    /// Who may have topics on this cluster by Topic objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<TopicAccess>,

    /// How replicas are moved for balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,

    /// How brokers are restarted one by one, for new versions and settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,

    /// Whether the operator leaves the cluster as it is. In an emergency the annotation millrace.dev/paused does the
    /// same, and is not reverted by what applies this object from Git.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,

    /// Whether the API server refuses to delete this object (by the policy that the chart installs).
    #[serde(default, skip_serializing_if = "is_false")]
    pub deletion_protection: bool,

    /// Fields of the brokers' pods, merged over the operator's: maps field by field, containers, volumes, env and the
    /// like by their names, all else replaced. Who may write this may run anything in the brokers' pods.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub pod_template: Template,

    /// Fields of the Service that clients use, merged as podTemplate is.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub service_template: Template,
}

fn three() -> i32 {
    3
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// The brokers' disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.size == oldSelf.size")
        .message("size can not be changed yet: make another cluster, or set it back")
        .field_path(".size")
)]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName can not be changed: a claim keeps its class")
        .field_path(".storageClassName")
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// How large each broker's disk is, such as 100Gi.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('1Gi')) >= 0")
            .message("size must be a quantity of at least 1Gi, such as 100Gi")
    )]
    pub size: String,

    /// The StorageClass of the disks; the cluster's default class without it. One that binds late
    /// (WaitForFirstConsumer) lets pods choose their nodes freely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// What becomes of the disk of a broker that is taken away, after its replicas were moved off it. Delete if it is
    /// not said: nothing is on it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<ScaledStorage>,
}

/// What becomes of an emptied disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScaledStorage {
    /// Its claim is deleted.
    #[default]
    Delete,
    /// Its claim stays.
    Retain,
}

/// The metadata quorum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumSpec {
    /// How many brokers vote: 1, 3 or 5. The largest of them that is not more than replicas, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    #[x_kube(
        validation = Rule::new("self % 2 == 1")
            .message("voters must be 1, 3 or 5: an even number survives no more failures than one less")
    )]
    pub voters: Option<i32>,
}

/// What topics get that do not say it themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Partitions of a new topic; 3 if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: Option<i32>,

    /// Replicas of each partition of a new topic; the smaller of 3 and replicas if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replication_factor: Option<i32>,

    /// How many replicas must have a record before it is acknowledged. If it is not said, the cluster's default for all
    /// topics counts: 2, or the number of replicas if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub min_in_sync_replicas: Option<i32>,

    /// Settings of a new topic.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub config: Settings,
}

/// Who may have topics on a cluster by Topic objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicAccess {
    /// The namespaces whose Topics are taken; this Cluster's own if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,

    /// What the names of such topics must begin with; {namespace} stands for the Topic's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^([A-Za-z0-9._-]|\{namespace\})+$"))]
    pub name_prefix: Option<String>,
}

/// Which namespaces' Topics are taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
        .message("selector must be there with from: Selector, and only then")
)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// Same: the Cluster's own. All: all. Selector: those whose labels the selector matches.
    pub from: NamespacesFrom,

    /// The labels that a namespace must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces' Topics are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The Cluster's own.
    #[default]
    Same,
    /// All.
    All,
    /// Those with certain labels.
    Selector,
}

/// How replicas are moved for balance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// Automatic: whenever brokers were added. Manual: only by the millrace command. Automatic if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<WorkMode>,

    /// The most bytes a second that a broker takes for moves, such as 50Mi, which it is if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('64Ki')) >= 0")
            .message("maxBytesPerSecond must be a quantity of at least 64Ki, such as 50Mi")
    )]
    pub max_bytes_per_second: Option<String>,
}

/// Whether something begins by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkMode {
    /// It does.
    #[default]
    Automatic,
    /// It waits for somebody to begin it.
    Manual,
}

/// How brokers are restarted one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Automatic: at once. Approved: each time only when the annotation millrace.dev/approve names the hash that
    /// status.rollout shows. Automatic if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RolloutMode>,

    /// How long a broker may take to come back before the roll stops and the cluster is reported as stalled; 1800 if it
    /// is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86_400))]
    pub deadline_seconds: Option<i32>,
}

/// When brokers are restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutMode {
    /// At once.
    #[default]
    Automatic,
    /// When it is approved.
    Approved,
}
