//! gRPC over HTTP/2 by hand, for calls whose answers are encoded without the generated types: their bytes go to the
//! connection as they are, where a tonic encoder would copy them.
//!
//! A generated client can't tell. Messages are not compressed, in neither direction: requests that are get refused
//! before they come here.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::{Body, Frame};
use millrace_proto::encoded::EncodedAnswer;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming, body::Body as GrpcBody, codec::Decoder, server::NamedService};
use tower::Service;

use crate::limits;

/// A gRPC message begins with a byte for "not compressed" and its length.
pub const PREFIX_LEN: usize = 5;

/// The answer to a call, which may be that it failed.
pub type Answering = Pin<Box<dyn Future<Output = Result<http::Response<GrpcBody>, Infallible>> + Send>>;

/// A service with a way of its own for some of its calls.
pub trait Calls: NamedService {
    /// Begins a call.
    fn call(&mut self, request: http::Request<GrpcBody>) -> Answering;
}

/// Serves [`Calls`], which are always ready.
#[derive(Clone, Debug)]
pub struct ByHand<C>(pub C);

impl<C: Calls> NamedService for ByHand<C> {
    const NAME: &'static str = C::NAME;
}

impl<C: Calls> Service<http::Request<GrpcBody>> for ByHand<C> {
    type Response = http::Response<GrpcBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<GrpcBody>) -> Answering {
        self.0.call(request)
    }
}

/// The messages of a request.
pub fn messages<D>(request: http::Request<GrpcBody>, decoder: D) -> Request<Streaming<D::Item>>
where
    D: Decoder<Error = Status> + Send + 'static,
{
    let limit = Some(limits::MAX_RPC_MESSAGE_BYTES);
    Request::from_http(request.map(|body| Streaming::new_request(decoder, body, None, limit)))
}

/// An answer of messages.
pub fn answer<B>(body: B) -> http::Response<GrpcBody>
where
    B: Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let mut response = http::Response::new(GrpcBody::new(body));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

/// The end of an answer.
///
/// # Errors
/// The status can't be a header.
pub fn end(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// Encoded answers as frames. What is small is joined with what follows, while that is there.
#[derive(Debug)]
pub struct AnswersBody {
    answers: mpsc::Receiver<Result<EncodedAnswer, Status>>,
    /// Stands before what is joined.
    chunks: VecDeque<Bytes>,
    joined: BytesMut,
    end: End,
}

/// How far the end of the answers is.
#[derive(Debug)]
enum End {
    /// There may be more.
    Open,
    /// All were taken, the status is to be sent.
    Due(Status),
    Sent,
}

impl AnswersBody {
    /// Those that come from `answers`.
    #[must_use]
    pub fn new(answers: mpsc::Receiver<Result<EncodedAnswer, Status>>) -> Self {
        Self {
            answers,
            chunks: VecDeque::new(),
            joined: BytesMut::new(),
            end: End::Open,
        }
    }

    fn push(&mut self, answer: EncodedAnswer) -> Result<(), Status> {
        let length = u32::try_from(answer.len())
            .map_err(|_| Status::resource_exhausted("an answer is larger than a gRPC message can be"))?;
        self.joined.put_u8(0);
        self.joined.put_u32(length);
        for part in answer.into_parts() {
            if part.len() < limits::JOINED_ANSWERS_BYTES {
                self.joined.extend_from_slice(&part);
            } else {
                self.end_joined();
                self.chunks.push_back(part);
            }
        }
        if self.joined.len() >= limits::JOINED_ANSWERS_BYTES {
            self.end_joined();
        }
        Ok(())
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            self.chunks.push_back(self.joined.split().freeze());
        }
    }

    /// Takes answers until there is a chunk, or no more of them is there.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.chunks.is_empty() && matches!(self.end, End::Open) {
            match self.answers.poll_recv(context) {
                Poll::Pending if self.joined.is_empty() => return Poll::Pending,
                Poll::Pending => self.end_joined(),
                Poll::Ready(Some(Ok(answer))) => {
                    if let Err(status) = self.push(answer) {
                        self.end = End::Due(status);
                    }
                }
                Poll::Ready(Some(Err(status))) => self.end = End::Due(status),
                Poll::Ready(None) => self.end = End::Due(Status::ok("")),
            }
        }
        if self.chunks.is_empty() {
            self.end_joined();
        }
        Poll::Ready(self.chunks.pop_front())
    }
}

