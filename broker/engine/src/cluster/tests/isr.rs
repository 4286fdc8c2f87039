use super::{super::*, support::*};

/// Only 0, the leader, is in sync; 1 and 2 catch up.
fn alone() -> Log {
    let mut log = Log::with_partition();
    log.set_isr(&[0]);
    log
}

#[test]
fn who_has_caught_up_comes_in_and_who_lags_goes_out() {
    let mut log = Log::with_partition();
    let shrunk = log.alter(0, log.proposal(&[0, 2])).unwrap();
    assert_eq!(
        (shrunk.isr, shrunk.partition_epoch, shrunk.leader_epoch),
        (vec![0, 2], 1, 0)
    );
    assert_eq!(log.t().2, [0; 0]);
    log.set_isr(&[0]);
    assert_eq!(log.t(), (Some(0), &[0][..], &[2][..], &[][..]));
    log.set_isr(&[0, 1]);
    assert_eq!(log.t(), (Some(0), &[0, 1][..], &[][..], &[][..]));
}

#[test]
fn checks_come_in_their_order() {
    let log = alone();
    let refused = |sender, change: &dyn Fn(&mut IsrChange)| {
        let mut proposal = log.proposal(&[0, 1]);
        change(&mut proposal);
        log.clone().alter(sender, proposal).unwrap_err()
    };
    let (leader_epoch, partition_epoch) = (0, 1);
    let ahead = |change: &mut IsrChange| change.leader_epoch = leader_epoch + 1;
    assert_eq!(refused(0, &ahead), IsrError::StateBehind);
    assert_eq!(refused(1, &ahead), IsrError::StateBehind, "before who sends it");
    let newer = |change: &mut IsrChange| change.partition_epoch = partition_epoch + 1;
    assert_eq!(refused(0, &newer), IsrError::StateBehind);
    let older = |change: &mut IsrChange| {
        change.leader_epoch = leader_epoch - 1;
        change.partition_epoch = 0;
    };
    let fenced = IsrError::FencedLeaderEpoch {
        proposed: -1,
        current: 0,
    };
    assert_eq!(refused(1, &older), fenced, "before who sends it");
    let stale = |change: &mut IsrChange| change.partition_epoch = 0;
    assert_eq!(
        refused(1, &stale),
        IsrError::NotLeader { sender: 1 },
        "before the version"
    );
    let version = IsrError::InvalidUpdateVersion {
        proposed: 0,
        current: 1,
    };
    let stale_and_empty = |change: &mut IsrChange| {
        change.partition_epoch = 0;
        change.isr.clear();
    };
    assert_eq!(refused(0, &stale_and_empty), version, "before the set");
    assert!(!version.proves_not_applied() && !fenced.proves_not_applied());
}

#[test]
fn a_set_must_be_one_that_the_partition_can_have() {
    let log = alone();
    let with = |change: &dyn Fn(&mut IsrChange)| {
        let mut proposal = log.proposal(&[0, 1]);
        change(&mut proposal);
        log.clone().alter(0, proposal)
    };
    let member = |id| IsrMember {
        broker_id: id,
        broker_epoch: log.epoch(id),
    };
    let wrong: [&dyn Fn(&mut IsrChange); 8] = [
        &|change| change.isr.clear(),
        &|change| change.isr = vec![member(1), member(2)],
        &|change| change.isr.push(member(1)),
        &|change| change.isr.push(member(7)),
        &|change| change.isr = vec![member(0); 4],
        &|change| change.lost = vec![1],
        &|change| change.lost = vec![2; 4],
        &|change| change.high_watermark = -1,
    ];
    for (row, change) in wrong.iter().enumerate() {
        let refused = with(change).unwrap_err();
        assert!(matches!(refused, IsrError::InvalidIsr { .. }), "row {row}: {refused}");
        assert!(refused.proves_not_applied());
    }
    assert!(with(&|_| {}).is_ok());
}

