//! Subscribers of a real broker.

use std::sync::Arc;

use millrace_proto::v1::{
    self, ErrorReason, group_offset::Position, groups_client::GroupsClient, messaging_client::MessagingClient,
    subscribe_request::Request, subscribe_response::Response,
};
use tokio::sync::mpsc;
use tonic::{Streaming, transport::Channel};

use crate::{
    partition::Partition,
    testing::{TestBroker, append, committed},
};

/// A subscriber to the topic "t" in the group "g".
struct Subscriber {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    told: Streaming<v1::SubscribeResponse>,
}

impl Subscriber {
    async fn open(test: &TestBroker) -> Self {
        let (requests, queue) = mpsc::channel(4);
        let open = v1::SubscribeOpen {
            group: "g".into(),
            topics: vec!["t".into()],
            credit: Some(v1::SubscribeCredit {
                messages: 2,
                ..v1::SubscribeCredit::default()
            }),
            ..v1::SubscribeOpen::default()
        };
        let first = v1::SubscribeRequest {
            id: 0,
            request: Some(Request::Open(open)),
        };
        requests.send(first).await.unwrap();
        let mut stub = MessagingClient::connect(address(test)).await.unwrap();
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let told = stub.subscribe(queue).await.unwrap().into_inner();
        Self { requests, told }
    }

    async fn ask(&self, id: u64, request: Request) {
        let request = Some(request);
        self.requests.send(v1::SubscribeRequest { id, request }).await.unwrap();
    }

    async fn next(&mut self) -> Response {
        self.told.message().await.unwrap().unwrap().response.unwrap()
    }

    /// Offsets of the next messages.
    async fn messages(&mut self) -> Vec<i64> {
        loop {
            if let Response::Messages(delivery) = self.next().await {
                return delivery.messages.iter().map(|message| message.offset).collect();
            }
        }
    }

    /// Leaves, and has committed by then what is processed.
    async fn leave(mut self) {
        self.ask(9, Request::Leave(v1::SubscribeLeave::default())).await;
        while self.told.message().await.unwrap().is_some() {}
    }
}

fn address(test: &TestBroker) -> String {
    format!("http://{}", test.running.address())
}

async fn groups(test: &TestBroker) -> GroupsClient<Channel> {
    GroupsClient::connect(address(test)).await.unwrap()
}

/// A broker that has a group, and a topic "t" that was elected uncleanly.
async fn with_cut_partition() -> (TestBroker, Arc<Partition>) {
    let test = TestBroker::alone().await;
    // The groups' topic is to be on this broker alone.
    let request = v1::FindCoordinatorRequest { group: "g".into() };
    groups(&test).await.find_coordinator(request).await.unwrap();
    test.register_phantom().await;
    let partition = test.cut_partition("t").await;
    (test, partition)
}

/// What the group has committed: offset and leader epoch.
async fn position(test: &TestBroker) -> (i64, Option<i32>) {
    let request = v1::FetchOffsetsRequest {
        group: "g".into(),
        topics: vec![v1::TopicPartitions {
            topic: "t".into(),
            partitions: vec![0],
            ..v1::TopicPartitions::default()
        }],
        ..v1::FetchOffsetsRequest::default()
    };
    let told = groups(test).await.fetch_offsets(request).await.unwrap().into_inner();
    match &told.offsets[0].position {
        Some(Position::Committed(committed)) => (committed.offset, committed.leader_epoch),
        other => panic!("{other:?}"),
    }
}

async fn commit(test: &TestBroker, offset: i64, leader_epoch: Option<i32>) {
    let request = v1::CommitOffsetsRequest {
        group: "g".into(),
        topics: vec![v1::CommitTopicOffsets {
            topic: "t".into(),
            partitions: vec![v1::CommitPartitionOffset {
                partition: 0,
                offset,
                leader_epoch,
                ..v1::CommitPartitionOffset::default()
            }],
            ..v1::CommitTopicOffsets::default()
        }],
        rewind: true,
        ..v1::CommitOffsetsRequest::default()
    };
    let told = groups(test).await.commit_offsets(request).await.unwrap().into_inner();
    assert_eq!(told.partitions[0].error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_have_the_leader_epoch_of_the_message_before_them() {
    let (test, partition) = with_cut_partition().await;
    (0..4).for_each(|_| append(&partition));
    committed(&partition, 4).await;
    let epoch = partition.offsets().leader_epoch;
    assert!(epoch > 0);
    // By the broker, of what is processed.
    let mut subscriber = Subscriber::open(&test).await;
    assert_eq!(subscriber.messages().await, [0, 1]);
    let processed = v1::SubscribeCredit {
        processed_through: 1,
        messages: 2,
        ..v1::SubscribeCredit::default()
    };
    subscriber.ask(1, Request::Credit(processed)).await;
    assert_eq!(subscriber.messages().await, [2, 3]);
    // By the subscriber, behind one message of two.
    let offsets = vec![v1::TopicOffset {
        topic: "t".into(),
        partition: 0,
        offset: 3,
    }];
    subscriber
        .ask(2, Request::Commit(v1::SubscribeCommit { offsets }))
        .await;
    while !matches!(subscriber.next().await, Response::Committed(done) if done.partitions[0].error.is_none()) {}
    assert_eq!(position(&test).await, (3, Some(epoch)));
    let processed = v1::SubscribeCredit {
        processed_through: 2,
        ..v1::SubscribeCredit::default()
    };
    subscriber.ask(3, Request::Credit(processed)).await;
    subscriber.leave().await;
    assert_eq!(position(&test).await, (4, Some(epoch)));
}

/// Other messages may stand at the offsets that the group has read: neither are these passed over nor those repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_cut_below_what_is_committed_is_told_of_and_not_read() {
    let (test, partition) = with_cut_partition().await;
    (0..4).for_each(|_| append(&partition));
    committed(&partition, 4).await;
    // As under the leader before.
    commit(&test, 3, Some(0)).await;
    let mut subscriber = Subscriber::open(&test).await;
    let error = loop {
        match subscriber.next().await {
            Response::Error(error) => break error,
            other => assert!(!matches!(other, Response::Messages(_)), "{other:?}"),
        }
    };
    let of = error.partition.unwrap();
    assert_eq!((error.id, &*of.topic, of.partition), (0, "t", 0));
    let error = error.error.unwrap();
    assert_eq!(error.reason(), ErrorReason::LogTruncated);
    assert_eq!((&*error.metadata["offset"], &*error.metadata["end_offset"]), ("3", "0"));
    subscriber.leave().await;
    assert_eq!(position(&test).await, (3, Some(0)), "as it was");
    // Once it is said where to go on.
    commit(&test, 1, None).await;
    let mut subscriber = Subscriber::open(&test).await;
    assert_eq!(subscriber.messages().await, [1, 2]);
    subscriber.leave().await;
}
