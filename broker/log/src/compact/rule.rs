//! What stays of a batch.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use millrace_proto::batch::{
    BatchError, BatchFilter, BatchHeader, BatchView, BuildError, DecodeLimits, Record, Records, empty_batch,
};

use super::key_map::KeyMap;
use super::plan::has_passed;

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is copied byte for byte.
    Stays,
    /// Other bytes take its place, for the same offsets.
    Becomes(Bytes),
    /// Nothing of it is left.
    Goes,
}

/// What was done to records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Went because a later one has their key.
    pub superseded: u64,
    /// Tombstones that went because their time had come.
    pub tombstones: u64,
    /// The offset after the last of them; 0 if there were none.
    pub tombstones_gone_below: i64,
    /// Went because they have no key.
    pub without_key: u64,
    /// The earliest delete horizon of the tombstones that stay.
    pub earliest_horizon_ms: Option<i64>,
    /// Whether a delete horizon was set.
    pub set_horizon: bool,
}

/// Why a batch can't be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleError {
    /// It can't be decoded.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// What is left of it can't be encoded.
    #[error("what is left of the batch can't be encoded: {0}")]
    Build(#[from] BuildError),
    /// What is left of it is larger than it was, in a segment that can't grow.
    #[error("what is left of the batch takes {0} bytes, for which its segment has no room")]
    NoRoom(usize),
}

/// What all batches of a round are judged by.
pub(crate) struct Rules {
    pub map: KeyMap,
    /// No round of this replica that came to its end has looked at records from here on.
    pub first_dirty_offset: i64,
    /// The map holds the keys of all dirty records below this offset, and of none from here on.
    pub map_end: i64,
    pub delete_retention_ms: i64,
    pub longest_copy_ms: i64,
    /// The last offset below the end of the round of each producer that is remembered: the batch that ends there tells
    /// its last sequence, and stays, if need be empty (KAFKA-5490, KAFKA-8335).
    pub producers: HashMap<i64, i64>,
    /// Where leader epochs begin. The batch there stays, if need be empty: replicas that copy the log tell by it where
    /// the epoch before ended, and would otherwise let records pass for committed that another leader had cut.
    pub epoch_starts: HashSet<i64>,
}

