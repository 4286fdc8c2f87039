//! What followers ask of this broker.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
};

use futures::Stream;
use millrace_engine::{BrokerId, partition::FetchRequest};
use millrace_proto::internal::v1::{
    ReplicaFetch, ReplicateHello, ReplicateRequest, ReplicateResponse,
    replication_server::{Replication as Service, ReplicationServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Key, limits,
    outlet::{Outlet, Ready},
};
use crate::broker::Broker;

/// The service of one broker; it answers UNAVAILABLE until the broker is there.
#[derive(Clone, Debug)]
pub struct ReplicationService {
    broker: Arc<OnceLock<Weak<Broker>>>,
}

impl ReplicationService {
    /// The service of the broker that will be put into `broker`.
    pub fn server(broker: Arc<OnceLock<Weak<Broker>>>) -> ReplicationServer<Self> {
        ReplicationServer::new(Self { broker })
            .max_decoding_message_size(limits::MAX_REQUEST_BYTES)
            .max_encoding_message_size(limits::MAX_RESPONSE_BYTES)
    }

    #[allow(clippy::result_large_err, reason = "tonic's type")]
    fn broker(&self) -> Result<Arc<Broker>, Status> {
        let broker = self.broker.get().and_then(Weak::upgrade);
        broker.ok_or_else(|| Status::unavailable("This broker has no partitions open now: try again."))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ReplicateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for ReplicationService {
    type ReplicateStream = Answers;

    async fn replicate(
        &self,
        request: Request<Streaming<ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let broker = self.broker()?;
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        let follower = check(&broker, first.hello)?;
        let outlet = Arc::new(Outlet::default());
        let (sender, answers) = mpsc::channel(1);
        let stop = broker.stopping.clone();

        let (sending, stopping) = (outlet.clone(), stop.clone());
        tokio::spawn(async move {
            let send = async {
                while let Some(response) = sending.next().await {
                    if sender.send(Ok(response)).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = send => {}
                () = stopping.cancelled() => {}
            }
            sending.close();
        });
        tokio::spawn(async move {
            let receive = async {
                follower.take(&broker, first.fetches, &outlet);
                while let Ok(Some(request)) = requests.message().await {
                    follower.take(&broker, request.fetches, &outlet);
                }
            };
            tokio::select! {
                () = receive => {}
                () = stop.cancelled() => {}
            }
            outlet.close();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Who asks on a stream.
#[derive(Clone, Copy, Debug)]
struct Follower {
    id: BrokerId,
    broker_epoch: i64,
}

#[allow(clippy::result_large_err, reason = "tonic's type")]
fn check(broker: &Broker, hello: Option<ReplicateHello>) -> Result<Follower, Status> {
    let hello = hello.ok_or_else(|| Status::invalid_argument("The first request must say who asks."))?;
    if hello.cluster_id != broker.cluster_id() {
        return Err(Status::failed_precondition(format!(
            "This broker is of cluster {}, the request is of cluster {}.",
            broker.cluster_id(),
            hello.cluster_id
        )));
    }
    let own = broker.config.node_id;
    if hello.to_broker_id != own {
        return Err(Status::failed_precondition(format!(
            "This is broker {own}, the request is for broker {}.",
            hello.to_broker_id
        )));
    }
    Ok(Follower {
        id: hello.from_broker_id,
        broker_epoch: hello.from_broker_epoch,
    })
}

impl Follower {
    fn take(self, broker: &Broker, fetches: Vec<ReplicaFetch>, outlet: &Arc<Outlet>) {
        for fetch in fetches {
            let Ok(topic_id) = Uuid::from_slice(&fetch.topic_id) else {
                continue;
            };
            let key: Key = (topic_id, fetch.partition);
            let request = FetchRequest {
                replica: self.id,
                broker_epoch: self.broker_epoch,
                leader_epoch: fetch.leader_epoch,
                sequence: fetch.sequence,
                offset: fetch.offset,
                last_fetched_epoch: fetch.last_fetched_epoch,
                durable_end: fetch.durable_end,
                log_start: fetch.log_start,
                high_watermark: fetch.high_watermark,
            };
            match broker.partitions.find_replica(key) {
                Some(partition) if fetch.acknowledge_only => partition.on_acknowledged(request),
                Some(partition) => partition.on_replica_fetch(request, outlet),
                None if fetch.acknowledge_only => {}
                None => outlet.push(Ready::refused(key, &request, "this broker has no such partition (yet)")),
            }
        }
    }
}
