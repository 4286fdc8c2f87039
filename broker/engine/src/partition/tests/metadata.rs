//! Which metadata is taken, and what changes with it.

use super::harness::{Subject, floor, life, proposals, record, request, view, view_of};
use crate::partition::{Alarm, Effect, Event, FetchRequest, OfflineReason, WaiterFailure};

fn kinds(out: &[Effect]) -> Vec<&Effect> {
    out.iter()
        .filter(|effect| !matches!(effect, Effect::Fetch { .. } | Effect::Truncate { .. }))
        .collect()
}

#[test]
fn neither_epoch_may_be_older() {
    let mut subject = Subject::following();
    let before = subject.replica.clone();
    // An older version of the record in a late image, and one in a newer image than the answer
    // that told of the record.
    for version in [69, 75] {
        let mut old = view(Some(0), 4, 6, &[0]);
        old.version = version;
        assert_eq!(subject.metadata(1, &old), []);
    }
    assert_eq!(subject.replica.leader_epoch(), before.leader_epoch());
    let mut odd = view(Some(0), 4, 8, &[0]);
    odd.version = 80;
    let alarm = Effect::Alarm(Alarm::ContradictoryMetadata { leader_epoch: 4 });
    assert_eq!(subject.metadata(2, &odd), [alarm]);
    // Another leader of the same epoch.
    let other = view(Some(2), 5, 9, &[0, 2]);
    let alarm = Effect::Alarm(Alarm::ContradictoryMetadata { leader_epoch: 5 });
    assert_eq!(subject.metadata(3, &other), [alarm]);
    assert_eq!(subject.replica.following(), Some(Some(1)));
}

#[test]
fn a_later_version_of_the_same_epoch_leaves_a_follower_as_it_is() {
    let mut subject = Subject::following();
    assert_eq!(subject.metadata(1, &view(Some(1), 5, 8, &[0, 1])), []);
    let out = subject.metadata(2, &view(Some(1), 6, 9, &[0, 1]));
    assert_eq!(
        kinds(&out),
        [&Effect::BecameFollower {
            leader: Some(1),
            leader_epoch: 6
        }]
    );
    assert_eq!(out.len(), 2, "it asks anew");
}

#[test]
fn a_later_version_of_the_same_epoch_leaves_a_leader_what_it_heard() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 15, 3));
    assert_eq!(
        subject.metadata(2, &view(Some(0), 5, 8, &[0, 1])),
        [Effect::HighWatermark(15)]
    );
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(1), Some(15));
    // A later leader epoch does not: nothing was heard in it.
    subject.metadata(3, &view(Some(0), 6, 9, &[0, 1]));
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(1), None);
    subject.produce(4, 1);
    assert_eq!(subject.replica.high_watermark(), 15);
}

#[test]
fn a_lead_of_an_earlier_life_is_not_taken() {
    let mut subject = Subject::new();
    let mut old = view(Some(0), 5, 7, &[0, 1, 2]);
    old.brokers[0].broker_epoch = life(0) - 1;
    assert_eq!(subject.metadata(0, &old), []);
    let mut unregistered = view(Some(0), 5, 7, &[0, 1, 2]);
    unregistered.brokers.remove(0);
    assert_eq!(subject.metadata(0, &unregistered), []);
    assert_eq!(subject.replica.offline(), Some(OfflineReason::AwaitingMetadata));
    // A later life: this process is a ghost, and nothing brings it back.
    let mut subject = Subject::leading(&[0, 1]);
    let mut later = view(Some(0), 6, 8, &[0, 1]);
    later.brokers[0].broker_epoch = life(0) + 1;
    assert_eq!(
        subject.metadata(1, &later),
        [
            Effect::FailWaiters(WaiterFailure::Offline),
            Effect::GoOffline(OfflineReason::Superseded),
        ]
    );
    assert_eq!(subject.metadata(2, &view(Some(0), 7, 9, &[0])), []);
}

#[test]
fn a_deposed_leaders_waiters_learn_that_the_outcome_is_unknown() {
    for leader in [Some(1), None] {
        let mut subject = Subject::leading(&[0, 1]);
        let out = subject.metadata(1, &view(leader, 6, 8, &[1]));
        assert_eq!(
            kinds(&out),
            [
                &Effect::FailWaiters(WaiterFailure::NotLeader),
                &Effect::BecameFollower {
                    leader,
                    leader_epoch: 6
                },
            ]
        );
        assert!(subject.replica.check_append(None, false).is_err());
    }
    // Fenced without a new leader: within the epoch.
    let mut subject = Subject::leading(&[0]);
    subject.metadata(1, &view(None, 5, 8, &[]));
    assert_eq!(subject.replica.following(), Some(None));
    // The same broker again in a later epoch: its log is the same, who waits may go on.
    let mut subject = Subject::leading(&[0, 1]);
    let out = subject.metadata(1, &view(Some(0), 6, 8, &[0, 1]));
    assert!(!out.contains(&Effect::FailWaiters(WaiterFailure::NotLeader)), "{out:?}");
}

