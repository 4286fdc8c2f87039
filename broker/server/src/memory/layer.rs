//! The layer that makes each incoming gRPC message take its bytes from the budget before
//! it is read.
//!
//! A gRPC message announces its length in five bytes in front of it. The layer reads along,
//! takes the whole length at once (taking it bit by bit could leave many half-read messages
//! waiting for each other) and only then lets the message through.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use millrace_proto::v1::ErrorReason;
use parking_lot::Mutex;
use tonic::{Status, body::Body as GrpcBody, server::NamedService};
use tower::{Layer, Service};

use super::budget::{ConnectionBudget, MemoryPermit};
use crate::{
    error::{ApiError, WriteOutcome, oversized},
    limits,
};

/// Of a gRPC request: what its messages are compressed with.
const ENCODING: &str = "grpc-encoding";
/// Of a gRPC answer: what messages may be compressed with.
const ACCEPTED_ENCODINGS: &str = "grpc-accept-encoding";

/// The permits of the messages that a streaming call has received, in their order. Calls
/// that hold messages for long take them; else a permit goes back when the next message
/// begins.
#[derive(Clone, Debug, Default)]
pub struct MessagePermits(Arc<Mutex<Permits>>);

#[derive(Debug, Default)]
struct Permits {
    claimed: bool,
    queue: VecDeque<MemoryPermit>,
}

impl MessagePermits {
    /// From now on the caller takes each message's permit by [`MessagePermits::take`].
    pub fn claim(&self) {
        self.0.lock().claimed = true;
    }

    /// The permit of the oldest message not yet taken.
    #[must_use]
    pub fn take(&self) -> Option<MemoryPermit> {
        self.0.lock().queue.pop_front()
    }

    /// A message begins: where nobody takes permits, those before it go back, so that it
    /// does not wait for them.
    fn begin(&self) {
        let mut permits = self.0.lock();
        if !permits.claimed {
            permits.queue.clear();
        }
    }

    fn push(&self, permit: MemoryPermit) {
        self.0.lock().queue.push_back(permit);
    }

    /// Keeps a permit of a call with one request until its answer is sent: what the answer
    /// itself takes.
    pub fn keep(&self, permit: MemoryPermit) {
        self.push(permit);
    }
}

/// Puts the budget in front of a gRPC service.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLayer;

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MemoryService { inner }
    }
}

/// A service behind the budget.
#[derive(Clone, Debug)]
pub struct MemoryService<S> {
    inner: S,
}

impl<S> Service<http::Request<GrpcBody>> for MemoryService<S>
where
    S: Service<http::Request<GrpcBody>, Response = http::Response<GrpcBody>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<GrpcBody>) -> Self::Future {
        if let Some(encoding) = request.headers().get(ENCODING)
            && encoding != "identity"
        {
            let mut response = Status::from(compressed()).into_http();
            let accepted = http::HeaderValue::from_static("identity");
            response.headers_mut().insert(ACCEPTED_ENCODINGS, accepted);
            return Box::pin(std::future::ready(Ok(response)));
        }
        let (mut parts, body) = request.into_parts();
        let permits = MessagePermits::default();
        let body = match parts.extensions.get::<ConnectionBudget>() {
            Some(budget) => GrpcBody::new(BudgetBody::new(body, budget.clone(), permits.clone())),
            None => body,
        };
        parts.extensions.insert(permits.clone());
        let answer = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            // The request's bytes count until the whole answer is sent.
            Ok(answer.await?.map(|inner| {
                GrpcBody::new(HoldingBody {
                    inner,
                    _permits: permits,
                })
            }))
        })
    }
}

impl<S: NamedService> NamedService for MemoryService<S> {
    const NAME: &'static str = S::NAME;
}

type Acquiring = Pin<Box<dyn Future<Output = Option<MemoryPermit>> + Send>>;

/// A request's body that takes each message's length from the budget first.
struct BudgetBody {
    inner: GrpcBody,
    budget: ConnectionBudget,
    permits: MessagePermits,
    prefix: Prefix,
    /// A frame that was read but may not go on yet.
    held: Option<Bytes>,
    acquiring: Option<Acquiring>,
}

