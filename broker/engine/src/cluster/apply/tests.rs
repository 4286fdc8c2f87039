use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::*;

fn registration(id: BrokerId, life: u128) -> RegisterBroker {
    RegisterBroker {
        broker_id: id,
        incarnation: Uuid::from_u128(life),
        cluster_id: "c1".into(),
        directory_id: Uuid::from_u128(1_000 + id as u128),
        address: format!("127.0.0.1:{}", 9650 + id),
        rack: String::new(),
        version: "0".into(),
        now_ms: 1,
    }
}

fn topic(name: &str, assignments: &[&[BrokerId]]) -> Command {
    Command::CreateTopic(CreateTopic {
        name: name.into(),
        id: Uuid::from_u128(7),
        assignments: assignments.iter().map(|replicas| replicas.to_vec()).collect(),
        configs: BTreeMap::new(),
        now_ms: 2,
        owner: None,
    })
}

/// Two brokers (epochs 1 and 2) and the topic "t" with partitions on both.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (index, id) in [(1, 0), (2, 1)] {
        let outcome = cluster.apply(index, &Command::RegisterBroker(registration(id, 1)));
        assert_eq!(
            outcome,
            Ok(Outcome::Registered {
                broker_epoch: index as i64
            })
        );
    }
    assert_eq!(cluster.apply(3, &topic("t", &[&[0, 1], &[1, 0]])), Ok(Outcome::Done));
    cluster.validate().unwrap();
    cluster
}

/// A rejected command leaves the state as it was, its version included.
fn assert_rejected(cluster: &mut Cluster, command: &Command, expected: &Rejection) {
    let before = cluster.clone();
    assert_eq!(cluster.check(command).as_ref(), Err(expected));
    assert_eq!(cluster.apply(99, command).as_ref(), Err(expected));
    assert_eq!(*cluster, before);
}

#[test]
fn a_new_topic_is_led_by_its_first_usable_replica() {
    let mut cluster = cluster();
    let t = &cluster.topics["t"];
    assert_eq!(t.partitions[1].leader, Some(1));
    assert_eq!(t.partitions[1].isr, [1, 0]);
    cluster.brokers.get_mut(&0).unwrap().fenced = true;
    cluster.apply(4, &topic("u", &[&[0, 1]])).unwrap();
    assert_eq!(cluster.topics["u"].partitions[0].leader, Some(1));
    assert_eq!(cluster.topics["u"].partitions[0].isr, [1]);
}

#[test]
fn a_new_life_gets_new_epochs_and_keeps_no_leadership_under_the_old_one() {
    let mut cluster = cluster();
    let again = Command::RegisterBroker(registration(0, 2));
    assert_eq!(cluster.apply(4, &again), Ok(Outcome::Registered { broker_epoch: 4 }));
    let t = &cluster.topics["t"];
    assert_eq!((t.partitions[0].leader, t.partitions[0].leader_epoch), (Some(1), 1));
    assert_eq!((t.partitions[1].leader, t.partitions[1].leader_epoch), (Some(1), 0));
    assert_eq!(t.partitions[0].partition_epoch, 1);
}

#[test]
fn a_sole_replica_leads_again_under_a_new_leader_epoch() {
    let mut cluster = cluster();
    cluster.apply(4, &topic("solo", &[&[0]])).unwrap();
    cluster.apply(5, &Command::RegisterBroker(registration(0, 2))).unwrap();
    let solo = &cluster.topics["solo"].partitions[0];
    assert_eq!((solo.leader, solo.leader_epoch), (Some(0), 1));
}

#[test]
fn a_repeated_registration_of_one_life_changes_nothing() {
    let mut cluster = cluster();
    let before = cluster.clone();
    let again = Command::RegisterBroker(registration(0, 1));
    assert_eq!(cluster.apply(4, &again), Ok(Outcome::Registered { broker_epoch: 1 }));
    assert_eq!(cluster, before);
}

#[test]
fn foreign_swapped_and_empty_disks_are_told_apart() {
    let mut cluster = cluster();
    let mut foreign = registration(0, 2);
    foreign.cluster_id = "c2".into();
    assert_rejected(
        &mut cluster,
        &Command::RegisterBroker(foreign),
        &Rejection::OtherCluster {
            expected: "c1".into(),
            found: "c2".into(),
        },
    );
    let mut swapped = registration(0, 2);
    swapped.directory_id = Uuid::from_u128(1_001);
    assert_rejected(
        &mut cluster,
        &Command::RegisterBroker(swapped),
        &Rejection::DirectoryOfOtherBroker {
            directory_id: Uuid::from_u128(1_001),
            owner: 1,
        },
    );
    let mut empty = registration(0, 2);
    empty.directory_id = Uuid::from_u128(5);
    assert_rejected(
        &mut cluster,
        &Command::RegisterBroker(empty),
        &Rejection::OtherDirectory {
            id: 0,
            expected: Uuid::from_u128(1_000),
            found: Uuid::from_u128(5),
        },
    );
}

