//! Compacting a log: of each key only the last record stays (KIP-58).
//!
//! A round maps the keys of the dirty part to their last offsets, copies all segments from the log start on without
//! the records that have a later one, and puts each copy in place. It goes in steps, which the caller paces; no step
//! holds a lock that an append or a read needs for longer than it takes to change the list of segments.

mod begin;
mod copy;
mod swap;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_proto::batch::{BatchFilter, BatchHeader, BatchView};

use self::copy::GroupCopy;
pub(in crate::log) use self::swap::finish_swaps;
use self::swap::{Swapped, is_current};
use super::{Log, LogInner};
use crate::compact::plan::{SegmentFacts, groups};
use crate::compact::rule::{Counts, Rules, note_keys};
use crate::config::MAX_SEGMENT_BYTES;
use crate::error::CompactionError;
use crate::segment::Segment;
use crate::segment::scan::{Chain, Scan};

/// How a compaction is done.
#[derive(Clone, Copy, Debug)]
pub struct CompactionOptions {
    /// Bytes that the map of keys may take; 24 a key and a third more. What does not fit is left to the next round
    /// (KAFKA-12840). One key always fits.
    pub map_bytes: usize,
    /// A secret, drawn anew for each round: without it two keys can't be made to look like one.
    pub hash_key: [u8; 16],
}

/// Where a compaction stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactionStep {
    /// There is more to do.
    More,
    /// It is at its end.
    Done(CompactionReport),
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// The log is compacted up to here; `None` if the log was cut meanwhile, and it has to be begun again.
    pub cleaned_offset: Option<i64>,
    /// Bytes of the segments that were copied.
    pub bytes_before: u64,
    /// Bytes of what took their place.
    pub bytes_after: u64,
    /// Segments that were replaced.
    pub segments_before: usize,
    /// Segments that took their place.
    pub segments_after: usize,
    /// Records that went because a later one has their key.
    pub superseded_records: u64,
    /// Tombstones that went because `delete.retention.ms` had passed.
    pub deleted_tombstones: u64,
    /// Records that went because they have no key.
    pub records_without_key: u64,
}

/// What a compaction has read and written until now, in bytes of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionTraffic {
    /// Read, those that were read twice counted twice.
    pub read_bytes: u64,
    /// Written to copies, also to those that were given up.
    pub written_bytes: u64,
}

/// One round under way, at most one a log. Dropped before its end it leaves the log whole.
pub struct Compaction {
    log: Log,
    /// The truncation counter when it began: all bounds are void once the log was cut.
    cuts: u64,
    /// Segments whose keys were not noted yet; of the first one `position` bytes were read.
    to_map: VecDeque<Planned>,
    position: u64,
    chain: Option<Chain>,
    /// Segments that were not copied yet.
    to_copy: VecDeque<Planned>,
    copying: Option<GroupCopy>,
    rules: Rules,
    filter: BatchFilter,
    earliest_horizon_ms: Option<i64>,
    report: CompactionReport,
    traffic: CompactionTraffic,
    is_over: bool,
}

/// A segment of the plan.
#[derive(Clone)]
struct Planned {
    segment: Arc<Segment>,
    facts: SegmentFacts,
}

impl Planned {
    /// A base offset lies outside of a batch's checksum: one that rose may reach into the next segment.
    fn check_end(&self, position: u64, expected: i64, header: &BatchHeader) -> Result<(), CompactionError> {
        if header.next_offset() <= self.facts.end_offset {
            return Ok(());
        }
        let reason = format!("the batch ends at {}, above the segment's end", header.last_offset());
        Err(damaged(self, position, expected, &reason))
    }
}

fn damaged(planned: &Planned, position: u64, offset: i64, reason: &dyn std::fmt::Display) -> CompactionError {
    CompactionError::Damaged {
        segment: planned.segment.base_offset,
        position,
        offset,
        reason: reason.to_string(),
    }
}

