//! Recovery: from the files of a partition to a log that can be trusted, at the cost of its unflushed tail.
//!
//! ```text
//!    trusted, not read      | from the last durable index entry: CRCs    | from the flushed point: every CRC
//!                           | (headers after a clean close)              |
//!  -------------------------+--------------------------------------------+----------------------------------
//!   bad here: not noticed,  | bad here: damage; reported, kept,          | bad here: a torn tail; cut and
//!   until read or scrubbed  | never served                               | erased
//! ```
//!
//! Where the flushed point is not known everything is scanned, and bad bytes are a torn tail only if nothing sound
//! follows them.
//!
//! Base offset and leader epoch lie outside of a batch's CRC, as the leader sets them without reading the records: a
//! flipped bit in them shows only by what is around. What is told of gaps by others than the batches themselves is said
//! in [`super::gaps`]; where there may be none, a batch begins where the one before it ends. And no batch may have a
//! later leader epoch than the partition's metadata, if that is told.

mod indexes;
mod walk;

use std::io;
use std::path::Path;
use std::sync::Arc;

use millrace_proto::batch::{BatchHeader, BatchView};

use self::walk::WalkEnd;
use super::report::{DamagedRange, RecoveryReport};
use crate::checkpoint::flushed::FlushedPoint;
use crate::fs::{FileSystem, OpenMode, is_disk_full};
use crate::segment::scan::{BadBatch, Chain, Gaps};
use crate::segment::{LocateError, Segment, names};

/// What is known before a segment is looked at.
pub(super) struct Known {
    /// `None`: the checkpoint was lost or garbled, nothing is known.
    pub flushed: Option<FlushedPoint>,
    /// Read the tail from the disk rather than from the cache: after a failed fsync the cache may show bytes that the
    /// disk does not have.
    pub drop_cache: bool,
    /// The latest leader epoch that a batch can have; `i32::MAX` if that is not known.
    pub latest_epoch: i32,
    /// There may be gaps below this offset, see [`super::gaps`]; below the flushed point in any case.
    pub gaps_below: i64,
}

/// The segments of a log after recovery.
pub(super) struct Recovered {
    pub segments: Vec<Arc<Segment>>,
    pub log_end: i64,
    /// Every byte of the log is durable now; the indexes up to here.
    pub indexed_end: i64,
    /// Leader epochs seen in the part that was walked: (epoch, base offset) where it changes.
    pub epochs: Vec<(i32, i64)>,
    /// Where that part begins; `None` if nothing was walked.
    pub walked_from: Option<i64>,
}

/// A segment file as listed.
pub(super) struct FoundSegment {
    pub base_offset: i64,
    pub size: u64,
}

pub(super) struct Recovery<'a> {
    pub fs: &'a Arc<dyn FileSystem>,
    pub dir: &'a Arc<Path>,
    pub interval_bytes: u32,
    pub known: Known,
    pub report: RecoveryReport,
}

