//! What is known of groups: exactly what their records say. Records are applied here and nowhere
//! else, when they are made as when they are read back, so that both ways come to the same state.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
};

use uuid::Uuid;

use super::{
    budget::{GROUP_BYTES, fact_bytes},
    record::{CurrentRecord, Fact, GroupRecord, MemberRecord, OffsetRecord, Record, TopicRecord},
    types::{GroupId, MemberId, MemberState, TopicPartition},
};

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What it says of itself. `None` only while its records are read or written.
    pub record: Option<MemberRecord>,
    /// What it shall have, in order.
    pub target: Vec<TopicPartition>,
    /// What it has.
    pub current: CurrentRecord,
}

impl Member {
    fn is_nothing(&self) -> bool {
        self.record.is_none() && self.target.is_empty() && self.current == CurrentRecord::default()
    }

    pub(super) fn instance_id(&self) -> Option<&str> {
        self.record.as_ref()?.instance_id.as_deref()
    }

    /// Whether it shall have the partition.
    pub(super) fn wants(&self, at: &TopicPartition) -> bool {
        self.target.binary_search(at).is_ok()
    }

    /// Whether it has all that it shall have, and nothing else.
    pub(super) fn is_settled(&self, target_epoch: i32) -> bool {
        let current = &self.current;
        current.epoch == target_epoch
            && current.revoking.is_empty()
            && current.assigned.len() == self.target.len()
            && current.assigned.keys().eq(self.target.iter())
    }
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its epochs; `None` for a group that only ever had offsets.
    pub record: Option<GroupRecord>,
    /// Its members.
    pub members: BTreeMap<MemberId, Member>,
    /// Its offsets.
    pub offsets: BTreeMap<TopicPartition, OffsetRecord>,
    /// Topics that it has read.
    pub topics: BTreeMap<Uuid, TopicRecord>,
    /// Patterns of its members, and the topics that they match.
    pub patterns: BTreeMap<String, Vec<String>>,
    /// Who holds a partition: it may use it, or is yet to give it back.
    owners: HashMap<TopicPartition, MemberId>,
    /// Who shall have a partition.
    wanted: HashMap<TopicPartition, MemberId>,
    /// Static members by their instance ids.
    instances: HashMap<String, MemberId>,
}

impl Group {
    pub(super) fn epochs(&self) -> GroupRecord {
        self.record.clone().unwrap_or_default()
    }

    /// Who holds the partition.
    #[must_use]
    pub fn owner(&self, at: &TopicPartition) -> Option<&MemberId> {
        self.owners.get(at)
    }

    /// Who shall have the partition.
    pub(super) fn wanted_by(&self, at: &TopicPartition) -> Option<&MemberId> {
        self.wanted.get(at)
    }

