//! Clients, a coordinator, its log and the network between them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{super::*, support::*},
    Seen,
    client::{Client, Learnt},
    random::Random,
};

pub(super) const CLIENTS: usize = 5;
/// A second process with the instance id of the last client.
pub(super) const DOUBLE: usize = CLIENTS;
/// For how long a message may be held up, in milliseconds: longer than a session.
const HELD_MS: usize = 7_000;

/// Under way.
#[derive(Clone, Debug)]
enum Message {
    Request {
        from: usize,
        life: u32,
        number: u64,
        request: Box<Request>,
        term: u64,
    },
    Answer {
        to: usize,
        life: u32,
        number: u64,
        answer: Result<Answer, GroupRejection>,
    },
}

/// Who waits for an answer of the coordinator.
struct Asked {
    to: usize,
    life: u32,
    number: u64,
    commit: Option<(TopicPartition, i64)>,
}

pub(super) struct World {
    random: Random,
    pub(super) now: Now,
    pub(super) coordinator: Coordinator,
    config: GroupConfig,
    topics: Arc<Topics>,
    pub(super) partitions: [u32; 2],
    pub(super) clients: Vec<Client>,
    network: Vec<Message>,
    /// Messages that are held up, and until when.
    held: Vec<(Duration, Message)>,
    /// What is committed.
    pub(super) log: Vec<StoredRecord>,
    pub(super) replica: Groups,
    /// What is appended and not committed.
    pub(super) open: VecDeque<(u64, Vec<StoredRecord>)>,
    asked: BTreeMap<u64, Asked>,
    numbers: u64,
    acquisitions: u64,
    last_owner: BTreeMap<TopicPartition, (usize, u64)>,
    pub(super) acknowledged: BTreeMap<TopicPartition, i64>,
    positions: BTreeMap<TopicPartition, i64>,
    pub(super) epoch: i32,
    pub(super) calm: bool,
    pub(super) problem: Option<String>,
}

fn count(seen: &mut Seen, what: &'static str) {
    *seen.entry(what).or_default() += 1;
}

impl World {
    pub(super) fn new(random: Random) -> Self {
        let config = GroupConfig::default();
        let partitions = [4, 3];
        let mut world = Self {
            random,
            now: Now {
                monotonic: Duration::from_secs(100),
                unix_ms: EPOCH_MS,
            },
            coordinator: Coordinator::new(config.clone()),
            config,
            topics: topics(&partitions),
            partitions,
            clients: (0..=DOUBLE)
                .map(|at| Client::new(at, (at >= 3).then(|| format!("pod-{}", at.min(CLIENTS - 1)))))
                .collect(),
            network: Vec::new(),
            held: Vec::new(),
            log: Vec::new(),
            replica: Groups::default(),
            open: VecDeque::new(),
            asked: BTreeMap::new(),
            numbers: 0,
            acquisitions: 0,
            last_owner: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            positions: BTreeMap::new(),
            epoch: 0,
            calm: false,
            problem: None,
        };
        world.load();
        world
    }

    fn happens(&mut self, percent: usize) -> bool {
        !self.calm && self.random.percent(percent)
    }

    pub(super) fn step(&mut self, seen: &mut Seen) {
        let passed = Duration::from_millis(self.random.below(120) as u64);
        self.pass(passed, seen);
        for _ in 0..1 + self.random.below(4) {
            self.deliver(seen);
        }
        for _ in 0..self.random.below(3) {
            self.commit_next(seen);
        }
        for at in 0..self.clients.len() {
            self.act(at, seen);
        }
        if self.happens(2) {
            self.fail_over(seen);
        }
        if self.happens(2) && !self.open.is_empty() {
            let from = self.random.below(self.open.len());
            let sequence = self.open[from].0;
            self.open.truncate(from);
            count(seen, "refused append");
            self.take(Event::Refused { sequence }, seen);
        }
        if self.happens(1) && self.partitions[0] < 8 {
            self.partitions[self.numbers as usize % 2] += 1;
            self.topics = topics(&self.partitions);
            let topics = Arc::clone(&self.topics);
            self.take(Event::TopicsChanged { topics, deleted: &[] }, seen);
        }
    }

    /// Time passes; timers fire, now and then late.
    pub(super) fn pass(&mut self, time: Duration, seen: &mut Seen) {
        let end = self.now.monotonic + time;
        let late = self.happens(10);
        while let Some(due) = self.coordinator.next_deadline().filter(|due| *due <= end && !late) {
            self.set(due.max(self.now.monotonic));
            self.take(Event::Tick, seen);
        }
        self.set(end);
    }

    fn set(&mut self, monotonic: Duration) {
        self.now.unix_ms += i64::try_from((monotonic - self.now.monotonic).as_millis()).unwrap();
        self.now.monotonic = monotonic;
    }

