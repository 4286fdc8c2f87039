//! The `Log` service: for clients that know partitions and leaders.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use millrace_engine::partition::OffsetQuery;
use millrace_proto::v1::{self, log_server::Log, start::At};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    acknowledgements::Acknowledgements,
    convert,
    fetch::{FetchAnswer, FetchSession},
    metadata::{self, EncodedMetadata, SharedMetadata},
    produce::{self, check_partition_count},
};
use crate::{
    broker::Broker,
    error::ApiError,
    limits,
    memory::{ConnectionBudget, MessagePermits, no_stream_memory},
    partition::Partition,
    turns,
};

/// The service of one broker.
#[derive(Clone, Debug)]
pub struct LogService {
    broker: Arc<Broker>,
    metadata: Arc<SharedMetadata>,
}

impl LogService {
    /// The service of `broker`.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            metadata: Arc::default(),
        }
    }

    /// The broker.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The encoded answers of `Log.Metadata`.
    ///
    /// # Errors
    /// Too many topics are named, or there is no memory to remember them.
    pub fn encoded_metadata(
        &self,
        request: v1::MetadataRequest,
        budget: Option<&ConnectionBudget>,
    ) -> Result<impl Stream<Item = EncodedMetadata> + Send + 'static, ApiError> {
        if request.topics.len() > limits::MAX_PARTITIONS_PER_REQUEST {
            let problem = format!("has more than {} names", limits::MAX_PARTITIONS_PER_REQUEST);
            return Err(ApiError::field("topics", problem));
        }
        let mut memory = budget.map(ConnectionBudget::stream_state).unwrap_or_default();
        let topics = request.topics.iter();
        if !memory.hold(topics.map(|name| name.len() + limits::FOLLOWED_TOPIC_BYTES).sum()) {
            return Err(no_stream_memory());
        }
        let (broker, shared) = (self.broker.clone(), self.metadata.clone());
        Ok(metadata::stream(broker, shared, request, memory))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Log for LogService {
    type MetadataStream = Answers<v1::MetadataResponse>;
    type ProduceStream = Acknowledgements<v1::ProduceResponse>;
    type FetchStream = Answers<v1::FetchResponse>;

    async fn metadata(&self, request: Request<v1::MetadataRequest>) -> Result<Response<Self::MetadataStream>, Status> {
        let budget = budget(&request);
        let answers = self.encoded_metadata(request.into_inner(), budget.as_ref())?;
        Ok(Response::new(Box::pin(answers.map(|answer| answer.decode()))))
    }

    async fn init_producer(
        &self,
        _request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let producer_id = self.broker.next_producer_id().await?;
        Ok(Response::new(v1::InitProducerResponse {
            producer_id,
            producer_epoch: 0,
        }))
    }

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let (budget, permits) = (budget(&request), permits(&request));
        let (answers, stream) = mpsc::channel(limits::PRODUCE_ANSWERS_AHEAD);
        let serving = produce::serve(self.broker.clone(), budget, permits, request.into_inner(), answers);
        self.broker.spawn(serving);
        Ok(Response::new(Acknowledgements::new(stream)))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let session = FetchSession::new(self.broker.clone(), budget(&request), permits(&request));
        let (answers, stream) = mpsc::channel(limits::FETCH_ANSWERS_AHEAD);
        // The client port has its own way (`RawLogServer`), where requests come encoded.
        let requests = request.into_inner();
        let requests = requests.map(|request| request.map(|request| request.encode_to_vec().into()));
        self.broker.spawn(session.serve(requests, answers));
        let stream = ReceiverStream::new(stream).map(|answer| answer.map(FetchAnswer::into_response));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let request = request.into_inner();
        convert::check_isolation(request.isolation)?;
        check_partition_count(request.partitions.len())?;
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for part in request.partitions {
            let answer = list_offset(&self.broker, &part).await.unwrap_or_else(|error| {
                self.broker.metrics.count_error(&error);
                v1::ListedOffset {
                    error: Some(error.to_message()),
                    ..Default::default()
                }
            });
            partitions.push(v1::ListedOffset {
                topic: part.topic,
                partition: part.partition,
                ..answer
            });
        }
        Ok(Response::new(v1::ListOffsetsResponse { partitions }))
    }

    async fn offset_for_leader_epoch(
        &self,
        request: Request<v1::OffsetForLeaderEpochRequest>,
    ) -> Result<Response<v1::OffsetForLeaderEpochResponse>, Status> {
        let request = request.into_inner();
        check_partition_count(request.partitions.len())?;
        let partitions = request
            .partitions
            .into_iter()
            .map(|part| {
                let (end, error) = match end_of_epoch(&self.broker, &part) {
                    Ok(end) => (Some(end), None),
                    Err(error) => {
                        self.broker.metrics.count_error(&error);
                        (None, Some(error.to_message()))
                    }
                };
                v1::LeaderEpochEnd {
                    topic: part.topic,
                    partition: part.partition,
                    error,
                    end,
                }
            })
            .collect();
        Ok(Response::new(v1::OffsetForLeaderEpochResponse { partitions }))
    }
}

