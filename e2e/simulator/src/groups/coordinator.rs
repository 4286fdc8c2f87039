//! The server's runtime of a coordinator, as a model: it lives for one leader epoch, loads, appends what the rules say
//! with acks=all, and ends with whatever is not certain.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::{
    group::{
        Coordinator as Rules, Effect, Event as Rule, GroupConfig, GroupId, Groups as State, MemberId, Now, Record,
        StoredRecord,
    },
    partition::Event as Step,
};
use millrace_log::{AppendError, AppendOptions, Appended};
use millrace_proto::batch::{BatchBuilder, Codec, DecodeLimits, Header, owned_batches};
use uuid::Uuid;

use super::{ClientLife, GroupEvent, PARTITION, TAG, serving::Waiting};
use crate::world::World;

/// How many bytes of the log a load takes at a time.
const LOAD_BYTES: usize = 4_096;
/// How often a coordinator that waits for something looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What it has yet to read.
#[derive(Debug)]
struct Loading {
    offset: i64,
    /// The log's end when the load began: all of it must be committed first.
    end: i64,
}

/// An append that is to be committed.
#[derive(Debug)]
struct Appending {
    sequence: u64,
    base_offset: i64,
    end_offset: i64,
    tags: Vec<u64>,
}

/// A coordinator in a process, for one leader epoch.
pub(crate) struct Coordinating {
    pub(super) leader_epoch: i32,
    began: Duration,
    pub(super) rules: Rules,
    loading: Option<Loading>,
    /// The load failed: it serves nothing.
    failed: bool,
    /// The view of topics that it was told.
    told: Option<usize>,
    pub(super) next_request: u64,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// The latest stream of each member that is connected.
    pub(super) streams: BTreeMap<(GroupId, MemberId), (ClientLife, u64)>,
    /// The streams of each member by which heartbeats came, and of whose end nothing was heard.
    pub(super) open: BTreeMap<(GroupId, MemberId), BTreeSet<(ClientLife, u64)>>,
    /// Streams that have ended, and their clients with them, perhaps.
    pub(super) ended: BTreeSet<(ClientLife, u64)>,
    unwritten: Vec<(u64, Vec<StoredRecord>)>,
    appending: VecDeque<Appending>,
    /// What the log says up to its end.
    mirror: State,
    pub(super) resigned: bool,
}

/// What became of an append that was refused.
enum Refused {
    /// Surely nothing is written.
    NotWritten,
    /// Somebody else leads, or nothing is sure.
    Unsure,
}

impl Coordinating {
    fn new(leader_epoch: i32, began: Duration, start: i64, end: i64) -> Self {
        Self {
            leader_epoch,
            began,
            rules: Rules::new(GroupConfig::default()),
            loading: Some(Loading { offset: start, end }),
            failed: false,
            told: None,
            next_request: 0,
            waiting: BTreeMap::new(),
            streams: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            unwritten: Vec::new(),
            appending: VecDeque::new(),
            mirror: State::default(),
            resigned: false,
        }
    }

    /// It serves, and nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.loading.is_none() && !self.failed && self.unwritten.is_empty() && self.appending.is_empty()
    }
}

impl World {
    /// In which epoch a broker leads the partition of groups.
    pub(super) fn leads_groups(&self, at: usize) -> Option<i32> {
        let process = self.brokers[at].process.as_ref().filter(|process| !process.failed)?;
        let leader = process.hosted.get(&PARTITION)?.replica.leader()?;
        Some(leader.leader_epoch())
    }

    /// Has a broker look at its coordinator after a while.
    pub(crate) fn coordinate_soon(&mut self, at: usize, most: Duration) {
        if !self.has_groups() {
            return;
        }
        let delay = self.up_to(most);
        self.coordinate_in(at, delay);
    }

    fn coordinate_in(&mut self, at: usize, delay: Duration) {
        let due = self.now + delay;
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        if process.coordinate_at.is_none_or(|known| due < known) {
            process.coordinate_at = Some(due);
            let life = process.life;
            self.schedule_group(delay, GroupEvent::Coordinate { at, life });
        }
    }

