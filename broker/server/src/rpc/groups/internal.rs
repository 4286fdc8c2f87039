//! What other brokers pass on to this one, for groups that it coordinates.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use millrace_proto::{
    internal::v1::{
        GroupsCall, GroupsCallRequest, GroupsCallResponse, GroupsHeartbeatRequest, GroupsHeartbeatResponse,
        GroupsReset,
        groups_server::{Groups, GroupsServer},
    },
    v1,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::interceptor::InterceptedService};

use super::{
    Origin, heartbeat, list,
    route::{Call, group_here},
};
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{Budgeted, budgeted, check, error_out, first, hosted},
    limits,
    memory::MemoryService,
    rpc::permits,
};

/// The service of one broker; it answers UNAVAILABLE until the broker is there.
#[derive(Clone, Debug)]
pub struct GroupsForward {
    broker: Arc<OnceLock<Weak<Broker>>>,
}

impl GroupsForward {
    /// The service of the broker that will be put into `broker`.
    pub fn server(
        broker: Arc<OnceLock<Weak<Broker>>>,
    ) -> InterceptedService<MemoryService<GroupsServer<Self>>, Budgeted> {
        let max = limits::MAX_RPC_MESSAGE_BYTES;
        budgeted(
            GroupsServer::new(Self { broker })
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
        )
    }
}

#[tonic::async_trait]
impl Groups for GroupsForward {
    type HeartbeatStream = ReceiverStream<Result<GroupsHeartbeatResponse, Status>>;

    async fn call(&self, request: Request<GroupsCallRequest>) -> Result<Response<GroupsCallResponse>, Status> {
        let broker = hosted(&self.broker)?;
        let origin = Origin::of(&request);
        let request = request.into_inner();
        check(&broker, request.hello.as_ref())?;
        let response = match broker.tasks.track_future(call(&broker, request, &origin)).await {
            Ok(response) => GroupsCallResponse { error: None, response },
            Err(error) => GroupsCallResponse {
                error: Some(error_out(&error)),
                response: Bytes::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<GroupsHeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let broker = hosted(&self.broker)?;
        let permits = permits(&request);
        let mut requests = request.into_inner();
        let first = first(&broker, &permits, &mut requests, |first| first.hello.as_ref()).await?;
        let (answers, stream) = mpsc::channel(limits::HEARTBEAT_ANSWERS_AHEAD);
        tokio::spawn(heartbeat::serve_local(broker, first, permits, requests, answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn call(broker: &Broker, request: GroupsCallRequest, origin: &Origin) -> Result<Bytes, ApiError> {
    let bytes = request.request;
    match GroupsCall::try_from(request.call) {
        Ok(GroupsCall::Leave) => answer::<v1::LeaveGroupRequest>(broker, bytes, origin).await,
        Ok(GroupsCall::Commit) => answer::<v1::CommitOffsetsRequest>(broker, bytes, origin).await,
        Ok(GroupsCall::Fetch) => answer::<v1::FetchOffsetsRequest>(broker, bytes, origin).await,
        Ok(GroupsCall::Describe) => answer::<v1::DescribeGroupRequest>(broker, bytes, origin).await,
        Ok(GroupsCall::Delete) => answer::<v1::DeleteGroupRequest>(broker, bytes, origin).await,
        Ok(GroupsCall::Reset) => answer::<GroupsReset>(broker, bytes, origin).await,
        Ok(GroupsCall::List) => {
            let listed = list::here(broker, &decode(bytes)?, &request.partitions, origin).await?;
            Ok(listed.encode_to_vec().into())
        }
        Ok(GroupsCall::Unspecified) | Err(_) => Err(ApiError::field("call", "is none that this broker knows")),
    }
}

async fn answer<C: Call>(broker: &Broker, request: Bytes, origin: &Origin) -> Result<Bytes, ApiError> {
    let request: C = decode(request)?;
    let coordinator = group_here(broker, request.group())?;
    let answer = request.here(broker, &coordinator, origin).await?;
    Ok(answer.encode_to_vec().into())
}

fn decode<T: prost::Message + Default>(bytes: Bytes) -> Result<T, ApiError> {
    T::decode(bytes).map_err(|error| ApiError::field("request", format!("can't be read: {error}")))
}