    fn take(&mut self, event: Event<'_>, seen: &mut Seen) {
        for effect in self.coordinator.step(self.now, event) {
            match effect {
                Effect::Append { sequence, records } => self.open.push_back((sequence, records)),
                Effect::Answer { id, answer } => {
                    let Some(Asked {
                        to,
                        life,
                        number,
                        commit,
                    }) = self.asked.remove(&id)
                    else {
                        continue;
                    };
                    if let (Some((at, offset)), Ok(Answer::Offsets(results))) = (commit, &*answer) {
                        if results[0].1.is_ok() {
                            let acknowledged = self.acknowledged.entry(at).or_insert(0);
                            *acknowledged = offset.max(*acknowledged);
                        } else {
                            count(seen, "commit refused");
                        }
                    }
                    if self.happens(10) {
                        count(seen, "answer lost");
                    } else {
                        self.network.push(Message::Answer {
                            to,
                            life,
                            number,
                            answer: *answer,
                        });
                    }
                }
                Effect::Wake { members, .. } => {
                    for client in &mut self.clients {
                        if members.contains(&client.id()) {
                            client.hurry();
                        }
                    }
                }
                Effect::ResolvePattern { .. } | Effect::ResolveStart { .. } => {}
                Effect::GroupStopped { reason, .. } | Effect::CoordinatorStopped { reason } => {
                    self.problem = Some(format!("stopped: {reason}"));
                }
            }
        }
    }

    /// The oldest append is committed.
    pub(super) fn commit_next(&mut self, seen: &mut Seen) {
        if let Some((sequence, records)) = self.open.pop_front() {
            self.store(records);
            self.take(Event::Committed { sequence }, seen);
        }
    }

    fn store(&mut self, records: Vec<StoredRecord>) {
        for record in records {
            let read = Record::decode(&record.key, record.value.as_deref()).unwrap();
            if let Fact::Offset(at, offset) = &read.fact {
                let before = self
                    .replica
                    .get("g")
                    .and_then(|group| group.offsets.get(at))
                    .map_or(0, |of| of.offset);
                let after = offset.as_ref().map_or(-1, |offset| offset.offset);
                if after < before {
                    self.problem = Some(format!("the offset of {at} falls from {before} to {after}"));
                }
            }
            if read.fact == Fact::Group(None) {
                self.epoch = 0;
            }
            self.replica.apply(read);
            self.log.push(record);
        }
    }

    /// Another broker takes over; of what was not committed a part is in its log.
    fn fail_over(&mut self, seen: &mut Seen) {
        self.take(Event::Resigned, seen);
        let survive = self.random.below(self.open.len() + 1);
        count(
            seen,
            if survive < self.open.len() {
                "failover with lost tail"
            } else {
                "failover"
            },
        );
        for (_, records) in std::mem::take(&mut self.open).into_iter().take(survive) {
            self.store(records);
        }
        self.coordinator = Coordinator::new(self.config.clone());
        self.load();
    }

    fn load(&mut self) {
        let mut seen = Seen::new();
        let topics = Arc::clone(&self.topics);
        self.take(Event::TopicsChanged { topics, deleted: &[] }, &mut seen);
        for record in self.log.clone() {
            let value = record.value.as_deref();
            self.take(
                Event::Replayed {
                    key: &record.key,
                    value,
                },
                &mut seen,
            );
        }
        self.take(Event::Loaded, &mut seen);
    }

    fn hold(&mut self, message: Message) {
        let until = self.now.monotonic + Duration::from_millis(self.random.below(HELD_MS) as u64);
        self.held.push((until, message));
    }

    /// A message arrives: any of them.
    pub(super) fn deliver(&mut self, seen: &mut Seen) {
        let now = self.now.monotonic;
        for (_, message) in self.held.extract_if(.., |(until, _)| *until <= now) {
            self.network.push(message);
        }
        if self.network.is_empty() {
            return;
        }
        let at = if self.calm {
            0
        } else {
            self.random.below(self.network.len())
        };
        let message = self.network.remove(at);
        if self.happens(6) {
            count(seen, "late copy");
            self.hold(message.clone());
        }
        match message {
            Message::Request { .. } if self.happens(5) => count(seen, "request lost"),
            message if self.happens(4) => {
                count(seen, "held up");
                self.hold(message);
            }
            Message::Request {
                from,
                life,
                number,
                request,
                term,
            } => {
                self.numbers += 1;
                let id = self.numbers;
                let commit = match &*request {
                    Request::Commit(commit) => commit.offsets.first().cloned(),
                    _ => None,
                };
                let told = commit.as_ref().map(|commit| (commit.at, commit.offset));
                let asked = Asked {
                    to: from,
                    life,
                    number,
                    commit: told,
                };
                self.asked.insert(id, asked);
                let appended = self.open.len();
                self.take(Event::Requested { id, request }, seen);
                if let Some(commit) = commit.filter(|_| self.open.len() > appended) {
                    self.judge(from, &commit, term, seen);
                }
            }
            Message::Answer {
                to,
                life,
                number,
                answer,
            } => self.answered(to, life, number, answer, seen),
        }
    }

