//! Looking for damage that nobody stumbled on yet.

use std::io;
use std::sync::atomic::Ordering;

use super::{DamagedRange, Log, LogInner};
use crate::error::ReadError;
use crate::segment::Segment;
use crate::segment::scan::{Chain, Scan, resync};

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Bytes whose CRC was checked.
    pub scanned_bytes: u64,
    /// Where to go on; `None` at the end of what is durable.
    pub next_offset: Option<i64>,
    /// Damage that was not known before. It is quarantined: never served from now on.
    pub damage: Vec<DamagedRange>,
}

impl Log {
    /// Checks the CRC of durable batches from `from_offset` on, segment by segment, until `max_bytes` are checked.
    ///
    /// # Errors
    /// The file system's. Damage is no error; it is in the report.
    pub fn scrub(&self, from_offset: i64, max_bytes: u64) -> Result<ScrubReport, ReadError> {
        let inner = &*self.inner;
        inner.check_read()?;
        let mut report = ScrubReport::default();
        let from = from_offset.max(inner.log_start());
        let segments = inner.segments();
        let first = segments
            .partition_point(|segment| segment.base_offset <= from)
            .saturating_sub(1);
        for segment in &segments[first..] {
            if report.scanned_bytes >= max_bytes {
                report.next_offset = Some(segment.base_offset);
                break;
            }
            inner.scrub_segment(segment, &mut report)?;
        }
        Ok(report)
    }
}

impl LogInner {
    /// Reads without a lock, as that takes long; what it finds counts only if nothing was cut meanwhile, which would
    /// look like damage.
    fn scrub_segment(&self, segment: &Segment, report: &mut ScrubReport) -> io::Result<()> {
        let cuts = self.truncations.load(Ordering::SeqCst);
        let found = self.find_damage(segment, &mut report.scanned_bytes);
        let _no_change = self.flush_lock.lock();
        let is_current = self.segments().iter().any(|current| std::ptr::eq(&**current, segment));
        if !is_current || self.truncations.load(Ordering::SeqCst) != cuts {
            return Ok(());
        }
        for range in found? {
            if self.quarantine(range.clone()) {
                report.damage.push(range);
            }
        }
        Ok(())
    }

    /// Damage of a segment that is not known, among what is durable.
    fn find_damage(&self, segment: &Segment, scanned_bytes: &mut u64) -> io::Result<Vec<DamagedRange>> {
        let mut found = Vec::new();
        let file = segment.file()?;
        // What is being appended meanwhile lies behind this.
        let (size, durable_end) = (segment.size(), self.durable_end());
        let mut chain = Chain::at(segment.base_offset);
        let mut scan = Scan::new(&*file, 0, size);
        loop {
            // Past what is known: a sound batch may contradict the damaged one before it, and is not damaged itself.
            if let Some((offset, position)) = self.behind_known_damage(segment.base_offset, scan.position()) {
                chain = Chain::at(offset);
                scan = Scan::new(&*file, position, size);
                continue;
            }
            match scan.next_batch(segment.base_offset, &mut chain)? {
                Ok(Some((_, header, _))) => *scanned_bytes += header.size_in_bytes() as u64,
                Ok(None) => return Ok(found),
                Err(_) if chain.next_offset >= durable_end => return Ok(found),
                Err(reason) => {
                    let torn = scan.position();
                    let next = resync(&*file, torn + 1, size, chain.next_offset)?;
                    let segments = self.segments();
                    let after = segments.partition_point(|other| other.base_offset <= segment.base_offset);
                    let segment_end = segments.get(after).map_or(self.log_end(), |other| other.base_offset);
                    let range = DamagedRange {
                        from: chain.next_offset,
                        to: next.as_ref().map_or(segment_end, |(_, header)| header.base_offset),
                        segment: segment.base_offset,
                        position: torn,
                        resume_position: next.as_ref().map(|(position, _)| *position),
                        reason: reason.to_string(),
                    };
                    found.push(range);
                    let Some((position, header)) = next else {
                        return Ok(found);
                    };
                    chain.next_offset = header.base_offset;
                    scan = Scan::new(&*file, position, size);
                }
            }
        }
    }

    /// Offset and position at which a segment goes on behind a known damaged range that begins at `position`.
    pub(super) fn behind_known_damage(&self, base_offset: i64, position: u64) -> Option<(i64, u64)> {
        let damage = self.damage.read();
        let mut ranges = damage
            .iter()
            .filter(|range| range.segment == base_offset && range.position == position);
        // Only forward, so that the walk ends.
        ranges.find_map(|range| Some((range.to, range.resume_position.filter(|resume| *resume > position)?)))
    }

    /// Has damage never served from now on. False if it was known.
    pub(super) fn quarantine(&self, range: DamagedRange) -> bool {
        let mut damage = self.damage.write();
        let known = damage
            .iter()
            .any(|other| other.from <= range.from && range.to <= other.to);
        if known || range.to <= range.from {
            return false;
        }
        tracing::error!(partition = %self.name, ?range, "damaged records");
        damage.push(range);
        damage.sort_by_key(|range| range.from);
        self.has_damage.store(true, Ordering::Release);
        true
    }
}
