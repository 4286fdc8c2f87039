//! The budget for bytes in flight: what the broker holds at once of requests and answers,
//! in all and for each connection. When it is used up, reading from sockets stops, so
//! that the senders wait; nothing grows.

mod answer;
mod body;
mod budget;
mod gauges;
mod layer;
mod permits;
mod state;

pub use budget::{ConnectionBudget, MemoryBudget, MemoryPermit, hold};
pub use gauges::MemoryGauges;
pub use layer::{MemoryLayer, MemoryService};
pub use permits::MessagePermits;
pub use state::{StreamState, no_stream_memory};
