//! What a follower asks for, and what it does with answers.

use super::harness::{Subject, floor, life, ms, record, request, view, view_of};
use crate::partition::{
    Alarm, Effect, EpochEnd, Event, FetchBound, FetchOutcome, FetchRefusal, FetchReply, FetchRequest, FetchedBatch,
    LogPositions, OfflineReason, ReplicaError, epochs::tests::Table,
};

fn batch(base_offset: i64, next_offset: i64, leader_epoch: i32) -> FetchedBatch {
    FetchedBatch {
        base_offset,
        next_offset,
        leader_epoch,
    }
}

fn records(batches: &[FetchedBatch]) -> FetchOutcome<'_> {
    FetchOutcome::Records {
        batches,
        high_watermark: 18,
        log_start: 3,
    }
}

fn diverged(epoch: i32, end_offset: i64) -> FetchOutcome<'static> {
    FetchOutcome::Diverged(EpochEnd { epoch, end_offset })
}

fn out_of_range(log_start: i64) -> FetchOutcome<'static> {
    FetchOutcome::Refused(FetchRefusal::OffsetOutOfRange {
        offset: 20,
        log_start,
        log_end: 100,
    })
}

fn fetches(out: &[Effect]) -> Vec<FetchRequest> {
    out.iter()
        .filter_map(|effect| match effect {
            Effect::Fetch { request, .. } => Some(*request),
            _ => None,
        })
        .collect()
}

/// What each field of a fetch says (KIP-595, KIP-903).
#[test]
fn a_follower_fetches_from_its_log_end() {
    let mut subject = Subject::with_log(&Table::new(&[(1, 2), (3, 9)], 20), 17, 10);
    let out = subject.metadata(0, &view(Some(1), 5, 7, &[0, 1, 2]));
    assert_eq!(
        out,
        [
            Effect::BecameFollower {
                leader: Some(1),
                leader_epoch: 5
            },
            Effect::Fetch {
                to: 1,
                request: FetchRequest {
                    replica: 0,
                    broker_epoch: life(0),
                    leader_epoch: 5,
                    sequence: 1,
                    offset: 20,
                    last_fetched_epoch: Some(3),
                    durable_end: 17,
                    log_start: 2,
                    high_watermark: 10,
                }
            },
        ]
    );
    assert_eq!(subject.step(1, Event::Tick), [], "one at a time");
}

#[test]
fn records_are_appended_then_told_of_then_more_is_fetched() {
    let mut subject = Subject::following();
    let batches = [batch(20, 22, 3), batch(22, 25, 5)];
    let out = subject.reply(1, 1, records(&batches));
    assert_eq!(
        out,
        [Effect::Append {
            next_offset: 25,
            leader_epoch: 5
        }]
    );
    subject.table.append(3);
    subject.table.append(3);
    subject.table.append(5);
    subject.table.append(5);
    subject.table.append(5);
    let out = subject.step(2, Event::Appended { log_end: 25 });
    assert_eq!(out[0], Effect::HighWatermark(18));
    assert_eq!(out[1], Effect::AdvanceLogStart { to: 3 });
    let next = fetches(&out).remove(0);
    assert_eq!(
        (next.offset, next.durable_end, next.last_fetched_epoch),
        (25, 20, Some(5))
    );
    // The flush is told at once, for the fetch waits at the leader.
    let out = subject.flushed(3, 25);
    let told = FetchRequest {
        sequence: 3,
        durable_end: 25,
        ..next
    };
    assert_eq!(out, [Effect::Acknowledge { to: 1, request: told }]);
    assert_eq!(subject.flushed(4, 25), []);
    // The answer to the fetch is still wanted.
    assert_eq!(fetches(&subject.reply(5, 2, records(&[]))).len(), 1);
}

#[test]
fn the_watermark_is_bounded_by_the_own_log_and_never_falls() {
    let mut subject = Subject::following();
    let hw = |high_watermark| FetchOutcome::Records {
        batches: &[],
        high_watermark,
        log_start: 0,
    };
    assert_eq!(subject.reply(1, 1, hw(90))[0], Effect::HighWatermark(20));
    // A new leader's lags.
    let out = subject.reply(2, 2, hw(5));
    assert!(fetches(&out).len() == 1 && out.len() == 1, "{out:?}");
    assert_eq!(subject.replica.high_watermark(), 20);
}

