//! Looking at the producers of a partition, and forgetting idle ones.

use std::io;
use std::sync::atomic::Ordering;

use super::{Log, LogInner};
use crate::error::ReadError;
use crate::producer::ProducerState;
use crate::segment::LocateError;

/// So often the producers are made out anew if the log start moves meanwhile, or the log is cut.
const START_ATTEMPTS: usize = 8;

/// One active producer, as Kafka's DescribeProducers shows it (KIP-664).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerDescription {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// Sequence of its last record, or -1.
    pub last_sequence: i32,
    /// Offset of its last record, or -1.
    pub last_offset: i64,
    /// Largest timestamp of its last batch.
    pub last_timestamp: i64,
    /// Batches that a retry is still compared with.
    pub remembered_batches: usize,
}

impl Log {
    /// All producers that are remembered, by id.
    #[must_use]
    pub fn producers(&self) -> Vec<ProducerDescription> {
        let writer = self.inner.writer.lock();
        writer
            .producers
            .entries()
            .iter()
            .map(|(id, entry)| ProducerDescription {
                producer_id: *id,
                producer_epoch: entry.epoch,
                last_sequence: entry.last_sequence(),
                last_offset: entry.last_batch().map_or(-1, |batch| batch.last_offset),
                last_timestamp: entry.last_timestamp,
                remembered_batches: entry.batches.len(),
            })
            .collect()
    }

    /// Forgets producers that were not used for `producer.id.expiration.ms`; returns how many. Time since the last
    /// use alone counts, never whether their data is still there (KAFKA-7190).
    pub fn expire_producers(&self, now_ms: i64) -> usize {
        let expiration_ms = self.inner.config().producer_id_expiration_ms;
        self.inner.writer.lock().producers.expire(now_ms, expiration_ms)
    }

    /// The whole producer state, for comparisons.
    #[must_use]
    pub fn producer_state(&self) -> ProducerState {
        self.inner.writer.lock().producers.clone()
    }

    /// The log start, and the producers as of it: of whole batches below it, which may be deleted. With them a log that
    /// begins at that start, and gets all batches from there on, knows of all producers what this one knows.
    ///
    /// May read the headers of a whole segment.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::Io`] also if the log start moves again and again meanwhile.
    pub fn producers_at_start(&self) -> Result<(i64, ProducerState), ReadError> {
        let inner = &*self.inner;
        for _ in 0..START_ATTEMPTS {
            inner.check_read()?;
            let seen = || (inner.log_start(), inner.truncations.load(Ordering::SeqCst));
            let before = seen();
            let made = inner.producers_below(before.0);
            // What retention or a truncation removes meanwhile is missed.
            if before.1.is_multiple_of(2) && seen() == before {
                return Ok((before.0, made?));
            }
            std::thread::yield_now();
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "the log start is moving: try again").into())
    }
}

impl LogInner {
    /// The producers as of the batch that holds `start`, or comes first behind it.
    fn producers_below(&self, start: i64) -> io::Result<ProducerState> {
        let segments = self.segments();
        let at = segments
            .partition_point(|segment| segment.base_offset <= start)
            .saturating_sub(1);
        let segment = &segments[at];
        let end = match segment.locate(start, &self.resume_points(segment.base_offset)) {
            Ok(Some(found)) => found.header.base_offset.min(start),
            Ok(None) => start,
            Err(LocateError::Bad { next_offset, .. }) => next_offset.min(start),
            Err(LocateError::Io(error)) => return Err(error),
        };
        Ok(self.producers_at(end)?.0)
    }
}
