//! What groups do when the cluster's topics change.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;

use super::{
    budget::pattern_bytes,
    cause::Cause,
    coordinator::{Coordinator, Turn},
    event::Effect,
    limits::{MAX_APPEND_BYTES, MAX_GROUP_ID_BYTES},
    record::Fact,
    state::Group,
    topics::Topics,
    types::GroupId,
};

impl Coordinator {
    pub(super) fn topics_changed(&mut self, turn: &mut Turn, before: Option<&Topics>, deleted: &[Uuid]) {
        let Some(topics) = self.topics.clone() else { return };
        let all = self.served_groups();
        match before {
            // The first that is known of topics.
            None => {
                for id in &all {
                    turn.unsettled.insert(id.clone());
                    self.note_new_topics(turn, id);
                    self.reconsider_topics(turn, id);
                }
            }
            Some(before) => {
                let changed = topics.changed_names(before);
                let ask = !topics.same_names(before);
                for id in all.iter().filter(|_| !changed.is_empty()) {
                    if ask {
                        self.ask_for_patterns(turn, id);
                    }
                    let group = self.groups.get(id);
                    let subscribed = group.map(|group| subscribed_of(group, &changed)).unwrap_or_default();
                    if let Some(name) = subscribed.first() {
                        let partitions = |of: &Topics| of.named(name).map(|topic| topic.partitions);
                        let (had, has) = (partitions(before), partitions(&topics));
                        self.note_new_topics(turn, id);
                        self.bump(turn, id, &Cause::Topic(name, had, has, subscribed.len() - 1));
                    }
                }
            }
        }
        for id in all.iter().filter(|_| !deleted.is_empty()) {
            self.forget_topics(turn, id, deleted);
        }
    }

    /// Topics were deleted: their offsets mean nothing any more.
    fn forget_topics(&mut self, turn: &mut Turn, id: &GroupId, deleted: &[Uuid]) {
        let Some(group) = self.groups.get(id) else { return };
        let deleted: HashSet<&Uuid> = deleted.iter().collect();
        let offsets = group
            .offsets
            .keys()
            .filter(|at| deleted.contains(&at.topic))
            .map(|at| Fact::Offset(*at, None));
        let topics = group
            .topics
            .keys()
            .filter(|topic| deleted.contains(*topic))
            .map(|topic| Fact::Topic(*topic, None));
        let facts: Vec<Fact> = offsets.chain(topics).collect();
        let any = !facts.is_empty();
        for fact in facts {
            self.write(turn, id, fact);
        }
        if any
            && self
                .groups
                .get(id)
                .is_some_and(|group| group.members.is_empty() && group.offsets.is_empty())
        {
            self.erase(turn, id);
        }
    }

    /// A coordinator that takes over does not know what topics its predecessor has seen: whether the
    /// target fits the topics that there are, shows the target.
    pub(super) fn reconsider_topics(&mut self, turn: &mut Turn, id: &GroupId) {
        let Some(topics) = &self.topics else { return };
        let Some(group) = self.groups.get(id) else { return };
        let (mut shall, mut has): (BTreeMap<Uuid, u32>, BTreeMap<Uuid, u32>) = Default::default();
        for (_, member) in group.sharers() {
            let names = group.subscribed(member).filter_map(|name| topics.named(name));
            shall.extend(
                names
                    .filter(|topic| topic.partitions > 0)
                    .map(|topic| (topic.id, topic.partitions)),
            );
            for at in &member.target {
                *has.entry(at.topic).or_default() += 1;
            }
        }
        if shall != has {
            self.bump(turn, id, &Cause::Topics);
        }
    }

    /// Asks what the patterns of the group's members match.
    pub(super) fn ask_for_patterns(&self, turn: &mut Turn, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let patterns: BTreeSet<&String> = group
            .members
            .values()
            .filter_map(|member| member.record.as_ref()?.details.pattern.as_ref())
            .collect();
        turn.effects
            .extend(patterns.into_iter().map(|pattern| Effect::ResolvePattern {
                group: id.clone(),
                pattern: pattern.clone(),
            }));
    }

    pub(super) fn pattern_resolved(&mut self, turn: &mut Turn, group: &str, pattern: &str, mut topics: Vec<String>) {
        let id: GroupId = group.into();
        let Some(group) = self.groups.get(group) else { return };
        let has_it = |member: &super::state::Member| {
            member
                .record
                .as_ref()
                .is_some_and(|record| record.details.pattern.as_deref() == Some(pattern))
        };
        topics.sort_unstable();
        topics.dedup();
        if group.patterns.get(pattern) == Some(&topics) || !group.members.values().any(has_it) {
            return;
        }
        let had = group.patterns.get(pattern);
        let had = had.map_or(0, |topics| pattern_bytes(pattern, topics));
        let of_topics = self.assignment_growth(&id, topics.iter());
        let growth = pattern_bytes(pattern, &topics).saturating_sub(had);
        // Asked again when topics change; until then the group goes on with what it has.
        if stored_bytes(pattern, &topics) > MAX_APPEND_BYTES {
            return self.tell_why(turn, &id, &Cause::TooMany(pattern));
        }
        if self.admit_growth(growth.saturating_add(of_topics)).is_err() {
            return self.tell_why(turn, &id, &Cause::NoRoom(pattern));
        }
        self.note_matches(turn, &id, pattern, &topics);
        self.write(turn, &id, Fact::Pattern(pattern.to_owned(), Some(topics)));
        self.reserve(&id, of_topics);
        self.bump(turn, &id, &Cause::Pattern(pattern));
    }
}

/// At most how many bytes the record of a pattern's matches has: one that has more than an append
/// could never be stored.
fn stored_bytes(pattern: &str, topics: &[String]) -> usize {
    const OF_TEXT: usize = 4;
    const OF_RECORD: usize = 64;
    let topics: usize = topics.iter().map(|topic| OF_TEXT + topic.len()).sum();
    OF_RECORD + MAX_GROUP_ID_BYTES + pattern.len() + topics
}

/// Those of the names that members of the group subscribe to.
fn subscribed_of<'a>(group: &Group, names: &'a BTreeSet<String>) -> Vec<&'a String> {
    let mut found: BTreeSet<&String> = BTreeSet::new();
    for member in group.members.values() {
        found.extend(group.subscribed(member).filter_map(|name| names.get(name)));
    }
    found.into_iter().collect()
}
