//! The stored form: entries of earlier versions still apply.

use super::{super::*, support::*};

/// A metadata log as a single broker of the version without replication wrote it.
const OLD_LOG: &[&str] = &[
    r#"{"RegisterBroker":{"broker_id":0,"incarnation":"00000000-0000-0000-0000-000000000001","cluster_id":"c1","directory_id":"00000000-0000-0000-0000-0000000003e8","address":"h:9650","rack":"","version":"0.1.0","now_ms":1}}"#,
    r#"{"CreateTopic":{"name":"t","id":"00000000-0000-0000-0000-000000000074","assignments":[[0],[0]],"configs":{"flush":"os"},"now_ms":2}}"#,
    r#"{"AllocateProducerIds":{"broker_id":0,"broker_epoch":1}}"#,
    r#"{"AlterTopicConfigs":{"name":"t","change":{"set":{"retention.ms":"5"},"unset":["flush"]}}}"#,
    r#"{"CreatePartitions":{"name":"t","present":2,"added":[[0]]}}"#,
    r#"{"RegisterBroker":{"broker_id":0,"incarnation":"00000000-0000-0000-0000-000000000002","cluster_id":"c1","directory_id":"00000000-0000-0000-0000-0000000003e8","address":"h:9650","rack":"","version":"0.1.0","now_ms":9}}"#,
    r#"{"CreateTopic":{"name":"u","id":"00000000-0000-0000-0000-000000000075","assignments":[[0]],"configs":{},"now_ms":10}}"#,
    r#"{"DeleteTopic":{"name":"u","id":null}}"#,
];

/// The state that the version without replication made of it, as its snapshot.
const OLD_SNAPSHOT: &str = r#"{"cluster_id":"c1","brokers":{"0":{"id":0,"epoch":6,"incarnation":"00000000-0000-0000-0000-000000000002","directory_id":"00000000-0000-0000-0000-0000000003e8","address":"h:9650","rack":"","version":"0.1.0","registered_at_ms":9,"fenced":false}},"topics":{"t":{"name":"t","id":"00000000-0000-0000-0000-000000000074","partitions":[{"replicas":[0],"isr":[0],"leader":0,"leader_epoch":1,"partition_epoch":1},{"replicas":[0],"isr":[0],"leader":0,"leader_epoch":1,"partition_epoch":1},{"replicas":[0],"isr":[0],"leader":0,"leader_epoch":1,"partition_epoch":1}],"configs":{"retention.ms":"5"},"created_at_ms":2,"growth":[{"before_producer_id":1000,"partitions":2}]}},"next_producer_id":1000,"version":8}"#;

fn replayed() -> Cluster {
    let mut cluster = Cluster::default();
    for (index, entry) in (1..).zip(OLD_LOG) {
        let command: Command = serde_json::from_str(entry).unwrap();
        cluster.apply(index, &command).unwrap();
        cluster.validate().unwrap();
    }
    cluster
}

#[test]
fn an_old_log_and_an_old_snapshot_make_the_same_state() {
    let snapshot: Cluster = serde_json::from_str(OLD_SNAPSHOT).unwrap();
    snapshot.validate().unwrap();
    assert_eq!(replayed(), snapshot);
}

#[test]
fn an_old_broker_goes_on_by_a_lease() {
    let mut cluster = replayed();
    let known = cluster.brokers[&0].clone();
    let mut start = start(0, 3, crashed(known.epoch));
    start.replaces = Some(known.epoch);
    start.registration.directory_id = known.directory_id;
    let registered = cluster.apply(9, &Command::StartBroker(start)).unwrap();
    assert_eq!(registered, Outcome::Registered { broker_epoch: 9 });
    assert_eq!(cluster.topics["t"].partitions[0].leader, None);
    let unfence = Command::UnfenceBroker(UnfenceBroker {
        broker_id: 0,
        broker_epoch: 9,
        applied_index: 9,
        log_ends: vec![],
    });
    cluster.apply(10, &unfence).unwrap();
    cluster.validate().unwrap();
    let p = &cluster.topics["t"].partitions[2];
    assert_eq!((p.leader, p.leader_epoch), (Some(0), 3));
}

#[test]
fn every_command_outcome_and_state_survives_being_written_and_read() {
    let mut log = Log::with_partition();
    log.set_isr_and_floor(&[0, 1], 7);
    log.shut_down(2);
    log.fence(1);
    log.ok(&Command::RegisterVoter {
        broker_id: 0,
        directory_id: directory(0),
        highest_in_use: 3,
        bootstrap_id: None,
    });
    let text = serde_json::to_string(&log.cluster).unwrap();
    assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), log.cluster);
    let stored = r#"{"AlterPartitions":{"broker_id":0,"broker_epoch":1,"changes":[{"partition":{"topic":"t","topic_id":"00000000-0000-0000-0000-000000000774","partition":0},"leader_epoch":0,"partition_epoch":0,"isr":[{"broker_id":0,"broker_epoch":1}]}]}}"#;
    let command: Command = serde_json::from_str(stored).unwrap();
    let answer = Log::with_partition().run(&command).unwrap();
    let text = serde_json::to_string(&answer).unwrap();
    assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), answer);
    let Outcome::Altered(answers) = answer else { panic!() };
    assert_eq!(answers[0].as_ref().unwrap().partition.isr, [0]);
}
