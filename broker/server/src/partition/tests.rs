//! A partition of a real broker.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use millrace_engine::{
    Cluster, Command, Topic,
    cluster::{ConfigChange, ElectionKind},
    partition::{Event, FetchRequest},
};
use millrace_proto::{
    internal::v1::replica_answer::Outcome,
    v1::{self, ErrorReason, start::At},
};

use super::{AppendRequest, Appended, Gone, Partition, SequenceRule, append::DUPLICATE_SEARCHES};
use crate::{
    error::ApiError,
    limits,
    replication::Outlet,
    rpc::{convert::Acks, resolve},
    testing::{PHANTOM, TestBroker, batch},
};

fn append(partition: &Arc<Partition>, sequence: i32, acks: Acks) -> Result<Appended, ApiError> {
    let request = AppendRequest {
        acks,
        leader_epoch: None,
        expected_offset: None,
        sequence_rule: SequenceRule::Contiguous,
    };
    partition.append(&batch(Some((7, sequence))), &request)
}

/// More than the log remembers of a producer.
fn append_many(partition: &Arc<Partition>, first: i32) {
    for sequence in first..first + 30 {
        append(partition, sequence, Acks::Leader).unwrap();
    }
}

/// A reader of many partitions waits anew each time that one of them has records: the others must
/// not remember all these times.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_have_gone_on_are_forgotten_where_nothing_comes() {
    let test = TestBroker::start().await;
    let idle = [test.partition("one", &[0]).await, test.partition("other", &[0]).await];
    for _ in 0..10_000 {
        let waiter = Arc::new(tokio::sync::Notify::new());
        for partition in &idle {
            partition.notify_on_data(&waiter);
        }
    }
    for partition in &idle {
        assert!(partition.readers.lock().len() <= 2 * limits::READERS_LOOKED_THROUGH);
    }
    let waiter = Arc::new(tokio::sync::Notify::new());
    idle[0].notify_on_data(&waiter);
    append(&idle[0], 0, Acks::Leader).unwrap();
    waiter.notified().await;
}

/// What a search for an old duplicate holds would keep the metadata from all partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_an_old_duplicate_holds_up_no_change_of_roles() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0]).await;
    append_many(&partition, 0);
    // All turns are taken, so that the search waits.
    let (mut release, mut turns) = (Vec::new(), Vec::new());
    for _ in 0..limits::DUPLICATE_SEARCHES {
        let (send, wait) = mpsc::channel::<()>();
        let (taken, has_turn) = mpsc::channel();
        release.push(send);
        turns.push(std::thread::spawn(move || {
            DUPLICATE_SEARCHES.run(|| {
                taken.send(()).unwrap();
                let _ = wait.recv();
            })
        }));
        has_turn.recv().unwrap();
    }
    let searching = {
        let partition = partition.clone();
        std::thread::spawn(move || append(&partition, 0, Acks::Leader))
    };
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        let roles = partition.roles.try_write_for(Duration::from_secs(1));
        assert!(roles.is_some(), "a search holds the roles");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!searching.is_finished(), "the search has no turn");
    drop(release);
    let found = searching.join().unwrap().unwrap();
    assert_eq!((found.base_offset, found.duplicate), (0, true));
    for turn in turns {
        turn.join().unwrap();
    }
}

/// It is called written only once it can't be lost any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_without_a_known_offset_waits_for_the_commit() {
    let test = TestBroker::start().await;
    let alone = test.partition("alone", &[0]).await;
    append_many(&alone, 100);
    let told = append(&alone, 50, Acks::All).unwrap();
    assert_eq!(told.base_offset, -1);
    let error = told.committed.wait().await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::DuplicateSequence);
    assert_eq!(error.metadata()["outcome"], "written");
    let error = append(&alone, 50, Acks::Leader).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::DuplicateSequence);

    // The other replica copies nothing, and what it lacks is not committed.
    let copied = test.partition("copied", &[0, PHANTOM]).await;
    append_many(&copied, 100);
    let told = append(&copied, 50, Acks::All).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(200), told.committed.wait()).await;
    assert!(waited.is_err(), "{waited:?}");
}

