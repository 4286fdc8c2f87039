//! What other brokers pass on to this one, for partitions that it leads.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use millrace_engine::partition::{FetchBound, OffsetQuery};
use millrace_proto::{
    internal::v1::{
        ForwardAppendRequest, ForwardAppendResponse, ForwardDeleteMessagesRequest, ForwardDeleteMessagesResponse,
        ForwardDescribePartition, ForwardDescribeRequest, ForwardDescribeResponse, ForwardDescription, ForwardHello,
        ForwardInventoryRequest, ForwardInventoryResponse, ForwardReadRequest, ForwardReadResponse,
        ForwardTimesRequest, ForwardTimesResponse,
        forward_server::{Forward, ForwardServer},
    },
    v1::ErrorReason,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    service::{Interceptor, interceptor::InterceptedService},
};
use tower::Layer as _;
use uuid::Uuid;

use super::{
    appends::Appends,
    inventory::Inventory,
    limits,
    place::{Described, delete_here},
    source::ReadFrom,
    times, wire,
};
use crate::{
    broker::Broker,
    error::ApiError,
    limits::{MAX_RPC_MESSAGE_BYTES, SMALL_ANSWER_BYTES},
    memory::{MemoryBudget, MemoryLayer, MemoryService, MessagePermits},
    partition::Partition,
    replication::Key,
    rpc::{budget, no_memory, permits, read_within},
};

/// The service of one broker; it answers UNAVAILABLE until the broker is there.
#[derive(Clone, Debug)]
pub struct ForwardService {
    broker: Arc<OnceLock<Weak<Broker>>>,
}

/// Gives each call its part of the budget for other brokers' calls.
#[derive(Clone, Debug)]
pub struct Budgeted(MemoryBudget);

impl Interceptor for Budgeted {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(self.0.connection());
        Ok(request)
    }
}

impl ForwardService {
    /// The service of the broker that will be put into `broker`. Its messages count in a budget of
    /// its own.
    pub fn server(
        broker: Arc<OnceLock<Weak<Broker>>>,
    ) -> InterceptedService<MemoryService<ForwardServer<Self>>, Budgeted> {
        let server = ForwardServer::new(Self { broker })
            .max_decoding_message_size(MAX_RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_ANSWER_BYTES);
        budgeted(server)
    }

    #[allow(clippy::result_large_err, reason = "tonic's type")]
    fn broker(&self) -> Result<Arc<Broker>, Status> {
        hosted(&self.broker)
    }
}

/// A service for other brokers, whose messages count in a budget of its own.
pub fn budgeted<S>(server: S) -> InterceptedService<MemoryService<S>, Budgeted> {
    let memory = MemoryBudget::new(limits::MEMORY_BYTES, limits::MEMORY_BYTES / 2);
    InterceptedService::new(MemoryLayer::default().layer(server), Budgeted(memory))
}

/// The broker, once it is there and until it stops.
///
/// # Errors
/// UNAVAILABLE.
#[allow(clippy::result_large_err, reason = "tonic's type")]
pub fn hosted(broker: &OnceLock<Weak<Broker>>) -> Result<Arc<Broker>, Status> {
    let broker = broker.get().and_then(Weak::upgrade);
    let broker = broker.filter(|broker| !broker.stopping.is_cancelled());
    broker.ok_or_else(|| Status::unavailable("This broker has no partitions open now: try again."))
}

/// The first request of another broker's stream, by which it says who asks.
///
/// # Errors
/// The stream breaks, or another broker is meant.
pub async fn first<M: Default>(
    broker: &Broker,
    permits: &MessagePermits,
    requests: &mut Streaming<M>,
    hello: impl Fn(&M) -> Option<&ForwardHello>,
) -> Result<M, Status> {
    permits.claim();
    let first = requests.message().await?.unwrap_or_default();
    drop(permits.take());
    check(broker, hello(&first))?;
    Ok(first)
}

/// Checks that this broker is meant.
///
/// # Errors
/// It is not.
#[allow(clippy::result_large_err, reason = "tonic's type")]
pub fn check(broker: &Broker, hello: Option<&ForwardHello>) -> Result<(), Status> {
    let hello = hello.ok_or_else(|| Status::invalid_argument("The request must say who asks."))?;
    let (cluster, own) = (broker.cluster_id(), broker.config.node_id);
    if hello.cluster_id != cluster {
        return Err(Status::failed_precondition(format!(
            "This broker is of cluster {cluster}, the request is of cluster {}.",
            hello.cluster_id
        )));
    }
    if hello.to_broker_id != own {
        return Err(Status::failed_precondition(format!(
            "This is broker {own}, the request is for broker {}.",
            hello.to_broker_id
        )));
    }
    Ok(())
}

