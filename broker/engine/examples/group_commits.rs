//! How many commits a coordinator of groups takes in a second, without the log and the network:
//! `cargo run --release -p millrace-engine --example group_commits`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_engine::group::{
    Answer, Commit, CommitOffset, Coordinator, Effect, Event, GroupConfig, GroupId, Heartbeat, MemberDetails, MemberId,
    Now, Request, Start, TopicPartition, TopicView, Topics,
};
use uuid::Uuid;

const TOPIC: Uuid = Uuid::from_u128(1);
/// Appends that are committed together.
const BATCH: u64 = 100;

struct Bench {
    coordinator: Coordinator,
    now: Now,
    request: u64,
    /// The last append.
    open: u64,
}

impl Bench {
    fn new(partitions: u32) -> Self {
        let mut bench = Self {
            coordinator: Coordinator::new(GroupConfig::default()),
            now: Now {
                monotonic: Duration::from_secs(1),
                unix_ms: 1_700_000_000_000,
            },
            request: 0,
            open: 0,
        };
        let view = TopicView {
            id: TOPIC,
            partitions,
            racks: Vec::new(),
        };
        let topics = Arc::new(Topics::new([("orders".to_owned(), view)].into()));
        bench.step(Event::TopicsChanged { topics, deleted: &[] });
        bench.step(Event::Loaded);
        bench
    }

    fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
        let effects = self.coordinator.step(self.now, event);
        for effect in &effects {
            if let Effect::Append { sequence, .. } = effect {
                self.open = *sequence;
            }
        }
        effects
    }

    fn ask(&mut self, request: Request) -> Vec<Effect> {
        self.request += 1;
        let (id, request) = (self.request, Box::new(request));
        self.step(Event::Requested { id, request })
    }

    fn commit_appends(&mut self) -> Vec<Effect> {
        let sequence = self.open;
        self.step(Event::Committed { sequence })
    }

    /// Lets the members join, and tells what each of them got, with its epoch.
    fn join(&mut self, group: &GroupId, members: usize) -> Vec<(MemberId, i32, Vec<TopicPartition>)> {
        let details = MemberDetails {
            client_id: "app".to_owned(),
            client_host: "10.0.0.1".to_owned(),
            rack: None,
            session_timeout: Duration::from_secs(60),
            reconnect_timeout: Duration::from_secs(60),
            rebalance_timeout: Duration::from_secs(60),
            assignor: None,
            topics: vec!["orders".to_owned()],
            pattern: None,
            start: Start::Beginning,
        };
        let mut known: Vec<(MemberId, i32, u32, Vec<TopicPartition>)> = (0..members)
            .map(|at| (format!("member-{at:05}").into(), 0, 0, Vec::new()))
            .collect();
        // Joins, one assignment, what is given back, what is got.
        for round in 0..6 {
            for (member, epoch, version, owned) in &mut known {
                let beat = Heartbeat {
                    group: group.clone(),
                    member: member.clone(),
                    instance: None,
                    epoch: *epoch,
                    version: *version,
                    details: (*epoch == 0 && round == 0).then(|| details.clone()),
                    owned: Some(owned.clone()),
                    subscriber: None,
                };
                let mut effects = self.ask(Request::Heartbeat(beat));
                effects.extend(self.commit_appends());
                for effect in effects {
                    let Effect::Answer { answer, .. } = effect else {
                        continue;
                    };
                    match *answer {
                        Ok(Answer::Heartbeat(answer)) => {
                            (*epoch, *version) = (answer.epoch, answer.version);
                            if let Some(told) = answer.assignment {
                                *owned = told.assigned;
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            self.now.monotonic += Duration::from_millis(200);
            self.step(Event::Tick);
            self.commit_appends();
        }
        known
            .into_iter()
            .map(|(member, epoch, _, owned)| (member, epoch, owned))
            .collect()
    }
}

/// Commits of one partition each by all members in turn.
fn single(name: &str, members: usize, partitions: u32, commits: u64) {
    let mut bench = Bench::new(partitions);
    let group: GroupId = "group".into();
    let known = bench.join(&group, members);
    let least = known.iter().map(|(_, _, owned)| owned.len()).min();
    assert_eq!(least, Some(partitions as usize / members));
    let mut requests: Vec<Request> = Vec::new();
    for number in 0..commits {
        let (member, epoch, owned) = &known[number as usize % members];
        let at = owned[(number as usize / members) % owned.len()];
        requests.push(commit(&group, member, *epoch, &[at], number));
    }
    let (begun, mut answered) = (Instant::now(), 0);
    for (number, request) in (1u64..).zip(requests) {
        bench.ask(request);
        if number % BATCH == 0 {
            answered += accepted(&bench.commit_appends());
        }
    }
    report(name, begun.elapsed(), answered, answered);
}

/// Commits of all partitions of a member at once.
fn whole(name: &str, members: usize, partitions: u32, commits: u64) {
    let mut bench = Bench::new(partitions);
    let group: GroupId = "group".into();
    let known = bench.join(&group, members);
    let requests: Vec<Request> = (0..commits)
        .map(|number| {
            let (member, epoch, owned) = &known[number as usize % members];
            commit(&group, member, *epoch, owned, number)
        })
        .collect();
    let (begun, mut answered) = (Instant::now(), 0);
    for request in requests {
        bench.ask(request);
        answered += accepted(&bench.commit_appends());
    }
    report(name, begun.elapsed(), commits, answered);
}

fn commit(group: &GroupId, member: &MemberId, epoch: i32, owned: &[TopicPartition], number: u64) -> Request {
    let offset = |at: &TopicPartition| CommitOffset {
        at: *at,
        offset: i64::try_from(number).expect("few commits"),
        leader_epoch: Some(1),
        metadata: String::new(),
    };
    Request::Commit(Commit {
        group: group.clone(),
        member: Some((member.clone(), epoch)),
        rewind: false,
        offsets: owned.iter().map(offset).collect(),
    })
}

/// How many offsets were stored.
fn accepted(effects: &[Effect]) -> u64 {
    let stored = |effect: &Effect| match effect {
        Effect::Answer { answer, .. } => match &**answer {
            Ok(Answer::Offsets(results)) => results.iter().filter(|(_, result)| result.is_ok()).count() as u64,
            other => panic!("{other:?}"),
        },
        _ => 0,
    };
    effects.iter().map(stored).sum()
}

fn report(name: &str, took: Duration, commits: u64, offsets: u64) {
    let each = took.as_secs_f64() / commits as f64;
    println!(
        "{name}: {:.0} commits/s, {:.2} µs each, {:.2} µs an offset",
        1.0 / each,
        each * 1e6,
        took.as_secs_f64() * 1e6 / offsets as f64
    );
}

fn main() {
    single("1,000 members of 10 partitions, one at a time", 1_000, 10_000, 500_000);
    single("1 member of 10,000 partitions, one at a time", 1, 10_000, 200_000);
    whole(
        "1,000 members of 10 partitions, all of a member's",
        1_000,
        10_000,
        50_000,
    );
    whole("1 member of 10,000 partitions, all at once", 1, 10_000, 50);
}
