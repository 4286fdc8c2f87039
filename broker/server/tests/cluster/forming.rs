//! Forming a cluster, and who is not let in.

use std::{path::Path, time::Duration};

use millrace_proto::internal::v1::{JoinRequest, cluster_client::ClusterClient, join_response::Result as Joined};

use super::{
    node::{Node, free_address, is_available},
    three,
};

#[tokio::test]
async fn three_brokers_see_the_same_and_restart_without_seeds() {
    let (_folder, mut nodes) = three().await;
    nodes[1].create_topic("orders", 3, 3).await;
    let before = nodes[0].cluster().await;
    for node in &nodes {
        node.wait_cluster("a topic", |cluster| cluster.topics == 1).await;
        let cluster = node.cluster().await;
        assert_eq!(cluster.cluster_id, before.cluster_id);
        let racks: Vec<&str> = cluster.brokers.iter().map(|broker| broker.rack.as_str()).collect();
        assert_eq!(racks, ["r0", "r1", "r2"]);
        assert_eq!(node.topic("orders").await.unwrap().partitions.len(), 3);
    }
    // All at once, and none of them can ask anyone.
    for node in &mut nodes {
        node.kill();
        node.seeds.clear();
    }
    for node in &mut nodes {
        node.launch_with(&[]);
    }
    for node in &mut nodes {
        node.wait_ready().await;
    }
    for node in &nodes {
        let after = node.cluster().await;
        assert_eq!(
            (after.cluster_id.as_str(), after.topics),
            (before.cluster_id.as_str(), 1)
        );
        let mut epochs = after.brokers.iter().zip(&before.brokers);
        assert!(epochs.all(|(after, before)| after.broker_epoch > before.broker_epoch));
    }
}

#[tokio::test]
async fn an_empty_or_foreign_disk_is_refused_with_the_next_step() {
    let (folder, mut nodes) = three().await;
    let cluster_id = nodes[0].cluster().await.cluster_id;
    nodes[1].kill();
    nodes[2].kill();

    // Two directories are swapped.
    let dirs = [nodes[1].data_dir.clone(), nodes[2].data_dir.clone()];
    nodes[1].data_dir.clone_from(&dirs[1]);
    nodes[1].launch();
    assert_eq!(nodes[1].ended().await.code(), Some(1));
    let log = nodes[1].log();
    assert!(
        log.contains("belongs to broker 2") && log.contains("mount broker 1's own volume"),
        "{log}"
    );
    nodes[1].data_dir.clone_from(&dirs[0]);
    nodes[1].start().await;

    // The disk is gone.
    nodes[2].data_dir = folder.path().join("empty");
    nodes[2].launch_with(&[]);
    assert_eq!(nodes[2].ended().await.code(), Some(1));
    assert!(nodes[2].log().contains("--format-if-empty"), "{}", nodes[2].log());
    nodes[2].launch();
    assert_eq!(nodes[2].ended().await.code(), Some(1));
    let log = nodes[2].log();
    assert!(log.contains("millrace broker replace-disk 2"), "{log}");
    // Not even without seeds does it begin a cluster: it was joining.
    let seeds = std::mem::take(&mut nodes[2].seeds);
    nodes[2].launch();
    assert_eq!(nodes[2].ended().await.code(), Some(1));
    assert!(nodes[2].log().contains("has begun to join a cluster"));
    nodes[0]
        .wait_cluster("fenced", |cluster| !is_available(cluster, 2))
        .await;

    // The right one is taken back.
    nodes[2].seeds = seeds;
    nodes[2].data_dir.clone_from(&dirs[1]);
    nodes[2].start().await;

    // A broker of another cluster.
    let mut other = Node::new(&folder, 7, &[&nodes[0]]);
    other.launch_with(&["--format-if-empty", "--set", "cluster.id=another"]);
    assert_eq!(other.ended().await.code(), Some(1));
    assert!(other.log().contains("another cluster"), "{}", other.log());
    assert_eq!(nodes[0].cluster().await.cluster_id, cluster_id);
    assert_eq!(nodes[0].cluster().await.brokers.len(), 3);
}

/// Only the metadata log is gone. The directory is no new one: no second cluster begins in it, and what the topics hold
/// is no stray.
#[tokio::test]
async fn a_lost_metadata_log_begins_no_second_cluster() {
    let (folder, mut nodes) = three().await;
    nodes[1].create_topic("orders", 1, 3).await;
    let cluster_id = nodes[1].cluster().await.cluster_id;
    nodes[0].kill();
    let (place, kept) = (nodes[0].data_dir.join("__metadata-0"), folder.path().join("kept"));
    std::fs::rename(&place, &kept).unwrap();
    // Alone, and where others would let it in.
    for seeds in [vec![], vec![nodes[1].internal]] {
        nodes[0].seeds = seeds;
        nodes[0].launch();
        assert_eq!(nodes[0].ended().await.code(), Some(1));
        let log = nodes[0].log();
        assert!(log.contains("millrace broker replace-disk 0"), "{log}");
        assert!(!place.exists());
        let mut found = std::fs::read_dir(&nodes[0].data_dir).unwrap();
        assert!(found.all(|entry| !entry.unwrap().file_name().to_string_lossy().ends_with("-stray")));
    }
    std::fs::rename(&kept, &place).unwrap();
    nodes[0].start().await;
    assert_eq!(nodes[0].cluster().await.cluster_id, cluster_id);
    nodes[0].wait_cluster("the topic", |cluster| cluster.topics == 1).await;
}

