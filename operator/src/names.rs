//! Names that others rely on: of objects, labels, annotations, ports. They are never changed: objects made by one
//! version of the operator are found by the next one by them.

use std::fmt::{self, Display, Formatter};

/// Whose fields are whose, in server-side apply. One name for ever: two would each keep fields that the other drops.
pub const FIELD_MANAGER: &str = "millrace-operator";
/// What `app.kubernetes.io/managed-by` says on what the operator makes.
pub const MANAGED_BY: &str = "millrace-operator";

/// On all that belongs to a cluster: the Cluster's name.
pub const CLUSTER_LABEL: &str = "millrace.dev/cluster";
/// Which part of the product it is.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// What the component label says on all that is about brokers.
pub const BROKER_COMPONENT: &str = "broker";
/// The pod's number, set by the StatefulSet (stable since Kubernetes 1.32).
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// The pod's zone, copied from its node when it is bound (on by default since Kubernetes 1.35).
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// On what the operator applies: the hash of what it applied, so that it is compared with what it wants now and never
/// with what the API server made of it.
pub const APPLIED_HASH: &str = "millrace.dev/applied";
/// On a pod: the hash of the template that it was made from.
pub const TEMPLATE_HASH: &str = "millrace.dev/template";
/// On a StatefulSet: when it was last touched for pods that its controller had given up for a while.
pub const NUDGED_AT: &str = "millrace.dev/nudgedAt";
/// On a disruption budget: it is open only for the restart that the quorum has permitted.
pub const OPENED_FOR_ROLL: &str = "millrace.dev/opened-for-roll";
/// On a Cluster: restart all brokers, as `kubectl rollout restart` does. Any value that it did not have before.
pub const RESTARTED_AT: &str = "millrace.dev/restartedAt";
/// On a Cluster with rollout.mode: Approved: the hash that may be rolled out.
pub const APPROVE: &str = "millrace.dev/approve";
/// On a Cluster or Topic: leave it alone.
pub const PAUSED: &str = "millrace.dev/paused";
/// On a Cluster: take over a newer revision of the operator's templates, which restarts the brokers.
pub const ADOPT_RENDERER: &str = "millrace.dev/adopt-renderer";
/// On a Topic: make a topic anew, empty, that was deleted by somebody else.
pub const RECREATE: &str = "millrace.dev/recreate";
/// Keeps a Topic until its topic is deleted.
pub const TOPIC_FINALIZER: &str = "millrace.dev/topic";

/// Where brokers listen for clients.
pub const CLIENT_PORT: i32 = 9650;
/// Where brokers listen for each other.
pub const INTERNAL_PORT: i32 = 9651;
/// Where brokers answer probes and serve metrics.
pub const HTTP_PORT: i32 = 9652;

/// Which Cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ClusterKey {
    /// The Cluster of that name there.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The StatefulSet, the headless Service, the ConfigMap, the disruption budget and the brokers' account.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("{}-broker", self.name)
    }

    /// The Service that clients begin with.
    #[must_use]
    pub fn bootstrap_service(&self) -> String {
        format!("{}-bootstrap", self.name)
    }

    /// A broker's pod.
    #[must_use]
    pub fn pod(&self, ordinal: i32) -> String {
        format!("{}-broker-{ordinal}", self.name)
    }

    /// A broker's claim.
    #[must_use]
    pub fn claim(&self, ordinal: i32) -> String {
        format!("data-{}", self.pod(ordinal))
    }

    /// HOST:PORT that clients are given. Without the cluster's domain, which is not the same everywhere.
    #[must_use]
    pub fn bootstrap_address(&self) -> String {
        format!("{}.{}.svc:{CLIENT_PORT}", self.bootstrap_service(), self.namespace)
    }

    /// HOST:PORT of one broker for clients.
    #[must_use]
    pub fn broker_address(&self, ordinal: i32) -> String {
        format!(
            "{}.{}.{}.svc:{CLIENT_PORT}",
            self.pod(ordinal),
            self.brokers(),
            self.namespace
        )
    }

    /// HOST:PORT where brokers find each other: a name that stands for all of them.
    #[must_use]
    pub fn seeds(&self) -> String {
        format!("{}.{}.svc:{INTERNAL_PORT}", self.brokers(), self.namespace)
    }

    /// What selects all that belongs to the cluster's brokers.
    #[must_use]
    pub fn selector(&self) -> String {
        format!("{CLUSTER_LABEL}={},{COMPONENT_LABEL}={BROKER_COMPONENT}", self.name)
    }
}

impl Display for ClusterKey {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}
