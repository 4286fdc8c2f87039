//! The lag of groups in the metrics.

use millrace_proto::v1;

use super::{Cluster, PATIENCE, commit};

/// Waits until the metrics satisfy `holds`.
async fn metrics(cluster: &Cluster, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let waiting = async {
        loop {
            let text = cluster.running.broker().metrics.render();
            if holds(&text) {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, waiting).await;
    told.unwrap_or_else(|_| panic!("not {what}: {}", cluster.running.broker().metrics.render()))
}

#[tokio::test]
async fn the_lag_of_groups_is_told_by_the_metrics_of_their_coordinator() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 2).await;
    cluster.publish_ten("t").await;
    let mut groups = cluster.groups().await;
    for (partition, offset) in [(0, 4), (1, 0)] {
        let request = commit("t", partition, offset, false);
        groups.commit_offsets(request).await.unwrap();
    }
    let of = |partition: i32, unit: &str| {
        format!("millrace_consumer_group_lag_{unit}{{group=\"g\",topic=\"t\",partition=\"{partition}\"}} ")
    };
    let text = metrics(&cluster, "the lag of both partitions", |text| {
        text.contains(&of(0, "seconds")) && text.contains(&of(1, "records"))
    })
    .await;
    assert!(text.contains(&format!("{}6\n", of(0, "records"))), "{text}");
    assert!(text.contains(&of(0, "seconds")), "{text}");
    assert!(text.contains(&format!("{}0\n", of(1, "records"))), "{text}");
    assert!(text.contains(&format!("{}0.0\n", of(1, "seconds"))), "{text}");
    assert!(
        text.contains("millrace_consumer_group_lag_omitted_partitions 0\n"),
        "{text}"
    );
    assert!(
        text.contains("millrace_consumer_group_lag_unknown_partitions 0\n"),
        "{text}"
    );
    assert!(
        text.contains("millrace_consumer_group_lag_unknown_groups 0\n"),
        "{text}"
    );
    let request = v1::DeleteGroupRequest {
        group: "g".into(),
        ..v1::DeleteGroupRequest::default()
    };
    groups.delete_group(request).await.unwrap();
    let is_gone = |text: &str| !text.contains("group=\"g\"");
    metrics(&cluster, "without a group that is deleted", is_gone).await;
}
