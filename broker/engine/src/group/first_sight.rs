//! Where a group begins in a topic, decided once: what was there when it subscribed begins at its
//! start; what comes later was never "the end" to it, and is read from its beginning, as are
//! partitions that are added (KAFKA-20742).
//!
//! Each topic that exists and that the group subscribes to has its record: written with the
//! subscription for what is there, and when topics change, or a pattern's matches, for what comes.
//! One that has none is therefore new.

use uuid::Uuid;

use super::{
    coordinator::{Coordinator, Turn},
    event::Effect,
    record::{Fact, TopicRecord},
    topics::Topics,
    types::{GroupId, MemberDetails, Start},
};

impl Coordinator {
    /// Topics have changed from `before`; notes which have come. What the first view has was there.
    pub(super) fn note_appeared(&mut self, before: Option<&Topics>) {
        self.generation += 1;
        let (Some(topics), Some(before)) = (&self.topics, before) else {
            return;
        };
        self.appeared.retain(|id, _| topics.partitions(*id).is_some());
        for id in topics.ids().filter(|id| before.partitions(*id).is_none()) {
            self.appeared.insert(id, self.generation);
        }
    }

    /// A member is about to be stored with these details: of the topics that it names those that
    /// exist begin at its start. First, so that the member is not stored without them.
    pub(super) fn note_subscription(&mut self, turn: &mut Turn, id: &GroupId, details: &MemberDetails) {
        let Some(topics) = self.topics.clone() else { return };
        for topic in details.topics.iter().filter_map(|name| topics.named(name)) {
            self.begin(turn, id, topic.id, topic.partitions, details.start);
        }
        if let Some(pattern) = &details.pattern {
            self.await_pattern(id, pattern);
        }
    }

    /// What a pattern matches is told later: what comes until then is new all the same.
    fn await_pattern(&mut self, id: &GroupId, pattern: &str) {
        if self
            .groups
            .get(id)
            .is_none_or(|group| !group.patterns.contains_key(pattern))
        {
            let hints = self.hints.entry(id.clone()).or_default();
            hints
                .patterns_since
                .entry(pattern.to_owned())
                .or_insert(self.generation);
        }
    }

    /// As `await_pattern`, for a coordinator that takes over.
    pub(super) fn await_patterns(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let open: Vec<String> = group
            .members
            .values()
            .filter_map(|member| member.record.as_ref()?.details.pattern.clone())
            .filter(|pattern| !group.patterns.contains_key(pattern))
            .collect();
        for pattern in open {
            self.await_pattern(id, &pattern);
        }
    }

    /// Topics that have come under a subscription of the group.
    pub(super) fn note_new_topics(&mut self, turn: &mut Turn, id: &GroupId) {
        let (Some(topics), Some(group)) = (self.topics.clone(), self.groups.get(id)) else {
            return;
        };
        let mut new: Vec<(Uuid, Start)> = Vec::new();
        for member in group.members.values() {
            let start = member.record.as_ref().map(|record| record.details.start);
            let names = group.subscribed(member).filter_map(|name| topics.named(name));
            let unknown = names.filter(|topic| !group.topics.contains_key(&topic.id));
            new.extend(unknown.map(|topic| (topic.id, start.unwrap_or_default())));
        }
        for (topic, start) in new {
            self.begin(turn, id, topic, 0, start);
        }
    }

    /// A pattern's matches are about to be stored.
    pub(super) fn note_matches(&mut self, turn: &mut Turn, id: &GroupId, pattern: &str, names: &[String]) {
        let (Some(topics), Some(group)) = (self.topics.clone(), self.groups.get(id)) else {
            return;
        };
        let first = !group.patterns.contains_key(pattern);
        let start = group
            .members
            .values()
            .filter_map(|member| member.record.as_ref())
            .find(|record| record.details.pattern.as_deref() == Some(pattern))
            .map(|record| record.details.start)
            .unwrap_or_default();
        let since = self
            .hints
            .get_mut(id)
            .and_then(|hints| hints.patterns_since.remove(pattern));
        for topic in names.iter().filter_map(|name| topics.named(name)) {
            let appeared = self.appeared.get(&topic.id).copied().unwrap_or_default();
            let was_there = first && since.is_none_or(|since| appeared <= since);
            self.begin(turn, id, topic.id, if was_there { topic.partitions } else { 0 }, start);
        }
    }

    /// The group has the topic from now on, if it has not: `known` partitions of it begin at `start`.
    fn begin(&mut self, turn: &mut Turn, id: &GroupId, topic: Uuid, known: u32, start: Start) {
        if self
            .groups
            .get(id)
            .is_some_and(|group| group.topics.contains_key(&topic))
        {
            return;
        }
        if start != Start::Beginning && known > 0 {
            turn.effects.push(Effect::ResolveStart {
                group: id.clone(),
                topic,
                partitions: (0..known).collect(),
                start,
            });
        }
        let record = TopicRecord {
            known_partitions: known,
            start,
            unsubscribed_since_ms: None,
        };
        self.write(turn, id, Fact::Topic(topic, Some(record)));
    }
}
