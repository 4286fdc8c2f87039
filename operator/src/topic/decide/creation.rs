//! What a new topic is made with: the Topic's own word, else the Cluster's, else Millrace's.

use std::collections::BTreeMap;

use millrace_crds::TopicSpec;

use super::super::seen::Offer;

/// Partitions where nobody says how many.
const USUAL_PARTITIONS: i32 = 3;
/// Replicas where nobody says how many and there are brokers enough.
const USUAL_REPLICAS: i32 = 3;
/// What `defaults.minInSyncReplicas` sets. Unsaid it is left out: the brokers' own default is 2, or all where a topic
/// has fewer replicas.
const MIN_IN_SYNC: &str = "min.insync.replicas";

/// What a new topic is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas of each.
    pub replication_factor: i32,
    /// Its settings.
    pub config: BTreeMap<String, String>,
}

impl Creation {
    /// For a Topic on a Cluster.
    #[must_use]
    pub fn of(spec: &TopicSpec, offer: &Offer) -> Self {
        let defaults = &offer.defaults;
        let mut config = BTreeMap::new();
        if let Some(replicas) = defaults.min_in_sync_replicas {
            config.insert(MIN_IN_SYNC.to_owned(), replicas.to_string());
        }
        for settings in [&defaults.config, &spec.config] {
            config.extend(settings.iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        Self {
            partitions: spec.partitions.or(defaults.partitions).unwrap_or(USUAL_PARTITIONS),
            replication_factor: spec
                .replication_factor
                .or(defaults.replication_factor)
                .unwrap_or(offer.replicas.clamp(1, USUAL_REPLICAS)),
            config,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::{Defaults, Settings};

    use super::*;

    fn settings(all: &[(&str, &str)]) -> Settings {
        all.iter().copied().collect()
    }

    #[test]
    fn without_a_word_it_has_three_partitions_and_as_many_replicas_as_there_are_brokers_up_to_three() {
        for (replicas, factor) in [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)] {
            let offer = Offer {
                defaults: Defaults::default(),
                replicas,
            };
            let made = Creation::of(&TopicSpec::default(), &offer);
            assert_eq!((made.partitions, made.replication_factor), (3, factor));
            assert!(made.config.is_empty());
        }
    }

    #[test]
    fn the_topic_s_word_is_above_the_cluster_s() {
        let offer = Offer {
            defaults: Defaults {
                partitions: Some(12),
                replication_factor: Some(2),
                min_in_sync_replicas: Some(1),
                config: settings(&[("retention.ms", "1"), ("segment.ms", "2")]),
            },
            replicas: 5,
        };
        let made = Creation::of(&TopicSpec::default(), &offer);
        assert_eq!((made.partitions, made.replication_factor), (12, 2));
        let config = |made: &Creation, key: &str| made.config.get(key).cloned();
        assert_eq!(config(&made, "min.insync.replicas").as_deref(), Some("1"));
        assert_eq!(config(&made, "retention.ms").as_deref(), Some("1"));
        let spec = TopicSpec {
            partitions: Some(1),
            replication_factor: Some(4),
            config: settings(&[("retention.ms", "9"), ("min.insync.replicas", "3")]),
            ..TopicSpec::default()
        };
        let made = Creation::of(&spec, &offer);
        assert_eq!((made.partitions, made.replication_factor), (1, 4));
        assert_eq!(config(&made, "retention.ms").as_deref(), Some("9"));
        assert_eq!(config(&made, "segment.ms").as_deref(), Some("2"));
        assert_eq!(config(&made, "min.insync.replicas").as_deref(), Some("3"));
    }
}
