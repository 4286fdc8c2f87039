use uuid::Uuid;

use super::{super::*, support::*};

fn remove(broker_id: BrokerId, force: bool) -> Command {
    remove_at(0, broker_id, force)
}

fn remove_at(now_ms: i64, broker_id: BrokerId, force: bool) -> Command {
    Command::RemoveBroker {
        broker_id,
        force,
        now_ms,
    }
}

#[test]
fn a_broker_goes_only_when_it_holds_nothing_and_never_comes_back() {
    let mut log = Log::with_partition();
    log.fence(2);
    for force in [false, true] {
        let answer = log.run(&remove(2, force));
        let Err(Rejection::Broker(BrokerError::HoldsReplicas { id: 2, replicas })) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((replicas.count, &replicas.first[0].partition), (1, &at("t")));
    }
    log.reassign(Some(&[0, 1])).unwrap();
    log.ok(&remove(2, false));
    assert_eq!(log.ok(&remove(2, false)), Outcome::Done, "asked again");
    assert_eq!(log.run(&remove(7, true)), Err(Rejection::UnknownBroker { id: 7 }));

    let back = log.start(2, 9, DirectoryReport::default());
    let directory_id = directory(2);
    let refused = RegistrationError::DirectoryOfRemovedBroker { directory_id, owner: 2 };
    assert_eq!(
        log.run(&Command::StartBroker(back.clone())),
        Err(refused.clone().into())
    );
    let mut renamed = back.clone();
    renamed.registration.broker_id = 5;
    assert_eq!(log.run(&Command::StartBroker(renamed)), Err(refused.clone().into()));
    let mut empty = back;
    empty.registration.directory_id = Uuid::from_u128(77);
    let number = RegistrationError::Removed { id: 2 };
    assert_eq!(log.run(&Command::StartBroker(empty.clone())), Err(number.into()));

    // A new disk under the old number needs an operator's word.
    let replace = |directory| Command::ReplaceDirectory {
        broker_id: 2,
        directory,
        accept_data_loss: false,
        only_if_removed: false,
    };
    assert_eq!(
        log.run(&replace(ExpectedDirectory::Id(directory_id))),
        Err(refused.into())
    );
    log.ok(&replace(ExpectedDirectory::Any));
    log.ok(&Command::StartBroker(empty));
    log.unfence(2, &[]);
    assert!(log.cluster.brokers[&2].is_active() && log.cluster.removed_brokers.is_empty());
}

/// Somebody permits a removed number while its broker comes back by another's word: no disk of a broker is given up.
#[test]
fn a_number_is_permitted_only_while_it_is_a_removed_one() {
    let mut log = Log::with_partition();
    log.fence(2);
    let permit = Command::ReplaceDirectory {
        broker_id: 2,
        directory: ExpectedDirectory::Any,
        accept_data_loss: false,
        only_if_removed: true,
    };
    let not_removed: Rejection = BrokerError::NotRemoved { id: 2 }.into();
    let before = log.cluster.clone();
    assert_eq!(log.run(&permit), Err(not_removed.clone()), "down, but a broker");
    assert_eq!(log.cluster.brokers, before.brokers);
    assert_eq!(log.cluster.topics, before.topics);
    log.reassign(Some(&[0, 1])).unwrap();
    log.ok(&remove(2, false));
    log.ok(&permit);
    log.ok(&permit);
    let mut new = log.start(2, 9, DirectoryReport::default());
    new.registration.directory_id = Uuid::from_u128(77);
    log.ok(&Command::StartBroker(new));
    assert_eq!(log.run(&permit), Err(not_removed), "it has registered");
    assert_eq!(log.cluster.brokers[&2].expected_directory, None);
    let Command::ReplaceDirectory { directory, .. } = permit else {
        panic!()
    };
    let unknown = Command::ReplaceDirectory {
        broker_id: 7,
        directory,
        accept_data_loss: false,
        only_if_removed: true,
    };
    assert_eq!(log.run(&unknown), Err(Rejection::UnknownBroker { id: 7 }));
}

