//! Where records wait to be sent: the open batch of each partition, and the ended ones.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use millrace_proto::batch::{
    BatchBuilder, BuildError, Codec, HEADER_LEN, Header, advance_sequence, crc::crc32c, record_size_upper_bound,
};
use parking_lot::Mutex;

use super::{
    delivery::{BatchState, Delivery},
    memory::MemoryBudget,
    partitioner::{Partitioner, TopicCursor},
    sequencer::Identity,
};
use crate::{
    error::{Error, ErrorKind, Result},
    limits,
};

/// A topic's partitions as a producer sees them. Replaced by another one when the topic gets more.
#[derive(Debug)]
pub struct TopicBuffers {
    pub name: Arc<str>,
    pub id: Bytes,
    pub cursor: Arc<TopicCursor>,
    pub partitions: Vec<Arc<PartitionBuffer>>,
}

/// A record to append, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
    pub timestamp: i64,
}

impl RecordParts<'_> {
    /// Most bytes that the record takes in a batch.
    #[inline]
    pub fn size(&self) -> usize {
        record_size_upper_bound(self.key, self.value, self.headers)
    }
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct BatchRules {
    pub codec: Codec,
    pub level: Option<i32>,
    pub batch_bytes: usize,
}

/// A batch that takes no more records.
#[derive(Debug)]
pub struct EndedBatch {
    pub bytes: Bytes,
    pub records: i32,
    pub state: Arc<BatchState>,
    /// What is taken of the memory budget.
    pub reserved: usize,
    pub opened_at: Instant,
    /// The producer fields in `bytes`.
    stamped: Option<(Identity, i32)>,
}

/// One partition's records that are not sent.
#[derive(Debug)]
pub struct PartitionBuffer {
    partition: i32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: BatchRules,
    builder: BatchBuilder,
    open: Option<OpenBatch>,
    ended: VecDeque<EndedBatch>,
    /// Batches that may not be done, oldest first.
    pending: VecDeque<Arc<BatchState>>,
    /// The sender was told to look here and did not yet.
    told: bool,
    flush: bool,
    /// Why nothing can be appended any more.
    dead: Option<Error>,
    slot: Option<u64>,
    /// What the next batch will probably be stamped with, so that it needs no second checksum.
    predicted: Option<(Identity, i32)>,
    last_size: usize,
}

#[derive(Debug)]
struct OpenBatch {
    state: Arc<BatchState>,
    opened_at: Instant,
    reserved: usize,
}

/// An appended record.
#[derive(Debug)]
pub struct Appended {
    pub delivery: Delivery,
    /// The sender is to be told that there is something here.
    pub tell: bool,
    /// A batch ended: records without a key may go on elsewhere.
    pub ended: bool,
}

/// What the sender finds when it looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collected {
    /// Since when there is an open batch.
    pub open_since: Option<Instant>,
    pub flush: bool,
}

