//! The voters of a run, and in which order what happens to them.

use std::{collections::BTreeMap, sync::atomic::Ordering::SeqCst, time::Duration};

use millrace_log::{FaultyFileSystem, fs::faulty::SplitMix64};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    super::{super::QuorumOptions, Node, PATIENCE, Voters, register_broker},
    observer::Observer,
    traffic::Traffic,
};

/// What may happen.
#[derive(Clone, Copy)]
enum Fault {
    Crash,
    PowerCut,
    Cut,
    Isolation,
    SlowDisk,
    Losses,
    LateAndRepeated,
    Stall,
    FailedSync,
    LostDisk,
    OlderImage,
    Members,
    Heal,
}

/// All of this happens to each half of a run, in any order, so that each run has met each kind.
const FAULTS: [Fault; 23] = [
    Fault::Crash,
    Fault::Crash,
    Fault::Crash,
    Fault::PowerCut,
    Fault::Cut,
    Fault::Isolation,
    Fault::Isolation,
    Fault::SlowDisk,
    Fault::Losses,
    Fault::LateAndRepeated,
    Fault::Stall,
    Fault::FailedSync,
    Fault::LostDisk,
    Fault::OlderImage,
    Fault::Members,
    Fault::Members,
    Fault::Members,
    Fault::Members,
    Fault::Members,
    Fault::Members,
    Fault::Heal,
    Fault::Heal,
    Fault::Heal,
];

/// Short timeouts and small logs, so that much happens in little time.
pub fn hasty(options: &mut QuorumOptions, config: &mut openraft::Config) {
    options.snapshot_every = 40;
    options.heartbeat_interval = Duration::from_millis(15);
    options.election_timeout = Duration::from_millis(60);
    options.request_timeout = Duration::from_millis(200);
    *config = super::super::super::config::raft_config(options).unwrap();
    config.max_in_snapshot_log_to_keep = 20;
    config.replication_lag_threshold = 60;
}

/// The voters, what is seen of them, and what was done to them.
pub struct World {
    pub rng: SplitMix64,
    pub voters: Voters,
    pub observer: Observer,
    pub traffic: Traffic,
    /// What the witness sees of the voters that run.
    pub following: BTreeMap<u64, JoinHandle<()>>,
    /// The number for the next new member: none is used twice.
    pub next_id: u64,
    /// A voter whose disk is gone and that is to be removed. One at a time: a second one would be more than a
    /// quorum of three outlives.
    pub lost: Option<u64>,
    /// Who was removed.
    pub removed: Vec<u64>,
}

impl World {
    pub async fn begin(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let count = if rng.chance(300_000) { 5 } else { 3 };
        let voters = Voters::start_with(count, seed, 500, hasty).await;
        let leader = voters.leader().await;
        let registered = voters.nodes[&leader].quorum.submit(register_broker()).await;
        registered.unwrap().unwrap();
        let (traffic, observer) = (Traffic::default(), Observer::new(seed));
        let mut following = BTreeMap::new();
        for node in voters.nodes.values() {
            traffic.lives.begin(node.id, node.quorum.clone());
            following.insert(node.id, observer.witness.follow(node));
        }
        Self {
            rng,
            voters,
            observer,
            traffic,
            following,
            next_id: count + 1,
            lost: None,
            removed: Vec::new(),
        }
    }

    pub async fn look(&mut self) {
        self.observer.said(self.voters.router.take_said());
        for node in self.voters.nodes.values() {
            self.observer.look(node).await;
            // It ends with the voter, or in a panic that says what does not hold.
            if self.following[&node.id].is_finished() {
                self.following.remove(&node.id).unwrap().await.unwrap();
                panic!("seed {}: voter {} ended by itself", self.observer.seed, node.id);
            }
        }
        let durable = std::mem::take(&mut self.traffic.told.lock().durable);
        self.observer.acknowledged(&durable);
    }

    /// Everything happens, and meanwhile all is looked at.
    pub async fn all_faults(&mut self) {
        for _ in 0..2 {
            for fault in self.shuffled() {
                self.pause(20, 90).await;
                self.look().await;
                self.happens(fault).await;
            }
        }
    }

