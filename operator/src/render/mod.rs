//! What a cluster looks like in Kubernetes: pure functions from what is wanted to objects.
//!
//! The pods' template is versioned. A newer operator must not restart brokers, so a cluster keeps the revision that it
//! was made with until its brokers are restarted for a reason of its user's (CloudNativePG and Strimzi restarted
//! databases at operator upgrades; cloudnative-pg/cloudnative-pg#5950, strimzi/strimzi-kafka-operator#2791). A revision
//! that was released is never changed: the golden files in `tests/golden` hold it.

mod config;
mod objects;
mod v1;

use std::collections::BTreeMap;

use millrace_crds::Template;
use serde_json::{Value, json};

pub use config::{BEGIN_NODE, RESERVED_SETTINGS, file, variable};

use crate::{
    hash::hash,
    names::{APPLIED_HASH, ClusterKey, TEMPLATE_HASH},
    record::Record,
};

/// The newest revision of the template.
pub const NEWEST: i32 = 1;

/// All that objects are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// Which cluster.
    pub key: ClusterKey,
    /// The Cluster object's uid: what is made goes with it.
    pub uid: String,
    /// The revision of the template.
    pub revision: i32,
    /// What brokers run.
    pub image: String,
    /// When nodes pull it.
    pub image_pull_policy: String,
    /// With which secrets.
    pub image_pull_secrets: Vec<String>,
    /// Settings that brokers read when they start; those that are the operator's alone are not among them.
    pub config: BTreeMap<String, String>,
    /// Up to how many brokers vote by themselves.
    pub auto_voters: i32,
    /// How many brokers there are to be now.
    pub replicas: i32,
    /// How large their disks are.
    pub storage_size: String,
    /// Of which class.
    pub storage_class: Option<String>,
    /// How many of them a drain of nodes may take away at once; none: there is nothing to protect.
    pub disruptions: Option<i32>,
    /// It is as many only for the restart that the quorum has just permitted.
    pub opened_for_roll: bool,
    /// Pods that are not ready may be evicted whatever the others do: those that are stuck are to be replaced, and the
    /// budget alone would keep them for ever where too few are healthy.
    pub evicts_unready: bool,
    /// When the user last asked for a restart.
    pub restarted_at: Option<String>,
    /// The user's fields of the pods.
    pub pod_template: Template,
    /// The user's fields of the Service.
    pub service_template: Template,
    /// What the operator has to know the next time.
    pub record: Record,
}

/// What kind of object, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The brokers' account, without rights.
    ServiceAccount,
    /// What brokers must know to find each other, and the operator's record.
    ConfigMap,
    /// The name of each broker.
    HeadlessService,
    /// Where clients begin.
    BootstrapService,
    /// Who may talk to brokers.
    NetworkPolicy,
    /// How many may be drained at once.
    DisruptionBudget,
    /// The brokers.
    StatefulSet,
}

impl Kind {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 7] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::HeadlessService,
        Self::BootstrapService,
        Self::NetworkPolicy,
        Self::DisruptionBudget,
        Self::StatefulSet,
    ];

    /// The object's name.
    #[must_use]
    pub fn name(self, key: &ClusterKey) -> String {
        match self {
            Self::BootstrapService => key.bootstrap_service(),
            _ => key.brokers(),
        }
    }

    /// Group and version, kind and plural, as the API server has them.
    #[must_use]
    pub const fn api(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::HeadlessService | Self::BootstrapService => ("", "v1", "Service", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::DisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
        }
    }
}

/// An object as the operator wants it: its own fields and no others.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// All of it.
    pub value: Value,
}

/// Why no objects can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The user's template does not fit.
    #[error("{field}.{error}")]
    Template {
        /// Which one: `podTemplate`.
        field: &'static str,
        /// What is wrong.
        error: millrace_crds::TemplateError,
    },
}

/// Everything that a cluster needs, in the order in which it is made; the StatefulSet with the pods' template that is
/// given, and not at all without one. What the user's template does not fit is left out, and told beside.
#[must_use]
pub fn render(blueprint: &Blueprint, template: Option<Value>) -> (Vec<Object>, Option<RenderError>) {
    let (service, error) = match objects::bootstrap_service(blueprint) {
        Ok(service) => (Some((Kind::BootstrapService, service)), None),
        Err(error) => (None, Some(error)),
    };
    let set = template.map(|template| (Kind::StatefulSet, objects::stateful_set(blueprint, template)));
    let all = [
        Some((Kind::ServiceAccount, objects::service_account(blueprint))),
        Some((Kind::ConfigMap, objects::config_map(blueprint))),
        Some((Kind::HeadlessService, objects::headless_service(blueprint))),
        service,
        Some((Kind::NetworkPolicy, objects::network_policy(blueprint))),
        budget(blueprint),
        set,
    ];
    let sealed = all.into_iter().flatten().map(|(kind, value)| seal(kind, value));
    (sealed.collect(), error)
}

/// The ConfigMap alone: the brokers' file, and the record.
#[must_use]
pub fn config_map(blueprint: &Blueprint) -> Object {
    seal(Kind::ConfigMap, objects::config_map(blueprint))
}

/// The disruption budget alone; none: there is nothing to protect.
#[must_use]
pub fn disruption_budget(blueprint: &Blueprint) -> Option<Object> {
    budget(blueprint).map(|(kind, value)| seal(kind, value))
}

fn budget(blueprint: &Blueprint) -> Option<(Kind, Value)> {
    let budget = objects::disruption_budget(blueprint, blueprint.disruptions?);
    Some((Kind::DisruptionBudget, budget))
}

/// The pods' template with its hash: two pods with the same one run the same.
///
/// # Errors
/// If the user's template does not fit.
pub fn pod_template(blueprint: &Blueprint) -> Result<Value, RenderError> {
    // The one place that knows which revisions there are: so far one.
    let mut template = v1::pod_template(blueprint);
    blueprint
        .pod_template
        .merge_over(&mut template)
        .map_err(|error| RenderError::Template {
            field: "podTemplate",
            error,
        })?;
    let hash = hash(&template);
    template["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
    Ok(template)
}

/// The hash that pods of a template carry.
#[must_use]
pub fn template_hash(template: &Value) -> &str {
    template["metadata"]["annotations"][TEMPLATE_HASH]
        .as_str()
        .unwrap_or_default()
}

fn seal(kind: Kind, mut value: Value) -> Object {
    let hash = hash(&value);
    value["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
    Object { kind, value }
}
