//! What a follower's fetch does at the leader, and how the high watermark moves.

use super::harness::{Subject, life, members, proposals, request, view};
use crate::partition::{
    Alarm, Effect, EpochEnd, Event, FetchRefusal as R, FetchRequest, FetchVerdict, LogPositions, epochs::tests::Table,
};

fn refused(refusal: R) -> FetchVerdict {
    FetchVerdict::Refused(refusal)
}

#[test]
fn a_new_leader_notes_its_epoch_and_waits_for_its_followers() {
    let mut subject = Subject::new();
    let out = subject.metadata(0, &view(Some(0), 5, 7, &[0, 1, 2]));
    assert_eq!(
        out,
        [
            Effect::AssignEpoch {
                leader_epoch: 5,
                start_offset: 20
            },
            Effect::BecameLeader {
                leader_epoch: 5,
                epoch_start: 20
            },
        ]
    );
    assert_eq!(subject.replica.high_watermark(), 10);
}

#[test]
fn an_unflushed_tail_is_flushed_at_once_by_a_new_leader() {
    let mut subject = Subject::with_log(&Table::new(&[(3, 0)], 20), 15, 10);
    let out = subject.metadata(0, &view(Some(0), 5, 7, &[0]));
    assert!(out.contains(&Effect::Flush), "{out:?}");
}

/// Nothing is appended in the new epoch, and still its end gets known (KIP-207).
#[test]
fn an_idle_partitions_watermark_reaches_the_epochs_start() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    assert!(subject.fetch(1, request(1, 1, 20, 3)).len() == 1);
    let out = subject.fetch(2, request(2, 1, 20, 3));
    assert_eq!(out[0], Effect::HighWatermark(20));
    assert_eq!(
        out[1],
        Effect::AnswerFetch {
            replica: 2,
            sequence: 1,
            verdict: FetchVerdict::Serve {
                up_to: 20,
                high_watermark: 20,
                log_start: 0,
                at_once: true
            }
        }
    );
    // With the watermark known there is nothing to tell any more.
    let idle = FetchRequest {
        high_watermark: 20,
        ..request(2, 2, 20, 3)
    };
    assert_eq!(
        subject.verdict(3, idle),
        FetchVerdict::Serve {
            up_to: 20,
            high_watermark: 20,
            log_start: 0,
            at_once: false
        }
    );
}

#[test]
fn each_wrong_field_of_a_fetch_is_refused_in_order() {
    let sound = request(1, 1, 20, 3);
    let out_of_range = |offset| R::OffsetOutOfRange {
        offset,
        log_start: 4,
        log_end: 20,
    };
    let cases = [
        (
            "an older epoch, before all else",
            FetchRequest {
                leader_epoch: 4,
                replica: 9,
                ..sound
            },
            R::FencedLeaderEpoch {
                requested: 4,
                current: 5,
            },
        ),
        (
            "a newer epoch",
            FetchRequest {
                leader_epoch: 6,
                broker_epoch: 1,
                ..sound
            },
            R::UnknownLeaderEpoch {
                requested: 6,
                current: 5,
            },
        ),
        (
            "a stranger",
            FetchRequest { replica: 9, ..sound },
            R::NotAReplica { replica: 9 },
        ),
        (
            "the leader itself",
            FetchRequest { replica: 0, ..sound },
            R::NotAReplica { replica: 0 },
        ),
        (
            "an earlier life, before the offset",
            FetchRequest {
                broker_epoch: life(1) - 1,
                offset: 0,
                ..sound
            },
            R::StaleBrokerEpoch {
                requested: life(1) - 1,
                current: life(1),
            },
        ),
        (
            "a later life",
            FetchRequest {
                broker_epoch: life(1) + 1,
                ..sound
            },
            R::UnknownBrokerEpoch {
                requested: life(1) + 1,
                current: life(1),
            },
        ),
        (
            "below the log start although it diverges too",
            FetchRequest {
                offset: 3,
                last_fetched_epoch: Some(2),
                ..sound
            },
            out_of_range(3),
        ),
        (
            "with all its records deleted here",
            FetchRequest {
                offset: 4,
                last_fetched_epoch: Some(2),
                ..sound
            },
            out_of_range(4),
        ),
        (
            "negative",
            FetchRequest {
                offset: i64::MIN,
                ..sound
            },
            out_of_range(i64::MIN),
        ),
        (
            "empty, above the end",
            FetchRequest {
                offset: 21,
                last_fetched_epoch: None,
                ..sound
            },
            out_of_range(21),
        ),
        (
            "a record of the future",
            FetchRequest {
                last_fetched_epoch: Some(6),
                ..sound
            },
            R::UnknownRecordEpoch {
                requested: 6,
                current: 5,
            },
        ),
    ];
    for (name, request, expected) in cases {
        let mut subject = Subject::leading(&[0, 1, 2]);
        subject.step(0, Event::LogStartMoved { log_start: 4 });
        let before = subject.replica.leader().unwrap().durable_end_of(1);
        assert_eq!(subject.verdict(1, request), refused(expected), "{name}");
        assert_eq!(
            subject.replica.leader().unwrap().durable_end_of(1),
            before,
            "{name}: no trace"
        );
    }
    let mut subject = Subject::leading(&[0, 1, 2]);
    assert!(matches!(subject.verdict(1, sound), FetchVerdict::Serve { .. }));
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(1), Some(20));
}

