//! A coordinator with a log beside it, whose appends are committed at once unless a test says
//! otherwise.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use uuid::Uuid;

use super::super::*;

pub(super) const SESSION: Duration = Duration::from_secs(5);
pub(super) const RECONNECT: Duration = Duration::from_millis(500);
pub(super) const REBALANCE: Duration = Duration::from_secs(20);
/// When all tests begin, by the wall.
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

pub(super) fn topic(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub(super) fn at(number: u128, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic(number),
        partition,
    }
}

/// Partitions of topic 1.
pub(super) fn places(partitions: impl IntoIterator<Item = u32>) -> Vec<TopicPartition> {
    partitions.into_iter().map(|partition| at(1, partition)).collect()
}

/// Topics `t1`, `t2`, … with as many partitions each.
pub(super) fn topics(partitions: &[u32]) -> Arc<Topics> {
    let topics = partitions.iter().zip(1u128..).map(|(&partitions, number)| {
        let view = TopicView {
            id: topic(number),
            partitions,
            racks: Vec::new(),
        };
        (format!("t{number}"), view)
    });
    Arc::new(Topics::new(topics.collect()))
}

pub(super) fn details(topics: &[&str]) -> MemberDetails {
    MemberDetails {
        client_id: "app".into(),
        client_host: "host".into(),
        rack: None,
        session_timeout: SESSION,
        reconnect_timeout: RECONNECT,
        rebalance_timeout: REBALANCE,
        assignor: None,
        topics: topics.iter().map(|&name| name.to_owned()).collect(),
        pattern: None,
        start: Start::Beginning,
    }
}

pub(super) fn join(member: &str) -> Heartbeat {
    Heartbeat {
        group: "g".into(),
        member: member.into(),
        instance: None,
        epoch: 0,
        version: 0,
        details: Some(details(&["t1"])),
        owned: Some(Vec::new()),
        subscriber: None,
    }
}

/// What a member knows, as a client would keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) epoch: i32,
    pub(super) version: u32,
    pub(super) assignment: Assignment,
}

impl Known {
    pub(super) fn take(&mut self, answer: HeartbeatAnswer) {
        self.epoch = answer.epoch;
        self.version = answer.version;
        if let Some(assignment) = answer.assignment {
            self.assignment = assignment;
        }
    }

    /// A heartbeat of a member that has done what it was told.
    pub(super) fn beat(&self, member: &str) -> Heartbeat {
        Heartbeat {
            epoch: self.epoch,
            version: self.version,
            details: None,
            owned: Some(self.assignment.assigned.clone()),
            ..join(member)
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) coordinator: Coordinator,
    pub(super) now: Now,
    pub(super) log: Vec<StoredRecord>,
    pub(super) effects: Vec<Effect>,
    pub(super) last_sequence: u64,
    pub(super) config: GroupConfig,
    pub(super) topics: Arc<Topics>,
    /// Whether all groups are looked at after each step; too dear where there are many.
    pub(super) checked: bool,
    requests: u64,
}

impl Bench {
    pub(super) fn new(partitions: &[u32]) -> Self {
        Self::with(GroupConfig::default(), partitions)
    }

    pub(super) fn with(config: GroupConfig, partitions: &[u32]) -> Self {
        let mut bench = Self {
            coordinator: Coordinator::new(config.clone()),
            now: Now {
                monotonic: Duration::from_secs(100),
                unix_ms: EPOCH_MS,
            },
            log: Vec::new(),
            effects: Vec::new(),
            last_sequence: 0,
            config,
            topics: topics(partitions),
            checked: true,
            requests: 0,
        };
        bench.load();
        bench
    }

    fn load(&mut self) {
        let topics = Arc::clone(&self.topics);
        self.step(Event::TopicsChanged { topics, deleted: &[] });
        for record in self.log.clone() {
            let value = record.value.as_deref();
            let key = &record.key;
            self.coordinator.step(self.now, Event::Replayed { key, value });
        }
        self.step(Event::Loaded);
    }

    /// Another broker takes over.
    pub(super) fn fail_over(&mut self) {
        self.coordinator = Coordinator::new(self.config.clone());
        self.last_sequence = 0;
        self.load();
    }

    /// Takes a step; what it appends is committed.
    pub(super) fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
        let mut all = self.step_uncommitted(event);
        let mut sequence = None;
        for effect in &all {
            if let Effect::Append {
                sequence: number,
                records,
            } = effect
            {
                self.log.extend(records.iter().cloned());
                sequence = Some(*number);
            }
        }
        if let Some(sequence) = sequence {
            all.extend(self.step_uncommitted(Event::Committed { sequence }));
        }
        self.effects.extend(all.iter().cloned());
        all
    }