    /// The static member of this instance id.
    #[must_use]
    pub fn instance(&self, instance: &str) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    /// Members that partitions are shared out to.
    pub(super) fn sharers(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.current.state != MemberState::Fenced)
    }

    /// Whether its members have gone and it is not noted when: what the last one's removal wrote
    /// was cut off in the middle.
    pub(super) fn end_is_unnoted(&self) -> bool {
        let unnoted = |record: &GroupRecord| record.empty_since_ms.is_none();
        self.members.is_empty() && self.record.as_ref().is_some_and(unnoted)
    }

    fn is_nothing(&self) -> bool {
        self.record.is_none()
            && self.members.is_empty()
            && self.offsets.is_empty()
            && self.topics.is_empty()
            && self.patterns.is_empty()
    }

    fn apply(&mut self, fact: Fact) -> Fact {
        match fact {
            Fact::Group(record) => Fact::Group(mem::replace(&mut self.record, record)),
            Fact::Member(id, record) => {
                let member = self.members.entry(id.clone()).or_default();
                let before = mem::replace(&mut member.record, record);
                if let Some(instance) = before.as_ref().and_then(|record| record.instance_id.as_ref())
                    && self.instances.get(instance) == Some(&id)
                {
                    self.instances.remove(instance);
                }
                if let Some(instance) = member.instance_id() {
                    self.instances.insert(instance.to_owned(), id.clone());
                }
                self.drop_if_nothing(&id);
                Fact::Member(id, before)
            }
            Fact::Target(id, target) => {
                let member = self.members.entry(id.clone()).or_default();
                let before = mem::replace(&mut member.target, target.unwrap_or_default());
                for at in &before {
                    if self.wanted.get(at) == Some(&id) {
                        self.wanted.remove(at);
                    }
                }
                for at in &member.target {
                    self.wanted.insert(*at, id.clone());
                }
                self.drop_if_nothing(&id);
                Fact::Target(id, (!before.is_empty()).then_some(before))
            }
            Fact::Current(id, current) => {
                let member = self.members.entry(id.clone()).or_default();
                let before = mem::replace(&mut member.current, current.unwrap_or_default());
                for at in before.assigned.keys().chain(before.revoking.keys()) {
                    if self.owners.get(at) == Some(&id) {
                        self.owners.remove(at);
                    }
                }
                for at in member.current.assigned.keys().chain(member.current.revoking.keys()) {
                    self.owners.insert(*at, id.clone());
                }
                self.drop_if_nothing(&id);
                Fact::Current(id, (before != CurrentRecord::default()).then_some(before))
            }
            Fact::Offset(at, offset) => Fact::Offset(at, put(&mut self.offsets, at, offset)),
            Fact::Topic(id, topic) => Fact::Topic(id, put(&mut self.topics, id, topic)),
            Fact::Pattern(pattern, topics) => {
                let before = put(&mut self.patterns, pattern.clone(), topics);
                Fact::Pattern(pattern, before)
            }
        }
    }

    fn drop_if_nothing(&mut self, id: &MemberId) {
        if self.members.get(id).is_some_and(Member::is_nothing) {
            self.members.remove(id);
        }
    }

    /// What can't be true of records that this software has written.
    ///
    /// # Errors
    /// What it is.
    pub fn validate(&self) -> Result<(), String> {
        let epochs = self.epochs();
        if epochs.target_epoch > epochs.epoch {
            return Err("its target epoch is beyond its epoch".to_owned());
        }
        let mut owners: HashMap<TopicPartition, &MemberId> = HashMap::new();
        for (id, member) in &self.members {
            let current = &member.current;
            if member.record.is_none() {
                return Err(format!("its member {id:?} has an assignment and no description"));
            }
            if current.epoch > epochs.target_epoch || current.previous_epoch > current.epoch {
                return Err(format!(
                    "its member {id:?} has epoch {}, beyond the target's",
                    current.epoch
                ));
            }
            for (at, epoch) in current.assigned.iter().chain(&current.revoking) {
                if let Some(other) = owners.insert(*at, id) {
                    return Err(format!("its members {other:?} and {id:?} both own {at}"));
                }
                if *epoch > current.epoch {
                    return Err(format!("its member {id:?} has {at} since a later epoch than its own"));
                }
            }
        }
        if owners.len() != self.owners.len() || owners.iter().any(|(at, id)| self.owners.get(at) != Some(*id)) {
            return Err("its owners are not its members'".to_owned());
        }
        Ok(())
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// All groups of one coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: BTreeMap<GroupId, Group>,
    bytes: usize,
}

impl Groups {
    /// A group; `None`: nothing is stored of it.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    /// All groups, by their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter()
    }

    /// Groups with ids after `after`.
    pub(super) fn after(&self, after: &str) -> impl Iterator<Item = (&GroupId, &Group)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.groups.range::<str, _>((Excluded(after), Unbounded))
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Applies a record; answers with the one that takes it back. A group of which nothing is
    /// left leaves nothing behind; a tombstone of what is not there does nothing.
    pub fn apply(&mut self, record: Record) -> Record {
        let Record { group: id, fact } = record;
        let grown = fact_bytes(&fact);
        let of_group = GROUP_BYTES + id.len();
        let group = match self.groups.get_mut(&id) {
            Some(group) => group,
            None => {
                self.bytes += of_group;
                self.groups.entry(id.clone()).or_default()
            }
        };
        let fact = group.apply(fact);
        self.bytes = self.bytes + grown - fact_bytes(&fact);
        if group.is_nothing() {
            self.bytes -= of_group;
            self.groups.remove(&id);
        }
        Record { group: id, fact }
    }
}
