//! `Log.Fetch` without a copy of the records, and `Log.Metadata` with one encoded answer for all:
//! the answers are framed by hand, so that the log's bytes (often a mapped part of the page cache)
//! go to the socket as they are.
//!
//! Messages are not compressed: record batches are by themselves.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use millrace_proto::{
    batch::batches,
    codec::{EncodedDecoder, MessageDecoder},
    v1::{FetchResponse, FetchedPartition, MetadataRequest, log_server::LogServer},
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tokio::sync::mpsc;
use tonic::{Status, body::Body as GrpcBody, server::NamedService};
use tower::Service;

use super::{
    fetch::{FetchAnswer, FetchSession},
    framed::{Answering, Calls, PREFIX_LEN, answer, end, messages},
    log::LogService,
};
use crate::{
    error::ApiError,
    limits,
    memory::{self, ConnectionBudget, MessagePermits},
};

/// The path of `Log.Fetch`, which counts what requests take decoded among its answers.
pub const FETCH_PATH: &str = "/millrace.v1.Log/Fetch";
const METADATA_PATH: &str = "/millrace.v1.Log/Metadata";
/// Field numbers of the contract.
const PARTITIONS_FIELD: u32 = 2;
const RECORDS_FIELD: u32 = 15;

/// The `Log` service with its own way for `Fetch` and `Metadata`.
#[derive(Clone, Debug)]
pub struct RawLogServer {
    service: LogService,
    generated: LogServer<LogService>,
}

impl RawLogServer {
    /// Puts the ways for `Fetch` and `Metadata` in front of the generated service.
    pub fn new(service: LogService) -> Self {
        let generated = LogServer::new(service.clone()).max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES);
        Self { service, generated }
    }

    fn fetch(&self, request: http::Request<GrpcBody>) -> http::Response<GrpcBody> {
        let budget = request.extensions().get::<ConnectionBudget>().cloned();
        let permits = request
            .extensions()
            .get::<MessagePermits>()
            .cloned()
            .unwrap_or_default();
        let requests = messages(request, EncodedDecoder).into_inner();
        let (sender, answers) = mpsc::channel(limits::FETCH_ANSWERS_AHEAD);
        let broker = self.service.broker();
        broker.spawn(FetchSession::new(broker.clone(), budget, permits).serve(requests, sender));
        let body = FetchBody {
            answers,
            chunks: VecDeque::new(),
            ended: false,
        };
        answer(body)
    }

    /// Answers with the encoded metadata as it is: what waits to be taken is the same memory for
    /// all who follow it.
    async fn metadata(service: LogService, request: http::Request<GrpcBody>) -> http::Response<GrpcBody> {
        let budget = request.extensions().get::<ConnectionBudget>().cloned();
        let mut requests = messages(request, MessageDecoder::<MetadataRequest>::default()).into_inner();
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return Status::from(ApiError::field("request", "must be sent")).into_http(),
            Err(status) => return status.into_http(),
        };
        let answers = match service.encoded_metadata(request, budget.as_ref()) {
            Ok(answers) => answers,
            Err(error) => return Status::from(error).into_http(),
        };
        let frames = answers
            .flat_map(|answer| futures::stream::iter(answer.chunks()))
            .map(|chunk| Ok::<_, Status>(Frame::data(chunk)))
            .chain(futures::stream::once(async { end(&Status::ok("")) }));
        answer(StreamBody::new(frames))
    }
}

impl NamedService for RawLogServer {
    const NAME: &'static str = <LogServer<LogService> as NamedService>::NAME;
}

impl Calls for RawLogServer {
    fn call(&mut self, request: http::Request<GrpcBody>) -> Answering {
        match request.uri().path() {
            FETCH_PATH => {
                let response = self.fetch(request);
                Box::pin(std::future::ready(Ok(response)))
            }
            METADATA_PATH => {
                let service = self.service.clone();
                Box::pin(async move { Ok(Self::metadata(service, request).await) })
            }
            _ => Box::pin(self.generated.call(request)),
        }
    }
}

/// Answers as frames.
struct FetchBody {
    answers: mpsc::Receiver<Result<FetchAnswer, Status>>,
    /// What is left of the present answer.
    chunks: VecDeque<Bytes>,
    ended: bool,
}

impl Body for FetchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.answers.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(answer))) => {
                    encode(answer.response, &mut self.chunks);
                    // The memory counts until the last chunk is sent, whichever that is.
                    if let Some(permit) = answer.permit {
                        for chunk in &mut self.chunks {
                            *chunk = memory::hold(std::mem::take(chunk), permit.clone());
                        }
                    }
                }
                Poll::Ready(Some(Err(status))) => return self.end(&status),
                Poll::Ready(None) => return self.end(&Status::ok("")),
            }
        }
    }
}

impl FetchBody {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        Poll::Ready(Some(end(status)))
    }
}

/// Cuts a partition's records between batches where they are many: readers get each part as one
/// frame that they need not join with others, and can work on it while the next is under way.
fn cut(partition: FetchedPartition, parts: &mut Vec<FetchedPartition>) {
    let mut rest = partition.records;
    let head = FetchedPartition {
        records: Bytes::new(),
        ..partition
    };
    while rest.len() > limits::FETCH_PART_BYTES {
        let mut end = 0;
        for batch in batches(&rest) {
            // What is no batch is the reader's to refuse, as it is.
            let Ok(batch) = batch else {
                end = rest.len();
                break;
            };
            let next = end + batch.bytes().len();
            if end > 0 && next > limits::FETCH_PART_BYTES {
                break;
            }
            end = next;
        }
        if end == 0 || end == rest.len() {
            break;
        }
        parts.push(FetchedPartition {
            records: rest.split_to(end),
            ..head.clone()
        });
    }
    parts.push(FetchedPartition { records: rest, ..head });
}