/// Who ends where the leader's log begins has nothing that could be compared, and forgets the producers if it begins
/// anew.
#[test]
fn who_was_equal_before_the_records_were_deleted_goes_on() {
    let moved_to = |subject: &mut Subject, log_start| subject.step(0, Event::LogStartMoved { log_start });
    let out_of_range = |offset| {
        refused(R::OffsetOutOfRange {
            offset,
            log_start: offset,
            log_end: 20,
        })
    };
    let serves = |verdict| matches!(verdict, FetchVerdict::Serve { .. });
    // Found equal in this epoch, before.
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 20, 3));
    moved_to(&mut subject, 20);
    assert!(serves(subject.verdict(2, request(1, 2, 20, 3))));
    assert_eq!(
        subject.verdict(3, request(2, 1, 20, 3)),
        out_of_range(20),
        "not heard of"
    );
    let own_epoch = FetchRequest {
        last_fetched_epoch: Some(5),
        ..request(2, 2, 20, 3)
    };
    assert!(
        serves(subject.verdict(4, own_epoch)),
        "all of that epoch is this leader's"
    );
    // Only up to there.
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 15, 3));
    moved_to(&mut subject, 20);
    assert_eq!(subject.verdict(2, request(1, 2, 20, 3)), out_of_range(20));
    // An epoch of which records are left.
    let mut subject = Subject::leading(&[0, 1, 2]);
    moved_to(&mut subject, 10);
    assert!(serves(subject.verdict(1, request(1, 1, 10, 3))));
    assert_eq!(subject.verdict(2, request(2, 1, 10, 2)), out_of_range(10));
}

#[test]
fn a_diverged_fetch_leaves_no_trace() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 15, 3));
    let before = subject.replica.clone();
    let verdict = subject.verdict(
        20_000,
        FetchRequest {
            last_fetched_epoch: Some(4),
            ..request(1, 2, 25, 4)
        },
    );
    assert_eq!(
        verdict,
        FetchVerdict::Diverged(EpochEnd {
            epoch: 3,
            end_offset: 20
        })
    );
    assert_eq!(subject.replica, before, "neither its end nor its time (KAFKA-13141)");
}

