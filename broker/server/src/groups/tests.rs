//! Groups at a real broker, over its port.

mod burden;
mod damage;
mod lags;
mod lists;
mod streams;

use std::{path::PathBuf, time::Duration};

use millrace_engine::{
    Command,
    cluster::FenceReason,
    group::{
        Answer, Commit, CommitOffset, GroupId, GroupRejection, MAX_GROUP_ID_BYTES, MAX_TEXT_BYTES, Request,
        TopicPartition, group_partition,
    },
};
use millrace_proto::v1::{
    self, ErrorReason, admin_client::AdminClient, group_offset::Position, groups_client::GroupsClient,
    heartbeat_response::Result as Told, messaging_client::MessagingClient,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{RunningBroker, config::BrokerConfig};

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far longer than a test: what moves sooner does not move for it.
const SESSION: prost_types::Duration = prost_types::Duration {
    seconds: 30 * 60,
    nanos: 0,
};

struct Cluster {
    folder: TempDir,
    running: RunningBroker,
}

fn config(data: PathBuf) -> BrokerConfig {
    let values = [
        ("data.dir", data.display().to_string()),
        ("listen.client", "127.0.0.1:0".into()),
        ("listen.http", "127.0.0.1:0".into()),
        ("listen.internal", "127.0.0.1:0".into()),
        ("offsets.topic.num.partitions", "4".into()),
    ]
    .map(|(key, value): (&str, String)| (key.to_owned(), value));
    BrokerConfig::load(None, std::iter::empty(), &values).unwrap()
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path().join("data"));
        crate::format(&config).unwrap();
        let running = crate::start(config).await.unwrap();
        Self { folder, running }
    }

    async fn restart(self) -> Self {
        let Self { folder, running } = self;
        running.stop().await.unwrap();
        let running = crate::start(config(folder.path().join("data"))).await.unwrap();
        Self { folder, running }
    }

    fn address(&self) -> String {
        format!("http://{}", self.running.address())
    }

    async fn groups(&self) -> GroupsClient<Channel> {
        GroupsClient::connect(self.address()).await.unwrap()
    }

    async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::connect(self.address()).await.unwrap()
    }

    async fn create_topic(&self, name: &str, partitions: i32) {
        let request = v1::CreateTopicRequest {
            name: name.into(),
            partitions: Some(partitions),
            ..v1::CreateTopicRequest::default()
        };
        self.admin().await.create_topic(request).await.unwrap();
    }

    /// Publishes ten messages to partition 0.
    async fn publish_ten(&self, topic: &str) {
        let request = v1::PublishRequest {
            topic: topic.into(),
            messages: vec![v1::Message::default(); 10],
            partition: Some(0),
            ..v1::PublishRequest::default()
        };
        let mut messaging = MessagingClient::connect(self.address()).await.unwrap();
        messaging.publish(request).await.unwrap();
    }

    async fn commit(&self, offset: i64, rewind: bool) -> Result<Option<v1::Error>, Status> {
        let answer = self
            .groups()
            .await
            .commit_offsets(commit("t", 0, offset, rewind))
            .await?;
        Ok(answer.into_inner().partitions.remove(0).error)
    }

    async fn position(&self) -> Option<Position> {
        let request = v1::FetchOffsetsRequest {
            group: "g".into(),
            topics: vec![partitions("t", &[0])],
            ..v1::FetchOffsetsRequest::default()
        };
        let answer = self.groups().await.fetch_offsets(request).await.unwrap();
        answer.into_inner().offsets.remove(0).position
    }
}

fn partitions(topic: &str, numbers: &[i32]) -> v1::TopicPartitions {
    v1::TopicPartitions {
        topic: topic.into(),
        partitions: numbers.to_vec(),
        ..v1::TopicPartitions::default()
    }
}

fn commit(topic: &str, partition: i32, offset: i64, rewind: bool) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        group: "g".into(),
        topics: vec![v1::CommitTopicOffsets {
            topic: topic.into(),
            partitions: vec![v1::CommitPartitionOffset {
                partition,
                offset,
                metadata: "mark".into(),
                ..v1::CommitPartitionOffset::default()
            }],
            ..v1::CommitTopicOffsets::default()
        }],
        rewind,
        ..v1::CommitOffsetsRequest::default()
    }
}

fn reason(status: &Status) -> ErrorReason {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    ErrorReason::from_reason_name(&info.reason).unwrap()
}

