//! A server of the contract in this process that answers as a test says.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use millrace_client::v1::{
    self, ErrorReason,
    groups_server::{Groups, GroupsServer},
    log_server::{Log, LogServer},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

type Answers<T> = VecDeque<Result<T, Status>>;
type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is answered next, and what was asked.
#[derive(Default)]
pub struct Script {
    pub lists: Answers<v1::ListGroupsResponse>,
    pub descriptions: Answers<v1::DescribeGroupResponse>,
    pub offsets: Answers<v1::FetchOffsetsResponse>,
    pub resets: Answers<v1::ResetOffsetsResponse>,
    pub deletions: Answers<v1::DeleteGroupResponse>,
    pub asked: Vec<String>,
}

/// The server; it ends with the test's runtime.
pub struct FakeServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl FakeServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let service = Service {
            address,
            script: script.clone(),
        };
        let serving = Server::builder()
            .add_service(LogServer::new(service.clone()))
            .add_service(GroupsServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { address, script }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock()
    }
}

/// A refusal as the contract says it.
pub fn refused(reason: ErrorReason, outcome: Option<&str>) -> Status {
    let metadata: HashMap<String, String> = outcome
        .map(|outcome| ("outcome".to_owned(), outcome.to_owned()))
        .into_iter()
        .collect();
    let details = ErrorDetails::with_error_info(reason.reason_name(), "millrace.dev", metadata);
    Status::with_error_details(Code::Unavailable, "not now", details)
}

#[derive(Clone)]
struct Service {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Service {
    /// Notes a request and takes its answer.
    fn next<T>(&self, asked: String, of: impl FnOnce(&mut Script) -> &mut Answers<T>) -> Result<Response<T>, Status> {
        let mut script = self.script.lock();
        script.asked.push(asked);
        let answer = of(&mut script).pop_front();
        answer
            .unwrap_or_else(|| Err(Status::failed_precondition("the script has ended")))
            .map(Response::new)
    }
}

fn not_scripted<T>() -> Result<T, Status> {
    Err(Status::failed_precondition("not scripted"))
}

fn dry(validate_only: bool) -> &'static str {
    if validate_only { " dry" } else { "" }
}

#[tonic::async_trait]
impl Groups for Service {
    type HeartbeatStream = Sent<v1::HeartbeatResponse>;

    async fn find_coordinator(
        &self,
        _: Request<v1::FindCoordinatorRequest>,
    ) -> Result<Response<v1::FindCoordinatorResponse>, Status> {
        not_scripted()
    }

    async fn heartbeat(
        &self,
        _: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        not_scripted()
    }

    async fn leave_group(&self, _: Request<v1::LeaveGroupRequest>) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        not_scripted()
    }

    async fn commit_offsets(
        &self,
        _: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        not_scripted()
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        self.next(format!("offsets {} {}", request.group, request.page_token), |script| {
            &mut script.offsets
        })
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let request = request.into_inner();
        self.next(format!("list {} {}", request.prefix, request.page_token), |script| {
            &mut script.lists
        })
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let request = request.into_inner();
        self.next(format!("describe {} {}", request.group, request.page_token), |script| {
            &mut script.descriptions
        })
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let request = request.into_inner();
        self.next(
            format!("delete {}{}", request.group, dry(request.validate_only)),
            |script| &mut script.deletions,
        )
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let request = request.into_inner();
        self.next(
            format!("reset {}{}", request.group, dry(request.validate_only)),
            |script| &mut script.resets,
        )
    }
}

#[tonic::async_trait]
impl Log for Service {
    type MetadataStream = Sent<v1::MetadataResponse>;
    type ProduceStream = Sent<v1::ProduceResponse>;
    type FetchStream = Sent<v1::FetchResponse>;

    /// One broker, no topics; nothing changes.
    async fn metadata(&self, _: Request<v1::MetadataRequest>) -> Result<Response<Self::MetadataStream>, Status> {
        let answer = v1::MetadataResponse {
            cluster_id: "fake".into(),
            version: 1,
            brokers: vec![v1::BrokerMetadata {
                broker_id: 0,
                address: self.address.to_string(),
                available: true,
                ..v1::BrokerMetadata::default()
            }],
            ..v1::MetadataResponse::default()
        };
        Ok(Response::new(
            stream::iter([Ok(answer)]).chain(stream::pending()).boxed(),
        ))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        not_scripted()
    }

    async fn produce(
        &self,
        _: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        not_scripted()
    }

    async fn fetch(&self, _: Request<Streaming<v1::FetchRequest>>) -> Result<Response<Self::FetchStream>, Status> {
        not_scripted()
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        not_scripted()
    }

    async fn offset_for_leader_epoch(
        &self,
        _: Request<v1::OffsetForLeaderEpochRequest>,
    ) -> Result<Response<v1::OffsetForLeaderEpochResponse>, Status> {
        not_scripted()
    }
}