#[tonic::async_trait]
impl Forward for ForwardService {
    type AppendStream = ReceiverStream<Result<ForwardAppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<ForwardAppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let broker = self.broker()?;
        let permits = permits(&request);
        let mut requests = request.into_inner();
        first(&broker, &permits, &mut requests, |first| first.hello.as_ref()).await?;
        let (answers, stream) = mpsc::channel(limits::ANSWERS_AHEAD);
        let serving = Appends::new(broker.clone()).serve(requests, permits, answers);
        // A stopping broker answers what it has taken.
        broker.spawn(serving);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read(&self, request: Request<ForwardReadRequest>) -> Result<Response<ForwardReadResponse>, Status> {
        let broker = self.broker()?;
        check(&broker, request.get_ref().hello.as_ref())?;
        let response = read(&broker, &request)
            .await
            .unwrap_or_else(|error| ForwardReadResponse {
                error: Some(wire::error_out(&error)),
                ..ForwardReadResponse::default()
            });
        Ok(Response::new(response))
    }

    async fn describe(
        &self,
        request: Request<ForwardDescribeRequest>,
    ) -> Result<Response<ForwardDescribeResponse>, Status> {
        let broker = self.broker()?;
        let request = request.into_inner();
        check(&broker, request.hello.as_ref())?;
        if request.partitions.len() > limits::DESCRIBED_AT_ONCE {
            return Err(Status::invalid_argument("The request names too many partitions."));
        }
        let wait = Duration::from_millis(request.wait_ms.into()).min(limits::NEWS_WAIT_LONGEST);
        let descriptions = describe(&broker, &request.partitions, wait).await;
        Ok(Response::new(ForwardDescribeResponse { descriptions }))
    }

    async fn times(&self, request: Request<ForwardTimesRequest>) -> Result<Response<ForwardTimesResponse>, Status> {
        let broker = self.broker()?;
        let request = request.into_inner();
        check(&broker, request.hello.as_ref())?;
        if request.places.len() > limits::TIMES_AT_ONCE {
            return Err(Status::invalid_argument("The request names too many places."));
        }
        let within = Duration::from_millis(request.within_ms.into()).min(limits::TIMES_WITHIN_LONGEST);
        Ok(Response::new(times::tell(&broker, &request.places, within).await))
    }

    async fn delete_messages(
        &self,
        request: Request<ForwardDeleteMessagesRequest>,
    ) -> Result<Response<ForwardDeleteMessagesResponse>, Status> {
        let broker = self.broker()?;
        let request = request.into_inner();
        check(&broker, request.hello.as_ref())?;
        let deleted = async {
            let partition = find(&broker, &request.topic_id, request.partition)?;
            delete_here(partition, request.before_offset, request.validate_only).await
        };
        let response = match broker.tasks.track_future(deleted).await {
            Ok(log_start) => ForwardDeleteMessagesResponse { error: None, log_start },
            Err(error) => ForwardDeleteMessagesResponse {
                error: Some(wire::error_out(&error)),
                log_start: 0,
            },
        };
        Ok(Response::new(response))
    }

    async fn inventory(
        &self,
        request: Request<ForwardInventoryRequest>,
    ) -> Result<Response<ForwardInventoryResponse>, Status> {
        let broker = self.broker()?;
        let request = request.into_inner();
        check(&broker, request.hello.as_ref())?;
        if request.topic_ids.len() > limits::INVENTORY_TOPICS {
            return Err(Status::invalid_argument("The request names too many topics."));
        }
        let topics: Vec<Uuid> = request
            .topic_ids
            .iter()
            .map(|id| Uuid::from_slice(id))
            .collect::<Result<_, _>>()
            .map_err(|_| Status::invalid_argument("A topic's id must have 16 bytes."))?;
        let after = request
            .after
            .map(|after| wire::key_in(&after.topic_id, after.partition));
        let after = after
            .transpose()
            .map_err(|error| Status::invalid_argument(error.message()))?;
        let telling = tokio::task::spawn_blocking(move || Inventory::of(&broker, &topics).page(after));
        let answer = telling.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(answer))
    }
}

