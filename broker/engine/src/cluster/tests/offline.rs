use super::{super::*, support::*};

fn report(log: &Log, broker_id: BrokerId) -> Command {
    Command::ReportOfflineReplicas(ReportOfflineReplicas {
        broker_id,
        broker_epoch: log.epoch(broker_id),
        partitions: vec![at("t")],
    })
}

#[test]
fn a_leader_that_cannot_open_its_log_makes_room() {
    let mut log = Log::with_partition();
    log.ok(&report(&log.clone(), 0));
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
    assert_eq!(log.partition("t").leader_epoch, 1);
    let before = log.cluster.clone();
    log.ok(&report(&log.clone(), 0));
    assert_eq!(log.cluster, before, "it is told once");
    log.ok(&report(&log.clone(), 2));
    assert_eq!(log.t(), (Some(1), &[1][..], &[][..], &[2][..]), "2 is not eligible");
    // Nobody else has what it may hold.
    log.ok(&report(&log.clone(), 1));
    assert_eq!(log.t(), (Some(1), &[1][..], &[][..], &[2][..]));
    // It is back when it has caught up.
    log.set_isr(&[0, 1]);
    assert_eq!(log.t().1, [0, 1]);
}

#[test]
fn an_eligible_replica_that_is_down_is_waited_for() {
    let mut log = Log::with_partition();
    log.fence(2);
    log.fence(1);
    assert_eq!(log.t(), (Some(0), &[0][..], &[1][..], &[][..]));
    log.ok(&report(&log.clone(), 0));
    assert_eq!(log.t(), (None, &[][..], &[1][..], &[0][..]));
    log.unfence(1, &[]);
    assert_eq!(log.t().0, Some(1));
}

#[test]
fn only_the_present_life_reports_and_only_of_what_it_holds() {
    let mut log = Log::with_brokers(3);
    log.create("t", &[0, 1]);
    let before = log.cluster.clone();
    log.ok(&report(&log.clone(), 2));
    let mut other = report(&log, 0);
    if let Command::ReportOfflineReplicas(other) = &mut other {
        other.partitions[0].topic = "gone".into();
    }
    log.ok(&other);
    assert_eq!(log.cluster, before);
    let mut stale = report(&log, 0);
    if let Command::ReportOfflineReplicas(stale) = &mut stale {
        stale.broker_epoch -= 1;
    }
    assert!(matches!(
        log.run(&stale),
        Err(Rejection::StaleBrokerEpoch { id: 0, .. })
    ));
    let mut many = report(&log, 0);
    if let Command::ReportOfflineReplicas(many) = &mut many {
        many.partitions = vec![at("t"); MAX_CHANGES + 1];
    }
    assert_eq!(log.run(&many), Err(Rejection::TooManyChanges));
}
