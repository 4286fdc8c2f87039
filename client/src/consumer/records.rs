//! Fetched bytes, decoded as they are read.

use std::sync::Arc;

use bytes::Bytes;
use millrace_proto::batch::{
    self, BatchError, BatchHeader, BatchView, Batches, DecodeLimits, OwnedBatches, OwnedRecords, Record, Records,
};

use crate::{
    error::{Error, ErrorKind, Result},
    offsets::TopicPartition,
    record::ConsumedRecord,
};

/// What one fetch brought of one partition: whole batches. Nothing is copied or decompressed before
/// it is read. Keeps the whole fetched answer in memory.
#[derive(Clone, Debug)]
pub struct FetchedRecords {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Records below this were not asked for.
    pub(super) start: i64,
    pub(super) next_offset: i64,
    pub(super) bytes: Bytes,
    pub(super) high_watermark: i64,
    pub(super) log_start: i64,
}

impl FetchedRecords {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition's number.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The first offset that was asked for: no record below it is given out.
    #[must_use]
    pub fn start_offset(&self) -> i64 {
        self.start
    }

    /// Where reading goes on.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Records below this were committed when the broker answered.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The oldest offset that was kept when the broker answered.
    #[must_use]
    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    /// The batches as they are stored, back to back. The first may begin before
    /// [`start_offset`](Self::start_offset).
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The batches.
    #[must_use]
    pub fn batches(&self) -> FetchedBatches<'_> {
        FetchedBatches {
            fetched: self,
            batches: batch::batches(&self.bytes),
        }
    }

    /// Calls `each` for every record, borrowed: the fastest way through.
    ///
    /// # Errors
    /// [`CorruptRecords`](ErrorKind::CorruptRecords) where records can't be decoded; those before
    /// it were given out.
    pub fn for_each(&self, mut each: impl FnMut(Record<'_>)) -> Result<()> {
        for batch in self.batches() {
            let batch = batch?;
            if batch.header().is_control() {
                continue;
            }
            let records = batch.records()?;
            for record in &records {
                let record = record.map_err(|error| self.corrupt(batch.header().base_offset, &error))?;
                if record.offset >= self.start {
                    each(record);
                }
            }
        }
        Ok(())
    }

    pub(super) fn key(&self) -> TopicPartition {
        (self.topic.clone(), self.partition)
    }

    /// Looks at the checksums, and leaves out the first damaged batch and what follows. The second
    /// value tells of the damage.
    pub(super) fn sound(mut self) -> (Self, Option<Error>) {
        let mut batches = batch::batches(&self.bytes);
        let (mut good, mut next_offset) = (0, self.start);
        while let Some(batch) = batches.next() {
            match batch.and_then(|view| view.verify_crc().map(|()| view.header().next_offset())) {
                Ok(next) => {
                    next_offset = next_offset.max(next);
                    good = batches.position();
                }
                Err(error) => {
                    let error = self.corrupt(next_offset, &error);
                    self.bytes.truncate(good);
                    self.next_offset = next_offset;
                    return (self, Some(error));
                }
            }
        }
        (self, None)
    }

    pub(super) fn corrupt(&self, offset: i64, error: &BatchError) -> Error {
        corrupt(&self.topic, self.partition, offset, error)
    }
}

impl IntoIterator for FetchedRecords {
    type Item = Result<ConsumedRecord>;
    type IntoIter = RecordIterator;

    fn into_iter(self) -> RecordIterator {
        RecordIterator {
            batches: batch::owned_batches(self.bytes.clone()),
            records: None,
            batch_offset: self.start,
            fetched: self,
        }
    }
}

/// Batches of a fetch.
#[derive(Clone, Debug)]
pub struct FetchedBatches<'a> {
    fetched: &'a FetchedRecords,
    batches: Batches<'a>,
}

impl<'a> Iterator for FetchedBatches<'a> {
    type Item = Result<FetchedBatch<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let fetched = self.fetched;
        self.batches.next().map(|view| match view {
            Ok(view) => Ok(FetchedBatch { fetched, view }),
            Err(error) => Err(fetched.corrupt(fetched.start, &error)),
        })
    }
}

/// One batch of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchedBatch<'a> {
    fetched: &'a FetchedRecords,
    view: BatchView<'a>,
}

