//! The memory of a fetch's answer. It is taken before anything is read.

use millrace_proto::v1::ErrorReason;

use crate::{
    error::ApiError,
    limits,
    memory::{ConnectionBudget, MemoryPermit},
};

/// The memory that an answer may have.
#[derive(Debug)]
pub struct Allowance {
    permit: Option<MemoryPermit>,
    /// Of records.
    room: usize,
    /// Of everything else.
    heads: usize,
    /// There is no memory for more than a small answer.
    short: bool,
}

impl Allowance {
    /// Of a reader without a budget: `room` bytes of records.
    #[must_use]
    pub fn unbounded(room: usize) -> Self {
        Self {
            permit: None,
            room,
            heads: 0,
            short: false,
        }
    }

    /// Takes the memory of an answer with `heads` bytes of partitions' names and errors, and
    /// `records` bytes of records. Where memory is short, a small answer goes out without: readers
    /// that do not take theirs must not hold up the others. `None` if even that is too much, as it
    /// has very many partitions.
    pub async fn take(budget: &ConnectionBudget, heads: usize, records: usize) -> Option<Self> {
        let heads = if heads > limits::SMALL_ANSWER_BYTES { heads } else { 0 };
        if let Some(permit) = budget.acquire_for_answer(heads + records).await {
            return Some(Self {
                permit: Some(permit),
                room: records.max(limits::SMALL_ANSWER_BYTES),
                heads,
                short: false,
            });
        }
        let permit = if heads == 0 {
            None
        } else {
            Some(budget.acquire_for_large_answer(heads).await?)
        };
        Some(Self {
            permit,
            room: limits::SMALL_ANSWER_BYTES,
            heads,
            short: true,
        })
    }

    /// Takes the memory of an answer of one batch of `bytes`, which is more than was thought.
    /// Nothing is held while it is waited for. Answers with whether there is that much.
    pub async fn enlarge(&mut self, budget: Option<&ConnectionBudget>, bytes: usize) -> bool {
        if let Some(budget) = budget {
            self.permit = None;
            let all = self.heads + bytes;
            self.permit = if self.short {
                budget.try_for_answer(all)
            } else {
                budget.acquire_for_answer(all).await
            };
            if self.permit.is_none() {
                self.permit = budget.acquire_for_large_answer(all).await;
            }
            if self.permit.is_none() {
                return false;
            }
        }
        self.room = bytes;
        true
    }

    /// How many bytes of records the answer may have.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Whether there is no memory for more than a small answer.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// The memory, to be held until the answer is sent.
    #[must_use]
    pub fn into_permit(self) -> Option<MemoryPermit> {
        self.permit
    }
}

/// Readers that do not take their answers hold all memory there is for large ones.
pub fn no_memory() -> ApiError {
    ApiError::new(
        ErrorReason::Overloaded,
        "The broker's memory is used up by readers that do not take their answers: try again later.",
    )
}
