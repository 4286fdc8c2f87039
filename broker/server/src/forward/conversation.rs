//! One stream of batches to one leader, from its opening until it breaks.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use millrace_engine::BrokerId;
use millrace_proto::{
    internal::v1::{
        ForwardAppend, ForwardAppendRequest, ForwardAppendResponse, ForwardAppended, ForwardHello,
        forward_append_answer::Result as Answer, forward_client::ForwardClient,
    },
    v1::ErrorReason,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::{Streaming, transport::Channel};

use super::{limits, wire};
use crate::error::{ApiError, WriteOutcome};

/// What becomes of a batch that was passed on.
pub type Answered = oneshot::Receiver<Result<ForwardAppended, ApiError>>;

/// A stream. Once it broke it is of no more use: what comes after must not follow what was lost.
#[derive(Debug)]
pub struct Conversation {
    leader: BrokerId,
    state: Mutex<State>,
    /// The highest number that the transport has taken: what is above it was surely not sent.
    taken: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// None once the stream has ended. Unbounded: each batch in it counts in its sender's memory
    /// budget until it is answered.
    queue: Option<mpsc::UnboundedSender<ForwardAppend>>,
    next_number: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<ForwardAppended, ApiError>>>,
}

impl Conversation {
    /// A stream that is not open yet, and what is to be sent on it.
    pub fn new(leader: BrokerId) -> (Arc<Self>, mpsc::UnboundedReceiver<ForwardAppend>) {
        let (sender, queue) = mpsc::unbounded_channel();
        let state = State {
            queue: Some(sender),
            next_number: 1,
            waiting: HashMap::new(),
        };
        let conversation = Self {
            leader,
            state: Mutex::new(state),
            taken: AtomicU64::new(0),
        };
        (Arc::new(conversation), queue)
    }

    /// Whether nothing can be sent any more.
    pub fn has_ended(&self) -> bool {
        self.state.lock().queue.is_none()
    }

    /// Sends a batch behind those before it; none if the stream has ended.
    pub fn push(&self, mut append: ForwardAppend) -> Option<Answered> {
        let mut state = self.state.lock();
        let number = state.next_number;
        append.number = number;
        // Under the lock, so that numbers are in the order of the queue.
        state.queue.as_ref()?.send(append).ok()?;
        state.next_number += 1;
        let (sender, answered) = oneshot::channel();
        state.waiting.insert(number, sender);
        Some(answered)
    }

    /// Opens the stream after `pause` and serves it until it breaks. Answers with whether it was
    /// open.
    pub async fn run(
        self: Arc<Self>,
        queue: mpsc::UnboundedReceiver<ForwardAppend>,
        channel: Result<Channel, String>,
        hello: ForwardHello,
        pause: Duration,
    ) -> bool {
        tokio::time::sleep(pause).await;
        // However this ends, nobody waits for an answer that can't come.
        let ending = Ending(&self);
        let channel = match channel {
            Ok(channel) => channel,
            Err(problem) => {
                ending.told(&problem);
                return false;
            }
        };
        let mut client = ForwardClient::new(channel).max_decoding_message_size(limits::MAX_ANSWER_BYTES);
        let (accept, accepted) = oneshot::channel();
        let requests = Requests {
            hello: Some(hello),
            accepted: Some(accepted),
            queue,
            conversation: self.clone(),
        };
        let opened = tokio::time::timeout(limits::OPEN_WITHIN, client.append(requests)).await;
        let answers = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                ending.told(status.message());
                return false;
            }
            Err(_) => {
                ending.told("it does not answer");
                return false;
            }
        };
        let _ = accept.send(());
        let problem = self.receive(answers).await;
        ending.told(&problem);
        true
    }

    async fn receive(&self, mut answers: Streaming<ForwardAppendResponse>) -> String {
        loop {
            match answers.next().await {
                Some(Ok(response)) => {
                    for answer in response.answers {
                        let result = match answer.result {
                            Some(Answer::Appended(appended)) => Ok(appended),
                            Some(Answer::Error(error)) => Err(wire::error_in(error).or_outcome(WriteOutcome::Unknown)),
                            None => Err(self.broken("it sent an answer without content", WriteOutcome::Unknown)),
                        };
                        let sender = self.state.lock().waiting.remove(&answer.number);
                        if let Some(sender) = sender {
                            // Who stopped waiting is no matter.
                            let _ = sender.send(result);
                        }
                    }
                }
                Some(Err(status)) => return status.message().to_owned(),
                None => return "it has ended the stream".into(),
            }
        }
    }

    fn broken(&self, problem: &str, outcome: WriteOutcome) -> ApiError {
        ApiError::new(
            ErrorReason::LeaderNotAvailable,
            format!(
                "The partition's leader, broker {}, can't be reached ({problem}): try again.",
                self.leader
            ),
        )
        .with("leader_id", self.leader)
        .outcome(outcome)
    }

    fn end(&self, problem: &str) {
        let waiting = {
            let mut state = self.state.lock();
            state.queue = None;
            std::mem::take(&mut state.waiting)
        };
        let taken = self.taken.load(Ordering::Acquire);
        for (number, sender) in waiting {
            let outcome = if number > taken {
                WriteOutcome::NotWritten
            } else {
                WriteOutcome::Unknown
            };
            let _ = sender.send(Err(self.broken(problem, outcome)));
        }
    }
}

/// Ends a conversation, also when its task is dropped.
struct Ending<'a>(&'a Conversation);

impl Ending<'_> {
    fn told(&self, problem: &str) {
        self.0.end(problem);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end("this broker is stopping");
    }
}

/// What is sent: the greeting, and batches once it was accepted. So a stream that was refused has
/// surely written nothing.
struct Requests {
    hello: Option<ForwardHello>,
    accepted: Option<oneshot::Receiver<()>>,
    queue: mpsc::UnboundedReceiver<ForwardAppend>,
    conversation: Arc<Conversation>,
}

impl Stream for Requests {
    type Item = ForwardAppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ForwardAppendRequest>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(ForwardAppendRequest {
                hello: Some(hello),
                append: None,
            }));
        }
        if let Some(accepted) = &mut self.accepted {
            if ready!(Pin::new(accepted).poll(context)).is_err() {
                return Poll::Ready(None);
            }
            self.accepted = None;
        }
        let next = ready!(self.queue.poll_recv(context));
        Poll::Ready(next.map(|append| {
            self.conversation.taken.fetch_max(append.number, Ordering::AcqRel);
            ForwardAppendRequest {
                hello: None,
                append: Some(append),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_transport_never_took_was_not_written() {
        let (conversation, queue) = Conversation::new(4);
        let first = conversation.push(ForwardAppend::default()).unwrap();
        let second = conversation.push(ForwardAppend::default()).unwrap();
        let (accept, accepted) = oneshot::channel();
        let mut requests = Requests {
            hello: Some(ForwardHello::default()),
            accepted: Some(accepted),
            queue,
            conversation: conversation.clone(),
        };
        assert!(requests.next().await.unwrap().hello.is_some());
        assert!(
            futures::poll!(requests.next()).is_pending(),
            "nothing goes out before the stream is accepted"
        );
        accept.send(()).unwrap();
        assert_eq!(requests.next().await.unwrap().append.unwrap().number, 1);
        conversation.end("a test");
        let first = first.await.unwrap().unwrap_err();
        assert!(!first.is_not_written(), "{first}: it may have arrived");
        assert_eq!(first.metadata()["outcome"], "unknown");
        assert!(second.await.unwrap().unwrap_err().is_not_written());
        assert!(conversation.push(ForwardAppend::default()).is_none());
        assert!(conversation.has_ended());
    }
}
