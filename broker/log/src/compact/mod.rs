//! The rules of compaction (KIP-58, KIP-354, KIP-534), apart from files, locks and clocks: which part of a log is
//! compacted and when, which record is the last of its key, and what stays of a batch.

pub(crate) mod key_map;
pub(crate) mod plan;
pub(crate) mod rule;

pub use plan::{CompactionBounds, CompactionNeed};
