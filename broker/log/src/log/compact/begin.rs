//! What there is to compact, and the beginning of a round.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;

use millrace_proto::batch::BatchFilter;

use super::{Compaction, CompactionOptions, CompactionReport, CompactionTraffic, Planned};
use crate::compact::key_map::KeyMap;
use crate::compact::plan::{CompactionBounds, CompactionNeed, SegmentFacts, assess};
use crate::compact::rule::Rules;
use crate::error::CompactionError;
use crate::log::replay::Replayed;
use crate::log::{Log, LogInner};

/// Keys that a map has room for, beside one for so many bytes, where its options let it: little enough for a small
/// log, and for records that compress well all the same.
const LEAST_KEYS: u64 = 1 << 16;
const BYTES_A_KEY: u64 = 4;

impl Log {
    /// What there is to compact, and whether that is due. Cheap: looks at sizes, and at times if a lag is set.
    ///
    /// # Errors
    /// The log is closed, the directory offline, or a file can't be read.
    pub fn compaction_need(&self, bounds: &CompactionBounds, now_ms: i64) -> Result<CompactionNeed, CompactionError> {
        let inner = &*self.inner;
        inner.check_change()?;
        let limit = inner.durable_end();
        inner.assess(&inner.planned(now_ms)?, bounds, limit, now_ms)
    }

    /// Begins a round, if there is anything to do, due or not. Nothing at or above the bounds, the durable end or the
    /// active segment's base is looked at. `bounds` is asked when it is certain that a cut from there on ends the round:
    /// bounds of before a cut tell nothing of what was appended after it. `now_ms` is the broker's clock in milliseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// [`CompactionError::Busy`] while another one is under way, [`CompactionError::Damaged`] if damage is known where
    /// it would have to read; see there.
    pub fn begin_compaction(
        &self,
        bounds: impl FnOnce() -> CompactionBounds,
        options: &CompactionOptions,
        now_ms: i64,
    ) -> Result<Option<Compaction>, CompactionError> {
        let inner = &*self.inner;
        inner.check_change()?;
        if inner.compacting.swap(true, Ordering::AcqRel) {
            return Err(CompactionError::Busy);
        }
        let begun = self.plan_round(bounds, options, now_ms);
        if !matches!(begun, Ok(Some(_))) {
            inner.compacting.store(false, Ordering::Release);
        }
        begun
    }

    fn plan_round(
        &self,
        bounds: impl FnOnce() -> CompactionBounds,
        options: &CompactionOptions,
        now_ms: i64,
    ) -> Result<Option<Compaction>, CompactionError> {
        let inner = &*self.inner;
        let cuts = inner.truncations.load(Ordering::SeqCst);
        let bounds = bounds();
        let limit = inner.store_durable_end(self)?;
        let mut planned = inner.planned(now_ms)?;
        let need = inner.assess(&planned, &bounds, limit, now_ms)?;
        let log_start = inner.log_start();
        planned.retain(|planned| planned.facts.end_offset > log_start && planned.facts.end_offset <= need.end_offset);
        if planned.is_empty() || (need.dirty_bytes == 0 && !need.is_due) {
            return Ok(None);
        }
        inner.check_damage(&planned)?;
        let from = need.first_dirty_offset;
        let to_map: VecDeque<Planned> = planned
            .iter()
            .filter(|planned| planned.facts.end_offset > from)
            .cloned()
            .collect();
        // Not up to the end of the round: where the one before ended within a segment, and nothing is to be mapped, there may
        // be a gap right before it, which would look like damage.
        let copied_end = planned.last().map_or(need.end_offset, |last| last.facts.end_offset);
        let producers = match inner.last_offsets(copied_end) {
            // It was cut meanwhile: no wonder that something was not there.
            Err(CompactionError::Damaged { .. }) if inner.truncations.load(Ordering::SeqCst) != cuts => {
                return Ok(None);
            }
            producers => producers?,
        };
        let records = need.dirty_bytes / BYTES_A_KEY + LEAST_KEYS;
        let rules = Rules {
            map: KeyMap::new(options.map_bytes, records, &options.hash_key),
            first_dirty_offset: from,
            map_end: need.end_offset,
            delete_retention_ms: inner.config().delete_retention_ms.max(0),
            longest_copy_ms: inner.cleaned().map_err(CompactionError::from_read)?.longest_copy_ms,
            producers,
            // Nothing comes before offset 0.
            epoch_starts: inner
                .epochs
                .read()
                .entries()
                .iter()
                .map(|entry| entry.start_offset)
                .filter(|start| *start > 0)
                .collect(),
        };
        Ok(Some(Compaction {
            log: self.clone(),
            cuts,
            to_map,
            position: 0,
            chain: None,
            to_copy: planned.into(),
            copying: None,
            rules,
            filter: BatchFilter::default(),
            earliest_horizon_ms: None,
            report: CompactionReport::default(),
            traffic: CompactionTraffic::default(),
            is_over: false,
        }))
    }
}

