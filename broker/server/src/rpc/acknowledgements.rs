//! What a stream of writes is answered with, and the memory that counts until it has gone.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::Stream;
use millrace_proto::v1::ErrorReason;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    error::{ApiError, WriteOutcome},
    limits,
    memory::{ConnectionBudget, MemoryPermit},
};

/// How many of a stream's latest answers may still be on the way to the socket while the next one
/// is taken: one encoded, one with the connection.
const ON_THE_WAY: usize = 2;

/// An answer, and the memory it counts; none if it is small.
#[derive(Debug)]
pub struct Acknowledgement<T> {
    /// What is sent.
    pub response: T,
    /// Its memory.
    pub permit: Option<MemoryPermit>,
}

/// Takes the `bytes` of a write's answer, before anything of it is written. `None` if that is little, or there is no
/// budget. `advice` tells a caller that there were none in time what to do instead.
///
/// # Errors
/// There was no memory in time; nothing is written.
pub async fn admit(
    budget: Option<&ConnectionBudget>,
    bytes: usize,
    advice: &str,
) -> Result<Option<MemoryPermit>, ApiError> {
    let Some(budget) = budget.filter(|_| bytes > limits::UNCOUNTED_ANSWER_BYTES) else {
        return Ok(None);
    };
    let permit = budget.acquire_for_acknowledgement(bytes).await;
    permit.map(Some).ok_or_else(|| {
        ApiError::new(
            ErrorReason::Overloaded,
            format!("The broker had no memory for the request's answer in time: {advice}."),
        )
        .outcome(WriteOutcome::NotWritten)
    })
}

/// A stream's answers, whose memory counts until they have gone.
#[derive(Debug)]
pub struct Acknowledgements<T> {
    answers: mpsc::Receiver<Result<Acknowledgement<T>, Status>>,
    on_the_way: VecDeque<Option<MemoryPermit>>,
}

impl<T> Acknowledgements<T> {
    /// The answers that come from `answers`.
    #[must_use]
    pub fn new(answers: mpsc::Receiver<Result<Acknowledgement<T>, Status>>) -> Self {
        Self {
            answers,
            on_the_way: VecDeque::with_capacity(ON_THE_WAY + 1),
        }
    }
}

impl<T> Stream for Acknowledgements<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.answers.poll_recv(context);
        if polled.is_pending() {
            // The next request may wait for just this memory; at most one answer, encoded, is still
            // with the connection.
            self.on_the_way.clear();
        }
        let Some(answer) = ready!(polled) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(answer.map(|answer| {
            self.on_the_way.push_back(answer.permit);
            if self.on_the_way.len() > ON_THE_WAY {
                self.on_the_way.pop_front();
            }
            answer.response
        })))
    }
}
