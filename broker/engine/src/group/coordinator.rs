//! The coordinator of the groups of one partition: which rule an event belongs to, and what of a
//! step is appended and answered.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::{
    ended::Ended,
    event::{Effect, Event},
    limits::{GroupConfig, MAX_APPEND_BYTES, MAX_DESCRIBED_MEMBERS, MAX_WAITING_ANSWERS, MAX_WAITING_BYTES},
    record::{Fact, ReadError, Record, StoredRecord},
    rejection::GroupRejection,
    request::{Answer, Rebalance, Request},
    state::{Group, Groups},
    timers::{Timer, Timers},
    topics::Topics,
    types::{GroupId, MemberId, MemberState, Now},
    validate::check_group_id,
    writes::{Waiting, Writes},
};

/// What a coordinator is in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Failed(String),
    Resigned,
}

/// What is known of a group besides its records, and may be forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// When it was last assigned.
    pub(super) assigned_at: Option<Duration>,
    /// Instance ids that a new process waits for, and when it last asked.
    pub(super) successors: HashMap<String, Duration>,
    /// Which stream of a subscriber is the member.
    pub(super) subscribers: HashMap<MemberId, Uuid>,
    /// Patterns whose matches are not known yet, and the view of topics when they were named.
    pub(super) patterns_since: HashMap<String, u64>,
    /// Set aside for what it is yet to be assigned.
    pub(super) reserved_bytes: usize,
    /// Why it was to be assigned anew last.
    pub(super) last_rebalance: Option<Rebalance>,
}

/// The coordinator of the groups of one partition.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub(super) config: GroupConfig,
    phase: Phase,
    pub(super) groups: Groups,
    /// `None`: not told yet, which is not the same as none.
    pub(super) topics: Option<Arc<Topics>>,
    /// Counts views of topics.
    pub(super) generation: u64,
    /// Topics that were not in the first view, and in which they were first.
    pub(super) appeared: HashMap<Uuid, u64>,
    /// What all groups' hints have set aside.
    pub(super) reserved_bytes: usize,
    /// What the broker's other coordinators take of the same budget.
    pub(super) bytes_elsewhere: usize,
    pub(super) timers: Timers,
    pub(super) hints: HashMap<GroupId, Hints>,
    pub(super) ended: Ended,
    stopped: BTreeMap<GroupId, String>,
    writes: Writes,
}

/// One step: what it has done so far.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) now: Now,
    records: Vec<StoredRecord>,
    undo: Vec<Record>,
    answers: Vec<(u64, Result<Answer, GroupRejection>)>,
    pub(super) effects: Vec<Effect>,
    woken: BTreeMap<GroupId, BTreeSet<MemberId>>,
    /// Groups whose epoch has risen.
    pub(super) unsettled: BTreeSet<GroupId>,
}