    pub(super) fn on_coordinate(&mut self, at: usize, life: u64) {
        if !self.brokers[at].is_life(life) {
            return;
        }
        let (led, now) = (self.leads_groups(at), self.now);
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        if process.coordinate_at.is_some_and(|known| known <= now) {
            process.coordinate_at = None;
        }
        let running = process.coordinator.as_ref().map(|known| known.leader_epoch);
        if running.is_some() && running != led {
            self.with_coordinator(at, |_, coordinator| coordinator.resigned = true);
        }
        if let Some(leader_epoch) = led
            && running != led
        {
            self.begin_coordinator(at, leader_epoch);
        }
        self.with_coordinator(at, |world, coordinator| world.go_on(at, coordinator));
    }

    fn begin_coordinator(&mut self, at: usize, leader_epoch: i32) {
        self.seen("coordinator began");
        let now = self.now;
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        let Some(hosted) = process.hosted.get(&PARTITION) else {
            return;
        };
        let (start, end) = (hosted.log.log_start_offset(), hosted.log.log_end_offset());
        process.coordinator = Some(Box::new(Coordinating::new(leader_epoch, now, start, end)));
    }

    /// Does something with a broker's coordinator, if there is one; writes what comes of it, looks at what must hold, and
    /// sees to it that it goes on.
    pub(super) fn with_coordinator(&mut self, at: usize, act: impl FnOnce(&mut Self, &mut Coordinating)) {
        let Some(life) = self.brokers[at].life() else { return };
        let taken = self.brokers[at].process.as_mut();
        let Some(mut coordinator) = taken.and_then(|process| process.coordinator.take()) else {
            return;
        };
        act(self, &mut coordinator);
        self.write_groups(at, &mut coordinator);
        if coordinator.resigned {
            self.seen("coordinator ended");
            self.rule(at, &mut coordinator, Rule::Resigned);
            // Perhaps it leads on, and the next one reads what is there.
            return self.coordinate_in(at, LOOK_EVERY);
        }
        let serves = coordinator.loading.is_none() && !coordinator.failed;
        if serves && coordinator.mirror != *coordinator.rules.groups() {
            self.observer
                .violate("what a coordinator knows is what its records say", || {
                    format!(
                        "broker {at}: {:?}, its records say {:?}",
                        coordinator.rules.groups(),
                        coordinator.mirror
                    )
                });
        }
        let now = self.now;
        let waits = if serves {
            let due = coordinator.rules.next_deadline().map(|due| coordinator.began + due);
            due.map(|due| due.saturating_sub(now).max(Duration::from_micros(100)))
        } else {
            Some(LOOK_EVERY).filter(|_| !coordinator.failed)
        };
        if let Some(process) = self.brokers[at].process.as_mut().filter(|process| process.life == life) {
            process.coordinator = Some(coordinator);
        }
        if let Some(delay) = waits {
            self.coordinate_in(at, delay);
        }
    }

    /// Gives the rules an event, and carries out what they ask for.
    pub(super) fn rule(&mut self, at: usize, coordinator: &mut Coordinating, event: Rule<'_>) {
        let now = Now {
            monotonic: self.now - coordinator.began,
            unix_ms: self.now_ms(),
        };
        for effect in coordinator.rules.step(now, event) {
            match effect {
                Effect::Append { sequence, records } => coordinator.unwritten.push((sequence, records)),
                Effect::Answer { id, answer } => self.answer_group(at, coordinator, id, answer),
                Effect::Wake { group, members } => self.wake_members(at, coordinator, &group, &members),
                Effect::ResolveStart {
                    group,
                    topic,
                    partitions,
                    ..
                } => self.look_up_ends(at, coordinator.leader_epoch, group, topic, &partitions),
                Effect::ResolvePattern { .. } => {}
                Effect::GroupStopped { reason, .. } | Effect::CoordinatorStopped { reason } => {
                    self.observer.violate("what is stored of groups can be read", || {
                        format!("broker {at}: {reason}")
                    });
                }
            }
        }
    }

    /// Where a topic ends is found out, which takes a while.
    fn look_up_ends(&mut self, at: usize, leader_epoch: i32, group: GroupId, topic: Uuid, partitions: &[u32]) {
        let Some(life) = self.brokers[at].life() else { return };
        self.seen("start looked up");
        let mut offsets = Vec::new();
        for &partition in partitions {
            let place = millrace_engine::group::TopicPartition { topic, partition };
            // Now and then one does not answer in time.
            if let Some(end) = self.groups.ends.get(&place).copied()
                && (self.groups.calm || self.below(4) > 0)
            {
                offsets.push((partition, end));
            }
        }
        let delay = self.up_to(Duration::from_millis(500));
        self.schedule_group(
            delay,
            GroupEvent::StartResolved {
                at,
                life,
                leader_epoch,
                group,
                topic,
                offsets,
            },
        );
    }

