//! The `Cluster` resource.

mod spec;
mod status;

pub(crate) use spec::is_false;
pub use spec::{
    AllowedNamespaces, Cluster, ClusterSpec, Defaults, NamespacesFrom, QuorumSpec, Rebalance, Rollout, RolloutMode,
    ScaledStorage, Storage, TopicAccess, WorkMode,
};
pub use status::{BrokerStatus, ClusterStatus, Moves, PartitionCounts, QuorumStatus, RolloutStatus};