/// The partition that another broker means.
pub(super) fn find(broker: &Broker, topic_id: &[u8], number: u32) -> Result<Arc<Partition>, ApiError> {
    let key: Key = wire::key_in(topic_id, number)?;
    broker.partitions.find_replica(key).ok_or_else(|| {
        ApiError::new(
            ErrorReason::NotLeader,
            format!(
                "Broker {} does not hold partition {number}, or not yet: fetch metadata again.",
                broker.config.node_id
            ),
        )
    })
}

async fn read(broker: &Broker, request: &Request<ForwardReadRequest>) -> Result<ForwardReadResponse, ApiError> {
    let asked = request.get_ref();
    let partition = find(broker, &asked.topic_id, asked.partition)?;
    let up_to = match broker.check_fetch(&partition, asked.offset, None).await? {
        FetchBound::UpTo(bound) => bound.min(asked.up_to.unwrap_or(i64::MAX)),
        FetchBound::Nothing => asked.offset,
    };
    let answer = |partition: &Partition| ForwardReadResponse {
        up_to,
        offsets: Some(wire::offsets_out(&partition.offsets())),
        ..ForwardReadResponse::default()
    };
    if asked.offset >= up_to {
        return Ok(answer(&partition));
    }
    let max_bytes = (asked.max_bytes as usize).min(limits::READ_BYTES);
    // What is read, and the same encoded. Small reads go out without, so that they always do.
    if max_bytes > SMALL_ANSWER_BYTES
        && let Some(budget) = budget(request)
    {
        let permit = match budget.acquire_for_answer(2 * max_bytes).await {
            Some(permit) => permit,
            None => budget.acquire_for_large_answer(max_bytes).await.ok_or_else(no_memory)?,
        };
        permits(request).keep(permit);
    }
    let data = read_within(&partition, asked.offset, max_bytes, up_to).await?;
    broker.metrics.count_fetched(partition.topic(), data.bytes.len());
    Ok(ForwardReadResponse {
        records: data.bytes,
        first_batch_too_large: data.first_batch_too_large.map(|bytes| bytes as u64),
        ..answer(&partition)
    })
}

/// Describes partitions, once one of them has more than its asker knows, or time is up.
async fn describe(broker: &Broker, asked: &[ForwardDescribePartition], wait: Duration) -> Vec<ForwardDescription> {
    let until = Instant::now() + wait;
    loop {
        let waiter = Arc::new(Notify::new());
        let mut described = Vec::with_capacity(asked.len());
        let mut news = wait.is_zero();
        for part in asked {
            let description = describe_one(broker, part, (!wait.is_zero()).then_some(&waiter)).await;
            news |= match (&description.offsets, part.beyond) {
                (Some(offsets), Some(beyond)) => offsets.last_stable > beyond,
                (None, _) => true,
                (Some(_), None) => false,
            };
            described.push(description);
        }
        if news {
            return described;
        }
        tokio::select! {
            () = waiter.notified() => {}
            () = tokio::time::sleep_until(until) => return described,
            () = broker.stopping.cancelled() => return described,
        }
    }
}

async fn describe_one(
    broker: &Broker,
    asked: &ForwardDescribePartition,
    waiter: Option<&Arc<Notify>>,
) -> ForwardDescription {
    let described = async {
        let partition = find(broker, &asked.topic_id, asked.partition)?;
        if let Some(waiter) = waiter {
            // Before it is looked: what comes in between must not be missed.
            partition.notify_on_data(waiter);
        }
        partition.check_epoch(None)?;
        let start_offset = match &asked.start {
            Some(start) => {
                let from = ReadFrom {
                    at: wire::start_in(start),
                    last_epoch: asked.last_epoch,
                };
                Some(from.offset_in(broker, &partition).await?)
            }
            None => None,
        };
        if asked.end_known {
            // Before the offsets are looked at: what is known then, they tell.
            partition.check_offset_query(OffsetQuery::EndOrTime)?;
        }
        let described = Described::of(&partition);
        Ok::<_, ApiError>(ForwardDescription {
            error: None,
            offsets: Some(wire::offsets_out(&described.offsets)),
            size_bytes: described.size_bytes,
            problem: described.problem,
            start_offset,
        })
    };
    described.await.unwrap_or_else(|error| ForwardDescription {
        error: Some(wire::error_out(&error)),
        ..ForwardDescription::default()
    })
}
