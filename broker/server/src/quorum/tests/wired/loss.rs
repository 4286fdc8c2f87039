//! Cut connections and lost answers.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    super::{PATIENCE, create_topic, eventually, register_broker},
    Change, QuorumError, Wired, converge, founded, leader, stop_all, unchanged,
};

/// Three members, and which of them leads; a broker is registered.
async fn led(change: Change) -> (BTreeMap<u64, Wired>, u64) {
    let members = founded(3, change).await;
    let leading = leader(members.values()).await;
    let registered = members[&leading].quorum.submit(register_broker()).await;
    registered.unwrap().unwrap();
    (members, leading)
}

/// A follower that was cut off catches up, and its return deposes no one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_catches_up() {
    let (members, leading) = led(unchanged).await;
    let quorum = members[&leading].quorum.clone();
    let cut = *members.keys().find(|id| **id != leading).unwrap();
    let term = quorum.status().term;
    // No one reaches it, and with pre-vote its own campaigns come to nothing.
    members[&cut].proxy.cut();
    for number in 0..200 {
        quorum.submit(create_topic(number)).await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!members[&cut].quorum.cluster().topics.contains_key("topic-199"));
    members[&cut].proxy.heal();
    eventually(|| members[&cut].quorum.cluster().topics.contains_key("topic-199")).await;
    converge(members.values()).await;
    assert_eq!((quorum.status().leader, quorum.status().term), (Some(leading), term));
    stop_all(members.into_values()).await;
}

/// What was sent and not answered may be done: here it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_leaves_the_outcome_unknown() {
    let (members, leading) = led(|options| options.request_timeout = Duration::from_millis(1_500)).await;
    let follower = members.values().find(|member| member.id != leading).unwrap();
    follower.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    members[&leading].proxy.lose_answers();
    let error = follower.quorum.submit(create_topic(2)).await.unwrap_err();
    assert!(matches!(error, QuorumError::OutcomeUnknown { .. }), "{error}");
    eventually(|| follower.quorum.cluster().topics.contains_key("topic-2")).await;
    // A read is asked for again instead, and finds no one.
    let error = follower.quorum.read_index().await.unwrap_err();
    assert!(
        matches!(error, QuorumError::NotLeader { .. } | QuorumError::Timeout { .. }),
        "{error}"
    );
    members[&leading].proxy.heal();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = follower.quorum.read_index().await {
        assert!(Instant::now() < deadline, "{error}");
    }
    follower.quorum.submit(create_topic(3)).await.unwrap().unwrap();
    stop_all(members.into_values()).await;
}

/// Nothing is sent to a leader that can't be reached, so nothing is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_way_to_the_leader_nothing_is_done() {
    let (members, leading) = led(|options| options.request_timeout = Duration::from_millis(600)).await;
    let follower = members.values().find(|member| member.id != leading).unwrap();
    eventually(|| follower.quorum.status().leader == Some(leading)).await;
    // The leader reaches the others, no one reaches it.
    members[&leading].proxy.cut();
    let submit = || async { follower.quorum.submit(create_topic(1)).await.unwrap_err() };
    let mut error = submit().await;
    if matches!(error, QuorumError::OutcomeUnknown { .. }) {
        // A connection that was there broke under the request: it might have gone through.
        error = submit().await;
    }
    assert!(
        matches!(error, QuorumError::NotLeader { leader: Some(id) } if id == leading),
        "{error}"
    );
    members[&leading].quorum.submit(create_topic(2)).await.unwrap().unwrap();
    assert!(!members[&leading].quorum.cluster().topics.contains_key("topic-1"));
    stop_all(members.into_values()).await;
}

/// What was true when there last was a leader is not told as true now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_leader_is_gone_names_none() {
    let (mut members, leading) = led(|options| options.request_timeout = Duration::from_millis(600)).await;
    let left = *members.keys().find(|id| **id != leading).unwrap();
    let survivor = members.remove(&left).unwrap();
    eventually(|| survivor.quorum.status().leader == Some(leading)).await;
    for (_, member) in members {
        member.crash().await;
    }
    eventually(|| survivor.quorum.status().leader.is_none()).await;
    let error = survivor.quorum.submit(create_topic(1)).await.unwrap_err();
    assert!(matches!(error, QuorumError::NotLeader { leader: None }), "{error}");
    assert_eq!(
        survivor.quorum.status().leader,
        None,
        "it stands for election and wins none"
    );

    // Nor does it once it has started again: its disk knows who led, not who leads.
    let (disk, proxy) = survivor.crash().await;
    let again = Wired::start(left, disk, proxy, unchanged).await.unwrap();
    assert_eq!(again.quorum.status().leader, None);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_no_majority_answers_does_not_say_that_it_leads() {
    let (members, leading) = led(unchanged).await;
    let quorum = members[&leading].quorum.clone();
    // Nobody reaches anybody, so nobody tells it of another leader either.
    for member in members.values() {
        member.proxy.cut();
    }
    eventually(|| quorum.status().leader.is_none()).await;
    for member in members.values() {
        member.proxy.heal();
    }
    converge(members.values()).await;
    stop_all(members.into_values()).await;
}