/// Else a failover right after it would show them again.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_deleted_once_all_in_sync_replicas_have_done_it() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0, PHANTOM]).await;
    let written = append(&partition, 0, Acks::All).unwrap();
    let told = |sequence, log_start| FetchRequest {
        durable_end: 1,
        log_start,
        ..test.phantom_fetch(&partition, sequence)
    };
    partition.on_acknowledged(told(1, 0));
    written.committed.wait().await.unwrap();
    let mut deleting = tokio::spawn(crate::forward::delete_here(partition.clone(), Some(1), false));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut deleting).await;
    assert!(early.is_err(), "the other replica still has them: {early:?}");
    // It has nothing left that could be compared.
    let deleted = FetchRequest {
        last_fetched_epoch: None,
        ..told(2, 1)
    };
    partition.on_acknowledged(deleted);
    assert_eq!(deleting.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moved_away_sends_everybody_elsewhere() {
    let test = TestBroker::start().await;
    for (why, reason) in [
        (Gone::MovedAway, ErrorReason::NotLeader),
        (Gone::Deleted, ErrorReason::UnknownTopic),
    ] {
        let partition = test.partition(&format!("{why:?}"), &[0, PHANTOM]).await;
        let waiting = append(&partition, 0, Acks::All).unwrap();
        let outlet = Arc::new(Outlet::default());
        let fetch = |sequence| test.phantom_fetch(&partition, sequence);
        partition.on_replica_fetch(fetch(1), &outlet);
        assert!(partition.cell.lock().has_parked(), "there is nothing to tell");
        partition.remove(why);
        assert!(!partition.leads());
        let error = waiting.committed.wait().await.unwrap_err();
        // The metadata still names this broker, which does not hold it: nobody leads it.
        let nobody = reason == ErrorReason::NotLeader && error.reason() == ErrorReason::LeaderNotAvailable;
        assert!(error.reason() == reason || nobody, "{error:?}");
        assert!(!error.is_not_written());
        let error = append(&partition, 1, Acks::Leader).unwrap_err();
        assert!(
            error.is_not_written() && (nobody || error.reason() == reason),
            "{error:?}"
        );
        partition.on_replica_fetch(fetch(2), &outlet);
        let refused = outlet.next().await.unwrap().answers;
        assert_eq!(refused.iter().map(|answer| answer.sequence).collect::<Vec<_>>(), [1, 2]);
        for answer in refused {
            assert!(matches!(answer.outcome, Some(Outcome::Refused(_))), "{answer:?}");
        }
        partition.on_timer();
        assert!(!partition.leads());
    }
}

/// Reads stumble on rot; the log must know of it, so that it is told of and not looked for again.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_read_meets_is_known_from_then_on() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0]).await;
    append_many(&partition, 0);
    partition.log.flush().unwrap();
    partition.look_at_damage();
    assert_eq!(partition.problem(), None);
    let segment = test.data().join("t-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let size = batch(Some((7, 0))).bytes().len();
    bytes[10 * size + size - 1] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let sound = partition.read_within(0, usize::MAX, i64::MAX).unwrap();
    assert_eq!(sound.next_offset, 10, "what is before the damage is served");
    let error = partition.read_within(10, usize::MAX, i64::MAX).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::DamagedLog);
    let fact = |name: &str| error.metadata()[name].parse::<i64>().unwrap();
    assert_eq!((fact("offset"), fact("damaged_until")), (10, 11));
    partition.look_at_damage();
    let problem = partition.problem().expect("the damage is told of");
    assert!(problem.contains("offsets 10 to 10 are"), "{problem}");
    assert!(partition.read_within(10, usize::MAX, i64::MAX).is_err());
    let behind = partition.read_within(11, usize::MAX, i64::MAX).unwrap();
    assert_eq!(behind.next_offset, 30);
}

/// Its topic is deleted while its log can't be opened, so that nobody removes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_topic_has_left_is_set_aside_for_a_new_one_of_its_name() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0]).await;
    append_many(&partition, 0);
    partition.log.flush().unwrap();
    let hosted = &test.broker().partitions;
    hosted.by_key.write().remove(&partition.key());
    hosted.topics.write().get_mut("t").unwrap().partitions.clear();
    drop(partition);
    let delete = Command::DeleteTopic {
        name: "t".into(),
        id: None,
    };
    test.broker().submit(delete).await.unwrap();
    test.broker().wait_until_current().await.unwrap();
    assert!(test.data().join("t-0").exists());

    let new = test.partition("t", &[0]).await;
    assert_eq!(new.offsets().log_end, 0);
    append(&new, 0, Acks::All).unwrap().committed.wait().await.unwrap();
    let names = std::fs::read_dir(test.data())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let strays: Vec<_> = names
        .filter(|name| name.to_string_lossy().ends_with("-stray"))
        .collect();
    assert_eq!(strays.len(), 1, "{strays:?}");
}

