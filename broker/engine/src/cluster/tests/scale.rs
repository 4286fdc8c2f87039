use std::sync::Arc;

use super::{super::*, support::*};

/// A broker that leads 10,000 of 100,000 partitions is fenced in one pass, and topics that it
/// has nothing of stay shared.
#[test]
fn a_large_cluster_survives_the_fence_of_one_broker() {
    let mut cluster = Cluster::default();
    let mut index = 0;
    let mut apply = |cluster: &mut Cluster, command: &Command| {
        index += 1;
        cluster.apply(index, command).unwrap();
        index
    };
    for id in 0..11 {
        let epoch = apply(
            &mut cluster,
            &Command::StartBroker(start(id, 1, DirectoryReport::default())),
        );
        let unfence = Command::UnfenceBroker(UnfenceBroker {
            broker_id: id,
            broker_epoch: epoch as i64,
            applied_index: epoch,
            log_ends: vec![],
        });
        apply(&mut cluster, &unfence);
    }
    // Ten topics of 10,000; broker n leads topic n's; 10 holds nothing of topic 9.
    for topic in 0..10 {
        let replicas: &[BrokerId] = &[topic, (topic + 1) % 9, (topic + 2) % 9];
        let assignments = vec![replicas; MAX_PARTITIONS_PER_TOPIC];
        apply(&mut cluster, &create(&format!("t{topic}"), &assignments));
    }
    let before = cluster.clone();
    let fence = Command::FenceBroker {
        broker_id: 0,
        broker_epoch: cluster.brokers[&0].epoch,
        reason: FenceReason::LeaseExpired,
    };
    apply(&mut cluster, &fence);
    Cluster::validate_step(&before, &cluster).unwrap();
    cluster.validate().unwrap();
    let loads = cluster.loads();
    assert_eq!((loads[&0].leaders, loads[&1].leaders), (0, 20_000));
    assert!(Arc::ptr_eq(&before.topics["t3"], &cluster.topics["t3"]));
    assert_eq!(MetadataDelta::between(&before, &cluster, 8).replicas.len(), 20_000);
}
