//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the processor's own instructions where it has
//! them.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of one slice.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits; the library returns all widths as u64.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The checksum of several slices as if they were one.
#[derive(Clone, Debug)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes in the next slice.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The checksum of everything taken in so far; more may follow.
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}
