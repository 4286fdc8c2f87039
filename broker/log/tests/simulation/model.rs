//! The toy model: what the log must hold, as a list of batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_log::EpochCache;
use millrace_proto::batch::BatchHeader;

/// One batch as it must be stored.
#[derive(Clone)]
pub struct ModelBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
    /// (offset, time) of each record.
    pub records: Vec<(i64, i64)>,
}

/// A producer as the batches tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelProducer {
    pub epoch: i16,
    /// (base sequence, last sequence, base offset), oldest first.
    pub batches: Vec<(i32, i32, i64)>,
}

#[derive(Clone, Default)]
pub struct Model {
    /// Every batch ever appended and not truncated, also those below the log start.
    pub history: Vec<ModelBatch>,
    pub log_start: i64,
    /// A failed deletion may have stored a log start up to here.
    pub start_may_reach: i64,
    /// A crash may bring the log start back to here, not further.
    pub stored_start: i64,
    /// The largest offset reported durable.
    pub durable: i64,
    pub log_end: i64,
    /// Where the first record of the history was or will be put.
    pub begins_at: i64,
    /// Bases of segments that begin behind a gap that none can span.
    pub gap_bases: Vec<i64>,
    pub epochs: EpochCache,
    pub producers: BTreeMap<i64, ModelProducer>,
    /// What was known of producers when the history began.
    pub known_before: BTreeMap<i64, ModelProducer>,
    /// A full truncation whose outcome is not known: it would have begun at this offset, with these producers.
    pub maybe_emptied_to: Option<(i64, BTreeMap<i64, ModelProducer>)>,
}

impl Model {
    pub fn append(&mut self, batch: ModelBatch) {
        self.log_end = batch.header.next_offset();
        self.epochs
            .assign(batch.header.partition_leader_epoch, batch.header.base_offset);
        note_producer(&mut self.producers, &batch.header);
        self.history.push(batch);
    }

    /// Cuts to whole batches below `offset`; returns the new end.
    pub fn truncate(&mut self, offset: i64) -> i64 {
        if offset >= self.log_end {
            self.epochs.truncate_to(offset);
            return self.log_end;
        }
        let cut = self
            .history
            .partition_point(|batch| batch.header.last_offset() < offset);
        let end = cut
            .checked_sub(1)
            .map_or(self.begins_at, |last| self.history[last].header.next_offset());
        // Behind a wide gap a segment of its own begins.
        let end = self
            .gap_bases
            .iter()
            .copied()
            .filter(|base| *base <= offset)
            .fold(end, i64::max);
        if end < self.log_start {
            self.empty(self.log_start, self.producers_below(offset));
            return self.log_end;
        }
        self.log_end = end;
        self.history.truncate(cut);
        self.gap_bases.retain(|base| *base <= end);
        self.durable = self.durable.min(self.log_end);
        self.epochs.truncate_to(self.log_end);
        self.replay_producers();
        self.log_end
    }

    /// A segment of its own was begun behind a wide gap. An empty one at the log end is replaced by it.
    pub fn began_behind_gap(&mut self, base: i64) {
        let end = self.log_end;
        let replaced = self.history.last().is_none_or(|batch| batch.header.next_offset() < end);
        self.gap_bases.retain(|other| *other < end || !replaced);
        self.gap_bases.push(base);
    }

    /// The producers as whole batches below `offset` tell.
    pub fn producers_below(&self, offset: i64) -> BTreeMap<i64, ModelProducer> {
        let mut producers = self.known_before.clone();
        for batch in self
            .history
            .iter()
            .take_while(|batch| batch.header.last_offset() < offset)
        {
            note_producer(&mut producers, &batch.header);
        }
        producers
    }

    pub fn empty(&mut self, offset: i64, producers: BTreeMap<i64, ModelProducer>) {
        *self = Model {
            producers: producers.clone(),
            known_before: producers,
            log_start: offset,
            stored_start: offset,
            durable: offset,
            log_end: offset,
            begins_at: offset,
            ..Model::default()
        };
    }

    pub fn replay_producers(&mut self) {
        self.producers = self.producers_below(i64::MAX);
    }

    /// Batches that a reader may see.
    pub fn visible(&self) -> &[ModelBatch] {
        let first = self
            .history
            .partition_point(|batch| batch.header.last_offset() < self.log_start);
        &self.history[first..]
    }

    /// The first record at or after a time, by looking at each.
    pub fn offset_for_timestamp(&self, timestamp: i64, up_to: i64) -> Option<(i64, i64, i32)> {
        self.visible().iter().find_map(|batch| {
            let epoch = batch.header.partition_leader_epoch;
            batch
                .records
                .iter()
                .find(|(offset, time)| *offset >= self.log_start && *offset < up_to && *time >= timestamp)
                .map(|(offset, time)| (*offset, *time, epoch))
        })
    }
}

fn note_producer(producers: &mut BTreeMap<i64, ModelProducer>, header: &BatchHeader) {
    if !header.has_producer() {
        return;
    }
    let entry = producers.entry(header.producer_id).or_insert_with(|| ModelProducer {
        epoch: header.producer_epoch,
        batches: Vec::new(),
    });
    if entry.epoch != header.producer_epoch {
        entry.epoch = header.producer_epoch;
        entry.batches.clear();
    }
    entry
        .batches
        .push((header.base_sequence, header.last_sequence(), header.base_offset));
}
