//! The `Admin` service.

mod cluster;
mod configs;
mod topics;

use std::sync::Arc;

use millrace_engine::{Command, Outcome};
use millrace_proto::v1::{self, admin_server::Admin};
use tonic::{Request, Response, Status};

use crate::{broker::Broker, error::ApiError};

/// The service of one broker.
#[derive(Clone, Debug)]
pub struct AdminService(pub Arc<Broker>);

impl AdminService {
    /// Has the command applied by the metadata quorum, and waits until this broker has
    /// carried it out too; or only checks it.
    async fn change(&self, command: Command, validate_only: bool) -> Result<(), ApiError> {
        if validate_only {
            return Ok(self.0.quorum.cluster().check(&command)?);
        }
        match self.0.submit(command).await? {
            Outcome::Done => self.0.wait_until_current().await,
            other => Err(ApiError::internal(
                "the metadata quorum",
                &format!("answered {other:?} to an administrative command"),
            )),
        }
    }
}

/// Runs a call and counts its failure.
macro_rules! answer {
    ($service:expr, $call:expr) => {
        match $service.0.tasks.track_future($call).await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                $service.0.metrics.count_error(&error);
                Err(error.into())
            }
        }
    };
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
        let r = request.into_inner();
        let change = configs::alter(self, &r.name, r.set_configs, r.unset_configs, r.validate_only);
        answer!(self, async { change.await.map(|()| v1::AlterTopicResponse {}) })
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
        answer!(self, async { topics::describe(&self.0, &request.into_inner()) })
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
        answer!(self, async { configs::describe(&self.0, request.into_inner()) })
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        let r = request.into_inner();
        let change = configs::alter(self, &r.topic, r.set, r.unset, r.validate_only);
        answer!(self, async { change.await.map(|()| v1::AlterConfigsResponse {}) })
    }
}
