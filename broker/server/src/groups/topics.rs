//! The topics of the cluster as groups see them: one copy for all coordinators of a broker.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millrace_engine::{
    BrokerId, Cluster, Topic,
    group::{MAX_PATTERN_BYTES, TopicView, Topics},
};
use parking_lot::Mutex;
use regex::RegexBuilder;
use uuid::Uuid;

use crate::limits;

/// The topics at one version of the metadata.
#[derive(Debug)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// As the rules want them.
    pub topics: Arc<Topics>,
    /// Their names.
    pub names: Arc<HashMap<Uuid, String>>,
}

/// The newest snapshot that anybody asked for.
#[derive(Debug, Default)]
pub(super) struct SharedTopics(Mutex<Option<Last>>);

/// A snapshot, and what it was made from.
#[derive(Debug)]
struct Last {
    snapshot: Arc<Snapshot>,
    topics: Vec<Arc<Topic>>,
    racks: Vec<(BrokerId, String)>,
}

impl Last {
    /// Whether groups would see nothing new. Most changes of the metadata are of leaders and in-sync replicas, in a
    /// broker's failure hundreds one after the other, and are none.
    fn is_same(&self, cluster: &Cluster) -> bool {
        let racks = self.racks.iter().map(|(id, rack)| (*id, rack.as_str()));
        let same = |(one, other): (&Arc<Topic>, &Arc<Topic>)| {
            let mut records = one.partitions.iter().zip(&other.partitions);
            Arc::ptr_eq(one, other)
                || ((one.id, &one.name, one.partitions.len()) == (other.id, &other.name, other.partitions.len())
                    && records.all(|(one, other)| one.replicas == other.replicas))
        };
        racks.eq(racks_of(cluster))
            && self.topics.len() == cluster.topics.len()
            && self.topics.iter().zip(cluster.topics.values()).all(same)
    }
}

fn racks_of(cluster: &Cluster) -> impl Iterator<Item = (BrokerId, &str)> {
    cluster.brokers.iter().map(|(id, broker)| (*id, broker.rack.as_str()))
}

impl SharedTopics {
    /// The topics of `cluster`, or newer ones.
    pub(super) fn of(&self, cluster: &Cluster) -> Arc<Snapshot> {
        let mut last = self.0.lock();
        if let Some(last) = last.as_mut() {
            if last.snapshot.version < cluster.version && last.is_same(cluster) {
                last.snapshot = Arc::new(Snapshot {
                    version: cluster.version,
                    topics: last.snapshot.topics.clone(),
                    names: last.snapshot.names.clone(),
                });
            }
            if last.snapshot.version >= cluster.version {
                return last.snapshot.clone();
            }
        }
        let views: BTreeMap<String, TopicView> = cluster
            .topics
            .values()
            .map(|topic| (topic.name.clone(), view(cluster, topic)))
            .collect();
        let names = views.iter().map(|(name, view)| (view.id, name.clone())).collect();
        let topics = Topics::new(views);
        let snapshot = Arc::new(Snapshot {
            version: cluster.version,
            topics: Arc::new(topics),
            names: Arc::new(names),
        });
        *last = Some(Last {
            snapshot: snapshot.clone(),
            topics: cluster.topics.values().cloned().collect(),
            racks: racks_of(cluster).map(|(id, rack)| (id, rack.to_owned())).collect(),
        });
        snapshot
    }
}

fn view(cluster: &Cluster, topic: &Topic) -> TopicView {
    let rack = |id: &i32| cluster.brokers.get(id).map(|broker| broker.rack.clone());
    let racks_of = |replicas: &[i32]| -> Vec<String> {
        let racks: Vec<String> = replicas.iter().filter_map(rack).collect();
        racks.into_iter().filter(|rack| !rack.is_empty()).collect()
    };
    TopicView {
        id: topic.id,
        partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
        racks: topic
            .partitions
            .iter()
            .map(|partition| racks_of(&partition.replicas))
            .collect(),
    }
}