#[test]
fn an_answer_is_used_only_if_nothing_has_changed_since_it_was_asked_for() {
    let batches = [batch(20, 22, 5)];
    let reply = FetchReply {
        from: 1,
        leader_epoch: 5,
        sequence: 1,
        outcome: records(&batches),
    };
    let append = |out: &[Effect]| out.iter().any(|effect| matches!(effect, Effect::Append { .. }));
    let answered = |subject: &mut Subject, reply| append(&subject.step(9, Event::FetchAnswered(reply)));
    assert!(answered(&mut Subject::following(), reply));
    for (name, changed) in [
        ("from another broker", FetchReply { from: 2, ..reply }),
        (
            "of another epoch",
            FetchReply {
                leader_epoch: 4,
                ..reply
            },
        ),
        ("of another request", FetchReply { sequence: 2, ..reply }),
    ] {
        assert!(!answered(&mut Subject::following(), changed), "{name}");
    }
    // The leader epoch has risen, with the same leader.
    let mut subject = Subject::following();
    subject.metadata(1, &view(Some(1), 6, 8, &[0, 1, 2]));
    assert!(!answered(&mut subject, reply));
    assert!(!answered(
        &mut subject,
        FetchReply {
            leader_epoch: 6,
            ..reply
        }
    ));
    // This broker leads by now.
    let mut subject = Subject::following();
    subject.metadata(1, &view(Some(0), 6, 8, &[0, 1, 2]));
    assert!(!answered(&mut subject, reply));
    // A producer's append that had begun before this broker followed: asked again.
    let mut subject = Subject::following();
    subject.table.append(3);
    subject.step(1, Event::Appended { log_end: 21 });
    let out = subject.step(2, Event::FetchAnswered(reply));
    assert!(!append(&out));
    assert_eq!(fetches(&out)[0].offset, 21);
    // Cut and grown to the same end in between (KAFKA-13207).
    let mut subject = Subject::following();
    subject.reply(1, 1, diverged(3, 18));
    subject.table.truncate(18);
    subject.step(
        2,
        Event::Truncated {
            log_start: 0,
            log_end: 18,
        },
    );
    let other = [batch(18, 20, 4)];
    subject.reply(3, 2, records(&other));
    subject.table.append(4);
    subject.table.append(4);
    subject.step(4, Event::Appended { log_end: 20 });
    assert!(!answered(&mut subject, reply), "late");
    assert!(answered(&mut subject, FetchReply { sequence: 3, ..reply }));
}

#[test]
fn batches_must_follow_the_log() {
    let cases: [(&str, &[FetchedBatch], bool); 9] = [
        ("in order", &[batch(20, 22, 3), batch(22, 23, 4)], true),
        (
            "with a gap that compaction left",
            &[batch(25, 26, 5), batch(30, 40, 5)],
            true,
        ),
        ("overlapping the log", &[batch(19, 21, 5)], false),
        ("within the log", &[batch(10, 12, 5)], false),
        ("overlapping each other", &[batch(20, 25, 5), batch(24, 26, 5)], false),
        ("empty", &[batch(20, 20, 5)], false),
        ("of an epoch below the log's last", &[batch(20, 21, 2)], false),
        ("of falling epochs", &[batch(20, 21, 5), batch(21, 22, 4)], false),
        (
            "of an epoch above the fetch's (KAFKA-18723)",
            &[batch(20, 21, 6)],
            false,
        ),
    ];
    for (name, batches, good) in cases {
        let mut subject = Subject::following();
        let out = subject.reply(1, 1, records(batches));
        assert_eq!(matches!(out[0], Effect::Append { .. }), good, "{name}: {out:?}");
        if !good {
            assert!(matches!(
                out[..],
                [Effect::Alarm(Alarm::InvalidAnswer { leader: 1, .. })]
            ));
            assert_eq!(subject.replica.high_watermark(), 10, "{name}: nothing else is believed");
            assert_eq!(subject.replica.next_deadline(), Some(ms(51)));
            assert_eq!(fetches(&subject.step(51, Event::Tick)).len(), 1);
        }
    }
    // An empty log may begin within a batch.
    let mut subject = Subject::with_log(
        &Table {
            start: 7,
            end: 7,
            ..Table::default()
        },
        7,
        7,
    );
    subject.metadata(0, &view(Some(1), 5, 7, &[1]));
    assert_eq!(
        subject.reply(1, 1, records(&[batch(5, 9, 5)])),
        [Effect::Append {
            next_offset: 9,
            leader_epoch: 5
        }]
    );
}