#[test]
fn a_broker_in_service_or_under_maintenance_goes_by_force_and_a_voter_never() {
    let mut log = Log::with_brokers(3);
    assert_eq!(log.run(&remove(2, false)), Err(BrokerError::InService { id: 2 }.into()));
    let Outcome::Voter { voter_id } = log.ok(&Command::RegisterVoter {
        broker_id: 2,
        directory_id: directory(2),
        highest_in_use: 0,
        bootstrap_id: None,
    }) else {
        panic!()
    };
    assert_eq!(
        log.run(&remove(2, true)),
        Err(BrokerError::Votes { id: 2, voter_id }.into())
    );
    log.ok(&Command::RemoveVoter { voter_id });
    log.ok(&acquire(&log, "roll", 2, 0));
    log.fence(2);
    let held = BrokerError::UnderMaintenance {
        id: 2,
        holder: "roll".into(),
    };
    assert_eq!(log.run(&remove_at(999, 2, false)), Err(held.into()));
    for (now_ms, force) in [(999, true), (1_000, false)] {
        let mut log = log.clone();
        log.ok(&remove_at(now_ms, 2, force));
        assert_eq!(log.cluster.maintenance, None);
    }
}

#[test]
fn cordoned_and_draining_brokers_get_no_new_replicas() {
    let marks = [
        Command::CordonBroker {
            broker_id: 1,
            cordoned: true,
        },
        Command::DrainBroker {
            broker_id: 1,
            draining: true,
        },
    ];
    for mark in marks {
        let mut log = Log::with_brokers(2);
        log.create("t", &[0]);
        log.ok(&mark);
        let refused = log.run(&create("u", &[&[0, 1]]));
        assert!(
            matches!(refused, Err(Rejection::InvalidAssignment { .. })),
            "{refused:?}"
        );
        let grow = Command::CreatePartitions {
            name: "t".into(),
            present: 1,
            added: vec![vec![1]],
        };
        assert!(matches!(log.run(&grow), Err(Rejection::InvalidAssignment { .. })));
        let before = log.cluster.clone();
        log.ok(&mark);
        assert_eq!(log.cluster, before);
    }
    let unknown = Command::CordonBroker {
        broker_id: 5,
        cordoned: true,
    };
    assert_eq!(Log::default().run(&unknown), Err(Rejection::UnknownBroker { id: 5 }));
}

fn acquire(log: &Log, holder: &str, broker_id: BrokerId, now_ms: i64) -> Command {
    Command::AcquireMaintenance(AcquireMaintenance {
        holder: holder.into(),
        broker_id,
        broker_epoch: log.epoch(broker_id),
        ttl_ms: 1_000,
        now_ms,
    })
}

#[test]
fn one_broker_at_a_time_may_be_taken_down_and_only_for_a_time() {
    let mut log = Log::with_partition();
    let granted = log.ok(&acquire(&log, "roll", 0, 10_000));
    let slot = MaintenanceSlot {
        holder: "roll".into(),
        broker_id: 0,
        broker_epoch: log.epoch(0),
        until_ms: 11_000,
    };
    let exempt = PartitionList::default();
    assert_eq!(granted, Outcome::Maintenance { slot, exempt });
    let taken = MaintenanceError::Taken {
        holder: "roll".into(),
        broker_id: 0,
    };
    assert_eq!(log.run(&acquire(&log, "drain", 1, 10_999)), Err(taken.clone().into()));
    assert_eq!(log.run(&acquire(&log, "roll", 1, 10_999)), Err(taken.clone().into()));
    // Its holder may have it longer, even while the broker is down.
    log.fence(0);
    log.ok(&acquire(&log, "roll", 0, 10_900));
    assert_eq!(log.run(&acquire(&log, "drain", 1, 11_500)), Err(taken.into()));
    // It ends with its time; but the broker is not back in sync yet.
    let refused = log.run(&acquire(&log, "drain", 1, 11_900));
    assert!(matches!(
        refused,
        Err(Rejection::Maintenance(MaintenanceError::Needed { id: 1, .. }))
    ));
    // A new life of the broker frees it.
    log.restart_clean(0, 2);
    assert_eq!(log.cluster.maintenance, None);
    log.unfence(0, &[]);
    log.set_isr(&[0, 1, 2]);
    log.ok(&acquire(&log, "drain", 1, 11_500));
}

/// Who held it may have been away for a while, and another broker may have failed.
#[test]
fn while_the_broker_serves_a_slot_is_had_longer_only_if_writes_go_on_without_it() {
    let mut log = Log::with_partition();
    log.ok(&acquire(&log, "roll", 0, 0));
    log.fence(2);
    let refused = log.run(&acquire(&log, "roll", 0, 100));
    assert!(matches!(
        refused,
        Err(Rejection::Maintenance(MaintenanceError::Needed { id: 0, .. }))
    ));
}