impl Body for AnswersBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let chunk = std::task::ready!(self.poll_chunk(context));
        Poll::Ready(match chunk {
            Some(chunk) => Some(Ok(Frame::data(chunk))),
            None => match std::mem::replace(&mut self.end, End::Sent) {
                End::Due(status) => Some(end(&status)),
                End::Open | End::Sent => None,
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Sent)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use millrace_proto::v1::{PartitionProgress, ReadResponse};
    use prost::Message as _;

    use super::*;

    fn answer(messages: usize) -> EncodedAnswer {
        let progress = PartitionProgress {
            next_offset: 7,
            ..PartitionProgress::default()
        };
        EncodedAnswer::read([0x0a, 0].repeat(messages).into(), progress)
    }

    /// The lengths of frames, and what they hold.
    async fn read(mut body: AnswersBody) -> (Vec<usize>, Vec<ReadResponse>, http::HeaderMap) {
        let (mut lengths, mut bytes) = (Vec::new(), BytesMut::new());
        let trailers = loop {
            let frame = body.frame().await.unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => {
                    lengths.push(data.len());
                    bytes.extend_from_slice(&data);
                }
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let prefix = bytes.split_to(PREFIX_LEN);
            assert_eq!(prefix[0], 0);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            let message = bytes.split_to(usize::try_from(length).unwrap());
            answers.push(ReadResponse::decode(message).unwrap());
        }
        (lengths, answers, trailers)
    }

    #[tokio::test]
    async fn small_answers_share_frames_and_large_ones_are_not_copied() {
        let (sender, answers) = mpsc::channel(10);
        let large = answer(limits::JOINED_ANSWERS_BYTES);
        let address = large.clone().into_parts()[0].as_ptr();
        for sent in [answer(0), answer(1), large, answer(2), answer(0)] {
            sender.send(Ok(sent)).await.unwrap();
        }
        drop(sender);
        let mut body = AnswersBody::new(answers);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(second.as_ptr(), address);
        let progress = answer(0).len();
        assert_eq!(first.len(), 3 * PREFIX_LEN + 2 * progress + 2);
        let third = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(third.len(), 3 * progress + 2 * PREFIX_LEN + 4);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[tokio::test]
    async fn answers_come_as_they_were_sent_and_then_the_status() {
        for status in [None, Some(Status::aborted("over"))] {
            let (sender, answers) = mpsc::channel(1);
            let sizes = [
                0,
                1,
                limits::JOINED_ANSWERS_BYTES,
                0,
                limits::JOINED_ANSWERS_BYTES / 2 - 1,
                3,
            ];
            let last = status.clone();
            let sending = async move {
                for messages in sizes {
                    sender.send(Ok(answer(messages))).await.unwrap();
                    // At times the reader waits.
                    tokio::time::sleep(Duration::from_millis(u64::try_from(messages % 2).unwrap())).await;
                }
                if let Some(status) = last {
                    sender.send(Err(status)).await.unwrap();
                }
            };
            let ((lengths, read, trailers), ()) = tokio::join!(read(AnswersBody::new(answers)), sending);
            assert_eq!(
                read.iter().map(|answer| answer.messages.len()).collect::<Vec<_>>(),
                sizes
            );
            assert!(lengths.iter().all(|length| *length > 0));
            let code = status.map_or(0, |status| i32::from(status.code()));
            assert_eq!(trailers["grpc-status"], code.to_string().as_str());
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_there_does_not_wait_for_the_next() {
        let (sender, answers) = mpsc::channel(1);
        let mut body = AnswersBody::new(answers);
        sender.send(Ok(answer(1))).await.unwrap();
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await;
        assert!(frame.unwrap().unwrap().unwrap().is_data());
        drop(sender);
    }
}
