//! What each member shall have: when that is computed, and from what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::{
    assignor::{self, Place, Shape, Subscriber},
    coordinator::{Coordinator, Turn},
    record::{CurrentRecord, Fact, GroupRecord, TopicRecord},
    state::{Group, Member},
    timers::Timer,
    topics::{TopicView, Topics},
    types::{Assignor, GroupId, MemberId, MemberState, Start, TopicPartition},
};

impl Group {
    /// Names of the topics that a member subscribes to, also by a pattern, as far as it is resolved.
    pub(super) fn subscribed<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a str> {
        let details = member.record.as_ref().map(|record| &record.details);
        let named = details.into_iter().flat_map(|details| &details.topics);
        let pattern = details.and_then(|details| self.patterns.get(details.pattern.as_ref()?));
        named.chain(pattern.into_iter().flatten()).map(String::as_str)
    }
}

/// The question that a group puts to an assignor.
struct Question<'a> {
    members: Vec<&'a MemberId>,
    subscribers: Vec<Subscriber<'a>>,
    /// Topics that exist and have a subscriber, by their names.
    topics: Vec<&'a TopicView>,
    /// Where its first subscriber would begin.
    starts: Vec<Start>,
}

impl<'a> Question<'a> {
    fn of(group: &'a Group, known: &'a Topics) -> Self {
        let mut names: BTreeMap<&str, Start> = BTreeMap::new();
        for (_, member) in group.sharers() {
            let start = member
                .record
                .as_ref()
                .map(|record| record.details.start)
                .unwrap_or_default();
            for name in group.subscribed(member).filter(|name| known.named(name).is_some()) {
                names.entry(name).or_insert(start);
            }
        }
        let places: HashMap<&str, usize> = names.keys().enumerate().map(|(at, name)| (*name, at)).collect();
        let topics: Vec<&TopicView> = names.keys().filter_map(|name| known.named(name)).collect();
        let ids: HashMap<Uuid, usize> = topics.iter().enumerate().map(|(at, topic)| (topic.id, at)).collect();
        let mut members = Vec::new();
        let mut subscribers = Vec::new();
        for (id, member) in group.sharers() {
            let mut takes: Vec<usize> = group
                .subscribed(member)
                .filter_map(|name| places.get(name).copied())
                .collect();
            takes.sort_unstable();
            takes.dedup();
            let owned = member
                .target
                .iter()
                .filter_map(|at| Some((*ids.get(&at.topic)?, at.partition)));
            members.push(id);
            subscribers.push(Subscriber {
                name: member.instance_id().unwrap_or(id),
                rack: member.record.as_ref().and_then(|record| record.details.rack.as_deref()),
                topics: takes,
                owned: owned.collect(),
            });
        }
        Self {
            members,
            subscribers,
            topics,
            starts: names.into_values().collect(),
        }
    }

    fn answer(&self, assignor: Assignor) -> Vec<Vec<TopicPartition>> {
        let shapes: Vec<Shape<'_>> = self
            .topics
            .iter()
            .map(|topic| Shape {
                partitions: topic.partitions,
                racks: &topic.racks,
            })
            .collect();
        let named = |(topic, partition): Place| TopicPartition {
            topic: self.topics[topic].id,
            partition,
        };
        let sorted = |places: Vec<Place>| {
            let mut target: Vec<TopicPartition> = places.into_iter().map(named).collect();
            target.sort_unstable();
            target
        };
        assignor::assign(assignor, &self.subscribers, &shapes)
            .into_iter()
            .map(sorted)
            .collect()
    }
}

/// What most members ask for; the default if they ask for nothing.
fn preferred_assignor(group: &Group) -> Assignor {
    let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
    for (_, member) in group.sharers() {
        if let Some(assignor) = member.record.as_ref().and_then(|record| record.details.assignor) {
            *votes.entry(assignor).or_default() += 1;
        }
    }
    let most = votes.values().max().copied();
    votes
        .into_iter()
        .find(|(_, count)| Some(*count) == most)
        .map(|(assignor, _)| assignor)
        .unwrap_or_default()
}

