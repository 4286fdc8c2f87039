use std::sync::Arc;

use super::{super::*, support::*};

fn names(list: &PartitionList) -> Vec<String> {
    list.first.iter().map(|listed| listed.partition.to_string()).collect()
}

#[test]
fn a_broker_may_restart_while_every_partition_keeps_enough_without_it() {
    let mut log = Log::with_brokers(3);
    log.create("t", &[0, 1, 2]);
    log.create("pair", &[0, 1]);
    log.create("solo", &[0]);
    // Two replicas and two needed can never let one go: told, but no obstacle.
    assert_eq!(names(&log.cluster.may_restart(0).unwrap()), ["pair-0", "solo-0"]);
    assert_eq!(names(&log.cluster.may_restart(2).unwrap()), [""; 0]);
    assert_eq!(names(&log.cluster.writes_stop_without(0)), ["pair-0"]);
    assert_eq!(names(&log.cluster.writes_stop_without(2)), [""; 0]);
    log.set_isr(&[0, 1]);
    let forbid = log.cluster.may_restart(0).unwrap_err();
    assert_eq!(names(&forbid), ["t-0"]);
    assert_eq!(forbid.first[0].reason, "1 in sync without it, 2 needed");
    assert_eq!(names(&log.cluster.may_restart(2).unwrap()), [""; 0]);
    // Too few are in sync: one that is not may be the next.
    log.set_isr(&[0]);
    for id in [0, 1, 2] {
        let forbid = log.cluster.may_restart(id).unwrap_err();
        assert_eq!(forbid.to_string(), "t-0 (1 in sync, 2 needed already)");
    }
}

#[test]
fn the_only_source_of_a_move_stays_and_an_offline_sole_replica_holds_up_nobody() {
    let mut log = Log::with_brokers(2);
    log.create("t", &[0]);
    log.reassign(Some(&[1])).unwrap();
    let forbid = log.cluster.may_restart(0).unwrap_err();
    assert_eq!(forbid.first[0].reason, "a move has no other source");
    log.reassign(None).unwrap();
    log.fence(0);
    assert_eq!(names(&log.cluster.may_restart(0).unwrap()), ["t-0"]);
}

#[test]
fn lists_name_the_first_and_count_all() {
    let mut log = Log::with_brokers(2);
    let replicas: Vec<&[BrokerId]> = vec![&[0, 1]; MAX_LISTED + 5];
    log.ok(&create("t", &replicas));
    log.fence(0);
    let health = log.cluster.health();
    assert_eq!(health.under_min_isr.count, MAX_LISTED as u64 + 5);
    assert_eq!(health.under_min_isr.first.len(), MAX_LISTED);
    assert!(
        health
            .under_min_isr
            .to_string()
            .ends_with("t-19 (1 in sync, 2 needed) and 5 more")
    );
}

#[test]
fn health_tells_offline_under_and_at_min_isr_apart() {
    let mut log = Log::with_brokers(4);
    for topic in ["t", "offline", "moving"] {
        log.create(topic, &[0, 1, 2]);
    }
    log.create("solo", &[0]);
    assert_eq!(log.cluster.health(), Health::default());
    log.ok(&Command::ReassignPartitions {
        moves: vec![Move {
            partition: at("moving"),
            target: Some(vec![0, 1, 3]),
            throttle: None,
        }],
    });
    let health = log.cluster.health();
    assert_eq!(names(&health.moving), ["moving-0"]);
    assert!(health.under_replicated.is_empty(), "what a move adds is not missing");
    log.set_isr(&[0, 1]);
    let health = log.cluster.health();
    assert_eq!(
        (names(&health.at_min_isr), names(&health.under_replicated)),
        (vec!["t-0".into()], vec!["t-0".into()])
    );
    assert_eq!(health.under_replicated.first[0].reason, "not in sync: [2]");
    log.set_isr(&[0]);
    let health = log.cluster.health();
    assert_eq!(
        (names(&health.under_min_isr), health.at_min_isr.count),
        (vec!["t-0".into()], 0)
    );
    log.fence(0);
    let health = log.cluster.health();
    assert_eq!(names(&health.offline), ["solo-0"]);
    assert!(health.offline.first[0].reason.contains("start one of the brokers [0]"));
    log.begin_life(
        0,
        2,
        DirectoryReport {
            damaged: true,
            ..clean(1)
        },
    );
    assert!(
        log.cluster.health().offline.first[0]
            .reason
            .contains("unclean election may choose among [0]")
    );
}

