//! A request's body on its way in.
//!
//! A handler that waits does not read its body. What comes meanwhile must not stay in the HTTP/2
//! connection's buffer: that keeps each DATA frame by itself, so that small ones cost it far more
//! than their bytes, and it ends the connection of a peer that sends many. So frames are taken as
//! they come and small ones are joined; but the sender's window opens only as the handler reads,
//! which bounds what is kept here (RFC 9113, 5.2).

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;

use super::unread::Unread;
use crate::limits;

/// What was received of a request's body. Shared by its reader and by who receives for it.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    /// Wakes both, whoever waits for more.
    waker: Waker,
    wakers: Arc<Wakers>,
}

/// The side that a handler reads.
#[derive(Debug)]
pub struct InboxBody(Arc<Inbox>);

#[derive(Debug)]
struct State {
    /// `None` once there is nothing more to receive.
    stream: Option<RecvStream>,
    /// Counts what is received, with that of the connection's other calls.
    unread: Arc<Unread>,
    received: Received,
    /// How the body ended; told when all before it was read.
    end: Option<Result<Option<http::HeaderMap>, h2::Error>>,
}

/// Bytes in their order.
#[derive(Debug, Default)]
struct Received {
    chunks: VecDeque<Bytes>,
    /// Small frames, joined; they stand behind all chunks.
    tail: BytesMut,
}

/// Those who wait for more of a body.
#[derive(Debug, Default)]
struct Wakers {
    reader: AtomicWaker,
    receiver: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.receiver.wake();
    }
}

impl Received {
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() < limits::SMALL_FRAME_BYTES {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.end_tail();
            self.chunks.push_back(bytes);
        }
        if self.tail.len() >= limits::JOINED_FRAMES_BYTES {
            self.end_tail();
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.end_tail();
        }
        self.chunks.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }
}

impl State {
    /// The next frame's bytes; `None` at the end.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let end = match std::task::ready!(stream.poll_data(context)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(bytes)),
            Some(Err(error)) => Err(error),
            None => std::task::ready!(stream.poll_trailers(context)),
        };
        self.end = Some(end);
        Poll::Ready(None)
    }

    /// Lets the sender send `length` bytes more.
    fn release(&mut self, length: usize) {
        if let Some(stream) = &mut self.stream {
            // Of a stream that was reset, there is no window any more.
            let _ = stream.flow_control().release_capacity(length);
        }
    }

    /// Takes no more.
    fn close(&mut self) {
        let mut unread = self.received.tail.len();
        unread += self.received.chunks.iter().map(Bytes::len).sum::<usize>();
        self.release(unread);
        self.unread.take(unread);
        self.received = Received::default();
        self.stream = None;
    }
}

impl Inbox {
    /// What comes by `stream`; of that, `unread` counts what is not read.
    pub fn new(stream: RecvStream, unread: Arc<Unread>) -> Arc<Self> {
        let wakers = Arc::new(Wakers::default());
        Arc::new(Self {
            state: Mutex::new(State {
                stream: Some(stream),
                unread,
                received: Received::default(),
                end: None,
            }),
            waker: Waker::from(wakers.clone()),
            wakers,
        })
    }

    /// The side of the handler. Dropped, it takes no more.
    pub fn body(self: &Arc<Self>) -> InboxBody {
        InboxBody(self.clone())
    }

    /// Receives what comes, whether or not it is read; must be polled on until the call has ended.
    pub fn poll_receive(&self, context: &mut Context<'_>) {
        self.wakers.receiver.register(context.waker());
        let mut state = self.state.lock();
        let mut changed = false;
        while state.stream.is_some()
            && state.end.is_none()
            && let Poll::Ready(read) = state.poll_stream(&mut Context::from_waker(&self.waker))
        {
            changed = true;
            match read {
                Some(bytes) => {
                    state.unread.add(bytes.len());
                    state.received.push(bytes);
                }
                None => break,
            }
        }
        drop(state);
        if changed {
            self.wakers.reader.wake();
        }
    }

    /// The call has ended: what else comes is not wanted.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.close();
        state.end.get_or_insert_with(|| Err(Reason::CANCEL.into()));
        drop(state);
        self.wakers.reader.wake();
    }
}

impl Body for InboxBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let inbox = &self.0;
        inbox.wakers.reader.register(context.waker());
        let mut state = inbox.state.lock();
        let bytes = match state.received.pop() {
            Some(bytes) => {
                state.unread.take(bytes.len());
                Some(bytes)
            }
            None if state.end.is_some() => None,
            None => std::task::ready!(state.poll_stream(&mut Context::from_waker(&inbox.waker))),
        };
        if let Some(bytes) = bytes {
            state.release(bytes.len());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        Poll::Ready(match state.end.replace(Ok(None)) {
            Some(Ok(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Some(Err(error)) => Some(Err(Status::from_error(Box::new(error)))),
            Some(Ok(None)) | None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state.lock();
        let ended = match &state.end {
            Some(end) => matches!(end, Ok(None)),
            None => state.stream.as_ref().is_none_or(RecvStream::is_end_stream),
        };
        ended && state.received.is_empty()
    }
}

impl Drop for InboxBody {
    fn drop(&mut self) {
        self.0.state.lock().close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_joined_in_their_order() {
        let mut received = Received::default();
        let mut all = Vec::new();
        for at in 0..10_000usize {
            let length = if at % 4_000 == 3_999 {
                limits::SMALL_FRAME_BYTES
            } else {
                25
            };
            let bytes = vec![u8::try_from(at % 251).unwrap(); length];
            all.extend_from_slice(&bytes);
            received.push(bytes.into());
        }
        let chunks: Vec<Bytes> = std::iter::from_fn(|| received.pop()).collect();
        assert!(chunks.len() < 25, "{} chunks", chunks.len());
        assert_eq!(chunks.concat(), all);
        assert!(received.is_empty());
    }
}
