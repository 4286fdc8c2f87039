//! Waiting until an offset is committed.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::ApiError;

/// A promise that records are committed, or the news that they may not be.
#[derive(Debug)]
pub struct Committed(Mutex<State>);

#[derive(Debug)]
enum State {
    Done(Result<(), ApiError>),
    Waiting(oneshot::Receiver<Result<(), ApiError>>),
}

impl Committed {
    /// Nothing to wait for.
    #[must_use]
    pub fn done() -> Self {
        Self(Mutex::new(State::Done(Ok(()))))
    }

    /// Waits; cancelling loses nothing.
    ///
    /// # Errors
    /// The disk failed or the partition is gone: the outcome is unknown.
    pub async fn wait(&self) -> Result<(), ApiError> {
        let receiver = {
            let mut state = self.0.lock();
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
        *self.0.lock() = State::Done(result.clone());
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
#[derive(Debug, Default)]
pub struct Waiters(Mutex<VecDeque<Waiter>>);

#[derive(Debug)]
struct Waiter {
    /// Satisfied when all below this offset is committed.
    end: i64,
    sender: oneshot::Sender<Result<(), ApiError>>,
}

impl Waiters {
    /// A promise for all below `end`. The caller looks at the high watermark again after
    /// this, in case it moved in between.
    pub fn add(&self, end: i64) -> Committed {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.0.lock();
        // Nearly always at the back: only repeated batches wait for older offsets.
        let at = waiters
            .iter()
            .rposition(|waiter| waiter.end <= end)
            .map_or(0, |at| at + 1);
        waiters.insert(at, Waiter { end, sender });
        Committed(Mutex::new(State::Waiting(receiver)))
    }

    /// All below `high_watermark` is committed.
    pub fn complete(&self, high_watermark: i64) {
        let mut waiters = self.0.lock();
        while waiters.front().is_some_and(|waiter| waiter.end <= high_watermark) {
            if let Some(waiter) = waiters.pop_front() {
                // Those who stopped waiting are no matter.
                let _ = waiter.sender.send(Ok(()));
            }
        }
    }

    /// Nobody's records are known to be committed.
    pub fn fail(&self, error: &ApiError) {
        for waiter in self.0.lock().drain(..) {
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn promises_are_kept_in_the_order_of_offsets() {
        let waiters = Waiters::default();
        let (late, early) = (waiters.add(20), waiters.add(10));
        waiters.complete(10);
        assert_eq!(early.wait().await, Ok(()));
        assert_eq!(early.wait().await, Ok(()), "asked again, the answer is the same");
        waiters.fail(&lost());
        assert_eq!(late.wait().await, Err(lost()));
    }

    #[tokio::test]
    async fn a_dropped_partition_is_news_too() {
        let waiters = Waiters::default();
        let promise = waiters.add(1);
        drop(waiters);
        assert_eq!(promise.wait().await, Err(lost()));
    }
}
