//! Records of groups that can't be read.

use super::*;

/// What can't be read is not taken for nothing: members would begin anew, and offsets be written over.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_told_and_never_an_empty_group() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    cluster.publish_ten("t").await;
    assert_eq!(cluster.commit(5, false).await.unwrap(), None);
    let Cluster { folder, running } = cluster;
    running.stop().await.unwrap();
    let number = group_partition("g", 4);
    let log = format!("data/__consumer_offsets-{number}/00000000000000000000.log");
    let log = folder.path().join(log);
    let mut bytes = std::fs::read(&log).unwrap();
    // The text beside the offset.
    let at = bytes.windows(4).rposition(|window| window == b"mark").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let running = crate::start(config(folder.path().join("data"))).await.unwrap();
    let cluster = Cluster { folder, running };

    let fetch = v1::FetchOffsetsRequest {
        group: "g".into(),
        ..v1::FetchOffsetsRequest::default()
    };
    let began = std::time::Instant::now();
    let refused = loop {
        let refused = cluster.groups().await.fetch_offsets(fetch.clone()).await.unwrap_err();
        match reason(&refused) {
            ErrorReason::CoordinatorNotAvailable => assert!(began.elapsed() < PATIENCE, "{refused:?}"),
            _ => break refused,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(reason(&refused), ErrorReason::GroupUnreadable, "{refused:?}");
    let refused = cluster.commit(1, false).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::GroupUnreadable, "{refused:?}");
    let broker = cluster.running.broker();
    assert!(broker.metrics.group_load_failures.get() > 0);
    let told = loop {
        let hosted = broker.partitions.of_topic(crate::groups::NAME);
        let told: Vec<String> = hosted.iter().filter_map(|partition| partition.problem()).collect();
        if !told.is_empty() {
            break told;
        }
        assert!(began.elapsed() < PATIENCE, "operators are not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(told.len() == 1 && told[0].contains("offsets"), "{told:?}");
    assert_eq!(std::fs::read(&log).unwrap(), bytes, "nothing is written over it");
}
