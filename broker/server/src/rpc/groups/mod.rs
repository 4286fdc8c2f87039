//! The `Groups` service: consumer groups for clients that know partitions.

mod convert;
mod heartbeat;
mod internal;
mod lag;
mod list;
mod named;
mod offsets;
mod refusals;
mod reset;
mod route;
mod subscriber;
mod views;

use std::sync::Arc;

use millrace_engine::group::{self, Answer, GroupRejection, Request as Asked, check_group_id, group_partition};
use millrace_proto::{
    internal::v1::GroupsCall,
    v1::{self, groups_server::Groups},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use self::{
    convert::start,
    internal::GroupsForward,
    refusals::SESSION_TIMEOUT,
    subscriber::{beat, commit_offsets, fetch_offsets, leave_group},
};
use self::{
    refusals::no_coordinator,
    route::{Call, Search, ask, asks_again, call},
};
use super::log::permits;
use crate::{
    broker::Broker,
    connection::Client,
    error::ApiError,
    groups::{self, Coordinator, MemberStream},
    limits,
    memory::MemoryPermit,
};

/// The service of one broker.
#[derive(Clone, Debug)]
pub struct GroupsService(pub Arc<Broker>);

/// A request's memory and the stream that it came by.
#[derive(Clone, Debug, Default)]
struct Origin {
    stream: Option<Arc<MemberStream>>,
    memory: Option<MemoryPermit>,
}

impl Origin {
    fn of<T>(request: &Request<T>) -> Self {
        Self {
            stream: None,
            memory: permits(request).last(),
        }
    }
}

async fn find_coordinator(
    broker: &Broker,
    request: &v1::FindCoordinatorRequest,
) -> Result<v1::FindCoordinatorResponse, ApiError> {
    check_group_id(&request.group)?;
    let mut search = Search::new();
    loop {
        let (cluster, topic) = match groups::find_or_create(broker).await {
            Ok(found) => found,
            Err(error) if asks_again(&error, true) && search.again(broker).await => continue,
            Err(error) => return Err(error),
        };
        let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let leader = topic.partitions[group_partition(&request.group, count) as usize].leader;
        if let Some(leader) = leader.and_then(|leader| cluster.brokers.get(&leader)) {
            return Ok(v1::FindCoordinatorResponse {
                broker_id: leader.id,
                address: leader.address.clone(),
            });
        }
        if !search.again(broker).await {
            return Err(no_coordinator("its partition has no leader"));
        }
    }
}

impl Call for v1::LeaveGroupRequest {
    const CALL: GroupsCall = GroupsCall::Leave;
    const READS: bool = false;
    type Answer = v1::LeaveGroupResponse;

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        convert::check_id("member_id", &self.member_id)?;
        let leave = group::Leave {
            group: self.group.as_str().into(),
            member: self.member_id.as_str().into(),
            temporary: self.temporary,
        };
        ask(broker, coordinator, Asked::Leave(leave), origin).await?;
        Ok(v1::LeaveGroupResponse {})
    }
}

impl Call for v1::DeleteGroupRequest {
    const CALL: GroupsCall = GroupsCall::Delete;
    const READS: bool = false;
    type Answer = v1::DeleteGroupResponse;

    fn reads(&self) -> bool {
        self.validate_only
    }

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        let group: group::GroupId = self.group.as_str().into();
        if self.validate_only {
            let members = match ask(broker, coordinator, Asked::Describe(group), origin).await? {
                Answer::Group(described) => described.member_count,
                other => return Err(unexpected(&other)),
            };
            if members > 0 {
                let group = self.group;
                return Err(GroupRejection::GroupNotEmpty { group, members }.into());
            }
        } else {
            ask(broker, coordinator, Asked::DeleteGroup(group), origin).await?;
        }
        Ok(v1::DeleteGroupResponse {})
    }
}

fn unexpected(answer: &Answer) -> ApiError {
    ApiError::internal(
        "a group's coordinator",
        &format!("answered {answer:?} to something else"),
    )
}

#[tonic::async_trait]
impl Groups for GroupsService {
    type HeartbeatStream = ReceiverStream<Result<v1::HeartbeatResponse, Status>>;

    async fn find_coordinator(
        &self,
        request: Request<v1::FindCoordinatorRequest>,
    ) -> Result<Response<v1::FindCoordinatorResponse>, Status> {
        answer!(self, find_coordinator(&self.0, request.get_ref()))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let permits = permits(&request);
        let client = Client::of(&request);
        let (answers, stream) = mpsc::channel(limits::HEARTBEAT_ANSWERS_AHEAD);
        // Not waited for by a broker that stops: members go on at another one.
        let requests = request.into_inner();
        tokio::spawn(heartbeat::serve(self.0.clone(), client, permits, requests, answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, call(&self.0, request.into_inner(), &origin))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, call(&self.0, request.into_inner(), &origin))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, lag::fetch(&self.0, request.into_inner(), &origin))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, list::list(&self.0, request.into_inner(), &origin))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, call(&self.0, request.into_inner(), &origin))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, call(&self.0, request.into_inner(), &origin))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, reset::reset(&self.0, request.into_inner(), &origin))
    }
}
