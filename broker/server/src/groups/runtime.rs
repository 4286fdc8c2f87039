//! One coordinator's task: events into the rules, effects out of them.
//!
//! Appends go to the log in their order, several before the first is committed, so that they share a
//! flush. One that the log has certainly not taken is refused, with all that would have come after it;
//! whatever else goes wrong ends the coordinator.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Instant,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use millrace_engine::group::{
    Answer, Coordinator as Rules, Effect, Event, GroupId, GroupRejection, MemberId, Now, StoredRecord,
};
use millrace_proto::{
    batch::{BatchBuilder, Codec},
    v1::ErrorReason,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Ask, MemberStream, Snapshot,
    census::{Census, Counted},
    load,
    memory::Share,
    starts, topics,
};
use crate::{
    broker::{Broker, now_ms},
    error::{ApiError, WriteOutcome},
    forward::asks_for_leader,
    limits,
    partition::{AppendRequest, Partition, SequenceRule, SoundBatch},
    rpc::convert::Acks,
    turns::PATTERNS,
};

/// An append that waits to be committed: up to which number of the rules', and what became of it.
type Appending = BoxFuture<'static, (u64, Result<(), ApiError>)>;

/// Whose pattern was matched, and with what.
type Matched = ((GroupId, String), Result<Vec<String>, String>);

/// Who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<Result<Answer, GroupRejection>>,
    /// The first append that it made, if it made any.
    first: Option<u64>,
    stream: Option<Arc<MemberStream>>,
}

/// The coordinator of one partition in one leader epoch.
pub(super) struct Runtime {
    broker: Arc<Broker>,
    partition: Arc<Partition>,
    leader_epoch: i32,
    rules: Rules,
    began: Instant,
    topics: Option<Arc<Snapshot>>,
    next_request: u64,
    /// The last append of the rules.
    last_append: u64,
    /// Appends from this one on are just being refused.
    refused_from: Option<u64>,
    waiting: HashMap<u64, Waiting>,
    /// The streams of each member that is connected. A client that tries another broker has two for a moment: which one
    /// it has left nobody knows before that ends.
    streams: HashMap<(GroupId, MemberId), Vec<Arc<MemberStream>>>,
    /// Appends that are not written yet.
    unwritten: Vec<(u64, Vec<StoredRecord>)>,
    appending: FuturesOrdered<Appending>,
    lookups: JoinSet<starts::Looked>,
    patterns: JoinSet<Matched>,
    /// Patterns that are being matched; true: topics have changed since.
    matching: HashMap<(GroupId, String), bool>,
    looking_up: HashSet<(GroupId, Uuid)>,
    resigned: bool,
    /// Reading failed, and is left at that until then: it may be that the partition's lead is just going.
    load_failed: Option<(Instant, ApiError)>,
    counted: Counted,
    share: Share,
}

impl Runtime {
    pub(super) fn new(broker: Arc<Broker>, partition: Arc<Partition>, leader_epoch: i32, counted: Counted) -> Self {
        Self {
            rules: Rules::new(broker.config.groups.clone()),
            share: broker.groups.state_bytes.share(),
            broker,
            partition,
            leader_epoch,
            began: Instant::now(),
            topics: None,
            next_request: 0,
            last_append: 0,
            refused_from: None,
            waiting: HashMap::new(),
            streams: HashMap::new(),
            unwritten: Vec::new(),
            appending: FuturesOrdered::new(),
            lookups: JoinSet::new(),
            patterns: JoinSet::new(),
            matching: HashMap::new(),
            looking_up: HashSet::new(),
            resigned: false,
            load_failed: None,
            counted,
        }
    }

