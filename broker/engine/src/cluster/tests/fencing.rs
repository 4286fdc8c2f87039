use super::{super::*, support::*};

#[test]
fn a_fenced_broker_leaves_every_set_and_another_leads() {
    let mut log = Log::with_partition();
    log.fence(0);
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
    let p = log.partition("t");
    assert_eq!((p.leader_epoch, p.partition_epoch), (1, 1));
    // A follower that is fenced changes no leader epoch.
    log.fence(2);
    assert_eq!(log.t(), (Some(1), &[1][..], &[2][..], &[][..]));
    let p = log.partition("t");
    assert_eq!((p.leader_epoch, p.partition_epoch), (1, 2));
}

/// KIP-966's example: the last one in sync had moved the high watermark no further, so that the
/// one before it may lead.
#[test]
fn the_last_replica_standing_is_not_the_only_one_that_may_lead() {
    let mut log = Log::with_partition();
    log.fence(2);
    assert_eq!(log.t(), (Some(0), &[0, 1][..], &[][..], &[][..]));
    log.fence(1);
    assert_eq!(log.t(), (Some(0), &[0][..], &[1][..], &[][..]));
    log.fence(0);
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    assert_eq!(log.partition("t").last_known_leader, Some(0));
    // 2 left while two were in sync: it may lack what they committed.
    log.unfence(2, &[]);
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    log.unfence(1, &[]);
    assert_eq!(log.t(), (Some(1), &[1][..], &[0][..], &[][..]));
    assert_eq!(log.partition("t").last_known_leader, None);
    // Enough in sync: nobody else is eligible.
    log.set_isr(&[1, 2]);
    assert_eq!(log.t(), (Some(1), &[1, 2][..], &[][..], &[][..]));
}

#[test]
fn with_min_isr_one_only_the_last_is_eligible() {
    let mut log = Log::with_partition();
    log.configure("min.insync.replicas", "1");
    for id in [2, 1, 0] {
        log.fence(id);
    }
    assert_eq!(log.t(), (None, &[][..], &[0][..], &[][..]));
}

#[test]
fn the_last_known_leader_is_never_chosen_by_itself() {
    let mut log = Log::with_partition();
    for id in [2, 1, 0] {
        log.fence(id);
    }
    for (id, life) in [(0, 2), (1, 2)] {
        log.begin_life(id, life, DirectoryReport::default());
        log.unfence(id, &[]);
    }
    log.unfence(2, &[]);
    assert_eq!(log.t(), (None, &[][..], &[][..], &[0, 1][..]));
    assert_eq!(log.partition("t").last_known_leader, Some(0));
}

#[test]
fn fencing_twice_or_by_an_old_epoch_changes_nothing() {
    let mut log = Log::with_partition();
    log.fence(0);
    let before = log.cluster.clone();
    log.fence(0);
    assert_eq!(log.cluster, before);
    let unknown = Command::FenceBroker {
        broker_id: 7,
        broker_epoch: 1,
        reason: FenceReason::LeaseExpired,
    };
    assert_eq!(log.run(&unknown), Err(Rejection::UnknownBroker { id: 7 }));
    let mut old = log.unfence_command(0, &[]);
    if let Command::UnfenceBroker(unfence) = &mut old {
        unfence.broker_epoch -= 1;
    }
    assert!(matches!(log.run(&old), Err(Rejection::StaleBrokerEpoch { id: 0, .. })));
}

#[test]
fn a_life_whose_disk_failed_does_not_come_back() {
    let mut log = Log::with_partition();
    log.fence(0);
    let failed = |log: &Log| Command::FenceBroker {
        broker_id: 0,
        broker_epoch: log.epoch(0),
        reason: FenceReason::DirectoryFailed,
    };
    log.ok(&failed(&log.clone()));
    // A lease that ends afterwards must not hide it.
    log.fence(0);
    let unfence = log.unfence_command(0, &[]);
    assert_eq!(log.run(&unfence), Err(UnfenceError::DirectoryFailed { id: 0 }.into()));
    let report = crashed(log.epoch(0));
    log.begin_life(0, 2, report);
    log.unfence(0, &[]);
    assert!(log.cluster.brokers[&0].is_active());
}

