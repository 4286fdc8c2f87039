//! A server of the contract in this process that answers as a test says.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::{HashMap, HashSet, VecDeque},
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
use millrace_proto::batch::{BatchBuilder, Codec};
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
    /// What members are told: the epoch, the version of the assignment, partitions of `t` to use and to give back.
    pub member_epoch: i32,
    pub version: u32,
    pub assigned: Vec<i32>,
    pub revoking: Vec<i32>,
    /// What ends the stream instead of an answer.
    pub breaks: VecDeque<Status>,
    pub beats: Vec<v1::HeartbeatRequest>,
    /// Values of the records in each partition of `t`.
    pub log: Vec<Vec<String>>,
    pub committed: HashMap<i32, i64>,
    /// Partitions whose commits are refused, and why.
    pub refuses: HashMap<i32, ErrorReason>,
    /// Partitions whose offsets are not told: a question about them is not answered.
    pub silent: HashSet<i32>,
    /// The oldest offset that is kept in each partition, where that is not 0.
    pub log_start: HashMap<i32, i64>,
}

impl Script {
    /// What members are told from now on.
    pub fn assign(&mut self, assigned: &[i32], revoking: &[i32]) {
        self.member_epoch = 1;
        self.version += 1;
        self.assigned = assigned.to_vec();
        self.revoking = revoking.to_vec();
    }
}

/// The id of the topic `t`.
pub const TOPIC_ID: [u8; 16] = [7; 16];

fn partitions(numbers: &[i32]) -> Vec<v1::TopicPartitions> {
    vec![v1::TopicPartitions {
        topic: "t".into(),
        topic_id: TOPIC_ID.to_vec().into(),
        partitions: numbers.to_vec(),
    }]
}

fn milliseconds(ms: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: 0,
        nanos: ms * 1_000_000,
    })
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
    refused_with(reason, outcome.map(|outcome| ("outcome", outcome)).as_slice())
}

