//! A member of a group, against a coordinator that says what the test wants.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fake;

use std::time::Duration;

use fake::{FakeServer, refused};
use millrace_client::{Client, ErrorKind, ErrorReason, GroupConsumer, GroupEvent, Start};

/// A server whose topic `t` has these numbers of records, and a member with automatic commits at each call.
async fn member(records: &[usize], assigned: &[i32]) -> (FakeServer, GroupConsumer) {
    let server = FakeServer::start().await;
    {
        let mut script = server.script();
        script.log = records
            .iter()
            .map(|count| (0..*count).map(|at| at.to_string()).collect())
            .collect();
        script.assign(assigned, &[]);
    }
    let client = Client::connect(server.address()).await.unwrap();
    let consumer = client
        .group_consumer("g")
        .topics(["t"])
        .auto_commit(Some(Duration::from_nanos(1)))
        .build()
        .unwrap();
    (server, consumer)
}

async fn poll(consumer: &mut GroupConsumer) -> GroupEvent {
    let event = tokio::time::timeout(Duration::from_secs(30), consumer.poll()).await;
    event.expect("an event comes").unwrap()
}

/// The next event that is none of records.
async fn change(consumer: &mut GroupConsumer) -> GroupEvent {
    loop {
        match poll(consumer).await {
            GroupEvent::Records(_) => {}
            change => return change,
        }
    }
}

fn names(partitions: &[(std::sync::Arc<str>, i32)]) -> Vec<i32> {
    partitions.iter().map(|(_, partition)| *partition).collect()
}

#[tokio::test]
async fn an_offset_is_committed_only_once_the_next_call_shows_that_the_record_is_processed() {
    let (server, mut consumer) = member(&[3], &[0]).await;
    for at in 0..3 {
        let record = consumer.next().await.unwrap();
        assert_eq!((record.offset, record.value.unwrap()), (at, at.to_string().into()));
        let committed = server.script().committed.get(&0).copied();
        assert_eq!(committed.unwrap_or(0), at, "the one in hand is not committed");
    }
    consumer.close().await.unwrap();
    assert_eq!(
        server.script().committed[&0],
        3,
        "closing says that the last one is processed"
    );
    let asked = server.script().asked.clone();
    assert_eq!(asked[asked.len() - 2..], ["commit 0@3 epoch Some(3)", "leave false"]);
}

#[tokio::test]
async fn it_goes_on_where_the_group_has_committed() {
    let (server, mut consumer) = member(&[5], &[0]).await;
    server.script().committed.insert(0, 4);
    assert_eq!(consumer.next().await.unwrap().offset, 4);
}

#[tokio::test]
async fn a_start_that_nobody_tells_holds_up_no_other() {
    let all: Vec<i32> = (0..9).collect();
    let (server, mut consumer) = member(&[1; 9], &all).await;
    server.script().silent = (0..8).collect();
    loop {
        if let GroupEvent::Records(records) = poll(&mut consumer).await {
            assert_eq!(records.partition(), 8);
            break;
        }
    }
}

