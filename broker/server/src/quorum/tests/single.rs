//! A quorum of one voter: the life of a small cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_engine::{Outcome, Rejection};
use millrace_log::{FaultyFileSystem, FileSystem as _, LogDir, fs::faulty::FaultPlan};

use super::{
    super::{Quorum, QuorumError, QuorumOptions, config, types::Vote},
    Node, PATIENCE, create_topic, directory_id, eventually, forgetful_disk, open_dir, options, register_broker,
    router::Router,
};

/// A bootstrapped voter in which broker 0 is registered.
async fn started(seed: u64) -> (Node, Router) {
    let router = Router::new(seed, 0);
    let node = Node::start(1, forgetful_disk(seed), &router, |_, _| {}).await.unwrap();
    node.quorum.bootstrap().await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node.quorum.submit(register_broker()).await.unwrap().unwrap();
    (node, router)
}

async fn reopened(disk: FaultyFileSystem, router: &Router) -> Node {
    let node = Node::start(1, disk, router, |_, _| {}).await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node
}

#[tokio::test]
async fn a_command_is_answered_and_seen_at_once() {
    let (node, router) = started(1).await;
    let quorum = &node.quorum;
    let mut watch = quorum.watch();
    watch.mark_unchanged();
    assert_eq!(quorum.submit(create_topic(1)).await.unwrap(), Ok(Outcome::Done));
    assert!(quorum.cluster().topics.contains_key("topic-1"));
    assert!(watch.has_changed().unwrap());
    let again = quorum.submit(create_topic(1)).await.unwrap();
    assert_eq!(again, Err(Rejection::TopicExists { name: "topic-1".into() }));
    quorum.read_index().await.unwrap();
    let status = quorum.status();
    assert_eq!((status.leader, status.voters), (Some(1), vec![1]));
    assert!(status.term >= 1 && status.applied_index.unwrap() >= 3);
    assert!(quorum.failed().borrow().is_none());
    node.stop(&router).await;
}

#[tokio::test]
async fn it_is_bootstrapped_once() {
    let router = Router::new(1, 0);
    let node = Node::start(1, forgetful_disk(1), &router, |_, _| {}).await.unwrap();
    assert!(!node.quorum.is_bootstrapped());
    let refused = node.quorum.submit(register_broker()).await.unwrap_err();
    assert!(matches!(refused, QuorumError::NotLeader { leader: None }), "{refused}");
    let waited = node
        .quorum
        .wait_for_leader(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(waited, QuorumError::Timeout { .. }), "{waited}");
    node.quorum.bootstrap().await.unwrap();
    assert!(node.quorum.is_bootstrapped());
    let again = node.quorum.bootstrap().await.unwrap_err();
    assert!(matches!(again, QuorumError::AlreadyBootstrapped), "{again}");
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    let disk = node.stop(&router).await;
    let node = reopened(disk, &router).await;
    assert!(node.quorum.is_bootstrapped());
    let again = node.quorum.bootstrap().await.unwrap_err();
    assert!(matches!(again, QuorumError::AlreadyBootstrapped), "{again}");
    node.stop(&router).await;
}

#[tokio::test]
async fn a_sole_voter_leads_at_once_and_knows_all() {
    let (node, router) = started(2).await;
    node.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    let (before, term) = (node.quorum.cluster(), node.quorum.status().term);
    let disk = node.stop(&router).await;
    let begun = Instant::now();
    let slow = |_: &mut QuorumOptions, config: &mut openraft::Config| {
        config.election_timeout_min = 60_000;
        config.election_timeout_max = 120_000;
    };
    let node = Node::start(1, disk, &router, slow).await.unwrap();
    assert_eq!(node.quorum.wait_for_leader(PATIENCE).await.unwrap(), 1);
    // Far less than the election timeout; the bound leaves room for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    println!("led {:?} after open", begun.elapsed());
    assert_eq!(node.quorum.cluster(), before);
    assert!(
        node.quorum.status().term > term,
        "a restarted leader leads in a new term"
    );
    node.stop(&router).await;
}

/// Its log may be an old one: whoever opened it finds that out first.
#[tokio::test]
async fn a_sole_voter_that_may_not_lead_alone_waits_to_be_told() {
    let (node, router) = started(20).await;
    let disk = node.stop(&router).await;
    let careful = |options: &mut QuorumOptions, _: &mut openraft::Config| options.leads_alone = false;
    let node = Node::start(1, disk, &router, careful).await.unwrap();
    assert!(node.quorum.holds_back());
    // Several election timeouts.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(node.quorum.leads_in_term(), None);
    node.quorum.lead_alone().await.unwrap();
    assert_eq!(node.quorum.wait_for_leader(PATIENCE).await.unwrap(), 1);
    assert!(!node.quorum.holds_back());
    node.stop(&router).await;
}

