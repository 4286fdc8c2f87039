//! Voters that crash, lose their disks, come and go, cuts that open and close, disks that are slow, stand still or
//! fail, a network that loses, delays and repeats: whatever happens, what was acknowledged stays and is seen, and what
//! `observer` looks at holds.
//!
//! Not a simulation: threads and real time decide what meets what, and a seed only says what is done, so that the same
//! seed is another run each time. That is why it is run many times (`make simulate`, `MILLRACE_QUORUM_SEEDS`).

mod observer;
mod traffic;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use millrace_log::{
    FaultyFileSystem,
    fs::faulty::{FaultPlan, SplitMix64},
};
use openraft::type_config::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use self::{
    observer::{Observer, voters},
    traffic::Traffic,
};
use super::{
    super::{Quorum, QuorumError, QuorumOptions, member_rules::View, types::Voter},
    Node, PATIENCE, Voters, directory_id, forgetful_disk, register_broker,
};

/// How many seeds are run; each takes some five seconds.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("MILLRACE_QUORUM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    1..1 + count.unwrap_or(3)
}

/// Short timeouts and small logs, so that much happens in little time.
fn hasty(options: &mut QuorumOptions, config: &mut openraft::Config) {
    options.snapshot_every = 40;
    options.heartbeat_interval = Duration::from_millis(15);
    options.election_timeout = Duration::from_millis(60);
    options.request_timeout = Duration::from_millis(200);
    *config = super::super::config::raft_config(options).unwrap();
    config.max_in_snapshot_log_to_keep = 20;
    config.replication_lag_threshold = 60;
}

/// The voters, what is seen of them, and what was done to them.
struct World {
    rng: SplitMix64,
    voters: Voters,
    observer: Observer,
    traffic: Traffic,
    /// The number for the next new member: none is used twice.
    next_id: u64,
    /// A voter whose disk is gone and that is to be removed. One at a time: a second one would be more than a
    /// quorum of three outlives.
    lost: Option<u64>,
    done: BTreeMap<&'static str, u32>,
}

impl World {
    async fn begin(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let count = if rng.chance(300_000) { 5 } else { 3 };
        let voters = Voters::start_with(count, seed, 500, hasty).await;
        let leader = voters.leader().await;
        let registered = voters.nodes[&leader].quorum.submit(register_broker()).await;
        registered.unwrap().unwrap();
        let traffic = Traffic::default();
        for node in voters.nodes.values() {
            traffic.lives.begin(node.id, node.quorum.clone());
        }
        Self {
            rng,
            voters,
            observer: Observer::new(seed),
            traffic,
            next_id: count + 1,
            lost: None,
            done: BTreeMap::new(),
        }
    }

    async fn look(&mut self) {
        for node in self.voters.nodes.values() {
            self.observer.look(node).await;
        }
        let durable = std::mem::take(&mut self.traffic.told.lock().durable);
        self.observer.acknowledged(&durable);
    }

    fn any(&mut self) -> u64 {
        let at = self.rng.below(self.voters.nodes.len() as u64);
        *self.voters.nodes.keys().nth(usize::try_from(at).unwrap()).unwrap()
    }

