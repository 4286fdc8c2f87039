//! The file that brokers read.

use std::fmt::Write as _;

use super::Blueprint;

/// Which broker may begin the cluster.
pub const BEGIN_NODE: &str = "begin.node";

/// Settings that the operator makes itself, each with what to do instead.
pub const RESERVED_SETTINGS: [(&str, &str); 12] = [
    ("advertised.address", "it is the pod's name"),
    ("advertised.internal.address", "it is the pod's name"),
    (BEGIN_NODE, "it is broker 0, once"),
    ("cluster.id", "the cluster chooses it"),
    ("data.dir", "it is the claim"),
    ("listen.client", "it is port 9650"),
    ("listen.http", "it is port 9652"),
    ("listen.internal", "it is port 9651"),
    ("node.id", "it is the pod's number"),
    ("quorum.auto.voters", "write quorum.voters of the Cluster"),
    ("rack", "it is the zone of the pod's node"),
    ("seeds", "they are the other brokers"),
];

/// Lines `KEY=VALUE`, sorted: what brokers are told about each other, and what may change without a restart of theirs.
/// An empty disk can only join a cluster, which is what keeps a broker that lost its disk from beginning a second one
/// (rabbitmq/cluster-operator#1957), but for the one broker that begins it, while none was ever seen.
///
/// The user's settings are not here but in the pods' template: a container that is restarted in its pod reads this
/// file anew, and must not come back with settings that have not passed the checks of a roll.
#[must_use]
pub fn file(blueprint: &Blueprint) -> String {
    let mut text = String::from("# Written by millrace-operator from the Cluster's spec: changes here are undone.\n");
    if blueprint.record.is_forming() {
        let _ = writeln!(text, "{BEGIN_NODE}=0");
    }
    let _ = writeln!(text, "quorum.auto.voters={}", blueprint.auto_voters);
    let _ = writeln!(text, "seeds={}", blueprint.key.seeds());
    text
}

/// The name of a setting in a broker's environment.
#[must_use]
pub fn variable(setting: &str) -> String {
    format!("MILLRACE_{}", setting.to_ascii_uppercase().replace('.', "_"))
}
