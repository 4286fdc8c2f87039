//! Consumers: each reads every partition from its beginning, at the leader or at a follower.

use std::time::Duration;

use crate::{
    message::{Body, Node, ReadRequest},
    slots::record_of,
    world::{Event, World},
};

const READ_EVERY: Duration = Duration::from_millis(300);

/// How far a consumer is in one partition.
#[derive(Debug, Default)]
pub(crate) struct Position {
    pub next: i64,
    /// The latest leader epoch that an answer came from.
    epoch: i32,
    attempt: u64,
}

impl World {
    pub(crate) fn on_consumer_tick(&mut self, consumer: usize, partition: u32) {
        if !self.may_be_there(partition) {
            return;
        }
        let delay = self.up_to(READ_EVERY * 2);
        self.schedule(delay, Event::ConsumerTick { consumer, partition });
        self.read_on(consumer, partition);
    }

    fn read_on(&mut self, consumer: usize, partition: u32) {
        let asked = self.below(self.brokers.len() as u64);
        let process = self.brokers[asked].process.as_ref();
        let record = process.and_then(|process| record_of(&process.image, partition).cloned());
        let Some(record) = record else { return };
        let leader = record.leader;
        let follower = record.replicas[self.below(record.replicas.len() as u64)];
        let to = if self.below(3) == 0 { Some(follower) } else { leader };
        let Some(to) = to else { return };
        self.next_attempt += 1;
        let position = &mut self.positions[consumer][partition as usize];
        position.attempt = self.next_attempt;
        let request = ReadRequest {
            consumer,
            partition,
            attempt: position.attempt,
            offset: position.next,
            // The latest that it has seen, in metadata or in an answer (KIP-320): one who leads no
            // more can't know that.
            leader_epoch: Some(record.leader_epoch.max(position.epoch)),
        };
        self.send(
            Node::Client,
            Node::Broker(crate::quorum::index_of(to)),
            Body::Read(request),
        );
    }

    pub(crate) fn on_read_answer(
        &mut self,
        consumer: usize,
        partition: u32,
        attempt: u64,
        records: &[(i64, u64)],
        next: i64,
        epoch: i32,
    ) {
        let compacted = self.is_compacted();
        let position = &mut self.positions[consumer][partition as usize];
        if position.attempt != attempt {
            return;
        }
        // An answer that arrives twice counts once.
        position.attempt = 0;
        // From the position on, without a gap but those that compaction leaves.
        let contiguous = if compacted {
            records.first().is_none_or(|first| first.0 >= position.next)
                && records.windows(2).all(|pair| pair[0].0 < pair[1].0)
        } else {
            (position.next..)
                .zip(records)
                .all(|(offset, record)| offset == record.0)
        };
        position.next = position.next.max(next);
        position.epoch = position.epoch.max(epoch);
        if !records.is_empty() {
            self.seen("records consumed");
            // When all works it has to catch up, and a small segment may hold only a few records.
            if !self.faulty {
                self.read_on(consumer, partition);
            }
        }
        if !contiguous {
            self.observer.violate("a consumer gets every record, in order", || {
                format!("partition {partition}: {records:?}")
            });
        }
    }
}