    fn shuffled(&mut self) -> [Fault; FAULTS.len()] {
        let mut faults = FAULTS;
        for at in (1..faults.len()).rev() {
            let other = self.rng.below(at as u64 + 1);
            faults.swap(at, usize::try_from(other).unwrap());
        }
        faults
    }

    async fn happens(&mut self, fault: Fault) {
        let victim = self.victim();
        match fault {
            Fault::Crash => {
                let disk = self.crash(victim).await;
                self.pause(0, 100).await;
                self.start(victim, disk).await;
            }
            Fault::PowerCut => self.power_cut().await,
            Fault::Cut => {
                let other = self.any();
                self.voters.router.cut(victim, other);
            }
            Fault::Isolation => {
                let others = self.voters.others(victim);
                self.voters.router.isolate(victim, others);
                // Another may lead before this one notices.
                self.pause(200, 700).await;
            }
            Fault::SlowDisk => {
                let delay_us = self.rng.below(20_000);
                self.voters.nodes[&victim].gate.delay_us.store(delay_us, SeqCst);
            }
            Fault::Losses => self.voters.router.lose(50_000),
            Fault::LateAndRepeated => {
                self.voters.router.delay(20_000);
                self.voters.router.repeat(100_000);
            }
            Fault::Stall => self.stall(victim),
            Fault::FailedSync => self.fail_sync(victim).await,
            Fault::LostDisk => self.lose_disk(victim).await,
            Fault::OlderImage => self.older_image().await,
            Fault::Members => {
                self.change_members().await;
                self.change_members().await;
            }
            Fault::Heal => self.voters.router.heal(),
        }
    }

    pub async fn pause(&mut self, least_ms: u64, up_to_ms: u64) {
        let for_ms = least_ms + self.rng.below(up_to_ms - least_ms);
        tokio::time::sleep(Duration::from_millis(for_ms)).await;
    }

    pub fn any(&mut self) -> u64 {
        let at = self.rng.below(self.voters.nodes.len() as u64);
        *self.voters.nodes.keys().nth(usize::try_from(at).unwrap()).unwrap()
    }

    /// Any voter; half of the time one that leads.
    fn victim(&mut self) -> u64 {
        let any = self.any();
        let leader = self.traffic.lives.leader(any).map(|(leader, _)| leader.voter_id());
        let is_leader = self.rng.chance(500_000);
        leader.filter(|_| is_leader).unwrap_or(any)
    }

    pub fn count(&mut self, what: &'static str) {
        self.observer.count(what, 1);
    }

    /// Begins a voter's next life on the disk that it had, or its first one.
    pub async fn start(&mut self, id: u64, disk: FaultyFileSystem) {
        let node = self.open(id, disk).await;
        self.observer.began(&node);
        self.traffic.lives.begin(id, node.quorum.clone());
        self.connect(node);
    }

    /// Begins a voter's life on whatever disk. Nobody reaches it before it is known where to look for what it
    /// acknowledges.
    pub async fn open(&mut self, id: u64, disk: FaultyFileSystem) -> Node {
        let node = Node::open(id, disk, &self.voters.router, hasty).await;
        let node = node.unwrap_or_else(|error| panic!("seed {}: {error}", self.observer.seed));
        self.following.insert(id, self.observer.witness.follow(&node));
        node
    }

    pub fn connect(&mut self, node: Node) {
        node.connect(&self.voters.router);
        self.voters.nodes.insert(node.id, node);
    }

    /// No more faults; what was begun is brought to its end.
    pub async fn heal(&mut self) {
        self.voters.router.heal();
        for node in self.voters.nodes.values() {
            node.gate.release();
            node.gate.delay_us.store(0, SeqCst);
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

    /// The end of all voters, and of what looks at them.
    pub async fn end(self) {
        self.traffic.lives.clear();
        self.voters.shutdown().await;
        for following in self.following.into_values() {
            following.await.unwrap();
        }
    }
}