    pub(super) fn on_start_resolved(
        &mut self,
        at: usize,
        life: u64,
        leader_epoch: i32,
        group: &str,
        topic: Uuid,
        offsets: &[(u32, i64)],
    ) {
        if !self.brokers[at].is_life(life) {
            return;
        }
        self.with_coordinator(at, |world, coordinator| {
            if coordinator.leader_epoch == leader_epoch {
                world.rule(at, coordinator, Rule::StartResolved { group, topic, offsets });
            }
        });
    }

    /// A broker hears of new partitions.
    pub(super) fn on_views(&mut self, at: usize, life: u64) {
        let newest = self.groups.views.len() - 1;
        if let Some(process) = self.brokers[at].process.as_mut().filter(|process| process.life == life) {
            process.views = newest;
            self.with_coordinator(at, |world, coordinator| world.look_at_topics(at, coordinator));
        }
    }

    /// Takes over what the broker's metadata says of topics.
    pub(super) fn look_at_topics(&mut self, at: usize, coordinator: &mut Coordinating) {
        let known = self.brokers[at].process.as_ref().map_or(0, |process| process.views);
        if coordinator.told.is_some_and(|told| told >= known) {
            return;
        }
        coordinator.told = Some(known);
        let topics = self.groups.views[known].clone();
        self.rule(at, coordinator, Rule::TopicsChanged { topics, deleted: &[] });
    }

    fn go_on(&mut self, at: usize, coordinator: &mut Coordinating) {
        if coordinator.resigned {
            return;
        }
        self.take_committed(at, coordinator);
        if coordinator.loading.is_some() {
            return self.load(at, coordinator);
        }
        let passed = self.now - coordinator.began;
        if coordinator.rules.next_deadline().is_some_and(|due| due <= passed) {
            self.rule(at, coordinator, Rule::Tick);
        }
    }

    fn load(&mut self, at: usize, coordinator: &mut Coordinating) {
        let Some(loading) = coordinator.loading.as_mut() else {
            return;
        };
        let Some(hosted) = self.brokers[at].hosted(PARTITION) else {
            return;
        };
        if hosted.replica.high_watermark() < loading.end {
            return;
        }
        if loading.offset < loading.end {
            let read = hosted.log.read(loading.offset, LOAD_BYTES, true, loading.end);
            let (records, next) = match read.map(|data| (records_in(data.bytes), data.next_offset)) {
                Ok((Ok(records), next)) if next > loading.offset => (records, next),
                Ok((Ok(_), _)) => (Vec::new(), loading.end),
                Ok((Err(reason), _)) => return self.load_failed(at, coordinator, &reason),
                Err(error) => return self.load_failed(at, coordinator, &error.to_string()),
            };
            loading.offset = next;
            for (_, record) in records {
                let value = record.value.as_deref();
                self.rule(
                    at,
                    coordinator,
                    Rule::Replayed {
                        key: &record.key,
                        value,
                    },
                );
                self.mirror(at, coordinator, &record);
            }
            return;
        }
        let end = loading.end;
        coordinator.loading = None;
        self.seen("coordinator loaded");
        self.check_loaded(at, end, coordinator.rules.groups());
        // First, so that nobody is told that a topic is not there.
        self.look_at_topics(at, coordinator);
        self.rule(at, coordinator, Rule::Loaded);
    }

    fn load_failed(&mut self, at: usize, coordinator: &mut Coordinating, reason: &str) {
        self.seen("coordinator's load failed");
        // A directory that fails ends the lead.
        if self.leads_groups(at).is_some() {
            self.observer.violate("a sound log of groups can be loaded", || {
                format!("broker {at}: {reason}")
            });
        }
        coordinator.failed = true;
    }

    /// Notes that a record is in the log.
    fn mirror(&mut self, at: usize, coordinator: &mut Coordinating, record: &StoredRecord) {
        match Record::decode(&record.key, record.value.as_deref()) {
            Ok(record) => _ = coordinator.mirror.apply(record),
            Err(error) => self.observer.violate("what is stored of groups can be read", || {
                format!("broker {at}: {error:?}")
            }),
        }
    }