/// One fsync covers many commands, and the leader stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commands_at_once_share_flushes() {
    let (node, router) = started(3).await;
    node.gate.delay_us.store(3_000, std::sync::atomic::Ordering::SeqCst);
    let (term, syncs) = (node.quorum.status().term, syncs(&node));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..1_000)
        .map(|number| {
            let quorum = node.quorum.clone();
            tokio::spawn(async move { quorum.submit(create_topic(number)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), Ok(Outcome::Done));
    }
    println!(
        "1,000 commands in {:?}, {} syncs",
        begun.elapsed(),
        self::syncs(&node) - syncs
    );
    assert!(self::syncs(&node) - syncs < 500);
    assert_eq!(
        (node.quorum.status().term, node.quorum.cluster().topics.len()),
        (term, 1_000)
    );
    node.stop(&router).await;
}

fn syncs(node: &Node) -> u64 {
    node.gate.syncs.load(std::sync::atomic::Ordering::SeqCst)
}

#[tokio::test]
async fn more_commands_than_may_wait_are_refused() {
    let router = Router::new(4, 0);
    let few = |options: &mut QuorumOptions, _: &mut openraft::Config| options.max_pending = 2;
    let node = Node::start(1, forgetful_disk(4), &router, few).await.unwrap();
    node.quorum.bootstrap().await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node.gate.hold();
    let submit = |number| {
        let quorum = node.quorum.clone();
        tokio::spawn(async move { quorum.submit(create_topic(number)).await })
    };
    let waiting = [submit(1), submit(2)];
    eventually(|| node.gate.waiting() > 0).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let refused = node.quorum.submit(create_topic(3)).await.unwrap_err();
    assert!(matches!(refused, QuorumError::Overloaded { limit: 2 }), "{refused}");
    node.gate.release();
    for task in waiting {
        task.await.unwrap().unwrap().unwrap_err();
    }
    node.stop(&router).await;
}

#[tokio::test]
async fn a_command_too_large_for_an_entry_is_refused() {
    let (node, router) = started(5).await;
    let command = millrace_engine::Command::DeleteTopic {
        name: "x".repeat(9 << 20),
        id: None,
    };
    let refused = node.quorum.submit(command).await.unwrap_err();
    assert!(matches!(refused, QuorumError::TooLarge { .. }), "{refused}");
    // The largest that is let through fits.
    let command = millrace_engine::Command::DeleteTopic {
        name: "x".repeat((8 << 20) - 512 - r#"{"DeleteTopic":{"name":"","id":null}}"#.len()),
        id: None,
    };
    let rejected = node.quorum.submit(command).await.unwrap();
    assert!(matches!(rejected, Err(Rejection::UnknownTopic { .. })));
    node.stop(&router).await;
}

/// A full disk refuses commands and is no failure; with room again they are taken.
#[tokio::test]
async fn a_full_disk_refuses_commands_and_the_quorum_lives_on() {
    let (node, router) = started(16).await;
    let used = node.disk.used_bytes();
    node.disk.set_plan(FaultPlan {
        capacity_bytes: used + (1 << 20),
        ..node.disk.plan()
    });
    let error = node.quorum.submit(create_topic(1)).await.unwrap_err();
    assert!(matches!(error, QuorumError::DiskFull { .. }), "{error}");
    node.quorum.read_index().await.unwrap();
    assert!(node.quorum.failed().borrow().is_none());
    // What is left is enough to start anew: a vote and one entry.
    let disk = node.stop(&router).await;
    let node = reopened(disk, &router).await;
    node.disk.set_plan(FaultPlan {
        capacity_bytes: u64::MAX,
        ..node.disk.plan()
    });
    node.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    node.stop(&router).await;
}

/// A failed fsync stops the voter, tells the process, and nothing is acknowledged after it.
#[tokio::test]
async fn a_failed_fsync_is_the_end() {
    let (node, router) = started(6).await;
    let mut failed = node.quorum.failed();
    let plan = FaultPlan {
        fail_next_syncs: 1,
        only_paths_with: ".log".into(),
        ..node.disk.plan()
    };
    node.disk.set_plan(plan);
    let error = node.quorum.submit(create_topic(1)).await.unwrap_err();
    assert!(matches!(error, QuorumError::Stopped { .. }), "{error}");
    let told = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some)).await;
    assert!(told.unwrap().unwrap().is_some());
    let error = node.quorum.submit(create_topic(2)).await.unwrap_err();
    assert!(matches!(error, QuorumError::Stopped { .. }), "{error}");
    assert!(node.quorum.read_index().await.is_err());
    node.stop(&router).await;
}

#[tokio::test]
async fn an_orderly_end_is_no_failure() {
    let (node, router) = started(7).await;
    let failed = node.quorum.failed();
    let quorum = node.quorum.clone();
    node.stop(&router).await;
    let error = quorum.submit(create_topic(2)).await.unwrap_err();
    assert!(matches!(error, QuorumError::Stopped { .. }), "{error}");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(failed.borrow().is_none());
}