impl Turn {
    fn new(now: Now) -> Self {
        Self {
            now,
            records: Vec::new(),
            undo: Vec::new(),
            answers: Vec::new(),
            effects: Vec::new(),
            woken: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }

    pub(super) fn wake(&mut self, group: &GroupId, member: MemberId) {
        self.woken.entry(group.clone()).or_default().insert(member);
    }
}

impl Coordinator {
    /// A coordinator that has yet to load its records.
    #[must_use]
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            phase: Phase::Loading,
            groups: Groups::default(),
            topics: None,
            generation: 0,
            appeared: HashMap::new(),
            reserved_bytes: 0,
            bytes_elsewhere: 0,
            timers: Timers::default(),
            hints: HashMap::new(),
            ended: Ended::default(),
            stopped: BTreeMap::new(),
            writes: Writes::default(),
        }
    }

    /// All that its records say; also those that are not committed yet.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// When the next `Event::Tick` is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        (self.phase == Phase::Active).then(|| self.timers.next()).flatten()
    }

    /// About how many bytes its state takes, with what is set aside.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.groups.bytes().saturating_add(self.reserved_bytes)
    }

    /// Tells how many bytes the broker's other coordinators take, by their `state_bytes`: what is let in from here on
    /// goes by the sum.
    pub fn set_bytes_elsewhere(&mut self, bytes: usize) {
        self.bytes_elsewhere = bytes;
    }

    /// How many timers run: a measure of what is kept besides records.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    /// How many members are remembered after their end: up to `MAX_ENDED_MEMBERS`.
    #[must_use]
    pub fn ended_members(&self) -> usize {
        self.ended.len()
    }

    /// Takes one step.
    pub fn step(&mut self, now: Now, event: Event<'_>) -> Vec<Effect> {
        let mut turn = Turn::new(now);
        match event {
            Event::Replayed { key, value } => self.replay(key, value),
            Event::Loaded => self.load(&mut turn),
            // Once it serves, or does not any more, there is nothing left to load.
            Event::LoadFailed { reason } => {
                if self.phase == Phase::Loading {
                    self.fail(&mut turn, reason.to_owned());
                }
            }
            Event::TopicsChanged { topics, deleted } => {
                let before = self.topics.replace(topics);
                self.note_appeared(before.as_deref());
                if self.phase == Phase::Active {
                    self.topics_changed(&mut turn, before.as_deref(), deleted);
                }
            }
            Event::Requested { id, request } => {
                let answer = self.admit(&request).and_then(|()| self.request(&mut turn, *request));
                turn.answers.push((id, answer));
            }
            Event::Committed { sequence } => {
                let done = self.writes.commit(sequence);
                turn.effects.extend(done.into_iter().map(Waiting::effect));
            }
            Event::Refused { sequence } => self.refuse(&mut turn, sequence),
            Event::Resigned => self.resign(&mut turn),
            Event::ConnectionLost { group, member } => {
                if self.serves(group) {
                    self.connection_lost(turn.now, group, member);
                }
            }
            Event::PatternResolved { group, pattern, topics } => {
                if self.serves(group) {
                    self.pattern_resolved(&mut turn, group, pattern, topics);
                }
            }
            Event::StartResolved { group, topic, offsets } => {
                if self.serves(group) {
                    self.start_resolved(&mut turn, group, topic, offsets);
                }
            }
            Event::Tick => {
                if self.phase == Phase::Active {
                    self.tick(&mut turn);
                }
            }
        }
        self.finish(turn)
    }

    fn serves(&self, group: &str) -> bool {
        self.phase == Phase::Active && !self.stopped.contains_key(group)
    }

    /// Whether requests are taken, and for this group.
    fn admit(&self, request: &Request) -> Result<(), GroupRejection> {
        match &self.phase {
            Phase::Active => {}
            Phase::Loading => return Err(GroupRejection::Loading),
            Phase::Failed(reason) => return Err(GroupRejection::CoordinatorFailed { reason: reason.clone() }),
            Phase::Resigned => return Err(GroupRejection::NotCoordinator { outcome_unknown: false }),
        }
        if self.writes.waiting() >= MAX_WAITING_ANSWERS || self.writes.waiting_bytes() >= MAX_WAITING_BYTES {
            return Err(GroupRejection::Overloaded);
        }
        let group = match request {
            Request::Heartbeat(beat) => &beat.group,
            Request::Leave(leave) => &leave.group,
            Request::Commit(commit) => &commit.group,
            Request::FetchOffsets(fetch) => &fetch.group,
            Request::ResetOffsets(reset) => &reset.group,
            Request::DeleteGroup(group)
            | Request::Describe(group)
            | Request::DescribePage { group, .. }
            | Request::OffsetPage { group, .. } => group,
            Request::List { .. } => return Ok(()),
        };
        check_group_id(group)?;
        match self.stopped.get(group) {
            None => Ok(()),
            Some(reason) => Err(GroupRejection::GroupUnreadable {
                group: group.to_string(),
                reason: reason.clone(),
            }),
        }
    }

    fn request(&mut self, turn: &mut Turn, request: Request) -> Result<Answer, GroupRejection> {
        match request {
            Request::Heartbeat(beat) => self.heartbeat(turn, beat),
            Request::Leave(leave) => self.leave(turn, &leave),
            Request::Commit(commit) => self.commit(turn, commit),
            Request::FetchOffsets(fetch) => self.fetch_offsets(turn, fetch),
            Request::ResetOffsets(reset) => self.reset_offsets(turn, reset),
            Request::DeleteGroup(group) => self.delete_group(turn, &group),
            Request::Describe(group) => self.describe(&group, "", MAX_DESCRIBED_MEMBERS),
            Request::DescribePage { group, after, limit } => self.describe(&group, &after, limit),
            Request::OffsetPage { group, after, limit } => self.offset_page(&group, after, limit),
            Request::List { after, limit } => Ok(self.list(&after, limit)),
        }
    }

    /// Groups that can be read.
    pub(super) fn served_groups(&self) -> Vec<GroupId> {
        let served = self
            .groups
            .iter()
            .map(|(id, _)| id)
            .filter(|id| !self.stopped.contains_key(*id));
        served.cloned().collect()
    }

    /// Groups that can't be read.
    pub(super) fn stopped_groups(&self) -> impl Iterator<Item = &GroupId> {
        self.stopped.keys()
    }

    fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.phase != Phase::Loading {
            return;
        }
        match Record::decode(key, value) {
            Ok(record) => {
                self.groups.apply(record);
            }
            Err(ReadError::Group { group, reason }) => {
                self.stopped.entry(group).or_insert_with(|| reason.to_string());
            }
            Err(ReadError::Key(reason)) => self.phase = Phase::Failed(reason.to_string()),
        }
    }

    fn load(&mut self, turn: &mut Turn) {
        match &self.phase {
            Phase::Loading => {}
            Phase::Failed(reason) => {
                let reason = reason.clone();
                return self.fail(turn, reason);
            }
            Phase::Active | Phase::Resigned => return,
        }
        self.phase = Phase::Active;
        for (id, group) in self.groups.iter() {
            if let Err(reason) = group.validate() {
                self.stopped.entry(id.clone()).or_insert(reason);
            }
        }
        for (group, reason) in &self.stopped {
            turn.effects.push(Effect::GroupStopped {
                group: group.clone(),
                reason: reason.clone(),
            });
        }
        for id in self.served_groups() {
            if self.groups.get(&id).is_some_and(Group::end_is_unnoted) {
                self.emptied(turn, &id);
            }
            self.arm(turn.now, &id);
            self.await_patterns(&id);
            self.ask_for_patterns(turn, &id);
            self.note_new_topics(turn, &id);
            self.reconsider_topics(turn, &id);
        }
        self.timers.set(
            Timer::Retention,
            turn.now.monotonic + self.config.retention_check_interval,
        );
    }

    fn fail(&mut self, turn: &mut Turn, reason: String) {
        turn.effects.push(Effect::CoordinatorStopped { reason: reason.clone() });
        self.phase = Phase::Failed(reason);
    }

    fn resign(&mut self, turn: &mut Turn) {
        self.phase = Phase::Resigned;
        let gone = self.writes.give_up().into_iter();
        turn.effects
            .extend(gone.map(|waiting| waiting.refused(GroupRejection::NotCoordinator { outcome_unknown: true })));
        self.groups = Groups::default();
        self.timers = Timers::default();
        self.hints.clear();
        self.reserved_bytes = 0;
        self.ended = Ended::default();
    }

    fn refuse(&mut self, turn: &mut Turn, sequence: u64) {
        let (back, refused) = self.writes.refuse(sequence);
        let mut touched = BTreeSet::new();
        for record in back {
            touched.insert(record.group.clone());
            match &record.fact {
                Fact::Member(member, None) => self.timers.clear_member(&record.group, member),
                Fact::Member(member, Some(_)) => self.ended.take_back(&record.group, member),
                _ => {}
            }
            self.groups.apply(record);
        }
        for group in touched {
            self.hints_of(&group);
            if self.groups.get(&group).is_none() {
                continue;
            }
            self.arm(turn.now, &group);
            // What had made it may be gone with it, as that topics have changed: it is looked at
            // again, after a while, as the next append may be refused as well.
            let timer = Timer::Assignment(group);
            if self.timers.get(&timer).is_none() {
                self.timers
                    .set(timer, turn.now.monotonic + self.config.assignment_interval);
            }
        }
        turn.effects.extend(
            refused
                .into_iter()
                .map(|waiting| waiting.refused(GroupRejection::NotStored)),
        );
    }

    /// Sets the timers that a group's records call for and that do not run: after the records
    /// were read, or some were taken back.
    fn arm(&mut self, now: Now, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let mut missing = Vec::new();
        for (member, of) in &group.members {
            let Some(record) = &of.record else { continue };
            missing.push((
                Timer::Session(id.clone(), member.clone()),
                record.details.session_timeout,
            ));
            if of.current.state == MemberState::Active && !of.current.revoking.is_empty() {
                missing.push((
                    Timer::Rebalance(id.clone(), member.clone()),
                    record.details.rebalance_timeout,
                ));
            }
        }
        let epochs = group.epochs();
        if epochs.epoch > epochs.target_epoch {
            missing.push((Timer::Assignment(id.clone()), self.config.assignment_interval));
        }
        for (timer, after) in missing {
            if self.timers.get(&timer).is_none() {
                self.timers.set(timer, now.monotonic + after);
            }
        }
    }

    fn tick(&mut self, turn: &mut Turn) {
        let now = turn.now.monotonic;
        let Some(due) = self.timers.next().filter(|due| *due <= now) else {
            return;
        };
        let late = now.saturating_sub(due);
        if late > self.config.late_timer_tolerance {
            // Whoever did not look can't say that nobody came.
            self.timers.postpone_members(late + self.config.late_timer_tolerance);
        }
        for timer in self.timers.take_due(now) {
            match timer {
                Timer::Session(group, member) => self.session_ended(turn, &group, &member),
                Timer::Rebalance(group, member) => self.rebalance_ended(turn, &group, &member),
                Timer::Assignment(group) => {
                    self.ask_for_patterns(turn, &group);
                    self.reconsider_topics(turn, &group);
                    turn.unsettled.insert(group);
                }
                Timer::Retention => {
                    self.expire_offsets(turn);
                    self.timers
                        .set(Timer::Retention, now + self.config.retention_check_interval);
                }
            }
        }
    }

    /// Says something new: it holds from now on, is appended at the step's end, and is told to nobody
    /// before it is committed.
    pub(super) fn write(&mut self, turn: &mut Turn, group: &GroupId, fact: Fact) {
        let record = Record {
            group: group.clone(),
            fact,
        };
        turn.records.push(record.encode());
        turn.undo.push(self.groups.apply(record));
    }

    /// A group, if anything is stored of it.
    pub(super) fn known(&self, group: &str) -> Result<&Group, GroupRejection> {
        self.groups.get(group).ok_or_else(|| GroupRejection::GroupNotFound {
            group: group.to_owned(),
        })
    }

    fn finish(&mut self, mut turn: Turn) -> Vec<Effect> {
        while let Some(group) = turn.unsettled.pop_first() {
            self.settle(&mut turn, &group);
        }
        let mut effects = Vec::new();
        let mut records = turn.records.into_iter().zip(turn.undo).peekable();
        while records.peek().is_some() {
            let (mut batch, mut undo, mut size) = (Vec::new(), Vec::new(), 0);
            while let Some((record, back)) =
                records.next_if(|(record, _)| size == 0 || size + record.size() <= MAX_APPEND_BYTES)
            {
                size += record.size();
                self.hints_of(&back.group);
                batch.push(record);
                undo.push(back);
            }
            let sequence = self.writes.append(undo);
            effects.push(Effect::Append {
                sequence,
                records: batch,
            });
        }
        effects.append(&mut turn.effects);
        for (id, answer) in turn.answers {
            let ready = match &answer {
                // Says nothing of any group, and there is no place to wait.
                Err(GroupRejection::Overloaded) => Some(Effect::Answer {
                    id,
                    answer: Box::new(answer),
                }),
                _ => self.writes.defer(id, Box::new(answer)).map(Waiting::effect),
            };
            effects.extend(ready);
        }
        for (group, members) in turn.woken {
            let members: Vec<MemberId> = members.into_iter().collect();
            effects.push(Effect::Wake { group, members });
        }
        effects
    }

    /// Forgets what else was known of a group that is no more.
    fn hints_of(&mut self, group: &GroupId) {
        if self.groups.get(group).is_none() {
            self.release(group);
            self.hints.remove(group);
            self.timers.clear(&Timer::Assignment(group.clone()));
        }
    }
}