/// Checks a pattern.
///
/// # Errors
/// It is none, or would take too much memory.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    compile(pattern).map(|_| ())
}

/// The whole-name regular expression that a pattern means.
fn compile(pattern: &str) -> Result<regex::Regex, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("it has more than {MAX_PATTERN_BYTES} bytes"));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(limits::PATTERN_BYTES)
            .dfa_size_limit(limits::PATTERN_BYTES)
            .nest_limit(limits::PATTERN_DEPTH)
            .build()
            .map_err(|error| reason(&error))
    };
    // Alone first: a parenthesis too many would close that around it.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}

/// What is wrong, in a few words: the text of a syntax error repeats the pattern, over several lines.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let words = last.trim_start_matches("error: ").trim_end_matches('.');
    words.chars().take(200).collect()
}

/// The topics whose whole name matches. The cluster's own only where the pattern begins as they do.
pub(super) fn matching(cluster: &Cluster, pattern: &str) -> Result<Vec<String>, String> {
    let expression = compile(pattern)?;
    let internal = pattern.starts_with("__");
    Ok(cluster
        .topics
        .keys()
        .filter(|name| (internal || !name.starts_with("__")) && expression.is_match(name))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::admin::testing::with_topic;

    #[test]
    fn patterns_match_whole_names_and_leave_the_clusters_own_alone() {
        let mut cluster = with_topic(&[1], vec![vec![1]]);
        let topic = cluster.topics["t"].clone();
        for name in ["tt", "a.t", "__t"] {
            cluster.topics.insert(name.into(), topic.clone());
        }
        let found = |pattern: &str| matching(&cluster, pattern).unwrap();
        assert_eq!(found("t"), ["t"]);
        assert_eq!(found("a|t"), ["t"], "alternatives are of the whole");
        assert_eq!(found(".*t"), ["a.t", "t", "tt"]);
        assert_eq!(found("__.*"), ["__t"]);
        let long = "x".repeat(MAX_PATTERN_BYTES + 1);
        let wrong = [
            "(",
            "a)(b",
            "(?x)a # b",
            "(?=a)b",
            r"(a)\1",
            "((((a{99}){99}){99}){99})",
            &long,
        ];
        for wrong in wrong {
            let problem = matching(&cluster, wrong).unwrap_err();
            assert!(problem.len() < 100 && !problem.contains('\n'), "{wrong}: {problem}");
        }
        assert_eq!(check_pattern("("), Err("unclosed group".to_owned()));
    }

    #[test]
    fn what_did_not_change_for_groups_is_the_same() {
        let shared = SharedTopics::default();
        let mut cluster = with_topic(&[1], vec![vec![1]]);
        let first = shared.of(&cluster);
        cluster.version += 1;
        let second = shared.of(&cluster);
        assert!(second.version > first.version && Arc::ptr_eq(&first.topics, &second.topics));
        let change = |cluster: &mut Cluster, change: fn(&mut millrace_engine::Partition)| {
            cluster.version += 1;
            let mut topic = Topic::clone(&cluster.topics["t"]);
            change(&mut topic.partitions[0]);
            cluster.topics.insert("t".into(), Arc::new(topic));
        };
        change(&mut cluster, |partition| partition.leader_epoch += 1);
        let led = shared.of(&cluster);
        assert!(led.version > second.version && Arc::ptr_eq(&first.topics, &led.topics));
        change(&mut cluster, |partition| partition.replicas.push(2));
        let grown = shared.of(&cluster);
        assert!(!Arc::ptr_eq(&first.topics, &grown.topics));
        cluster.version += 1;
        for broker in cluster.brokers.values_mut() {
            broker.rack = "r".into();
        }
        assert!(!Arc::ptr_eq(&grown.topics, &shared.of(&cluster).topics));
        cluster.version += 1;
        cluster.topics.clear();
        let third = shared.of(&cluster);
        assert!(third.names.is_empty() && first.names.len() == 1);
    }
}