#[test]
fn a_slot_is_given_back_by_its_holder() {
    let mut log = Log::with_partition();
    let release = |holder: &str, broker_id| Command::ReleaseMaintenance {
        holder: holder.into(),
        broker_id,
        until_ms: None,
    };
    log.ok(&acquire(&log, "roll", 0, 0));
    for (holder, broker_id) in [("drain", 0), ("roll", 1)] {
        let not_held = MaintenanceError::NotHeld {
            holder: holder.into(),
            broker_id,
            present_holder: "roll".into(),
            present_broker_id: 0,
        };
        assert_eq!(log.run(&release(holder, broker_id)), Err(not_held.into()));
    }
    log.ok(&release("roll", 0));
    assert_eq!(log.cluster.maintenance, None);
    log.ok(&release("roll", 0));
}

/// An operator that was held up in the middle of a pass, while another one has gone on in the same name.
#[test]
fn a_slot_that_was_acquired_again_is_not_given_back_by_who_saw_the_one_before() {
    let mut log = Log::with_partition();
    let release = |broker_id, until_ms| Command::ReleaseMaintenance {
        holder: "roll".into(),
        broker_id,
        until_ms: Some(until_ms),
    };
    log.ok(&acquire(&log, "roll", 0, 10_000));
    log.ok(&acquire(&log, "roll", 0, 10_500));
    let again = log.cluster.maintenance.clone().unwrap();
    assert_eq!(again.until_ms, 11_500);
    let refused = MaintenanceError::AcquiredAgain {
        holder: "roll".into(),
        broker_id: 0,
    };
    for until_ms in [11_000, 11_499, 11_501, 0] {
        assert_eq!(log.run(&release(0, until_ms)), Err(refused.clone().into()));
        assert_eq!(log.cluster.maintenance.as_ref(), Some(&again));
    }
    // Whose it is comes first.
    assert!(matches!(
        log.run(&release(1, 11_500)),
        Err(Rejection::Maintenance(MaintenanceError::NotHeld { .. }))
    ));
    assert_eq!(log.ok(&release(0, 11_500)), Outcome::Done);
    assert_eq!(log.cluster.maintenance, None);
    assert_eq!(log.ok(&release(0, 11_500)), Outcome::Done, "an earlier try has done so");
}

#[test]
fn a_release_that_was_recorded_before_it_named_a_time_is_read() {
    let recorded = r#"{"ReleaseMaintenance":{"holder":"roll","broker_id":2}}"#;
    let read: Command = serde_json::from_str(recorded).unwrap();
    let any = Command::ReleaseMaintenance {
        holder: "roll".into(),
        broker_id: 2,
        until_ms: None,
    };
    assert_eq!(read, any);
}

#[test]
fn wishes_for_maintenance_are_checked() {
    let mut log = Log::with_partition();
    let with = |log: &Log, change: fn(&mut AcquireMaintenance)| {
        let Command::AcquireMaintenance(mut wish) = acquire(log, "roll", 0, 0) else {
            panic!()
        };
        change(&mut wish);
        Command::AcquireMaintenance(wish)
    };
    let wrong: [fn(&mut AcquireMaintenance); 4] = [
        |wish| wish.ttl_ms = 0,
        |wish| wish.ttl_ms = MAX_MAINTENANCE_MS + 1,
        |wish| wish.holder.clear(),
        |wish| wish.holder = "h".repeat(MAX_TEXT_BYTES + 1),
    ];
    for change in wrong {
        let command = with(&log, change);
        assert!(matches!(log.run(&command), Err(Rejection::Maintenance(_))));
    }
    let command = with(&log, |wish| wish.broker_epoch -= 1);
    assert!(matches!(log.run(&command), Err(Rejection::StaleBrokerEpoch { .. })));
    let command = with(&log, |wish| wish.now_ms = i64::MAX);
    log.ok(&command);
}