#[test]
fn a_member_must_be_in_service_in_the_life_that_was_counted() {
    let refused = |log: &Log, change: IsrChange| match log.clone().alter(0, change) {
        Err(error @ IsrError::IneligibleReplica { broker_id: 1, reason }) => {
            assert!(error.proves_not_applied());
            reason
        }
        other => panic!("{other:?}"),
    };
    let mut log = alone();
    let earlier = log.proposal(&[0, 1]);
    log.fence(1);
    assert_eq!(refused(&log, log.proposal(&[0, 1])), Ineligible::Fenced);
    log.restart_clean(1, 2);
    log.unfence(1, &[]);
    let earlier = IsrChange {
        partition_epoch: log.partition("t").partition_epoch,
        ..earlier
    };
    let current = log.epoch(1);
    assert_eq!(refused(&log, earlier), Ineligible::OtherEpoch { current });
    log.shut_down(1);
    assert_eq!(refused(&log, log.proposal(&[0, 1])), Ineligible::ShuttingDown);
}

#[test]
fn a_repetition_succeeds_whatever_has_happened_to_its_members() {
    let mut log = alone();
    let proposal = log.proposal(&[0, 1]);
    log.alter(0, proposal.clone()).unwrap();
    let before = log.cluster.clone();
    // The members in another order, and the version before the change.
    let mut again = proposal.clone();
    again.isr.reverse();
    assert_eq!(log.alter(0, again).unwrap().isr, [0, 1]);
    assert_eq!(log.cluster, before);
    // By now the member has begun another life: the first copy was applied all the same, but
    // its set is no longer the one in force.
    log.restart_clean(1, 2);
    assert!(matches!(
        log.alter(0, proposal),
        Err(IsrError::InvalidUpdateVersion { .. })
    ));
    // An equal set is a success even where its member, in the version told, may not be counted.
    let same = IsrChange {
        partition_epoch: 0,
        isr: vec![IsrMember {
            broker_id: 0,
            broker_epoch: -5,
        }],
        ..log.proposal(&[0])
    };
    assert!(log.alter(0, same).is_ok());
}

#[test]
fn several_changes_are_judged_one_by_one() {
    let mut log = alone();
    log.create("u", &[0, 1, 2]);
    log.create("v", &[1, 0, 2]);
    let of = |topic: &str, isr: &[BrokerId]| IsrChange {
        partition: at(topic),
        partition_epoch: log.partition(topic).partition_epoch,
        ..log.proposal(isr)
    };
    let changes = vec![
        of("u", &[0, 2]),
        of("v", &[0, 1]),
        of("t", &[0, 1]),
        of("t", &[0, 2]),
        IsrChange {
            partition: at("nope"),
            ..log.proposal(&[0])
        },
    ];
    let command = Command::AlterPartitions(AlterPartitions {
        broker_id: 0,
        broker_epoch: log.epoch(0),
        changes,
    });
    let Outcome::Altered(answers) = log.ok(&command) else {
        panic!()
    };
    assert_eq!(answers[0].as_ref().unwrap().partition.isr, [0, 2]);
    assert_eq!(answers[1], Err(IsrError::NotLeader { sender: 0 }));
    assert_eq!(answers[2].as_ref().unwrap().partition.isr, [0, 1]);
    assert!(matches!(answers[3], Err(IsrError::InvalidIsr { .. })), "named twice");
    let unknown = PartitionError::UnknownTopic { topic: "nope".into() };
    assert_eq!(answers[4], Err(unknown.into()));
    assert_eq!((log.t().1, &log.partition("u").isr[..]), (&[0, 1][..], &[0, 2][..]));
}

#[test]
fn a_process_of_an_earlier_life_changes_nothing() {
    let mut log = alone();
    let command = Command::AlterPartitions(AlterPartitions {
        broker_id: 0,
        broker_epoch: log.epoch(0) - 1,
        changes: vec![log.proposal(&[0, 1])],
    });
    assert!(matches!(
        log.run(&command),
        Err(Rejection::StaleBrokerEpoch { id: 0, .. })
    ));
}

#[test]
fn a_topic_created_anew_and_a_partition_too_far_are_told_apart() {
    let mut log = alone();
    let mut other = log.proposal(&[0, 1]);
    other.partition.topic_id = topic_id("u");
    let refused = log.alter(0, other).unwrap_err();
    assert_eq!(refused, PartitionError::OtherTopicId { topic: "t".into() }.into());
    let mut far = log.proposal(&[0, 1]);
    far.partition.partition = 1;
    assert!(matches!(
        log.alter(0, far),
        Err(IsrError::Partition(PartitionError::UnknownPartition { count: 1, .. }))
    ));
}

