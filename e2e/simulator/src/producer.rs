//! Producers with the client's own order of batches: sequences, retries, unknown outcomes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_proto::{
    batch::{BatchBuilder, Codec, Header},
    v1::ErrorReason,
};

use crate::{
    error::{Error, ErrorKind, WriteOutcome},
    groups::TAG,
    message::{Body, Node, ProduceRequest},
    sequencer::{Answer, BatchId, Done, Identity, Rules, Sequencer},
    slots::record_of,
    world::{Event, World},
};

/// How long a producer waits for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Records that a producer holds for a partition at most.
const MAX_WAITING: usize = 20;

/// One producer's way to one partition.
pub(crate) struct Lane {
    sequencer: Sequencer<Vec<u64>>,
    /// Whom it takes for the leader, and in which epoch.
    leader: Option<(usize, i32)>,
    /// The attempt under way of each batch in flight.
    attempts: BTreeMap<BatchId, u64>,
    acks_all: bool,
    next_value: u64,
    pushed: usize,
    pub(crate) stored: u64,
}

impl Lane {
    /// `acks_all`: a batch is stored when all in-sync replicas have it; else when its leader has.
    pub(crate) fn new(acks_all: bool, max_in_flight: usize) -> Self {
        let rules = Rules {
            // The client refuses one without the other.
            idempotent: acks_all,
            max_in_flight,
        };
        Self {
            sequencer: Sequencer::new(rules, None),
            leader: None,
            attempts: BTreeMap::new(),
            acks_all,
            next_value: 0,
            pushed: 0,
            stored: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sequencer.is_empty()
    }
}

impl World {
    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    fn lane(&mut self, producer: usize, partition: u32) -> &mut Lane {
        &mut self.lanes[producer][partition as usize]
    }

    pub(crate) fn on_producer_tick(&mut self, producer: usize, partition: u32) {
        if !self.may_be_there(partition) {
            return;
        }
        if self.producing && self.lane(producer, partition).pushed < MAX_WAITING {
            self.push(producer, partition);
        }
        let every = self.settings.produce_every * 2;
        // With nothing new to send it only looks at what it tries again.
        let least = if self.producing { 5 } else { 100 };
        let delay = self.up_to(every) + Duration::from_millis(least);
        self.schedule(delay, Event::ProducerTick { producer, partition });
        self.pump(producer, partition);
    }

    /// Gives a producer another batch of one to three records.
    pub(crate) fn push(&mut self, producer: usize, partition: u32) -> Vec<u64> {
        let count = 1 + self.below(3) as u64;
        let deadline = self.instant() + self.settings.delivery_timeout;
        let lane = self.lane(producer, partition);
        let first = lane.next_value;
        lane.next_value += count;
        lane.pushed += 1;
        let prefix = ((producer as u64 + 1) << 48) | (u64::from(partition) << 32);
        let values: Vec<u64> = (first..first + count).map(|number| prefix | number).collect();
        let records = i32::try_from(count).unwrap_or(1);
        lane.sequencer.push(values.clone(), records, deadline);
        values
    }

    /// Sends what may be sent.
    pub(crate) fn pump(&mut self, producer: usize, partition: u32) {
        let instant = self.instant();
        let done = self.lane(producer, partition).sequencer.expire(instant);
        self.finish(producer, partition, done);
        if self.lane(producer, partition).sequencer.needs_identity() {
            self.next_producer_id += 1;
            let identity = Identity {
                producer_id: self.next_producer_id,
                producer_epoch: 0,
            };
            self.lane(producer, partition).sequencer.set_identity(identity);
        }
        if self.lane(producer, partition).leader.is_none() {
            self.find_leader(producer, partition);
        }
        let Some((leader, epoch)) = self.lane(producer, partition).leader else {
            return;
        };
        loop {
            let lane = self.lane(producer, partition);
            let Some(order) = lane.sequencer.next_to_send(instant) else {
                break;
            };
            let (batch, values, stamp) = (order.id, order.batch.clone(), order.producer);
            self.next_attempt += 1;
            let attempt = self.next_attempt;
            self.lane(producer, partition).attempts.insert(batch, attempt);
            let bytes = self.build(&values, stamp);
            let acks_all = self.lane(producer, partition).acks_all;
            let request = ProduceRequest {
                producer,
                partition,
                batch,
                attempt,
                bytes,
                values,
                leader_epoch: (self.below(2) == 0).then_some(epoch),
                acks_all,
            };
            self.send(Node::Client, Node::Broker(leader), Body::Produce(request));
            self.schedule(
                REQUEST_TIMEOUT,
                Event::RequestTimedOut {
                    producer,
                    partition,
                    batch,
                    attempt,
                },
            );
        }
    }

