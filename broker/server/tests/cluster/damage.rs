//! A disk that has lost what was on it.

use std::{path::PathBuf, time::Duration};

use millrace_proto::v1::{Acks, Message, PublishRequest};

use super::{
    node::{Node, PATIENCE},
    three,
};

/// The one segment of "orders"-0.
fn segment(node: &Node) -> PathBuf {
    node.data_dir.join("orders-0").join("00000000000000000000.log")
}

async fn in_sync(node: &Node, id: i32) -> bool {
    let topic = node.topic("orders").await.unwrap();
    topic.partitions[0].in_sync_replicas.contains(&id)
}

/// It is down when a bit of what it has acknowledged flips. It gets the records again before it is
/// in sync.
#[tokio::test]
async fn a_damaged_replica_is_refilled() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    for _ in 0..20 {
        let request = PublishRequest {
            topic: "orders".into(),
            messages: vec![Message {
                value: Some(vec![b'x'; 1_000].into()),
                ..Message::default()
            }],
            acks: Acks::All.into(),
            ..PublishRequest::default()
        };
        nodes[0].messaging().await.publish(request).await.unwrap();
    }
    let leader = nodes[0].topic("orders").await.unwrap().partitions[0].leader_id.unwrap();
    let leader = usize::try_from(leader).unwrap();
    let damaged = (leader + 1) % 3;
    let id = nodes[damaged].id;
    // Until the directory has noted what is flushed, without which a bad end is taken for a torn one.
    tokio::time::sleep(Duration::from_secs(3)).await;
    nodes[damaged].kill();
    let path = segment(&nodes[damaged]);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    nodes[damaged].start().await;
    let refilled = async {
        while !in_sync(&nodes[leader], id).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refilled).await.unwrap();
    assert!(
        nodes[damaged].log().contains("DamagedReplica"),
        "{}",
        nodes[damaged].log()
    );
    let [copy, origin] = [damaged, leader].map(|at| std::fs::read(segment(&nodes[at])).unwrap());
    assert!(copy == origin, "{} bytes of {}", copy.len(), origin.len());
}