#[test]
fn only_what_is_on_the_followers_disk_counts() {
    let mut subject = Subject::leading(&[0, 1]);
    let written = FetchRequest {
        durable_end: 13,
        ..request(1, 1, 20, 3)
    };
    assert!(subject.fetch(1, written).contains(&Effect::HighWatermark(13)));
    let told = FetchRequest {
        durable_end: 20,
        ..request(1, 2, 20, 3)
    };
    let out = subject.step(2, Event::ReplicaAcknowledged(told));
    assert_eq!(out, [Effect::HighWatermark(20)], "an acknowledgement gets no answer");
    // And no more than was compared with this log.
    let mut subject = Subject::leading(&[0, 1]);
    let boastful = FetchRequest {
        durable_end: 1000,
        ..request(1, 1, 15, 3)
    };
    assert!(subject.fetch(1, boastful).contains(&Effect::HighWatermark(15)));
}

#[test]
fn the_leaders_own_unflushed_tail_does_not_count() {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 1, 20, 3));
    subject.table.append(5);
    assert_eq!(subject.step(2, Event::Appended { log_end: 21 }), []);
    assert_eq!(subject.fetch(3, request(1, 2, 21, 5)).len(), 1);
    assert_eq!(subject.replica.high_watermark(), 20);
    assert_eq!(subject.flushed(4, 21), [Effect::HighWatermark(21)]);
}

#[test]
fn a_late_or_repeated_request_counts_for_nothing_and_is_no_loss() {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 5, 18, 3));
    let before = subject.replica.clone();
    for sequence in [3, 5] {
        let out = subject.fetch(2, request(1, sequence, 12, 3));
        assert!(
            matches!(
                out[..],
                [Effect::AnswerFetch {
                    verdict: FetchVerdict::Serve { .. },
                    ..
                }]
            ),
            "{out:?}"
        );
        assert_eq!(subject.replica, before);
    }
}

#[test]
fn a_follower_that_falls_below_what_it_acknowledged_is_out() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(2, 1, 20, 3));
    subject.fetch(1, request(1, 1, 18, 3));
    assert_eq!(subject.replica.high_watermark(), 18);
    let out = subject.fetch(2, request(1, 2, 17, 3));
    assert_eq!(
        out[0],
        Effect::Alarm(Alarm::ReplicaLostData {
            replica: 1,
            acknowledged: 18,
            offset: 17
        })
    );
    let proposal = proposals(&out).remove(0);
    assert_eq!(members(&proposal), [0, 2]);
    // It refills, but counts neither for the watermark nor as in sync.
    subject.produce(3, 5);
    assert_eq!(proposals(&subject.fetch(4, request(1, 3, 25, 5))), []);
    subject.fetch(4, request(2, 2, 25, 5));
    assert_eq!(subject.replica.high_watermark(), 18, "the shrink is not confirmed");
    // Confirmed: the others commit.
    let mut smaller = view(Some(0), 5, 8, &[0, 2]);
    assert!(subject.metadata(5, &smaller).contains(&Effect::HighWatermark(25)));
    assert_eq!(proposals(&subject.fetch(6, request(1, 4, 25, 5))), []);
    // Another epoch of the same leader does not forget it; another life of the follower does.
    smaller = view(Some(0), 6, 9, &[0, 2]);
    subject.metadata(7, &smaller);
    let again = |sequence, broker_epoch| FetchRequest {
        leader_epoch: 6,
        broker_epoch,
        ..request(1, sequence, 25, 5)
    };
    assert_eq!(proposals(&subject.fetch(8, again(5, life(1)))), []);
    smaller.version += 1;
    smaller.brokers[1].broker_epoch = 200;
    subject.metadata(9, &smaller);
    assert_eq!(members(&proposals(&subject.fetch(10, again(1, 200)))[0]), [0, 1, 2]);
}

#[test]
fn a_followers_new_life_counts_for_nothing_before_the_metadata_knows_it() {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 1, 15, 3));
    subject.produce(1, 5);
    let reborn = FetchRequest {
        broker_epoch: 500,
        ..request(1, 1, 25, 5)
    };
    assert!(matches!(
        subject.verdict(2, reborn),
        FetchVerdict::Refused(R::UnknownBrokerEpoch { .. })
    ));
    assert_eq!(subject.replica.high_watermark(), 15);
    // Nor does what its former life had acknowledged.
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(1), None);
    let mut known = view(Some(0), 5, 7, &[0, 1]);
    known.brokers[1].broker_epoch = 500;
    subject.metadata(3, &known);
    assert!(subject.fetch(4, reborn).contains(&Effect::HighWatermark(25)));
}

