//! The file that brokers read.

use std::fmt::Write as _;

use super::Blueprint;

/// Where a broker finds the others.
pub const SEEDS: &str = "seeds";

/// Settings that the operator makes itself, each with what to do instead.
pub const RESERVED_SETTINGS: [(&str, &str); 11] = [
    ("advertised.address", "it is the pod's name"),
    ("advertised.internal.address", "it is the pod's name"),
    ("cluster.id", "the cluster chooses it"),
    ("data.dir", "it is the claim"),
    ("listen.client", "it is port 9650"),
    ("listen.http", "it is port 9652"),
    ("listen.internal", "it is port 9651"),
    ("node.id", "it is the pod's number"),
    ("quorum.auto.voters", "write quorum.voters of the Cluster"),
    ("rack", "it is the zone of the pod's node"),
    (SEEDS, "they are the other brokers"),
];

/// Lines `KEY=VALUE`, sorted. Without seeds the first broker begins the cluster; with them an empty disk can only join
/// one, which is what keeps a broker that lost its disk from beginning a second cluster (rabbitmq/cluster-operator#1957).
#[must_use]
pub fn file(blueprint: &Blueprint) -> String {
    let mut lines = blueprint.config.clone();
    lines.insert("quorum.auto.voters".into(), blueprint.auto_voters.to_string());
    if !blueprint.record.is_forming() {
        lines.insert(SEEDS.into(), blueprint.key.seeds());
    }
    lines.iter().fold(
        String::from("# Written by millrace-operator from the Cluster's spec: changes here are undone.\n"),
        |mut text, (key, value)| {
            let _ = writeln!(text, "{key}={value}");
            text
        },
    )
}
