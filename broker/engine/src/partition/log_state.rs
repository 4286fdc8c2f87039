//! Where the log of a replica begins and ends, as its events told.

/// `start ≤ durable_end ≤ end`.
///
/// ```text
///   start                 durable_end            end
///     |------ on disk --------|---- only written --|
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPositions {
    /// The oldest offset that is kept.
    pub start: i64,
    /// All below is on stable storage. With a flush policy that does not wait for the disk this
    /// is what is written: the caller reports the end that its policy lets count.
    pub durable_end: i64,
    /// Where the next record goes.
    pub end: i64,
}

impl LogPositions {
    /// An order that holds whatever was told.
    pub(super) fn normalised(self) -> Self {
        let start = self.start.max(0);
        let end = self.end.max(start);
        Self {
            start,
            durable_end: self.durable_end.clamp(start, end),
            end,
        }
    }
}
