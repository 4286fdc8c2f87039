//! Entries of the offset index.

use super::file::IndexEntry;

/// The last offset of a batch, relative to the segment's base, and the file position where that batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of the batch less the segment's base offset.
    pub relative_offset: u32,
    /// Where the batch begins, in bytes.
    pub position: u32,
}

impl IndexEntry for OffsetEntry {
    const SIZE: usize = 8;

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut relative = [0; 4];
        let mut position = [0; 4];
        relative.copy_from_slice(&bytes[..4]);
        position.copy_from_slice(&bytes[4..8]);
        OffsetEntry {
            relative_offset: u32::from_be_bytes(relative),
            position: u32::from_be_bytes(position),
        }
    }

    fn follows(self, previous: Option<Self>) -> bool {
        // Kafka's readers take both fields as signed.
        let fits = self.relative_offset <= i32::MAX as u32 && self.position <= i32::MAX as u32;
        // The first batch of a segment is never indexed, so a zero position is a hole that a crash left.
        fits && self.position > 0
            && previous.is_none_or(|last| last.relative_offset < self.relative_offset && last.position < self.position)
    }
}