#[test]
fn topics_are_checked_before_they_are_created() {
    let mut cluster = cluster();
    let exists = Rejection::TopicExists { name: "t".into() };
    assert_rejected(&mut cluster, &topic("t", &[&[0]]), &exists);
    assert_rejected(&mut cluster, &topic("u", &[&[5]]), &Rejection::UnknownBroker { id: 5 });
    for assignments in [&[&[0, 0][..]][..], &[&[][..]][..], &[&[0][..], &[0, 1][..]][..]] {
        let refused = cluster.check(&topic("u", assignments));
        assert!(
            matches!(refused, Err(Rejection::InvalidAssignment { .. })),
            "{refused:?}"
        );
    }
    for (name, assignments) in [("u", vec![]), ("u", vec![&[0][..]; MAX_PARTITIONS_PER_TOPIC + 1])] {
        let refused = cluster.check(&topic(name, &assignments));
        assert!(
            matches!(refused, Err(Rejection::InvalidPartitionCount { .. })),
            "{refused:?}"
        );
    }
    let refused = cluster.check(&topic("a b", &[&[0]]));
    assert!(matches!(refused, Err(Rejection::InvalidTopicName { .. })));
}

#[test]
fn the_clusters_partitions_are_bounded() {
    let mut cluster = cluster();
    let full = vec![&[0][..]; MAX_PARTITIONS_PER_TOPIC];
    for number in 0..9 {
        cluster
            .apply(10 + number, &topic(&format!("big{number}"), &full))
            .unwrap();
    }
    assert_rejected(
        &mut cluster,
        &topic("big9", &full),
        &Rejection::TooManyPartitions {
            limit: MAX_PARTITIONS as u64,
        },
    );
}

#[test]
fn a_topic_is_deleted_only_under_the_id_that_was_meant() {
    let mut cluster = cluster();
    let delete = |id| Command::DeleteTopic { name: "t".into(), id };
    assert_rejected(
        &mut cluster,
        &delete(Some(Uuid::from_u128(8))),
        &Rejection::OtherTopicId { name: "t".into() },
    );
    assert_eq!(cluster.apply(4, &delete(Some(Uuid::from_u128(7)))), Ok(Outcome::Done));
    assert_rejected(
        &mut cluster,
        &delete(None),
        &Rejection::UnknownTopic { name: "t".into() },
    );
}

#[test]
fn settings_change_whole_or_not_at_all() {
    let mut cluster = cluster();
    let alter = |set: &[(&str, &str)], unset: &[&str]| Command::AlterTopicConfigs {
        name: "t".into(),
        change: ConfigChange {
            set: set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            unset: unset.iter().map(|k| (*k).into()).collect(),
        },
    };
    cluster
        .apply(4, &alter(&[("retention.ms", "1"), ("flush", "os")], &[]))
        .unwrap();
    cluster.apply(5, &alter(&[("retention.ms", "2")], &["flush"])).unwrap();
    assert_eq!(
        cluster.topics["t"].configs,
        BTreeMap::from([("retention.ms".to_owned(), "2".to_owned())])
    );
    let version = cluster.version;
    cluster.apply(6, &alter(&[("retention.ms", "2")], &["flush"])).unwrap();
    assert_eq!(cluster.version, version, "nothing changed, so nothing is announced");
    for command in [
        alter(&[("retention.ms", "2"), ("nope", "1")], &[]),
        alter(&[], &["nope"]),
        alter(&[("flush", "os")], &["flush"]),
    ] {
        let before = cluster.clone();
        assert!(matches!(
            cluster.apply(7, &command),
            Err(Rejection::InvalidConfig { .. })
        ));
        assert_eq!(cluster, before);
    }
}

#[test]
fn more_partitions_leave_older_producers_on_the_former_ones() {
    let mut cluster = cluster();
    let ids = |epoch| Command::AllocateProducerIds {
        broker_id: 0,
        broker_epoch: epoch,
    };
    let block = cluster.apply(4, &ids(1)).unwrap();
    assert_eq!(block, Outcome::ProducerIds(ProducerIdBlock { first: 0, count: 1_000 }));
    let grow = |present, added: &[&[BrokerId]]| Command::CreatePartitions {
        name: "t".into(),
        present,
        added: added.iter().map(|replicas| replicas.to_vec()).collect(),
    };
    cluster.apply(5, &grow(2, &[&[0, 1]])).unwrap();
    cluster.apply(6, &ids(1)).unwrap();
    cluster.apply(7, &grow(3, &[&[0, 1]])).unwrap();
    let t = &cluster.topics["t"];
    assert_eq!(t.partitions_for_producer(Some(999)), 2);
    assert_eq!(t.partitions_for_producer(Some(1_000)), 3);
    assert_eq!(t.partitions_for_producer(Some(2_000)), 4);
    assert_eq!(t.partitions_for_producer(None), 4);
    assert_rejected(
        &mut cluster,
        &grow(3, &[&[0, 1]]),
        &Rejection::PartitionsChanged {
            name: "t".into(),
            actual: 4,
        },
    );
}

#[test]
fn producer_ids_go_only_to_a_brokers_present_life_and_never_twice() {
    let mut cluster = cluster();
    let ids = |broker_id, broker_epoch| Command::AllocateProducerIds {
        broker_id,
        broker_epoch,
    };
    assert_rejected(
        &mut cluster,
        &ids(0, 9),
        &Rejection::StaleBrokerEpoch { id: 0, current: 1 },
    );
    assert_rejected(&mut cluster, &ids(9, 1), &Rejection::UnknownBroker { id: 9 });
    let first = cluster.apply(4, &ids(0, 1)).unwrap();
    let second = cluster.apply(5, &ids(1, 2)).unwrap();
    assert_ne!(first, second);
    cluster.next_producer_id = i64::MAX - 1;
    assert_rejected(&mut cluster, &ids(0, 1), &Rejection::ProducerIdsExhausted);
}

#[test]
fn state_survives_being_written_and_read() {
    let cluster = cluster();
    let text = serde_json::to_string(&cluster).unwrap();
    assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster);
}
