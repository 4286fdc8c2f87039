//! The quorum over disks that forget and a network that loses.

mod chaos;
mod crash;
mod gate;
mod multi;
mod router;
mod single;
mod suite;
mod wired;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use millrace_engine::{Cluster, Command, cluster::CreateTopic};
use millrace_log::{
    DirIdentity, DirOptions, FaultyFileSystem, FileSystem, LogDir, OpenDirError, fs::faulty::FaultPlan,
};
use uuid::Uuid;

use self::{
    gate::{Gate, GatedFileSystem},
    router::Router,
};
use super::{
    Quorum, QuorumError, QuorumOptions,
    config::raft_config,
    types::{Entry, Voter},
};

/// Long enough for a busy machine; no test waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the log directory, formatting it the first time.
pub fn open_dir(fs: &Arc<dyn FileSystem>, path: &Path) -> Arc<LogDir> {
    let open = || LogDir::open(fs, path, &DirOptions::default());
    let opened = match open() {
        Err(OpenDirError::NotFormatted(_)) => {
            let identity = DirIdentity {
                cluster_id: "c".into(),
                node_id: 1,
                directory_id: directory_id(1),
            };
            LogDir::format(fs, path, &identity).unwrap();
            open()
        }
        opened => opened,
    };
    Arc::new(opened.unwrap())
}

pub fn directory_id(voter: u64) -> Uuid {
    Uuid::from_u128(1_000 + u128::from(voter))
}

pub fn options(voter: u64, fs: Arc<dyn FileSystem>) -> QuorumOptions {
    let dir = open_dir(&fs, Path::new("/data"));
    let address = format!("voter-{voter}:9653");
    QuorumOptions {
        heartbeat_interval: Duration::from_millis(50),
        election_timeout: Duration::from_millis(300),
        ..QuorumOptions::new(voter, directory_id(voter), address, fs, dir)
    }
}

/// A disk that loses all that was not synced when it crashes.
pub fn forgetful_disk(seed: u64) -> FaultyFileSystem {
    let disk = FaultyFileSystem::new(seed);
    disk.set_plan(FaultPlan {
        lose_all_unsynced: true,
        ..FaultPlan::default()
    });
    disk
}

pub fn create_topic(number: u64) -> Command {
    Command::CreateTopic(CreateTopic {
        name: format!("topic-{number}"),
        id: Uuid::from_u128(u128::from(number) + 1),
        assignments: vec![vec![0]],
        configs: BTreeMap::new(),
        now_ms: 1,
        owner: None,
    })
}

/// A command that is always accepted, for a cluster in which broker 0 is registered.
pub fn register_broker() -> Command {
    Command::RegisterBroker(millrace_engine::cluster::RegisterBroker {
        broker_id: 0,
        incarnation: Uuid::from_u128(5),
        cluster_id: "c".into(),
        directory_id: Uuid::from_u128(6),
        address: "b:1".into(),
        rack: String::new(),
        version: "0".into(),
        now_ms: 1,
    })
}

/// One voter: a disk that outlives it, and its present life.
pub struct Node {
    pub id: u64,
    pub disk: FaultyFileSystem,
    pub gate: Arc<Gate>,
    pub quorum: Quorum,
}

impl Node {
    /// Starts a process on `disk`.
    pub async fn start(
        id: u64,
        disk: FaultyFileSystem,
        router: &Router,
        change: impl FnOnce(&mut QuorumOptions, &mut openraft::Config),
    ) -> Result<Self, QuorumError> {
        let node = Self::open(id, disk, router, change).await?;
        node.connect(router);
        Ok(node)
    }

    /// Starts a process on `disk` that nobody reaches yet.
    pub async fn open(
        id: u64,
        disk: FaultyFileSystem,
        router: &Router,
        change: impl FnOnce(&mut QuorumOptions, &mut openraft::Config),
    ) -> Result<Self, QuorumError> {
        let gate = Arc::new(Gate::default());
        let inner = disk.shared();
        let fs: Arc<dyn FileSystem> = Arc::new(GatedFileSystem {
            inner,
            gate: Arc::clone(&gate),
        });
        let mut options = options(id, fs);
        let mut config = raft_config(&options)?;
        change(&mut options, &mut config);
        let quorum = Quorum::open_with_config(options, config, router.from(id)).await?;
        Ok(Self { id, disk, gate, quorum })
    }

    /// From now on others reach it.
    pub fn connect(&self, router: &Router) {
        router.connect(self.id, self.quorum.raft().clone());
    }

    /// Power loss: what was not synced is gone, the process does nothing more.
    pub async fn crash(self, router: &Router) -> FaultyFileSystem {
        router.disconnect(self.id);
        self.gate.kill();
        self.disk.crash();
        self.quorum.shutdown().await;
        self.disk
    }

    /// An orderly end.
    pub async fn stop(self, router: &Router) -> FaultyFileSystem {
        router.disconnect(self.id);
        self.quorum.shutdown().await;
        self.disk.kill_process();
        self.disk
    }

    /// All entries in the log.
    pub fn entries(&self) -> Vec<Entry> {
        self.quorum.log().read(0..u64::MAX, usize::MAX).unwrap()
    }

    pub fn applied(&self) -> u64 {
        self.quorum.status().applied_index.unwrap_or(0)
    }
}

/// Several voters and the network between them.
pub struct Voters {
    pub router: Router,
    pub nodes: BTreeMap<u64, Node>,
}

impl Voters {
    /// `count` voters with a leader.
    pub async fn start(count: u64, seed: u64, max_delay_us: u64) -> Self {
        Self::start_with(count, seed, max_delay_us, |_, _| {}).await
    }

    pub async fn start_with(
        count: u64,
        seed: u64,
        max_delay_us: u64,
        change: impl Fn(&mut QuorumOptions, &mut openraft::Config),
    ) -> Self {
        let router = Router::new(seed, max_delay_us);
        let mut nodes = BTreeMap::new();
        for id in 1..=count {
            let disk = forgetful_disk(seed * 100 + id);
            let node = Node::start(id, disk, &router, |options, config| change(options, config));
            nodes.insert(id, node.await.unwrap());
        }
        let member = |id: u64| {
            (
                id,
                Voter {
                    address: format!("voter-{id}:9653"),
                    directory_id: directory_id(id),
                    state_id: Uuid::nil(),
                },
            )
        };
        let members = (1..=count).map(member).collect();
        nodes[&1].quorum.initialize(members).await.unwrap();
        let voters = Self { router, nodes };
        voters.leader().await;
        voters
    }

    /// The voter that leads and can write.
    pub async fn leader(&self) -> u64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            for node in self.nodes.values() {
                if node.quorum.read_index().await.is_ok() {
                    return node.id;
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn others(&self, id: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|other| *other != id).collect()
    }

    /// Waits until all voters have applied the same last entry and compares their states.
    pub async fn converge(&self) -> Arc<Cluster> {
        let leader = &self.nodes[&self.leader().await];
        let last = leader.applied();
        for node in self.nodes.values() {
            eventually(|| node.applied() >= last).await;
        }
        // Elections after `last` add only blank entries.
        for node in self.nodes.values() {
            eventually(|| *node.quorum.cluster() == *leader.quorum.cluster()).await;
        }
        leader.quorum.cluster()
    }

    pub async fn shutdown(self) {
        for node in self.nodes.into_values() {
            node.gate.release();
            node.stop(&self.router).await;
        }
    }
}

/// Waits until a condition holds.
pub async fn eventually(condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "it never came to hold");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
