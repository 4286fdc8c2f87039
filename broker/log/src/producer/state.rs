//! Producer state and the rules of sequence numbers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millrace_proto::batch::{BatchHeader, advance_sequence};

/// How many batches of a producer are remembered: the most that Kafka's clients keep in flight (KAFKA-5494).
pub const REMEMBERED_BATCHES: usize = 5;

/// How a batch's sequence must relate to the last one of its producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequenceRule {
    /// Kafka's: the next batch begins right after the last one; `i32::MAX` is followed by 0.
    #[default]
    Contiguous,
    /// For resumable publish streams: the base sequence must be above the last one; gaps are allowed.
    Increasing,
}

/// A batch that a retry is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedBatch {
    /// Sequence of its first record.
    pub base_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Its largest timestamp (the append time with LogAppendTime).
    pub timestamp: i64,
}

impl RememberedBatch {
    /// Where a producer's sequences stood, without the batch that told it: it has no records, and is no retry's
    /// original. `timestamp` is that of what came next.
    #[must_use]
    pub fn position(last_sequence: i32, last_offset: i64, timestamp: i64) -> Self {
        Self {
            base_sequence: advance_sequence(last_sequence, 1),
            last_sequence,
            base_offset: last_offset + 1,
            last_offset,
            timestamp,
        }
    }

    /// Whether it tells only where sequences stood.
    #[must_use]
    pub fn is_position(&self) -> bool {
        self.base_offset > self.last_offset
    }
}

/// What is known of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The newest epoch seen.
    pub epoch: i16,
    /// The last batches of that epoch, oldest first; at most [`REMEMBERED_BATCHES`]. Empty after a bare marker.
    pub batches: VecDeque<RememberedBatch>,
    /// The largest timestamp of its last batch.
    pub last_timestamp: i64,
    /// When this process last saw it, by the broker's clock; `None` until [`ProducerState::expire`] first meets it.
    /// It expires by this, not by record times, which may lie years back.
    pub last_used_ms: Option<i64>,
    /// Epoch of the transaction coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction, or -1.
    pub transaction_first_offset: i64,
}

impl ProducerEntry {
    /// The newest batch.
    #[must_use]
    pub fn last_batch(&self) -> Option<&RememberedBatch> {
        self.batches.back()
    }

    /// The entry without batches that end at `offset` or above; `None` if none is remembered that ends below it.
    fn below(&self, offset: i64) -> Option<Self> {
        let mut below = self.clone();
        below.batches.retain(|batch| batch.last_offset < offset);
        // A bare marker has told of the epoch.
        if let Some(last) = below.batches.back() {
            below.last_timestamp = last.timestamp;
        } else if !self.batches.is_empty() {
            return None;
        }
        Some(below)
    }

    /// Sequence of the last record, or -1.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.last_batch().map_or(-1, |batch| batch.last_sequence)
    }
}

/// A batch that may be appended, or one that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// Append it.
    Fresh,
    /// It is stored already.
    Duplicate(RememberedBatch),
}

/// Why a batch's sequence or epoch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The sequence leaves a gap, or a new epoch does not begin at 0.
    #[error("producer {producer_id} sent sequence {sequence} where {expected} comes next")]
    OutOfOrder {
        /// The producer.
        producer_id: i64,
        /// The batch's base sequence.
        sequence: i32,
        /// What would have been right.
        expected: i32,
    },
    /// The batch was stored, longer ago than is remembered.
    #[error("producer {producer_id} sent sequence {sequence} again; the last one stored is {last_sequence}")]
    Duplicate {
        /// The producer.
        producer_id: i64,
        /// The batch's base sequence.
        sequence: i32,
        /// The last sequence stored.
        last_sequence: i32,
    },
    /// A newer instance of the producer has written.
    #[error("producer {producer_id} has epoch {current}; {epoch} is fenced")]
    InvalidEpoch {
        /// The producer.
        producer_id: i64,
        /// The batch's epoch.
        epoch: i16,
        /// The epoch known here.
        current: i16,
    },
}

/// All producers of one partition. Replicas that applied the same batches hold the same state (expiry aside).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    entries: BTreeMap<i64, ProducerEntry>,
}

impl ProducerState {
    /// State from a snapshot.
    #[must_use]
    pub fn from_entries(entries: BTreeMap<i64, ProducerEntry>) -> Self {
        ProducerState { entries }
    }

