use uuid::Uuid;

use super::{super::*, support::*};

#[test]
fn a_life_begins_fenced_and_catches_up_to_its_own_registration() {
    let mut log = Log::default();
    let epoch = log.begin_life(0, 1, DirectoryReport::default());
    let broker = &log.cluster.brokers[&0];
    assert!(broker.fenced && !broker.proven);
    assert_eq!((epoch, broker.fence_reason), (1, Some(FenceReason::Starting)));
    assert_eq!(broker.internal_address, "10.0.0.0:9651");
    let behind = Command::UnfenceBroker(UnfenceBroker {
        broker_id: 0,
        broker_epoch: 1,
        applied_index: 0,
        log_ends: vec![],
    });
    assert_eq!(
        log.run(&behind),
        Err(UnfenceError::CatchingUp {
            id: 0,
            applied: 0,
            needed: 1
        }
        .into())
    );
    log.unfence(0, &[]);
    assert!(log.cluster.brokers[&0].is_active());
}

#[test]
fn a_repeated_registration_of_one_life_changes_nothing() {
    let mut log = Log::with_partition();
    let before = log.cluster.clone();
    let again = Command::StartBroker(start(0, 1, DirectoryReport::default()));
    assert_eq!(log.ok(&again), Outcome::Registered { broker_epoch: 1 });
    assert_eq!(log.cluster, before);
}

#[test]
fn a_new_life_keeps_no_leadership_and_the_old_life_is_refused() {
    let mut log = Log::with_partition();
    let old = log.epoch(0);
    let epoch = log.restart_clean(0, 2);
    assert!(epoch > old);
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
    assert_eq!(
        (log.partition("t").leader_epoch, log.partition("t").partition_epoch),
        (1, 1)
    );
    let late = Command::FenceBroker {
        broker_id: 0,
        broker_epoch: old,
        reason: FenceReason::LeaseExpired,
    };
    let stale = Rejection::StaleBrokerEpoch { id: 0, current: epoch };
    assert_eq!(log.run(&late), Err(stale));
}

#[test]
fn a_sole_replica_leads_again_under_a_later_leader_epoch() {
    // What a move adds does not count before it has all.
    for (flush, moves_to) in [("ack", None), ("os", None), ("os", Some([0, 1])), ("os", Some([1, 2]))] {
        let mut log = Log::with_brokers(3);
        log.create("t", &[0]);
        log.configure("flush", flush);
        if let Some(target) = moves_to {
            log.reassign(Some(&target)).unwrap();
        }
        let crash = crashed(log.epoch(0));
        log.begin_life(0, 2, crash);
        assert_eq!(log.t(), (None, &[][..], &[0][..], &[][..]), "flush={flush}");
        assert_eq!(log.partition("t").last_known_leader, Some(0));
        log.unfence(0, &[]);
        assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[][..]));
        assert_eq!(log.partition("t").leader_epoch, 2, "flush={flush}, {moves_to:?}");
    }
}

/// The last two in sync fall, 0 last; then 0 begins a new life with `report`.
fn after_restart_of_the_last(flush: &str, report: impl Fn(i64) -> DirectoryReport) -> Log {
    let mut log = Log::with_partition();
    log.configure("flush", flush);
    for id in [2, 1, 0] {
        log.fence(id);
    }
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    let report = report(log.epoch(0));
    log.begin_life(0, 2, report);
    log
}

#[test]
fn an_unclean_life_stays_eligible_only_with_every_proof() {
    let eligible = (None, &[][..], &[1, 0][..], &[][..]);
    let lost = (None, &[][..], &[1][..], &[0][..]);
    type Report = fn(i64) -> DirectoryReport;
    let table: [(&str, Report, _); 9] = [
        ("ack", clean, eligible),
        ("os", clean, eligible),
        ("ack", crashed, eligible),
        // Each proof negated in turn.
        ("os", crashed, lost),
        ("interval", crashed, lost),
        ("ack", |epoch| crashed(epoch - 1), lost),
        (
            "ack",
            |epoch| DirectoryReport {
                last_epoch: None,
                ..crashed(epoch)
            },
            lost,
        ),
        (
            "ack",
            |epoch| DirectoryReport {
                damaged: true,
                ..clean(epoch)
            },
            lost,
        ),
        // A clean stop of an earlier life proves nothing of the last one: the flushed prefix of
        // an image is not that of the disk.
        ("ack", |epoch| clean(epoch - 1), lost),
    ];
    for (row, (flush, report, expected)) in table.into_iter().enumerate() {
        let log = after_restart_of_the_last(flush, report);
        assert_eq!(log.t(), expected, "row {row}");
    }
    let old_clean_file = |epoch: i64| DirectoryReport {
        clean_shutdown_epoch: Some(epoch - 1),
        ..clean(epoch)
    };
    assert_eq!(after_restart_of_the_last("ack", old_clean_file).t(), eligible);
    assert_eq!(after_restart_of_the_last("os", old_clean_file).t(), lost);
}

