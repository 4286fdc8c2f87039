//! Voters that crash, cuts that open and close, slow disks, a network that loses: whatever
//! happens, what was acknowledged stays, no log id names two entries, and no two voters ever
//! differ in their state after the same entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use millrace_log::fs::faulty::{FaultPlan, SplitMix64};
use parking_lot::Mutex;

use super::{
    super::{Quorum, QuorumOptions, types::Entry},
    Node, Voters, create_topic, register_broker,
};

/// How many seeds are run; each takes some three seconds.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("MILLRACE_QUORUM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    1..1 + count.unwrap_or(3)
}

/// What was seen of all voters, in all their lives.
#[derive(Default)]
struct Observer {
    /// The entry of each (term, index).
    entries: BTreeMap<(u64, u64), Entry>,
    /// The state after the change at each index.
    states: BTreeMap<u64, String>,
    /// The last entry that each voter had applied, in its present life.
    applied: BTreeMap<u64, u64>,
}

impl Observer {
    fn look(&mut self, seed: u64, voters: &Voters) {
        for node in voters.nodes.values() {
            // A log that is being given up or cut at this moment is looked at the next time.
            let Ok(entries) = node.quorum.log().read(0..u64::MAX, usize::MAX) else {
                continue;
            };
            for entry in entries {
                let id = (entry.log_id.leader_id.term, entry.log_id.index);
                let known = self.entries.entry(id).or_insert_with(|| entry.clone());
                assert_eq!(*known, entry, "seed {seed}: {id:?} names two entries");
            }
            let cluster = node.quorum.cluster();
            let state = serde_json::to_string(&*cluster).unwrap();
            let known = self.states.entry(cluster.version).or_insert_with(|| state.clone());
            assert_eq!(*known, state, "seed {seed}: states after {} differ", cluster.version);
            let applied = self.applied.entry(node.id).or_default();
            assert!(node.applied() >= *applied, "seed {seed}: applied fell");
            *applied = node.applied();
        }
    }
}

/// Submits one topic after the other to whoever leads, until told to stop. Returns the topics
/// that were acknowledged.
async fn write(handles: Handles, stop: Arc<AtomicBool>, first: u64) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    let mut number = first;
    while !stop.load(SeqCst) {
        let quorums: Vec<Quorum> = handles.lock().values().cloned().collect();
        let leading = quorums.into_iter().find(|quorum| {
            let status = quorum.status();
            status.leader.is_some() && status.leader == Some(*quorum.raft().node_id())
        });
        let Some(quorum) = leading else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        number += 1;
        if let Ok(Ok(_)) = quorum.submit(create_topic(number)).await {
            acknowledged.insert(number);
        }
    }
    acknowledged
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

type Handles = Arc<Mutex<BTreeMap<u64, Quorum>>>;

async fn run(seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let count = if rng.chance(300_000) { 5 } else { 3 };
    let mut voters = Voters::start_with(count, seed, 500, hasty).await;
    let leader = voters.leader().await;
    voters.nodes[&leader]
        .quorum
        .submit(register_broker())
        .await
        .unwrap()
        .unwrap();
    let handles: BTreeMap<u64, Quorum> = voters
        .nodes
        .iter()
        .map(|(id, node)| (*id, node.quorum.clone()))
        .collect();
    let (handles, stop) = (Arc::new(Mutex::new(handles)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..3)
        .map(|writer| write(Arc::clone(&handles), Arc::clone(&stop), writer * 1_000_000))
        .map(tokio::spawn)
        .collect();
    let mut observer = Observer::default();
    let mut crashes = 0;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(20 + rng.below(100))).await;
        observer.look(seed, &voters);
        let victim = 1 + rng.below(count);
        match rng.below(8) {
            0..=2 => {
                crashes += 1;
                let node = voters.nodes.remove(&victim).unwrap();
                handles.lock().remove(&victim);
                observer.applied.remove(&victim);
                let plan = FaultPlan {
                    lose_all_unsynced: rng.chance(500_000),
                    ..node.disk.plan()
                };
                node.disk.set_plan(plan);
                let disk = node.crash(&voters.router).await;
                tokio::time::sleep(Duration::from_millis(rng.below(100))).await;
                let node = Node::start(victim, disk, &voters.router, hasty);
                let node = node.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                handles.lock().insert(victim, node.quorum.clone());
                voters.nodes.insert(victim, node);
            }
            3 => voters.router.cut(victim, 1 + rng.below(count)),
            4 => voters.router.isolate(victim, voters.others(victim)),
            5 => voters.nodes[&victim].gate.delay_us.store(rng.below(20_000), SeqCst),
            6 => voters.router.lose(50_000),
            _ => voters.router.heal(),
        }
    }
    voters.router.heal();
    stop.store(true, SeqCst);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let cluster = voters.converge().await;
    observer.look(seed, &voters);
    for number in &acknowledged {
        let name = format!("topic-{number}");
        assert!(
            cluster.topics.contains_key(&name),
            "seed {seed}: {name} was acknowledged and lost"
        );
    }
    println!(
        "seed {seed}: {count} voters, {crashes} crashes, {} acknowledged, {} entries, {} snapshots sent, term {}",
        acknowledged.len(),
        observer.entries.len(),
        voters.router.snapshots(),
        voters.nodes[&1].quorum.status().term,
    );
    assert!(!acknowledged.is_empty());
    handles.lock().clear();
    voters.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_nothing_acknowledged_is_lost_and_no_two_voters_differ() {
    for seed in seeds() {
        run(seed).await;
    }
}