impl LogInner {
    /// The sealed segments, oldest first.
    fn planned(&self, now_ms: i64) -> Result<Vec<Planned>, CompactionError> {
        let config = self.config();
        let wants_times = config.min_compaction_lag_ms > 0 || config.max_compaction_lag_ms.is_some();
        let cleaned = self.cleaned().map_err(CompactionError::from_read)?;
        let segments = self.segments();
        let mut planned = Vec::new();
        for pair in segments.windows(2) {
            let (segment, end_offset) = (pair[0].clone(), pair[1].base_offset);
            let times_ms = if wants_times && end_offset > cleaned.offset {
                let about = |time| self.about_ms(&segment, time, now_ms);
                let read = || -> io::Result<(i64, i64)> {
                    let first = segment.first_timestamp()?.unwrap_or(-1);
                    Ok((about(first)?, about(segment.max_timestamp()?)?))
                };
                Some(read().map_err(CompactionError::from_read)?)
            } else {
                None
            };
            let facts = SegmentFacts {
                base_offset: segment.base_offset,
                end_offset,
                size_bytes: segment.size(),
                times_ms,
            };
            planned.push(Planned { segment, facts });
        }
        Ok(planned)
    }

    fn assess(
        &self,
        planned: &[Planned],
        bounds: &CompactionBounds,
        limit: i64,
        now_ms: i64,
    ) -> Result<CompactionNeed, CompactionError> {
        let cleaned = self.cleaned().map_err(CompactionError::from_read)?;
        let facts: Vec<SegmentFacts> = planned.iter().map(|planned| planned.facts).collect();
        let limit = limit.min(bounds.high_watermark).min(bounds.last_stable_offset);
        Ok(assess(
            &facts,
            &cleaned,
            self.log_start(),
            limit,
            &self.config(),
            now_ms,
        ))
    }

    /// Recovery takes gaps for damage above the stored flushed point: so that is brought up to what is durable first.
    /// Returns what is stored.
    fn store_durable_end(&self, log: &Log) -> Result<i64, CompactionError> {
        log.flush()?;
        self.shared
            .store_all(std::slice::from_ref(&log.inner))
            .map_err(|error| self.refuse_or_fail("storing the flushed point", &error))?;
        Ok(self.shared.stored_flushed(&self.name).map_or(0, |point| point.offset))
    }

    /// The last offset below `end` of each producer that is still remembered.
    fn last_offsets(&self, end: i64) -> Result<HashMap<i64, i64>, CompactionError> {
        let Replayed { state, damage, .. } = self.producers_at(end).map_err(CompactionError::from_read)?;
        if let Some(range) = damage.into_iter().next() {
            return Err(CompactionError::Damaged {
                segment: range.segment,
                position: range.position,
                offset: range.from,
                reason: range.reason,
            });
        }
        let writer = self.writer.lock();
        let known = writer.producers.entries();
        Ok(state
            .entries()
            .iter()
            .filter(|(id, _)| known.contains_key(id))
            .filter_map(|(id, entry)| Some((*id, entry.last_batch()?.last_offset)))
            .collect())
    }

    pub(super) fn refuse_or_fail(&self, what: &str, error: &io::Error) -> CompactionError {
        self.shared.refuse_or_fail(what, error).into()
    }
}
