//! One voter and a power cut at any moment: what was acknowledged is there, whole and in order.

use std::sync::Arc;

use millrace_engine::{Cluster, Command};
use millrace_log::{
    FaultyFileSystem,
    fs::faulty::{FaultPlan, SplitMix64},
};

use super::{
    super::{QuorumError, QuorumOptions, state_file::QuorumState},
    Node, PATIENCE, create_topic, eventually, forgetful_disk, register_broker,
    router::Router,
};

const DIR: &str = "/data/__metadata-0";

async fn open(disk: FaultyFileSystem, router: &Router, every: u64) -> Result<Node, QuorumError> {
    Node::start(1, disk, router, |options, config| {
        options.snapshot_every = every;
        *config = super::super::config::raft_config(options).unwrap();
    })
    .await
}

fn stored_term(disk: &FaultyFileSystem) -> u64 {
    let path = format!("{DIR}/quorum-state");
    let state = QuorumState::load(&*disk.shared(), path.as_ref()).unwrap();
    state
        .and_then(|state| state.vote())
        .map_or(0, |vote| vote.leader_id.term)
}

/// Acknowledged only after the fsync: until then the entry can be read, but no one is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_before_it_is_on_the_disk() {
    let router = Router::new(1, 0);
    let node = open(forgetful_disk(1), &router, 1_000).await.unwrap();
    node.quorum.bootstrap().await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node.quorum.submit(register_broker()).await.unwrap().unwrap();
    node.gate.hold();
    let end = node.quorum.log().end();
    let quorum = node.quorum.clone();
    let lost = tokio::spawn(async move { quorum.submit(create_topic(1)).await });
    eventually(|| node.gate.waiting() > 0 && node.quorum.log().end() == end + 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!lost.is_finished(), "acknowledged before the fsync");
    assert!(node.quorum.log().entry(end).is_ok(), "a written entry can be read");
    assert!(!node.quorum.cluster().topics.contains_key("topic-1"));
    assert_eq!(node.quorum.log().flushed_end(), end);

    let term = node.quorum.status().term;
    let disk = node.crash(&router).await;
    assert!(lost.await.unwrap().is_err());
    assert!(stored_term(&disk) >= term, "a vote was forgotten");
    let node = open(disk, &router, 1_000).await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    assert!(node.quorum.cluster().brokers.contains_key(&0), "acknowledged and lost");
    assert!(!node.quorum.cluster().topics.contains_key("topic-1"));
    node.stop(&router).await;
}

/// The state that the acknowledged commands make, and perhaps one more command.
struct Model {
    cluster: Cluster,
    unanswered: Option<Command>,
}

/// Crashes at random moments, with torn writes, snapshots on the way: each time the state is
/// exactly what the acknowledged commands make of it, or that and the one in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_after_a_crash_is_that_of_the_acknowledged_commands() {
    for seed in 0..12 {
        let mut rng = SplitMix64::new(seed);
        let router = Router::new(seed, 0);
        let disk = FaultyFileSystem::new(seed);
        disk.set_plan(FaultPlan {
            lose_all_unsynced: seed % 2 == 0,
            ..FaultPlan::default()
        });
        let mut model = Model {
            cluster: Cluster::default(),
            unanswered: None,
        };
        let mut number = 0;
        let mut term = 0;
        let every = 3 + rng.below(20);
        let mut node = open(disk, &router, every).await.unwrap();
        node.quorum.bootstrap().await.unwrap();
        for life in 0..6 {
            node.quorum.wait_for_leader(PATIENCE).await.unwrap();
            check(&node, &mut model, seed, life);
            assert!(node.quorum.status().term > term, "seed {seed}: the term fell");
            node.gate
                .delay_us
                .store(rng.below(300), std::sync::atomic::Ordering::SeqCst);
            for _ in 0..rng.below(40) {
                let command = if number == 0 {
                    register_broker()
                } else {
                    create_topic(number)
                };
                number += 1;
                submit(&node, &mut model, command).await;
            }
            term = node.quorum.status().term;
            // The last one is cut off at some moment of its way.
            let command = create_topic(number);
            number += 1;
            model.unanswered = Some(command.clone());
            let quorum = node.quorum.clone();
            let cut = tokio::spawn(async move { quorum.submit(command).await });
            tokio::time::sleep(std::time::Duration::from_micros(rng.below(1_500))).await;
            let disk = node.crash(&router).await;
            let answered = cut.await.unwrap().is_ok();
            node = reopen(disk, &router, every, seed).await;
            if answered {
                // Acknowledged after all: then it must be there.
                node.quorum.wait_for_leader(PATIENCE).await.unwrap();
                let command = model.unanswered.take().unwrap();
                let _ = model.cluster.apply(node.quorum.cluster().version, &command);
            }
        }
        node.stop(&router).await;
    }
}

