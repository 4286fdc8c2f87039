//! A broker without a vote, whose metadata is behind.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use millrace_proto::v1::{
    CordonBrokerRequest, CreatePartitionsRequest, DeleteMessagesRequest, DescribeConfigsRequest, DescribeTopicRequest,
    ErrorReason, ListReassignmentsRequest, Message, PublishRequest, ReadRequest, describe_configs_request::Resource,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{
    node::{Node, PATIENCE, is_available},
    three,
};

/// Stands before a broker's internal port. While it is held nothing that others send arrives there;
/// what the broker itself asks of others goes its own way.
struct Gate {
    address: SocketAddr,
    held: watch::Sender<bool>,
}

impl Gate {
    async fn before(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, is_held) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(pass_on(from, broker, is_held.clone()));
            }
        });
        Self { address, held }
    }
}

async fn pass_on(from: TcpStream, to: SocketAddr, mut is_held: watch::Receiver<bool>) -> std::io::Result<()> {
    let (mut asked, mut back) = from.into_split();
    let (mut answers, mut on) = TcpStream::connect(to).await?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    while let Some(bytes) = chunk(&mut asked).await? {
        if is_held.wait_for(|held| !held).await.is_err() {
            break;
        }
        on.write_all(&bytes).await?;
    }
    Ok(())
}

async fn chunk(from: &mut OwnedReadHalf) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 64 << 10];
    let count = from.read(&mut bytes).await?;
    bytes.truncate(count);
    Ok((count > 0).then_some(bytes))
}

async fn reason<T>(call: impl Future<Output = Result<T, Status>>) -> Option<String> {
    let answered = tokio::time::timeout(PATIENCE, call).await.expect("an answer in time");
    let status = answered.err()?;
    let details = status.get_error_details();
    Some(
        details
            .error_info()
            .map_or_else(|| status.to_string(), |info| info.reason.clone()),
    )
}

async fn publish(at: &Node) -> Option<String> {
    let request = PublishRequest {
        topic: "orders".into(),
        messages: vec![Message::default()],
        ..PublishRequest::default()
    };
    let mut messaging = at.messaging().await;
    reason(messaging.publish(request)).await
}

/// What each call that names the topic is answered; none where it succeeds.
async fn answers(at: &Node) -> Vec<Option<String>> {
    let topic = || "orders".to_owned();
    let mut messaging = at.messaging().await;
    let admin = at.admin().await;
    let [
        mut of_topics,
        mut of_growth,
        mut of_messages,
        mut of_configs,
        mut of_moves,
    ] = [(); 5].map(|()| admin.clone());
    let read = ReadRequest {
        topic: topic(),
        ..ReadRequest::default()
    };
    let describe = DescribeTopicRequest { name: topic() };
    let grow = CreatePartitionsRequest {
        name: topic(),
        partitions: 1,
        validate_only: false,
        as_owner: None,
    };
    let delete = DeleteMessagesRequest {
        topic: topic(),
        validate_only: true,
        ..DeleteMessagesRequest::default()
    };
    let configs = DescribeConfigsRequest {
        resource: Some(Resource::Topic(topic())),
    };
    let moves = ListReassignmentsRequest {
        topic: topic(),
        ..ListReassignmentsRequest::default()
    };
    // All at once: where there is no answer each waits for it.
    let answers = tokio::join!(
        publish(at),
        reason(messaging.read(read)),
        reason(of_topics.describe_topic(describe)),
        reason(of_growth.create_partitions(grow)),
        reason(of_messages.delete_messages(delete)),
        reason(of_configs.describe_configs(configs)),
        reason(of_moves.list_reassignments(moves)),
    );
    <[_; 7]>::from(answers).into()
}

/// Who has just created a topic may ask any broker about it.
#[tokio::test]
async fn a_topic_that_a_broker_has_not_heard_of_yet_is_not_called_unknown() {
    let (folder, nodes) = three().await;
    let mut learner = Node::new(&folder, 3, &[&nodes[0]]);
    let gate = Gate::before(learner.internal).await;
    let address = format!("advertised.internal.address={}", gate.address);
    learner.launch_with(&["--format-if-empty", "--set", &address]);
    learner.wait_ready().await;
    nodes[0]
        .wait_cluster("four brokers", |cluster| (0..4).all(|id| is_available(cluster, id)))
        .await;
    // Its replicas would be behind as well.
    let cordon = CordonBrokerRequest {
        broker_id: 3,
        validate_only: false,
    };
    nodes[0].admin().await.cordon_broker(cordon).await.unwrap();
    assert_eq!(
        publish(&learner).await.as_deref(),
        Some(ErrorReason::UnknownTopic.reason_name())
    );

    gate.held.send_replace(true);
    nodes[0].create_topic("orders", 1, 3).await;
    let not_told = Some(ErrorReason::QuorumUnavailable.reason_name().to_owned());
    assert_eq!(answers(&learner).await, vec![not_told.clone(); 7]);

    gate.held.send_replace(false);
    let began = Instant::now();
    loop {
        let answer = publish(&learner).await;
        if answer.is_none() {
            break;
        }
        assert_eq!(answer, not_told);
        assert!(began.elapsed() < PATIENCE, "{}", learner.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(answers(&learner).await, vec![None; 7]);
}