#[test]
fn a_replica_that_lost_data_is_not_eligible() {
    let mut log = Log::with_partition();
    log.set_isr(&[0, 1]);
    let change = IsrChange {
        lost: vec![1],
        ..log.proposal(&[0])
    };
    log.alter(0, change).unwrap();
    assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[1][..]));
    // The same of one that was eligible already, with the set as it is.
    let mut log = Log::with_partition();
    log.set_isr(&[0, 1]);
    log.set_isr(&[0]);
    let change = IsrChange {
        lost: vec![1],
        ..log.proposal(&[0])
    };
    log.alter(0, change.clone()).unwrap();
    assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[1][..]));
    let before = log.cluster.clone();
    log.alter(0, change).unwrap();
    assert_eq!(log.cluster, before, "a repetition");
}

#[test]
fn an_uncleanly_chosen_leader_stays_alone_until_it_has_recovered() {
    let mut log = Log::with_partition();
    log.set_isr_and_floor(&[0, 1], 50);
    assert_eq!(
        log.elect(ElectionKind::Unclean { replica: 2 }),
        Err(ElectionError::HasLeader { leader: 0 })
    );
    log.fence(1);
    log.fence(0);
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    let fenced = log.elect(ElectionKind::Unclean { replica: 1 });
    assert_eq!(fenced, Err(ElectionError::NotAvailable { replica: 1 }));
    let stranger = log.elect(ElectionKind::Unclean { replica: 9 });
    assert_eq!(stranger, Err(ElectionError::NotReplica { replica: 9 }));
    let elected = log.elect(ElectionKind::Unclean { replica: 2 }).unwrap();
    assert_eq!(
        elected.floor_before,
        Some(CommittedFloor {
            offset: 50,
            leader_epoch: 0
        })
    );
    assert_eq!(log.t(), (Some(2), &[2][..], &[][..], &[][..]));
    assert!(log.partition("t").recovering);
    assert_eq!(log.partition("t").floor, CommittedFloor::default());
    log.unfence(0, &[]);
    let early = IsrChange {
        recovering: true,
        ..log.proposal(&[2, 0])
    };
    assert!(matches!(log.alter(2, early), Err(IsrError::InvalidRecovery { .. })));
    log.set_isr(&[2, 0]);
    assert!(!log.partition("t").recovering);
    let back = IsrChange {
        recovering: true,
        ..log.proposal(&[2])
    };
    assert!(matches!(log.alter(2, back), Err(IsrError::InvalidRecovery { .. })));
}

#[test]
fn a_leader_that_recovers_and_falls_is_the_only_one_that_may_go_on() {
    let mut log = Log::with_partition();
    for id in [2, 1, 0] {
        log.fence(id);
    }
    log.unfence(2, &[]);
    log.elect(ElectionKind::Unclean { replica: 2 }).unwrap();
    log.fence(2);
    log.unfence(0, &[]);
    assert_eq!(log.t(), (None, &[][..], &[2][..], &[][..]));
    log.unfence(2, &[]);
    assert_eq!(log.t().0, Some(2));
    assert!(log.partition("t").recovering);
}

#[test]
fn leaders_are_chosen_on_request_only_among_those_in_sync() {
    let mut log = Log::with_partition();
    assert_eq!(
        log.elect(ElectionKind::Preferred),
        Err(ElectionError::NotNeeded { replica: 0 })
    );
    log.elect(ElectionKind::InSync { replica: 2 }).unwrap();
    assert_eq!(log.t(), (Some(2), &[0, 1, 2][..], &[][..], &[][..]));
    assert_eq!(log.partition("t").leader_epoch, 1);
    assert_eq!(log.partition("t").replicas, [2, 0, 1], "it is to stay");
    assert_eq!(log.cluster.misled().count(), 0);
    assert_eq!(
        log.elect(ElectionKind::InSync { replica: 2 }),
        Err(ElectionError::NotNeeded { replica: 2 })
    );
    log.elect(ElectionKind::InSync { replica: 0 }).unwrap();
    log.fence(0);
    log.unfence(0, &[]);
    assert_eq!(log.partition("t").leader, Some(2));
    assert_eq!(
        log.elect(ElectionKind::Preferred),
        Err(ElectionError::NotInSync { replica: 0 })
    );
    assert_eq!(
        log.elect(ElectionKind::InSync { replica: 5 }),
        Err(ElectionError::NotReplica { replica: 5 })
    );
    log.set_isr(&[0, 1, 2]);
    assert_eq!(log.cluster.misled().collect::<Vec<_>>(), [at("t")]);
    let elected = log.elect(ElectionKind::Preferred).unwrap();
    assert_eq!((elected.partition.leader, elected.floor_before), (Some(0), None));
    assert_eq!(log.cluster.misled().count(), 0);
}

