//! Looking at the producers of a partition, and forgetting idle ones.

use super::Log;
use crate::error::ReadError;
use crate::producer::ProducerState;

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

    /// The log start, and what is known of producers by batches that end below it, which may be deleted. A log that
    /// begins there with it, and gets all batches from there on, knows of all producers what this one knows.
    ///
    /// Kept batches below `committed`, the high watermark, are cut nowhere: of a producer of which one is remembered they
    /// tell, and it is left out. Of one of which only later ones are remembered it is looked up which of them is the
    /// first, since that tells where sequences stood before it should all of them be cut. That reads headers from
    /// `committed` on; without such a producer nothing of the disk is asked.
    ///
    /// # Errors
    /// See [`ReadError`]; also if what was remembered is cut meanwhile, as no leader's is.
    pub fn producers_at_start(&self, committed: i64) -> Result<(i64, ProducerState), ReadError> {
        let (start, mut known, uncommitted) = {
            // Both under the lock under which batches are added; the start may rise meanwhile, which then is asked anew.
            let writer = self.inner.writer.lock();
            let start = self.inner.log_start();
            let producers = &writer.producers;
            (
                start,
                producers.below(start),
                producers.remembered_from(committed.max(start)),
            )
        };
        if !uncommitted.is_empty() {
            for first in self.first_batches(committed.max(start), &uncommitted)? {
                known.stood_before(&first, start);
            }
        }
        Ok((start, known))
    }
}