    fn build(&mut self, values: &[u64], stamp: Option<(Identity, i32)>) -> Bytes {
        let now_ms = self.now_ms();
        let mut builder = BatchBuilder::new(Codec::None);
        for value in values {
            let mut bytes = value.to_be_bytes().to_vec();
            bytes.resize(8 + self.below(40), 0);
            let key = self.key_of(*value);
            let is_tombstone = key.is_some() && self.keyed(*value).is_tombstone;
            // A tombstone has no value to be known by.
            let mark = is_tombstone.then_some(Header {
                key: TAG,
                value: Some(&bytes[..8]),
            });
            let left = Some(&bytes[..]).filter(|_| !is_tombstone);
            builder
                .append(now_ms, key.as_ref().map(|key| &key[..]), left, mark.as_slice())
                .expect("a small record fits");
        }
        if let Some((identity, sequence)) = stamp {
            builder.set_producer(identity.producer_id, identity.producer_epoch, sequence);
        }
        builder.build().expect("a small batch can be built")
    }

    /// Asks some broker who leads: it may not know yet.
    fn find_leader(&mut self, producer: usize, partition: u32) {
        let asked = self.below(self.brokers.len() as u64);
        let found = self.brokers[asked].process.as_ref().and_then(|process| {
            let record = record_of(&process.image, partition)?;
            Some((crate::quorum::index_of(record.leader?), record.leader_epoch))
        });
        self.lane(producer, partition).leader = found;
    }

    pub(crate) fn on_request_timed_out(&mut self, producer: usize, partition: u32, batch: BatchId, attempt: u64) {
        let error = Error::new(ErrorKind::TimedOut, "no answer").with_outcome(WriteOutcome::Unknown);
        self.on_produce_answer(producer, partition, batch, attempt, Err(error));
    }

    pub(crate) fn on_produce_answer(
        &mut self,
        producer: usize,
        partition: u32,
        batch: BatchId,
        attempt: u64,
        answer: Result<i64, Error>,
    ) {
        let instant = self.instant();
        let lane = self.lane(producer, partition);
        if lane.attempts.get(&batch) != Some(&attempt) {
            return;
        }
        lane.attempts.remove(&batch);
        let answer = match answer {
            Ok(base_offset) => Answer::Stored {
                base_offset,
                log_append_time: None,
            },
            Err(error) => {
                lane.leader = None;
                Answer::Failed(error)
            }
        };
        if let Answer::Failed(error) = &answer
            && error.reason() == Some(ErrorReason::NotEnoughReplicas)
        {
            self.seen("too few in sync to write");
        }
        let done = self.lane(producer, partition).sequencer.answer(instant, batch, answer);
        self.finish(producer, partition, done);
        self.pump(producer, partition);
    }

    fn finish(&mut self, producer: usize, partition: u32, done: Vec<Done<Vec<u64>>>) {
        for one in done {
            self.lane(producer, partition).pushed -= 1;
            match one {
                Done::Stored { .. } if !self.lane(producer, partition).acks_all => {
                    // In a log that may be cut: nothing is promised.
                    self.lane(producer, partition).stored += 1;
                    self.seen("batch stored at its leader");
                }
                Done::Stored { batch, base_offset, .. } => {
                    self.lane(producer, partition).stored += 1;
                    self.seen("batch stored");
                    for (offset, value) in (base_offset..).zip(&batch) {
                        let acked = self.observer.acked.get(value).copied();
                        // Without an offset: it was stored long ago.
                        let somewhere = acked.filter(|place| base_offset < 0 && place.0 == partition);
                        let offset = somewhere.map_or(offset, |place| place.1);
                        self.observer.told.insert(*value, offset);
                        if acked != Some((partition, offset)) {
                            self.observer
                                .violate("a producer is told what a broker acknowledged", || {
                                    format!("partition {partition}: {value:#x} at {offset}")
                                });
                        }
                    }
                }
                Done::Failed { batch, error } if error.outcome() == Some(WriteOutcome::NotWritten) => {
                    self.seen("batch surely not written");
                    self.observer.refused(partition, &batch);
                }
                Done::Failed { .. } => self.seen("batch with unknown outcome"),
            }
        }
    }
}
