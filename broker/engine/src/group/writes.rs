//! What was appended and is not yet committed: how to take it back, and who waits for it.
//!
//! ```text
//!  committed ≤ last; numbers of refused appends are not used again
//!     |--- undo, answers ---|
//! ```

use std::{collections::VecDeque, ops::RangeBounds};

use super::{
    budget::{answer_bytes, undo_bytes},
    event::Effect,
    record::Record,
    rejection::GroupRejection,
    request::Answer,
};

/// An answer that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    sequence: u64,
    request: u64,
    answer: Box<Result<Answer, GroupRejection>>,
}

impl Waiting {
    pub(super) fn effect(self) -> Effect {
        Effect::Answer {
            id: self.request,
            answer: self.answer,
        }
    }

    /// What it waited for does not come.
    pub(super) fn refused(self, rejection: GroupRejection) -> Effect {
        Effect::Answer {
            id: self.request,
            answer: Box::new(Err(rejection)),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    /// The last append's number; 0: there was none.
    last: u64,
    committed: u64,
    undo: VecDeque<(u64, Vec<Record>)>,
    answers: VecDeque<Waiting>,
    /// About how many both take.
    bytes: usize,
}

impl Writes {
    /// Notes an append, with what takes it back, in the order in which it was applied.
    pub(super) fn append(&mut self, undo: Vec<Record>) -> u64 {
        self.last += 1;
        self.bytes += undo_bytes(&undo);
        self.undo.push_back((self.last, undo));
        self.last
    }

    pub(super) fn waiting(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// An answer may tell of anything that was appended before: it waits for all of that.
    /// Gives it back if there is nothing to wait for.
    pub(super) fn defer(&mut self, request: u64, answer: Box<Result<Answer, GroupRejection>>) -> Option<Waiting> {
        let open = self.undo.back().map(|(sequence, _)| *sequence);
        let waiting = Waiting {
            sequence: open.unwrap_or(self.committed),
            request,
            answer,
        };
        if open.is_none() {
            return Some(waiting);
        }
        self.bytes += answer_bytes(&waiting.answer);
        self.answers.push_back(waiting);
        None
    }

    /// All up to `sequence` is committed: who waited for no more.
    pub(super) fn commit(&mut self, sequence: u64) -> Vec<Waiting> {
        self.committed = self.committed.max(sequence.min(self.last));
        while self.undo.front().is_some_and(|(at, _)| *at <= self.committed) {
            if let Some((_, undo)) = self.undo.pop_front() {
                self.bytes -= undo_bytes(&undo);
            }
        }
        let done = self
            .answers
            .partition_point(|waiting| waiting.sequence <= self.committed);
        self.take_answers(..done)
    }

    /// All from `sequence` on was not written: what takes it back, last first, and who waited.
    pub(super) fn refuse(&mut self, sequence: u64) -> (Vec<Record>, Vec<Waiting>) {
        // What is committed is not taken back, whatever is said.
        let sequence = sequence.max(self.committed + 1);
        let mut back = Vec::new();
        while let Some((_, undo)) = self.undo.pop_back_if(|(at, _)| *at >= sequence) {
            self.bytes -= undo_bytes(&undo);
            back.extend(undo.into_iter().rev());
        }
        let kept = self.answers.partition_point(|waiting| waiting.sequence < sequence);
        (back, self.take_answers(kept..))
    }

    /// All who wait.
    pub(super) fn give_up(&mut self) -> Vec<Waiting> {
        self.undo.clear();
        self.bytes = 0;
        self.answers.drain(..).collect()
    }

    fn take_answers(&mut self, range: impl RangeBounds<usize>) -> Vec<Waiting> {
        let taken: Vec<Waiting> = self.answers.drain(range).collect();
        let bytes: usize = taken.iter().map(|waiting| answer_bytes(&waiting.answer)).sum();
        self.bytes -= bytes;
        taken
    }
}