impl Coordinator {
    /// Assigns a group anew if that is due: at once, but at most once in an interval, so that many
    /// who come and go at the same time cost one assignment.
    pub(super) fn settle(&mut self, turn: &mut Turn, id: &GroupId) {
        turn.unsettled.remove(id);
        let Some(group) = self.groups.get(id) else { return };
        let epochs = group.epochs();
        // Topics that nobody has told of are not topics that do not exist.
        let Some(topics) = self.topics.clone() else { return };
        if epochs.epoch == epochs.target_epoch {
            self.release(id);
            return;
        }
        let assigned_at = self.hints.get(id).and_then(|hints| hints.assigned_at);
        let timer = Timer::Assignment(id.clone());
        match assigned_at.map(|at| at + self.config.assignment_interval) {
            Some(due) if due > turn.now.monotonic => {
                if self.timers.get(&timer).is_none() {
                    self.timers.set(timer, due);
                }
            }
            _ => {
                self.timers.clear(&timer);
                self.hints.entry(id.clone()).or_default().assigned_at = Some(turn.now.monotonic);
                self.assign(turn, id, &topics);
            }
        }
    }

    fn assign(&mut self, turn: &mut Turn, id: &GroupId, topics: &Topics) {
        let Some(group) = self.groups.get(id) else { return };
        let question = Question::of(group, topics);
        let assignor = preferred_assignor(group);
        let targets = question.answer(assignor);
        let changed: Vec<(MemberId, Vec<TopicPartition>)> = question
            .members
            .iter()
            .zip(targets)
            .filter(|(id, target)| group.members.get(**id).is_none_or(|member| member.target != *target))
            .map(|(id, target)| ((*id).clone(), target))
            .collect();
        let facts = topic_facts(group, &question, turn.now.unix_ms);
        let used = used_patterns(group);
        let unused: Vec<String> = group
            .patterns
            .keys()
            .filter(|of| !used.contains(*of))
            .cloned()
            .collect();
        let epochs = group.epochs();

        for fact in facts {
            self.write(turn, id, fact);
        }
        if let Some(hints) = self.hints.get_mut(id) {
            hints.patterns_since.retain(|pattern, _| used.contains(pattern));
        }
        self.release(id);
        for pattern in unused {
            self.write(turn, id, Fact::Pattern(pattern, None));
        }
        for (member, target) in changed {
            turn.wake(id, member.clone());
            self.write(turn, id, Fact::Target(member, Some(target)));
        }
        // Last: a target that is stored in part has no epoch, and is computed again.
        let record = GroupRecord {
            target_epoch: epochs.epoch,
            assignor,
            ..epochs
        };
        self.write(turn, id, Fact::Group(Some(record)));
        self.trim_kept(turn, id);
    }

    /// What was kept for the next process of a static member and is not for it any more is free:
    /// nobody uses it.
    fn trim_kept(&mut self, turn: &mut Turn, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let kept = group
            .members
            .iter()
            .filter(|(_, member)| member.current.state == MemberState::Left);
        let trimmed: Vec<(MemberId, CurrentRecord)> = kept
            .filter(|(_, member)| !member.current.assigned.keys().all(|at| member.wants(at)))
            .map(|(id, member)| {
                let mut current = member.current.clone();
                current.assigned.retain(|at, _| member.wants(at));
                current.version += 1;
                (id.clone(), current)
            })
            .collect();
        for (member, current) in trimmed {
            self.change_current(turn, id, &member, Some(current));
        }
    }
}

/// What is new about the group's topics: how long one is not used is noted.
fn topic_facts(group: &Group, question: &Question<'_>, unix_ms: i64) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (topic, start) in question.topics.iter().zip(&question.starts) {
        let record = match group.topics.get(&topic.id) {
            Some(record) if record.unsubscribed_since_ms.is_none() => continue,
            Some(record) => TopicRecord {
                unsubscribed_since_ms: None,
                ..record.clone()
            },
            // It has come under the subscription, and what noted that was taken back.
            None => TopicRecord {
                known_partitions: 0,
                start: *start,
                unsubscribed_since_ms: None,
            },
        };
        facts.push(Fact::Topic(topic.id, Some(record)));
    }
    let used: BTreeSet<Uuid> = question.topics.iter().map(|topic| topic.id).collect();
    let unused = group
        .topics
        .iter()
        .filter(|(id, record)| record.unsubscribed_since_ms.is_none() && !used.contains(id));
    facts.extend(unused.map(|(id, record)| {
        let record = TopicRecord {
            unsubscribed_since_ms: Some(unix_ms),
            ..record.clone()
        };
        Fact::Topic(*id, Some(record))
    }));
    facts
}

fn used_patterns(group: &Group) -> BTreeSet<String> {
    let members = group.members.values();
    members
        .filter_map(|member| member.record.as_ref()?.details.pattern.clone())
        .collect()
}
