//! The streams of one member, which is connected while one of them lives.

use std::{sync::Arc, time::Duration};

use millrace_engine::group::{self, Answer, GroupRejection, HeartbeatAnswer, MemberDetails, Request, group_partition};

use super::Cluster;
use crate::groups::{Coordinator, MemberStream};

/// Asks the coordinator of a group "g" of topic "t" itself.
struct Test {
    _cluster: Cluster,
    coordinator: Arc<Coordinator>,
}

impl Test {
    async fn begin() -> Self {
        let cluster = Cluster::start().await;
        cluster.create_topic("t", 1).await;
        assert_eq!(cluster.position().await, None);
        let coordinators = &cluster.running.broker().groups;
        let coordinator = coordinators.of_partition(group_partition("g", 4)).unwrap();
        Self {
            _cluster: cluster,
            coordinator,
        }
    }

    /// A heartbeat by a stream, at the epoch and version of the answer before; none: it joins.
    async fn beat(
        &self,
        by: &Arc<MemberStream>,
        before: Option<&HeartbeatAnswer>,
        details: Option<MemberDetails>,
    ) -> HeartbeatAnswer {
        let beat = Request::Heartbeat(group::Heartbeat {
            group: by.group().clone(),
            member: by.member().clone(),
            instance: None,
            epoch: before.map_or(0, |before| before.epoch),
            version: before.map_or(0, |before| before.version),
            details,
            owned: Some(Vec::new()),
            subscriber: None,
        });
        match self.coordinator.ask(beat, Some(by.clone()), None).await {
            Ok(Answer::Heartbeat(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn members(&self) -> u64 {
        match self.coordinator.ask(Request::Describe("g".into()), None, None).await {
            Ok(Answer::Group(group)) => u64::try_from(group.member_count).unwrap(),
            // Without members or offsets it is none.
            Err(GroupRejection::GroupNotFound { .. }) => 0,
            other => panic!("{other:?}"),
        }
    }
}

fn stream(member: &str) -> Arc<MemberStream> {
    Arc::new(MemberStream::new("g".into(), member.into(), false))
}

fn details(client_id: &str, reconnect_timeout: Duration) -> MemberDetails {
    MemberDetails {
        client_id: client_id.to_owned(),
        client_host: String::new(),
        rack: None,
        topics: vec!["t".into()],
        session_timeout: Duration::from_secs(30 * 60),
        reconnect_timeout,
        rebalance_timeout: Duration::from_secs(30 * 60),
        assignor: None,
        pattern: None,
        start: group::Start::Beginning,
    }
}

/// A heartbeat that was held up on a stream which its client has left is answered late, and that stream's end is not
/// the member's; nor is it where another broker held it up, so that its stream begins here as the last one.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_connected_while_any_stream_of_it_lives() {
    let test = Test::begin().await;
    for (member, first) in [("m", 0), ("n", 1)] {
        let streams = [stream(member), stream(member)];
        let (left, lives) = (&streams[first], &streams[1 - first]);
        // Over at once.
        let joined = test.beat(left, None, Some(details("", Duration::ZERO))).await;
        for by in [lives, left] {
            let before = HeartbeatAnswer {
                version: 0,
                ..joined.clone()
            };
            test.beat(by, Some(&before), None).await;
        }
        test.coordinator.stream_ended(left, true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(test.members().await, 1);
        test.coordinator.stream_ended(lives, true);
        while test.members().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A member connects anew while the end of its stream before is on its way: also where the answer on the new one still
/// waits to be stored, its connection is not gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_while_the_next_one_is_answered_is_no_lost_connection() {
    const MEMBERS: u64 = 40;
    const RECONNECT: Duration = Duration::from_millis(100);
    let test = Test::begin().await;
    let mut lives = Vec::new();
    for number in 0..MEMBERS {
        let member = format!("m{number}");
        let (older, later) = (stream(&member), stream(&member));
        let joined = test.beat(&older, None, Some(details("before", RECONNECT))).await;
        let ends = async {
            tokio::time::sleep(Duration::from_micros(number * 50)).await;
            test.coordinator.stream_ended(&older, true);
        };
        // What changes is stored before it is answered.
        let again = test.beat(&later, Some(&joined), Some(details("after", RECONNECT)));
        tokio::join!(again, ends);
        lives.push(later);
    }
    tokio::time::sleep(RECONNECT * 4).await;
    assert_eq!(test.members().await, MEMBERS);
}
