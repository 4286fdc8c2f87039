//! The `Groups` service: consumer groups for clients that know partitions.

mod convert;
mod heartbeat;
mod named;
mod offsets;
mod refusals;
mod views;

use std::sync::Arc;

use millrace_engine::group::{self, Answer, GroupRejection, Request as Asked, check_group_id, group_partition};
use millrace_proto::v1::{self, ErrorReason, groups_server::Groups};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::refusals::no_coordinator;
use super::log::permits;
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
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

/// Asks a group's coordinator, which is waited for while it loads or is elected. What the answer tells holds
/// when this returns: nobody else coordinates the group while this broker's lease holds.
///
/// # Errors
/// The coordinator's; or there is none in time, or it is another broker.
async fn ask(
    broker: &Broker,
    group: &str,
    request: &Asked,
    origin: &Origin,
) -> Result<(Answer, Arc<Coordinator>), ApiError> {
    check_group_id(group)?;
    let until = Instant::now() + limits::COORDINATOR_WAIT;
    loop {
        let (refused, outcome) = match coordinator(broker, group).await {
            Ok(coordinator) => {
                let answer = coordinator.ask(request.clone(), origin.stream.clone(), origin.memory.clone());
                let answer = answer.await;
                if !broker.lease.wait(limits::GROUP_LEASE_WAIT).await {
                    let lapsed = no_coordinator("this broker's lease has ended");
                    return Err(lapsed.outcome(WriteOutcome::Unknown));
                }
                match answer {
                    Ok(answer) => return Ok((answer, coordinator)),
                    Err(GroupRejection::Loading | GroupRejection::NotCoordinator { outcome_unknown: false }) => {
                        (no_coordinator("it is reading its state"), WriteOutcome::NotWritten)
                    }
                    Err(rejection) => return Err(rejection.into()),
                }
            }
            Err(error) if error.reason() == ErrorReason::CoordinatorNotAvailable => (error, WriteOutcome::NotWritten),
            Err(error) => return Err(error),
        };
        if Instant::now() >= until || broker.stopping.is_cancelled() {
            return Err(refused.or_outcome(outcome));
        }
        tokio::time::sleep(limits::COORDINATOR_LOOK_AGAIN).await;
    }
}

/// The coordinator of a group, here.
async fn coordinator(broker: &Broker, group: &str) -> Result<Arc<Coordinator>, ApiError> {
    let (cluster, topic) = groups::find_or_create(broker).await?;
    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    let number = group_partition(group, count);
    let Some(leader) = topic.partitions[number as usize].leader else {
        return Err(no_coordinator("its partition has no leader"));
    };
    if leader != broker.config.node_id {
        let address = cluster.brokers.get(&leader).map_or("", |known| known.address.as_str());
        return Err(ApiError::new(
            ErrorReason::NotCoordinator,
            format!("Broker {leader} coordinates the group: ask there."),
        )
        .with("coordinator", address)
        .with("coordinator_id", leader)
        .outcome(WriteOutcome::NotWritten));
    }
    let here = broker.groups.of_partition(number);
    here.ok_or_else(|| no_coordinator("it has not begun yet"))
}

async fn find_coordinator(
    broker: &Broker,
    request: &v1::FindCoordinatorRequest,
) -> Result<v1::FindCoordinatorResponse, ApiError> {
    check_group_id(&request.group)?;
    let until = Instant::now() + limits::COORDINATOR_WAIT;
    loop {
        let (cluster, topic) = groups::find_or_create(broker).await?;
        let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let leader = topic.partitions[group_partition(&request.group, count) as usize].leader;
        if let Some(leader) = leader.and_then(|leader| cluster.brokers.get(&leader)) {
            return Ok(v1::FindCoordinatorResponse {
                broker_id: leader.id,
                address: leader.address.clone(),
            });
        }
        if Instant::now() >= until {
            return Err(no_coordinator("its partition has no leader"));
        }
        tokio::time::sleep(limits::COORDINATOR_LOOK_AGAIN).await;
    }
}

async fn leave(broker: &Broker, request: v1::LeaveGroupRequest, origin: &Origin) -> Result<(), ApiError> {
    convert::check_id("member_id", &request.member_id)?;
    let leave = group::Leave {
        group: request.group.as_str().into(),
        member: request.member_id.as_str().into(),
        temporary: request.temporary,
    };
    ask(broker, &request.group, &Asked::Leave(leave), origin).await?;
    Ok(())
}

async fn delete(broker: &Broker, request: v1::DeleteGroupRequest, origin: &Origin) -> Result<(), ApiError> {
    let group: group::GroupId = request.group.as_str().into();
    if request.validate_only {
        let (answer, _) = ask(broker, &group, &Asked::Describe(group.clone()), origin).await?;
        let members = match answer {
            Answer::Group(described) => described.member_count,
            other => return Err(unexpected(&other)),
        };
        let name = request.group;
        return match members {
            0 => Ok(()),
            members => Err(GroupRejection::GroupNotEmpty { group: name, members }.into()),
        };
    }
    ask(broker, &group, &Asked::DeleteGroup(group.clone()), origin).await?;
    Ok(())
}

fn unexpected(answer: &Answer) -> ApiError {
    ApiError::internal(
        "a group's coordinator",
        &format!("answered {answer:?} to something else"),
    )
}

fn not_yet(what: &str) -> ApiError {
    ApiError::new(ErrorReason::NotSupported, format!("{what} is not served yet."))
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
        let (answers, stream) = mpsc::channel(limits::HEARTBEAT_ANSWERS_AHEAD);
        // Not waited for by a broker that stops: members go on at another one.
        tokio::spawn(heartbeat::serve(self.0.clone(), permits, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        let origin = Origin::of(&request);
        let left = leave(&self.0, request.into_inner(), &origin);
        answer!(self, async { left.await.map(|()| v1::LeaveGroupResponse {}) })
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, offsets::commit(&self.0, request.into_inner(), &origin))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, offsets::fetch(&self.0, request.into_inner(), &origin))
    }

    async fn list_groups(
        &self,
        _request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        answer!(self, async { Err(not_yet("Listing groups")) })
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let origin = Origin::of(&request);
        answer!(self, views::describe(&self.0, request.into_inner(), &origin))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let origin = Origin::of(&request);
        let deleted = delete(&self.0, request.into_inner(), &origin);
        answer!(self, async { deleted.await.map(|()| v1::DeleteGroupResponse {}) })
    }

    async fn reset_offsets(
        &self,
        _request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        answer!(self, async { Err(not_yet("Resetting offsets")) })
    }
}
