//! What a partition's leader may answer: fencing by epoch, how far its log is
//! committed, how far a reader may see.

mod leader;

pub use leader::{FetchBound, Leader, LeaderError, OffsetQuery};
