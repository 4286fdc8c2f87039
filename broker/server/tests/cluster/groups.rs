//! Groups at brokers that do not coordinate them, and while coordinators change.

use std::time::{Duration, Instant};

use millrace_proto::v1::{
    self, CommitOffsetsRequest, CommitPartitionOffset, CommitTopicOffsets, Edge, ErrorReason, FetchOffsetsRequest,
    FindCoordinatorRequest, GroupOffset, GroupState, HeartbeatRequest, HeartbeatResponse, ListGroupsRequest,
    MemberSettings, Message, OwnedPartitions, PublishRequest, ResetOffsetsRequest, TopicPartitions,
    group_offset::Position, groups_client::GroupsClient, heartbeat_response::Result as Told,
    reset_offsets_request::Target,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    node::{Node, PATIENCE, is_available},
    three,
};

/// Far longer than a test: what moves sooner does not move for it.
const SESSION: prost_types::Duration = prost_types::Duration {
    seconds: 30 * 60,
    nanos: 0,
};

async fn groups(node: &Node) -> GroupsClient<Channel> {
    node.groups().await
}

/// The node that coordinates a group, by the word of `asked`; asked until there is one.
async fn coordinator(asked: &Node, group: &str) -> usize {
    let began = Instant::now();
    loop {
        let request = FindCoordinatorRequest { group: group.into() };
        match groups(asked).await.find_coordinator(request).await {
            Ok(found) => return usize::try_from(found.into_inner().broker_id).unwrap(),
            Err(status) => assert!(began.elapsed() < PATIENCE, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A group that this node coordinates.
async fn group_of(asked: &Node, wanted: usize) -> String {
    for number in 0..1_000 {
        let group = format!("g{number}");
        if coordinator(asked, &group).await == wanted {
            return group;
        }
    }
    panic!("broker {wanted} coordinates nothing");
}

fn commit(group: &str, topic: &str, partition: i32, offset: i64) -> CommitOffsetsRequest {
    CommitOffsetsRequest {
        group: group.into(),
        topics: vec![CommitTopicOffsets {
            topic: topic.into(),
            partitions: vec![CommitPartitionOffset {
                partition,
                offset,
                ..CommitPartitionOffset::default()
            }],
            ..CommitTopicOffsets::default()
        }],
        ..CommitOffsetsRequest::default()
    }
}

/// Repeats a call that may fail while leaders change, with or without having been done.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert!(began.elapsed() < PATIENCE, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A group's first call while a cluster forms must not settle for less than the cluster will have.
#[tokio::test]
async fn the_topic_of_groups_waits_for_as_many_brokers_as_it_is_to_have_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let mut zero = Node::new(&folder, 0, &[]);
    let mut one = Node::new(&folder, 1, &[&zero]);
    let mut two = Node::new(&folder, 2, &[&zero]);
    zero.start().await;
    one.start().await;
    for node in [&zero, &one] {
        node.wait_cluster("two brokers", |cluster| (0..2).all(|id| is_available(cluster, id)))
            .await;
        let refused = groups(node).await.commit_offsets(commit("g", "t", 0, 1)).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            ErrorReason::from_reason_name(&refused.get_error_details().error_info().unwrap().reason),
            Some(ErrorReason::CoordinatorNotAvailable),
            "{refused:?}"
        );
        assert!(refused.message().contains("1 more broker"), "{refused:?}");
        let listed = groups(node).await.list_groups(ListGroupsRequest::default()).await;
        assert_eq!(listed.unwrap().into_inner().groups, []);
        assert!(node.topic("__consumer_offsets").await.is_none());
    }
    two.start().await;
    coordinator(&one, "g").await;
    let topic = one.topic("__consumer_offsets").await.unwrap();
    assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 3));
}

async fn offsets(node: &Node, group: &str) -> Vec<GroupOffset> {
    let ask = || async {
        let request = FetchOffsetsRequest {
            group: group.into(),
            with_lag: true,
            ..FetchOffsetsRequest::default()
        };
        groups(node).await.fetch_offsets(request).await
    };
    patiently(ask).await.into_inner().offsets
}

fn committed(offset: &GroupOffset) -> i64 {
    match &offset.position {
        Some(Position::Committed(committed)) => committed.offset,
        other => panic!("{other:?}"),
    }
}

async fn publish(node: &Node, topic: &str, count: usize) {
    let messages = (0..count).map(|number| Message {
        value: Some(number.to_string().into_bytes().into()),
        ..Message::default()
    });
    let request = PublishRequest {
        topic: topic.into(),
        partition: Some(0),
        messages: messages.collect(),
        ..PublishRequest::default()
    };
    node.messaging().await.publish(request).await.unwrap();
}

struct Member {
    request: HeartbeatRequest,
    requests: mpsc::Sender<HeartbeatRequest>,
    answers: Streaming<HeartbeatResponse>,
    has: Vec<i32>,
}

