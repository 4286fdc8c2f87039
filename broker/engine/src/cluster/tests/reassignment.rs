use super::{super::*, support::*};

/// Four brokers; "t"-0 on 0, 1, 2.
fn four() -> Log {
    let mut log = Log::with_brokers(4);
    log.create("t", &[0, 1, 2]);
    log
}

fn refused(answer: Result<Outcome, Rejection>) -> MoveError {
    match answer {
        Err(Rejection::Move(RefusedMove { error, .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_move_adds_waits_and_then_takes_away() {
    let mut log = four();
    log.reassign(Some(&[0, 1, 3])).unwrap();
    let p = log.partition("t");
    assert_eq!(
        (&p.replicas[..], &p.adding[..], &p.removing[..]),
        (&[0, 1, 3, 2][..], &[3][..], &[2][..])
    );
    assert_eq!((p.leader, &p.isr[..], p.leader_epoch), (Some(0), &[0, 1, 2][..], 0));
    log.set_isr(&[0, 1, 2, 3]);
    let p = log.partition("t");
    assert_eq!((&p.replicas[..], p.is_moving()), (&[0, 1, 3][..], false));
    assert_eq!(
        (&p.isr[..], p.leader, p.leader_epoch, p.partition_epoch),
        (&[0, 1, 3][..], Some(0), 1, 2)
    );
}

#[test]
fn the_bound_on_a_move_can_be_changed_and_ends_with_it() {
    let rate = |log: &Log| log.partition("t").throttle.map(std::num::NonZeroU64::get);
    let mut log = four();
    log.reassign_at(Some(&[0, 1, 3]), 5).unwrap();
    assert_eq!(rate(&log), Some(5));
    log.reassign_at(Some(&[0, 1, 3]), 9).unwrap();
    assert_eq!(rate(&log), Some(9));
    log.set_isr(&[0, 1, 2, 3]);
    assert_eq!((log.partition("t").is_moving(), rate(&log)), (false, None), "done");
    log.reassign_at(Some(&[0, 1, 2]), 5).unwrap();
    log.reassign(None).unwrap();
    assert_eq!((log.partition("t").is_moving(), rate(&log)), (false, None), "cancelled");
    log.reassign_at(Some(&[1, 0, 3]), 5).unwrap();
    assert_eq!(rate(&log), None, "nothing is copied");
}

#[test]
fn a_leader_that_is_taken_away_hands_over() {
    let mut log = four();
    log.reassign(Some(&[3, 1, 2])).unwrap();
    log.set_isr(&[0, 1, 2, 3]);
    assert_eq!(log.t(), (Some(3), &[1, 2, 3][..], &[][..], &[][..]));
    assert_eq!(log.partition("t").replicas, [3, 1, 2]);
}

#[test]
fn a_replica_that_is_sick_for_its_own_reasons_stops_no_move() {
    let mut log = four();
    log.set_isr(&[0, 2]);
    log.reassign(Some(&[0, 1, 3])).unwrap();
    log.set_isr(&[0, 2, 3]);
    assert_eq!(log.partition("t").replicas, [0, 1, 3]);
    assert_eq!(log.t().1, [0, 3]);
}

#[test]
fn a_move_waits_while_too_few_would_be_in_sync() {
    let mut log = four();
    log.set_isr(&[0, 2]);
    // Without 0, only the new one is in sync.
    log.reassign(Some(&[3, 1])).unwrap();
    log.set_isr(&[0, 2, 3]);
    assert!(log.partition("t").is_moving());
    log.set_isr(&[0, 1, 2, 3]);
    assert_eq!(log.t(), (Some(3), &[1, 3][..], &[][..], &[][..]));
}

#[test]
fn a_move_does_not_make_fewer_in_sync_than_were() {
    let mut log = four();
    log.configure("min.insync.replicas", "1");
    log.set_isr(&[0, 2]);
    // 0 and 2 are in sync and go; 3 is in sync and 1 is not.
    log.reassign(Some(&[1, 3])).unwrap();
    log.set_isr(&[0, 2, 3]);
    assert!(log.partition("t").is_moving());
    log.set_isr(&[0, 1, 2, 3]);
    assert_eq!(log.partition("t").replicas, [1, 3]);
}

#[test]
fn what_a_move_adds_does_not_count_before_its_end() {
    let mut log = Log::with_brokers(3);
    log.create("t", &[0]);
    let required = |log: &Log| log.partition("t").required(2);
    assert_eq!(required(&log), 1);
    log.reassign(Some(&[0, 1, 2])).unwrap();
    assert_eq!((required(&log), log.cluster.topics["t"].replication_factor()), (1, 1));
    log.set_isr(&[0, 1]);
    assert!(log.partition("t").is_moving());
    assert_eq!(required(&log), 1);
    log.set_isr(&[0, 1, 2]);
    assert_eq!((required(&log), log.cluster.topics["t"].replication_factor()), (2, 3));
}

#[test]
fn fewer_replicas_or_another_order_need_no_wait() {
    let mut log = four();
    log.reassign(Some(&[2, 1, 0])).unwrap();
    let p = log.partition("t");
    assert_eq!((p.preferred_leader(), p.leader, p.leader_epoch), (Some(2), Some(0), 0));
    log.reassign(Some(&[2, 1])).unwrap();
    assert_eq!(log.t(), (Some(2), &[1, 2][..], &[][..], &[][..]));
    assert!(!log.partition("t").is_moving());
    assert_eq!(log.partition("t").leader_epoch, 1);
    let before = log.cluster.clone();
    log.reassign(Some(&[2, 1])).unwrap();
    assert_eq!(log.cluster, before);
}

#[test]
fn a_cancelled_move_drops_what_it_added() {
    let mut log = four();
    assert_eq!(refused(log.reassign(None)), MoveError::NoMove);
    log.set_isr(&[0, 1]);
    log.reassign(Some(&[2, 3])).unwrap();
    log.set_isr(&[0, 1, 3]);
    assert!(log.partition("t").is_moving());
    log.reassign(None).unwrap();
    let p = log.partition("t");
    assert_eq!(
        (&p.replicas[..], &p.isr[..], p.is_moving()),
        (&[2, 0, 1][..], &[0, 1][..], false)
    );
    assert_eq!(p.leader_epoch, 1, "3 may come back with its half copy: another term");
}

#[test]
fn a_move_is_not_cancelled_when_too_few_would_be_in_sync() {
    let mut log = four();
    log.reassign(Some(&[1, 3])).unwrap();
    log.set_isr(&[0]);
    log.set_isr(&[0, 3]);
    // 1 is not in sync: the move waits, and without 3 writes would stop.
    assert!(log.partition("t").is_moving());
    assert_eq!(
        refused(log.reassign(None)),
        MoveError::TooFewInSync {
            in_sync: 1,
            required: 2
        }
    );
    // 3 is down: what was committed with it is on 0 and 3 only.
    log.fence(3);
    assert_eq!(log.t().2, [3]);
    let too_few = MoveError::TooFewClean { clean: 1, required: 2 };
    assert_eq!(refused(log.reassign(None)), too_few);
    assert_eq!(refused(log.reassign(Some(&[0, 1]))), too_few, "nor for another move");
    log.set_isr(&[0, 1]);
    log.reassign(None).unwrap();
    assert_eq!((log.t().1, log.partition("t").is_moving()), (&[0, 1][..], false));
}

#[test]
fn a_cancelled_move_never_takes_the_last_copy_with_it() {
    let mut log = Log::with_brokers(3);
    log.create("t", &[0]);
    log.reassign(Some(&[1, 2])).unwrap();
    log.set_isr(&[0, 1]);
    // 0 leaves with 1 in sync, and restarts without a proof; then 1 falls.
    log.fence(0);
    log.fence(1);
    assert_eq!(log.t(), (None, &[][..], &[1][..], &[][..]));
    assert_eq!(refused(log.reassign(None)), MoveError::OnlyCandidates);
    assert_eq!(refused(log.reassign(Some(&[0]))), MoveError::OnlyCandidates);
    // The same where 1 is only the last that is known to have had it.
    let report = DirectoryReport::default();
    log.begin_life(1, 2, report);
    assert_eq!(log.t(), (None, &[][..], &[][..], &[1][..]));
    assert_eq!(refused(log.reassign(None)), MoveError::OnlyCandidates);
    // Who chooses a leader, whatever it holds, may cancel.
    log.unfence(0, &[]);
    log.elect(ElectionKind::Unclean { replica: 0 }).unwrap();
    log.reassign(None).unwrap();
    assert_eq!(log.partition("t").replicas, [0]);
}

#[test]
fn a_new_target_takes_the_place_of_the_one_under_way() {
    let mut log = Log::with_brokers(5);
    log.create("t", &[0, 1, 2]);
    log.reassign(Some(&[0, 1, 3])).unwrap();
    log.reassign(Some(&[0, 1, 4])).unwrap();
    let p = log.partition("t");
    assert_eq!(
        (&p.replicas[..], &p.adding[..], &p.removing[..]),
        (&[0, 1, 4, 2][..], &[4][..], &[2][..])
    );
    log.set_isr(&[0, 1, 2, 4]);
    assert_eq!(log.partition("t").replicas, [0, 1, 4]);
}

#[test]
fn targets_are_checked_and_a_command_is_carried_out_whole_or_not_at_all() {
    let mut log = four();
    log.create("u", &[0, 1, 2]);
    for target in [&[][..], &[0, 0], &[0, 9]] {
        let error = refused(log.reassign(Some(target)));
        assert!(matches!(error, MoveError::InvalidTarget { .. }), "{target:?}");
    }
    log.ok(&Command::CordonBroker {
        broker_id: 3,
        cordoned: true,
    });
    assert!(matches!(
        refused(log.reassign(Some(&[0, 3]))),
        MoveError::InvalidTarget { .. }
    ));
    let one = |topic: &str, target: &[BrokerId]| Move {
        partition: at(topic),
        target: Some(target.to_vec()),
        throttle: None,
    };
    let whole = Command::ReassignPartitions {
        moves: vec![one("u", &[0, 1]), one("t", &[7])],
    };
    assert!(log.run(&whole).unwrap_err().to_string().starts_with("t-0: broker 7"));
    let twice = Command::ReassignPartitions {
        moves: vec![one("u", &[0, 1]), one("u", &[0, 2])],
    };
    assert_eq!(refused(log.run(&twice)), MoveError::Repeated);
}

#[test]
fn a_replica_taken_away_is_in_no_set_any_more() {
    let mut log = four();
    log.set_isr(&[0, 1]);
    log.set_isr(&[0]);
    assert_eq!(log.t().2, [1]);
    // 1, which is eligible, is taken away; 0 stays alone in sync.
    log.reassign(Some(&[0])).unwrap();
    assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[][..]));
    assert_eq!(log.partition("t").replicas, [0]);
}