impl PartitionBuffer {
    /// An empty buffer.
    ///
    /// # Errors
    /// A compression level that the codec does not have.
    pub fn new(partition: i32, rules: BatchRules, identity: Option<Identity>) -> Result<Self, BuildError> {
        Ok(Self {
            partition,
            inner: Mutex::new(Inner {
                builder: BatchBuilder::with_level(rules.codec, rules.level)?,
                rules,
                open: None,
                ended: VecDeque::new(),
                pending: VecDeque::new(),
                told: false,
                flush: false,
                dead: None,
                slot: None,
                predicted: identity.map(|identity| (identity, 0)),
                last_size: 0,
            }),
        })
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Adds a record, whose `size` bytes were taken of the memory budget.
    ///
    /// # Errors
    /// The partition is gone, or the record can't be encoded. The bytes are still the caller's.
    #[inline]
    pub fn append(&self, record: &RecordParts<'_>, size: usize, memory: &MemoryBudget) -> Result<Appended> {
        let mut inner = self.inner.lock();
        if let Some(error) = &inner.dead {
            return Err(error.clone());
        }
        let mut ended = false;
        if inner.open.is_some() && !inner.fits(size) {
            inner.end_open(memory);
            ended = true;
        }
        if inner.open.is_none() {
            inner.open(self.partition);
        }
        let index = match inner
            .builder
            .append(record.timestamp, record.key, record.value, record.headers)
        {
            Ok(index) => index,
            // A time too far from the batch's first: a batch of its own holds it.
            Err(BuildError::Timestamp { .. }) if !inner.builder.is_empty() => {
                inner.end_open(memory);
                inner.open(self.partition);
                ended = true;
                inner
                    .builder
                    .append(record.timestamp, record.key, record.value, record.headers)
                    .map_err(unencodable)?
            }
            Err(error) => return Err(unencodable(error)),
        };
        // Told of when a batch opens, for its linger, and when one ends.
        let tell = (index == 0 || ended) && !std::mem::replace(&mut inner.told, true);
        let Some(open) = &mut inner.open else {
            return Err(Error::closed("producer"));
        };
        open.reserved += size;
        let delivery = Delivery::new(open.state.clone(), index, record.timestamp);
        Ok(Appended { delivery, tell, ended })
    }

    /// What there is to send. Hands `ended` to the sequencer through `take`, under the lock, and
    /// takes the prediction that follows from it.
    pub fn collect(&self, take: impl FnOnce(Vec<EndedBatch>) -> Option<(Identity, i32)>) -> Collected {
        let mut inner = self.inner.lock();
        inner.told = false;
        let ended = inner.ended.drain(..).collect();
        inner.predicted = take(ended);
        Collected {
            open_since: inner
                .open
                .as_ref()
                .filter(|_| !inner.builder.is_empty())
                .map(|open| open.opened_at),
            flush: inner.flush,
        }
    }

    /// Ends the open batch, if there is one.
    pub fn end_open(&self, memory: &MemoryBudget) {
        self.inner.lock().end_open(memory);
    }

    /// Asks for the open batch to be sent without waiting for more. Adds what is not done to
    /// `pending`. Answers whether the sender is to be told.
    pub fn flush(&self, pending: &mut Vec<Arc<BatchState>>) -> bool {
        let mut inner = self.inner.lock();
        inner.pending.retain(|state| !state.is_done());
        pending.extend(inner.pending.iter().cloned());
        if inner.open.is_none() {
            return false;
        }
        inner.flush = true;
        !std::mem::replace(&mut inner.told, true)
    }

    /// Refuses all further records with `error`; answers with the batches that were not sent.
    pub fn kill(&self, error: Error, memory: &MemoryBudget) -> Vec<EndedBatch> {
        let mut inner = self.inner.lock();
        inner.end_open(memory);
        inner.dead = Some(error);
        inner.ended.drain(..).collect()
    }

    /// The sender's name for this partition.
    pub fn slot(&self) -> Option<u64> {
        self.inner.lock().slot
    }

    pub fn set_slot(&self, slot: u64) {
        self.inner.lock().slot = Some(slot);
    }

    /// Makes batches no larger than the broker said it takes.
    pub fn limit(&self, limit_bytes: usize) {
        let mut inner = self.inner.lock();
        inner.rules.batch_bytes = inner.rules.batch_bytes.min(limit_bytes.max(HEADER_LEN));
    }
}

impl Inner {
    #[inline]
    fn fits(&self, size: usize) -> bool {
        let uncompressed = self.builder.size_in_bytes() + size;
        if self.rules.codec == Codec::None {
            return uncompressed <= self.rules.batch_bytes;
        }
        self.builder.size_estimate() + size <= self.rules.batch_bytes
            && uncompressed <= self.rules.batch_bytes.max(limits::MAX_UNCOMPRESSED_BYTES)
    }

    fn open(&mut self, partition: i32) {
        while self.pending.front().is_some_and(|state| state.is_done()) {
            self.pending.pop_front();
        }
        let state = Arc::new(BatchState::new(partition));
        self.pending.push_back(state.clone());
        // As the last batch was: with many quiet partitions, whole buffers would be a waste.
        self.builder.reserve(self.last_size.max(limits::MIN_BUFFER_BYTES));
        self.open = Some(OpenBatch {
            state,
            opened_at: Instant::now(),
            reserved: 0,
        });
    }

    fn end_open(&mut self, memory: &MemoryBudget) {
        let Some(open) = self.open.take() else { return };
        self.flush = false;
        let records = self.builder.record_count();
        // Room for one more of the size that did not fit, so that equal batches need no growing.
        let size = self.builder.size_in_bytes();
        self.last_size = (size + size / 64).min(limits::MAX_BATCH_BYTES);
        if let Some((identity, sequence)) = self.predicted {
            self.builder
                .set_producer(identity.producer_id, identity.producer_epoch, sequence);
        }
        match self.builder.build() {
            Ok(bytes) => {
                let stamped = self.predicted;
                self.predicted = stamped.map(|(identity, sequence)| (identity, advance_sequence(sequence, records)));
                let OpenBatch {
                    state,
                    opened_at,
                    reserved,
                } = open;
                self.ended.push_back(EndedBatch {
                    bytes,
                    records,
                    state,
                    reserved,
                    opened_at,
                    stamped,
                });
            }
            Err(error) => {
                self.builder.clear();
                memory.release(open.reserved);
                open.state.complete(Err(unencodable(error)));
            }
        }
    }
}

impl EndedBatch {
    /// Makes the batch `producer`'s.
    pub fn stamp(&mut self, producer: Option<(Identity, i32)>) {
        if self.stamped == producer {
            return;
        }
        let (identity, sequence) = producer.unwrap_or((
            Identity {
                producer_id: -1,
                producer_epoch: -1,
            },
            -1,
        ));
        let mut bytes = BytesMut::from(std::mem::take(&mut self.bytes));
        bytes[43..51].copy_from_slice(&identity.producer_id.to_be_bytes());
        bytes[51..53].copy_from_slice(&identity.producer_epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        self.bytes = bytes.freeze();
        self.stamped = producer;
    }
}

impl TopicBuffers {
    /// Tells the partitioner that a batch ended.
    pub fn batch_ended(&self, partitioner: &Partitioner, partition: i32) {
        let count = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        self.cursor.batch_ended(partitioner, partition.cast_unsigned(), count);
    }
}

fn unencodable(error: BuildError) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("The record can't be encoded ({error}): correct it."),
    )
    .with_outcome(crate::error::WriteOutcome::NotWritten)
}

