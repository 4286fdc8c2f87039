//! What opening or scrubbing a log found.

/// Records that are there but damaged, or missing where they must be. They are kept for inspection, never served and
/// never cut: a replica in this state re-fetches from a good one (Alagappan et al., FAST'18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// First damaged offset.
    pub from: i64,
    /// First offset behind the damage.
    pub to: i64,
    /// Base offset of the segment it lies in.
    pub segment: i64,
    /// Where in the segment the damage begins, in bytes.
    pub position: u64,
    /// Where in the segment sound batches go on, if they do.
    pub resume_position: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last process did not close the directory, or the flushed point is not known.
    pub unclean: bool,
    /// The flushed point was lost or garbled, so that everything was scanned.
    pub flushed_point_unknown: bool,
    /// Bytes whose CRC was checked.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut and erased.
    pub truncated_bytes: u64,
    /// Damage that was found. Not a torn tail: it lies below the flushed point, or sound records follow.
    pub damage: Vec<DamagedRange>,
    /// Segments the log has.
    pub segments: usize,
    /// Batches replayed to rebuild the producer state.
    pub replayed_batches: u64,
}