impl<'a> FetchedBatch<'a> {
    /// The batch's header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        self.view.header()
    }

    /// Exactly this batch.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.view.bytes()
    }

    /// Its records, decompressed if need be; control records and records below
    /// [`FetchedRecords::start_offset`] are among them.
    ///
    /// # Errors
    /// [`CorruptRecords`](ErrorKind::CorruptRecords) if they can't be decompressed, or are more than
    /// the decoder's bounds.
    pub fn records(&self) -> Result<Records<'a>> {
        self.view
            .records(&DecodeLimits::DEFAULT)
            .map_err(|error| self.fetched.corrupt(self.header().base_offset, &error))
    }
}

/// Records of a fetch, each with its own share of the bytes. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIterator {
    /// `start` moves on with the records.
    fetched: FetchedRecords,
    batches: OwnedBatches,
    records: Option<OwnedRecords>,
    batch_offset: i64,
}

impl RecordIterator {
    /// The offset that follows the last record given out.
    pub(crate) fn reached(&self) -> i64 {
        self.fetched.start
    }

    pub(crate) fn key(&self) -> TopicPartition {
        self.fetched.key()
    }

    pub(crate) fn is_of(&self, topic: &str, partition: i32) -> bool {
        &*self.fetched.topic == topic && self.fetched.partition == partition
    }

    /// What was not given out.
    pub(crate) fn rest(self) -> FetchedRecords {
        self.fetched
    }

    fn fail(&mut self, error: &BatchError) -> Error {
        self.records = None;
        self.batches = batch::owned_batches(Bytes::new());
        self.fetched.corrupt(self.batch_offset, error)
    }
}

impl Iterator for RecordIterator {
    type Item = Result<ConsumedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.records {
                match records.next() {
                    Some(Ok(record)) if record.offset < self.fetched.start => {}
                    Some(Ok(record)) => {
                        self.fetched.start = record.offset + 1;
                        return Some(Ok(ConsumedRecord {
                            topic: self.fetched.topic.clone(),
                            partition: self.fetched.partition,
                            offset: record.offset,
                            timestamp: record.timestamp,
                            key: record.key,
                            value: record.value,
                            headers: record.headers.into_iter().map(Into::into).collect(),
                        }));
                    }
                    Some(Err(error)) => return Some(Err(self.fail(&error))),
                    None => self.records = None,
                }
                continue;
            }
            let Some(batch) = self.batches.next() else {
                // Offsets that compaction or control records took are passed as well.
                self.fetched.start = self.fetched.start.max(self.fetched.next_offset);
                return None;
            };
            match batch {
                Ok(batch) if batch.header().is_control() => {}
                Ok(batch) => {
                    self.batch_offset = batch.header().base_offset;
                    match batch.records(&DecodeLimits::DEFAULT) {
                        Ok(records) => self.records = Some(records),
                        Err(error) => return Some(Err(self.fail(&error))),
                    }
                }
                Err(error) => return Some(Err(self.fail(&error))),
            }
        }
    }
}

pub(super) fn corrupt(topic: &Arc<str>, partition: i32, offset: i64, error: &BatchError) -> Error {
    Error::new(
        ErrorKind::CorruptRecords {
            topic: topic.clone(),
            partition,
            offset,
        },
        format!("Records of {topic}-{partition} at offset {offset} are damaged ({error}): seek behind them to go on."),
    )
}

/// What is usable of fetched bytes.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Whole, valid batches.
    pub bytes: Bytes,
    /// The first offset behind them.
    pub next_offset: i64,
    /// The leader epoch of the last one.
    pub leader_epoch: Option<i32>,
    /// What is wrong with what follows.
    pub error: Option<BatchError>,
}

/// Walks over the batches' headers.
pub(super) fn scan(bytes: &Bytes, fetch_offset: i64) -> Scanned {
    let mut batches = batch::batches(bytes);
    let mut scanned = Scanned {
        bytes: Bytes::new(),
        next_offset: fetch_offset,
        leader_epoch: None,
        error: None,
    };
    let (mut good, mut last) = (0, i64::MIN);
    while let Some(batch) = batches.next() {
        let checked = batch.and_then(|view| {
            // Batches that go back would make a reader turn in a circle.
            if view.header().base_offset < last {
                return Err(BatchError::NegativeBaseOffset {
                    base_offset: view.header().base_offset,
                });
            }
            Ok(view)
        });
        match checked {
            Ok(view) => {
                last = view.header().next_offset();
                scanned.next_offset = scanned.next_offset.max(last);
                scanned.leader_epoch = Some(view.header().partition_leader_epoch);
                good = batches.position();
            }
            Err(error) => {
                scanned.error = Some(error);
                break;
            }
        }
    }
    scanned.bytes = bytes.slice(..good);
    scanned
}