#[cfg(test)]
mod tests {
    use millrace_proto::batch::{BatchView, DecodeLimits};

    use super::*;

    const ME: Identity = Identity {
        producer_id: 9,
        producer_epoch: 0,
    };

    fn buffer(codec: Codec, batch_bytes: usize) -> PartitionBuffer {
        PartitionBuffer::new(
            0,
            BatchRules {
                codec,
                level: None,
                batch_bytes,
            },
            Some(ME),
        )
        .unwrap()
    }

    fn append(buffer: &PartitionBuffer, value: &[u8], memory: &MemoryBudget) -> Appended {
        let record = RecordParts {
            key: None,
            value: Some(value),
            headers: &[],
            timestamp: 5,
        };
        assert!(memory.try_acquire(record.size()));
        buffer.append(&record, record.size(), memory).unwrap()
    }

    fn ended(buffer: &PartitionBuffer) -> Vec<EndedBatch> {
        let mut all = Vec::new();
        buffer.collect(|ended| {
            all = ended;
            None
        });
        all
    }

    #[test]
    fn batches_end_when_full_and_carry_the_predicted_sequence() {
        let (buffer, memory) = (buffer(Codec::None, 1_000), MemoryBudget::new(1 << 20));
        let tells: Vec<bool> = (0..10).map(|_| append(&buffer, &[1; 300], &memory).tell).collect();
        assert_eq!(
            tells.iter().filter(|tell| **tell).count(),
            1,
            "the sender is told once until it looks"
        );
        let batches = ended(&buffer);
        assert_eq!(batches.len(), 4, "two of 300 bytes fit with their upper bounds");
        let mut expected = 0;
        for batch in &batches {
            let view = BatchView::parse(&batch.bytes).unwrap();
            view.verify_crc().unwrap();
            assert!(batch.bytes.len() <= 1_000);
            assert_eq!((view.header().producer_id, view.header().base_sequence), (9, expected));
            expected += batch.records;
        }
        let reserved: usize = batches.iter().map(|batch| batch.reserved).sum();
        assert!(reserved < memory.used(), "the open batch holds the rest");
    }

    #[test]
    fn a_record_larger_than_a_batch_goes_alone() {
        let (buffer, memory) = (buffer(Codec::None, 1_000), MemoryBudget::new(1 << 20));
        append(&buffer, b"small", &memory);
        append(&buffer, &[7; 5_000], &memory);
        append(&buffer, b"small", &memory);
        buffer.end_open(&memory);
        let counts: Vec<i32> = ended(&buffer).iter().map(|batch| batch.records).collect();
        assert_eq!(counts, [1, 1, 1]);
    }

    #[test]
    fn another_stamp_keeps_the_records_and_the_checksum_right() {
        for codec in Codec::ALL {
            let (buffer, memory) = (buffer(codec, 10_000), MemoryBudget::new(1 << 20));
            append(&buffer, b"value", &memory);
            buffer.end_open(&memory);
            let mut batch = ended(&buffer).remove(0);
            let other = Identity {
                producer_id: 77,
                producer_epoch: 3,
            };
            for producer in [Some((other, 41)), Some((other, 41)), None] {
                batch.stamp(producer);
                let view = BatchView::parse(&batch.bytes).unwrap();
                view.verify_crc().unwrap();
                let header = view.header();
                let expected = producer.map_or((-1, -1, -1), |(identity, sequence)| {
                    (identity.producer_id, identity.producer_epoch, sequence)
                });
                assert_eq!(
                    (header.producer_id, header.producer_epoch, header.base_sequence),
                    expected
                );
                let records = view.records(&DecodeLimits::DEFAULT).unwrap();
                assert_eq!(records.iter().next().unwrap().unwrap().value, Some(&b"value"[..]));
            }
        }
    }

    #[test]
    fn incompressible_data_behind_compressible_stays_below_the_bound() {
        let (buffer, memory) = (buffer(Codec::Zstd, 1 << 20), MemoryBudget::new(1 << 30));
        for _ in 0..20_000 {
            append(&buffer, &[0; 1_000], &memory);
        }
        let batches = ended(&buffer);
        assert!(batches.iter().all(|batch| batch.records * 1_000 <= 4 << 20));
        assert!(
            batches.last().unwrap().records > 2_000,
            "a good ratio makes larger batches"
        );
    }

    #[test]
    fn a_dead_partition_refuses_and_gives_back_what_was_not_sent() {
        let (buffer, memory) = (buffer(Codec::None, 1_000), MemoryBudget::new(1 << 20));
        append(&buffer, b"a", &memory);
        assert_eq!(buffer.kill(Error::closed("producer"), &memory).len(), 1);
        let record = RecordParts {
            key: None,
            value: None,
            headers: &[],
            timestamp: 0,
        };
        assert!(buffer.append(&record, 0, &memory).is_err());
    }
}
