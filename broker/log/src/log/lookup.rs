//! Finding records by time, and batches by producer.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use millrace_proto::batch::{BatchHeader, BatchView, DecodeLimits, TimestampType};

use super::{Log, LogInner};
use crate::error::ReadError;
use crate::segment::scan::{Chain, Scan};
use crate::segment::{LocateError, Located, Segment};

/// The first record at or after a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// Its offset.
    pub offset: i64,
    /// Its time.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub leader_epoch: i32,
}

/// A batch found by its producer and sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBatch {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Its largest timestamp.
    pub timestamp: i64,
}

impl Log {
    /// The first record with a time of `timestamp` or later, at or after the log start and below `up_to`: what a
    /// scan of all records would find, not what the sparse index says (KIP-33). Control records do not count.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn offset_for_timestamp(&self, timestamp: i64, up_to: i64) -> Result<Option<FoundOffset>, ReadError> {
        self.stable(|inner| inner.search_time(timestamp, up_to))
    }

    /// Searches the last `search_bytes_back` bytes for a batch of this producer, epoch, first and last sequence: to
    /// answer the retry of a batch that is no longer remembered. As in Kafka one with the same first sequence and
    /// another length is no retry: it holds other records, and must not be given this one's offsets.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn find_batch(
        &self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        last_sequence: i32,
        search_bytes_back: u64,
    ) -> Result<Option<FoundBatch>, ReadError> {
        let is_wanted = |header: &BatchHeader| {
            header.producer_id == producer_id
                && header.producer_epoch == producer_epoch
                && header.base_sequence == base_sequence
                && header.last_sequence() == last_sequence
                && !header.is_control()
        };
        self.stable(|inner| {
            let segments = inner.segments();
            let mut left = search_bytes_back;
            for segment in segments.iter().rev() {
                if left == 0 {
                    break;
                }
                let from = segment.position_before_end(left)?;
                let found = search_batch(segment, from, is_wanted)?;
                if found.is_some() {
                    return Ok(found);
                }
                left = left.saturating_sub(segment.size());
            }
            Ok(None)
        })
    }

    /// The first batch from `offset` on of each of these producers, which all have one.
    ///
    /// # Errors
    /// See [`ReadError`]; also if one is missing.
    pub(crate) fn first_batches(&self, offset: i64, producers: &BTreeSet<i64>) -> Result<Vec<BatchHeader>, ReadError> {
        self.stable(|inner| inner.first_batches(offset, producers.clone()))
    }

    /// Runs a search again if a truncation came in between.
    pub(super) fn stable<T>(&self, search: impl Fn(&LogInner) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let inner = &*self.inner;
        inner.check_read()?;
        for _ in 0..8 {
            let before = inner.truncations.load(Ordering::SeqCst);
            let result = search(inner);
            if before.is_multiple_of(2) && inner.truncations.load(Ordering::SeqCst) == before {
                return result;
            }
            std::thread::yield_now();
        }
        let _writer = inner.writer.lock();
        search(inner)
    }
}

fn search_batch(
    segment: &Segment,
    from: u64,
    is_wanted: impl Fn(&BatchHeader) -> bool,
) -> io::Result<Option<FoundBatch>> {
    let file = segment.file()?;
    let mut chain = Chain::at(segment.base_offset);
    let mut scan = Scan::new(&*file, from, segment.size());
    let mut found = None;
    // Damage ends the walk: what lies behind it is not served either.
    while let Ok(Some((_, header))) = scan.next_header(segment.base_offset, &mut chain)? {
        if is_wanted(&header) {
            found = Some(FoundBatch {
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                timestamp: header.max_timestamp,
            });
        }
    }
    Ok(found)
}