/// A member as a simple client would be it: it has at once what it is told, and gives back at once.
struct Member {
    request: v1::HeartbeatRequest,
    requests: mpsc::Sender<v1::HeartbeatRequest>,
    answers: Streaming<v1::HeartbeatResponse>,
    has: Vec<i32>,
}

impl Member {
    async fn join(cluster: &Cluster, id: &str) -> Self {
        let settings = v1::MemberSettings {
            topics: vec!["t".into()],
            session_timeout: Some(SESSION),
            ..v1::MemberSettings::default()
        };
        Self::join_with(cluster, id, settings).await
    }

    async fn join_with(cluster: &Cluster, id: &str, settings: v1::MemberSettings) -> Self {
        let request = v1::HeartbeatRequest {
            group: "g".into(),
            member_id: id.into(),
            settings: Some(settings),
            owned: Some(v1::OwnedPartitions::default()),
            ..v1::HeartbeatRequest::default()
        };
        let (requests, stream) = mpsc::channel(4);
        requests.send(request.clone()).await.unwrap();
        let answers = cluster.groups().await.heartbeat(ReceiverStream::new(stream)).await;
        let mut member = Self {
            request,
            requests,
            answers: answers.unwrap().into_inner(),
            has: Vec::new(),
        };
        member.take().await;
        member.request.settings = None;
        member
    }

    /// Takes one message; answers with whether it asked for a heartbeat.
    async fn take(&mut self) -> bool {
        let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap();
        let answer = match message.unwrap().unwrap().result.unwrap() {
            Told::HeartbeatNow(_) => return true,
            Told::Answer(answer) => answer,
        };
        self.request.member_epoch = answer.member_epoch;
        self.request.assignment_version = answer.assignment_version;
        if let Some(assignment) = answer.assignment {
            let of = assignment.assigned.into_iter().flat_map(|topic| topic.partitions);
            self.has = of.collect();
        }
        self.request.owned = Some(v1::OwnedPartitions {
            topics: vec![partitions("t", &self.has)],
        });
        false
    }

    async fn beat(&mut self) {
        self.requests.send(self.request.clone()).await.unwrap();
        while self.take().await {}
    }

    /// Waits for a call for a heartbeat, and follows it.
    async fn follow(&mut self) {
        while !self.take().await {}
        self.beat().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_and_a_lost_connection_frees_its_share() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 4).await;
    let mut one = Member::join(&cluster, "one").await;
    assert_eq!(one.has, [0, 1, 2, 3], "the first has all with its first answer");
    let mut two = Member::join(&cluster, "two").await;
    while one.has.len() > 2 {
        one.follow().await;
    }
    one.beat().await;
    while two.has.len() < 2 {
        two.follow().await;
    }
    let mut all: Vec<i32> = one.has.iter().chain(&two.has).copied().collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
    let describe = || async {
        let request = v1::DescribeGroupRequest {
            group: "g".into(),
            ..v1::DescribeGroupRequest::default()
        };
        cluster
            .groups()
            .await
            .describe_group(request)
            .await
            .unwrap()
            .into_inner()
    };
    let described = describe().await;
    assert_eq!((described.member_count, described.state()), (2, v1::GroupState::Stable));
    assert_eq!(described.members[0].assigned[0].topic, "t");
    // Its process is gone.
    drop(two);
    while one.has.len() < 4 {
        one.follow().await;
    }
    assert_eq!(describe().await.member_count, 1);
    let leave = v1::LeaveGroupRequest {
        group: "g".into(),
        member_id: "one".into(),
        temporary: false,
    };
    cluster.groups().await.leave_group(leave.clone()).await.unwrap();
    let refused = cluster.groups().await.leave_group(leave).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::UnknownMember);
}