#[test]
fn a_change_of_min_isr_ends_eligibility_where_somebody_is_in_sync() {
    for (value, kept) in [("1", &[][..]), ("3", &[1][..])] {
        let mut log = Log::with_partition();
        log.set_isr(&[0, 1]);
        log.set_isr(&[0]);
        assert_eq!(log.t(), (Some(0), &[0][..], &[1][..], &[][..]));
        log.configure("min.insync.replicas", value);
        assert_eq!(log.t(), (Some(0), &[0][..], &[][..], kept), "{value}");
    }
    let mut log = Log::with_partition();
    for id in [2, 1, 0] {
        log.fence(id);
    }
    log.configure("min.insync.replicas", "1");
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    log.unfence(0, &[]);
    assert_eq!(log.t(), (Some(0), &[0][..], &[][..], &[][..]));
}

#[test]
fn the_clusters_min_isr_counts_where_a_topic_sets_none() {
    let mut log = Log::with_partition();
    log.set_isr(&[0, 1]);
    log.set_isr(&[0]);
    let set = |value: &str| Command::AlterTopicDefaults {
        change: ConfigChange {
            set: [("min.insync.replicas".to_owned(), value.to_owned())].into(),
            unset: vec![],
        },
    };
    log.ok(&set("2"));
    assert_eq!(log.t().2, [1], "2 is the table's default: nobody's meaning changed");
    log.ok(&set("1"));
    assert_eq!(log.t().2, [0; 0]);
    assert!(matches!(log.run(&set("0")), Err(Rejection::InvalidConfig { .. })));
}

#[test]
fn a_topic_created_while_brokers_are_down_gets_its_leader_when_they_come() {
    let mut log = Log::with_brokers(3);
    for id in [0, 1, 2] {
        log.fence(id);
    }
    log.create("t", &[0, 1, 2]);
    assert_eq!(log.t(), (None, &[][..], &[0, 1, 2][..], &[][..]));
    log.unfence(2, &[]);
    assert_eq!(log.t(), (Some(2), &[2][..], &[0, 1][..], &[][..]));
}

/// A log that is damaged or can't be opened is told by not being told of, also where it is not known
/// yet what is committed.
#[test]
fn who_tells_no_log_end_is_not_eligible_where_others_are() {
    let died = |replicas: &[BrokerId]| {
        let mut log = Log::with_brokers(3);
        log.create("t", replicas);
        for id in [2, 1, 0] {
            log.fence(id);
        }
        let report = crashed(log.epoch(0));
        log.begin_life(0, 2, report);
        log
    };
    let mut log = died(&[0, 1, 2]);
    assert_eq!(log.t(), (None, &[][..], &[1, 0][..], &[][..]));
    assert_eq!(log.partition("t").floor.offset, 0);
    let Outcome::Unfenced { lost } = log.unfence(0, &[]) else {
        panic!()
    };
    assert_eq!(lost.count, 1);
    assert!(lost.first[0].reason.contains("damaged"), "{}", lost.first[0].reason);
    assert_eq!(log.t(), (None, &[][..], &[1][..], &[0][..]));
    log.unfence(1, &[]);
    assert_eq!(log.t().0, Some(1), "it lives on: its disk was never in doubt");

    let mut log = died(&[0, 1, 2]);
    log.unfence(0, &[0]);
    assert_eq!(log.t().0, Some(0));
    let mut log = died(&[0]);
    log.unfence(0, &[]);
    assert_eq!(log.t().0, Some(0), "there is nothing to compare the only replica with");
}

/// A broker that starts may have had no time to make the empty log.
#[test]
fn of_a_partition_that_nobody_led_no_log_end_is_needed() {
    let mut log = Log::with_brokers(3);
    for id in [2, 1, 0] {
        log.fence(id);
    }
    log.create("t", &[0, 1, 2]);
    let report = crashed(log.epoch(0));
    log.begin_life(0, 2, report);
    log.unfence(0, &[]);
    assert_eq!(log.t().0, Some(0));
}
