//! Which part of a log is compacted, when that is due, and which segments become one.
//!
//! ```text
//!    log start        cleaned                 end of the round        active segment
//!        | one record a key |     dirty             | too young, not      |
//!        |                  |                       | committed, open     |
//!   -----+------------------+-----------------------+---------------------+-----
//! ```

use std::ops::Range;

use crate::checkpoint::cleaned::Cleaned;
use crate::config::LogConfig;

/// Bounds that the log does not know itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionBounds {
    /// Nothing at or above the high watermark is looked at: a record that is cut later must not have replaced one that
    /// is committed (KAFKA-13194).
    pub high_watermark: i64,
    /// Nor at or above the last stable offset; the high watermark where there are no transactions.
    pub last_stable_offset: i64,
}

/// What there is to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionNeed {
    /// The first offset that was not compacted yet.
    pub first_dirty_offset: i64,
    /// Where the next compaction ends: the base of a segment.
    pub end_offset: i64,
    /// Bytes of segments that are compacted.
    pub clean_bytes: u64,
    /// Bytes of segments that are not, up to the end.
    pub dirty_bytes: u64,
    /// The dirty share is large enough, a dirty record too old, or a tombstone's time has come.
    pub is_due: bool,
}

/// What the plan must know of a sealed segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentFacts {
    pub base_offset: i64,
    /// The base of the next segment.
    pub end_offset: i64,
    pub size_bytes: u64,
    /// About when the first and the last of its records were written, in milliseconds; of dirty segments only.
    pub times_ms: Option<(i64, i64)>,
}

/// Looks at the sealed segments, oldest first. `limit` is where the high watermark and the like end all.
pub(crate) fn assess(
    segments: &[SegmentFacts],
    cleaned: &Cleaned,
    log_start: i64,
    limit: i64,
    config: &LogConfig,
    now_ms: i64,
) -> CompactionNeed {
    let first_dirty_offset = cleaned.offset.max(log_start);
    let mut need = CompactionNeed {
        first_dirty_offset,
        end_offset: first_dirty_offset,
        clean_bytes: 0,
        dirty_bytes: 0,
        is_due: false,
    };
    let mut oldest_ms = i64::MAX;
    for segment in segments.iter().filter(|segment| segment.end_offset > log_start) {
        if segment.end_offset <= first_dirty_offset {
            need.clean_bytes += segment.size_bytes;
            continue;
        }
        let (first_ms, last_ms) = segment.times_ms.unwrap_or((i64::MAX, i64::MIN));
        let too_young =
            config.min_compaction_lag_ms > 0 && now_ms.saturating_sub(last_ms) < config.min_compaction_lag_ms;
        if segment.end_offset > limit || too_young {
            break;
        }
        oldest_ms = oldest_ms.min(first_ms);
        need.dirty_bytes += segment.size_bytes;
        need.end_offset = segment.end_offset;
    }
    let all_bytes = u128::from(need.clean_bytes) + u128::from(need.dirty_bytes);
    let is_dirty = need.dirty_bytes > 0
        && u128::from(need.dirty_bytes) * 1_000_000 >= all_bytes * u128::from(config.min_cleanable_dirty_ppm);
    let too_old = need.dirty_bytes > 0
        && config
            .max_compaction_lag_ms
            .is_some_and(|lag| now_ms.saturating_sub(oldest_ms) > lag);
    let passed = need.clean_bytes > 0
        && cleaned
            .earliest_horizon_ms
            .is_some_and(|horizon| has_passed(horizon, cleaned.longest_copy_ms, now_ms));
    need.is_due = is_dirty || too_old || passed;
    need
}

/// Whether a tombstone with this delete horizon may go. While the segments were copied in which it was set, readers
/// could still get the records that the tombstone deletes: their time counts from the end of that.
pub(crate) fn has_passed(horizon_ms: i64, longest_copy_ms: i64, now_ms: i64) -> bool {
    horizon_ms.saturating_add(longest_copy_ms) <= now_ms
}

