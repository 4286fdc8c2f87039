//! The `Topic` resource.

mod spec;
mod status;

pub use spec::{AdoptionPolicy, ClusterReference, DeletionPolicy, MAX_TOPIC_NAME_LEN, Topic, TopicSpec};
pub use status::{ReplicaChange, TopicStatus};