    async fn pause(&mut self, up_to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(up_to_ms))).await;
    }

    /// One more thing happens.
    async fn step(&mut self) {
        let victim = self.any();
        let what = match self.rng.below(17) {
            0..=2 => {
                let disk = self.crash(victim).await;
                self.pause(100).await;
                self.start(victim, disk).await;
                "crashes"
            }
            3 => {
                let other = self.any();
                self.voters.router.cut(victim, other);
                "cuts"
            }
            4 => {
                let others = self.voters.others(victim);
                self.voters.router.isolate(victim, others);
                "isolations"
            }
            5 => {
                let delay_us = self.rng.below(20_000);
                self.voters.nodes[&victim].gate.delay_us.store(delay_us, SeqCst);
                "slow disks"
            }
            6 => {
                self.voters.router.lose(50_000);
                "losses"
            }
            7 => {
                self.voters.router.delay(20_000);
                self.voters.router.repeat(100_000);
                "late and repeated"
            }
            8 => {
                self.stall(victim);
                "stalls"
            }
            9 => return self.fail_sync(victim).await,
            10 => return self.wipe(victim).await,
            11..=13 => return self.change_members().await,
            _ => {
                self.voters.router.heal();
                "heals"
            }
        };
        self.count(what);
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Power loss.
    async fn crash(&mut self, id: u64) -> FaultyFileSystem {
        let node = self.voters.nodes.remove(&id).unwrap();
        self.traffic.lives.end(id);
        node.disk.set_plan(FaultPlan {
            lose_all_unsynced: self.rng.chance(500_000),
            ..FaultPlan::default()
        });
        let gate = Arc::clone(&node.gate);
        let disk = node.crash(&self.voters.router).await;
        self.observer.votes(gate.take_states());
        self.observer.restarts(id);
        disk
    }

    async fn start(&mut self, id: u64, disk: FaultyFileSystem) {
        let node = Node::start(id, disk, &self.voters.router, hasty).await;
        let node = node.unwrap_or_else(|error| panic!("seed {}: {error}", self.observer.seed));
        self.traffic.lives.begin(id, node.quorum.clone());
        self.voters.nodes.insert(id, node);
    }

    /// A disk takes nothing for a while; then all goes on with what was going on before.
    fn stall(&mut self, id: u64) {
        let gate = Arc::clone(&self.voters.nodes[&id].gate);
        let for_ms = self.rng.below(800);
        gate.hold();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            gate.release();
        });
    }

    /// The next sync of the log fails. The process ends over it and begins anew.
    async fn fail_sync(&mut self, id: u64) {
        let node = &self.voters.nodes[&id];
        node.disk.set_plan(FaultPlan {
            fail_next_syncs: 1,
            only_paths_with: ".log".into(),
            ..node.disk.plan()
        });
        let mut failed = node.quorum.failed();
        let has_failed = tokio::time::timeout(Duration::from_millis(100), failed.wait_for(Option::is_some)).await;
        let has_failed = has_failed.is_ok();
        let disk = self.crash(id).await;
        self.start(id, disk).await;
        if has_failed {
            self.count("failed syncs");
        }
    }

    /// A voter's disk is gone. It is removed, and a new member takes its place, as soon as that can be.
    async fn wipe(&mut self, id: u64) {
        // Those that are left must be able to decide, by whatever set of voters is or may come into force.
        let left = |node: &Node| {
            let metrics = node.quorum.raft().metrics().borrow_watched().clone();
            let sets = [&metrics.committed_membership_config, &metrics.membership_config];
            sets.into_iter()
                .map(|membership| voters(membership))
                .all(|set| !set.contains(&id) || set.len() > 2)
        };
        if self.lost.is_some() || !self.voters.nodes.values().all(left) {
            return;
        }
        self.crash(id).await;
        self.lost = Some(id);
        let new = self.next_id;
        self.next_id += 1;
        self.start(new, forgetful_disk(self.observer.seed * 100 + new)).await;
        self.count("lost disks");
    }

    /// The change of members that is due, or any. Whether it comes about is up to the quorum.
    async fn change_members(&mut self) {
        let Some(leader) = self.traffic.lives.leader() else {
            return;
        };
        let status = leader.status();
        if let Some(lost) = self.lost {
            if leader.remove_voter(lost).await.is_ok() {
                self.lost = None;
                self.count("removals");
            }
            return;
        }
        let members = [status.voters.as_slice(), status.learners.as_slice()].concat();
        let new = self.voters.nodes.keys().find(|id| !members.contains(*id));
        if let Some(new) = new.map(|id| &self.voters.nodes[id]) {
            if add(&leader, new).await.is_ok() {
                self.count("additions");
            }
        } else if let Some(learner) = status.learners.first() {
            if leader.promote(*learner).await.is_ok() {
                self.count("promotions");
            }
        } else if leader.demote(self.any()).await.is_ok() {
            self.count("demotions");
        }
    }

    /// No more faults; what was begun is brought to its end.
    async fn heal(&mut self) {
        self.voters.router.heal();
        for node in self.voters.nodes.values() {
            node.gate.release();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.voters.leader().await;
            let status = self.voters.nodes[&leader].quorum.status();
            let is_member = |id: &u64| status.voters.contains(id) || status.learners.contains(id);
            if self.lost.is_none() && self.voters.nodes.keys().all(is_member) && status.learners.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "members are not what they should be: {status:?}"
            );
            self.change_members().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Adds a member. Over this network it can't be asked who it is.
async fn add(leader: &Quorum, new: &Node) -> Result<u64, QuorumError> {
    let metrics = leader.raft().metrics().borrow_watched().clone();
    let voter = Voter {
        address: format!("voter-{}:9653", new.id),
        directory_id: directory_id(new.id),
        state_id: new.quorum.log().state_id(),
    };
    let next = View::new(&metrics, Duration::ZERO).with_learner(new.id, voter)?;
    let deadline = Instant::now() + leader.request_timeout();
    leader.append_membership(&metrics, next, deadline).await
}

async fn run(seed: u64) {
    let mut world = World::begin(seed).await;
    let traffic = world.traffic.clone();
    let mut tasks: Vec<_> = (0..3)
        .map(|writer| tokio::spawn(traffic.clone().write(writer * 1_000_000)))
        .collect();
    tasks.push(tokio::spawn(traffic.clone().read(seed)));
    for _ in 0..40 {
        let pause_ms = 20 + world.rng.below(100);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        world.look().await;
        world.step().await;
    }
    world.heal().await;
    traffic.stop.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let cluster = world.voters.converge().await;
    world.look().await;
    let told = std::mem::take(&mut *traffic.told.lock());
    for number in &told.topics {
        let name = format!("topic-{number}");
        assert!(
            cluster.topics.contains_key(&name),
            "seed {seed}: {name} was acknowledged and lost"
        );
    }
    println!(
        "seed {seed}: {} acknowledged, {} reads, {} entries, {} terms led, {} snapshots sent, {} messages twice, {:?}",
        told.topics.len(),
        told.reads,
        world.observer.entries.len(),
        world.observer.leaders.len(),
        world.voters.router.snapshots(),
        world.voters.router.repeated(),
        world.done,
    );
    assert!(!told.topics.is_empty() && told.reads > 0);
    traffic.lives.clear();
    world.voters.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_nothing_acknowledged_is_lost_and_no_two_voters_differ() {
    for seed in seeds() {
        run(seed).await;
    }
}
