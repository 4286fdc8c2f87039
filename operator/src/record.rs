//! What the operator must know the next time and can't see otherwise. It stands in annotations of the cluster's
//! ConfigMap, written together with what it is about; the operator itself keeps nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The Cluster object whose first broker may begin a cluster.
const FORMING: &str = "millrace.dev/forming";
const CLUSTER_ID: &str = "millrace.dev/cluster-id";
const CREATED: &str = "millrace.dev/created";
const VERSION: &str = "millrace.dev/version";
const IMAGE: &str = "millrace.dev/image";
const IMAGE_PULL_POLICY: &str = "millrace.dev/image-pull-policy";
const IMAGE_PULL_SECRETS: &str = "millrace.dev/image-pull-secrets";
const RENDERER: &str = "millrace.dev/renderer";
const BALANCED: &str = "millrace.dev/balanced-brokers";
const LEAVING: &str = "millrace.dev/leaving-brokers";
const TOPIC_DEFAULTS: &str = "millrace.dev/topic-defaults";

/// What is recorded of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The uid of the Cluster whose first broker may begin a cluster. Only while none was ever seen.
    pub forming: Option<String>,
    /// The cluster that the brokers are of.
    pub cluster_id: Option<String>,
    /// Whether it was whole once: what is missing after that is no part of its creation.
    pub created: bool,
    /// The version that brokers run.
    pub version: Option<String>,
    /// The image that the operator chose for that version. A newer operator with another one restarts nobody.
    pub image: Option<String>,
    /// When nodes pull that image, as the operator that chose it said.
    pub image_pull_policy: Option<String>,
    /// With which secrets.
    pub image_pull_secrets: Vec<String>,
    /// The revision of the pods' template.
    pub renderer: Option<i32>,
    /// Brokers that have had their share of the replicas: those that are not among them are new.
    pub balanced: BTreeSet<i32>,
    /// Brokers that are on their way out, until nothing is left of them. If they may stay after all, their drain is
    /// ended; one that a person has begun is not.
    pub leaving: BTreeSet<i32>,
    /// Topic defaults that the Cluster has set: one that is taken out of the spec is unset once.
    pub topic_defaults: BTreeSet<String>,
}

impl Record {
    /// Whether the first broker may begin the cluster.
    #[must_use]
    pub fn is_forming(&self) -> bool {
        self.forming.is_some()
    }

    /// What concerns the pods' template stays as another record says: the template itself stays.
    pub fn keep_template_of(&mut self, other: &Self) {
        self.version.clone_from(&other.version);
        self.image.clone_from(&other.image);
        self.image_pull_policy.clone_from(&other.image_pull_policy);
        self.image_pull_secrets.clone_from(&other.image_pull_secrets);
        self.renderer = other.renderer;
    }

    /// As it is written.
    #[must_use]
    pub fn annotations(&self) -> Value {
        let mut all = BTreeMap::new();
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        };
        put(FORMING, self.forming.clone());
        put(CLUSTER_ID, self.cluster_id.clone());
        put(CREATED, self.created.then(|| "true".to_owned()));
        put(VERSION, self.version.clone());
        put(IMAGE, self.image.clone());
        put(IMAGE_PULL_POLICY, self.image_pull_policy.clone());
        let secrets = &self.image_pull_secrets;
        put(IMAGE_PULL_SECRETS, (!secrets.is_empty()).then(|| secrets.join(",")));
        put(RENDERER, self.renderer.map(|revision| revision.to_string()));
        put(BALANCED, join(&self.balanced));
        put(LEAVING, join(&self.leaving));
        put(TOPIC_DEFAULTS, join(&self.topic_defaults));
        json!(all)
    }

    /// As it was written. What cannot be read counts as not there: each has another way to be found again.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| annotations.get(name).filter(|value| !value.is_empty()).cloned();
        let list = |name: &str| text(name).unwrap_or_default();
        Self {
            forming: text(FORMING),
            cluster_id: text(CLUSTER_ID),
            created: text(CREATED).is_some(),
            version: text(VERSION),
            image: text(IMAGE),
            image_pull_policy: text(IMAGE_PULL_POLICY),
            image_pull_secrets: list(IMAGE_PULL_SECRETS)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            renderer: text(RENDERER).and_then(|revision| revision.parse().ok()),
            balanced: list(BALANCED).split(',').filter_map(|id| id.parse().ok()).collect(),
            leaving: list(LEAVING).split(',').filter_map(|id| id.parse().ok()).collect(),
            topic_defaults: list(TOPIC_DEFAULTS)
                .split(',')
                .filter(|key| !key.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

fn join<T: ToString>(all: &BTreeSet<T>) -> Option<String> {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let record = Record {
            forming: Some("uid".into()),
            cluster_id: Some("c".into()),
            created: true,
            version: Some("0.1.0".into()),
            image: Some("i:0.1.0".into()),
            image_pull_policy: Some("Always".into()),
            image_pull_secrets: vec!["b".into(), "a".into()],
            renderer: Some(1),
            balanced: [0, 2, 10].into(),
            leaving: [11].into(),
            topic_defaults: ["a.b".into(), "c".into()].into(),
        };
        let written: BTreeMap<String, String> = serde_json::from_value(record.annotations()).unwrap();
        assert_eq!(Record::read(&written), record);
        assert_eq!(Record::default().annotations(), json!({}));
        assert_eq!(Record::read(&BTreeMap::new()), Record::default());
    }
}
