use super::{super::*, support::*};

#[test]
fn leaderships_move_and_the_broker_leaves_the_in_sync_sets() {
    let mut log = Log::with_partition();
    log.create("u", &[1, 0, 2]);
    log.create("solo", &[0]);
    let index = log.next_index();
    let progress = log.shut_down(0);
    assert_eq!(progress.target_index, index);
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
    assert_eq!(log.partition("u").isr, [1, 2]);
    assert_eq!(log.partition("u").leader_epoch, 0);
    assert_eq!(log.partition("solo").leader, Some(0));
    assert_eq!(progress.remaining.count, 1);
    assert_eq!(progress.remaining.first[0].partition, at("solo"));
    assert!(progress.below_min_isr.is_empty());
}

#[test]
fn the_target_is_recorded_once() {
    let mut log = Log::with_partition();
    let first = log.shut_down(0);
    let before = log.cluster.clone();
    assert_eq!(log.shut_down(0), first);
    assert_eq!(log.cluster, before);
}

#[test]
fn the_last_in_sync_stays_and_hands_over_when_another_has_caught_up() {
    let mut log = Log::with_partition();
    log.set_isr(&[0]);
    let progress = log.shut_down(0);
    assert_eq!(log.t().0, Some(0));
    assert_eq!(progress.remaining.first[0].reason, "no other replica is in sync");
    let answer = log.alter(0, log.proposal(&[0, 1])).unwrap();
    assert_eq!(answer.leader, Some(1));
    assert_eq!(log.t(), (Some(1), &[1][..], &[2, 0][..], &[][..]));
    let progress = log.shut_down(0);
    assert!(progress.remaining.is_empty());
    assert_eq!(progress.below_min_isr.first[0].reason, "1 in sync, 2 needed");
}

#[test]
fn two_that_shut_down_leave_in_order() {
    let mut log = Log::with_partition();
    log.set_isr(&[0, 1]);
    log.shut_down(0);
    assert_eq!(log.t(), (Some(1), &[1][..], &[0][..], &[][..]));
    let progress = log.shut_down(1);
    assert_eq!(progress.remaining.count, 1);
    assert_eq!(log.t(), (Some(1), &[1][..], &[0][..], &[][..]));
    log.fence(1);
    assert_eq!(
        log.t(),
        (None, &[][..], &[0, 1][..], &[][..]),
        "0 shuts down: it is not called back"
    );
}

#[test]
fn who_shuts_down_is_neither_put_into_service_nor_chosen() {
    let mut log = Log::with_partition();
    log.shut_down(0);
    let unfence = log.unfence_command(0, &[]);
    assert_eq!(log.run(&unfence), Err(UnfenceError::ShuttingDown { id: 0 }.into()));
    log.create("u", &[0, 1, 2]);
    assert_eq!(
        (log.partition("u").leader, &log.partition("u").isr[..]),
        (Some(1), &[1, 2][..])
    );
    for id in [1, 2] {
        log.fence(id);
    }
    assert_eq!(
        log.elect(ElectionKind::Unclean { replica: 0 }),
        Err(ElectionError::NotAvailable { replica: 0 })
    );
    let stale = Command::ControlledShutdown {
        broker_id: 0,
        broker_epoch: log.epoch(0) - 1,
    };
    assert!(matches!(
        log.run(&stale),
        Err(Rejection::StaleBrokerEpoch { id: 0, .. })
    ));
}