impl Member {
    async fn open(node: &Node, request: HeartbeatRequest) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(4);
        let opened = groups(node).await.heartbeat(ReceiverStream::new(stream)).await?;
        let mut member = Self {
            request,
            requests,
            answers: opened.into_inner(),
            has: Vec::new(),
        };
        member.beat().await?;
        Ok(member)
    }

    async fn join(node: &Node, group: &str, id: &str) -> Self {
        let settings = MemberSettings {
            topics: vec!["t".into()],
            session_timeout: Some(SESSION),
            ..MemberSettings::default()
        };
        let request = HeartbeatRequest {
            group: group.into(),
            member_id: id.into(),
            settings: Some(settings),
            owned: Some(OwnedPartitions::default()),
            ..HeartbeatRequest::default()
        };
        Self::open(node, request).await.unwrap()
    }

    /// Takes one message; true: it asks for a heartbeat.
    async fn take(&mut self) -> Result<bool, Status> {
        let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        let ended = || Status::unavailable("the stream has ended");
        let answer = match message.ok_or_else(ended)?.result.unwrap() {
            Told::HeartbeatNow(_) => return Ok(true),
            Told::Answer(answer) => answer,
        };
        self.request.member_epoch = answer.member_epoch;
        self.request.assignment_version = answer.assignment_version;
        if let Some(assignment) = answer.assignment {
            self.has = assignment.assigned.into_iter().flat_map(|of| of.partitions).collect();
        }
        self.request.owned = Some(OwnedPartitions {
            topics: vec![TopicPartitions {
                topic: "t".into(),
                partitions: self.has.clone(),
                ..TopicPartitions::default()
            }],
        });
        Ok(false)
    }

    async fn beat(&mut self) -> Result<(), Status> {
        let _ = self.requests.send(self.request.clone()).await;
        while self.take().await? {}
        Ok(())
    }

    async fn follow(&mut self) {
        while !self.take().await.unwrap() {}
        self.beat().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_broker_takes_any_call_about_a_group() {
    let (_folder, nodes) = three().await;
    nodes[0].create_topic("t", 4, 3).await;
    publish(&nodes[0], "t", 10).await;
    let group = group_of(&nodes[0], 1).await;
    for node in &nodes {
        assert_eq!(coordinator(node, &group).await, 1, "all go by the same");
    }
    let through = &nodes[2];
    let answer = patiently(|| async { groups(through).await.commit_offsets(commit(&group, "t", 0, 4)).await }).await;
    assert_eq!(answer.into_inner().partitions[0].error, None);
    for node in &nodes {
        let told = offsets(node, &group).await;
        assert_eq!((told.len(), committed(&told[0]), told[0].lag), (1, 4, Some(6)));
        assert_eq!((told[0].log_start, told[0].high_watermark), (Some(0), Some(10)));
        assert!(told[0].time_lag.is_some());
    }
    // What is wrong is told as the coordinator does.
    let behind = groups(through)
        .await
        .commit_offsets(commit(&group, "t", 0, 1))
        .await
        .unwrap();
    let behind = behind.into_inner().partitions.remove(0).error.unwrap();
    assert_eq!(behind.reason(), v1::ErrorReason::OffsetBehindCommitted);

    // Members at two brokers, neither of which coordinates.
    let mut one = Member::join(&nodes[0], &group, "one").await;
    let mut two = Member::join(through, &group, "two").await;
    while one.has.len() > 2 {
        one.follow().await;
    }
    one.beat().await.unwrap();
    while two.has.len() < 2 {
        two.follow().await;
    }
    let describe = || async {
        let request = v1::DescribeGroupRequest {
            group: group.clone(),
            ..v1::DescribeGroupRequest::default()
        };
        groups(&nodes[1])
            .await
            .describe_group(request)
            .await
            .unwrap()
            .into_inner()
    };
    let described = describe().await;
    assert_eq!((described.state(), described.coordinator_id), (GroupState::Stable, 1));
    assert_eq!(described.members[0].client_host, "127.0.0.1");
    // A client that goes is told on: its session is far longer than this may take.
    drop(two);
    while one.has.len() < 4 {
        one.follow().await;
    }
    let leave = v1::LeaveGroupRequest {
        group: group.clone(),
        member_id: "one".into(),
        temporary: false,
    };
    groups(through).await.leave_group(leave.clone()).await.unwrap();
    // A refusal is passed on as it is: what surely was not done is not told as perhaps done.
    let refused = groups(through).await.leave_group(leave).await.unwrap_err();
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, v1::ErrorReason::UnknownMember.reason_name(), "{refused:?}");
    assert_eq!(info.metadata.get("outcome"), None);

    let reset = |target, validate_only| ResetOffsetsRequest {
        group: group.clone(),
        target: Some(target),
        validate_only,
        ..ResetOffsetsRequest::default()
    };
    for (target, validate_only, before, after) in [
        (Target::Edge(Edge::End.into()), true, 4, 10),
        (Target::Edge(Edge::End.into()), false, 4, 10),
        (Target::ShiftBy(-3), false, 10, 7),
        (Target::Offset(99), false, 7, 10),
        (Target::Edge(Edge::Beginning.into()), false, 10, 0),
    ] {
        let done = groups(through)
            .await
            .reset_offsets(reset(target, validate_only))
            .await
            .unwrap();
        let done = done.into_inner().partitions;
        assert_eq!(
            (done.len(), done[0].before, done[0].after),
            (1, Some(before), Some(after)),
            "{target:?}"
        );
        assert_eq!(done[0].error, None);
    }
    assert_eq!(committed(&offsets(through, &group).await[0]), 0);
    let planned = |expected_version: String, validate_only| ResetOffsetsRequest {
        expected_version,
        ..reset(Target::Offset(0), validate_only)
    };
    let seen = groups(through).await.reset_offsets(planned(String::new(), true)).await;
    let seen = seen.unwrap().into_inner().version;
    groups(through)
        .await
        .commit_offsets(commit(&group, "t", 0, 1))
        .await
        .unwrap();
    let refused = groups(through)
        .await
        .reset_offsets(planned(seen, false))
        .await
        .unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(
        details.error_info().unwrap().reason,
        v1::ErrorReason::GroupChanged.reason_name(),
        "{refused:?}"
    );
    assert_eq!(committed(&offsets(through, &group).await[0]), 1);

    // Groups of all brokers, in order, page by page.
    let mut all = vec![group.clone()];
    for broker in [0, 2] {
        let other = group_of(&nodes[0], broker).await;
        patiently(|| async { groups(&nodes[0]).await.commit_offsets(commit(&other, "t", 0, 1)).await }).await;
        all.push(other);
    }
    all.sort();
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListGroupsRequest {
            prefix: "g".into(),
            page_size: 2,
            page_token,
        };
        let page = groups(through).await.list_groups(request).await.unwrap().into_inner();
        listed.extend(page.groups.into_iter().map(|group| group.group));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, all);
    let none = ListGroupsRequest {
        prefix: "h".into(),
        ..ListGroupsRequest::default()
    };
    assert!(
        groups(through)
            .await
            .list_groups(none)
            .await
            .unwrap()
            .into_inner()
            .groups
            .is_empty()
    );
    let delete = v1::DeleteGroupRequest {
        group: group.clone(),
        validate_only: false,
    };
    groups(through).await.delete_group(delete).await.unwrap();
    assert!(offsets(&nodes[0], &group).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_goes_on_with_all_groups_of_one_that_dies() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("t", 4, 3).await;
    publish(&nodes[0], "t", 10).await;
    let group = group_of(&nodes[0], 2).await;
    let mut member = Member::join(&nodes[1], &group, "one").await;
    assert_eq!(member.has.len(), 4);
    let epoch = member.request.member_epoch;
    let mut request = commit(&group, "t", 0, 7);
    request.member_id = "one".into();
    request.member_epoch = epoch;
    let stored = groups(&nodes[0])
        .await
        .commit_offsets(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stored.partitions[0].error, None);
    nodes[2].kill();
    // By the stream that it has, if that goes on, or by others until one does.
    let began = Instant::now();
    member.request.settings = None;
    while member.beat().await.is_err() {
        let next = loop {
            match Member::open(&nodes[1], member.request.clone()).await {
                Ok(next) => break next,
                Err(status) => assert!(began.elapsed() < PATIENCE, "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let has = std::mem::take(&mut member.has);
        member = next;
        if member.has.is_empty() {
            member.has = has;
        }
    }
    assert_eq!(
        (member.request.member_epoch, member.has.len()),
        (epoch, 4),
        "it has what it had"
    );
    assert_ne!(coordinator(&nodes[0], &group).await, 2);
    let told = offsets(&nodes[0], &group).await;
    assert_eq!((told.len(), committed(&told[0]), told[0].lag), (1, 7, Some(3)));
}

/// Others have taken over, and its first sign of life since gives it no lease for what it knew before.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_stood_still_tells_nothing_old() {
    let (_folder, nodes) = three().await;
    nodes[0].create_topic("t", 1, 3).await;
    let group = group_of(&nodes[0], 2).await;
    patiently(|| async { groups(&nodes[2]).await.commit_offsets(commit(&group, "t", 0, 4)).await }).await;
    let fetch = || FetchOffsetsRequest {
        group: group.clone(),
        ..FetchOffsetsRequest::default()
    };
    let connected = groups(&nodes[2]).await;
    patiently(|| {
        let mut connected = connected.clone();
        async move { connected.fetch_offsets(fetch()).await }
    })
    .await;
    nodes[2].freeze();
    let began = Instant::now();
    while coordinator(&nodes[0], &group).await == 2 {
        assert!(began.elapsed() < PATIENCE, "nobody takes over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    patiently(|| async { groups(&nodes[0]).await.commit_offsets(commit(&group, "t", 0, 9)).await }).await;
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let (mut connected, fetch) = (connected.clone(), fetch());
            tokio::spawn(async move { connected.fetch_offsets(fetch).await })
        })
        .collect();
    // They are on their way when it wakes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    nodes[2].thaw();
    for asked in asked {
        match asked.await.unwrap() {
            Ok(answer) => assert_eq!(committed(&answer.into_inner().offsets[0]), 9),
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
        }
    }
}