/// Where in the sequence of length-prefixed messages the next byte stands.
#[derive(Debug, Default)]
struct Prefix {
    /// How much of the five bytes is known, and their content.
    seen: usize,
    bytes: [u8; 5],
    /// Bytes of the present message still to come.
    remaining: usize,
}

/// A message that begins.
#[derive(Clone, Copy, Debug)]
struct Begun {
    length: usize,
    compressed: bool,
}

impl Prefix {
    /// Reads along `data` up to and with the next prefix; answers with how many bytes that
    /// is, and the message that begins there, if one does.
    fn scan(&mut self, data: &[u8]) -> (usize, Option<Begun>) {
        let mut at = self.remaining.min(data.len());
        self.remaining -= at;
        while at < data.len() && self.seen < self.bytes.len() {
            self.bytes[self.seen] = data[at];
            self.seen += 1;
            at += 1;
        }
        if self.seen < self.bytes.len() {
            return (at, None);
        }
        self.seen = 0;
        let [compressed, a, b, c, d] = self.bytes;
        self.remaining = u32::from_be_bytes([a, b, c, d]) as usize;
        let begun = Begun {
            length: self.remaining,
            compressed: compressed != 0,
        };
        (at, Some(begun))
    }
}

impl BudgetBody {
    fn new(inner: GrpcBody, budget: ConnectionBudget, permits: MessagePermits) -> Self {
        Self {
            inner,
            budget,
            permits,
            prefix: Prefix::default(),
            held: None,
            acquiring: None,
        }
    }

    /// Passes on `frame` if all messages that begin in it have their bytes; else keeps it.
    fn poll_held(&mut self, context: &mut Context<'_>, mut scanned: usize) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(acquiring) = &mut self.acquiring {
                let permit = ready!(acquiring.as_mut().poll(context));
                self.acquiring = None;
                let Some(permit) = permit else {
                    self.held = None;
                    return Poll::Ready(Some(Err(no_memory().into())));
                };
                self.permits.push(permit);
            }
            let Some(frame) = &self.held else {
                return Poll::Ready(None);
            };
            let unread = frame.get(scanned..).unwrap_or_default();
            if unread.is_empty() {
                return Poll::Ready(self.held.take().map(Ok));
            }
            let (used, begun) = self.prefix.scan(unread);
            scanned += used;
            if let Some(Begun { length, compressed }) = begun {
                if compressed {
                    self.held = None;
                    return Poll::Ready(Some(Err(self::compressed().into())));
                }
                if length > limits::MAX_RPC_MESSAGE_BYTES {
                    self.held = None;
                    let error = oversized(length, limits::MAX_RPC_MESSAGE_BYTES);
                    return Poll::Ready(Some(Err(error.into())));
                }
                let budget = self.budget.clone();
                self.permits.begin();
                let acquiring = async move { budget.acquire(length).await };
                self.acquiring = Some(Box::pin(acquiring));
                if let Some(rest) = self.split_waiting(scanned, context) {
                    return rest;
                }
            }
        }
    }

    /// The bytes up to `scanned` may go on while the next message waits for its budget.
    fn split_waiting(
        &mut self,
        scanned: usize,
        context: &mut Context<'_>,
    ) -> Option<Poll<Option<Result<Bytes, Status>>>> {
        let acquiring = self.acquiring.as_mut()?;
        match acquiring.as_mut().poll(context) {
            Poll::Ready(Some(permit)) => {
                self.acquiring = None;
                self.permits.push(permit);
                None
            }
            Poll::Ready(None) => {
                self.acquiring = None;
                self.held = None;
                Some(Poll::Ready(Some(Err(no_memory().into()))))
            }
            Poll::Pending => {
                let frame = self.held.as_mut()?;
                let ready = frame.copy_to_bytes(scanned.min(frame.len()));
                Some(Poll::Ready(Some(Ok(ready))))
            }
        }
    }
}

