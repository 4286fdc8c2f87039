//! The topics of the cluster, as far as groups need to know them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// Its id.
    pub id: Uuid,
    /// How many partitions it has.
    pub partitions: u32,
    /// Of each partition the racks of its replicas; shorter or empty where they aren't known.
    pub racks: Vec<Vec<String>>,
}

/// All topics; shared by all coordinators of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_name: BTreeMap<String, TopicView>,
    partitions: HashMap<Uuid, u32>,
}

impl Topics {
    /// Topics by name.
    #[must_use]
    pub fn new(by_name: BTreeMap<String, TopicView>) -> Self {
        let partitions = by_name.values().map(|topic| (topic.id, topic.partitions)).collect();
        Self { by_name, partitions }
    }

    /// The topic of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&TopicView> {
        self.by_name.get(name)
    }

    /// How many partitions the topic of this id has; `None`: there is none.
    #[must_use]
    pub fn partitions(&self, id: Uuid) -> Option<u32> {
        self.partitions.get(&id).copied()
    }

    /// Ids of all topics.
    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.partitions.keys().copied()
    }

    /// The names of topics that assignments of `self` and `other` would see differently.
    pub(super) fn changed_names(&self, other: &Self) -> BTreeSet<String> {
        let differs = |name: &&String| self.by_name.get(*name) != other.by_name.get(*name);
        self.by_name
            .keys()
            .chain(other.by_name.keys())
            .filter(differs)
            .cloned()
            .collect()
    }

    /// Whether both have topics of the same names.
    pub(super) fn same_names(&self, other: &Self) -> bool {
        self.by_name.len() == other.by_name.len() && self.by_name.keys().eq(other.by_name.keys())
    }
}
