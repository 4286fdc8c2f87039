//! Any broker answers any call of `Messaging`, also while leaders change.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use millrace_proto::v1::{
    Acks, DeleteMessagesRequest, Edge, ErrorReason, Message, PartitionDescription, PartitionStart, Position,
    PublishRequest, PublishStreamRequest, PublishStreamResponse, ReadRequest, Start,
    publish_stream_response::Result as Answer, start::At,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    node::{Node, PATIENCE},
    three,
};

fn message(text: impl ToString) -> Message {
    Message {
        value: Some(text.to_string().into_bytes().into()),
        ..Message::default()
    }
}

fn publish(topic: &str, partition: i32, text: impl ToString) -> PublishRequest {
    PublishRequest {
        topic: topic.into(),
        messages: vec![message(text)],
        partition: Some(partition),
        ..PublishRequest::default()
    }
}

/// All that a partition has, read by `node`, with offsets.
async fn read_all(node: &Node, topic: &str, partition: i32) -> Vec<(i64, String)> {
    let request = ReadRequest {
        topic: topic.into(),
        partitions: vec![PartitionStart { partition, start: None }],
        ..ReadRequest::default()
    };
    let mut answers = node.messaging().await.read(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        for received in answer.messages {
            let value = received.message.and_then(|message| message.value).unwrap();
            read.push((received.offset, String::from_utf8(value.to_vec()).unwrap()));
        }
    }
    read
}

async fn leader_of(node: &Node, topic: &str, partition: usize) -> usize {
    let topic = node.topic(topic).await.unwrap();
    usize::try_from(topic.partitions[partition].leader_id.unwrap()).unwrap()
}

/// One publish stream of a caller that numbers its requests from 1.
struct PublishCall {
    requests: mpsc::Sender<PublishStreamRequest>,
    answers: Streaming<PublishStreamResponse>,
    token: Vec<u8>,
}

impl PublishCall {
    async fn open(node: &Node, token: Option<Vec<u8>>) -> Self {
        let (requests, sent) = mpsc::channel(1_024);
        let first = PublishStreamRequest {
            resume_token: token.map(Into::into),
            ..PublishStreamRequest::default()
        };
        requests.send(first).await.unwrap();
        let opened = node.messaging().await.publish_stream(ReceiverStream::new(sent)).await;
        let mut answers = opened.unwrap().into_inner();
        let Some(Answer::Opened(opened)) = answers.message().await.unwrap().unwrap().result else {
            panic!("the first answer is not that the stream is open")
        };
        Self {
            requests,
            answers,
            token: opened.resume_token.to_vec(),
        }
    }

    async fn send(&self, id: u64, request: PublishRequest) {
        let request = PublishStreamRequest {
            id,
            publish: Some(request),
            resume_token: None,
        };
        self.requests.send(request).await.unwrap();
    }

