//! The layer that makes each incoming gRPC message take its memory from the budget before
//! it is read.
//!
//! A gRPC message announces its length in five bytes in front of it. The layer reads along,
//! takes the whole length at once (taking it bit by bit could leave many half-read messages
//! waiting for each other) and only then lets the message through. What it takes decoded beyond
//! its length is known when all of it has come, and taken from memory of its own, so that
//! messages that wait for it do not wait for each other.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use millrace_proto::{decoded::shape_of_request, v1::ErrorReason};
use parking_lot::Mutex;
use tonic::{Status, body::Body as GrpcBody, server::NamedService};
use tower::{Layer, Service};

use super::{
    body::{BudgetBody, Expected},
    budget::{ConnectionBudget, MemoryPermit},
};
use crate::error::{ApiError, WriteOutcome};

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
    pub(super) fn begin(&self) {
        let mut permits = self.0.lock();
        if !permits.claimed {
            permits.queue.clear();
        }
    }

    pub(super) fn push(&self, permit: MemoryPermit) {
        self.0.lock().queue.push_back(permit);
    }

    /// More memory of the message that came last.
    pub(super) fn add_to_last(&self, more: MemoryPermit) {
        if let Some(permit) = self.0.lock().queue.back_mut() {
            permit.add(more);
        }
    }

    /// Keeps a permit of a call with one request until its answer is sent: what the answer
    /// itself takes.
    pub fn keep(&self, permit: MemoryPermit) {
        self.push(permit);
    }
}

/// Puts the budget in front of a gRPC service.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryLayer {
    /// The path of a call that takes the memory of what it decodes by itself.
    pub self_admitting: Option<&'static str>,
}

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MemoryService {
            inner,
            self_admitting: self.self_admitting,
        }
    }
}

/// A service behind the budget.
#[derive(Clone, Debug)]
pub struct MemoryService<S> {
    inner: S,
    self_admitting: Option<&'static str>,
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
        let path = parts.uri.path();
        let expected = shape_of_request(path).map(|shape| Expected {
            shape,
            self_admitting: self.self_admitting == Some(path),
        });
        let body = match parts.extensions.get::<ConnectionBudget>() {
            Some(budget) => GrpcBody::new(BudgetBody::new(body, budget.clone(), permits.clone(), expected)),
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

/// A request's messages are compressed.
pub(super) fn compressed() -> ApiError {
    ApiError::new(
        ErrorReason::InvalidRequest,
        "Compressed gRPC messages are not supported, only the encoding \"identity\": send them as they are, and compress record batches instead.",
    )
    .with("supported_encodings", "identity")
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
