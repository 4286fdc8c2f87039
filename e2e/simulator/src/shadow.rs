//! What a log must hold, by what was done to it: compared with the log itself whenever a process
//! opens it.

use std::collections::BTreeSet;

use bytes::Bytes;
use millrace_log::Log;
use millrace_proto::batch::{BatchError, DecodeLimits, batches};

use crate::{groups::TAG, trace::mix};

/// A record as the observer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub epoch: i32,
    /// What the producer wrote; no two records have the same.
    pub value: u64,
    /// Of this record and all before it: equal chains are equal logs.
    pub chain: u64,
}

/// The records of one replica on one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    /// The offset of the first entry.
    pub start: i64,
    pub entries: Vec<Entry>,
    /// All below was reported to be on the disk.
    pub durable: i64,
    /// Up to where the directory has recorded that it is flushed.
    pub recorded: i64,
    /// An operation failed half-way, and only opening the log will tell what it holds.
    pub unsure: bool,
    /// Tombstones that compaction had taken out where the log was copied from.
    pub missed: BTreeSet<i64>,
}

impl Shadow {
    pub(crate) fn end(&self) -> i64 {
        self.start + i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
    }

    pub(crate) fn at(&self, offset: i64) -> Option<&Entry> {
        usize::try_from(offset.checked_sub(self.start)?)
            .ok()
            .and_then(|at| self.entries.get(at))
    }

    /// Adds a record; `before` is the chain of the record before an emptied log's start.
    pub(crate) fn push(&mut self, epoch: i32, value: u64, before: u64) -> Entry {
        let last = self.entries.last().map_or(before, |last| last.chain);
        let place = mix(u64::try_from(self.end()).unwrap_or(0), u64::from(epoch.unsigned_abs()));
        let entry = Entry {
            epoch,
            value,
            chain: mix(mix(last, place), value),
        };
        self.entries.push(entry);
        entry
    }

    pub(crate) fn truncate(&mut self, to: i64) {
        let keep = usize::try_from(to.saturating_sub(self.start)).unwrap_or(0);
        self.entries.truncate(keep);
        self.missed.split_off(&to);
        self.durable = self.durable.min(to);
        self.recorded = self.recorded.min(to);
    }

    pub(crate) fn begin_anew(&mut self, start: i64) {
        *self = Self {
            start,
            durable: start,
            ..Self::default()
        };
    }

    pub(crate) fn advance_start(&mut self, to: i64) {
        let gone = usize::try_from(to.saturating_sub(self.start)).unwrap_or(0);
        self.entries.drain(..gone.min(self.entries.len()));
        self.start = self.start.max(to);
        self.durable = self.durable.max(self.start);
    }
}

/// A stored record: offset, leader epoch, value.
pub(crate) type Stored = (i64, i32, u64);

/// All records of a log, or those before what can't be read and what is wrong there.
pub(crate) fn read_all(log: &Log) -> (Vec<Stored>, Option<String>) {
    let mut found = Vec::new();
    let mut offset = log.log_start_offset();
    while offset < log.log_end_offset() {
        match read_records(log, offset, 1 << 20, log.log_end_offset()) {
            Ok((records, next)) if next > offset => {
                found.extend(records.into_iter().filter(|record| record.0 >= offset));
                offset = next;
            }
            Ok(_) => return (found, Some(format!("nothing is at {offset}, within the log"))),
            Err(problem) => return (found, Some(problem)),
        }
    }
    (found, None)
}

/// What one read gives, and the offset after it. The first record may lie before `offset`.
fn read_records(log: &Log, offset: i64, bytes: usize, up_to: i64) -> Result<(Vec<Stored>, i64), String> {
    let data = log
        .read(offset, bytes, true, up_to)
        .map_err(|error| error.to_string())?;
    let records = records_of(&data.bytes).map_err(|error| error.to_string())?;
    Ok((records, data.next_offset))
}

/// The offset after the last of stored batches.
pub(crate) fn end_of(bytes: &Bytes) -> i64 {
    let last = batches(bytes).filter_map(Result::ok).last();
    last.map_or(0, |batch| batch.header().next_offset())
}

/// The records in stored batches, whose checksums are looked at.
pub(crate) fn records_of(bytes: &Bytes) -> Result<Vec<Stored>, BatchError> {
    let mut found = Vec::new();
    for batch in batches(bytes) {
        let batch = batch?;
        batch.verify_crc()?;
        let epoch = batch.header().partition_leader_epoch;
        for record in batch.records(&DecodeLimits::default())?.iter() {
            let record = record?;
            // A record of groups has a mark beside what is its own.
            let mark = record.headers.clone().find(|header| header.key == TAG);
            let told = mark.map_or(record.value, |mark| mark.value);
            let value = told.and_then(|value| value.first_chunk::<8>());
            found.push((
                record.offset,
                epoch,
                value.map_or(0, |value| u64::from_be_bytes(*value)),
            ));
        }
    }
    Ok(found)
}
