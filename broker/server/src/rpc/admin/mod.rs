//! The `Admin` service.

mod brokers;
mod cluster;
mod configs;
mod drain;
mod elections;
mod maintenance;
mod moves;
mod owners;
pub(crate) mod placement;
mod quorum;
mod reassign;
mod rebalance;
mod refusals;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod topics;
mod untold;

use std::sync::Arc;

use millrace_engine::{Broker as Registered, BrokerId, Cluster, Command, Outcome, cluster::PartitionRef};
use millrace_proto::v1::{self, ErrorReason, admin_server::Admin};
use tonic::{Request, Response, Status};

use crate::{
    broker::Broker,
    error::{ApiError, unknown_topic},
    limits,
};

/// The service of one broker.
#[derive(Clone, Debug)]
pub struct AdminService(pub Arc<Broker>);

impl AdminService {
    /// Has the command applied by the metadata quorum, and waits until this broker has
    /// carried it out too; or only checks it.
    async fn change(&self, command: Command, validate_only: bool) -> Result<(), ApiError> {
        if validate_only {
            return Ok(self.latest().await?.check(&command)?);
        }
        match self.apply(command).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The same for commands that answer something.
    async fn apply(&self, command: Command) -> Result<Outcome, ApiError> {
        let outcome = self.submit(command).await?;
        self.0.wait_until_current().await?;
        Ok(outcome)
    }

    /// Has the command applied by the metadata quorum.
    async fn submit(&self, command: Command) -> Result<Outcome, ApiError> {
        self.0.submit(command).await
    }

    /// The metadata with all that was acknowledged anywhere before: what is decided by it must
    /// not be decided by what was true some time ago.
    async fn latest(&self) -> Result<Arc<Cluster>, ApiError> {
        match tokio::time::timeout(limits::METADATA_WAIT, self.0.quorum.read_index()).await {
            Ok(Ok(())) => Ok(self.0.quorum.cluster()),
            Ok(Err(error)) => Err(ApiError::new(
                ErrorReason::QuorumUnavailable,
                format!("The metadata quorum can't be asked now ({error}): try again."),
            )),
            Err(_) => Err(ApiError::new(
                ErrorReason::QuorumUnavailable,
                "The metadata quorum did not answer in time: try again.",
            )),
        }
    }
}

/// The cluster and the answer as they would be after the command.
fn preview(cluster: &Cluster, command: &Command) -> Result<(Cluster, Outcome), ApiError> {
    let mut then = cluster.clone();
    let outcome = then.apply(cluster.version.saturating_add(1), command)?;
    Ok((then, outcome))
}

fn unexpected(outcome: &Outcome) -> ApiError {
    ApiError::internal(
        "the metadata quorum",
        &format!("answered {outcome:?} to an administrative command"),
    )
}

/// A registered broker.
fn known_broker(cluster: &Cluster, id: BrokerId) -> Result<&Registered, ApiError> {
    cluster.brokers.get(&id).ok_or_else(|| {
        ApiError::new(
            ErrorReason::UnknownBroker,
            format!("There is no broker {id}: `millrace cluster describe` lists those that are registered."),
        )
    })
}

/// A partition by its names.
fn partition_ref(cluster: &Cluster, topic: &str, partition: i32) -> Result<PartitionRef, ApiError> {
    let known = cluster.topics.get(topic).ok_or_else(|| unknown_topic(topic))?;
    u32::try_from(partition)
        .ok()
        .filter(|at| (*at as usize) < known.partitions.len())
        .map(|at| known.partition_ref(at))
        .ok_or_else(|| {
            let count = known.partitions.len();
            ApiError::new(
                ErrorReason::UnknownPartition,
                format!("Topic {topic:?} has no partition {partition}: it has {count}, from 0."),
            )
            .with("partitions", count)
        })
}

/// How many entries a page has.
fn page_size(asked: i32) -> Result<usize, ApiError> {
    match asked {
        0 => Ok(limits::MAX_PAGE_SIZE),
        size => usize::try_from(size)
            .map(|size| size.min(limits::MAX_PAGE_SIZE))
            .map_err(|_| ApiError::field("page_size", "must be 0 or more")),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A partition's number: far below the largest.
fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// Brokers, as metadata of errors have them.
fn id_list(ids: &[BrokerId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        answer!(self, topics::create(self, request.into_inner()))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        answer!(self, topics::delete(self, request.into_inner()))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        answer!(self, topics::alter(self, request.into_inner()))
    }

    async fn claim_topic(
        &self,
        request: Request<v1::ClaimTopicRequest>,
    ) -> Result<Response<v1::ClaimTopicResponse>, Status> {
        answer!(self, owners::claim(self, request.into_inner()))
    }

    async fn release_topic(
        &self,
        request: Request<v1::ReleaseTopicRequest>,
    ) -> Result<Response<v1::ReleaseTopicResponse>, Status> {
        answer!(self, owners::release(self, request.into_inner()))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        answer!(self, async { topics::list(&self.0, &request.into_inner()) })
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        answer!(self, async { topics::describe(&self.0, &request.into_inner()).await })
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        answer!(self, topics::create_partitions(self, request.into_inner()))
    }

    async fn delete_messages(
        &self,
        request: Request<v1::DeleteMessagesRequest>,
    ) -> Result<Response<v1::DeleteMessagesResponse>, Status> {
        answer!(self, topics::delete_messages(self, request.into_inner()))
    }

    async fn describe_cluster(
        &self,
        _request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        Ok(Response::new(cluster::describe(&self.0)))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        answer!(self, configs::describe(&self.0, request.into_inner()))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        answer!(self, configs::alter_requested(self, request.into_inner()))
    }

    async fn reassign_partitions(
        &self,
        request: Request<v1::ReassignPartitionsRequest>,
    ) -> Result<Response<v1::ReassignPartitionsResponse>, Status> {
        answer!(self, reassign::start(self, request.into_inner()))
    }

    async fn list_reassignments(
        &self,
        request: Request<v1::ListReassignmentsRequest>,
    ) -> Result<Response<v1::ListReassignmentsResponse>, Status> {
        answer!(self, async { reassign::list(&self.0, &request.into_inner()).await })
    }

    async fn elect_leaders(
        &self,
        request: Request<v1::ElectLeadersRequest>,
    ) -> Result<Response<v1::ElectLeadersResponse>, Status> {
        answer!(self, elections::elect(self, request.into_inner()))
    }

    async fn cordon_broker(
        &self,
        request: Request<v1::CordonBrokerRequest>,
    ) -> Result<Response<v1::CordonBrokerResponse>, Status> {
        let r = request.into_inner();
        let change = brokers::cordon(self, r.broker_id, true, r.validate_only);
        answer!(self, async { change.await.map(|()| v1::CordonBrokerResponse {}) })
    }

    async fn uncordon_broker(
        &self,
        request: Request<v1::UncordonBrokerRequest>,
    ) -> Result<Response<v1::UncordonBrokerResponse>, Status> {
        let r = request.into_inner();
        let change = brokers::cordon(self, r.broker_id, false, r.validate_only);
        answer!(self, async { change.await.map(|()| v1::UncordonBrokerResponse {}) })
    }

    async fn drain_brokers(
        &self,
        request: Request<v1::DrainBrokersRequest>,
    ) -> Result<Response<v1::DrainBrokersResponse>, Status> {
        answer!(self, drain::drain(self, request.into_inner()))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        answer!(self, rebalance::rebalance(self, request.into_inner()))
    }

    async fn remove_broker(
        &self,
        request: Request<v1::RemoveBrokerRequest>,
    ) -> Result<Response<v1::RemoveBrokerResponse>, Status> {
        answer!(self, brokers::remove(self, request.into_inner()))
    }

    async fn replace_broker_directory(
        &self,
        request: Request<v1::ReplaceBrokerDirectoryRequest>,
    ) -> Result<Response<v1::ReplaceBrokerDirectoryResponse>, Status> {
        answer!(self, brokers::replace_directory(self, request.into_inner()))
    }

    async fn may_restart(
        &self,
        request: Request<v1::MayRestartRequest>,
    ) -> Result<Response<v1::MayRestartResponse>, Status> {
        answer!(self, async {
            maintenance::may_restart(self, &request.into_inner()).await
        })
    }

    async fn acquire_maintenance(
        &self,
        request: Request<v1::AcquireMaintenanceRequest>,
    ) -> Result<Response<v1::AcquireMaintenanceResponse>, Status> {
        answer!(self, maintenance::acquire(self, request.into_inner()))
    }

    async fn release_maintenance(
        &self,
        request: Request<v1::ReleaseMaintenanceRequest>,
    ) -> Result<Response<v1::ReleaseMaintenanceResponse>, Status> {
        answer!(self, maintenance::release(self, request.into_inner()))
    }

    async fn describe_quorum(
        &self,
        _request: Request<v1::DescribeQuorumRequest>,
    ) -> Result<Response<v1::DescribeQuorumResponse>, Status> {
        Ok(Response::new(quorum::describe(&self.0)))
    }

    async fn add_voter(&self, request: Request<v1::AddVoterRequest>) -> Result<Response<v1::AddVoterResponse>, Status> {
        answer!(self, quorum::add(self, request.into_inner()))
    }

    async fn remove_voter(
        &self,
        request: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::RemoveVoterResponse>, Status> {
        answer!(self, quorum::remove(self, request.into_inner()))
    }
}
