//! The controller as it runs: watches, queues, many objects at once.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod topic_support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_operator::{http::Life, topic};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use topic_support::World;

struct Running {
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(world: &World) -> Self {
        let ending = CancellationToken::new();
        let life = Arc::new(Life::new(Duration::from_secs(60)));
        let task = tokio::spawn(topic::run(world.context.clone(), life, None, ending.clone()));
        Self { ending, task }
    }

    async fn stop(self) {
        self.ending.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("it ends")
            .unwrap();
    }
}

fn is(world: &World, name: &str, status: &str, reason: &str) -> bool {
    let conditions = world.conditions("a", name);
    conditions
        .iter()
        .any(|(kind, now, why)| kind == "Ready" && now == status && why == reason)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_topics_and_clusters_are_followed() {
    let world = World::new().await;
    world.topic("a", "broken", json!({"deletionPolicy": "Archive"}));
    world.topic("a", "t", json!({"partitions": 1}));
    world.topic("a", "early", json!({"clusterRef": {"name": "late"}}));
    let running = Running::start(&world);
    until("ready", || is(&world, "t", "True", "Ready")).await;
    until("told", || is(&world, "broken", "False", "InvalidSpec")).await;
    until("told", || is(&world, "early", "False", "ClusterNotFound")).await;

    world.topic("a", "t", json!({"partitions": 2}));
    until("grown", || world.object("a", "t")["status"]["partitions"] == 2).await;
    // By the watch of Clusters: the requeue would take ten seconds.
    world.cluster("late", json!({}));
    let took = until("ready", || is(&world, "early", "True", "Ready")).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.api.delete("topics", "a", "t");
    until("gone", || world.api.get("topics", "a", "t").is_none()).await;
    assert_eq!(world.described("t").await, None);

    // In peace there is silence: events about our own writes lead to nothing more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.api.take_requests();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = world.api.take_requests();
    assert!(requests.is_empty(), "{requests:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_topics_at_once_are_ready_soon() {
    let count: usize = std::env::var("MILLRACE_TOPICS").map_or(300, |count| count.parse().unwrap());
    let world = World::new().await;
    // As an API server that is not in this process.
    world.api.answer_after(Duration::from_millis(3));
    let names: Vec<String> = (0..count).map(|number| format!("t{number}")).collect();
    for name in &names {
        world.topic("a", name, json!({"partitions": 1}));
    }
    let running = Running::start(&world);
    let mut ready = 0;
    let took = until("all ready", || {
        ready += names[ready..]
            .iter()
            .take_while(|name| is(&world, name, "True", "Ready"))
            .count();
        ready == names.len()
    })
    .await;
    let requests = world.api.take_requests();
    let clusters = requests
        .iter()
        .filter(|(_, path)| path.ends_with("/clusters/c"))
        .count();
    println!(
        "{count} topics were ready after {took:?}, {} requests, {clusters} of the Cluster",
        requests.len()
    );
    assert!(clusters < count, "the Cluster is asked for each Topic");
    running.stop().await;
}
