//! Waiting until an offset is committed.

use std::{collections::VecDeque, time::Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::oneshot;

use crate::error::ApiError;

/// A promise that records are committed, or the news that they may not be.
#[derive(Debug)]
pub struct Committed {
    state: Mutex<State>,
    /// What is told once they are committed, if that is not enough.
    answer: Option<ApiError>,
}

#[derive(Debug)]
enum State {
    Done(Result<(), ApiError>),
    Waiting(oneshot::Receiver<Result<(), ApiError>>),
}

impl Committed {
    /// Nothing to wait for.
    #[must_use]
    pub fn done() -> Self {
        Self::in_state(State::Done(Ok(())))
    }

    fn in_state(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            answer: None,
        }
    }

    /// The same, answered with an error once the records are committed: one that says that they are
    /// stored.
    #[must_use]
    pub fn then(self, answer: ApiError) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// Waits; cancelling loses nothing.
    ///
    /// # Errors
    /// The disk failed or the partition is gone: the outcome is unknown. Or the answer of
    /// [`Self::then`].
    pub async fn wait(&self) -> Result<(), ApiError> {
        self.known().await?;
        self.answer.clone().map_or(Ok(()), Err)
    }

    async fn known(&self) -> Result<(), ApiError> {
        let receiver = {
            let mut state = self.state.lock();
            match &mut *state {
                State::Done(result) => return result.clone(),
                State::Waiting(_) => {
                    let closed = State::Done(Err(lost()));
                    match std::mem::replace(&mut *state, closed) {
                        State::Waiting(receiver) => receiver,
                        State::Done(result) => return result,
                    }
                }
            }
        };
        let result = receiver.await.unwrap_or_else(|_| Err(lost()));
        *self.state.lock() = State::Done(result.clone());
        result
    }
}

fn lost() -> ApiError {
    ApiError::new(
        millrace_proto::v1::ErrorReason::BrokerNotReady,
        "The broker stopped before the write was acknowledged; it may still be stored.",
    )
}

/// Those who wait, by rising offset.
#[derive(Debug)]
pub struct Waiters {
    waiting: Mutex<VecDeque<Waiter>>,
    /// How long they waited.
    seconds: Histogram,
}

#[derive(Debug)]
struct Waiter {
    /// Satisfied when all below this offset is committed.
    end: i64,
    since: Instant,
    sender: oneshot::Sender<Result<(), ApiError>>,
}

impl Waiters {
    /// Nobody waits yet; `seconds` is told how long those waited whose records are committed.
    #[must_use]
    pub fn new(seconds: Histogram) -> Self {
        Self {
            waiting: Mutex::default(),
            seconds,
        }
    }

    /// A promise for all below `end`. The caller looks at the high watermark again after
    /// this, in case it moved in between.
    pub fn add(&self, end: i64) -> Committed {
        let (sender, receiver) = oneshot::channel();
        let since = Instant::now();
        let mut waiters = self.waiting.lock();
        // Nearly always at the back: only repeated batches wait for older offsets.
        let at = waiters
            .iter()
            .rposition(|waiter| waiter.end <= end)
            .map_or(0, |at| at + 1);
        waiters.insert(at, Waiter { end, since, sender });
        Committed::in_state(State::Waiting(receiver))
    }

    /// All below `high_watermark` is committed.
    pub fn complete(&self, high_watermark: i64) {
        let mut waiters = self.waiting.lock();
        while waiters.front().is_some_and(|waiter| waiter.end <= high_watermark) {
            if let Some(waiter) = waiters.pop_front() {
                self.seconds.observe(waiter.since.elapsed().as_secs_f64());
                // Those who stopped waiting are no matter.
                let _ = waiter.sender.send(Ok(()));
            }
        }
    }

    /// Nobody's records are known to be committed.
    pub fn fail(&self, error: &ApiError) {
        for waiter in self.waiting.lock().drain(..) {
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn promises_are_kept_in_the_order_of_offsets() {
        let waiters = Waiters::new(Histogram::new([1.0]));
        let (late, early) = (waiters.add(20), waiters.add(10));
        waiters.complete(10);
        assert_eq!(early.wait().await, Ok(()));
        assert_eq!(early.wait().await, Ok(()), "asked again, the answer is the same");
        waiters.fail(&lost());
        assert_eq!(late.wait().await, Err(lost()));
    }

    /// A record that was seen and is gone later is no duplicate of anything.
    #[tokio::test]
    async fn what_is_told_of_stored_records_waits_until_they_are_committed() {
        let waiters = Waiters::new(Histogram::new([1.0]));
        let stored = ApiError::new(
            millrace_proto::v1::ErrorReason::DuplicateSequence,
            "It was stored before.",
        );
        let (kept, gone) = (
            waiters.add(10).then(stored.clone()),
            waiters.add(20).then(stored.clone()),
        );
        assert!(futures::poll!(std::pin::pin!(kept.wait())).is_pending());
        let kept = waiters.add(10).then(stored.clone());
        waiters.complete(10);
        assert_eq!(kept.wait().await, Err(stored.clone()));
        waiters.fail(&lost());
        assert_eq!(gone.wait().await, Err(lost()));
        assert_eq!(Committed::done().then(stored.clone()).wait().await, Err(stored));
    }

    #[tokio::test]
    async fn a_dropped_partition_is_news_too() {
        let waiters = Waiters::new(Histogram::new([1.0]));
        let promise = waiters.add(1);
        drop(waiters);
        assert_eq!(promise.wait().await, Err(lost()));
    }
}