    /// Coordinates until `stop`, or until something is not certain.
    pub(super) async fn run(
        mut self,
        mut asked: mpsc::Receiver<Ask>,
        mut ended: mpsc::UnboundedReceiver<Arc<MemberStream>>,
        stop: CancellationToken,
    ) {
        let (parts, loading) = mpsc::channel(limits::GROUP_LOAD_PARTS_AHEAD);
        let mut loading = Some(loading);
        let reading = tokio::spawn(load::read(self.partition.clone(), self.leader_epoch, parts));
        let mut metadata = self.broker.quorum.watch();
        let mut counting = tokio::time::interval(limits::GROUPS_COUNTED_EVERY);
        counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.resigned {
            let deadline = self.rules.next_deadline().map(|at| self.began + at);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((sequence, stored)) = self.appending.next(), if !self.appending.is_empty() => {
                    self.appended(sequence, stored);
                }
                part = next_part(&mut loading), if loading.is_some() => self.take_part(part, &mut loading).await,
                () = due(deadline) => self.step(Event::Tick),
                () = due(self.load_failed.as_ref().map(|(until, _)| *until)) => self.load_has_failed(),
                Some(stream) = ended.recv() => self.stream_ended(&stream),
                Some(Ok(looked)) = self.lookups.join_next(), if !self.lookups.is_empty() => self.looked_up(&looked),
                Some(Ok(matched)) = self.patterns.join_next(), if !self.patterns.is_empty() => self.matched(matched),
                changed = metadata.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.look_at_topics();
                }
                _ = counting.tick() => *self.counted.lock() = Census::of(self.rules.groups()),
                ask = asked.recv() => match ask {
                    Some(ask) => {
                        self.look_at_topics();
                        self.take(ask);
                        // What waits already shares a batch with it.
                        for _ in 1..limits::GROUP_REQUESTS_AT_ONCE {
                            let Ok(ask) = asked.try_recv() else { break };
                            self.take(ask);
                        }
                    }
                    None => break,
                },
            }
            self.write();
        }
        reading.abort();
        self.step(Event::Resigned);
        asked.close();
        while let Ok(ask) = asked.try_recv() {
            let _ = ask
                .answer
                .send(Err(GroupRejection::NotCoordinator { outcome_unknown: false }));
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.began.elapsed(),
            unix_ms: now_ms(),
        }
    }

    fn step(&mut self, event: Event<'_>) {
        let now = self.now();
        self.rules.set_bytes_elsewhere(self.share.elsewhere());
        let effects = self.rules.step(now, event);
        self.share.set(self.rules.state_bytes());
        self.carry_out(effects);
    }

    fn take(&mut self, ask: Ask) {
        let id = self.next_request;
        self.next_request += 1;
        let Ask {
            request,
            stream,
            answer,
            _memory,
        } = ask;
        let first = None;
        self.waiting.insert(id, Waiting { answer, first, stream });
        let before = self.last_append;
        self.step(Event::Requested { id, request });
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.first = (self.last_append > before).then_some(before + 1);
        }
    }

    async fn take_part(&mut self, part: Option<load::Part>, loading: &mut Option<mpsc::Receiver<load::Part>>) {
        let records = match part {
            Some(load::Part::Batches(bytes)) => load::records(bytes),
            // It says nothing of the records.
            Some(load::Part::Failed(error)) => return self.cannot_load(error, loading),
            None => {
                let error = ApiError::internal("reading the records of groups", &"it ended too soon");
                return self.cannot_load(error, loading);
            }
            Some(load::Part::End) => {
                *loading = None;
                // First, so that nobody is told that a topic is not there.
                self.look_at_topics();
                self.step(Event::Loaded);
                *self.counted.lock() = Census::of(self.rules.groups());
                self.broker.metrics.group_loads.inc();
                let (groups, partition) = (self.rules.groups().len(), self.partition.number());
                tracing::info!(
                    partition,
                    groups,
                    leader_epoch = self.leader_epoch,
                    "coordinating consumer groups"
                );
                return;
            }
        };
        match records {
            Ok(records) => {
                for record in records {
                    let (key, value) = (record.key.unwrap_or_default(), record.value);
                    self.step(Event::Replayed {
                        key: &key,
                        value: value.as_deref(),
                    });
                }
                tokio::task::yield_now().await;
            }
            Err(reason) => {
                *loading = None;
                self.step(Event::LoadFailed { reason: &reason });
            }
        }
    }

    fn cannot_load(&mut self, error: ApiError, loading: &mut Option<mpsc::Receiver<load::Part>>) {
        *loading = None;
        if asks_for_leader(&error) || !self.partition.leads() {
            return self.resign(&error);
        }
        self.broker.metrics.group_load_failures.inc();
        tracing::warn!(partition = self.partition.number(), %error, "the records of groups can't be read now");
        self.load_failed = Some((Instant::now() + limits::GROUP_LOAD_AGAIN, error));
    }

    /// The next coordinator tries again, here or elsewhere; but where the damaged log is the leader's still, no other
    /// replica takes its place.
    fn load_has_failed(&mut self) {
        let Some((_, error)) = self.load_failed.take() else {
            return;
        };
        if error.reason() == ErrorReason::DamagedLog && self.partition.leads() {
            let reason = error.message();
            self.step(Event::LoadFailed { reason });
        } else {
            self.resign(&error);
        }
    }

    /// Takes over what the metadata says now.
    fn look_at_topics(&mut self) {
        let known = self.topics.as_ref().map_or(0, |known| known.version);
        if self.topics.is_some() && self.broker.quorum.cluster().version <= known {
            return;
        }
        let snapshot = self.broker.groups.topics(&self.broker);
        let before = self.topics.replace(snapshot.clone());
        if before
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(&before.topics, &snapshot.topics))
        {
            return;
        }
        // What was there in older metadata and is not in newer was deleted.
        let deleted: Vec<Uuid> = match &before {
            Some(before) => {
                let gone = before.names.keys().filter(|id| !snapshot.names.contains_key(*id));
                gone.copied().collect()
            }
            None => Vec::new(),
        };
        self.step(Event::TopicsChanged {
            topics: snapshot.topics.clone(),
            deleted: &deleted,
        });
    }

    fn stream_ended(&mut self, stream: &Arc<MemberStream>) {
        let key = (stream.group().clone(), stream.member().clone());
        let Some(streams) = self.streams.get_mut(&key) else {
            return;
        };
        let before = streams.len();
        streams.retain(|other| !Arc::ptr_eq(other, stream));
        let (was_there, is_the_last) = (streams.len() < before, streams.is_empty());
        if is_the_last {
            self.streams.remove(&key);
        }
        if was_there && is_the_last {
            self.disconnected(stream);
        }
    }

    /// A stream has ended whose member has no other. One that has connected anew is there, also while its answer waits to
    /// be stored.
    fn disconnected(&mut self, last: &MemberStream) {
        if last.is_lost() && !self.is_asked_after(last) {
            self.step(Event::ConnectionLost {
                group: last.group(),
                member: last.member(),
            });
        }
    }

    /// Whether the member of a stream waits for an answer on another one.
    fn is_asked_after(&self, ended: &MemberStream) -> bool {
        let mut asked = self.waiting.values().filter_map(|waiting| waiting.stream.as_ref());
        asked.any(|stream| stream.is_of_the_member_of(ended) && !stream.has_ended())
    }

    fn looked_up(&mut self, looked: &starts::Looked) {
        self.looking_up.remove(&(looked.group.clone(), looked.topic));
        self.step(Event::StartResolved {
            group: &looked.group,
            topic: looked.topic,
            offsets: &looked.offsets,
        });
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { sequence, records } => {
                    self.last_append = sequence;
                    self.unwritten.push((sequence, records));
                }
                Effect::Answer { id, answer } => self.answer(id, *answer),
                Effect::Wake { group, members } => {
                    for member in members {
                        for stream in self.streams.get(&(group.clone(), member)).into_iter().flatten() {
                            stream.wake();
                        }
                    }
                }
                Effect::ResolvePattern { group, pattern } => self.resolve_pattern(&group, &pattern),
                Effect::ResolveStart {
                    group,
                    topic,
                    partitions,
                    start,
                } => {
                    // What finds no place is asked for anew by who wants to know.
                    if self.lookups.len() < limits::GROUP_LOOKUPS && self.looking_up.insert((group.clone(), topic)) {
                        let nothing = starts::Looked {
                            group: group.clone(),
                            topic,
                            offsets: Vec::new(),
                        };
                        let looking = starts::look_up(self.broker.clone(), group, topic, partitions, start);
                        // One that fails is over, too, so that it can be asked for again.
                        let looking = AssertUnwindSafe(looking).catch_unwind();
                        self.lookups.spawn(looking.map(|looked| looked.unwrap_or(nothing)));
                    }
                }
                Effect::GroupStopped { group, reason } => {
                    tracing::error!(%group, reason, "a group's records can't be read: it is stopped, and nothing of it is overwritten");
                }
                Effect::CoordinatorStopped { reason } => {
                    self.broker.metrics.group_load_failures.inc();
                    tracing::error!(
                        partition = self.partition.number(),
                        reason,
                        "the records of groups can't be read: none of this partition is served"
                    );
                }
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Result<Answer, GroupRejection>) {
        let Some(waiting) = self.waiting.remove(&id) else {
            return;
        };
        let Waiting {
            answer: to,
            first,
            stream,
        } = waiting;
        let answer = match (answer, first, self.refused_from) {
            // What it wrote first is in the log, and what came after it is not.
            (Err(GroupRejection::NotStored), Some(first), Some(refused)) if first < refused => {
                Err(GroupRejection::NotCoordinator { outcome_unknown: true })
            }
            (answer, ..) => answer,
        };
        // A refused heartbeat takes no member over.
        let connected = stream.filter(|_| matches!(answer, Ok(Answer::Heartbeat(_))));
        let _ = to.send(answer);
        if let Some(stream) = connected {
            self.connected(&stream);
        }
    }

    /// A stream has had an answer.
    fn connected(&mut self, stream: &Arc<MemberStream>) {
        let key = (stream.group().clone(), stream.member().clone());
        if stream.has_ended() {
            if !self.streams.contains_key(&key) {
                self.disconnected(stream);
            }
            return;
        }
        let streams = self.streams.entry(key).or_default();
        if streams.iter().any(|other| Arc::ptr_eq(other, stream)) {
            return;
        }
        // They ask, and hear that they were taken over.
        for before in streams.iter().filter(|before| before.is_exclusive()) {
            before.wake();
        }
        if streams.len() == limits::STREAMS_OF_A_MEMBER {
            streams.remove(0);
        }
        streams.push(stream.clone());
    }

    /// Aside, as a pattern may take long for many topics, and all groups of the partition would wait for it.
    fn resolve_pattern(&mut self, group: &str, pattern: &str) {
        let key = (GroupId::from(group), pattern.to_owned());
        if let Some(again) = self.matching.get_mut(&key) {
            *again = true;
            return;
        }
        self.matching.insert(key.clone(), false);
        let cluster = self.broker.quorum.cluster();
        self.patterns.spawn(async move {
            let pattern = key.1.clone();
            let matching = move |_turn| topics::matching(&cluster, &pattern);
            let matched = PATTERNS.run(matching).await;
            (key, matched.unwrap_or_else(|error| Err(error.message().to_owned())))
        });
    }

    /// A pattern that is none was not let in; one that a later version has let in matches nothing here.
    fn matched(&mut self, (key, matched): Matched) {
        let again = self.matching.remove(&key).unwrap_or_default();
        let (group, pattern) = (&*key.0, &*key.1);
        match matched {
            Ok(topics) => self.step(Event::PatternResolved { group, pattern, topics }),
            Err(error) => tracing::warn!(group, pattern, error, "a pattern of topics can't be used"),
        }
        if again {
            self.resolve_pattern(group, pattern);
        }
    }

    fn appended(&mut self, sequence: u64, stored: Result<(), ApiError>) {
        match stored {
            Ok(()) => self.step(Event::Committed { sequence }),
            Err(error) => self.resign(&error),
        }
    }

    fn resign(&mut self, error: &ApiError) {
        tracing::info!(
            partition = self.partition.number(),
            leader_epoch = self.leader_epoch,
            %error,
            "coordinates groups no more"
        );
        self.resigned = true;
    }

    /// Writes what the rules have appended, many in one batch.
    fn write(&mut self) {
        while !self.unwritten.is_empty() && !self.resigned {
            let (mut records, mut bytes, mut last) = (Vec::new(), 0, 0);
            let first = self.unwritten[0].0;
            let mut taken = 0;
            for (sequence, of) in &mut self.unwritten {
                let size: usize = of.iter().map(size_of_record).sum();
                if taken > 0 && bytes + size > limits::GROUP_BATCH_BYTES {
                    break;
                }
                records.append(of);
                (bytes, last) = (bytes + size, *sequence);
                taken += 1;
            }
            self.unwritten.drain(..taken);
            match self.append(&records) {
                Ok(committed) => self.appending.push_back(
                    async move {
                        let stored = committed.committed.wait().await;
                        (last, stored)
                    }
                    .boxed(),
                ),
                Err(error) if error.is_not_written() && !asks_for_leader(&error) => {
                    tracing::warn!(partition = self.partition.number(), %error, "what groups have changed is not stored");
                    // Nothing that comes after it is written.
                    self.unwritten.clear();
                    self.refused_from = Some(first);
                    self.step(Event::Refused { sequence: first });
                    self.refused_from = None;
                }
                Err(error) => self.resign(&error),
            }
        }
    }

    fn append(&self, records: &[StoredRecord]) -> Result<crate::partition::Appended, ApiError> {
        let now = now_ms();
        let mut builder = BatchBuilder::new(Codec::None);
        for record in records {
            builder
                .append(now, Some(&record.key), record.value.as_deref(), &[])
                .map_err(|error| {
                    ApiError::internal("writing records of groups", &error).outcome(WriteOutcome::NotWritten)
                })?;
        }
        let batch = SoundBatch::build(&mut builder, &[now], None).map_err(|error| {
            ApiError::internal("writing records of groups", &error).outcome(WriteOutcome::NotWritten)
        })?;
        let request = AppendRequest {
            acks: Acks::All,
            leader_epoch: Some(self.leader_epoch),
            expected_offset: None,
            sequence_rule: SequenceRule::Contiguous,
        };
        self.partition.append(&batch, &request)
    }
}

fn size_of_record(record: &StoredRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, Vec::len)
}

async fn next_part(loading: &mut Option<mpsc::Receiver<load::Part>>) -> Option<load::Part> {
    match loading {
        Some(loading) => loading.recv().await,
        None => std::future::pending().await,
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