impl Recovery<'_> {
    /// Recovers; `found` is sorted and not empty.
    pub(super) fn run(&mut self, found: &[FoundSegment]) -> io::Result<Recovered> {
        let first_base = found[0].base_offset;
        let flushed = self
            .known
            .flushed
            .map_or(first_base, |point| point.offset.max(first_base));
        let start = found
            .partition_point(|segment| segment.base_offset <= flushed)
            .saturating_sub(1);
        // The stored point moved to the base of a segment behind a gap, and a crash kept the empty one that it replaced.
        let replaced = start.checked_sub(1).filter(|before| {
            self.known.flushed.is_some() && found[start].base_offset == flushed && found[*before].size == 0
        });
        if let Some(before) = replaced {
            tracing::warn!(
                directory = %self.dir.display(),
                segment = found[before].base_offset,
                next = flushed,
                "an empty segment before the flushed point is removed"
            );
            self.remove_from(&found[before..start])?;
        }
        // Segments before the one that holds the flushed point are sealed and trusted, unless nothing is known. Their
        // indexes are trusted as far as they are known to be durable: one that was sealed since may lack its end.
        let indexed = self.known.flushed.map_or(i64::MIN, |point| point.indexed);
        for pair in found[..=start].windows(2).filter(|pair| pair[1].base_offset > indexed) {
            for kind in [names::FileKind::OffsetIndex, names::FileKind::TimeIndex] {
                crate::fs::remove_if_exists(&**self.fs, &names::path(self.dir, pair[0].base_offset, kind))?;
            }
        }
        let mut segments: Vec<Arc<Segment>> = found[..replaced.unwrap_or(start)]
            .iter()
            .map(|segment| self.open_segment(segment.base_offset, segment.size, true))
            .collect();
        if self.known.drop_cache
            && let Some(before) = segments.last().filter(|_| found[start].base_offset == flushed)
        {
            // It was sealed after the flushed point was reached: what a refused append left behind its last batch may
            // be erased in the cache only, or be back.
            before.sync_data()?;
            self.erase_behind(before, flushed)?;
        }
        let mut out = Recovered {
            segments: Vec::new(),
            log_end: found[start].base_offset,
            indexed_end: found[start].base_offset,
            epochs: Vec::new(),
            walked_from: None,
        };
        let mut chain = Chain {
            gaps: Gaps {
                flushed: self.known.flushed.map_or(i64::MIN, |_| flushed),
                below: self.known.gaps_below,
            },
            latest_epoch: self.known.latest_epoch,
            ..Chain::at(found[start].base_offset)
        };
        for (at, listed) in found.iter().enumerate().skip(start) {
            if at > start && chain.next_offset != listed.base_offset {
                // A segment is missing: not so below the flushed point if all was synced as it must be.
                if self.known.flushed.is_some() && chain.next_offset >= flushed {
                    self.remove_from(&found[at..])?;
                    break;
                }
                self.add_missing(chain.next_offset, listed.base_offset, chain.next_offset);
                chain.next_offset = listed.base_offset;
            }
            // A base offset that rose must not reach into the next segment, whose name tells where this one ends.
            let next_base = found.get(at + 1).map_or(i64::MAX, |next| next.base_offset);
            chain.gaps.below = self.known.gaps_below.min(next_base);
            let segment = self.open_segment(listed.base_offset, listed.size, false);
            let last = at + 1 == found.len();
            let end = self.recover_segment(&segment, &mut chain, (flushed, last), &mut out)?;
            segments.push(segment.clone());
            let WalkEnd::Torn { position, reason } = end else {
                continue;
            };
            let below_flushed = chain.next_offset < flushed;
            let unknown = self.known.flushed.is_none();
            if below_flushed || (unknown && !last) {
                // Not a torn tail. The bytes stay; the segment ends here for readers, and the log goes on behind.
                let to = found
                    .get(at + 1)
                    .map_or(flushed, |next| next.base_offset)
                    .max(chain.next_offset + 1);
                self.add_damage(&segment, chain.next_offset, to, position, None, &reason);
                segment.limit_size(position);
                chain.next_offset = to;
                continue;
            }
            self.report.truncated_bytes += segment.size() - position;
            segment.cut_in_place(position)?;
            self.remove_from(&found[at + 1..])?;
            break;
        }
        out.log_end = chain.next_offset;
        if self.known.flushed.is_some() && out.log_end < flushed {
            // The file is shorter than what was durable once.
            let from = out.log_end;
            self.add_missing(
                from,
                flushed,
                segments.last().map_or(from, |segment| segment.base_offset),
            );
            out.log_end = flushed;
        }
        self.finish(&mut segments, &mut out)?;
        out.segments = segments;
        self.report.segments = out.segments.len();
        Ok(out)
    }

    fn open_segment(&self, base_offset: i64, size: u64, sealed: bool) -> Arc<Segment> {
        Segment::open(self.fs, self.dir, base_offset, self.interval_bytes, size, sealed)
    }

    /// Erases what lies behind the batch of a sealed segment that ends at the flushed point. Nobody has mapped it yet.
    fn erase_behind(&mut self, segment: &Segment, flushed: i64) -> io::Result<()> {
        let last = match segment.locate(flushed - 1, &[]) {
            Ok(Some(last)) if last.header.next_offset() == flushed => last,
            Err(LocateError::Io(error)) => return Err(error),
            // A gap, or damage, which is left as it is.
            Ok(_) | Err(LocateError::Bad { .. }) => return Ok(()),
        };
        let end = last.position + last.header.size_in_bytes() as u64;
        // A damaged length is no end.
        let bytes = segment.file()?.read_at(last.position, last.header.size_in_bytes())?;
        let is_sound = BatchView::parse(&bytes).is_ok_and(|view| view.verify_crc().is_ok());
        if end >= segment.size() || !is_sound {
            return Ok(());
        }
        self.report.truncated_bytes += segment.size() - end;
        let file = self.fs.open(&segment.log_path(), OpenMode::ReadWrite)?;
        file.set_len(end)?;
        file.sync_all()?;
        segment.limit_size(end);
        Ok(())
    }

    /// Seals all but the last segment, makes a new one where the log can't go on in the last, and makes all durable.
    fn finish(&mut self, segments: &mut Vec<Arc<Segment>>, out: &mut Recovered) -> io::Result<()> {
        let last = segments[segments.len() - 1].clone();
        let ends_damaged = |range: &DamagedRange| range.segment == last.base_offset && range.resume_position.is_none();
        let goes_on = !self.report.damage.iter().any(ends_damaged);
        for segment in segments.iter() {
            if !segment.is_sealed() {
                segment.sync_data()?;
            }
        }
        if !goes_on && out.log_end > last.base_offset {
            // Behind damage that nothing follows, the next record must not be written into the damaged bytes.
            last.seal();
            segments.push(Segment::create(self.fs, self.dir, out.log_end, self.interval_bytes)?);
        }
        let count = segments.len();
        let mut indexed_end = segments[count - 1].base_offset;
        for segment in &segments[..count - 1] {
            if !segment.is_sealed() {
                segment.seal();
                match segment.sync_indexes() {
                    // They are made anew the next time.
                    Err(error) if is_disk_full(&error) => indexed_end = indexed_end.min(segment.base_offset),
                    other => other?,
                }
            }
        }
        out.indexed_end = out.indexed_end.max(indexed_end).min(out.log_end);
        Ok(())
    }

    /// Removes segments that lie behind a torn tail, newest first.
    fn remove_from(&mut self, doomed: &[FoundSegment]) -> io::Result<()> {
        for segment in doomed.iter().rev() {
            self.report.truncated_bytes += segment.size;
            for kind in [
                names::FileKind::OffsetIndex,
                names::FileKind::TimeIndex,
                names::FileKind::TransactionIndex,
                names::FileKind::Log,
            ] {
                crate::fs::remove_if_exists(&**self.fs, &names::path(self.dir, segment.base_offset, kind))?;
            }
        }
        if doomed.is_empty() {
            Ok(())
        } else {
            self.fs.sync_dir(self.dir)
        }
    }

    fn add_damage(
        &mut self,
        segment: &Segment,
        from: i64,
        to: i64,
        position: u64,
        resume_position: Option<u64>,
        reason: &BadBatch,
    ) {
        if to <= from {
            return;
        }
        let range = DamagedRange {
            from,
            to,
            segment: segment.base_offset,
            position,
            resume_position,
            reason: reason.to_string(),
        };
        tracing::error!(directory = %self.dir.display(), ?range, "damaged records");
        self.report.damage.push(range);
    }

    fn add_missing(&mut self, from: i64, to: i64, segment: i64) {
        let range = DamagedRange {
            from,
            to,
            segment,
            position: 0,
            resume_position: None,
            reason: BadBatch::Missing { from, to }.to_string(),
        };
        tracing::error!(directory = %self.dir.display(), ?range, "missing records");
        self.report.damage.push(range);
    }
}

pub(super) fn note_epoch(epochs: &mut Vec<(i32, i64)>, header: &BatchHeader) {
    if epochs
        .last()
        .is_none_or(|(epoch, _)| *epoch < header.partition_leader_epoch)
    {
        epochs.push((header.partition_leader_epoch, header.base_offset));
    }
}
