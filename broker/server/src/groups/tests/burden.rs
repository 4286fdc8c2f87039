//! What a coordinator bears: many groups, and many commits.

use super::*;

/// Questions about groups that are not there leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_bogus_groups_leave_no_state() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    assert_eq!(cluster.position().await, None);
    let coordinators = &cluster.running.broker().groups;
    let coordinator = coordinators.of_partition(group_partition("g", 4)).unwrap();
    for chunk in 0..100 {
        let asked = (0..1_000).map(|number| {
            let group = format!("bogus-{chunk}-{number}");
            coordinator.ask(Request::Describe(group.as_str().into()), None, None)
        });
        let answers = futures::future::join_all(asked).await;
        assert!(answers.iter().all(Result::is_err));
    }
    let list = Request::List {
        after: String::new(),
        limit: 1,
    };
    let listed = coordinator.ask(list, None, None).await.unwrap();
    assert!(matches!(listed, Answer::Groups { groups, more: false } if groups.is_empty()));
}

/// How fast offsets are committed at one coordinator, each by a call of its own:
/// `cargo test --release -p millrace-server --lib -- --ignored --nocapture commits_a_second`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn commits_a_second() {
    const CALLERS: usize = 512;
    const EACH: i64 = 200;
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    assert_eq!(cluster.commit(0, false).await.unwrap(), None);
    let topic = cluster.running.broker().quorum.cluster().topics["t"].id;
    let coordinators = &cluster.running.broker().groups;
    let coordinator = coordinators.of_partition(group_partition("g", 4)).unwrap();
    let group = |number: usize| -> GroupId { format!("bench-{number}").into() };
    let committing = |number: usize| {
        let (coordinator, group) = (coordinator.clone(), group(number));
        async move {
            for offset in 1..=EACH {
                let commit = Request::Commit(Commit {
                    group: group.clone(),
                    member: None,
                    rewind: false,
                    offsets: vec![CommitOffset {
                        at: TopicPartition { topic, partition: 0 },
                        offset,
                        leader_epoch: None,
                        metadata: String::new(),
                    }],
                });
                coordinator.ask(commit, None, None).await.unwrap();
            }
        }
    };
    let measured = |what: &str, began: std::time::Instant, commits: f64| {
        println!("{what}: {:.0} commits/s", commits / began.elapsed().as_secs_f64());
    };
    #[allow(clippy::cast_precision_loss, reason = "a measurement")]
    let all = CALLERS as f64 * EACH as f64;
    let began = std::time::Instant::now();
    futures::future::join_all((0..CALLERS).map(|number| tokio::spawn(committing(number)))).await;
    measured("at the coordinator", began, all);
    let client = cluster.groups().await;
    let calling = |number: usize| {
        let (mut client, group) = (client.clone(), format!("calls-{number}"));
        async move {
            for offset in 1..=EACH {
                let request = v1::CommitOffsetsRequest {
                    group: group.clone(),
                    ..commit("t", 0, offset, false)
                };
                client.commit_offsets(request).await.unwrap();
            }
        }
    };
    let began = std::time::Instant::now();
    futures::future::join_all((0..CALLERS).map(|number| tokio::spawn(calling(number)))).await;
    measured("over one connection, at all coordinators", began, all);
}
