//! Entries of the time index (KIP-33).

use super::file::IndexEntry;

/// The largest record time of the segment up to and with a batch, and that batch's last offset, relative to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Last offset of the batch that holds that time, less the segment's base offset.
    pub relative_offset: u32,
}

impl IndexEntry for TimeEntry {
    const SIZE: usize = 12;

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut timestamp = [0; 8];
        let mut relative = [0; 4];
        timestamp.copy_from_slice(&bytes[..8]);
        relative.copy_from_slice(&bytes[8..12]);
        TimeEntry {
            timestamp: i64::from_be_bytes(timestamp),
            relative_offset: u32::from_be_bytes(relative),
        }
    }

    fn follows(self, previous: Option<Self>) -> bool {
        self.timestamp >= 0
            && self.relative_offset <= i32::MAX as u32
            && previous
                .is_none_or(|last| last.timestamp < self.timestamp && last.relative_offset < self.relative_offset)
    }
}