/// KIP-279: the leader never had the epoch, and several rounds find the common part.
#[test]
fn divergence_cuts_and_takes_over_nothing_else() {
    let table = Table::new(&[(1, 0), (2, 10), (4, 15)], 20);
    let mut subject = Subject::with_log(&table, 20, 5);
    subject.metadata(0, &view(Some(1), 5, 7, &[1]));
    assert_eq!(subject.reply(1, 1, diverged(3, 17)), [Effect::Truncate { to: 15 }]);
    assert_eq!(subject.step(1, Event::Tick), [], "not before it is done");
    subject.table.truncate(15);
    let out = subject.step(
        2,
        Event::Truncated {
            log_start: 0,
            log_end: 15,
        },
    );
    let next = fetches(&out).remove(0);
    assert_eq!(
        (next.offset, next.durable_end, next.last_fetched_epoch),
        (15, 15, Some(2))
    );
    assert_eq!(subject.reply(3, 2, diverged(1, 12)), [Effect::Truncate { to: 10 }]);
    assert_eq!(subject.replica.high_watermark(), 5);
}

#[test]
fn an_epoch_that_wrote_nothing_is_forgotten_before_anything_is_fetched() {
    let mut subject = Subject::leading(&[0, 1]);
    let out = subject.metadata(1, &view(Some(1), 6, 8, &[1]));
    assert_eq!(out[2..], [Effect::Truncate { to: 20 }]);
    subject.table.truncate(20);
    let out = subject.step(
        2,
        Event::Truncated {
            log_start: 0,
            log_end: 20,
        },
    );
    assert_eq!(fetches(&out)[0].last_fetched_epoch, Some(3));
    // Records of an epoch between the last record's and the empty one.
    let batches = [batch(20, 21, 4)];
    let reply = FetchReply {
        from: 1,
        leader_epoch: 6,
        sequence: 1,
        outcome: records(&batches),
    };
    let out = subject.step(3, Event::FetchAnswered(reply));
    assert!(matches!(out[..], [Effect::Append { next_offset: 21, .. }]));
    subject.table.append(4);
}

#[test]
fn a_divergence_that_cuts_nothing_is_no_divergence() {
    for outcome in [diverged(3, 20), diverged(4, 10), diverged(3, -1)] {
        let mut subject = Subject::following();
        let out = subject.reply(1, 1, outcome);
        assert!(
            matches!(out[..], [Effect::Alarm(Alarm::InvalidAnswer { .. })]),
            "{outcome:?} {out:?}"
        );
    }
}

#[test]
fn a_follower_below_the_leaders_start_begins_anew_there() {
    let mut subject = Subject::following();
    assert_eq!(
        subject.reply(1, 1, out_of_range(50)),
        [Effect::TruncateFully { start: 50 }]
    );
    subject.table = Table {
        start: 50,
        end: 50,
        ..Table::default()
    };
    let out = subject.step(
        2,
        Event::Truncated {
            log_start: 50,
            log_end: 50,
        },
    );
    let next = fetches(&out).remove(0);
    assert_eq!((next.offset, next.last_fetched_epoch, next.log_start), (50, None, 50));
    assert_eq!(subject.replica.high_watermark(), 50);
    // The leader's log begins where this one ends: nothing of it can be compared.
    let out = Subject::following().reply(1, 1, out_of_range(20));
    assert_eq!(out, [Effect::TruncateFully { start: 20 }]);
    // Within the leader's log an offset can't be out of range.
    for log_start in [0, 19, -5] {
        let mut subject = Subject::following();
        let out = subject.reply(1, 1, out_of_range(log_start));
        assert!(
            matches!(out[..], [Effect::Alarm(Alarm::InvalidAnswer { .. })]),
            "{log_start}"
        );
    }
}