/// The permits of a streaming request's messages.
pub fn permits<T>(request: &Request<T>) -> MessagePermits {
    request
        .extensions()
        .get::<MessagePermits>()
        .cloned()
        .unwrap_or_default()
}

/// The memory budget of a request's connection.
pub fn budget<T>(request: &Request<T>) -> Option<ConnectionBudget> {
    request.extensions().get::<ConnectionBudget>().cloned()
}

async fn list_offset(broker: &Broker, part: &v1::ListOffsetsPartition) -> Result<v1::ListedOffset, ApiError> {
    let partition = broker.partitions.find(&part.topic, part.partition)?;
    partition.check_epoch(part.current_leader_epoch)?;
    let at = part
        .at
        .as_ref()
        .and_then(|start| start.at.as_ref())
        .ok_or_else(|| ApiError::field("at", "must say an offset, a time or an end"))?;
    let (offset, timestamp, leader_epoch) = resolve(broker, &partition, at).await?;
    Ok(v1::ListedOffset {
        offset,
        timestamp: timestamp.and_then(convert::ms_to_timestamp),
        leader_epoch,
        ..Default::default()
    })
}

/// The offset that a start means now, the time of the record there if it was looked at,
/// and its leader epoch or the present one.
///
/// # Errors
/// An offset that is outside the log; or the end is not known yet.
pub async fn resolve(
    broker: &Broker,
    partition: &Arc<Partition>,
    at: &At,
) -> Result<(i64, Option<i64>, i32), ApiError> {
    // Checked first: an end that was looked at before may be one that was not known then.
    let checked = |query| {
        partition.check_offset_query(query)?;
        Ok::<_, ApiError>(partition.offsets())
    };
    match at {
        At::Offset(offset) => {
            if *offset < 0 {
                return Err(ApiError::field("offset", "must be 0 or more"));
            }
            let leader_epoch = partition.offsets().leader_epoch;
            broker.check_fetch(partition, *offset, None).await?;
            Ok((*offset, None, leader_epoch))
        }
        At::Edge(edge) => match v1::Edge::try_from(*edge) {
            Ok(v1::Edge::Unspecified | v1::Edge::Beginning) => {
                let offsets = checked(OffsetQuery::Beginning)?;
                Ok((offsets.log_start, None, offsets.leader_epoch))
            }
            Ok(v1::Edge::End) => {
                let offsets = checked(OffsetQuery::EndOrTime)?;
                Ok((offsets.last_stable, None, offsets.leader_epoch))
            }
            Err(_) => Err(ApiError::field("edge", "is not one of the enum's values")),
        },
        At::Time(time) => {
            let ms = convert::timestamp_to_ms("time", time)?;
            let offsets = checked(OffsetQuery::EndOrTime)?;
            let partition = partition.clone();
            let looking = turns::LOOKUPS.run(move |_turn| partition.offset_for_time(ms, offsets.last_stable));
            let found = looking.await??;
            Ok(match found {
                Some((offset, time, epoch)) => (offset, Some(time), epoch),
                None => (offsets.last_stable, None, offsets.leader_epoch),
            })
        }
    }
}

fn end_of_epoch(broker: &Broker, part: &v1::OffsetForLeaderEpochPartition) -> Result<v1::EpochEndOffset, ApiError> {
    let partition = broker.partitions.find(&part.topic, part.partition)?;
    partition.check_epoch(part.current_leader_epoch)?;
    let (leader_epoch, end_offset) = partition.end_of_epoch(part.leader_epoch).unwrap_or((-1, -1));
    Ok(v1::EpochEndOffset {
        leader_epoch,
        end_offset,
    })
}
