//! What a subscriber is sent and has processed, as a step: no IO, no clock.
//!
//! ```text
//!  committed ≤ processed ≤ sent
//! ```
//! In automatic mode a message counts as processed once the subscriber says so of its delivery, or commits it; in manual
//! mode only commits count.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_member::PartitionId;
use millrace_proto::v1;

use super::{
    epochs::{Epochs, Position},
    messages::{Messages, Taken},
};
use crate::{error::ApiError, limits};

/// Messages of one partition that were read for the subscriber.
#[derive(Debug)]
pub struct Ready {
    /// As [`Flow::begin`] numbered the reading.
    pub lane: u64,
    /// May be empty: then there was nothing but gaps.
    pub messages: Messages,
    /// Of the batches that were looked at since the piece before, whole.
    pub epochs: Epochs,
    /// Up to where the partition is read with them.
    pub next: i64,
    /// Where the partition stands.
    pub high_watermark: i64,
    /// The oldest offset that is kept.
    pub log_start: i64,
}

/// Messages to be sent with one response.
#[derive(Debug)]
pub struct Cut {
    /// Their delivery.
    pub delivery_id: u64,
    /// The messages, encoded.
    pub messages: Bytes,
    /// Where their partition stands.
    pub progress: v1::PartitionProgress,
}

/// Messages that were sent and are not known to be processed.
#[derive(Debug)]
struct Delivery {
    id: u64,
    holding: u64,
    end: i64,
}

/// A partition that the subscriber was told to have.
#[derive(Debug)]
struct Part {
    topic: Arc<str>,
    /// Of which it has one for as long as the subscriber has it.
    holding: u64,
    /// The number of its present reading; none while it is not read.
    lane: Option<u64>,
    paused: bool,
    /// Where reading goes on.
    next: i64,
    /// Behind the last message that was sent.
    sent: i64,
    processed: i64,
    committed: i64,
    /// Of what is not committed, as far as it was read.
    epochs: Epochs,
    /// It is given back, and is lost at this time.
    until: Option<Instant>,
    /// The subscriber is done with it.
    is_released: bool,
}

/// What becomes of partitions that are given back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The subscriber is done with these, and all of them is committed that will be.
    pub back: Vec<PartitionId>,
    /// The subscriber was not done with these in time.
    pub late: Vec<PartitionId>,
}

/// One subscriber.
#[derive(Debug)]
pub struct Flow {
    /// Only the subscriber commits.
    manual: bool,
    messages: u64,
    /// None: bytes are not counted.
    bytes: Option<u64>,
    deliveries: VecDeque<Delivery>,
    next_delivery: u64,
    parts: BTreeMap<PartitionId, Part>,
    /// Of these the broker is to commit what is processed.
    due: BTreeSet<PartitionId>,
    /// These are given back.
    revoking: BTreeSet<PartitionId>,
    holdings: HashMap<u64, PartitionId>,
    lanes: HashMap<u64, PartitionId>,
    /// Of holdings and lanes.
    next_number: u64,
    /// It does not take what is sent.
    blocked: bool,
    processing_timeout: Duration,
    /// When the subscriber last showed that it is at work, or began to have something to do.
    worked: Instant,
}

