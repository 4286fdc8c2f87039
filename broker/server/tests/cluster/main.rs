//! Brokers as processes: they find each other, lose each other and come back.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod beginning;
mod damage;
mod failover;
mod forming;
mod forwarding;
mod groups;
mod learner;
mod node;
mod producers;
mod recovery;

use tempfile::TempDir;

use node::{Node, is_available};

/// A folder, and three brokers in service, all of them voters.
async fn three() -> (TempDir, [Node; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let mut zero = Node::new(&folder, 0, &[]);
    let mut one = Node::new(&folder, 1, &[&zero]);
    // Any broker lets others in; the first of these does not answer.
    let mut two = Node::new(&folder, 2, &[&one]);
    two.seeds.insert(0, node::free_address());
    zero.start().await;
    one.launch();
    two.launch();
    one.wait_ready().await;
    two.wait_ready().await;
    for node in [&zero, &one, &two] {
        node.wait_cluster("three voters", |cluster| {
            let voters = cluster.quorum.as_ref().map_or(0, |quorum| quorum.voters.len());
            voters == 3 && (0..3).all(|id| is_available(cluster, id))
        })
        .await;
    }
    (folder, [zero, one, two])
}

/// The broker that leads the metadata quorum.
async fn controller(nodes: &[Node; 3]) -> usize {
    let leader = nodes[0].cluster().await.quorum.and_then(|quorum| quorum.leader_id);
    let leader = leader.unwrap();
    nodes.iter().position(|node| i64::from(node.id) == leader).unwrap()
}
