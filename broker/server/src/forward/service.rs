//! What other brokers pass on to this one, for partitions that it leads.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millrace_engine::partition::FetchBound;
use millrace_proto::{
    internal::v1::{
        ForwardAppend, ForwardAppendAnswer, ForwardAppendRequest, ForwardAppendResponse, ForwardAppended,
        ForwardDeleteMessagesRequest, ForwardDeleteMessagesResponse, ForwardDescribePartition, ForwardDescribeRequest,
        ForwardDescribeResponse, ForwardDescription, ForwardHello, ForwardReadRequest, ForwardReadResponse,
        forward_append_answer::Result as Answer,
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

use super::{
    limits,
    place::{Described, delete_here, ends_flow},
    wire,
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    limits::{MAX_RPC_MESSAGE_BYTES, SMALL_ANSWER_BYTES},
    memory::{MemoryBudget, MemoryLayer, MemoryService},
    partition::{AppendRequest, Partition, SequenceRule},
    replication::Key,
    rpc::{acknowledge, budget, convert::Acks, no_memory, permits, read_within, resolve},
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
        let memory = MemoryBudget::new(limits::MEMORY_BYTES, limits::MEMORY_BYTES / 2);
        InterceptedService::new(MemoryLayer::default().layer(server), Budgeted(memory))
    }

    #[allow(clippy::result_large_err, reason = "tonic's type")]
    fn broker(&self) -> Result<Arc<Broker>, Status> {
        let broker = self.broker.get().and_then(Weak::upgrade);
        let broker = broker.filter(|broker| !broker.stopping.is_cancelled());
        broker.ok_or_else(|| Status::unavailable("This broker has no partitions open now: try again."))
    }
}

#[allow(clippy::result_large_err, reason = "tonic's type")]
fn check(broker: &Broker, hello: Option<&ForwardHello>) -> Result<(), Status> {
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
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        check(&broker, first.hello.as_ref())?;
        let (answers, stream) = mpsc::channel(limits::ANSWERS_AHEAD);
        let serving = Appends::new(broker.clone()).serve(requests, answers);
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
}

/// The partition that another broker means.
fn find(broker: &Broker, topic_id: &[u8], number: u32) -> Result<Arc<Partition>, ApiError> {
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

/// The batches of one stream.
struct Appends {
    broker: Arc<Broker>,
    /// Flows of which something was refused, and when.
    refused: HashMap<u64, Instant>,
}

type Pending = BoxFuture<'static, ForwardAppendAnswer>;

impl Appends {
    fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            refused: HashMap::new(),
        }
    }

    async fn serve(
        mut self,
        mut requests: Streaming<ForwardAppendRequest>,
        answers: mpsc::Sender<Result<ForwardAppendResponse, Status>>,
    ) {
        let stopping = self.broker.stopping.clone();
        let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
        let mut open = true;
        while open || !pending.is_empty() {
            tokio::select! {
                biased;
                () = stopping.cancelled(), if open => open = false,
                () = answers.closed() => return,
                Some(first) = pending.next(), if !pending.is_empty() => {
                    let mut ready = vec![first];
                    while ready.len() < limits::ANSWERS_AT_ONCE
                        && let Some(Some(next)) = pending.next().now_or_never()
                    {
                        ready.push(next);
                    }
                    if answers.send(Ok(ForwardAppendResponse { answers: ready })).await.is_err() {
                        return;
                    }
                }
                request = requests.message(), if open && pending.len() < limits::APPENDS_IN_FLIGHT => {
                    match request {
                        Ok(Some(request)) => {
                            if let Some(append) = request.append {
                                pending.push(self.begin(append));
                            }
                        }
                        // The sender has gone, and with it who would take the answers.
                        Ok(None) | Err(_) => return,
                    }
                }
            }
        }
    }

    /// Appends a batch now; answers with the future of its acknowledgement.
    fn begin(&mut self, append: ForwardAppend) -> Pending {
        let number = append.number;
        let acks = if append.acks_all { Acks::All } else { Acks::Leader };
        let timeout = Duration::from_millis(append.timeout_ms.into()).min(limits::APPEND_TIMEOUT_LONGEST);
        let flow = append.flow;
        let appended = if self.refused.contains_key(&flow) {
            Err(ApiError::new(
                ErrorReason::NotLeader,
                "An earlier batch of this flow was refused: send both again.",
            )
            .outcome(WriteOutcome::NotWritten))
        } else {
            let partition = find(&self.broker, &append.topic_id, append.partition);
            let request = AppendRequest {
                acks,
                leader_epoch: Some(append.leader_epoch),
                expected_offset: append.expected_offset,
                sequence_rule: if append.sequence_gaps {
                    SequenceRule::Increasing
                } else {
                    SequenceRule::Contiguous
                },
            };
            let appended = partition
                .map_err(|error| error.or_outcome(WriteOutcome::NotWritten))
                .and_then(|partition| partition.append(append.batch, &request));
            // After another error the batch is not sent again, so that later ones may go on.
            if flow > 0 && appended.as_ref().is_err_and(ends_flow) {
                self.refuse(flow);
            }
            appended
        };
        let deadline = Instant::now() + timeout;
        async move {
            let result = match appended {
                Ok(appended) => acknowledge(appended, acks, deadline).await,
                Err(error) => Err(error),
            };
            let result = match result {
                Ok(stored) => Answer::Appended(ForwardAppended {
                    base_offset: stored.base_offset,
                    log_append_time_ms: stored.log_append_time,
                }),
                Err(error) => Answer::Error(wire::error_out(&error)),
            };
            ForwardAppendAnswer {
                number,
                result: Some(result),
            }
        }
        .boxed()
    }

    /// Takes no more batches of a flow. Its sender opens another one.
    fn refuse(&mut self, flow: u64) {
        let now = Instant::now();
        if self.refused.len() >= 1_024 && self.refused.len().is_power_of_two() {
            self.refused
                .retain(|_, since| now.duration_since(*since) < limits::REFUSED_FLOW_KEPT);
        }
        self.refused.insert(flow, now);
    }
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
            Some(start) => Some(resolve(broker, &partition, &wire::start_in(start)).await?.0),
            None => None,
        };
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