#[cfg(test)]
mod tests {
    use millrace_proto::batch::{BatchBuilder, Codec};

    use super::*;

    fn batches(codec: Codec, counts: &[i32]) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        let (mut all, mut offset) = (Vec::new(), 100i64);
        for count in counts {
            for at in 0..*count {
                builder
                    .append(1, None, Some(format!("{}", offset + i64::from(at)).as_bytes()), &[])
                    .unwrap();
            }
            builder.set_base_offset(offset).set_leader_epoch(4);
            all.extend_from_slice(&builder.build().unwrap());
            offset += i64::from(*count);
        }
        Bytes::from(all)
    }

    fn fetched(bytes: Bytes, start: i64) -> FetchedRecords {
        let scanned = scan(&bytes, start);
        assert!(scanned.error.is_none());
        FetchedRecords {
            topic: "t".into(),
            partition: 0,
            start,
            next_offset: scanned.next_offset,
            bytes: scanned.bytes,
            high_watermark: 1_000,
            log_start: 0,
        }
    }

    #[test]
    fn records_below_the_start_are_left_out_in_every_codec() {
        for codec in Codec::ALL {
            let fetched = fetched(batches(codec, &[3, 2]), 101);
            assert_eq!(fetched.next_offset(), 105);
            let mut seen = Vec::new();
            fetched
                .for_each(|record| {
                    assert_eq!(record.value, Some(record.offset.to_string().as_bytes()));
                    seen.push(record.offset);
                })
                .unwrap();
            assert_eq!(seen, [101, 102, 103, 104]);
            let owned: Vec<i64> = fetched.into_iter().map(|record| record.unwrap().offset).collect();
            assert_eq!(owned, seen);
        }
    }

    #[test]
    fn the_rest_of_an_iteration_goes_on_where_it_stopped() {
        let mut records = fetched(batches(Codec::None, &[3, 2]), 100).into_iter();
        assert_eq!(records.next().unwrap().unwrap().offset, 100);
        assert_eq!(records.reached(), 101);
        let rest: Vec<i64> = records
            .rest()
            .into_iter()
            .map(|record| record.unwrap().offset)
            .collect();
        assert_eq!(rest, [101, 102, 103, 104]);
    }

    fn last_batch_len(bytes: &Bytes) -> usize {
        batch::batches(bytes).last().unwrap().unwrap().bytes().len()
    }

    #[test]
    fn a_damaged_batch_ends_what_is_usable_before_it() {
        let bytes = batches(Codec::None, &[3, 2]);
        let mut damaged = bytes.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let scanned = scan(&Bytes::from(damaged.clone()), 100);
        assert_eq!(
            (scanned.next_offset, scanned.leader_epoch),
            (105, Some(4)),
            "headers alone"
        );
        let (sound, damage) = fetched(damaged.into(), 101).sound();
        assert!(matches!(
            damage.unwrap().kind(),
            ErrorKind::CorruptRecords { offset: 103, .. }
        ));
        assert_eq!(
            (sound.next_offset, sound.bytes.len()),
            (103, bytes.len() - last_batch_len(&bytes))
        );
        let (sound, damage) = fetched(bytes.clone(), 101).sound();
        assert!(damage.is_none());
        assert_eq!((sound.next_offset, sound.bytes), (105, bytes.clone()));
        let scanned = scan(&bytes.slice(..bytes.len() - 5), 100);
        assert!(matches!(scanned.error, Some(BatchError::Incomplete { .. })));
        assert_eq!(scanned.next_offset, 103);
    }

    #[test]
    fn batches_that_go_back_are_damage() {
        let mut twice = batches(Codec::None, &[3]).to_vec();
        twice.extend_from_slice(&twice.clone());
        let scanned = scan(&Bytes::from(twice), 100);
        assert!(scanned.error.is_some());
        assert_eq!(scanned.next_offset, 103);
    }
}
