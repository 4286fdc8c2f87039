//! An answer's body, which gives the request's memory back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::{Status, body::Body as GrpcBody};

use super::{
    budget::{ConnectionBudget, MemoryPermit, hold},
    permits::MessagePermits,
};
use crate::limits;

/// The answer of a call. Once nobody has the request any more, its memory is given back: of a call
/// with one answer when that has memory of its own, or else when it is sent. What streams answers
/// takes their memory by itself.
pub struct AnswerBody {
    inner: GrpcBody,
    permits: MessagePermits,
    counting: Counting,
}

/// How far counting the answer has come.
enum Counting {
    /// It is not there yet.
    First(ConnectionBudget),
    /// It waits a moment for its memory.
    Waiting {
        bytes: Bytes,
        permit: Pin<Box<dyn Future<Output = Option<MemoryPermit>> + Send>>,
    },
    Done,
}

impl AnswerBody {
    /// The answer `inner`, whose head is there. With a budget it is the only one of its call, and
    /// counts there.
    pub fn new(inner: GrpcBody, permits: MessagePermits, budget: Option<ConnectionBudget>) -> Self {
        let counting = match (permits.is_read(), budget) {
            (true, Some(budget)) => Counting::First(budget),
            (true, None) => {
                permits.release();
                Counting::Done
            }
            (false, _) => Counting::Done,
        };
        Self {
            inner,
            permits,
            counting,
        }
    }

    /// The answer is `bytes`; passes them on if that takes no memory that is worth counting, or has it.
    fn count(&mut self, budget: ConnectionBudget, bytes: Bytes) -> Option<Bytes> {
        let length = bytes.len();
        if length <= limits::UNCOUNTED_ANSWER_BYTES || self.permits.keeps_answer() {
            self.permits.release();
            return Some(bytes);
        }
        let permit = Box::pin(async move { budget.acquire_for_answer(length).await });
        self.counting = Counting::Waiting { bytes, permit };
        None
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Counting::Waiting { bytes, permit } = &mut self.counting {
                let permit = ready!(permit.as_mut().poll(context));
                let mut bytes = std::mem::take(bytes);
                self.counting = Counting::Done;
                // Without it, the request's counts on until the answer is sent.
                if let Some(permit) = permit {
                    self.permits.release();
                    bytes = hold(bytes, permit);
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match (frame.into_data(), std::mem::replace(&mut self.counting, Counting::Done)) {
                (Ok(bytes), Counting::First(budget)) => {
                    if let Some(bytes) = self.count(budget, bytes) {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
                (Ok(bytes), _) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                (Err(other), _) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.counting, Counting::Waiting { .. }) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{Layer as _, Service as _};

    use super::*;
    use crate::memory::{MemoryBudget, MemoryLayer};

    /// Calls `path` with a message of 100 bytes; it is answered with `answered` bytes, and no end, once
    /// the message is read.
    async fn call(budget: &MemoryBudget, path: &str, answered: usize) -> GrpcBody {
        let service = tower::service_fn(move |request: http::Request<GrpcBody>| async move {
            let read = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read.len(), 105);
            let frame = Ok::<_, Status>(Frame::data(Bytes::from(vec![7; answered])));
            let frames = futures::stream::StreamExt::chain(futures::stream::iter([frame]), futures::stream::pending());
            Ok::<_, Infallible>(http::Response::new(GrpcBody::new(StreamBody::new(frames))))
        });
        let message = [&[0, 0, 0, 0, 100][..], &[0x0a; 100]].concat();
        let frames = futures::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(message)))]);
        let mut request = http::Request::post(format!("http://broker{path}"))
            .body(GrpcBody::new(StreamBody::new(frames)))
            .unwrap();
        request.extensions_mut().insert(budget.connection());
        let mut service = MemoryLayer::default().layer(service);
        service.call(request).await.unwrap().into_body()
    }

    #[tokio::test]
    async fn a_request_that_was_read_does_not_count_while_its_answers_are_sent() {
        let budget = MemoryBudget::new(8 << 20, 1 << 20);
        let answers = call(&budget, "/millrace.v1.Messaging/Read", 1).await;
        assert_eq!(budget.used(), 0);
        drop(answers);
    }

    #[tokio::test]
    async fn the_answer_of_a_call_with_one_counts_instead_of_its_request() {
        let budget = MemoryBudget::new(8 << 20, 1 << 20);
        let path = "/millrace.v1.Log/ListOffsets";
        let mut small = call(&budget, path, 10).await;
        assert_eq!(budget.used(), 100, "there is no answer yet");
        let sent = small.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((budget.used(), sent.len()), (0, 10));
        let mut large = call(&budget, path, 300_000).await;
        let sent = large.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(budget.used(), 300_000);
        drop((large, sent));
        assert_eq!(budget.used(), 0, "with the last of its bytes");
    }

    #[tokio::test]
    async fn an_answer_without_memory_of_its_own_keeps_the_request_s() {
        let budget = MemoryBudget::new(8 << 20, 8 << 20);
        let _readers = budget.connection().acquire_for_answer(usize::MAX).await.unwrap();
        let used = budget.used();
        let mut large = call(&budget, "/millrace.v1.Log/ListOffsets", 300_000).await;
        let sent = large.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((budget.used() - used, sent.len()), (100, 300_000));
        drop(large);
        assert_eq!(budget.used(), used);
    }
}