async fn reopen(disk: FaultyFileSystem, router: &Router, every: u64, seed: u64) -> Node {
    match open(disk, router, every).await {
        Ok(node) => node,
        Err(error) => panic!("seed {seed}: does not open after a crash: {error}"),
    }
}

async fn submit(node: &Node, model: &mut Model, command: Command) {
    let answer = node.quorum.submit(command.clone()).await.unwrap();
    let index = node.quorum.cluster().version;
    assert_eq!(model.cluster.apply(index, &command), answer);
    assert_eq!(*node.quorum.cluster(), model.cluster);
}

fn check(node: &Node, model: &mut Model, seed: u64, life: u64) {
    let found = node.quorum.cluster();
    if let Some(command) = model.unanswered.take()
        && *found != model.cluster
    {
        let _ = model.cluster.apply(found.version, &command);
    }
    assert_eq!(*found, model.cluster, "seed {seed}, life {life}");
}

/// Creates and deletes so many topics, many at a time.
async fn churn(node: &Node, commands: u64) {
    let mut next = 0;
    while next < commands {
        let tasks: Vec<_> = (next..commands.min(next + 200))
            .map(|number| {
                let quorum = node.quorum.clone();
                tokio::spawn(async move { quorum.submit(create_topic(number % 400)).await })
            })
            .collect();
        next += tasks.len() as u64;
        for task in tasks {
            // Half of them are rejected: those stand in the log too.
            let _ = task.await.unwrap().unwrap();
        }
    }
}

fn checkpoints(disk: &FaultyFileSystem) -> Vec<std::path::PathBuf> {
    let files = disk.list_files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.extension().is_some_and(|e| e == "checkpoint"))
        .collect()
}

/// A voter whose log was given up in part behind two snapshots.
async fn purged(seed: u64, router: &Router) -> (Node, Arc<Cluster>) {
    let node = open(forgetful_disk(seed), router, 200).await.unwrap();
    node.quorum.bootstrap().await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node.quorum.submit(register_broker()).await.unwrap().unwrap();
    churn(&node, 2_000).await;
    eventually(|| node.quorum.log().purged().is_some_and(|purged| purged.index > 200)).await;
    eventually(|| checkpoints(&node.disk).len() == 2).await;
    let cluster = node.quorum.cluster();
    (node, cluster)
}

/// At the moment of a purge the snapshot it relies on is on the disk: a power cut right after
/// it costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_is_given_up_only_behind_a_durable_snapshot() {
    let router = Router::new(9, 0);
    let (node, before) = purged(9, &router).await;
    let disk = node.crash(&router).await;
    let node = open(disk, &router, 200).await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    assert_eq!(node.quorum.cluster(), before);
    assert!(node.entries()[0].log_id.index > 200, "the log was given up in part");
    // And again, now that the state came from a snapshot.
    churn(&node, 500).await;
    let before = node.quorum.cluster();
    let disk = node.crash(&router).await;
    let node = open(disk, &router, 200).await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    assert_eq!(node.quorum.cluster(), before);
    node.stop(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_snapshot_is_made_up_for_and_two_stop_the_start() {
    let router = Router::new(10, 0);
    let (node, before) = purged(10, &router).await;
    let disk = node.stop(&router).await;
    let newest = checkpoints(&disk).pop().unwrap();
    disk.flip_bit(&newest, 300, 2).unwrap();
    let node = open(disk, &router, 200).await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    assert_eq!(
        node.quorum.cluster(),
        before,
        "the older snapshot and the log have it all"
    );
    let disk = node.stop(&router).await;
    for path in checkpoints(&disk) {
        disk.flip_bit(&path, 300, 2).unwrap();
    }
    let error = open(disk, &router, 200).await.err().unwrap();
    assert!(matches!(error, QuorumError::Damaged { .. }), "{error}");
}

/// Options as the server gives them, to see that the defaults are valid.
#[test]
fn the_defaults_are_valid() {
    let fs = forgetful_disk(1).shared();
    let dir = super::open_dir(&fs, "/data".as_ref());
    let options = QuorumOptions::new(1, super::directory_id(1), "a:1", fs, dir);
    super::super::config::raft_config(&options).unwrap();
}