#[test]
fn a_voter_id_is_bound_to_a_disk_and_never_given_out_twice() {
    let mut log = Log::with_brokers(3);
    let register = |log: &mut Log, broker_id, disk: u128, highest_in_use| {
        let command = Command::RegisterVoter {
            broker_id,
            directory_id: Uuid::from_u128(disk),
            highest_in_use,
            bootstrap_id: None,
        };
        match log.run(&command)? {
            Outcome::Voter { voter_id } => Ok(voter_id),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(register(&mut log, 0, 1_000, 4), Ok(5));
    assert_eq!(register(&mut log, 0, 1_000, 9), Ok(5), "asked again");
    assert_eq!(register(&mut log, 1, 1_001, 0), Ok(6));
    let other = VoterError::OtherDirectory {
        broker_id: 2,
        directory_id: Uuid::from_u128(8),
    };
    assert_eq!(register(&mut log, 2, 8, 0), Err(other.into()));
    assert_eq!(register(&mut log, 7, 8, 0), Err(Rejection::UnknownBroker { id: 7 }));
    let withhold = |withheld| Command::WithholdVote { voter_id: 6, withheld };
    log.ok(&withhold(true));
    log.ok(&withhold(true));
    assert!(log.cluster.voters.withheld.contains(&6));
    log.ok(&withhold(false));
    assert!(log.cluster.voters.withheld.is_empty());
    log.ok(&withhold(true));
    log.ok(&Command::RemoveVoter { voter_id: 6 });
    log.ok(&Command::RemoveVoter { voter_id: 6 });
    assert!(log.cluster.voters.withheld.is_empty(), "its id is never used again");
    let unknown = VoterError::Unknown { voter_id: 7 };
    assert_eq!(log.run(&Command::RemoveVoter { voter_id: 7 }), Err(unknown.into()));
    assert_eq!(register(&mut log, 1, 1_001, 0), Ok(7));

    // A new disk is another voter.
    log.fence(1);
    log.ok(&Command::ReplaceDirectory {
        broker_id: 1,
        directory: ExpectedDirectory::Any,
        accept_data_loss: false,
        only_if_removed: false,
    });
    let mut new = log.start(1, 2, DirectoryReport::default());
    new.registration.directory_id = Uuid::from_u128(55);
    log.ok(&Command::StartBroker(new));
    assert_eq!(register(&mut log, 1, 55, 0), Ok(8));
    assert_eq!(log.cluster.voters.registered.len(), 3);
    // A quorum's first voter keeps the id that it began with; nobody else chooses one.
    let mut first = Log::with_brokers(2);
    let bootstrap = |broker_id, bootstrap_id| Command::RegisterVoter {
        broker_id,
        directory_id: directory(broker_id),
        highest_in_use: 0,
        bootstrap_id,
    };
    assert_eq!(first.ok(&bootstrap(1, Some(0))), Outcome::Voter { voter_id: 0 });
    assert_eq!(first.ok(&bootstrap(0, Some(7))), Outcome::Voter { voter_id: 1 });
    first.ok(&Command::RemoveVoter { voter_id: 0 });
    first.ok(&Command::RemoveVoter { voter_id: 1 });
    assert_eq!(first.ok(&bootstrap(1, Some(0))), Outcome::Voter { voter_id: 2 });
    log.cluster.voters.next = u64::MAX;
    assert_eq!(register(&mut log, 2, 1_002, 0), Err(VoterError::Exhausted.into()));
}

#[test]
fn commands_are_bounded() {
    let mut log = Log::with_partition();
    let alter = Command::AlterPartitions(AlterPartitions {
        broker_id: 0,
        broker_epoch: log.epoch(0),
        changes: vec![log.proposal(&[0]); MAX_CHANGES + 1],
    });
    let moves = vec![
        Move {
            partition: at("t"),
            target: None,
            throttle: None,
        };
        MAX_CHANGES + 1
    ];
    let elections = vec![
        Election {
            partition: at("t"),
            kind: ElectionKind::Preferred,
        };
        MAX_CHANGES + 1
    ];
    for command in [
        alter,
        Command::ReassignPartitions { moves },
        Command::ElectLeaders { elections },
    ] {
        assert_eq!(log.run(&command), Err(Rejection::TooManyChanges));
    }
    for id in 0..MAX_VOTERS as u64 {
        let identity = VoterIdentity {
            broker_id: 100,
            directory_id: Uuid::from_u128(1 << 64 | u128::from(id)),
        };
        log.cluster.voters.registered.insert(id + 1, identity);
    }
    log.cluster.voters.next = MAX_VOTERS as u64 + 1;
    let one_more = Command::RegisterVoter {
        broker_id: 0,
        directory_id: directory(0),
        highest_in_use: 0,
        bootstrap_id: None,
    };
    assert_eq!(log.run(&one_more), Err(VoterError::TooMany.into()));
}