    /// All producers by id.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<i64, ProducerEntry> {
        &self.entries
    }

    /// Checks a client's batch at the leader. A batch without a producer id is always fresh. A producer that is not
    /// known may begin at any sequence: after expiry, or deletion of its data, nothing better can be said (KIP-360).
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self, header: &BatchHeader, rule: SequenceRule) -> Result<SequenceCheck, SequenceError> {
        if !header.has_producer() {
            return Ok(SequenceCheck::Fresh);
        }
        let Some(entry) = self.entries.get(&header.producer_id) else {
            return Ok(SequenceCheck::Fresh);
        };
        let producer_id = header.producer_id;
        let sequence = header.base_sequence;
        if header.producer_epoch < entry.epoch {
            return Err(SequenceError::InvalidEpoch {
                producer_id,
                epoch: header.producer_epoch,
                current: entry.epoch,
            });
        }
        if header.producer_epoch > entry.epoch {
            return match rule {
                SequenceRule::Contiguous if sequence != 0 => Err(SequenceError::OutOfOrder {
                    producer_id,
                    sequence,
                    expected: 0,
                }),
                _ => Ok(SequenceCheck::Fresh),
            };
        }
        // Batches of this epoch: the retry of one that is remembered is answered as that one.
        let same = |batch: &&RememberedBatch| match rule {
            _ if batch.is_position() => false,
            SequenceRule::Contiguous => {
                batch.base_sequence == sequence && batch.last_sequence == header.last_sequence()
            }
            SequenceRule::Increasing => batch.base_sequence == sequence,
        };
        if let Some(batch) = entry.batches.iter().find(same) {
            return Ok(SequenceCheck::Duplicate(*batch));
        }
        let Some(last) = entry.last_batch() else {
            // Only a marker was seen in this epoch.
            return match rule {
                SequenceRule::Contiguous if sequence != 0 => Err(SequenceError::OutOfOrder {
                    producer_id,
                    sequence,
                    expected: 0,
                }),
                _ => Ok(SequenceCheck::Fresh),
            };
        };
        let duplicate = SequenceError::Duplicate {
            producer_id,
            sequence,
            last_sequence: last.last_sequence,
        };
        match rule {
            SequenceRule::Contiguous => {
                let expected = advance_sequence(last.last_sequence, 1);
                if sequence == expected {
                    Ok(SequenceCheck::Fresh)
                } else if is_before(sequence, expected) {
                    Err(duplicate)
                } else {
                    Err(SequenceError::OutOfOrder {
                        producer_id,
                        sequence,
                        expected,
                    })
                }
            }
            SequenceRule::Increasing => {
                let newest = if last.is_position() {
                    last.last_sequence
                } else {
                    last.base_sequence
                };
                if sequence > newest {
                    Ok(SequenceCheck::Fresh)
                } else {
                    Err(duplicate)
                }
            }
        }
    }

    /// Takes in a batch that is in the log; `now_ms` is the broker's clock, `None` while the log is replayed. Never refuses: what the leader accepted is the truth for every replica.
    pub fn apply(&mut self, header: &BatchHeader, now_ms: Option<i64>) {
        if !header.has_producer() {
            return;
        }
        let entry = self.entries.entry(header.producer_id).or_insert_with(|| ProducerEntry {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            last_timestamp: header.max_timestamp,
            last_used_ms: None,
            coordinator_epoch: -1,
            transaction_first_offset: -1,
        });
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        entry.last_timestamp = header.max_timestamp;
        entry.last_used_ms = now_ms;
        if header.is_control() {
            return;
        }
        if entry.batches.back().is_some_and(RememberedBatch::is_position) || entry.batches.len() == REMEMBERED_BATCHES {
            entry.batches.pop_front();
        }
        entry.batches.push_back(RememberedBatch {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
        });
    }

    /// What batches that end below `offset` have told, as far as it is remembered. Of a producer of which no such batch
    /// is remembered nothing is in it.
    #[must_use]
    pub fn below(&self, offset: i64) -> Self {
        let entries = self.entries.iter();
        Self {
            entries: entries
                .filter_map(|(id, entry)| Some((*id, entry.below(offset)?)))
                .collect(),
        }
    }

    /// The producers of which only batches from `offset` on are remembered.
    pub(crate) fn remembered_from(&self, offset: i64) -> BTreeSet<i64> {
        let is_late = |first: &RememberedBatch| first.base_offset >= offset && !first.is_position();
        self.entries
            .iter()
            .filter(|(_, entry)| entry.batches.front().is_some_and(is_late))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Notes that a producer's sequences stood right before this batch, the first that is kept of it, where the log
    /// begins at `start`. They go on without a gap, so that only where the first one was 0 nothing came before it.
    pub(crate) fn stood_before(&mut self, first: &BatchHeader, start: i64) {
        if start == 0 || first.base_sequence <= 0 {
            return;
        }
        let position = RememberedBatch::position(first.base_sequence - 1, start - 1, first.max_timestamp);
        self.entries.insert(
            first.producer_id,
            ProducerEntry {
                epoch: first.producer_epoch,
                batches: VecDeque::from([position]),
                last_timestamp: first.max_timestamp,
                last_used_ms: None,
                coordinator_epoch: -1,
                transaction_first_offset: -1,
            },
        );
    }

    /// Forgets producers that were not used since `expiration_ms` before `now_ms`; returns how many. Never because
    /// their data was deleted (KAFKA-7190).
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            let used_ms = *entry.last_used_ms.get_or_insert(now_ms);
            entry.transaction_first_offset >= 0 || now_ms.saturating_sub(used_ms) < expiration_ms
        });
        before - self.entries.len()
    }

    /// Keeps at most `limit` producers: the least recently used go, a tenth more than needed, so that a flood of ids
    /// does not sort the table for each batch (unbounded ids: KIP-854).
    pub fn bound(&mut self, limit: usize) -> usize {
        if self.entries.len() <= limit {
            return 0;
        }
        let mut by_use: Vec<(i64, i64)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.transaction_first_offset < 0)
            // By place in the log, not by time: times are the producers' own, and may be long ago.
            .map(|(id, entry)| (entry.batches.back().map_or(-1, |batch| batch.last_offset), *id))
            .collect();
        by_use.sort_unstable();
        let excess = (self.entries.len() - limit + limit / 10).min(by_use.len());
        for (_, id) in &by_use[..excess] {
            self.entries.remove(id);
        }
        excess
    }
}

/// Whether `sequence` comes before `expected` on the circle of 2^31 sequences: the nearer way round decides.
fn is_before(sequence: i32, expected: i32) -> bool {
    let behind = (i64::from(expected) - i64::from(sequence)) & i64::from(i32::MAX);
    behind > 0 && behind <= i64::from(i32::MAX) / 2
}

#[cfg(test)]
mod tests;
