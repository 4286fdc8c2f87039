//! Gaps between batches: who may leave them, and what recovery is told of them.
//!
//! ```text
//!                stored flushed point        gaps below
//!   -----------------------|---------------------|---------------
//!    gaps, but no batch    |  gaps               |  each batch begins where the one
//!    that crosses the end  |                     |  before it ends
//! ```
//!
//! - A leader's appends leave none. Compaction takes whole batches out of sealed segments, never the last one of a
//!   segment; a follower gets what its leader has left. So gaps lie within segments, and each segment but the first begins
//!   where the one before it ends: one that is lost is noticed. The exception is a gap that no segment can span (2^31
//!   offsets): there the next segment begins at its first batch, and the flushed point is stored behind the gap first.
//! - Before the first batch behind a gap is written, or the first batch is taken out, it is durable in `cleaned-offset`
//!   that there may be gaps up to behind it (`gaps.below.offset`). A follower raises that bound far ahead of what it
//!   appends ([`LEAST_OFFSETS_AHEAD`] and four times what the last two segments span), so that it costs a small write
//!   for several segments rather than one for each gap. It is lowered where the log is cut.
//! - Below the stored flushed point there may be gaps in any case. Some batch ends at the point itself.
//!
//! A base offset lies outside of its batch's CRC. One that rose is noticed if it reaches the next batch, crosses the
//! flushed point, a segment's end or this bound; below the flushed point it is damage, above it a torn tail, cut with
//! what follows. One that rose within the gap behind its batch, or that of the log's last batch above the flushed point
//! and below the bound, can't be noticed. A write that was torn leaves zeros, which never raise an offset. Where the
//! flushed point is lost the bound alone tells, and nothing is cut for a gap, but one between segments is reported as
//! missing records: it can't be told from a lost segment. Where the bound is lost as well, gaps may be anywhere within
//! segments.

use std::sync::atomic::Ordering;

use super::LogInner;
use super::append::Fetched;
use crate::error::AppendError;

/// By so many offsets at least the bound is raised beyond what needs it: many segments of usual records, and so few that
/// most bits of an offset still can't flip unnoticed.
const LEAST_OFFSETS_AHEAD: i64 = 1 << 20;

/// So many times what the last two segments span the bound is raised, where records are few and gaps wide.
const SPANS_AHEAD: i64 = 4;

impl LogInner {
    /// Whether the stored bound permits the gaps that these batches leave. The caller holds the writer lock.
    pub(super) fn permits_gaps(&self, fetched: &Fetched) -> bool {
        let stored = self.gaps_below.load(Ordering::Acquire);
        fetched.gaps_end.is_none_or(|end| end <= stored)
    }

    /// Durably permits the gaps that these batches leave, and many more. The caller holds the flush lock, and not the
    /// writer lock: who appends elsewhere does not wait.
    pub(super) fn permit_gaps(&self, fetched: &Fetched) -> Result<(), AppendError> {
        let Some(end) = fetched.gaps_end else { return Ok(()) };
        self.check_change()?;
        let segments = self.segments();
        let since = segments[segments.len().saturating_sub(2)].base_offset;
        let span = self.log_end().saturating_sub(since);
        let ahead = span.saturating_mul(SPANS_AHEAD).max(LEAST_OFFSETS_AHEAD);
        self.change_cleaned(|cleaned| cleaned.gaps_below = cleaned.gaps_below.max(end.saturating_add(ahead)))
            .map_err(|error| self.refused_append(self.shared.refuse_or_fail("noting gaps", &error)))
    }
}