/// The first broker's disk comes back as it was when there were no others. It does not lead a quorum of its own beside
/// theirs.
#[tokio::test]
async fn an_older_image_of_the_first_disk_does_not_lead_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut zero = Node::new(&folder, 0, &[]);
    zero.start().await;
    assert!(zero.stop().await.success());
    let image = folder.path().join("image");
    copy(&zero.data_dir, &image);
    // Where nobody answers it is alone as before, and where those who answer wait for it.
    zero.seeds.push(free_address());
    zero.start().await;
    let mut one = Node::new(&folder, 1, &[&zero]);
    one.start().await;
    assert!(zero.stop().await.success());
    zero.seeds = vec![one.internal];
    zero.start().await;

    let mut two = Node::new(&folder, 2, &[&zero]);
    two.start().await;
    two.wait_cluster("three voters", |cluster| {
        cluster.quorum.as_ref().is_some_and(|quorum| quorum.voters.len() == 3)
    })
    .await;
    zero.kill();
    two.wait_cluster("another leader", |cluster| {
        let leader = cluster.quorum.as_ref().and_then(|quorum| quorum.leader_id);
        leader.is_some_and(|leader| leader != 0)
    })
    .await;
    let newest = std::mem::replace(&mut zero.data_dir, image);
    zero.seeds.push(two.internal);
    zero.launch();
    assert_eq!(zero.ended().await.code(), Some(1));
    let log = zero.log();
    assert!(
        log.contains("older image") && log.contains("millrace quorum remove 0"),
        "{log}"
    );
    zero.data_dir = newest;
    zero.start().await;
    assert_eq!(zero.cluster().await.brokers.len(), 3);
}

/// A directory as it is now.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_broker_waits_for_its_seeds_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = Node::new(&folder, 0, &[]);
    let mut joiner = Node::new(&folder, 1, &[&seed]);
    joiner.launch();
    joiner.wait_says("asking the seeds").await;
    seed.start().await;
    joiner.wait_ready().await;
    assert_eq!(seed.cluster().await.brokers.len(), 2);
    // A signal ends the waiting, too.
    let mut alone = Node::new(&folder, 2, &[]);
    alone.seeds.push(free_address());
    alone.launch();
    alone.wait_says("asking the seeds").await;
    assert!(alone.stop().await.success());
}

/// A crash between any two steps of joining.
#[tokio::test]
async fn joining_is_resumed_after_a_crash_at_any_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = Node::new(&folder, 0, &[]);
    seed.start().await;

    // It was admitted, and died before it knew.
    let mut one = Node::new(&folder, 1, &[]);
    one.seeds.push(free_address());
    one.launch();
    one.wait_says("asking the seeds").await;
    one.kill();
    let noted = std::fs::read_to_string(one.data_dir.join("join-state")).unwrap();
    let noted: serde_json::Value = serde_json::from_str(noted.lines().next().unwrap()).unwrap();
    let directory_id: uuid::Uuid = noted["directoryId"].as_str().unwrap().parse().unwrap();
    let asked = JoinRequest {
        node_id: 1,
        directory_id: directory_id.as_bytes().to_vec().into(),
        incarnation: uuid::Uuid::new_v4().as_bytes().to_vec().into(),
        address: "h:1".into(),
        internal_address: "h:2".into(),
        ..JoinRequest::default()
    };
    let mut voter_ids = Vec::new();
    for _ in 0..2 {
        let mut client = ClusterClient::connect(format!("http://{}", seed.internal))
            .await
            .unwrap();
        let answer = client.join(asked.clone()).await.unwrap().into_inner();
        let Some(Joined::Admitted(admitted)) = answer.result else {
            panic!("{answer:?}")
        };
        voter_ids.push(admitted.voter_id);
    }
    assert_eq!(voter_ids, [2, 2], "the same question has the same answer");
    one.seeds = vec![seed.internal];
    one.start().await;
    assert_eq!(one.voter_id(), 2);
    assert_eq!(one.view_of(1).await.directory_id, directory_id.to_string());

    // Anywhere else.
    let mut two = Node::new(&folder, 2, &[&seed, &one]);
    for after_ms in (5..80).step_by(5) {
        two.launch();
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        two.kill();
    }
    two.start().await;
    assert_eq!(two.voter_id(), 3);
    seed.wait_cluster("three brokers", |cluster| (0..3).all(|id| is_available(cluster, id)))
        .await;
}

/// One after the other, also the one that began the cluster. No seed leads to any of the new addresses.
#[tokio::test]
async fn brokers_that_come_back_under_other_addresses_are_found() {
    let (_folder, mut nodes) = three().await;
    nodes[0].seeds = vec![nodes[1].internal, nodes[2].internal];
    for node in &mut nodes {
        assert!(node.stop().await.success());
        node.internal = free_address();
        node.start().await;
    }
    // Two of them decide without the third, and find each other.
    nodes[0].kill();
    for node in &nodes[1..] {
        node.wait_cluster("another leader", |cluster| {
            let leader = cluster.quorum.as_ref().and_then(|quorum| quorum.leader_id);
            leader.is_some_and(|leader| leader != 0)
        })
        .await;
    }
    for (at, name) in [(1, "orders"), (2, "payments")] {
        nodes[at].create_topic(name, 1, 2).await;
    }
    nodes[0].start().await;
    for node in &nodes {
        node.wait_cluster("the topics", |cluster| cluster.topics == 2).await;
    }
}