/// A leader with an older image of its disk asks good followers to cut.
#[test]
fn what_is_known_to_be_committed_is_not_cut() {
    let with_floor = |offset, leader_epoch| {
        let mut seen = view(Some(1), 5, 7, &[0, 1, 2]);
        seen.partition.floor = floor(offset, leader_epoch);
        seen
    };
    let cut = |table: &Table, seen| {
        let mut subject = Subject::with_log(table, 20, 5);
        subject.metadata(0, &seen);
        let out = subject.reply(1, 1, diverged(1, 8));
        (subject, out)
    };
    let table = Table::new(&[(1, 0), (3, 12)], 20);
    // Its last record is of the floor's epoch or later: it holds all below the floor.
    for leader_epoch in [2, 3] {
        let (mut subject, out) = cut(&table, with_floor(20, leader_epoch));
        assert_eq!(
            out,
            [
                Effect::Alarm(Alarm::CutBelowFloor {
                    leader: 1,
                    to: 8,
                    floor: floor(20, leader_epoch)
                }),
                Effect::GoOffline(OfflineReason::CommittedAtRisk),
            ]
        );
        // Later versions of the same leadership change nothing; another leader frees it, and it
        // may be this very broker.
        let mut later = with_floor(20, leader_epoch);
        later.partition.partition_epoch = 8;
        later.version += 1;
        assert_eq!(subject.metadata(1, &later), []);
        subject.metadata(2, &view(Some(0), 6, 9, &[0]));
        assert!(subject.replica.leader().is_some());
    }
    // Records of an earlier epoch may have been replaced: they are cut, below the floor or not.
    for seen in [with_floor(20, 4), with_floor(8, 3), with_floor(21, 3)] {
        assert_eq!(cut(&table, seen).1, [Effect::Truncate { to: 8 }]);
    }
    // After an unclean election the old floor binds nobody.
    let mut unclean = with_floor(20, 3);
    unclean.partition.recovering = true;
    assert_eq!(cut(&table, unclean).1, [Effect::Truncate { to: 8 }]);
    // Found equal to the log of the floor's epoch, though its records are older.
    let (mut subject, seen) = (Subject::with_log(&table, 20, 5), with_floor(0, 0));
    subject.metadata(0, &seen);
    subject.reply(1, 1, records(&[]));
    let mut next = view(Some(2), 6, 8, &[0, 1, 2]);
    next.partition.floor = floor(20, 5);
    subject.metadata(2, &next);
    let reply = FetchReply {
        from: 2,
        leader_epoch: 6,
        sequence: 3,
        outcome: diverged(1, 8),
    };
    let out = subject.step(3, Event::FetchAnswered(reply));
    assert_eq!(out[1], Effect::GoOffline(OfflineReason::CommittedAtRisk));
}

#[test]
fn cutting_what_was_readable_is_told() {
    let mut subject = Subject::following();
    let out = subject.reply(1, 1, diverged(3, 8));
    assert_eq!(
        out,
        [
            Effect::Alarm(Alarm::CutBelowHighWatermark {
                to: 8,
                high_watermark: 10
            }),
            Effect::Truncate { to: 8 },
        ]
    );
    subject.table.truncate(8);
    subject.step(
        2,
        Event::Truncated {
            log_start: 0,
            log_end: 8,
        },
    );
    assert_eq!(subject.replica.high_watermark(), 8);
}

#[test]
fn damaged_batches_are_fetched_again_and_twice_is_an_alarm() {
    let mut subject = Subject::following();
    let batches = [batch(20, 22, 5)];
    for attempt in 1..=3 {
        let at = attempt * 100;
        subject.step(at, Event::Tick);
        let sent = subject.replica.sequence;
        subject.reply(at, sent, records(&batches));
        let out = subject.step(at, Event::LogRefused { damaged: true });
        let alarm = Effect::Alarm(Alarm::SuspectLeader { leader: 1, offset: 20 });
        assert_eq!(out, if attempt == 2 { vec![alarm] } else { vec![] }, "{attempt}");
    }
    assert_eq!(subject.replica.high_watermark(), 10);
}

#[test]
fn refusals_and_lost_calls_are_tried_again_after_a_while() {
    for outcome in [
        FetchOutcome::Failed,
        FetchOutcome::Refused(FetchRefusal::NotAReplica { replica: 0 }),
    ] {
        let mut subject = Subject::following();
        assert_eq!(subject.reply(10, 1, outcome), []);
        assert_eq!(subject.replica.next_deadline(), Some(ms(60)));
        assert_eq!(subject.step(59, Event::Tick), []);
        assert_eq!(fetches(&subject.step(60, Event::Tick)).len(), 1);
    }
    // An answer that never comes.
    let mut subject = Subject::following();
    assert_eq!(subject.replica.next_deadline(), Some(ms(5000)));
    assert_eq!(subject.step(4999, Event::Tick), []);
    assert_eq!(fetches(&subject.step(5000, Event::Tick))[0].sequence, 2);
}

