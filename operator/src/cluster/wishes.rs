//! What a Cluster's spec means: the defaults that are chosen here, and what is wrong with it that the API server could
//! not tell.

use std::collections::BTreeMap;

use millrace_crds::{Cluster, RolloutMode, ScaledStorage, WorkMode};

use crate::{names, render::RESERVED_SETTINGS};

/// Topic defaults are changed while brokers run; all other settings are read when a broker starts.
const TOPIC_DEFAULT: &str = "topic.default.";
/// So many voters come by themselves, as soon as their brokers are there.
const AUTO_VOTERS: i32 = 3;
/// How long a broker may take to come back.
const ROLLOUT_DEADLINE_SECONDS: i32 = 1800;
/// What a move may take of each link, if nothing is said: 50 MiB/s.
const MOVE_BYTES_PER_SECOND: i64 = 50 << 20;

/// What is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Wishes {
    /// How many brokers.
    pub replicas: i32,
    /// How many of them vote.
    pub voters: i32,
    /// Settings that brokers read when they start.
    pub settings: BTreeMap<String, String>,
    /// Defaults of all topics.
    pub topic_defaults: BTreeMap<String, String>,
    /// Whether new brokers get their share of the replicas by themselves.
    pub rebalances: bool,
    /// What a move may take of each link, in bytes a second.
    pub move_bytes_per_second: i64,
    /// Whether each roll has to be approved.
    pub rolls_when_approved: bool,
    /// How long a broker may take to come back, in seconds.
    pub rollout_deadline_seconds: i32,
    /// Whether emptied disks are kept.
    pub keeps_claims: bool,
    /// Whether the cluster is to be left alone.
    pub paused: bool,
}

impl Wishes {
    /// What a Cluster asks for.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let spec = &cluster.spec;
        let (topic_defaults, settings) = spec
            .config
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .partition::<BTreeMap<_, _>, _>(|(name, _)| name.starts_with(TOPIC_DEFAULT));
        let topic_defaults = topic_defaults
            .into_iter()
            .map(|(name, value)| (name[TOPIC_DEFAULT.len()..].to_owned(), value))
            .collect();
        let rebalance = spec.rebalance.clone().unwrap_or_default();
        let rollout = spec.rollout.clone().unwrap_or_default();
        let annotations = cluster.metadata.annotations.as_ref();
        let paused = annotations
            .and_then(|all| all.get(names::PAUSED))
            .is_some_and(|value| value == "true");
        Self {
            replicas: spec.replicas,
            voters: spec
                .quorum
                .as_ref()
                .and_then(|quorum| quorum.voters)
                .unwrap_or_else(|| largest_odd(spec.replicas.min(5))),
            settings,
            topic_defaults,
            rebalances: rebalance.mode.unwrap_or_default() == WorkMode::Automatic,
            move_bytes_per_second: rebalance
                .max_bytes_per_second
                .as_deref()
                .and_then(bytes)
                .unwrap_or(MOVE_BYTES_PER_SECOND),
            rolls_when_approved: rollout.mode.unwrap_or_default() == RolloutMode::Approved,
            rollout_deadline_seconds: rollout.deadline_seconds.unwrap_or(ROLLOUT_DEADLINE_SECONDS),
            keeps_claims: spec.storage.when_scaled.unwrap_or_default() == ScaledStorage::Retain,
            paused: spec.paused || paused,
        }
    }

    /// How many votes are given without waiting: `quorum.auto.voters`. A cluster without them is not made yet.
    #[must_use]
    pub fn auto_voters(&self) -> i32 {
        self.voters.min(AUTO_VOTERS)
    }

    /// What is wrong with it, one sentence for each; `known` are the settings that brokers know, empty if they could
    /// not be asked.
    #[must_use]
    pub fn problems(&self, known: &std::collections::BTreeSet<String>) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value) in &self.settings {
            if let Some((_, instead)) = RESERVED_SETTINGS.iter().find(|(reserved, _)| reserved == name) {
                problems.push(format!("config.{name} cannot be set: {instead}."));
            } else if !known.is_empty() && !known.contains(name) {
                problems.push(format!(
                    "config.{name} is no setting of brokers: see `millrace-broker --help-config`."
                ));
            } else if !name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.')
            {
                problems.push(format!(
                    "config.{name:?} is no name of a setting: they are of small letters, digits and dots."
                ));
            }
            if value.contains(['\n', '\r']) {
                problems.push(format!("config.{name} has more than one line."));
            }
        }
        problems
    }
}