/// Notes the keys of a batch's dirty records below [`Rules::map_end`]. Where the map is full that becomes the offset of
/// the first record that found no room, and false is returned.
pub(crate) fn note_keys(rules: &mut Rules, view: &BatchView<'_>) -> Result<bool, BatchError> {
    let header = view.header();
    if replaces_nothing(header) || header.record_count == 0 {
        return Ok(true);
    }
    let records = view.records(&DecodeLimits::default())?;
    for record in &records {
        let record = record?;
        if record.offset < rules.first_dirty_offset {
            continue;
        }
        if record.offset >= rules.map_end {
            break;
        }
        if let Some(key) = record.key
            && !rules.map.note(key, record.offset)
        {
            rules.map_end = record.offset;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Markers have no key of a user's. Whether the records of a transaction count only its marker tells, so that they may be
/// replaced but replace no others, and their tombstones stay: an aborted record must not make a committed one go.
fn replaces_nothing(header: &BatchHeader) -> bool {
    header.is_control() || header.is_transactional()
}

impl Rules {
    /// Decides. `must_stay`: the batch is the last one of its segment. `max_bytes`: it may grow to so many.
    ///
    /// Records without a key go, as in Kafka: nothing can ever replace them, so that a log which is compacted only
    /// would grow with them for ever. A leader refuses them; there are some only where the topic was not compacted before.
    pub fn judge(
        &self,
        view: &BatchView<'_>,
        must_stay: bool,
        max_bytes: u64,
        now_ms: i64,
        filter: &mut BatchFilter,
        counts: &mut Counts,
    ) -> Result<Fate, RuleError> {
        let header = view.header();
        // Nobody reads markers for their keys; without them aborted records would count as committed (KAFKA-13727).
        if header.base_offset >= self.map_end || header.is_control() {
            return Ok(Fate::Stays);
        }
        let must_stay =
            must_stay || self.is_last_of_producer(header) || self.epoch_starts.contains(&header.base_offset);
        if header.record_count == 0 {
            return Ok(if must_stay { Fate::Stays } else { Fate::Goes });
        }
        let records = view.records(&DecodeLimits::default())?;
        // Another replica's horizon tells from when its own readers could not get what the tombstone deletes: here they
        // can until the first round over it has come to its end.
        let horizon_ms = header
            .delete_horizon_ms()
            .filter(|_| header.next_offset() <= self.first_dirty_offset);
        let may_drop_tombstones = !replaces_nothing(header)
            && horizon_ms.is_some_and(|horizon| has_passed(horizon, self.longest_copy_ms, now_ms));
        let mut kept = Kept::default();
        for record in &records {
            let record = record?;
            let stays = self.stays(&record, may_drop_tombstones, counts);
            kept.flags.push(stays);
            kept.count += usize::from(stays);
            kept.has_tombstone |= stays && record.value.is_none();
        }
        if kept.count == 0 {
            let empty = || Fate::Becomes(Bytes::copy_from_slice(&empty_batch(header)));
            return Ok(if must_stay { empty() } else { Fate::Goes });
        }
        // From when the horizon counts all older records of the keys are gone, so the batch must be below the map's end.
        let is_clean = header.next_offset() <= self.map_end && !replaces_nothing(header);
        let sets_horizon = kept.has_tombstone && horizon_ms.is_none() && is_clean;
        if kept.count == kept.flags.len() && !sets_horizon {
            kept.note_horizon(header.delete_horizon_ms(), counts);
            return Ok(Fate::Stays);
        }
        if sets_horizon {
            let horizon = now_ms.saturating_add(self.delete_retention_ms);
            match filter.retain(header, &records, Some(horizon), kept.picks()) {
                Ok(bytes) if bytes.len() as u64 <= max_bytes.max(view.bytes().len() as u64) => {
                    counts.set_horizon = true;
                    kept.note_horizon(Some(horizon), counts);
                    return Ok(Fate::Becomes(bytes));
                }
                // Then its tombstones stay, for good where the batch has no horizon.
                Ok(_) | Err(BuildError::Timestamp { .. } | BuildError::BatchTooLarge { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.without_horizon(view, &records, &kept, max_bytes, filter, counts)
    }

    fn without_horizon(
        &self,
        view: &BatchView<'_>,
        records: &Records<'_>,
        kept: &Kept,
        max_bytes: u64,
        filter: &mut BatchFilter,
        counts: &mut Counts,
    ) -> Result<Fate, RuleError> {
        kept.note_horizon(view.header().delete_horizon_ms(), counts);
        if kept.count == kept.flags.len() {
            return Ok(Fate::Stays);
        }
        let bytes = filter.retain(view.header(), records, None, kept.picks())?;
        // Fewer records may take more room where another level has compressed them.
        if bytes.len() as u64 > max_bytes.max(view.bytes().len() as u64) {
            // To keep it as it is would keep records whose tombstones may go one day.
            return Err(RuleError::NoRoom(bytes.len()));
        }
        Ok(Fate::Becomes(bytes))
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        header.has_producer() && self.producers.get(&header.producer_id) == Some(&header.last_offset())
    }

    fn stays(&self, record: &Record<'_>, may_drop_tombstones: bool, counts: &mut Counts) -> bool {
        if record.offset >= self.map_end {
            return true;
        }
        let Some(key) = record.key else {
            counts.without_key += 1;
            return false;
        };
        if self.map.last_offset(key).is_some_and(|last| last > record.offset) {
            counts.superseded += 1;
            return false;
        }
        if record.value.is_none() && may_drop_tombstones {
            counts.tombstones += 1;
            counts.tombstones_gone_below = counts.tombstones_gone_below.max(record.offset + 1);
            return false;
        }
        true
    }
}

/// Which records of a batch stay.
#[derive(Default)]
struct Kept {
    flags: Vec<bool>,
    count: usize,
    has_tombstone: bool,
}

impl Kept {
    /// Answers for one record after the other.
    fn picks(&self) -> impl FnMut(&Record<'_>) -> bool {
        let mut flags = self.flags.iter();
        move |_| flags.next().copied().unwrap_or(true)
    }

    fn note_horizon(&self, horizon_ms: Option<i64>, counts: &mut Counts) {
        if let Some(horizon) = horizon_ms.filter(|_| self.has_tombstone) {
            let earliest = counts.earliest_horizon_ms.get_or_insert(horizon);
            *earliest = (*earliest).min(horizon);
        }
    }
}