impl LogInner {
    fn search_time(&self, timestamp: i64, up_to: i64) -> Result<Option<FoundOffset>, ReadError> {
        let log_start = self.log_start();
        let bound = up_to.min(self.log_end());
        for segment in self.segments().iter() {
            if segment.base_offset >= bound {
                break;
            }
            if segment.size() == 0 || segment.max_timestamp()? < timestamp {
                continue;
            }
            if let Some(found) = self.search_time_in(segment, timestamp, log_start, bound)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn search_time_in(
        &self,
        segment: &Segment,
        timestamp: i64,
        log_start: i64,
        bound: i64,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let fs = &*self.shared.fs;
        // All records up to an entry's batch are no later than the entry: those before the target need no look.
        let entry = segment
            .with_indexes(|indexes| indexes.times.last_where(fs, |entry| entry.timestamp < timestamp))
            .map_err(ReadError::Io)??;
        let from = entry.map_or(segment.base_offset, |entry| {
            segment.base_offset + i64::from(entry.relative_offset)
        });
        let resume = self.resume_points(segment.base_offset);
        // An index is derived data: the entry counts only if its batch agrees.
        if let Some(entry) = entry {
            let agrees = matches!(
                segment.locate(from, &resume),
                Ok(Some(found)) if found.header.last_offset() == from && found.header.max_timestamp == entry.timestamp
            );
            if !agrees {
                segment.repair_indexes()?;
                return self.search_time_from(segment, segment.base_offset, timestamp, log_start, bound);
            }
        }
        self.search_time_from(segment, from, timestamp, log_start, bound)
    }

    fn first_batches(&self, offset: i64, mut missing: BTreeSet<i64>) -> Result<Vec<BatchHeader>, ReadError> {
        let segments = self.segments();
        let holding = segments.partition_point(|segment| segment.base_offset <= offset);
        let mut found = Vec::new();
        for segment in &segments[holding.saturating_sub(1)..] {
            let from = offset.max(segment.base_offset);
            let Some(located) = self.locate(segment, from)? else {
                continue;
            };
            let file = segment.file()?;
            let mut chain = Chain::at(located.header.base_offset);
            let mut scan = Scan::new(&*file, located.position, segment.size());
            loop {
                let header = match scan.next_header(segment.base_offset, &mut chain)? {
                    Ok(Some((_, header))) => header,
                    Ok(None) => break,
                    Err(reason) => {
                        return Err(self.corrupt(segment, scan.position(), chain.next_offset, &reason)?);
                    }
                };
                if !header.is_control() && missing.remove(&header.producer_id) {
                    found.push(header);
                    if missing.is_empty() {
                        return Ok(found);
                    }
                }
            }
        }
        // They were there a moment ago: the log was cut.
        Err(ReadError::OffsetOutOfRange {
            offset,
            log_start: self.log_start(),
            log_end: self.log_end(),
        })
    }

    fn locate(&self, segment: &Segment, offset: i64) -> Result<Option<Located>, ReadError> {
        match segment.locate(offset, &self.resume_points(segment.base_offset)) {
            Ok(located) => Ok(located),
            Err(LocateError::Io(error)) => Err(error.into()),
            Err(LocateError::Bad {
                position,
                next_offset,
                reason,
            }) => Err(self.corrupt(segment, position, next_offset, &reason)?),
        }
    }

    fn search_time_from(
        &self,
        segment: &Segment,
        from: i64,
        timestamp: i64,
        log_start: i64,
        bound: i64,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let Some(located) = self.locate(segment, from.max(log_start))? else {
            return Ok(None);
        };
        let file = segment.file()?;
        let mut chain = Chain::at(located.header.base_offset);
        let mut scan = Scan::new(&*file, located.position, segment.size());
        loop {
            let (position, header) = match scan.next_header(segment.base_offset, &mut chain)? {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(None),
                Err(reason) => return Err(self.corrupt(segment, scan.position(), chain.next_offset, &reason)?),
            };
            if header.base_offset >= bound {
                return Ok(None);
            }
            if header.max_timestamp < timestamp || header.is_control() || header.last_offset() < log_start {
                continue;
            }
            let bytes = file.read_at(position, header.size_in_bytes())?;
            match first_record_at(&bytes, timestamp, log_start, bound) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => return Err(self.corrupt(segment, position, header.base_offset, &error)?),
            }
        }
    }
}

fn first_record_at(
    batch: &[u8],
    timestamp: i64,
    log_start: i64,
    bound: i64,
) -> Result<Option<FoundOffset>, millrace_proto::batch::BatchError> {
    let view = BatchView::parse(batch)?;
    view.verify_crc()?;
    let header = view.header();
    let leader_epoch = header.partition_leader_epoch;
    let records = view.records(&DecodeLimits::default())?;
    for record in records.iter() {
        let record = record?;
        let time = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => record.timestamp,
        };
        if record.offset >= log_start && time >= timestamp {
            let found = FoundOffset {
                offset: record.offset,
                timestamp: time,
                leader_epoch,
            };
            return Ok((record.offset < bound).then_some(found));
        }
    }
    Ok(None)
}