/// What is acknowledged while it is asked is below the end that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_looked_at_once_it_is_known() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0, PHANTOM]).await;
    append(&partition, 0, Acks::Leader).unwrap();
    partition.log.flush().unwrap();
    // A new leader, who has not heard of the other replica.
    for replica in [PHANTOM, 0] {
        test.elect("t", ElectionKind::InSync { replica }).await;
    }
    let heard = FetchRequest {
        last_fetched_epoch: Some(0),
        durable_end: 1,
        ..test.phantom_fetch(&partition, 1)
    };
    let asking = {
        // The question waits for the replica's lock, and meanwhile the other replica is heard.
        let mut cell = partition.cell.lock();
        let asking = tokio::spawn({
            let (broker, partition) = (test.broker().clone(), partition.clone());
            async move { resolve(&broker, &partition, &At::Edge(v1::Edge::End.into())).await }
        });
        std::thread::sleep(Duration::from_millis(200));
        let durable_end = partition.log.durable_end_offset();
        assert_eq!(durable_end, 1);
        let generation = cell.replica.generation();
        partition.step(
            &mut cell,
            Event::Flushed {
                durable_end,
                generation,
            },
        );
        partition.step(&mut cell, Event::ReplicaAcknowledged(heard));
        asking
    };
    assert_eq!(asking.await.unwrap().unwrap().0, 1);
}

/// The metadata may be ahead of the partitions.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_deleted_topic_proves_nothing_for_one_of_its_name() {
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0, PHANTOM]).await;
    append(&partition, 0, Acks::Leader).unwrap();
    let newest = test.broker().quorum.cluster();
    let mut topic = Topic::clone(&newest.topics["t"]);
    topic.partitions[0].elr = vec![0];
    let ends = |topic: &Topic| {
        let mut cluster = Cluster::clone(&newest);
        cluster.topics.insert(topic.name.clone(), Arc::new(topic.clone()));
        test.broker().partitions.log_ends(&cluster)
    };
    assert_eq!(ends(&topic).len(), 1);
    topic.id = uuid::Uuid::from_u128(7);
    assert_eq!(ends(&topic), []);
}

/// A disk that is slow for one partition takes one thread, and not all.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_flushed_keeps_no_other_thread() {
    let test = TestBroker::start().await;
    let (slow, other) = (test.partition("slow", &[0]).await, test.partition("other", &[0]).await);
    let (release, wait) = mpsc::channel::<()>();
    let (holds, has_begun) = mpsc::channel();
    let holding = std::thread::spawn({
        let slow = slow.clone();
        move || {
            // A flush begins with this lock.
            let _held = slow.cell.lock();
            holds.send(()).unwrap();
            let _ = wait.recv();
        }
    });
    has_begun.recv().unwrap();
    for _ in 0..2 * limits::FLUSH_THREADS {
        slow.queue_flush();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let appended = append(&other, 0, Acks::All).unwrap();
    let flushed = tokio::time::timeout(Duration::from_secs(20), appended.committed.wait()).await;
    drop(release);
    holding.join().unwrap();
    flushed.expect("threads wait for the slow one").unwrap();
    let appended = append(&slow, 0, Acks::All).unwrap();
    appended.committed.wait().await.unwrap();
}

/// Whoever sends it: a batch from a client that knows partitions, or one that another broker passes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_keys_is_refused_while_its_topic_is_compacted() {
    let test = TestBroker::start().await;
    let set = |policy: &str| BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]);
    let partition = test.partition_with("t", &[0], set("compact")).await;
    for sequence in [0, 1] {
        let refused = append(&partition, sequence, Acks::All).unwrap_err();
        assert_eq!(refused.reason(), ErrorReason::InvalidRecord);
        assert!(refused.is_not_written());
    }
    assert_eq!(partition.offsets().log_end, 0);
    let change = ConfigChange {
        set: set("delete"),
        unset: Vec::new(),
    };
    let name = "t".to_owned();
    let broker = test.broker();
    broker
        .submit(Command::AlterTopicConfigs { name, change })
        .await
        .unwrap();
    broker.wait_until_current().await.unwrap();
    append(&partition, 0, Acks::All).unwrap();
}
