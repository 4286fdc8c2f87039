//! When what is written goes to the disk, and what counts as if it was there.

use std::time::Duration;

use millrace_engine::{config::FlushPolicy, partition::Event as Step};

use crate::{
    partition::Due,
    world::{Event, World},
};

impl World {
    /// Something was written: it is flushed before long.
    pub(crate) fn flush_soon(&mut self, at: usize, partition: u32) {
        if let Some(hosted) = self.brokers[at].hosted_mut(partition)
            && !hosted.flush_begins
        {
            hosted.flush_begins = true;
            self.due(at, partition, Due::Flush);
        }
    }

    pub(crate) fn flush(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        hosted.flush_begins = false;
        let generation = hosted.replica.generation();
        match hosted.log.flush() {
            Ok(durable_end) => {
                self.brokers[at].disk.shadow(partition).durable = durable_end;
                let due = Due::Flushed {
                    durable_end,
                    generation,
                };
                self.due(at, partition, due);
            }
            Err(_) => self.directory_failed(at),
        }
    }

    pub(crate) fn flushed(&mut self, at: usize, partition: u32, durable_end: i64, generation: u64) {
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        let durable_end = match hosted.flush {
            FlushPolicy::Ack => durable_end,
            FlushPolicy::Interval | FlushPolicy::Os => hosted.log.log_end_offset(),
        };
        let flushed = Step::Flushed {
            durable_end,
            generation,
        };
        self.step(at, partition, flushed);
    }

    /// What is written is forced to the disk before long, or counts as it is: as the topic wants.
    pub(crate) fn flush_or_count(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        if hosted.flush == FlushPolicy::Ack {
            return self.flush_soon(at, partition);
        }
        let (written, generation) = (hosted.log.log_end_offset(), hosted.replica.generation());
        self.flushed(at, partition, written, generation);
    }

    /// `flush_or_count` after the step in progress.
    pub(crate) fn flush_or_count_later(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        if hosted.flush == FlushPolicy::Ack {
            return self.flush_soon(at, partition);
        }
        if let Some(life) = self.brokers[at].life() {
            let due = Due::CountWritten;
            let event = Event::Partition {
                at,
                life,
                partition,
                due,
            };
            self.schedule(Duration::ZERO, event);
        }
    }

    /// What a topic's setting lets wait for a while goes to the disk.
    pub(crate) fn flush_by_interval(&mut self, at: usize) {
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let waiting = process.hosted.iter().filter(|(_, hosted)| {
            let written = hosted.log.log_end_offset() > hosted.log.durable_end_offset();
            hosted.flush == FlushPolicy::Interval && written
        });
        let numbers: Vec<u32> = waiting.map(|(number, _)| *number).collect();
        for number in numbers {
            self.flush_soon(at, number);
        }
    }

    pub(crate) fn set_flush_policy(&mut self, at: usize, partition: u32, flush: FlushPolicy) {
        if let Some(hosted) = self.brokers[at].hosted_mut(partition)
            && std::mem::replace(&mut hosted.flush, flush) != flush
        {
            // What was appended under the former one may wait for it.
            self.flush_soon(at, partition);
        }
    }
}
