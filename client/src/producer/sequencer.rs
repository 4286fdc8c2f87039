//! The order of one partition's batches: which one is sent next, with which sequence, and what an
//! answer means. A pure step: time is an argument, nothing is sent here.
//!
//! ```text
//!  entries   [ in flight … | waiting … ]        sent in this order, first to last
//!            ^ oldest not resolved   ^ next to send
//! ```
//!
//! When an idempotent batch is refused or lost, nothing more is sent until every batch in flight
//! is answered or lost as well; then the unresolved ones are sent again, in order and with their
//! sequences (KIP-98). The identity is replaced only when nothing sent under it is in doubt, or
//! what is in doubt has been given up as "outcome unknown" (KIP-360, KAFKA-14034).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use millrace_proto::{batch::advance_sequence, v1::ErrorReason};

use crate::{
    error::{Error, ErrorKind, WriteOutcome},
    limits,
};

/// Who writes, in the batches' producer fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub producer_id: i64,
    pub producer_epoch: i16,
}

/// Names a batch of one sequencer; rises with each.
pub type BatchId = u64;

/// How batches may be sent.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub idempotent: bool,
    pub max_in_flight: usize,
}

/// A batch to send now.
#[derive(Debug)]
pub struct SendOrder<'a, B> {
    pub id: BatchId,
    pub batch: &'a mut B,
    /// The identity and first sequence to stamp; `None` if not idempotent.
    pub producer: Option<(Identity, i32)>,
}

/// What is known of a batch that was sent.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is stored.
    Stored {
        base_offset: i64,
        log_append_time: Option<i64>,
    },
    /// It was refused, or what became of it is not known; the error's outcome says which.
    Failed(Error),
}

/// A batch that is done.
#[derive(Debug)]
pub enum Done<B> {
    Stored {
        batch: B,
        base_offset: i64,
        log_append_time: Option<i64>,
    },
    Failed {
        batch: B,
        error: Error,
    },
}

#[derive(Debug)]
struct Entry<B> {
    id: BatchId,
    batch: B,
    records: i32,
    deadline: Instant,
    /// Under the present identity; set when first sent.
    sequence: Option<i32>,
    in_flight: bool,
    /// Some attempt may have stored it.
    in_doubt: bool,
    /// What the last attempt failed with.
    last_error: Option<Error>,
}

/// The batches of one partition that are not resolved.
///
/// Invariants: batches in flight come before those waiting, unless `rewinding`; `sequence`s rise
/// with the entries; without an answer under the present identity at most one batch is in flight.
#[derive(Debug)]
pub struct Sequencer<B> {
    rules: Rules,
    identity: Option<Identity>,
    next_sequence: i32,
    /// A batch of this identity was stored a short while ago, so the broker knows its sequence. It
    /// takes any first sequence from a producer that it does not know: with several batches in
    /// flight then, a later one could be stored and the earlier one taken for its duplicate.
    established: Option<Instant>,
    entries: VecDeque<Entry<B>>,
    /// In flight, but given up already: their answers only end the wait for them.
    ghosts: Vec<BatchId>,
    /// Nothing is sent until nothing is in flight.
    rewinding: bool,
    /// Where a sequence will never be stored: what was sent behind it is renumbered.
    gap: Option<i32>,
    /// The identity is to be replaced when nothing is in flight.
    resetting: bool,
    failures: u32,
    retry_at: Option<Instant>,
    next_id: BatchId,
}

impl<B> Sequencer<B> {
    pub fn new(rules: Rules, identity: Option<Identity>) -> Self {
        Self {
            rules,
            identity,
            next_sequence: 0,
            established: None,
            entries: VecDeque::new(),
            ghosts: Vec::new(),
            rewinding: false,
            gap: None,
            resetting: false,
            failures: 0,
            retry_at: None,
            next_id: 0,
        }
    }