/// Removed and added again, and both came as one version (KAFKA-9672).
#[test]
fn what_a_removed_replica_had_told_is_forgotten() {
    let readded = |adding: bool, broker_epoch: i64, replicas: &[i32]| {
        let mut partition = record(Some(0), 5, 9, &[0, 1]);
        partition.replicas = replicas.to_vec();
        partition.adding = if adding { vec![2] } else { vec![] };
        let mut seen = view_of(partition);
        for broker in &mut seen.brokers {
            if broker.id == 2 {
                broker.broker_epoch = broker_epoch;
            }
        }
        seen
    };
    for (name, seen, kept) in [
        ("nothing of the kind", readded(false, life(2), &[0, 1, 2]), true),
        ("added anew", readded(true, life(2), &[0, 1, 2]), false),
        ("another life", readded(false, 999, &[0, 1, 2]), false),
    ] {
        let mut subject = Subject::leading(&[0, 1]);
        subject.fetch(1, request(2, 1, 15, 3));
        subject.metadata(2, &seen);
        let heard = subject.replica.leader().unwrap().durable_end_of(2);
        assert_eq!(heard, kept.then_some(15), "{name}");
    }
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(2, 1, 15, 3));
    subject.metadata(2, &readded(false, life(2), &[0, 1]));
    let mut again = readded(true, life(2), &[0, 1, 2]);
    again.partition.partition_epoch = 10;
    again.version += 1;
    subject.metadata(3, &again);
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(2), None);
    // It goes on being added: what it tells now counts.
    subject.fetch(4, request(2, 1, 15, 3));
    again.version += 1;
    again.partition.partition_epoch = 11;
    subject.metadata(5, &again);
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(2), Some(15));
}

#[test]
fn a_replica_that_is_gone_serves_nothing_and_may_come_back() {
    let mut subject = Subject::following();
    let mut partition = record(Some(1), 5, 8, &[1]);
    partition.replicas = vec![1, 2];
    let out = subject.metadata(1, &view_of(partition));
    assert_eq!(out, [Effect::GoOffline(OfflineReason::NotAReplica)]);
    assert_eq!(subject.step(2, Event::Tick), []);
    let out = subject.metadata(3, &view(Some(1), 5, 9, &[1]));
    assert_eq!(
        out[0],
        Effect::BecameFollower {
            leader: Some(1),
            leader_epoch: 5
        }
    );
    assert_eq!(out.len(), 2);
}

/// The volume was restored from an older image of the same life.
#[test]
fn who_lacks_committed_records_does_not_lead() {
    let called = |offset| {
        let mut seen = view(Some(0), 5, 7, &[0]);
        seen.partition.floor = floor(offset, 4);
        seen
    };
    let mut subject = Subject::new();
    subject.metadata(0, &called(20));
    assert!(subject.replica.leader().is_some());
    let mut subject = Subject::new();
    assert_eq!(
        subject.metadata(0, &called(21)),
        [
            Effect::Alarm(Alarm::LogBelowFloor {
                log_end: 20,
                floor: floor(21, 4)
            }),
            Effect::GoOffline(OfflineReason::BelowFloor),
        ]
    );
    // It can still refill from another.
    subject.metadata(1, &view(Some(1), 6, 8, &[1]));
    assert_eq!(subject.replica.following(), Some(Some(1)));
}

#[test]
fn what_the_metadata_says_of_brokers_is_taken_with_an_old_record_too() {
    let mut subject = Subject::leading(&[0, 1]);
    let partition = record(Some(0), 5, 8, &[0, 1]);
    subject.metadata(1, &view_of(partition));
    let mut seen = view(Some(0), 5, 7, &[0, 1]);
    seen.version = 85;
    seen.brokers[2].broker_epoch = 300;
    subject.metadata(2, &seen);
    let reborn = FetchRequest {
        broker_epoch: 300,
        ..request(2, 1, 20, 3)
    };
    assert_eq!(proposals(&subject.fetch(3, reborn)).len(), 1);
}