    pub(super) fn step_uncommitted(&mut self, event: Event<'_>) -> Vec<Effect> {
        let effects = self.coordinator.step(self.now, event);
        for effect in &effects {
            if let Effect::Append { sequence, .. } = effect {
                assert_eq!(*sequence, self.last_sequence + 1);
                self.last_sequence = *sequence;
            }
        }
        if self.checked {
            for (id, group) in self.coordinator.groups().iter() {
                assert_eq!(group.validate(), Ok(()), "group {id}");
            }
        }
        effects
    }

    pub(super) fn ask(&mut self, request: Request) -> Result<Answer, GroupRejection> {
        self.requests += 1;
        let id = self.requests;
        let request = Box::new(request);
        let effects = self.step(Event::Requested { id, request });
        answer_to(&effects, id).expect("an answer")
    }

    pub(super) fn beat(&mut self, beat: Heartbeat) -> Result<HeartbeatAnswer, GroupRejection> {
        self.ask(Request::Heartbeat(beat)).map(|answer| match answer {
            Answer::Heartbeat(answer) => answer,
            other => panic!("{other:?}"),
        })
    }

    /// A member joins and is told what it has.
    pub(super) fn join(&mut self, member: &str) -> Known {
        let mut known = Known::default();
        known.take(self.beat(join(member)).unwrap());
        known
    }

    /// A heartbeat of a member that has done what it was told.
    pub(super) fn renew(&mut self, member: &str, known: &mut Known) {
        let answer = self.beat(known.beat(member)).unwrap();
        known.take(answer);
    }

    pub(super) fn leave(&mut self, member: &str, temporary: bool) -> Result<Answer, GroupRejection> {
        self.ask(Request::Leave(Leave {
            group: "g".into(),
            member: member.into(),
            temporary,
        }))
    }

    pub(super) fn commit(
        &mut self,
        member: Option<(&str, i32)>,
        at: TopicPartition,
        offset: i64,
    ) -> Result<(), String> {
        let commit = Commit {
            group: "g".into(),
            member: member.map(|(id, epoch)| (id.into(), epoch)),
            rewind: false,
            offsets: vec![offset_of(at, offset)],
        };
        match self.ask(Request::Commit(commit)) {
            Ok(Answer::Offsets(mut results)) => results.remove(0).1.map_err(|error| format!("{error:?}")),
            Ok(other) => panic!("{other:?}"),
            Err(rejection) => Err(format!("{rejection:?}")),
        }
    }

    pub(super) fn position(&mut self, at: TopicPartition) -> Position {
        let fetch = FetchOffsets {
            group: "g".into(),
            member: None,
            partitions: Some(vec![at]),
        };
        match self.ask(Request::FetchOffsets(fetch)) {
            Ok(Answer::Fetched(mut positions)) => positions.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn committed(&mut self, at: TopicPartition) -> Option<i64> {
        match self.position(at) {
            Position::Committed { offset, .. } => Some(offset),
            _ => None,
        }
    }

    pub(super) fn state(&mut self) -> GroupState {
        match self.ask(Request::Describe("g".into())) {
            Ok(Answer::Group(group)) => group.state,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes, and timers fire when they are due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while let Some(due) = self.coordinator.next_deadline().filter(|due| *due <= end) {
            self.to(due.max(self.now.monotonic));
            self.step(Event::Tick);
        }
        self.to(end);
    }

    pub(super) fn to(&mut self, monotonic: Duration) {
        let passed = monotonic - self.now.monotonic;
        self.now.monotonic = monotonic;
        self.now.unix_ms += i64::try_from(passed.as_millis()).unwrap();
    }

    pub(super) fn set_topics(&mut self, topics: Arc<Topics>, deleted: &[Uuid]) {
        self.topics = Arc::clone(&topics);
        self.step(Event::TopicsChanged { topics, deleted });
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}

pub(super) fn offset_of(at: TopicPartition, offset: i64) -> CommitOffset {
    CommitOffset {
        at,
        offset,
        leader_epoch: Some(3),
        metadata: "note".into(),
    }
}

pub(super) fn answer_to(effects: &[Effect], request: u64) -> Option<Result<Answer, GroupRejection>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { id, answer } if *id == request => Some((**answer).clone()),
        _ => None,
    })
}

/// All that was committed, by key: what is left of the log after compaction.
pub(super) fn compacted(log: &[StoredRecord]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut table = BTreeMap::new();
    for record in log {
        match &record.value {
            Some(value) => table.insert(record.key.clone(), value.clone()),
            None => table.remove(&record.key),
        };
    }
    table
}

pub(super) fn replayed(log: &[StoredRecord]) -> Groups {
    let mut groups = Groups::default();
    for record in log {
        groups.apply(Record::decode(&record.key, record.value.as_deref()).unwrap());
    }
    groups
}