fn largest_odd(at_most: i32) -> i32 {
    if at_most % 2 == 0 { at_most - 1 } else { at_most }.max(1)
}

/// A quantity of bytes (`50Mi`, `1G`, `1048576`), as Kubernetes writes it: whole numbers and decimal fractions with
/// the suffixes of bytes.
fn bytes(quantity: &str) -> Option<i64> {
    if let Ok(number) = quantity.parse::<f64>() {
        // Also with an exponent. Saturates.
        #[allow(clippy::cast_possible_truncation)]
        return Some(number as i64);
    }
    let at = quantity
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(at);
    let unit: f64 = match suffix {
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    // Saturates: a bound that large is none.
    #[allow(clippy::cast_possible_truncation)]
    Some((number * unit) as i64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn cluster(spec: serde_json::Value) -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
            "metadata": { "name": "orders" }, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn defaults_are_chosen_here() {
        let wishes = Wishes::of(&cluster(json!({ "storage": { "size": "10Gi" } })));
        assert_eq!((wishes.replicas, wishes.voters), (3, 3));
        assert!(wishes.rebalances && !wishes.paused && !wishes.keeps_claims);
        assert_eq!(wishes.move_bytes_per_second, 52_428_800);
        for (replicas, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
            let spec = json!({ "replicas": replicas, "storage": { "size": "10Gi" } });
            assert_eq!(Wishes::of(&cluster(spec)).voters, voters, "{replicas}");
        }
    }

    #[test]
    fn topic_defaults_need_no_restart() {
        let wishes = Wishes::of(&cluster(json!({
            "storage": { "size": "10Gi" },
            "config": { "topic.default.retention.ms": 5, "max.connections": "10" },
        })));
        assert_eq!(
            wishes.topic_defaults,
            BTreeMap::from([("retention.ms".into(), "5".into())])
        );
        assert_eq!(
            wishes.settings,
            BTreeMap::from([("max.connections".into(), "10".into())])
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        let wishes = Wishes::of(&cluster(json!({
            "storage": { "size": "10Gi" },
            "config": { "node.id": 5, "max.connections": "10", "nonsense": "1", "log.level": "info\nnode.id=7" },
        })));
        let known: BTreeSet<String> = ["node.id", "max.connections", "log.level"].map(str::to_owned).into();
        let problems = wishes.problems(&known);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("config.log.level has more than one line"));
        assert!(problems[1].contains("config.node.id cannot be set: it is the pod's number."));
        assert!(problems[2].contains("config.nonsense is no setting of brokers"));
        assert_eq!(
            wishes.problems(&BTreeSet::new()).len(),
            2,
            "brokers that can't be asked know nothing better"
        );
    }

    #[test]
    fn bytes_are_read_as_kubernetes_writes_them() {
        for (text, wanted) in [
            ("50Mi", 50 << 20),
            ("1G", 1_000_000_000),
            ("1.5Ki", 1536),
            ("65536", 65536),
            ("1e6", 1_000_000),
            ("1Pi", 1 << 50),
        ] {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        assert_eq!(bytes("5x"), None);
    }

    #[test]
    fn the_annotation_pauses_too() {
        let mut paused = cluster(json!({ "storage": { "size": "10Gi" } }));
        paused.metadata.annotations = Some([(names::PAUSED.to_owned(), "true".to_owned())].into());
        assert!(Wishes::of(&paused).paused);
    }
}
