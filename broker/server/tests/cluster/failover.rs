//! Brokers die, stand still, leave and come back.

use std::time::{Duration, Instant};

use millrace_proto::v1::{Acks, ElectLeadersRequest, ElectionKind, Message, PartitionName, PublishRequest};

use super::{
    controller,
    node::{Node, PATIENCE, is_available},
    three,
};

/// Well below `shutdown.timeout.ms`, for which a broker would wait that waits in vain.
const NOT_WAITED: Duration = Duration::from_secs(20);

/// Kills or freezes one broker; answers with how long it took the others to fence it and to have
/// everything it led, as `witness` sees it.
async fn loss_seen_by(nodes: &mut [Node; 3], lost: usize, witness: usize, take: fn(&mut Node)) -> Duration {
    let id = nodes[lost].id;
    let began = Instant::now();
    take(&mut nodes[lost]);
    nodes[witness]
        .wait_cluster("fenced", |cluster| {
            !is_available(cluster, id) && cluster.offline_partitions == 0
        })
        .await;
    let leads = |broker: &millrace_proto::v1::BrokerDescription| broker.broker_id == id && broker.leader_partitions > 0;
    assert!(!nodes[witness].cluster().await.brokers.iter().any(leads));
    began.elapsed()
}

#[tokio::test]
async fn a_killed_broker_is_fenced_soon_and_comes_back_in_a_new_life() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 9, 3).await;
    let leading = controller(&nodes).await;
    let (other, witness) = ((leading + 1) % 3, (leading + 2) % 3);

    let epoch = nodes[witness].view_of(nodes[other].id).await.broker_epoch;
    let took = loss_seen_by(&mut nodes, other, witness, Node::kill).await;
    println!("a broker: fenced and replaced after {took:?}");
    let id = nodes[other].id;
    nodes[other].start().await;
    // It is ready when it knows itself that it is in service; others hear of it in their time.
    nodes[witness]
        .wait_cluster("back", |cluster| is_available(cluster, id))
        .await;
    assert!(nodes[witness].view_of(id).await.broker_epoch > epoch);

    let took = loss_seen_by(&mut nodes, leading, witness, Node::kill).await;
    println!("the quorum's leader: fenced and replaced after {took:?}");
    let id = nodes[leading].id;
    nodes[leading].start().await;
    nodes[witness]
        .wait_cluster("back", |cluster| is_available(cluster, id))
        .await;
}

#[tokio::test]
async fn a_frozen_broker_is_fenced_and_comes_back_in_the_same_life() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 9, 3).await;
    let leading = controller(&nodes).await;
    for (frozen, witness) in [((leading + 1) % 3, leading), (leading, (leading + 2) % 3)] {
        let id = nodes[frozen].id;
        let epoch = nodes[witness].view_of(id).await.broker_epoch;
        loss_seen_by(&mut nodes, frozen, witness, |node| node.freeze()).await;
        nodes[frozen].thaw();
        nodes[witness]
            .wait_cluster("back", |cluster| (0..3).all(|id| is_available(cluster, id)))
            .await;
        assert_eq!(nodes[witness].view_of(id).await.broker_epoch, epoch);
        nodes[frozen].wait_ready().await;
    }
}

/// Others lead before it is gone, so that nobody is ever without a leader.
#[tokio::test]
async fn a_stop_in_order_leaves_no_partition_without_a_leader() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 9, 3).await;
    nodes[0].create_topic("alone", 3, 1).await;
    let leading = controller(&nodes).await;
    let witness = (leading + 1) % 3;
    nodes[witness]
        .wait_cluster("two topics", |cluster| cluster.topics == 2)
        .await;
    let began = Instant::now();
    let status = nodes[leading].stop().await;
    let took = began.elapsed();
    assert!(status.success(), "{}", nodes[leading].log());
    println!("stopped in order after {took:?}");
    assert!(
        took < NOT_WAITED,
        "partitions that nobody can take over were waited for"
    );
    let topic = nodes[witness].topic("orders").await.unwrap();
    for partition in &topic.partitions {
        assert_ne!(partition.leader_id, Some(nodes[leading].id), "{partition:?}");
        assert!(partition.leader_id.is_some(), "{partition:?}");
    }
    nodes[leading].start().await;
    // All at once, as when a machine is shut down: nobody waits for anybody.
    let began = Instant::now();
    let [a, b, c] = &mut nodes;
    let stopped = tokio::join!(a.stop(), b.stop(), c.stop());
    assert!(stopped.0.success() && stopped.1.success() && stopped.2.success());
    println!("all stopped after {:?}", began.elapsed());
    assert!(began.elapsed() < NOT_WAITED);
}

/// What a write waits for are brokers that are gone for good, or leave as well.
#[tokio::test]
async fn the_last_one_to_stop_waits_for_no_write_that_nobody_can_confirm() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    let leader = nodes[0].topic("orders").await.unwrap().partitions[0].leader_id.unwrap();
    let last = nodes.iter().position(|node| node.id == leader).unwrap();
    nodes[last].wait_cluster("a topic", |cluster| cluster.topics == 1).await;
    assert!(nodes[last].stop().await.success());
    // Longer than this test may take.
    nodes[last].launch_with(&["--set", "shutdown.timeout.ms=600000"]);
    nodes[last].wait_ready().await;
    let id = nodes[last].id;
    let mut admin = nodes[last].admin().await;
    wait_until("in sync", async || {
        let partition = nodes[last].topic("orders").await.unwrap().partitions.remove(0);
        partition.in_sync_replicas.len() == 3
    })
    .await;
    let elect = ElectLeadersRequest {
        partitions: vec![PartitionName {
            topic: "orders".into(),
            partition: 0,
        }],
        kind: ElectionKind::InSync.into(),
        broker_id: Some(id),
        ..ElectLeadersRequest::default()
    };
    admin.elect_leaders(elect).await.unwrap();
    wait_until("leading", async || {
        nodes[last].topic("orders").await.unwrap().partitions[0].leader_id == Some(id)
    })
    .await;

    for (at, node) in nodes.iter().enumerate() {
        if at != last {
            node.freeze();
        }
    }
    let request = PublishRequest {
        topic: "orders".into(),
        messages: vec![Message::default()],
        acks: Acks::All.into(),
        ..PublishRequest::default()
    };
    let mut messaging = nodes[last].messaging().await;
    let publishing = tokio::spawn(async move { messaging.publish(request).await });
    let log = nodes[last].data_dir.join("orders-0");
    wait_until("written", async || {
        let files = std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().path());
        let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        segments.map(|path| path.metadata().unwrap().len()).sum::<u64>() > 0
    })
    .await;
    assert!(!publishing.is_finished());
    for (at, node) in nodes.iter_mut().enumerate() {
        if at != last {
            node.kill();
        }
    }
    assert!(nodes[last].stop().await.success());
    let told = nodes[last].log();
    assert!(told.contains("calls in flight did not end"), "{told}");
    publishing.await.unwrap().unwrap_err();
}

/// Asks until it is so.
async fn wait_until(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