#[tokio::test]
async fn what_retention_has_deleted_is_told_and_gone_on_behind() {
    let (server, mut consumer) = member(&[5, 1], &[0, 1]).await;
    {
        let mut script = server.script();
        script.committed.insert(0, 1);
        script.committed.insert(1, 1);
        script.log_start.insert(0, 3);
    }
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(30), consumer.poll())
            .await
            .unwrap()
        {
            Ok(GroupEvent::Records(records)) => panic!("{records:?}"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let ErrorKind::OffsetOutOfRange {
        partition,
        position,
        log_start,
        ..
    } = error.kind()
    else {
        panic!("{error}");
    };
    assert_eq!((*partition, *position, *log_start), (0, 1, Some(3)));
    consumer.seek("t", 0, Start::Beginning).unwrap();
    let record = consumer.next().await.unwrap();
    assert_eq!((record.partition, record.offset), (0, 3));
    assert!(consumer.seek("t", 0, Start::Offset(-1)).is_err());
    assert!(consumer.seek("t", 7, Start::Beginning).is_err(), "it is not assigned");
}

#[tokio::test]
async fn what_is_revoked_is_committed_before_it_is_reported_as_given_back() {
    let (server, mut consumer) = member(&[1, 4], &[0, 1]).await;
    let GroupEvent::Assigned(assigned) = change(&mut consumer).await else {
        panic!("nothing was assigned")
    };
    assert_eq!(names(&assigned), [0, 1]);
    loop {
        if let GroupEvent::Records(records) = poll(&mut consumer).await
            && records.partition() == 1
        {
            break;
        }
    }
    // It is in hand, and not committed yet.
    server.script().assign(&[0], &[1]);
    let GroupEvent::Revoking(revoked) = change(&mut consumer).await else {
        panic!("nothing was revoked")
    };
    assert_eq!(names(&revoked), [1]);
    assert_eq!(
        names(&consumer.assignment()),
        [0, 1],
        "until the next call it is its own"
    );
    let given_back = async {
        while server
            .script()
            .asked
            .iter()
            .filter(|asked| *asked == "owned [0]")
            .count()
            == 0
        {
            let _ = tokio::time::timeout(Duration::from_millis(20), consumer.poll()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given_back).await.unwrap();
    let asked = server.script().asked.clone();
    let at = |what: &str| asked.iter().position(|asked| asked == what);
    assert!(
        at("commit 1@4 epoch Some(3)").unwrap() < at("owned [0]").unwrap(),
        "{asked:?}"
    );
    assert_eq!(names(&consumer.assignment()), [0]);
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_nothing_is_lost_by_it() {
    let (server, mut consumer) = member(&[2], &[0]).await;
    assert_eq!(consumer.next().await.unwrap().offset, 0);
    let before = server.script().beats.len();
    server
        .script()
        .breaks
        .push_back(refused(ErrorReason::NotCoordinator, None));
    let again = async {
        // A stream's first request has the settings.
        while !server.script().beats[before..]
            .iter()
            .any(|beat| beat.settings.is_some())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().offset, 1);
    let script = server.script();
    let beats: Vec<_> = script.beats.iter().filter(|beat| beat.settings.is_some()).collect();
    assert_eq!((beats[0].member_epoch, beats[1].member_epoch), (0, 1));
    assert_eq!(beats[0].member_id, beats[1].member_id);
}

#[tokio::test]
async fn a_fenced_member_tells_what_is_lost_and_joins_under_another_id() {
    let (server, mut consumer) = member(&[2], &[0]).await;
    assert!(matches!(change(&mut consumer).await, GroupEvent::Assigned(_)));
    server
        .script()
        .breaks
        .push_back(refused(ErrorReason::FencedMember, None));
    let GroupEvent::Lost(lost) = change(&mut consumer).await else {
        panic!("nothing was lost")
    };
    assert_eq!(names(&lost), [0]);
    let GroupEvent::Assigned(assigned) = change(&mut consumer).await else {
        panic!("it did not join again")
    };
    assert_eq!(names(&assigned), [0]);
    let script = server.script();
    let joins: Vec<_> = script.beats.iter().filter(|beat| beat.member_epoch == 0).collect();
    assert_eq!(joins.len(), 2);
    assert_ne!(joins[0].member_id, joins[1].member_id);
}

#[tokio::test]
async fn a_partition_that_is_not_its_own_is_refused_and_the_others_are_committed() {
    let (server, mut consumer) = member(&[1, 1], &[0, 1]).await;
    assert!(matches!(change(&mut consumer).await, GroupEvent::Assigned(_)));
    server.script().refuses.insert(1, ErrorReason::PartitionNotAssigned);
    let refused = consumer.commit([("t", 0, 1), ("t", 1, 1), ("t", 2, 1)]).await.unwrap();
    let mut refused: Vec<_> = refused
        .iter()
        .map(|(_, partition, error)| (*partition, error.reason().unwrap()))
        .collect();
    refused.sort_unstable_by_key(|(partition, _)| *partition);
    let not_assigned = ErrorReason::PartitionNotAssigned;
    assert_eq!(refused, [(1, not_assigned), (2, not_assigned)]);
    assert_eq!(server.script().committed.get(&0), Some(&1));
}

#[tokio::test]
async fn a_group_that_can_t_be_joined_says_why() {
    let (server, mut consumer) = member(&[1], &[0]).await;
    server
        .script()
        .breaks
        .push_back(refused(ErrorReason::InvalidTopicPattern, None));
    let error = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = consumer.poll().await {
                return error;
            }
        }
    });
    assert_eq!(error.await.unwrap().reason(), Some(ErrorReason::InvalidTopicPattern));
}

#[tokio::test]
async fn nothing_is_given_back_before_it_was_told() {
    let (server, mut consumer) = member(&[0, 0, 0], &[0, 1, 2]).await;
    assert!(matches!(change(&mut consumer).await, GroupEvent::Assigned(_)));
    let settled = async |server: &FakeServer, beats: usize| {
        let all = async {
            while server.script().beats.len() < beats {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    };
    let beats = |server: &FakeServer| server.script().beats.len();
    // The application calls nothing while these come: 1 is lost and 2 is to be given back.
    server.script().assign(&[0], &[2]);
    settled(&server, beats(&server) + 3).await;
    assert!(matches!(change(&mut consumer).await, GroupEvent::Lost(lost) if names(&lost) == [1]));
    server.script().assign(&[], &[0, 2]);
    settled(&server, beats(&server) + 3).await;
    assert!(matches!(change(&mut consumer).await, GroupEvent::Revoking(revoked) if names(&revoked) == [2]));
    // Gives back 2 alone, and tells of 0.
    assert!(matches!(change(&mut consumer).await, GroupEvent::Revoking(revoked) if names(&revoked) == [0]));
    assert_eq!(names(&consumer.assignment()), [0]);
}