    async fn position(&mut self, id: u64) -> Position {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap();
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.id, id, "{answer:?}");
        match answer.result {
            Some(Answer::Published(published)) => published.positions[0],
            other => panic!("request {id}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_broker_answers_for_every_partition() {
    let (_folder, nodes) = three().await;
    nodes[0].create_topic("orders", 3, 3).await;
    for node in &nodes {
        for partition in 0..3 {
            let mut messaging = node.messaging().await;
            let request = publish("orders", partition, format!("from {}", node.id));
            let published = messaging.publish(request).await.unwrap().into_inner();
            assert_eq!(published.positions[0].offset, i64::from(node.id));
            assert_eq!(published.positions[0].partition, partition);
        }
    }
    // Over several partitions at once, and without waiting for replicas.
    let request = PublishRequest {
        topic: "orders".into(),
        messages: (0..30)
            .map(|number| Message {
                key: Some(format!("key {number}").into_bytes().into()),
                ..message(number)
            })
            .collect(),
        acks: Acks::Leader.into(),
        ..PublishRequest::default()
    };
    let spread = nodes[1].messaging().await.publish(request).await.unwrap().into_inner();
    let partitions: BTreeMap<i32, usize> = spread.positions.iter().fold(BTreeMap::new(), |mut count, position| {
        *count.entry(position.partition).or_default() += 1;
        count
    });
    assert_eq!(partitions.len(), 3, "{partitions:?}");
    // Readable once the replicas have it, for which that call did not wait.
    let began = Instant::now();
    while let Some(behind) = nodes[2].topic("orders").await.and_then(|topic| {
        let behind = |partition: &PartitionDescription| partition.high_watermark != partition.log_end;
        topic.partitions.into_iter().find(behind)
    }) {
        assert!(began.elapsed() < PATIENCE, "{behind:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    for node in &nodes {
        for partition in 0..3 {
            let read = read_all(node, "orders", partition).await;
            assert_eq!(read.len(), 3 + partitions[&partition], "{read:?}");
            let first: Vec<&str> = read[..3].iter().map(|(_, text)| text.as_str()).collect();
            assert_eq!(first, ["from 0", "from 1", "from 2"]);
        }
        let described = node.topic("orders").await.unwrap();
        for (partition, count) in described.partitions.iter().zip(partitions.values()) {
            let end = i64::try_from(3 + count).unwrap();
            assert_eq!(partition.log_end, Some(end), "{partition:?}");
            assert!(partition.size_bytes.unwrap() > 0 && partition.problem.is_empty());
        }
    }

    // What is refused is refused alike, with the same facts.
    for node in &nodes {
        let mut messaging = node.messaging().await;
        let mut request = publish("orders", 0, "conditional");
        request.expected_offset = Some(1);
        let refused = messaging.publish(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Aborted, "{refused:?}");
        let refused = messaging.publish(publish("orders", 9, "nowhere")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound, "{refused:?}");
        let request = ReadRequest {
            topic: "orders".into(),
            start: Some(Start {
                at: Some(At::Offset(1_000)),
            }),
            ..ReadRequest::default()
        };
        let refused = messaging.read(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused:?}");
    }

    let leader = leader_of(&nodes[0], "orders", 0).await;
    let request = DeleteMessagesRequest {
        topic: "orders".into(),
        partition: 0,
        before_offset: 2,
        ..DeleteMessagesRequest::default()
    };
    let mut admin = nodes[(leader + 1) % 3].admin().await;
    assert_eq!(admin.delete_messages(request).await.unwrap().into_inner().log_start, 2);
    for node in &nodes {
        assert_eq!(read_all(node, "orders", 0).await[0].0, 2);
    }
}

/// The stream stays open at a broker that does not lead while the leader is killed: all requests are
/// answered as if nothing had happened, each is stored once and in its order.
#[tokio::test]
async fn a_publish_stream_and_a_reader_at_another_broker_survive_the_leaders_death() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    let leader = leader_of(&nodes[0], "orders", 0).await;
    let (writer, reader) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut call = PublishCall::open(&nodes[writer], None).await;
    let request = ReadRequest {
        topic: "orders".into(),
        start: Some(Start {
            at: Some(At::Edge(Edge::Beginning.into())),
        }),
        follow: true,
        ..ReadRequest::default()
    };
    let mut followed = nodes[reader]
        .messaging()
        .await
        .read(request)
        .await
        .unwrap()
        .into_inner();

    let total = 3_000_u64;
    let (mut sent, mut answered) = (0, 0);
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while answered < total {
        while sent < total && sent - answered < 64 {
            sent += 1;
            call.send(sent, publish("orders", 0, sent)).await;
        }
        answered += 1;
        let position = call.position(answered).await;
        assert_eq!(position.offset, i64::try_from(answered).unwrap() - 1);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if answered == total / 3 {
            nodes[leader].kill();
        }
    }
    println!("the longest pause of a stream at another broker: {longest:?}");
    let mut next = 0;
    while next < i64::try_from(total).unwrap() {
        let answer = tokio::time::timeout(PATIENCE, followed.message()).await.unwrap();
        for received in answer.unwrap().unwrap().messages {
            assert_eq!(received.offset, next, "a gap or a repeat");
            let value = received.message.and_then(|message| message.value).unwrap();
            assert_eq!(value, (next + 1).to_string());
            next += 1;
        }
    }
    for node in [writer, reader] {
        let read = read_all(&nodes[node], "orders", 0).await;
        assert_eq!(read.len(), usize::try_from(total).unwrap());
    }
}

/// A leader that stands still is not waited for: what it was sent goes to the next one.
#[tokio::test]
async fn a_frozen_leader_holds_up_a_stream_only_until_it_is_replaced() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    let leader = leader_of(&nodes[0], "orders", 0).await;
    let writer = (leader + 1) % 3;
    let mut call = PublishCall::open(&nodes[writer], None).await;
    call.send(1, publish("orders", 0, 1)).await;
    assert_eq!(call.position(1).await.offset, 0);
    nodes[leader].freeze();
    let began = Instant::now();
    for id in 2..=40 {
        call.send(id, publish("orders", 0, id)).await;
    }
    for id in 2..=40 {
        assert_eq!(call.position(id).await.offset, i64::try_from(id).unwrap() - 1);
    }
    println!("a stream at another broker went on after {:?}", began.elapsed());
    nodes[leader].thaw();
    nodes[leader].wait_ready().await;
    // The old leader may not know at once that it is one; until then it shows what is committed of old,
    // and never what it took and must give up.
    let expected: Vec<(i64, String)> = (0..40).map(|offset| (offset, (offset + 1).to_string())).collect();
    loop {
        let read = read_all(&nodes[leader], "orders", 0).await;
        assert_eq!(read, expected[..read.len()]);
        if read.len() == expected.len() {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_stream_is_resumed_at_another_broker_without_a_double() {
    let (_folder, nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    let mut unanswered = VecDeque::new();
    let mut call = PublishCall::open(&nodes[0], None).await;
    let mut id = 0;
    for round in 1..=6 {
        // Broken with requests on their way; some of them are stored, the caller can't tell which.
        for _ in 0..30 {
            id += 1;
            call.send(id, publish("orders", 0, id)).await;
            unanswered.push_back(id);
        }
        for _ in 0..10 {
            let first = unanswered.pop_front().unwrap();
            assert_eq!(call.position(first).await.offset, i64::try_from(first).unwrap() - 1);
        }
        let token = call.token.clone();
        drop(call);
        call = PublishCall::open(&nodes[round % 3], Some(token)).await;
        for id in &unanswered {
            call.send(*id, publish("orders", 0, id)).await;
        }
    }
    for id in unanswered {
        assert_eq!(call.position(id).await.offset, i64::try_from(id).unwrap() - 1);
    }
    let read = read_all(&nodes[2], "orders", 0).await;
    let expected: Vec<(i64, String)> = (1..=id)
        .map(|id| (i64::try_from(id).unwrap() - 1, id.to_string()))
        .collect();
    assert_eq!(read, expected);
}

/// A single call is not repeated where that could store it twice, and is where it can't.
#[tokio::test]
async fn a_single_publish_is_stored_at_most_once_and_told_truly() {
    let (_folder, mut nodes) = three().await;
    nodes[0].create_topic("orders", 1, 3).await;
    let leader = leader_of(&nodes[0], "orders", 0).await;
    let other = (leader + 1) % 3;
    let mut acknowledged = Vec::new();
    let mut unknown = Vec::new();
    let began = Instant::now();
    let mut killed = false;
    let mut after = 0;
    for number in 0..20_000 {
        let mut messaging = nodes[other].messaging().await;
        match messaging.publish(publish("orders", 0, number)).await {
            Ok(_) => acknowledged.push(number.to_string()),
            Err(status) => {
                use tonic_types::StatusExt as _;
                let details = status.get_error_details();
                let info = details.error_info().unwrap();
                assert_ne!(info.reason, ErrorReason::Internal.reason_name(), "{status:?}");
                assert_eq!(info.metadata["outcome"], "unknown", "{status:?}");
                unknown.push(number.to_string());
            }
        }
        if !killed && number >= 50 {
            nodes[leader].kill();
            killed = true;
        } else if killed {
            after += 1;
            if after == 50 {
                break;
            }
        }
        assert!(began.elapsed() < PATIENCE);
    }
    println!("{} acknowledged, {} unknown", acknowledged.len(), unknown.len());
    assert!(unknown.len() <= 1, "calls come one after the other: {unknown:?}");
    let read: Vec<String> = read_all(&nodes[other], "orders", 0)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let surely: Vec<String> = read.iter().filter(|text| !unknown.contains(text)).cloned().collect();
    assert_eq!(surely, acknowledged);
    for text in unknown {
        assert!(read.iter().filter(|stored| **stored == text).count() <= 1);
    }
}
