//! What new replicas know of producers.

use std::time::Duration;

use bytes::Bytes;
use millrace_proto::{
    batch::{BatchBuilder, Codec},
    v1::{
        AlterTopicRequest, DeleteMessagesRequest, ElectLeadersRequest, ElectionKind, ErrorReason, PartitionName,
        ProducePartition, ProduceRequest, ProducedPartition,
    },
};

use super::{
    node::{Node, PATIENCE},
    three,
};

/// Sends a batch to the leader of "orders"-0, which may not have heard yet that it leads.
async fn produce(leader: &Node, records: Bytes) -> ProducedPartition {
    let produced = async {
        loop {
            let answer = try_to_produce(leader, records.clone()).await;
            let error = answer.error.as_ref().map(|error| error.reason());
            if !matches!(error, Some(ErrorReason::NotLeader | ErrorReason::LeaderNotAvailable)) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, produced).await.unwrap()
}

async fn try_to_produce(leader: &Node, records: Bytes) -> ProducedPartition {
    let request = ProduceRequest {
        partitions: vec![ProducePartition {
            topic: "orders".into(),
            records,
            ..ProducePartition::default()
        }],
        ..ProduceRequest::default()
    };
    let mut log = leader.log_service().await;
    let mut answers = log.produce(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    answer.partitions.into_iter().next().unwrap()
}

/// A batch is stored, its answer lost, its record deleted; then the partition gets replicas that have never seen it. One
/// of them leads when the producer tries again.
#[tokio::test]
async fn a_new_replica_knows_the_producers_of_deleted_records() {
    let (_folder, nodes) = three().await;
    nodes[0].create_topic("orders", 1, 1).await;
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1_000, None, Some(b"once"), &[]).unwrap();
    builder.set_producer(7, 0, 0);
    let batch = builder.build().unwrap();
    let topic = nodes[0].topic("orders").await.unwrap();
    let first = usize::try_from(topic.partitions[0].replicas[0]).unwrap();
    let stored = produce(&nodes[first], batch.clone()).await;
    assert_eq!((&stored.error, stored.duplicate, stored.base_offset), (&None, false, 0));

    let mut admin = nodes[first].admin().await;
    let request = DeleteMessagesRequest {
        topic: "orders".into(),
        before_offset: -1,
        ..DeleteMessagesRequest::default()
    };
    assert_eq!(admin.delete_messages(request).await.unwrap().into_inner().log_start, 1);
    let request = AlterTopicRequest {
        name: "orders".into(),
        replication_factor: Some(3),
        ..AlterTopicRequest::default()
    };
    admin.alter_topic(request).await.unwrap();
    let in_sync = async {
        while nodes[first].topic("orders").await.unwrap().partitions[0]
            .in_sync_replicas
            .len()
            < 3
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, in_sync).await.unwrap();

    let next = (first + 1) % 3;
    let request = ElectLeadersRequest {
        partitions: vec![PartitionName {
            topic: "orders".into(),
            partition: 0,
        }],
        kind: ElectionKind::InSync.into(),
        broker_id: Some(nodes[next].id),
        ..ElectLeadersRequest::default()
    };
    let elected = admin.elect_leaders(request).await.unwrap().into_inner();
    assert_eq!(elected.results[0].leader_id, Some(nodes[next].id), "{elected:?}");
    let again = produce(&nodes[next], batch).await;
    assert_eq!((&again.error, again.duplicate), (&None, true), "{again:?}");
}