    /// Whether nothing is unresolved.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.ghosts.is_empty()
    }

    /// When sending goes on after a failure, if it waits.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether a new identity must be fetched before anything is sent.
    pub fn needs_identity(&self) -> bool {
        self.rules.idempotent && self.identity.is_none() && !self.entries.is_empty()
    }

    /// The identity and sequence that the next new batch will probably have.
    pub fn predicted(&self) -> Option<(Identity, i32)> {
        let unsent = self.entries.iter().filter(|entry| entry.sequence.is_none());
        let next = unsent.fold(self.next_sequence, |next, entry| advance_sequence(next, entry.records));
        Some((self.identity?, next))
    }

    pub fn set_identity(&mut self, identity: Identity) {
        if self.identity.is_none() {
            self.identity = Some(identity);
            self.next_sequence = 0;
            self.established = None;
        }
    }

    /// Adds a batch behind all others.
    pub fn push(&mut self, batch: B, records: i32, deadline: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push_back(Entry {
            id,
            batch,
            records,
            deadline,
            sequence: None,
            in_flight: false,
            in_doubt: false,
            last_error: None,
        });
    }

    /// Whether a new batch would be sent at once: then it is worth ending the open one.
    pub fn would_send(&self, now: Instant) -> bool {
        self.entries.iter().all(|entry| entry.in_flight)
            && self.may_send(now)
            && !(self.rules.idempotent && self.identity.is_none())
    }

    fn may_send(&self, now: Instant) -> bool {
        let in_flight = self.in_flight();
        let established = !self.rules.idempotent
            || self
                .established
                .is_some_and(|since| in_flight > 0 || now < since + limits::ESTABLISHED_FOR);
        let max = if established { self.rules.max_in_flight } else { 1 };
        in_flight < max && !self.rewinding && !self.resetting && self.retry_at.is_none_or(|at| at <= now)
    }

    fn in_flight(&self) -> usize {
        self.entries.iter().filter(|entry| entry.in_flight).count() + self.ghosts.len()
    }

    /// The batch to send now, if one may be sent. It counts as in flight from here on.
    pub fn next_to_send(&mut self, now: Instant) -> Option<SendOrder<'_, B>> {
        if !self.may_send(now) || (self.rules.idempotent && self.identity.is_none()) {
            return None;
        }
        self.retry_at = None;
        let entry = self.entries.iter_mut().find(|entry| !entry.in_flight)?;
        entry.in_flight = true;
        let producer = match self.identity {
            Some(identity) if self.rules.idempotent => {
                let sequence = *entry.sequence.get_or_insert_with(|| {
                    let sequence = self.next_sequence;
                    self.next_sequence = advance_sequence(sequence, entry.records);
                    sequence
                });
                Some((identity, sequence))
            }
            _ => None,
        };
        Some(SendOrder {
            id: entry.id,
            batch: &mut entry.batch,
            producer,
        })
    }

    /// Takes the answer to a batch in flight. Answers to batches that are not in flight are of
    /// attempts that were given up, and are ignored.
    pub fn answer(&mut self, now: Instant, id: BatchId, answer: Answer) -> Vec<Done<B>> {
        let mut done = Vec::new();
        if let Some(at) = self.ghosts.iter().position(|ghost| *ghost == id) {
            self.ghosts.swap_remove(at);
        } else if let Some(at) = self.entries.iter().position(|entry| entry.id == id && entry.in_flight) {
            self.entries[at].in_flight = false;
            match answer {
                Answer::Stored {
                    base_offset,
                    log_append_time,
                } => {
                    self.stored(now, at, base_offset, log_append_time, &mut done);
                }
                Answer::Failed(error) => self.failed(now, at, error, &mut done),
            }
        } else {
            return done;
        }
        self.settle(&mut done);
        done
    }

    fn stored(
        &mut self,
        now: Instant,
        at: usize,
        base_offset: i64,
        log_append_time: Option<i64>,
        done: &mut Vec<Done<B>>,
    ) {
        self.failures = 0;
        self.established = Some(now);
        if let (Some(gap), Some(sequence)) = (self.gap, self.entries[at].sequence)
            && precedes(gap, sequence)
        {
            // The broker stored what can't follow: its memory of this producer is not ours.
            self.resetting = true;
        }
        if let Some(entry) = self.entries.remove(at) {
            done.push(Done::Stored {
                batch: entry.batch,
                base_offset,
                log_append_time,
            });
        }
    }

    fn failed(&mut self, now: Instant, at: usize, error: Error, done: &mut Vec<Done<B>>) {
        if error.reason() == Some(ErrorReason::DuplicateSequence) && self.rules.idempotent {
            return self.stored(now, at, -1, None, done);
        }
        let unknown = error.outcome() != Some(WriteOutcome::NotWritten);
        let entry = &mut self.entries[at];
        entry.in_doubt |= unknown;
        let in_doubt = entry.in_doubt;
        entry.last_error = Some(error.clone());
        if error.reason() == Some(ErrorReason::OutOfOrderSequence) && self.rules.idempotent {
            // Behind an unresolved batch, or one that was given up, that is what must happen. Else it means
            // that the broker forgot, or lost, what it had acknowledged.
            let sequence = entry.sequence;
            let is_behind_gap = self
                .gap
                .is_some_and(|gap| sequence.is_none_or(|sequence| !precedes(sequence, gap)));
            self.resetting |= at == 0 && !is_behind_gap;
            self.rewinding = true;
        } else if is_retried(&error) && (self.rules.idempotent || !in_doubt) {
            self.rewinding = true;
            self.back_off(now, &error);
        } else {
            self.give_up(at, error, done);
        }
    }

    fn back_off(&mut self, now: Instant, error: &Error) {
        self.failures = self.failures.saturating_add(1);
        let backoff = limits::MIN_BACKOFF.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
        let wait = backoff
            .max(error.retry_after().unwrap_or(Duration::ZERO))
            .min(limits::MAX_BACKOFF);
        self.retry_at = Some(now + wait);
    }

    /// Ends the batch at `at` with an error; what was sent behind it can't be stored as it is.
    fn give_up(&mut self, at: usize, error: Error, done: &mut Vec<Done<B>>) {
        let Some(entry) = self.entries.remove(at) else { return };
        if self.rules.idempotent
            && let Some(sequence) = entry.sequence
        {
            if entry.in_doubt || entry.in_flight {
                self.resetting = true;
            } else if self.gap.is_none_or(|gap| precedes(sequence, gap)) {
                self.gap = Some(sequence);
            }
        }
        let outcome = if entry.in_doubt || entry.in_flight {
            WriteOutcome::Unknown
        } else {
            WriteOutcome::NotWritten
        };
        if entry.in_flight {
            self.ghosts.push(entry.id);
        }
        done.push(Done::Failed {
            batch: entry.batch,
            error: error.with_outcome(outcome),
        });
    }

    /// What can be decided only when nothing is in flight.
    fn settle(&mut self, done: &mut Vec<Done<B>>) {
        if self.in_flight() > 0 {
            return;
        }
        self.rewinding = false;
        if self.resetting {
            self.resetting = false;
            self.gap = None;
            self.fail_doubtful(done);
            self.drop_identity();
        } else if let Some(gap) = self.gap.take() {
            let behind = |entry: &Entry<B>| entry.sequence.is_some_and(|sequence| precedes(gap, sequence));
            let doubtful = self.entries.iter().any(|entry| behind(entry) && entry.in_doubt);
            let before = self
                .entries
                .iter()
                .any(|entry| !behind(entry) && entry.sequence.is_some());
            if doubtful && before {
                // The identity is still needed for what comes before the gap: that first. What is
                // behind the gap is refused then, and decided with nothing before it.
                self.gap = Some(gap);
                return;
            }
            for entry in &mut self.entries {
                if entry.sequence.is_some_and(|sequence| precedes(gap, sequence)) {
                    // No broker can have stored it: what must come before it never was.
                    entry.in_doubt = false;
                    entry.sequence = None;
                }
            }
            if doubtful {
                // An attempt may still be on its way and would fit the same sequence anew.
                self.drop_identity();
            } else {
                self.next_sequence = gap;
            }
        }
    }

    fn drop_identity(&mut self) {
        self.identity = None;
        self.established = None;
        self.next_sequence = 0;
        for entry in &mut self.entries {
            entry.sequence = None;
        }
    }

    fn fail_doubtful(&mut self, done: &mut Vec<Done<B>>) {
        let mut kept = VecDeque::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            if entry.in_doubt {
                let error = entry
                    .last_error
                    .unwrap_or_else(doubtful)
                    .with_outcome(WriteOutcome::Unknown);
                done.push(Done::Failed {
                    batch: entry.batch,
                    error,
                });
            } else {
                kept.push_back(entry);
            }
        }
        self.entries = kept;
    }

    /// Gives up what is past its deadline.
    pub fn expire(&mut self, now: Instant) -> Vec<Done<B>> {
        let mut done = Vec::new();
        // Deadlines rise with the entries, but for a batch that is retried nothing may overtake.
        while let Some(at) = self.entries.iter().position(|entry| entry.deadline <= now) {
            let error = timed_out(self.entries[at].last_error.as_ref());
            self.give_up(at, error, &mut done);
        }
        if !done.is_empty() {
            self.settle(&mut done);
        }
        done
    }

    /// Gives up everything: the partition is gone, or the producer ends.
    pub fn fail_all(&mut self, error: &Error) -> Vec<Done<B>> {
        let mut done = Vec::new();
        while !self.entries.is_empty() {
            self.give_up(0, error.clone(), &mut done);
        }
        self.settle(&mut done);
        done
    }
}

/// Whether sequence `a` comes before `b`; sequences wrap and at most a few millions are unresolved.
fn precedes(a: i32, b: i32) -> bool {
    let distance = b.wrapping_sub(a) & i32::MAX;
    distance != 0 && distance < 1 << 30
}

/// What the producer itself tries again. A full disk is told at once, although it may pass: only
/// people can tell whether it will.
fn is_retried(error: &Error) -> bool {
    let gone = matches!(
        error.reason(),
        Some(ErrorReason::UnknownTopic | ErrorReason::UnknownPartition)
    );
    // Metadata decides whether a topic is gone; a broker may not know a new one yet.
    gone || (error.is_retriable() && error.reason() != Some(ErrorReason::DiskFull))
}

fn timed_out(last: Option<&Error>) -> Error {
    let why = last.map_or_else(|| "no broker took it".to_owned(), |error| format!("last: {error}"));
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "The record was not acknowledged within the delivery timeout ({why}): check the brokers, or raise that timeout."
        ),
    )
}

fn doubtful() -> Error {
    Error::server(
        ErrorReason::OutOfOrderSequence,
        "The broker no longer knows what it had acknowledged: read the partition's end before sending again.",
    )
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "sequencer_model_tests.rs"]
mod model;
