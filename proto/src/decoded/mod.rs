//! What an encoded request takes in memory once it is decoded, known while it still comes.
//!
//! Two bytes can name an item whose place in memory has a hundred: a message of an allowed size could
//! become a gigabyte. So the receiver reads along and counts, and has the memory, or refuses, before
//! anything is decoded. Nothing here knows a single call: shapes are generated from the contract.

mod counter;
mod shape;

pub use counter::DecodedSize;
pub use shape::{Content, Field, Shape, Shaped, is_unary, shape_of_request};

#[cfg(test)]
mod tests;