/// A member that goes on by another stream is not ended with the one before, nor taken over by one that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_goes_on_by_its_latest_stream() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    let first = Member::join(&cluster, "one").await;
    let (requests, stream) = mpsc::channel(4);
    requests.send(first.request.clone()).await.unwrap();
    let answers = cluster
        .groups()
        .await
        .heartbeat(ReceiverStream::new(stream))
        .await
        .unwrap();
    let mut second = Member {
        request: first.request.clone(),
        requests,
        answers: answers.into_inner(),
        has: first.has.clone(),
    };
    while second.take().await {}
    drop(first);
    let (requests, stream) = mpsc::channel(4);
    let wrong = v1::HeartbeatRequest {
        member_epoch: 77,
        ..second.request.clone()
    };
    requests.send(wrong).await.unwrap();
    let answers = cluster.groups().await.heartbeat(ReceiverStream::new(stream)).await;
    let refused = answers.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Aborted, ErrorReason::FencedMember)
    );
    // Longer than the reconnect time that would end it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    second.beat().await;
    assert_eq!(second.has, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_stored_told_again_after_a_restart_and_deleted_with_their_group() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    assert_eq!(cluster.position().await, None);
    assert_eq!(cluster.commit(5, false).await.unwrap(), None);
    let behind = cluster.commit(4, false).await.unwrap().unwrap();
    assert_eq!(behind.reason(), ErrorReason::OffsetBehindCommitted);
    assert_eq!(behind.metadata["committed_offset"], "5");
    assert_eq!(cluster.commit(3, true).await.unwrap(), None);
    let cluster = cluster.restart().await;
    let Some(Position::Committed(committed)) = cluster.position().await else {
        panic!("it is gone");
    };
    assert_eq!((committed.offset, committed.metadata.as_str()), (3, "mark"));
    let coordinator = v1::FindCoordinatorRequest { group: "g".into() };
    let found = cluster.groups().await.find_coordinator(coordinator).await.unwrap();
    assert_eq!(found.into_inner().broker_id, 0);
    let delete = |validate_only| v1::DeleteGroupRequest {
        group: "g".into(),
        validate_only,
    };
    cluster.groups().await.delete_group(delete(true)).await.unwrap();
    assert!(cluster.position().await.is_some(), "it was only checked");
    cluster.groups().await.delete_group(delete(false)).await.unwrap();
    assert_eq!(cluster.position().await, None);
    let gone = cluster.groups().await.delete_group(delete(false)).await.unwrap_err();
    assert_eq!(reason(&gone), ErrorReason::UnknownGroup);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_topic_of_groups() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    cluster.commit(1, false).await.unwrap();
    let (mut admin, name) = (cluster.admin().await, super::NAME.to_owned());
    let delete = v1::DeleteTopicRequest {
        name: name.clone(),
        ..v1::DeleteTopicRequest::default()
    };
    let grow = v1::CreatePartitionsRequest {
        name: name.clone(),
        partitions: 8,
        ..v1::CreatePartitionsRequest::default()
    };
    let empty = v1::DeleteMessagesRequest {
        topic: name.clone(),
        ..v1::DeleteMessagesRequest::default()
    };
    let publish = v1::PublishRequest {
        topic: name.clone(),
        messages: vec![v1::Message::default()],
        ..v1::PublishRequest::default()
    };
    let setting = v1::ConfigEntry {
        name: "cleanup.policy".into(),
        value: "delete".into(),
    };
    let configure = v1::AlterConfigsRequest {
        topic: name.clone(),
        set: vec![setting.clone()],
        ..v1::AlterConfigsRequest::default()
    };
    let unset = v1::AlterConfigsRequest {
        topic: name.clone(),
        unset: vec!["flush".into()],
        validate_only: true,
        ..v1::AlterConfigsRequest::default()
    };
    let alter = v1::AlterTopicRequest {
        name: name.clone(),
        set_configs: vec![setting],
        ..v1::AlterTopicRequest::default()
    };
    let alter_all = v1::AlterTopicRequest {
        replication_factor: Some(1),
        ..alter.clone()
    };
    let mut messaging = MessagingClient::connect(cluster.address()).await.unwrap();
    let refused = [
        admin.alter_configs(configure).await.unwrap_err(),
        admin.alter_configs(unset).await.unwrap_err(),
        admin.alter_topic(alter).await.unwrap_err(),
        admin.alter_topic(alter_all).await.unwrap_err(),
        admin.delete_topic(delete).await.unwrap_err(),
        admin.create_partitions(grow).await.unwrap_err(),
        admin.delete_messages(empty).await.unwrap_err(),
        messaging.publish(publish).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(
            (status.code(), reason(&status)),
            (Code::FailedPrecondition, ErrorReason::NotSupported),
            "{status:?}"
        );
    }
    let described = admin.describe_topic(v1::DescribeTopicRequest { name }).await.unwrap();
    assert_eq!(described.into_inner().partitions.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_what_is_wrong_with_them() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    let mut groups = cluster.groups().await;
    let long = "x".repeat(256);
    for group in ["", long.as_str(), "a\nb"] {
        let describe = v1::DescribeGroupRequest {
            group: group.into(),
            ..v1::DescribeGroupRequest::default()
        };
        let find = v1::FindCoordinatorRequest { group: group.into() };
        let delete = v1::DeleteGroupRequest {
            group: group.into(),
            validate_only: false,
        };
        let leave = v1::LeaveGroupRequest {
            group: group.into(),
            member_id: "m".into(),
            temporary: false,
        };
        let mut committed = commit("t", 0, 1, false);
        committed.group = group.into();
        let fetch = v1::FetchOffsetsRequest {
            group: group.into(),
            ..v1::FetchOffsetsRequest::default()
        };
        let refused = [
            groups.describe_group(describe).await.unwrap_err(),
            groups.find_coordinator(find).await.unwrap_err(),
            groups.delete_group(delete).await.unwrap_err(),
            groups.leave_group(leave).await.unwrap_err(),
            groups.commit_offsets(committed).await.unwrap_err(),
            groups.fetch_offsets(fetch).await.unwrap_err(),
        ];
        for status in refused {
            assert_eq!(reason(&status), ErrorReason::InvalidGroupId, "{group:?}: {status:?}");
        }
    }
    let twice = v1::CommitOffsetsRequest {
        topics: [commit("t", 0, 1, false).topics, commit("t", 0, 1, false).topics].concat(),
        ..commit("t", 0, 1, false)
    };
    let mut before_all_epochs = commit("t", 0, 1, false);
    before_all_epochs.topics[0].partitions[0].leader_epoch = Some(-1);
    let wrong: [(&str, v1::CommitOffsetsRequest); 6] = [
        ("topics.partitions.leader_epoch", before_all_epochs),
        ("topics", twice),
        (
            "topics",
            v1::CommitOffsetsRequest {
                topics: Vec::new(),
                ..commit("t", 0, 1, false)
            },
        ),
        ("topics.partitions.partition", commit("t", -1, 1, false)),
        (
            "member_epoch",
            v1::CommitOffsetsRequest {
                member_epoch: 1,
                ..commit("t", 0, 1, false)
            },
        ),
        (
            "member_epoch",
            v1::CommitOffsetsRequest {
                member_id: "m".into(),
                ..commit("t", 0, 1, false)
            },
        ),
    ];
    for (field, request) in wrong {
        let refused = groups.commit_offsets(request).await.unwrap_err();
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["field"], field, "{refused:?}");
    }
    let no_group = "x".repeat(MAX_GROUP_ID_BYTES + 1);
    for (token, prefix, field) in [
        (no_group.as_str(), "", "page_token"),
        ("a\nb", "", "page_token"),
        ("", no_group.as_str(), "prefix"),
    ] {
        let request = v1::ListGroupsRequest {
            prefix: prefix.into(),
            page_token: token.into(),
            ..v1::ListGroupsRequest::default()
        };
        let refused = groups.list_groups(request).await.unwrap_err();
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["field"], field, "{refused:?}");
    }
    let request = v1::DescribeGroupRequest {
        group: "g".into(),
        page_token: "x".repeat(MAX_TEXT_BYTES + 1),
        ..v1::DescribeGroupRequest::default()
    };
    let refused = groups.describe_group(request).await.unwrap_err();
    let details = refused.get_error_details();
    assert_eq!(
        details.error_info().unwrap().metadata["field"],
        "page_token",
        "{refused:?}"
    );
    for (request, expected) in [
        (commit("nothing", 0, 1, false), ErrorReason::UnknownTopic),
        (commit("t", 1, 1, false), ErrorReason::UnknownPartition),
        (commit("t", 0, -1, false), ErrorReason::InvalidRequest),
    ] {
        let answer = groups.commit_offsets(request).await.unwrap().into_inner();
        assert_eq!(answer.partitions[0].error.as_ref().unwrap().reason(), expected);
    }
    let settings = |change: fn(&mut v1::MemberSettings)| {
        let mut settings = v1::MemberSettings {
            topics: vec!["t".into()],
            ..v1::MemberSettings::default()
        };
        change(&mut settings);
        v1::HeartbeatRequest {
            group: "g".into(),
            member_id: "m".into(),
            settings: Some(settings),
            ..v1::HeartbeatRequest::default()
        }
    };
    let beats = [
        (
            ErrorReason::InvalidTopicPattern,
            settings(|s| s.topic_pattern = "(".into()),
        ),
        (ErrorReason::InvalidRequest, settings(|s| s.assignor = 9)),
        (ErrorReason::InvalidRequest, settings(|s| s.topics.clear())),
        (
            ErrorReason::InvalidRequest,
            settings(|s| s.session_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1 })),
        ),
        (
            ErrorReason::InvalidRequest,
            settings(|s| s.reconnect_timeout = Some(prost_types::Duration { seconds: 6, nanos: 0 })),
        ),
        (
            ErrorReason::InvalidRequest,
            settings(|s| {
                s.start = Some(v1::Start {
                    at: Some(v1::start::At::Offset(1)),
                })
            }),
        ),
        (
            ErrorReason::InvalidRequest,
            v1::HeartbeatRequest {
                settings: None,
                ..settings(|_| {})
            },
        ),
        (
            ErrorReason::InvalidRequest,
            v1::HeartbeatRequest {
                member_id: String::new(),
                ..settings(|_| {})
            },
        ),
        (
            ErrorReason::UnknownMember,
            v1::HeartbeatRequest {
                member_epoch: 3,
                ..settings(|_| {})
            },
        ),
    ];
    for (expected, request) in beats {
        let shown = format!("{request:?}");
        let answers = groups.heartbeat(tokio_stream::iter([request])).await.unwrap();
        let refused = answers.into_inner().message().await.unwrap_err();
        assert_eq!(reason(&refused), expected, "{shown}: {refused:?}");
    }
}