#[tokio::test]
async fn a_vote_that_is_gone_or_anothers_stops_the_start() {
    let (node, router) = started(8).await;
    let disk = node.stop(&router).await;
    let fs = disk.shared();
    let other = |voter, directory| {
        let fs = Arc::clone(&fs);
        let dir = open_dir(&fs, "/data".as_ref());
        let options = QuorumOptions::new(voter, directory, "a:1", fs, dir);
        async move { Quorum::open(options).await.err().unwrap() }
    };
    let error = other(2, directory_id(1)).await;
    assert!(
        matches!(
            error,
            QuorumError::OtherVoter {
                found: 1,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
    let error = other(1, directory_id(2)).await;
    assert!(matches!(error, QuorumError::OtherVoter { .. }), "{error}");

    let state = "/data/__metadata-0/quorum-state";
    disk.flip_bit(state.as_ref(), 40, 1).unwrap();
    let error = Quorum::open(options(1, disk.shared())).await.err().unwrap();
    assert!(matches!(error, QuorumError::Damaged { .. }), "{error}");
    fs.remove_file(state.as_ref()).unwrap();
    let error = Quorum::open(options(1, disk.shared())).await.err().unwrap();
    assert!(matches!(error, QuorumError::Damaged { .. }), "{error}");
}

/// The metadata log's directory is gone from the disk.
fn lose_log(disk: &FaultyFileSystem) {
    disk.remove_dir_all("/data/__metadata-0".as_ref()).unwrap();
    disk.sync_dir("/data".as_ref()).unwrap();
}

/// A directory that was in use and lost its metadata log is no new one: in it a second quorum would begin under the
/// id of the first.
#[tokio::test]
async fn a_lost_log_begins_no_second_quorum() {
    // Any sign of use is enough.
    let signs: [fn(&LogDir); 3] = [
        |dir| dir.close_clean(7).unwrap(),
        |dir| dir.write_checkpoints().unwrap(),
        |dir| dir.set_broker_epoch(7).unwrap(),
    ];
    for sign in signs {
        let (node, router) = started(17).await;
        node.quorum.shutdown().await;
        sign(node.quorum.log_dir());
        let disk = node.stop(&router).await;
        lose_log(&disk);
        for _ in 0..2 {
            let error = Quorum::open(options(1, disk.shared())).await.err().unwrap();
            assert!(matches!(error, QuorumError::Damaged { .. }), "{error}");
            assert!(
                error.to_string().contains("`millrace broker replace-disk 1`"),
                "{error}"
            );
        }
        let mut files = disk.list_files().into_iter();
        assert!(files.all(|(path, _)| !path.starts_with("/data/__metadata-0")));
    }
}

/// Nothing was decided yet: a first start may be repeated, whatever a crash left of it.
#[tokio::test]
async fn a_first_start_that_crashed_is_begun_anew() {
    let router = Router::new(18, 0);
    let node = Node::start(1, forgetful_disk(18), &router, |_, _| {}).await.unwrap();
    node.quorum.log_dir().write_checkpoints().unwrap();
    let disk = node.crash(&router).await;
    lose_log(&disk);
    let node = Node::start(1, disk, &router, |_, _| {}).await.unwrap();
    node.quorum.bootstrap().await.unwrap();
    node.quorum.wait_for_leader(PATIENCE).await.unwrap();
    node.stop(&router).await;
}

#[test]
fn unsafe_settings_are_refused() {
    let options = options(1, forgetful_disk(1).shared());
    let good = config::raft_config(&options).unwrap();
    config::check(&good).unwrap();
    type Spoil = fn(&mut openraft::Config);
    let spoils: [Spoil; 8] = [
        |config| config.enable_leader_restore = Some(true),
        |config| config.enable_leader_restore = None,
        |config| config.allow_log_reversion = Some(true),
        |config| config.allow_log_reversion = None,
        |config| config.enable_pre_vote = Some(false),
        |config| config.enable_pre_vote = None,
        |config| config.enable_elect = false,
        |config| config.enable_heartbeat = false,
    ];
    for spoil in spoils {
        let mut config = good.clone();
        spoil(&mut config);
        assert!(config::check(&config).is_err());
    }
    let none = QuorumOptions {
        snapshot_every: 0,
        ..options
    };
    assert!(matches!(config::raft_config(&none), Err(QuorumError::Config(_))));
}

/// openraft's guard is only as good as the order of votes that it relies on.
#[test]
fn a_granted_vote_is_greater_than_a_vote() {
    assert!(Vote::new_committed(3, 1) > Vote::new(3, 1));
    assert!(Vote::new(4, 1) > Vote::new_committed(3, 2));
}