/// A refusal with metadata.
pub fn refused_with(reason: ErrorReason, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
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

impl Service {
    fn beat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse, Status> {
        let mut script = self.script.lock();
        if let Some(owned) = &request.owned {
            let owned: Vec<i32> = owned.topics.iter().flat_map(|topic| topic.partitions.clone()).collect();
            script.asked.push(format!("owned {owned:?}"));
        }
        let version = request.assignment_version;
        script.beats.push(request);
        if let Some(status) = script.breaks.pop_front() {
            return Err(status);
        }
        let assignment = (version != script.version).then(|| v1::MemberAssignment {
            assigned: partitions(&script.assigned),
            revoking: partitions(&script.revoking),
            revoke_within: Some(prost_types::Duration { seconds: 45, nanos: 0 }),
        });
        Ok(v1::HeartbeatResponse {
            result: Some(v1::heartbeat_response::Result::Answer(v1::HeartbeatAnswer {
                member_epoch: script.member_epoch,
                assignment_version: script.version,
                heartbeat_interval: milliseconds(50),
                assignment,
            })),
        })
    }

    fn member_offsets(&self, request: &v1::FetchOffsetsRequest) -> v1::FetchOffsetsResponse {
        let script = self.script.lock();
        let asked = request.topics.iter().flat_map(|topic| topic.partitions.clone());
        let offset = |partition: i32| v1::GroupOffset {
            topic: "t".into(),
            topic_id: TOPIC_ID.to_vec().into(),
            partition,
            position: Some(match script.committed.get(&partition) {
                Some(offset) => v1::group_offset::Position::Committed(v1::CommittedOffset {
                    offset: *offset,
                    ..v1::CommittedOffset::default()
                }),
                None => v1::group_offset::Position::BeginsAt(v1::Edge::Beginning.into()),
            }),
            ..v1::GroupOffset::default()
        };
        v1::FetchOffsetsResponse {
            offsets: asked.map(offset).collect(),
            next_page_token: String::new(),
        }
    }

    /// What is in the log from where it is asked for, or after a while nothing.
    async fn fetched(&self, request: v1::FetchRequest) -> v1::FetchResponse {
        let mut answer = v1::FetchResponse {
            correlation_id: request.correlation_id,
            partitions: Vec::new(),
        };
        for asked in request.partitions {
            let (values, log_start) = {
                let script = self.script.lock();
                let log_start = script.log_start.get(&asked.partition).copied();
                (script.log[asked.partition as usize].clone(), log_start.unwrap_or(0))
            };
            if asked.fetch_offset < log_start {
                answer.partitions.push(v1::FetchedPartition {
                    topic: asked.topic,
                    partition: asked.partition,
                    error: Some(out_of_range(log_start)),
                    ..v1::FetchedPartition::default()
                });
                return answer;
            }
            let mut batch = BatchBuilder::new(Codec::None);
            let new = &values[(asked.fetch_offset as usize).min(values.len())..];
            for value in new {
                batch.append(1, None, Some(value.as_bytes()), &[]).unwrap();
            }
            batch.set_base_offset(asked.fetch_offset).set_leader_epoch(3);
            answer.partitions.push(v1::FetchedPartition {
                topic: asked.topic,
                partition: asked.partition,
                high_watermark: values.len() as i64,
                last_stable_offset: values.len() as i64,
                leader_epoch: 3,
                records: if new.is_empty() {
                    bytes::Bytes::new()
                } else {
                    batch.build().unwrap().to_vec().into()
                },
                ..v1::FetchedPartition::default()
            });
        }
        if answer.partitions.iter().all(|partition| partition.records.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        answer
    }
}

fn out_of_range(log_start: i64) -> v1::Error {
    v1::Error {
        reason: ErrorReason::OffsetOutOfRange.into(),
        message: "It is not there.".into(),
        metadata: [("log_start".to_owned(), log_start.to_string())].into(),
        ..v1::Error::default()
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
        Ok(Response::new(v1::FindCoordinatorResponse {
            broker_id: 0,
            address: self.address.to_string(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let service = self.clone();
        let answers = request
            .into_inner()
            .map(move |request| service.beat(request?))
            // Nothing follows an error.
            .scan(false, |has_ended, answer| {
                let before = std::mem::replace(has_ended, answer.is_err());
                std::future::ready((!before).then_some(answer))
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        let temporary = request.into_inner().temporary;
        self.script.lock().asked.push(format!("leave {temporary}"));
        Ok(Response::new(v1::LeaveGroupResponse {}))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let mut script = self.script.lock();
        let mut outcomes = Vec::new();
        for topic in request.into_inner().topics {
            for one in topic.partitions {
                let refused = script.refuses.get(&one.partition).copied();
                if refused.is_none() {
                    script.committed.insert(one.partition, one.offset);
                    script.asked.push(format!(
                        "commit {}@{} epoch {:?}",
                        one.partition, one.offset, one.leader_epoch
                    ));
                }
                outcomes.push(v1::PartitionOutcome {
                    topic: topic.topic.clone(),
                    topic_id: topic.topic_id.clone(),
                    partition: one.partition,
                    error: refused.map(|reason| v1::Error {
                        code: Code::Aborted.into(),
                        reason: reason.into(),
                        ..v1::Error::default()
                    }),
                });
            }
        }
        Ok(Response::new(v1::CommitOffsetsResponse { partitions: outcomes }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        if !request.member_id.is_empty() {
            return Ok(Response::new(self.member_offsets(&request)));
        }
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

    /// One broker, and the topic `t` with as many partitions as the log has now; nothing changes.
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
            topics: vec![v1::TopicMetadata {
                name: "t".into(),
                topic_id: TOPIC_ID.to_vec().into(),
                partitions: (0..self.script.lock().log.len() as i32)
                    .map(|partition| v1::PartitionMetadata {
                        partition,
                        leader_id: Some(0),
                        leader_epoch: 3,
                        ..v1::PartitionMetadata::default()
                    })
                    .collect(),
            }],
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

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().then(move |request| {
            let service = service.clone();
            async move { Ok(service.fetched(request?).await) }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let asked = request.into_inner().partitions;
        let is_silent = {
            let silent = &self.script.lock().silent;
            asked.iter().any(|asked| silent.contains(&asked.partition))
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
        let log_start = self.script.lock().log_start.clone();
        let beginning = asked.into_iter().map(|asked| v1::ListedOffset {
            topic: asked.topic,
            partition: asked.partition,
            offset: log_start.get(&asked.partition).copied().unwrap_or(0),
            ..v1::ListedOffset::default()
        });
        Ok(Response::new(v1::ListOffsetsResponse {
            partitions: beginning.collect(),
        }))
    }

    async fn offset_for_leader_epoch(
        &self,
        _: Request<v1::OffsetForLeaderEpochRequest>,
    ) -> Result<Response<v1::OffsetForLeaderEpochResponse>, Status> {
        not_scripted()
    }
}
