//! Looking at the producers of a partition, and forgetting idle ones.

use super::Log;
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
    /// begins there with it, and gets all batches from there on, knows of all producers what this one knows. Costs a
    /// look at each producer, and nothing of the disk.
    ///
    /// Of a producer of which no remembered batch ends below the log start kept batches tell; only where its sequences
    /// stood before them is among it.
    #[must_use]
    pub fn producers_at_start(&self) -> (i64, ProducerState) {
        // Both under the lock under which batches are added; the start may rise meanwhile, which then is asked for anew.
        let writer = self.inner.writer.lock();
        let start = self.inner.log_start();
        (start, writer.producers.below(start))
    }
}