    fn take_committed(&mut self, at: usize, coordinator: &mut Coordinating) {
        // What it had appended before another lead may be cut.
        if self.leads_groups(at) != Some(coordinator.leader_epoch) {
            coordinator.resigned = true;
            return;
        }
        let hosted = self.brokers[at].hosted(PARTITION);
        let committed = hosted.map_or(0, |hosted| hosted.replica.high_watermark());
        while let Some(first) = coordinator.appending.front()
            && first.end_offset <= committed
            && let Some(done) = coordinator.appending.pop_front()
        {
            self.observer.acknowledged(PARTITION, done.base_offset, &done.tags);
            let sequence = done.sequence;
            self.rule(at, coordinator, Rule::Committed { sequence });
        }
    }

    /// Writes what the rules have appended, many in one batch.
    fn write_groups(&mut self, at: usize, coordinator: &mut Coordinating) {
        while !coordinator.unwritten.is_empty() && !coordinator.resigned {
            let first = coordinator.unwritten[0].0;
            let taken: Vec<(u64, Vec<StoredRecord>)> = coordinator.unwritten.drain(..).collect();
            let sequence = taken.last().map_or(first, |last| last.0);
            let records: Vec<StoredRecord> = taken.into_iter().flat_map(|one| one.1).collect();
            match self.append_groups(at, coordinator.leader_epoch, &records) {
                Ok(appending) => {
                    for record in &records {
                        self.mirror(at, coordinator, record);
                    }
                    coordinator.appending.push_back(Appending { sequence, ..appending });
                    self.coordinate_in(at, Duration::from_micros(50));
                }
                Err(Refused::NotWritten) => {
                    self.seen("records of groups refused");
                    coordinator.unwritten.clear();
                    self.rule(at, coordinator, Rule::Refused { sequence: first });
                }
                Err(Refused::Unsure) => coordinator.resigned = true,
            }
        }
    }

    fn append_groups(&mut self, at: usize, leader_epoch: i32, records: &[StoredRecord]) -> Result<Appending, Refused> {
        let now_ms = self.now_ms();
        let mut builder = BatchBuilder::new(Codec::None);
        let mut tags = Vec::new();
        for record in records {
            let tag = (1 << 56) | self.groups.number();
            let value = tag.to_be_bytes();
            let header = Header {
                key: TAG,
                value: Some(&value),
            };
            builder
                .append(now_ms, Some(&record.key), record.value.as_deref(), &[header])
                .expect("a small record fits");
            self.groups.records.insert(tag, record.clone());
            tags.push(tag);
        }
        let bytes = builder.build().expect("a small batch can be built");
        let Some(hosted) = self.brokers[at].hosted_mut(PARTITION) else {
            return Err(Refused::Unsure);
        };
        let epoch = match hosted.replica.check_append(Some(leader_epoch), true) {
            Ok(epoch) => epoch,
            Err(millrace_engine::partition::ReplicaError::Leader(
                millrace_engine::partition::LeaderError::NotEnoughReplicas { .. },
            )) => return Err(Refused::NotWritten),
            Err(_) => return Err(Refused::Unsure),
        };
        match hosted
            .log
            .append_as_leader(&bytes, epoch, now_ms, &AppendOptions::default())
        {
            Ok(Appended::New {
                base_offset,
                last_offset,
                ..
            }) => {
                self.remember_produced(at, PARTITION, epoch, &tags);
                let log_end = last_offset + 1;
                self.step(at, PARTITION, Step::Appended { log_end });
                self.flush_or_count(at, PARTITION);
                self.wake_parked(at, PARTITION, None);
                Ok(Appending {
                    sequence: 0,
                    base_offset,
                    end_offset: log_end,
                    tags,
                })
            }
            Err(AppendError::DiskFull(_)) => Err(Refused::NotWritten),
            Err(AppendError::Offline(_)) => {
                self.remember_produced(at, PARTITION, epoch, &tags);
                self.directory_failed(at);
                Err(Refused::Unsure)
            }
            Ok(_) | Err(_) => Err(Refused::Unsure),
        }
    }
}

/// The records of whole batches, with their offsets.
pub(super) fn records_in(bytes: Bytes) -> Result<Vec<(i64, StoredRecord)>, String> {
    let mut found = Vec::new();
    for batch in owned_batches(bytes) {
        let batch = batch.map_err(|error| error.to_string())?;
        let records = batch.records(&DecodeLimits::DEFAULT);
        for record in records.map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let stored = StoredRecord {
                key: record.key.unwrap_or_default().to_vec(),
                value: record.value.map(|value| value.to_vec()),
            };
            found.push((record.offset, stored));
        }
    }
    Ok(found)
}
