//! What crosses a wire: the gRPC contract and the record batch format.
//!
//! No IO here, and no rule of the broker: only formats, and the checks that a format
//! itself demands.

#[cfg(test)]
mod allocations;
pub mod batch;
pub mod codec;
pub mod decoded;
pub mod encoded;
pub mod internal;
pub mod partitioner;
pub mod v1;