/// Runs of neighbouring segments that become one each: as large as `max_bytes`, if they had several, and with offsets
/// that a segment's indexes can tell (KAFKA-6264). All of `segments` are in one.
pub(crate) fn groups(segments: &[SegmentFacts], max_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut size_bytes = 0;
    for (at, segment) in segments.iter().enumerate() {
        if let Some(group) = groups.last_mut()
            && size_bytes + segment.size_bytes <= max_bytes
            && segment.end_offset - 1 - segments[group.start].base_offset <= i64::from(i32::MAX)
        {
            group.end = at + 1;
            size_bytes += segment.size_bytes;
        } else {
            groups.push(at..at + 1);
            size_bytes = segment.size_bytes;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base_offset: i64, end_offset: i64, size_bytes: u64) -> SegmentFacts {
        SegmentFacts {
            base_offset,
            end_offset,
            size_bytes,
            times_ms: Some((base_offset, end_offset - 1)),
        }
    }

    fn cleaned(offset: i64) -> Cleaned {
        Cleaned {
            offset,
            gaps_below: offset,
            ..Cleaned::default()
        }
    }

    const SEGMENTS: [(i64, i64, u64); 4] = [(0, 10, 100), (10, 20, 100), (20, 30, 100), (30, 40, 100)];

    fn segments() -> Vec<SegmentFacts> {
        SEGMENTS
            .iter()
            .map(|(base, end, size)| segment(*base, *end, *size))
            .collect()
    }

    #[test]
    fn only_whole_segments_below_the_limit_count() {
        let config = LogConfig::default();
        for limit in 0..50 {
            let need = assess(&segments(), &cleaned(0), 0, limit, &config, 1_000);
            assert_eq!(need.end_offset, (limit / 10 * 10).min(40), "limit {limit}");
            assert_eq!(need.dirty_bytes, (limit as u64 / 10 * 100).min(400));
            assert_eq!(need.is_due, limit >= 10);
        }
    }

    #[test]
    fn what_is_dirty_decides() {
        let mut config = LogConfig::default();
        for (offset, clean, dirty, due) in [
            (0, 0, 400, true),
            // A segment that is clean in part is dirty.
            (5, 0, 400, true),
            (10, 100, 300, true),
            (20, 200, 200, true),
            (30, 300, 100, false),
            (40, 400, 0, false),
        ] {
            let need = assess(&segments(), &cleaned(offset), 0, 40, &config, 1_000);
            assert_eq!(
                (need.clean_bytes, need.dirty_bytes, need.is_due),
                (clean, dirty, due),
                "{offset}"
            );
            assert_eq!(need.first_dirty_offset, offset);
        }
        config.min_cleanable_dirty_ppm = 0;
        assert!(assess(&segments(), &cleaned(30), 0, 40, &config, 1_000).is_due);
        let nothing = assess(&segments(), &cleaned(40), 0, 40, &config, 1_000);
        assert!(!nothing.is_due, "with nothing dirty no ratio is enough");
        // What lies below the log start is no part of the log.
        let need = assess(&segments(), &cleaned(0), 25, 40, &config, 1_000);
        assert_eq!(
            (need.first_dirty_offset, need.clean_bytes, need.dirty_bytes),
            (25, 0, 200)
        );
    }

    #[test]
    fn young_records_wait_and_old_ones_do_not() {
        let mut config = LogConfig {
            min_compaction_lag_ms: 15,
            ..LogConfig::default()
        };
        for (now, end) in [(23, 0), (24, 10), (33, 10), (34, 20), (54, 40)] {
            let need = assess(&segments(), &cleaned(0), 0, 40, &config, now);
            assert_eq!(need.end_offset, end, "at {now}");
        }
        config.min_compaction_lag_ms = 0;
        config.max_compaction_lag_ms = Some(100);
        assert!(!assess(&segments(), &cleaned(30), 0, 40, &config, 130).is_due);
        assert!(assess(&segments(), &cleaned(30), 0, 40, &config, 131).is_due);
        assert!(!assess(&segments(), &cleaned(40), 0, 40, &config, 131).is_due);
    }

    #[test]
    fn a_tombstone_whose_time_has_come_is_reason_enough() {
        let state = Cleaned {
            earliest_horizon_ms: Some(500),
            longest_copy_ms: 7,
            ..cleaned(40)
        };
        for (now, due) in [(500, false), (506, false), (507, true)] {
            assert_eq!(
                assess(&segments(), &state, 0, 40, &LogConfig::default(), now).is_due,
                due,
                "at {now}"
            );
        }
    }

    #[test]
    fn groups_are_bounded_in_bytes_and_offsets() {
        assert_eq!(groups(&[], 10), []);
        assert_eq!(groups(&segments(), 99), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(groups(&segments(), 200), [0..2, 2..4]);
        assert_eq!(groups(&segments(), 399), [0..3, 3..4]);
        assert_eq!(groups(&segments(), 400).first(), Some(&(0..4)));
        let far = i64::from(i32::MAX) + 1;
        let wide = [segment(0, 10, 1), segment(10, far, 1), segment(far, far + 1, 1)];
        assert_eq!(groups(&wide, 100), [0..2, 2..3]);
    }
}