impl Body for BudgetBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.acquiring.is_some() || self.held.as_ref().is_some_and(|held| !held.is_empty()) {
                match ready!(self.poll_held(context, 0)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(read) => return Poll::Ready(Some(read.map(Frame::data))),
                    None => {}
                }
            }
            self.held = None;
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = Some(data),
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
    }
}

/// A request's messages are compressed.
fn compressed() -> ApiError {
    ApiError::new(
        ErrorReason::InvalidRequest,
        "Compressed gRPC messages are not supported, only the encoding \"identity\": send them as they are, and compress record batches instead.",
    )
    .with("supported_encodings", "identity")
    .outcome(WriteOutcome::NotWritten)
}

/// A request waited too long for memory.
fn no_memory() -> ApiError {
    ApiError::new(
        ErrorReason::Overloaded,
        "The broker had no memory for the request in time: send less at once, and try again later.",
    )
    .outcome(WriteOutcome::NotWritten)
}

/// An answer's body that keeps the request's permits until it is sent.
struct HoldingBody {
    inner: GrpcBody,
    _permits: MessagePermits,
}

impl Body for HoldingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::memory::MemoryBudget;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, length));
        bytes
    }

    fn body(frames: Vec<Vec<u8>>) -> GrpcBody {
        let frames = frames
            .into_iter()
            .map(|frame| Ok::<_, Status>(Frame::data(Bytes::from(frame))));
        GrpcBody::new(StreamBody::new(futures::stream::iter(frames)))
    }

    #[tokio::test]
    async fn every_cut_of_the_bytes_passes_unchanged_and_counts_each_message() {
        let bytes: Vec<u8> = [message(3), message(0), message(9)].concat();
        for cut in 0..bytes.len() {
            let budget = MemoryBudget::new(200, 100);
            let permits = MessagePermits::default();
            permits.claim();
            let (front, back) = bytes.split_at(cut);
            let inner = body(vec![front.to_vec(), back.to_vec()]);
            let read = BudgetBody::new(inner, budget.connection(), permits.clone());
            let collected = read.collect().await.unwrap().to_bytes();
            assert_eq!(&collected[..], &bytes[..], "cut at {cut}");
            assert_eq!(budget.used(), 12);
            for used in [9, 9, 0] {
                drop(permits.take().unwrap());
                assert_eq!(budget.used(), used);
            }
            assert!(permits.take().is_none());
        }
    }

    #[tokio::test]
    async fn compressed_messages_are_refused() {
        let budget = MemoryBudget::new(20, 10);
        let mut bytes = message(3);
        bytes[0] = 1;
        let read = BudgetBody::new(body(vec![bytes]), budget.connection(), MessagePermits::default());
        let status = read.collect().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(!status.details().is_empty(), "the error is typed");
    }

    #[tokio::test]
    async fn a_message_waits_for_its_bytes_while_those_before_it_go_on() {
        let budget = MemoryBudget::new(20, 10);
        let permits = MessagePermits::default();
        permits.claim();
        let frame = [message(8), message(5)].concat();
        let mut read = BudgetBody::new(body(vec![frame]), budget.connection(), permits.clone());
        let first = read.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() >= 13, "the first message is whole");
        let waiting = tokio::time::timeout(Duration::from_millis(20), read.frame()).await;
        assert!(waiting.is_err());
        drop(permits.take());
        let rest = read.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len() + rest.len(), 23);
    }

    #[tokio::test]
    async fn where_nobody_takes_permits_the_next_message_gives_back_the_last() {
        let budget = MemoryBudget::new(20, 10);
        let frames = vec![message(8), message(8), message(8)];
        let read = BudgetBody::new(body(frames), budget.connection(), MessagePermits::default());
        // Each message can only begin when the bytes of the one before are given back.
        let collected = tokio::time::timeout(Duration::from_secs(5), read.collect()).await;
        assert_eq!(collected.unwrap().unwrap().to_bytes().len(), 39);
    }
}