impl Compaction {
    /// Goes on for about `max_bytes` of reading and writing (at least one batch; reads come in chunks of 4 MiB), or to
    /// the end of a segment that is to be synced and put in place. `now_ms` is the broker's clock.
    ///
    /// # Errors
    /// See [`CompactionError`]. The round is over then, the log whole, and nothing is lost of what was put in place.
    pub fn step(&mut self, max_bytes: u64, now_ms: i64) -> Result<CompactionStep, CompactionError> {
        if self.is_over {
            return Ok(CompactionStep::Done(self.report));
        }
        let inner = self.log.inner.clone();
        inner.check_change()?;
        if self.is_cut() {
            return Ok(self.end());
        }
        self.pass_over_deleted();
        match self.proceed(&inner, max_bytes.max(1), now_ms) {
            Ok(true) => Ok(self.end()),
            Ok(false) => Ok(CompactionStep::More),
            // What was read may have been deleted with the log, or be another log's of the same name.
            Err(CompactionError::Damaged { .. } | CompactionError::Refused(_)) if inner.is_closed() => {
                self.end();
                Err(CompactionError::Closed)
            }
            // What was read may have been cut or deleted meanwhile: no wonder that it was not there.
            Err(CompactionError::Damaged { .. } | CompactionError::Refused(_)) if self.is_cut() => Ok(self.end()),
            Err(CompactionError::Damaged { .. } | CompactionError::Refused(_)) if self.pass_over_deleted() => {
                Ok(CompactionStep::More)
            }
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    /// What it has read and written until now: for whoever paces it.
    #[must_use]
    pub fn traffic(&self) -> CompactionTraffic {
        self.traffic
    }

    fn end(&mut self) -> CompactionStep {
        self.is_over = true;
        self.drop_copy();
        self.log.inner.compacting.store(false, Ordering::Release);
        CompactionStep::Done(self.report)
    }

    fn is_cut(&self) -> bool {
        self.log.inner.truncations.load(Ordering::SeqCst) != self.cuts
    }

    fn drop_copy(&mut self) {
        if let Some(copying) = self.copying.take() {
            self.log.inner.drop_copy(copying.base_offset());
        }
    }

    /// Takes segments out of the plan that retention has deleted since. Returns whether there were any.
    fn pass_over_deleted(&mut self) -> bool {
        let segments = self.log.inner.segments();
        let is_there = |planned: &Planned| is_current(&segments, &planned.segment);
        let before = self.to_map.len() + self.to_copy.len();
        if self.to_map.front().is_some_and(|first| !is_there(first)) {
            self.position = 0;
            self.chain = None;
        }
        self.to_map.retain(is_there);
        self.to_copy.retain(is_there);
        let mut passed = before != self.to_map.len() + self.to_copy.len();
        if self
            .copying
            .as_ref()
            .is_some_and(|copying| !copying.group.iter().all(is_there))
        {
            passed = true;
            self.begin_group_again();
        }
        passed
    }

    /// What is left of the group is copied anew.
    fn begin_group_again(&mut self) {
        let segments = self.log.inner.segments();
        let Some(copying) = self.copying.take() else { return };
        self.log.inner.drop_copy(copying.base_offset());
        for planned in copying.group.into_iter().rev() {
            if is_current(&segments, &planned.segment) {
                self.to_copy.push_front(planned);
            }
        }
    }

    /// True when all is done.
    fn proceed(&mut self, inner: &LogInner, max_bytes: u64, now_ms: i64) -> Result<bool, CompactionError> {
        let mut budget = max_bytes;
        if !self.to_map.is_empty() {
            self.map_keys(&mut budget)?;
            if budget == 0 || !self.to_map.is_empty() {
                return Ok(false);
            }
        }
        if self.copying.is_none() {
            let group = self.next_group(inner);
            self.copying = GroupCopy::begin(inner, group)?;
        }
        let Some(copying) = &mut self.copying else {
            return self.store(inner).map(|()| true);
        };
        let left = copying.left();
        let written = copying.written();
        let is_whole = copying.proceed(inner, &self.rules, &mut self.filter, now_ms, &mut budget)?;
        self.traffic.read_bytes += left - copying.left();
        self.traffic.written_bytes += copying.written() - written;
        if is_whole {
            self.put_in_place(inner, now_ms)?;
        }
        Ok(false)
    }

    /// Notes the keys of dirty records. `to_map` is empty when all are noted, or the map is full.
    fn map_keys(&mut self, budget: &mut u64) -> Result<(), CompactionError> {
        while let Some(planned) = self.to_map.front() {
            let segment = &planned.segment;
            let file = segment.file().map_err(CompactionError::from_read)?;
            let chain = self.chain.get_or_insert_with(|| Chain::at(segment.base_offset));
            let mut scan = Scan::new(&*file, self.position, segment.size());
            loop {
                let expected = chain.next_offset;
                let next = scan.next_batch(segment.base_offset, chain);
                let (position, header, bytes) = match next.map_err(CompactionError::from_read)? {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(reason) => return Err(damaged(planned, scan.position(), chain.next_offset, &reason)),
                };
                planned.check_end(position, expected, &header)?;
                if header.next_offset() > self.rules.first_dirty_offset {
                    let noted = BatchView::parse(&bytes).and_then(|view| note_keys(&mut self.rules, &view));
                    match noted {
                        Ok(true) => {}
                        Ok(false) => {
                            self.to_map.clear();
                            return Ok(());
                        }
                        Err(reason) => return Err(damaged(planned, position, header.base_offset, &reason)),
                    }
                }
                self.traffic.read_bytes += bytes.len() as u64;
                *budget = budget.saturating_sub(bytes.len() as u64);
                if *budget == 0 {
                    self.position = scan.position();
                    return Ok(());
                }
            }
            self.to_map.pop_front();
            self.position = 0;
            self.chain = None;
        }
        Ok(())
    }

    /// The next segments that become one; none above what the map holds.
    fn next_group(&mut self, inner: &LogInner) -> Vec<Planned> {
        let map_end = self.rules.map_end;
        self.to_copy.retain(|planned| planned.facts.base_offset < map_end);
        let facts: Vec<SegmentFacts> = self.to_copy.iter().map(|planned| planned.facts).collect();
        let max_bytes = u64::from(inner.config().segment_bytes.min(MAX_SEGMENT_BYTES));
        let len = groups(&facts, max_bytes).first().map_or(0, |group| group.end);
        self.to_copy.drain(..len).collect()
    }

    fn put_in_place(&mut self, inner: &LogInner, now_ms: i64) -> Result<(), CompactionError> {
        let Some(copying) = self.copying.take() else {
            return Ok(());
        };
        let Counts {
            superseded,
            tombstones,
            without_key,
            earliest_horizon_ms,
            ..
        } = copying.counts;
        let (base_offset, written) = (copying.base_offset(), copying.written());
        let has_records = copying.group.iter().any(|planned| planned.segment.size() > 0);
        if copying.changed && has_records {
            let (group, swapped) = copying
                .finish(inner, &self.rules, now_ms)
                .and_then(|(group, copied)| inner.swap(&group, copied, self.cuts).map(|swapped| (group, swapped)))
                .inspect_err(|_| inner.drop_copy(base_offset))?;
            match swapped {
                Swapped::Yes => {}
                // The next step sees it.
                Swapped::Overtaken => {
                    inner.drop_copy(base_offset);
                    return Ok(());
                }
                Swapped::Outdated => {
                    inner.drop_copy(base_offset);
                    let segments = inner.segments();
                    let left = group.into_iter().rev();
                    left.filter(|planned| is_current(&segments, &planned.segment))
                        .for_each(|planned| self.to_copy.push_front(planned));
                    return Ok(());
                }
            }
            self.report.segments_before += group.len();
            self.report.segments_after += 1;
            self.report.bytes_before += group.iter().map(|planned| planned.segment.size()).sum::<u64>();
            self.report.bytes_after += written;
        } else {
            inner.drop_copy(base_offset);
        }
        self.report.superseded_records += superseded;
        self.report.deleted_tombstones += tombstones;
        self.report.records_without_key += without_key;
        self.earliest_horizon_ms = match (self.earliest_horizon_ms, earliest_horizon_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(())
    }

    /// Stores how far the log is compacted now.
    fn store(&mut self, inner: &LogInner) -> Result<(), CompactionError> {
        // A truncation lowers what is stored: it must not come in between.
        let _no_truncation = inner.flush_lock.lock();
        inner.check_change()?;
        if self.is_cut() {
            return Ok(());
        }
        let (end, horizon) = (self.rules.map_end, self.earliest_horizon_ms);
        inner
            .change_cleaned(|cleaned| {
                cleaned.offset = end;
                cleaned.earliest_horizon_ms = horizon;
            })
            .map_err(|error| inner.refuse_or_fail("storing how far the log is compacted", &error))?;
        self.report.cleaned_offset = Some(end);
        let report = &self.report;
        tracing::info!(partition = %inner.name, ?report, "compacted");
        if report.records_without_key > 0 {
            tracing::warn!(partition = %inner.name, records = report.records_without_key, "records without a key were deleted by compaction");
        }
        Ok(())
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        if !self.is_over {
            self.end();
        }
    }
}