#[test]
fn metadata_waits_while_the_log_is_at_work() {
    let mut subject = Subject::following();
    let batches = [batch(20, 22, 5)];
    subject.reply(1, 1, records(&batches));
    assert_eq!(subject.metadata(2, &view(Some(0), 6, 8, &[0, 1])), []);
    assert_eq!(subject.metadata(3, &view(Some(0), 7, 9, &[0])), []);
    subject.table.append(5);
    subject.table.append(5);
    let out = subject.step(4, Event::Appended { log_end: 22 });
    assert!(out.contains(&Effect::BecameLeader {
        leader_epoch: 7,
        epoch_start: 22
    }));
    assert_eq!(fetches(&out), []);
}

#[test]
fn a_failed_directory_is_the_end_of_it() {
    let mut subject = Subject::leading(&[0, 1]);
    let out = subject.step(1, Event::DirectoryFailed);
    assert_eq!(
        out,
        [
            Effect::FailWaiters(crate::partition::WaiterFailure::Offline),
            Effect::GoOffline(OfflineReason::DirectoryFailed),
        ]
    );
    assert_eq!(subject.metadata(2, &view(Some(0), 6, 8, &[0])), []);
    assert_eq!(subject.flushed(3, 20), []);
    assert!(matches!(
        subject.verdict(4, request(1, 1, 20, 3)),
        crate::partition::FetchVerdict::Refused(FetchRefusal::NotLeader { leader: None, .. })
    ));
    assert_eq!(subject.replica.next_deadline(), None);
}

#[test]
fn readers_at_a_follower_see_what_is_committed_and_keep_their_position() {
    let mut subject = Subject::following();
    subject.step(1, Event::LogStartMoved { log_start: 2 });
    let read = |offset| subject.replica.check_read(offset, Some(5), i64::MAX);
    assert_eq!(read(2), Ok(FetchBound::UpTo(10)));
    assert_eq!(read(10), Ok(FetchBound::Nothing));
    for offset in [1, 11, 500] {
        assert_eq!(read(offset), Err(ReplicaError::AskLeader { offset }));
    }
    assert!(matches!(
        subject.replica.check_read(5, Some(4), i64::MAX),
        Err(ReplicaError::Leader(_))
    ));
    let not_leader = ReplicaError::NotLeader {
        leader: Some(1),
        leader_epoch: 5,
    };
    assert_eq!(subject.replica.check_append(None, true), Err(not_leader));
    assert_eq!(subject.replica.log().end, 20);
}

#[test]
fn a_log_that_grew_out_of_turn_is_where_it_is() {
    let mut subject = Subject::new();
    subject.metadata(0, &view_of(record(None, 5, 7, &[])));
    assert_eq!(subject.step(1, Event::Appended { log_end: 25 }), []);
    assert_eq!(
        subject.replica.log(),
        LogPositions {
            start: 0,
            durable_end: 20,
            end: 25
        }
    );
    assert_eq!(subject.replica.next_deadline(), None, "nobody to fetch from");
}

/// A flush that began before a cut is not believed after it, and perhaps nothing more is written:
/// the leader would wait for this disk until new records come.
#[test]
fn what_a_cut_leaves_unflushed_is_flushed_again() {
    for (cut, flushes) in [(18, true), (16, true), (15, false), (12, false)] {
        let mut subject = Subject::with_log(&Table::new(&[(3, 0)], 20), 15, 10);
        subject.metadata(0, &view(Some(1), 5, 7, &[0, 1, 2]));
        assert_eq!(subject.reply(1, 1, diverged(3, cut)), [Effect::Truncate { to: cut }]);
        subject.table.truncate(cut);
        let began_before = subject.replica.generation();
        let truncated = Event::Truncated {
            log_start: 0,
            log_end: cut,
        };
        let out = subject.step(2, truncated);
        assert_eq!(out.contains(&Effect::Flush), flushes, "{cut}: {out:?}");
        assert_eq!(fetches(&out)[0].durable_end, cut.min(15));
        let late = Event::Flushed {
            durable_end: 20,
            generation: began_before,
        };
        assert_eq!(subject.step(3, late), []);
        let acknowledged = subject.flushed(4, cut);
        assert_eq!(acknowledged.len(), usize::from(flushes), "{acknowledged:?}");
    }
}