#[test]
fn an_unclean_recovery_takes_the_longest_log_of_the_latest_epoch() {
    let answer = |broker_id, last_epoch, log_end| ReplicaLogEnd {
        broker_id,
        last_epoch: Some(last_epoch),
        log_end,
        is_damaged: false,
    };
    let longest = |answers: &[ReplicaLogEnd]| longest_log(answers, CommittedFloor::default());
    assert_eq!(longest(&[]), None);
    assert_eq!(longest(&[answer(0, 3, 90), answer(1, 4, 10), answer(2, 4, 9)]), Some(1));
    assert_eq!(longest(&[answer(2, 4, 10), answer(1, 4, 10)]), Some(1));
    let damaged = ReplicaLogEnd {
        is_damaged: true,
        ..answer(1, 4, 10)
    };
    assert_eq!(longest(&[answer(2, 4, 10), damaged]), Some(2));
    assert_eq!(longest(&[answer(2, 4, 9), damaged]), Some(1), "it lacks less");
}

/// All records are deleted at who was in sync, so that its log tells no epoch. One that was away for weeks has old
/// records: it must not be taken for having more.
#[test]
fn an_unclean_recovery_takes_no_old_log_for_one_of_which_all_is_deleted() {
    let floor = CommittedFloor {
        offset: 1_000,
        leader_epoch: 6,
    };
    let emptied = |log_end| ReplicaLogEnd {
        broker_id: 1,
        last_epoch: None,
        log_end,
        is_damaged: false,
    };
    let away = ReplicaLogEnd {
        broker_id: 0,
        last_epoch: Some(2),
        log_end: 500,
        is_damaged: false,
    };
    assert_eq!(longest_log(&[emptied(1_000), away], floor), Some(1));
    // One that was begun anew far below knows nothing of what was committed since.
    assert_eq!(longest_log(&[emptied(400), away], floor), Some(0));
}

#[test]
fn a_superseding_proposal_makes_a_copy_of_the_earlier_one_come_to_nothing() {
    let mut log = alone();
    let earlier = log.proposal(&[0, 1]);
    log.fence(1);
    assert!(log.alter(0, earlier.clone()).is_err());
    let superseding = IsrChange {
        supersedes: true,
        ..log.proposal(&[0])
    };
    let version = log.partition("t").partition_epoch;
    let applied = log.alter(0, superseding.clone()).unwrap();
    assert_eq!((applied.partition_epoch, &applied.isr[..]), (version + 1, &[0][..]));
    // Its answer is lost, and it is sent again.
    assert_eq!(log.alter(0, superseding).unwrap(), applied);
    // Broker 1 is eligible again when the other copy arrives.
    log.unfence(1, &[]);
    let late = log.alter(0, earlier);
    assert!(matches!(late, Err(IsrError::InvalidUpdateVersion { .. })), "{late:?}");
    assert_eq!(log.t().1, [0]);
}

#[test]
fn an_eligible_replica_that_lost_data_is_not_eligible_any_more() {
    let mut log = Log::with_partition();
    log.set_isr(&[0, 1]);
    log.set_isr(&[0]);
    assert_eq!(log.t(), (Some(0), &[0][..], &[1][..], &[][..]));
    let change = IsrChange {
        lost: vec![1],
        ..log.proposal(&[0])
    };
    let applied = log.alter(0, change.clone()).unwrap();
    assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[1][..]));
    assert_eq!(log.alter(0, change).unwrap(), applied);
}