/// Encodes an answer as chunks: heads of a few bytes, and the records as they are.
fn encode(mut answer: FetchResponse, chunks: &mut VecDeque<Bytes>) {
    let mut parts = Vec::with_capacity(answer.partitions.len() + 4);
    for partition in std::mem::take(&mut answer.partitions) {
        cut(partition, &mut parts);
    }
    let mut head = BytesMut::with_capacity(64 + 96 * parts.len());
    head.put_bytes(0, PREFIX_LEN);
    answer.encode_raw(&mut head);
    let mut total = head.len() - PREFIX_LEN;
    let first = chunks.len();
    for mut part in parts {
        let records = std::mem::take(&mut part.records);
        let fields = part.encoded_len();
        let records_len = if records.is_empty() {
            0
        } else {
            key_len(RECORDS_FIELD) + encoded_len_varint(records.len() as u64) + records.len()
        };
        let before = head.len();
        encode_key(PARTITIONS_FIELD, WireType::LengthDelimited, &mut head);
        encode_varint((fields + records_len) as u64, &mut head);
        part.encode_raw(&mut head);
        if !records.is_empty() {
            encode_key(RECORDS_FIELD, WireType::LengthDelimited, &mut head);
            encode_varint(records.len() as u64, &mut head);
        }
        total += head.len() - before + records.len();
        if !records.is_empty() {
            chunks.push_back(head.split().freeze());
            chunks.push_back(records);
        }
    }
    if !head.is_empty() {
        chunks.push_back(head.freeze());
    }
    // The length is known only now; the first chunk is still this function's alone.
    if let Some(chunk) = chunks.get_mut(first) {
        let mut prefixed = BytesMut::from(std::mem::take(chunk));
        // An answer has at most max_bytes and one batch, far below 4 GiB.
        let length = u32::try_from(total).unwrap_or(u32::MAX);
        prefixed[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
        *chunk = prefixed.freeze();
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::{
        batch::{BatchBuilder, Codec},
        v1::Error,
    };

    use super::*;

    fn part(topic: &str, records: &'static [u8]) -> FetchedPartition {
        FetchedPartition {
            topic: topic.into(),
            partition: 3,
            high_watermark: i64::MAX,
            records: Bytes::from_static(records),
            ..Default::default()
        }
    }

    #[test]
    fn chunks_decode_to_the_same_answer() {
        let failed = FetchedPartition {
            error: Some(Error {
                code: 5,
                message: "x".into(),
                ..Default::default()
            }),
            ..part("failed", b"")
        };
        static LARGE: [u8; 300_000] = [7; 300_000];
        for partitions in [
            vec![],
            vec![part("a", b"")],
            vec![part("a", b"1")],
            vec![part("a", &LARGE), failed.clone(), part("b", b"22"), part("c", b"")],
            vec![failed],
        ] {
            let answer = FetchResponse {
                correlation_id: 300,
                partitions,
            };
            let mut chunks = VecDeque::new();
            encode(answer.clone(), &mut chunks);
            let bytes: Vec<u8> = chunks.iter().flatten().copied().collect();
            assert_eq!(bytes[0], 0);
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            assert_eq!(length, bytes.len() - PREFIX_LEN);
            assert_eq!(FetchResponse::decode(&bytes[PREFIX_LEN..]).unwrap(), answer);
        }
    }

    #[test]
    fn many_records_are_cut_between_batches() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1, None, Some(&[7; 400_000]), &[]).unwrap();
        let batch = builder.build().unwrap();
        let all: Bytes = batch.iter().copied().cycle().take(batch.len() * 5).collect();
        let cut_up = |records: Bytes| {
            let mut parts = Vec::new();
            cut(
                FetchedPartition {
                    records,
                    ..part("a", b"")
                },
                &mut parts,
            );
            assert!(parts.iter().all(|part| part.topic == "a" && part.partition == 3));
            parts.into_iter().map(|part| part.records).collect::<Vec<_>>()
        };
        let parts = cut_up(all.clone());
        let lengths: Vec<usize> = parts.iter().map(|part| part.len() / batch.len()).collect();
        assert_eq!(lengths, [2, 2, 1]);
        assert_eq!(parts.concat(), all);
        assert_eq!(cut_up(Bytes::new()), [Bytes::new()]);
        static NO_BATCHES: [u8; 3 << 20] = [1; 3 << 20];
        assert_eq!(cut_up(Bytes::from_static(&NO_BATCHES)).concat(), NO_BATCHES);
        let torn = all.slice(..all.len() - 1);
        assert_eq!(cut_up(torn.clone()).concat(), torn);
    }

    #[test]
    fn records_are_not_copied() {
        let records = Bytes::from(vec![9; 1_000]);
        let answer = FetchResponse {
            correlation_id: 1,
            partitions: vec![FetchedPartition {
                records: records.clone(),
                ..Default::default()
            }],
        };
        let mut chunks = VecDeque::new();
        encode(answer, &mut chunks);
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == records.as_ptr()));
    }
}
