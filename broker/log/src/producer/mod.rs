//! What a partition remembers of each idempotent producer, so that a retry is never stored twice (KIP-98).

pub mod snapshot;
mod state;

pub use state::{
    ProducerEntry, ProducerState, REMEMBERED_BATCHES, RememberedBatch, SequenceCheck, SequenceError, SequenceRule,
};