/// The setting changed while 0 and 2 lived; 1 began its life under it.
#[test]
fn a_life_that_began_before_records_were_flushed_first_proves_nothing_by_that() {
    for by_default in [false, true] {
        let mut log = Log::with_partition();
        for flush in ["os", "ack"] {
            if by_default {
                let set = std::collections::BTreeMap::from([("flush".to_owned(), flush.to_owned())]);
                let change = ConfigChange { set, unset: Vec::new() };
                log.ok(&Command::AlterTopicDefaults { change });
            } else {
                log.configure("flush", flush);
            }
        }
        log.restart_clean(1, 2);
        log.unfence(1, &[]);
        log.set_isr(&[0, 1, 2]);
        for id in [2, 1, 0] {
            log.fence(id);
        }
        assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
        for id in [0, 1] {
            let report = crashed(log.epoch(id));
            log.begin_life(id, 3, report);
        }
        assert_eq!(log.t(), (None, &[][..], &[1][..], &[0][..]), "by default: {by_default}");
    }
}

#[test]
fn a_life_that_never_served_may_have_died_before_it_noted_its_epoch() {
    let mut log = after_restart_of_the_last("ack", crashed);
    let served = log.cluster.brokers[&0].last_served_epoch.unwrap();
    assert!(served < log.epoch(0));
    log.begin_life(0, 3, crashed(served));
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    log.unfence(0, &[]);
    log.fence(0);
    log.begin_life(0, 4, crashed(served));
    assert_eq!(log.t().2, [1]);
}

#[test]
fn a_disk_that_ends_below_what_is_committed_does_not_lead() {
    for (ends, last_epoch, leads) in [
        (Some(100), 0, true),
        (Some(101), 1, true),
        (Some(99), 0, false),
        (Some(100), 9, false),
        (None, 0, false),
    ] {
        let mut log = Log::with_partition();
        log.set_isr_and_floor(&[0, 1], 100);
        log.set_isr_and_floor(&[0], 90);
        assert_eq!(
            log.partition("t").floor,
            CommittedFloor {
                offset: 100,
                leader_epoch: 0
            },
            "a floor never sinks"
        );
        for id in [0, 1, 2] {
            log.fence(id);
        }
        log.restart_clean(1, 2);
        let outcome = log.ok(&Command::UnfenceBroker(UnfenceBroker {
            broker_id: 1,
            broker_epoch: log.epoch(1),
            applied_index: log.next_index(),
            log_ends: ends
                .map(|log_end| TopicLogEnds {
                    topic_id: topic_id("t"),
                    ends: vec![LogEnd {
                        partition: 0,
                        log_end,
                        last_epoch,
                    }],
                })
                .into_iter()
                .collect(),
        }));
        let Outcome::Unfenced { lost } = outcome else {
            panic!("{outcome:?}")
        };
        if leads {
            assert_eq!(log.t(), (Some(1), &[1][..], &[0][..], &[][..]));
            assert!(lost.is_empty());
        } else {
            assert_eq!(log.t(), (None, &[][..], &[0][..], &[1][..]), "{ends:?} {last_epoch}");
            assert_eq!((lost.count, &lost.first[0].partition), (1, &at("t")));
        }
    }
}

#[test]
fn a_lease_that_ends_and_comes_back_needs_no_new_proof() {
    let mut log = Log::with_partition();
    log.set_isr_and_floor(&[0, 1], 100);
    log.fence(1);
    log.fence(0);
    log.unfence(0, &[]);
    assert_eq!(log.t(), (Some(0), &[0][..], &[1][..], &[][..]));
}