#[test]
fn what_a_partition_survives_is_told_in_numbers_and_words() {
    let mut log = Log::with_partition();
    let survival = |log: &Log| log.cluster.survival(&at("t")).unwrap();
    assert_eq!(
        survival(&log),
        Survival {
            promised_losses: 1,
            losses_now: 2,
            outages_now: 1,
            has_leader: true
        }
    );
    assert_eq!(
        survival(&log).to_string(),
        "acknowledged records survive the loss of 1 broker (2 brokers at the moment); writes go on with 1 broker down"
    );
    log.set_isr(&[0, 1]);
    log.set_isr(&[0]);
    let now = survival(&log);
    assert_eq!((now.losses_now, now.outages_now), (1, 0));
    log.fence(0);
    assert!(!survival(&log).has_leader || log.t().0 == Some(1));
    assert!(log.cluster.survival(&at("u")).is_err());
}

#[test]
fn loads_count_leaders_and_replicas_of_idle_brokers_too() {
    let mut log = Log::with_brokers(3);
    log.ok(&create("t", &[&[0, 1], &[1, 0]]));
    log.fence(0);
    let load = |leaders, preferred, replicas| BrokerLoad {
        leaders,
        preferred,
        replicas,
    };
    assert_eq!(
        log.cluster.loads().into_values().collect::<Vec<_>>(),
        [load(0, 1, 2), load(2, 1, 2), load(0, 0, 0)]
    );
}

fn kinds(delta: &MetadataDelta) -> Vec<(String, u32, ReplicaChangeKind)> {
    let name = |change: &ReplicaChange| (change.topic.name.clone(), change.partition, change.kind);
    delta.replicas.iter().map(name).collect()
}

#[test]
fn a_delta_tells_what_changed_for_one_broker() {
    use ReplicaChangeKind as K;
    let mut log = Log::with_partition();
    log.create("u", &[0]);
    let between = |before: &Cluster, log: &Log, broker| MetadataDelta::between(before, &log.cluster, broker);
    let before = log.cluster.clone();
    assert!(between(&before, &log, 0).is_empty());

    log.set_isr(&[0, 1]);
    assert_eq!(kinds(&between(&before, &log, 2)), [("t".into(), 0, K::Changed)]);
    assert!(between(&before, &log, 7).is_empty());
    log.fence(0);
    let delta = between(&before, &log, 1);
    assert_eq!(kinds(&delta), [("t".into(), 0, K::NewLeaderEpoch)]);
    assert_eq!(delta.brokers, [0]);

    log.unfence(0, &[]);
    let before = log.cluster.clone();
    log.reassign(Some(&[1, 0])).unwrap();
    assert_eq!(
        kinds(&between(&before, &log, 2)),
        [("t".into(), 0, K::Changed)],
        "0 is not in sync yet"
    );
    log.set_isr(&[0, 1]);
    assert_eq!(kinds(&between(&before, &log, 2)), [("t".into(), 0, K::Removed)]);

    let before = log.cluster.clone();
    log.configure("flush", "os");
    let delta = between(&before, &log, 0);
    assert_eq!((delta.replicas.len(), delta.reconfigured_topics.len()), (0, 1));
    assert!(between(&before, &log, 2).is_empty());

    // Deleted and created anew under one name is both.
    let before = log.cluster.clone();
    log.ok(&Command::DeleteTopic {
        name: "u".into(),
        id: None,
    });
    log.ok(&Command::CreateTopic(CreateTopic {
        name: "u".into(),
        id: uuid::Uuid::from_u128(99),
        assignments: vec![vec![0]],
        configs: [].into(),
        now_ms: 0,
        owner: None,
    }));
    let delta = between(&before, &log, 0);
    assert_eq!(kinds(&delta), [("u".into(), 0, K::Deleted), ("u".into(), 0, K::Added)]);
    assert_eq!(delta.deleted_topics[0].id, topic_id("u"));
    assert!(
        Arc::ptr_eq(&before.topics["t"], &log.cluster.topics["t"]),
        "topics stay shared"
    );
}
