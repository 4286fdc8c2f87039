//! What is committed of each key, and what of it a log must hold after any compaction.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millrace_proto::batch::{BatchError, DecodeLimits, batches};

use crate::{groups::TAG, observer::Track, trace::mix};

/// What compaction goes by in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keyed {
    /// A number for the key: equal ones are equal keys.
    pub key: u64,
    pub is_tombstone: bool,
}

/// A record as somebody reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub offset: i64,
    /// What the producer wrote, by which the observer knows it.
    pub value: u64,
    pub keyed: Keyed,
}

/// The committed records of one partition, by key.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By offset.
    records: Vec<Keyed>,
    /// By offset: where the next record of the key is.
    later: Vec<Option<i64>>,
    last: BTreeMap<u64, i64>,
    /// By offset: when a round of some replica first could have looked at the record, by the brokers' clock.
    cleanable_ms: Vec<i64>,
}

/// A log, or what somebody has read of one.
pub(crate) struct Left<'a> {
    /// Where it begins.
    pub start: i64,
    /// Up to where it is as it was committed.
    pub agreed: i64,
    /// Tombstones that it never got, as they had gone where it was copied from.
    pub missed: &'a BTreeSet<i64>,
    /// No tombstone may have gone before the record was read that it deletes.
    pub sees_deletes: bool,
}

/// The rule that is broken, and what was seen of it.
pub(crate) type Broken = (&'static str, String);

impl Keys {
    pub(crate) fn end(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }

    /// Takes note of what was committed since.
    pub(crate) fn learn(&mut self, track: &Track, keyed: impl Fn(u64) -> Keyed) {
        for entry in &track.committed[self.records.len()..] {
            let (offset, record) = (self.end(), keyed(entry.value));
            if let Some(before) = self.last.insert(record.key, offset) {
                self.later[index(before)] = Some(offset);
            }
            self.records.push(record);
            self.later.push(None);
        }
    }

    /// A round begins somewhere that looks at nothing from `bound` on.
    pub(crate) fn round_begins(&mut self, bound: i64, now_ms: i64) {
        while self.cleanable_ms.len() < index(bound.max(0)) {
            self.cleanable_ms.push(now_ms);
        }
    }

    /// Whether the time of a tombstone may have come: the first round over it was long ago, wherever that was.
    pub(crate) fn may_be_gone(&self, offset: i64, (now_ms, retention_ms): (i64, i64)) -> bool {
        let is_tombstone = self.records.get(index(offset)).is_some_and(|keyed| keyed.is_tombstone);
        let since = self.cleanable_ms.get(index(offset));
        is_tombstone && since.is_some_and(|since| now_ms - since >= retention_ms)
    }

    pub(crate) fn is_tombstone(&self, offset: i64) -> bool {
        self.records.get(index(offset)).is_some_and(|keyed| keyed.is_tombstone)
    }

    /// Whether compaction may have taken a committed record out of some log.
    pub(crate) fn may_be_missing(&self, offset: i64, times_ms: (i64, i64)) -> bool {
        self.later.get(index(offset)).is_some_and(Option::is_some) || self.may_be_gone(offset, times_ms)
    }

    /// Of each key the last committed record in the part that is as it was committed, and the last one that is there.
    fn kept(&self, left: &Left<'_>, found: &[i64]) -> BTreeMap<u64, (i64, Option<i64>)> {
        let mut found = found
            .iter()
            .copied()
            .skip_while(|offset| *offset < left.start)
            .peekable();
        let mut keys: BTreeMap<u64, (i64, Option<i64>)> = BTreeMap::new();
        for offset in left.start..left.agreed {
            let Some(record) = self.records.get(index(offset)) else {
                break;
            };
            let is_there = found.next_if_eq(&offset).is_some();
            let (last, kept) = keys.entry(record.key).or_insert((offset, None));
            *last = offset;
            if is_there {
                *kept = Some(offset);
            }
        }
        keys
    }

    /// Whether something is there that was deleted by a tombstone which the log never got.
    pub(crate) fn came_back(&self, left: &Left<'_>, found: &[i64]) -> bool {
        let kept = self.kept(left, found).into_values();
        kept.filter(|(last, _)| left.missed.contains(last))
            .any(|(last, kept)| kept.is_some_and(|kept| kept < last))
    }

    /// Judges what is left of a log: `found` has the offsets of its records in their order. `times_ms`: now, and
    /// `delete.retention.ms`.
    ///
    /// Of a key of which more is committed behind the part that is as it was committed, older records may be there or
    /// not: the log was copied from one that was compacted further.
    pub(crate) fn judge(&self, left: &Left<'_>, found: &[i64], times_ms: (i64, i64)) -> Option<Broken> {
        let keys = self.kept(left, found);
        keys.into_iter().find_map(|(key, (last, kept))| {
            let is_kept = kept == Some(last) || self.later[index(last)].is_some();
            if is_kept || left.missed.contains(&last) {
                return None;
            }
            let seen = |what: &str| format!("key {key:#x}: {what} at {last} is not there, the last one is {kept:?}");
            if !self.is_tombstone(last) {
                return Some(("compaction keeps the last record of each key", seen("the last record")));
            }
            if !self.may_be_gone(last, times_ms) {
                return Some(("a tombstone stays for delete.retention.ms", seen("a tombstone")));
            }
            let is_back = kept.is_some() && left.sees_deletes;
            is_back.then(|| {
                (
                    "what a tombstone has deleted is gone before the tombstone is",
                    seen("a tombstone"),
                )
            })
        })
    }
}

pub(crate) fn index(offset: i64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A number for a key as it is stored.
pub(crate) fn number_of_key(key: &[u8]) -> u64 {
    key.iter()
        .fold(key.len() as u64, |hash, byte| mix(hash, u64::from(*byte)))
}

/// The records of whole batches.
pub(crate) fn contents_of(bytes: &Bytes) -> Result<Vec<Content>, BatchError> {
    let mut found = Vec::new();
    for batch in batches(bytes) {
        let batch = batch?;
        batch.verify_crc()?;
        for record in batch.records(&DecodeLimits::default())?.iter() {
            let record = record?;
            let mark = record.headers.clone().find(|header| header.key == TAG);
            let told = mark.map_or(record.value, |mark| mark.value);
            let value = told.and_then(|value| value.first_chunk::<8>());
            found.push(Content {
                offset: record.offset,
                value: value.map_or(0, |value| u64::from_be_bytes(*value)),
                keyed: Keyed {
                    key: number_of_key(record.key.unwrap_or_default()),
                    is_tombstone: record.value.is_none(),
                },
            });
        }
    }
    Ok(found)
}