#[test]
fn foreign_swapped_and_empty_disks_are_refused() {
    let mut log = Log::with_partition();
    let with = |change: fn(&mut RegisterBroker)| {
        let mut start = start(0, 2, DirectoryReport::default());
        change(&mut start.registration);
        Command::StartBroker(start)
    };
    let foreign = Rejection::OtherCluster {
        expected: "c1".into(),
        found: "c2".into(),
    };
    assert_eq!(log.run(&with(|new| new.cluster_id = "c2".into())), Err(foreign));
    let swapped = Rejection::DirectoryOfOtherBroker {
        directory_id: directory(1),
        owner: 1,
    };
    assert_eq!(log.run(&with(|new| new.directory_id = directory(1))), Err(swapped));
    let empty = Rejection::OtherDirectory {
        id: 0,
        expected: directory(0),
        found: Uuid::from_u128(5),
    };
    assert_eq!(log.run(&with(|new| new.directory_id = Uuid::from_u128(5))), Err(empty));
    // The same incarnation with another disk is no repetition.
    let other_disk = with(|new| {
        new.directory_id = Uuid::from_u128(5);
        new.incarnation = Uuid::from_u128(1);
    });
    assert!(matches!(log.run(&other_disk), Err(Rejection::OtherDirectory { .. })));
    let negative = Command::StartBroker(start(-9, 1, DirectoryReport::default()));
    assert!(matches!(
        log.run(&negative),
        Err(Rejection::Registration(RegistrationError::Invalid { .. }))
    ));
    let endless = with(|new| new.rack = "r".repeat(MAX_TEXT_BYTES + 1));
    assert!(matches!(
        log.run(&endless),
        Err(Rejection::Registration(RegistrationError::Invalid { .. }))
    ));
    let unleased = Command::RegisterBroker(start(0, 2, DirectoryReport::default()).registration);
    assert_eq!(log.run(&unleased), Err(RegistrationError::NeedsLease { id: 0 }.into()));
}

#[test]
fn brokers_are_bounded() {
    let mut log = Log::default();
    for id in 0..MAX_BROKERS as BrokerId {
        log.cluster
            .apply(
                1 + id as u64,
                &Command::StartBroker(start(id, 1, DirectoryReport::default())),
            )
            .unwrap();
    }
    let one_more = Command::StartBroker(start(MAX_BROKERS as BrokerId, 1, DirectoryReport::default()));
    assert_eq!(
        log.cluster.check(&one_more),
        Err(RegistrationError::TooManyBrokers.into())
    );
    // One that is known already may still come back.
    let known = Command::StartBroker(log.start(3, 2, DirectoryReport::default()));
    assert_eq!(log.cluster.check(&known), Ok(()));
}

#[test]
fn a_new_disk_needs_an_operators_word_and_is_nobodys_hope() {
    let mut log = Log::with_partition();
    let replace = |accept_data_loss| Command::ReplaceDirectory {
        broker_id: 0,
        directory: ExpectedDirectory::Id(Uuid::from_u128(5)),
        accept_data_loss,
        only_if_removed: false,
    };
    assert_eq!(log.run(&replace(true)), Err(BrokerError::InService { id: 0 }.into()));
    log.fence(0);
    log.ok(&replace(false));
    let with_disk = |log: &Log, disk: u128, life| {
        let mut start = log.start(0, life, clean(1));
        start.registration.directory_id = Uuid::from_u128(disk);
        Command::StartBroker(start)
    };
    assert!(matches!(
        log.run(&with_disk(&log, 6, 2)),
        Err(Rejection::OtherDirectory { .. })
    ));
    log.ok(&with_disk(&log, 5, 2));
    log.unfence(0, &[]);
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
    log.set_isr(&[0, 1, 2]);
    // The word was for one disk.
    assert!(matches!(
        log.run(&with_disk(&log, 6, 3)),
        Err(Rejection::OtherDirectory { .. })
    ));
    assert!(matches!(
        log.run(&Command::StartBroker(log.start(0, 3, DirectoryReport::default()))),
        Err(Rejection::OtherDirectory { .. })
    ));
}