impl Flow {
    /// One without partitions. The first credit decides whether bytes are counted.
    ///
    /// # Errors
    /// As [`credit`](Self::credit).
    pub fn new(
        manual: bool,
        processing_timeout: Duration,
        credit: &v1::SubscribeCredit,
        now: Instant,
    ) -> Result<Self, ApiError> {
        let mut flow = Self {
            manual,
            messages: 0,
            bytes: (credit.bytes > 0).then_some(0),
            deliveries: VecDeque::new(),
            next_delivery: 1,
            parts: BTreeMap::new(),
            due: BTreeSet::new(),
            revoking: BTreeSet::new(),
            holdings: HashMap::new(),
            lanes: HashMap::new(),
            next_number: 1,
            blocked: false,
            processing_timeout,
            worked: now,
        };
        flow.credit(credit)?;
        Ok(flow)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// How many partitions it has.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Whether the subscriber was told to have a partition.
    pub fn has(&self, id: &PartitionId) -> bool {
        self.parts.contains_key(id)
    }

    /// A partition's name, as the subscriber knows it.
    pub fn name(&self, id: &PartitionId) -> Option<v1::TopicPartition> {
        self.parts.get(id).map(|part| v1::TopicPartition {
            topic: part.topic.to_string(),
            partition: id.1,
        })
    }

    /// A partition by the subscriber's name for it.
    pub fn named(&self, topic: &str, partition: i32) -> Option<PartitionId> {
        let mut all = self.parts.iter();
        let found = all.find(|(id, part)| id.1 == partition && *part.topic == *topic);
        found.map(|(id, _)| id.clone())
    }

    /// Adds a partition whose messages come from this position on.
    pub fn add(&mut self, id: PartitionId, topic: Arc<str>, at: impl Into<Position>, now: Instant) {
        let at = at.into();
        let offset = at.offset;
        let was_busy = self.is_busy();
        self.remove(&id);
        let holding = self.number();
        self.holdings.insert(holding, id.clone());
        let part = Part {
            topic,
            holding,
            lane: None,
            paused: false,
            next: offset,
            sent: offset,
            processed: offset,
            committed: offset,
            epochs: Epochs::at(at),
            until: None,
            is_released: false,
        };
        self.parts.insert(id, part);
        self.begin_to_work(was_busy, now);
    }

    /// The reading of a partition begins anew; answers with its number, and from where on. None if it is not to be read.
    pub fn begin(&mut self, id: &PartitionId) -> Option<(u64, i64)> {
        let next = self.next(id)?;
        self.stop(id);
        let lane = self.number();
        self.parts.get_mut(id)?.lane = Some(lane);
        self.lanes.insert(lane, id.clone());
        Some((lane, next))
    }

    /// Where reading goes on once the partition is read again; none if it is not to be.
    pub fn next(&self, id: &PartitionId) -> Option<i64> {
        let part = self.parts.get(id)?;
        (!part.paused && part.until.is_none()).then_some(part.next)
    }

    /// The same, with the leader epoch of what is before it.
    pub fn position(&self, id: &PartitionId) -> Option<Position> {
        let offset = self.next(id)?;
        let leader_epoch = self.leader_epoch(id, offset);
        Some(Position { offset, leader_epoch })
    }

    /// The leader epoch of the record before `offset`, if it is one that is not committed, or the last one that is, and
    /// was read for this subscriber.
    pub fn leader_epoch(&self, id: &PartitionId, offset: i64) -> Option<i32> {
        self.parts.get(id)?.epochs.before(offset)
    }

    /// Where reading had to begin instead of where it stood, as what lies between is deleted.
    pub fn skip(&mut self, id: &PartitionId, offset: i64) {
        if let Some(part) = self.parts.get_mut(id) {
            part.next = part.next.max(offset);
        }
    }

    /// The partition of a reading, unless that has ended.
    pub fn of_lane(&self, lane: u64) -> Option<&PartitionId> {
        self.lanes.get(&lane)
    }

    /// A reading has ended.
    pub fn stop(&mut self, id: &PartitionId) {
        if let Some(lane) = self.parts.get_mut(id).and_then(|part| part.lane.take()) {
            self.lanes.remove(&lane);
        }
    }

    /// Sends nothing more of a partition, or may go on; false if that was so before.
    pub fn pause(&mut self, id: &PartitionId, paused: bool) -> bool {
        let Some(part) = self.parts.get_mut(id).filter(|part| part.paused != paused) else {
            return false;
        };
        part.paused = paused;
        if paused {
            self.stop(id);
        }
        true
    }

    /// A partition is not the subscriber's any more.
    pub fn remove(&mut self, id: &PartitionId) {
        self.stop(id);
        self.due.remove(id);
        self.revoking.remove(id);
        if let Some(part) = self.parts.remove(id) {
            self.holdings.remove(&part.holding);
        }
    }

    /// A partition is to be given back by `until`. `unknown`: what the subscriber has of it is not known here.
    pub fn revoke(&mut self, id: &PartitionId, until: Instant, unknown: bool) {
        self.stop(id);
        if let Some(part) = self.parts.get_mut(id) {
            part.until = Some(until);
            if unknown {
                part.sent = i64::MAX;
            }
            self.revoking.insert(id.clone());
        }
    }

    /// Whether a partition is to be given back.
    pub fn is_revoking(&self, id: &PartitionId) -> bool {
        self.parts.get(id).is_some_and(|part| part.until.is_some())
    }

    /// The subscriber is done with a partition that it is to give back.
    pub fn release(&mut self, id: &PartitionId) {
        if let Some(part) = self.parts.get_mut(id) {
            part.is_released = true;
        }
    }

    fn given_back(&self) -> impl Iterator<Item = (&PartitionId, &Part)> {
        let ids = self.revoking.iter();
        ids.filter_map(|id| Some((id, self.parts.get(id)?)))
    }

    /// What is given back by now.
    pub fn given(&self, now: Instant) -> Given {
        let mut given = Given::default();
        for (id, part) in self.given_back() {
            let Some(until) = part.until else { continue };
            let reached = if self.manual { part.committed } else { part.processed };
            let is_done = part.is_released || reached >= part.sent;
            if is_done && (self.manual || part.committed >= part.processed) {
                given.back.push(id.clone());
            } else if now >= until {
                given.late.push(id.clone());
            }
        }
        given
    }

    /// Whether a commit is not to be put off.
    pub fn is_commit_urgent(&self) -> bool {
        self.revoking.iter().any(|id| self.due.contains(id))
    }

    /// Whether the broker is to commit anything.
    pub fn has_to_commit(&self) -> bool {
        !self.due.is_empty()
    }

    /// What the broker is to commit with one request; what is to be given back comes first.
    pub fn to_commit(&self) -> Vec<(PartitionId, i64)> {
        let urgent = self.revoking.iter().filter(|id| self.due.contains(*id));
        let others = self.due.iter().filter(|id| !self.revoking.contains(*id));
        let due = urgent.chain(others).take(limits::MAX_PARTITIONS_PER_REQUEST);
        due.filter_map(|id| Some((id.clone(), self.parts.get(id)?.processed)))
            .collect()
    }

    /// An offset is committed, or was refused for good: then it is not tried again.
    pub fn committed(&mut self, id: &PartitionId, offset: i64) {
        if let Some(part) = self.parts.get_mut(id) {
            part.committed = part.committed.max(offset);
            part.processed = part.processed.max(offset);
            part.epochs.forget_below(part.committed);
            if part.processed <= part.committed {
                self.due.remove(id);
            }
        }
    }

    /// The subscriber is at work.
    pub fn works(&mut self, now: Instant) {
        self.worked = now;
    }

    /// Allows more messages.
    ///
    /// # Errors
    /// More than may be, or a delivery that there was not.
    pub fn credit(&mut self, credit: &v1::SubscribeCredit) -> Result<(), ApiError> {
        let messages = self.messages + u64::from(credit.messages);
        if messages > limits::MAX_SUBSCRIBER_CREDIT {
            let most = limits::MAX_SUBSCRIBER_CREDIT;
            return Err(ApiError::field(
                "credit.messages",
                format!("would make it {messages}, and {most} may be allowed at a time"),
            ));
        }
        let bytes = self.bytes.map(|bytes| bytes.saturating_add(credit.bytes));
        if bytes.is_some_and(|bytes| bytes > limits::MAX_SUBSCRIBER_CREDIT_BYTES) {
            let most = limits::MAX_SUBSCRIBER_CREDIT_BYTES;
            return Err(ApiError::field(
                "credit.bytes",
                format!("would be above the {most} that may be allowed at a time"),
            ));
        }
        if credit.processed_through >= self.next_delivery {
            let last = self.next_delivery - 1;
            return Err(ApiError::field(
                "credit.processed_through",
                format!("is not sent yet: the last delivery was {last}"),
            ));
        }
        (self.messages, self.bytes) = (messages, bytes);
        let is_processed = |delivery: &mut Delivery| delivery.id <= credit.processed_through;
        while let Some(delivery) = self.deliveries.pop_front_if(is_processed) {
            let Some(id) = self.holdings.get(&delivery.holding) else {
                continue;
            };
            if let Some(part) = self.parts.get_mut(id) {
                part.processed = part.processed.max(delivery.end);
                // In manual mode there are no deliveries.
                if part.processed > part.committed && !self.due.contains(id) {
                    self.due.insert(id.clone());
                }
            }
        }
        Ok(())
    }

    /// Whether more messages may be sent.
    pub fn wants_messages(&self) -> bool {
        self.messages > 0 && self.bytes != Some(0) && self.deliveries.len() < limits::MAX_UNPROCESSED_DELIVERIES
    }

    /// Takes of what is ready as much as the credit allows; none if nothing of it is to be sent. What is left stays in
    /// `ready`, which is done with once it is empty.
    pub fn cut(&mut self, ready: &mut Ready, now: Instant) -> Option<Cut> {
        let was_busy = self.is_busy();
        let Some(id) = self.lanes.get(&ready.lane).cloned() else {
            ready.messages.clear();
            return None;
        };
        let taken = ready.messages.take(self.messages, self.bytes);
        if let Some(Taken { count, credit, .. }) = taken {
            self.messages -= count;
            self.bytes = self.bytes.map(|left| left.saturating_sub(credit));
        }
        let part = self.parts.get_mut(&id)?;
        // Once for all parts that are taken of it: nothing is left the next time.
        part.epochs.append(std::mem::take(&mut ready.epochs));
        let sent = taken.as_ref().map(|taken| taken.next);
        part.next = if ready.messages.is_empty() {
            ready.next
        } else {
            sent.unwrap_or(part.next)
        };
        let progress = v1::PartitionProgress {
            partition: id.1,
            next_offset: part.next,
            high_watermark: ready.high_watermark,
            log_start: ready.log_start,
        };
        let taken = taken?;
        part.sent = taken.next;
        let (holding, end) = (part.holding, part.sent);
        let delivery_id = self.next_delivery;
        self.next_delivery += 1;
        if !self.manual {
            self.deliveries.push_back(Delivery {
                id: delivery_id,
                holding,
                end,
            });
        }
        self.begin_to_work(was_busy, now);
        Some(Cut {
            delivery_id,
            messages: taken.bytes,
            progress,
        })
    }

    /// Whether the subscriber takes what it is sent.
    pub fn set_blocked(&mut self, blocked: bool, now: Instant) {
        let was_busy = self.is_busy();
        if self.blocked && !blocked {
            self.worked = now;
        }
        self.blocked = blocked;
        self.begin_to_work(was_busy, now);
    }

    /// Whether it is the subscriber's turn to do something.
    fn is_busy(&self) -> bool {
        let is_out_of_credit = self.messages == 0 || self.bytes == Some(0);
        !self.parts.is_empty() && (is_out_of_credit || !self.deliveries.is_empty() || self.blocked)
    }

    fn begin_to_work(&mut self, was_busy: bool, now: Instant) {
        if !was_busy && self.is_busy() {
            self.worked = now;
        }
    }

    /// When the subscriber is too slow; none while nothing is its turn.
    pub fn too_slow_at(&self) -> Option<Instant> {
        self.is_busy().then(|| self.worked + self.processing_timeout)
    }

    /// When time alone changes something next.
    pub fn wake_at(&self) -> Option<Instant> {
        let revoked = self.given_back().filter_map(|(_, part)| part.until).min();
        revoked.into_iter().chain(self.too_slow_at()).min()
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
