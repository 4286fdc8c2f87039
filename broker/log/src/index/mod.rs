//! Sparse indexes beside a segment, byte-identical to Kafka's. Derived data: whatever they say is checked against the
//! segment by who uses it, and they can be rebuilt from it.
//!
//! ```text
//! .index      entry: relative offset i32 | position i32           last offset of a batch, where the batch begins
//! .timeindex  entry: timestamp i64 | relative offset i32          largest time so far, last offset of its batch
//! .txnindex   entry: version i16 | producer i64 | first i64 | last i64 | last stable offset i64
//! ```
//!
//! Entries are never preallocated, so a file's length tells how many there are.

pub mod file;
pub mod offset;
pub mod time;
pub mod txn;

pub use file::{IndexEntry, IndexFile};
pub use offset::OffsetEntry;
pub use time::TimeEntry;