#[test]
fn a_broker_that_comes_back_with_its_own_disk_ends_the_word_for_another() {
    for expected in [ExpectedDirectory::Any, ExpectedDirectory::Id(Uuid::from_u128(5))] {
        let mut log = Log::with_partition();
        log.fence(2);
        log.ok(&Command::ReplaceDirectory {
            broker_id: 2,
            directory: expected,
            accept_data_loss: false,
            only_if_removed: false,
        });
        // It stood still and goes on in the same life.
        log.unfence(2, &[]);
        // Later its volume is not mounted.
        log.fence(2);
        let mut empty = log.start(2, 2, DirectoryReport::default());
        empty.registration.directory_id = Uuid::from_u128(5);
        let refused = log.run(&Command::StartBroker(empty));
        assert!(matches!(refused, Err(Rejection::OtherDirectory { .. })), "{refused:?}");
    }
}

#[test]
fn the_only_clean_disk_is_given_up_only_expressly() {
    let mut log = Log::with_partition();
    for id in [2, 1, 0] {
        log.fence(id);
    }
    log.begin_life(1, 2, DirectoryReport::default());
    assert_eq!(log.t(), (None, &[][..], &[0][..], &[1][..]));
    let replace = |accept_data_loss| Command::ReplaceDirectory {
        broker_id: 0,
        directory: ExpectedDirectory::Any,
        accept_data_loss,
        only_if_removed: false,
    };
    let refused = log.run(&replace(false));
    let Err(Rejection::Broker(BrokerError::OnlyCleanReplica { id: 0, partitions })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((partitions.count, &partitions.first[0].partition), (1, &at("t")));
    log.ok(&replace(true));
    assert_eq!(log.t(), (None, &[][..], &[][..], &[1, 0][..]));
    // The disk that comes is empty: nobody is to ask it for what was acknowledged.
    let mut new = log.start(0, 2, DirectoryReport::default());
    new.registration.directory_id = Uuid::from_u128(5);
    log.ok(&Command::StartBroker(new));
    assert_eq!(log.t(), (None, &[][..], &[][..], &[1][..]));
}

#[test]
fn marks_of_an_operator_outlast_a_life_and_its_shutdown_does_not() {
    let mut log = Log::with_partition();
    log.ok(&Command::CordonBroker {
        broker_id: 1,
        cordoned: true,
    });
    log.shut_down(1);
    log.restart_clean(1, 2);
    let broker = &log.cluster.brokers[&1];
    assert!(broker.cordoned && broker.shutting_down_at.is_none());
}

#[test]
fn a_registration_from_before_the_present_life_does_not_end_it() {
    let mut log = Log::with_partition();
    // Two processes start one after the other; the first one dies and its registration is late.
    let dead = log.start(0, 2, clean(log.epoch(0)));
    let unread = start(0, 3, DirectoryReport::default());
    let epoch = log.restart_clean(0, 4);
    log.unfence(0, &[]);
    for late in [dead.clone(), unread] {
        let refused = RegistrationError::EarlierLife { id: 0, current: epoch };
        assert_eq!(log.run(&Command::StartBroker(late)), Err(refused.into()));
    }
    // The answer to the present life's own registration is repeated nevertheless.
    let again = start(0, 4, DirectoryReport::default());
    assert_eq!(
        log.ok(&Command::StartBroker(again)),
        Outcome::Registered { broker_epoch: epoch }
    );
    assert!(log.cluster.brokers[&0].is_active());
}

#[test]
fn a_restart_is_accepted_at_once_and_after_a_life_that_noted_nothing_at_the_second_try() {
    let mut log = Log::with_partition();
    let old = log.clone();
    let served = log.restart_clean(0, 2);
    log.unfence(0, &[]);
    // It has read only old metadata; the life that served has left its epoch on the disk.
    let restarted = old.start(0, 3, crashed(served));
    assert_eq!(restarted.replaces, Some(served));
    let before = log.clone();
    log.ok(&Command::StartBroker(restarted.clone()));

    // In between, a process has registered and died before it noted its epoch.
    let mut log = before;
    let unnoted = log.begin_life(0, 4, crashed(served));
    let refused = RegistrationError::EarlierLife {
        id: 0,
        current: unnoted,
    };
    assert_eq!(log.run(&Command::StartBroker(restarted)), Err(refused.into()));
    log.begin_life(0, 3, crashed(served));
    assert_eq!(log.cluster.brokers[&0].incarnation, Uuid::from_u128(3));
}
