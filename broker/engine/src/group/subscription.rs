//! What groups do when the cluster's topics change.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    coordinator::{Coordinator, Turn},
    event::Effect,
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
                    if self
                        .groups
                        .get(id)
                        .is_some_and(|group| subscribes_to_any(group, &changed))
                    {
                        self.bump(turn, id);
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
        let offsets = group
            .offsets
            .keys()
            .filter(|at| deleted.contains(&at.topic))
            .map(|at| Fact::Offset(*at, None));
        let topics = group
            .topics
            .keys()
            .filter(|topic| deleted.contains(topic))
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
            self.bump(turn, id);
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
        self.write(turn, &id, Fact::Pattern(pattern.to_owned(), Some(topics)));
        self.bump(turn, &id);
    }
}

fn subscribes_to_any(group: &Group, names: &BTreeSet<String>) -> bool {
    group
        .sharers()
        .any(|(_, member)| group.subscribed(member).any(|name| names.contains(name)))
}