    /// A commit that took effect is of the last one that owned the partition, in that ownership.
    fn judge(&mut self, from: usize, commit: &CommitOffset, term: u64, seen: &mut Seen) {
        count(seen, "commit accepted");
        let owner = self.last_owner.get(&commit.at).copied();
        if owner != Some((from, term)) {
            let at = commit.at;
            self.problem = Some(format!(
                "{from} committed {at} in its ownership {term}, the last is {owner:?}"
            ));
        }
    }

    fn answered(&mut self, to: usize, life: u32, number: u64, answer: Result<Answer, GroupRejection>, seen: &mut Seen) {
        let now = self.now.monotonic;
        let client = &mut self.clients[to];
        if !client.acts(now) || client.life != life || client.outstanding.is_none_or(|(waits, _)| waits != number) {
            return;
        }
        let answer = match answer {
            Ok(Answer::Heartbeat(answer)) => Ok(answer),
            Ok(_) => return,
            Err(rejection) => Err(rejection),
        };
        let begins = client.epoch == 0 && client.instance.is_some();
        match client.answered(answer, now, &mut self.acquisitions) {
            Learnt::Acquired(new) => {
                if begins && !new.is_empty() {
                    count(seen, "taken over");
                }
                for at in new {
                    count(seen, "acquired");
                    self.last_owner.insert(at, (to, self.clients[to].owned[&at]));
                }
            }
            Learnt::Rejoins(why) => count(seen, why),
            Learnt::Nothing => {}
        }
    }

    /// A client does what it may do now.
    pub(super) fn act(&mut self, at: usize, seen: &mut Seen) {
        let now = self.now.monotonic;
        if !self.clients[at].running {
            if self.calm && at == DOUBLE {
                return;
            }
            if self.calm || self.random.percent(5) {
                self.clients[at].restart(now);
            }
            return;
        }
        if !self.clients[at].acts(now) {
            return;
        }
        if self.clients[at].epoch > 0 && !self.clients[at].within_session(now) {
            count(seen, "bound passed");
            self.clients[at].restart(now);
        }
        if self.happens(1) {
            match self.random.below(4) {
                0 => {
                    count(seen, "froze");
                    self.clients[at].frozen_until = now + Duration::from_millis(self.random.below(9_000) as u64);
                    return;
                }
                1 => {
                    count(seen, "killed");
                    self.clients[at].running = false;
                    return;
                }
                2 => {
                    let temporary = self.clients[at].instance.is_some() && self.random.percent(80);
                    if temporary {
                        count(seen, "static restart");
                    }
                    let leave = Leave {
                        group: "g".into(),
                        member: self.clients[at].id(),
                        temporary,
                    };
                    self.send(at, Request::Leave(leave), 0);
                    self.clients[at].restart(now);
                    return;
                }
                _ => {
                    let both = vec!["t1".to_owned(), "t2".to_owned()];
                    let one = vec![both[self.random.below(2)].clone()];
                    let next = if self.random.percent(60) { both } else { one };
                    self.clients[at].subscribe(next);
                }
            }
        }
        self.commit_some(at);
        // Now and then it is slow to give back, also too slow.
        if (self.calm || self.random.percent(6)) && self.clients[at].give_back() {
            count(seen, "revoked");
        }
        let number = self.numbers + 1;
        let full = self.calm || self.random.percent(70);
        if let Some(beat) = self.clients[at].heartbeat(now, number, full) {
            self.send(at, Request::Heartbeat(beat), 0);
        }
    }

    /// It has processed some, and says so.
    fn commit_some(&mut self, from: usize) {
        let client = &self.clients[from];
        if client.owned.is_empty() || !self.random.percent(20) {
            return;
        }
        let which = self.random.below(client.owned.len());
        let Some((&at, &term)) = client.owned.iter().nth(which) else {
            return;
        };
        let position = self.positions.entry(at).or_insert(0);
        *position += 1;
        let offset = CommitOffset {
            metadata: format!("{from}-{position}"),
            ..offset_of(at, *position)
        };
        let commit = Commit {
            group: "g".into(),
            member: Some((client.id(), client.epoch)),
            rewind: false,
            offsets: vec![offset],
        };
        self.send(from, Request::Commit(commit), term);
    }

    fn send(&mut self, from: usize, request: Request, term: u64) {
        self.numbers += 1;
        let life = self.clients[from].life;
        let number = self.numbers;
        self.network.push(Message::Request {
            from,
            life,
            number,
            request: Box::new(request),
            term,
        });
    }
}