#[test]
fn the_watermark_stands_while_too_few_are_in_sync() {
    let mut subject = Subject::leading(&[0]);
    assert_eq!(subject.produce(1, 5), []);
    assert!(subject.replica.check_append(Some(5), true).is_err());
    assert_eq!(subject.replica.check_append(Some(5), false), Ok(5));
    let mut lowered = view(Some(0), 5, 7, &[0]);
    lowered.required = 1;
    assert_eq!(subject.metadata(2, &lowered), [Effect::HighWatermark(25)]);
    assert_eq!(subject.replica.check_append(Some(5), true), Ok(5));
}

#[test]
fn a_caught_up_replica_that_is_about_to_join_is_waited_for_and_no_other() {
    // Broker 2 is caught up but its joining is refused for the time being.
    let start = |fenced: bool| {
        let mut subject = Subject::new();
        let mut seen = view(Some(0), 5, 7, &[0, 1]);
        seen.brokers[2].fenced = fenced;
        subject.metadata(0, &seen);
        subject.fetch(1, request(2, 1, 20, 3));
        subject.fetch(1, request(1, 1, 20, 3));
        subject.produce(2, 5);
        subject
    };
    let mut waits = start(false);
    assert_eq!(waits.fetch(3, request(1, 2, 25, 5)).len(), 1);
    assert_eq!(waits.replica.high_watermark(), 20);
    let mut fenced = start(true);
    assert!(
        fenced
            .fetch(3, request(1, 2, 25, 5))
            .contains(&Effect::HighWatermark(25))
    );
}

#[test]
fn who_is_no_member_and_falls_behind_is_not_waited_for() {
    let mut subject = Subject::leading(&[0, 1]);
    // Below the epoch's start: caught up with nothing, so it does not join.
    subject.fetch(1, request(1, 1, 20, 3));
    subject.fetch(1, request(2, 1, 19, 3));
    assert_eq!(subject.replica.high_watermark(), 20);
    subject.produce(2, 5);
    assert!(
        subject
            .fetch(3, request(1, 2, 25, 5))
            .contains(&Effect::HighWatermark(25))
    );
}

#[test]
fn a_flush_that_began_before_a_cut_counts_for_nothing() {
    let mut subject = Subject::following();
    let generation = subject.replica.generation();
    let before = subject.replica.log();
    let truncated = Event::Truncated {
        log_start: 0,
        log_end: 15,
    };
    subject.table.truncate(15);
    subject.step(1, truncated);
    subject.step(2, Event::Appended { log_end: 20 });
    subject.step(
        3,
        Event::Flushed {
            durable_end: 20,
            generation,
        },
    );
    assert_eq!(before.durable_end, 20);
    assert_eq!(
        subject.replica.log(),
        LogPositions {
            start: 0,
            durable_end: 15,
            end: 20
        }
    );
    assert_ne!(subject.replica.generation(), generation);
}

/// Until then a failover could show them again.
#[test]
fn records_are_deleted_once_all_in_sync_replicas_have_told_so() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    let below = |subject: &Subject| subject.replica.as_leader().unwrap().in_sync_below(7);
    assert_eq!(below(&subject), [1, 2], "neither was heard");
    subject.fetch(1, request(1, 1, 20, 3));
    subject.fetch(2, request(2, 1, 20, 3));
    assert_eq!(below(&subject), [1, 2]);
    let deleted = |replica, sequence| FetchRequest {
        log_start: 7,
        ..request(replica, sequence, 20, 3)
    };
    subject.fetch(3, deleted(1, 2));
    assert_eq!(below(&subject), [2]);
    subject.fetch(4, deleted(2, 2));
    assert!(below(&subject).is_empty());
    // One that is not in sync is not waited for.
    let subject = Subject::leading(&[0, 1]);
    assert_eq!(below(&subject), [1]);
}
