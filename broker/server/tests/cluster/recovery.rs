//! Most voters are lost for good.

use std::{collections::BTreeSet, time::Duration};

use millrace_proto::v1::ReplaceBrokerDirectoryRequest;
use millrace_server::quorum;

use super::{
    node::{Node, is_available},
    three,
};

/// Two of three disks are gone. The third broker goes on alone, the others come back with empty disks; an old one that
/// was found again finds no place.
#[tokio::test]
async fn a_quorum_that_has_lost_its_majority_begins_anew() {
    let (folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    nodes[0].wait_cluster("the topic", |cluster| cluster.topics == 1).await;
    let lost = BTreeSet::from([1, 2]);
    let running = quorum::recover(&nodes[0].data_dir, &lost, true).unwrap_err();
    assert!(running.to_string().contains("in use by another process"), "{running}");
    let mut voters = Vec::new();
    for node in &mut nodes {
        node.kill();
        voters.push(u64::try_from(node.voter_id()).unwrap());
    }
    let found = folder.path().join("found");
    std::fs::rename(&nodes[1].data_dir, &found).unwrap();
    std::fs::remove_dir_all(&nodes[2].data_dir).unwrap();

    let stake = quorum::recover(&nodes[0].data_dir, &lost, false).unwrap();
    let brokers =
        |members: &[quorum::NamedMember]| members.iter().map(|m| (m.voter_id, m.broker_id)).collect::<Vec<_>>();
    assert_eq!(brokers(&stake.lost), [(voters[1], Some(1)), (voters[2], Some(2))]);
    assert_eq!((stake.topics, stake.survivor.broker_id), (1, Some(0)));
    assert_eq!(quorum::recover(&nodes[0].data_dir, &lost, true).unwrap(), stake);
    nodes[0].start().await;
    let cluster = nodes[0].cluster().await;
    assert_eq!((cluster.topics, cluster.quorum.unwrap().voters.len()), (1, 1));
    nodes[0].create_topic("payments", 1, 1).await;

    let mut old = Node::new(&folder, 1, &[&nodes[0]]);
    old.data_dir = found;
    old.launch_with(&[]);
    old.wait_says("waiting for the metadata quorum's leader").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(old.readiness().await.map(|(code, _)| code), Some(200));
    old.kill();

    for id in [1, 2] {
        nodes[0]
            .wait_cluster("fenced", |cluster| !is_available(cluster, id))
            .await;
        let request = ReplaceBrokerDirectoryRequest {
            broker_id: id,
            accept_data_loss: true,
            ..ReplaceBrokerDirectoryRequest::default()
        };
        nodes[0].admin().await.replace_broker_directory(request).await.unwrap();
    }
    let seed = nodes[0].internal;
    for node in &mut nodes[1..] {
        node.seeds = vec![seed];
        node.launch();
    }
    for node in &mut nodes[1..] {
        node.wait_ready().await;
    }
    for node in &nodes {
        node.wait_cluster("three voters", |cluster| {
            let voters = cluster.quorum.as_ref().map_or(0, |quorum| quorum.voters.len());
            voters == 3 && (0..3).all(|id| is_available(cluster, id)) && cluster.topics == 2
        })
        .await;
    }
}