/// A coordinator whose partition is led in a later epoch, by whomever, may run for a moment, and counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_an_older_epoch_does_not_lead() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    assert_eq!(cluster.commit(5, false).await.unwrap(), None);
    let broker = cluster.running.broker();
    let number = group_partition("g", 4);
    let old = broker.groups.of_partition(number).unwrap();
    assert!(old.leads(broker));
    let fence = Command::FenceBroker {
        broker_id: 0,
        broker_epoch: broker.broker_epoch,
        reason: FenceReason::LeaseExpired,
    };
    broker.quorum.submit(fence).await.unwrap().unwrap();
    assert!(
        !old.leads(broker),
        "the metadata says so before the replica has followed"
    );
    let again = async {
        while !broker.groups.of_partition(number).is_some_and(|new| new.leads(broker)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    assert!(!old.leads(broker));
}

/// Whoever does not lead (any more) has not failed to read: members go on at the next coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_lost_while_loading_ends_the_coordinator_and_nothing_else() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 1).await;
    assert_eq!(cluster.commit(5, false).await.unwrap(), None);
    let broker = cluster.running.broker();
    let partition = broker.groups.of_partition(0).unwrap().partition.clone();
    let epoch = partition.offsets().leader_epoch - 1;
    let (queue, asked) = mpsc::channel(4);
    let (_ended, streams) = mpsc::unbounded_channel();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let ask = super::Ask {
        request: Box::new(Request::Describe("g".into())),
        stream: None,
        answer,
        _memory: None,
    };
    queue.try_send(ask).unwrap();
    let runtime = super::Runtime::new(broker.clone(), partition, epoch, super::Counted::default());
    let ended = runtime.run(asked, streams, tokio_util::sync::CancellationToken::new());
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let refused = answered.await.unwrap().unwrap_err();
    assert!(
        matches!(
            refused,
            GroupRejection::Loading | GroupRejection::NotCoordinator { outcome_unknown: false }
        ),
        "{refused:?}"
    );
    assert_eq!(broker.metrics.group_load_failures.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_takes_in_topics_that_come_later() {
    let cluster = Cluster::start().await;
    cluster.create_topic("u", 3).await;
    let settings = v1::MemberSettings {
        topic_pattern: "t|tt.".into(),
        session_timeout: Some(SESSION),
        ..v1::MemberSettings::default()
    };
    let mut member = Member::join_with(&cluster, "one", settings).await;
    assert_eq!(member.has, [0; 0]);
    for (topic, partitions) in [("tt", 3), ("t", 2)] {
        cluster.create_topic(topic, partitions).await;
    }
    while member.has.is_empty() {
        member.follow().await;
    }
    assert_eq!(member.has, [0, 1]);
}
