//! The layer that makes each incoming gRPC message take its memory from the budget before
//! it is read.
//!
//! A gRPC message announces its length in five bytes in front of it. The layer reads along,
//! takes the whole length at once (taking it bit by bit could leave many half-read messages
//! waiting for each other) and only then lets the message through. What it takes decoded beyond
//! its length is known when all of it has come, and taken from memory of its own, so that
//! messages that wait for it do not wait for each other.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use millrace_proto::{
    decoded::{is_unary, shape_of_request},
    v1::ErrorReason,
};
use tonic::{Status, body::Body as GrpcBody, server::NamedService};
use tower::{Layer, Service};

use super::{
    answer::AnswerBody,
    body::{BudgetBody, Expected},
    budget::ConnectionBudget,
    permits::MessagePermits,
};
use crate::error::{ApiError, WriteOutcome};

/// Of a gRPC request: what its messages are compressed with.
const ENCODING: &str = "grpc-encoding";
/// Of a gRPC answer: what messages may be compressed with.
const ACCEPTED_ENCODINGS: &str = "grpc-accept-encoding";

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
        let budget = parts.extensions.get::<ConnectionBudget>().cloned();
        let counted = budget.clone().filter(|_| is_unary(path));
        let body = match &budget {
            Some(budget) => GrpcBody::new(BudgetBody::new(body, budget.clone(), permits.clone(), expected)),
            None => body,
        };
        parts.extensions.insert(permits.clone());
        let answer = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|inner| GrpcBody::new(AnswerBody::new(inner, permits, counted))))
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
