//! How far damage reaches that a read met: so that whoever reads can go on behind it, before a scrub has found it.

use std::io;

use millrace_proto::batch::BatchHeader;

use super::LogInner;
use crate::error::ReadError;
use crate::fs::File;
use crate::segment::scan::{Chain, Scan, resync};
use crate::segment::{Located, Segment};

/// Bytes behind damage through which a read looks for the next sound batch: many times the largest batch, and read in
/// a fraction of a second. A scrub looks through the whole segment.
const SEARCH_BYTES: u64 = 64 << 20;

/// What lies at an offset, as every checksum on the way there tells.
pub(super) enum Found {
    /// The batch that holds the offset, or the first one behind it.
    Batch(Located),
    /// Nothing in this segment.
    Nothing,
    /// Damage, which is what [`ReadError::Corrupt`] tells.
    Damage(ReadError),
}

/// Where damage ends.
struct DamageEnd {
    /// The first offset behind it.
    offset: i64,
    /// Where in the segment batches go on, if they do.
    resume_position: Option<u64>,
}

impl LogInner {
    /// Looks for the batch that holds `offset` with every checksum on the way. Headers alone can't tell: a damaged one
    /// may claim too many records or too few, and a wrong length leads into the midst of another batch.
    pub(super) fn find_checked(&self, segment: &Segment, offset: i64) -> io::Result<Found> {
        let resume = self.resume_points(segment.base_offset);
        let file = segment.file()?;
        let (from_offset, from) = segment.start_of_walk(offset, &resume)?;
        let mut chain = Chain::at(from_offset);
        let mut scan = Scan::new(&*file, from, segment.size());
        loop {
            let reason = match scan.next_batch(segment.base_offset, &mut chain)? {
                Ok(Some((position, header, _))) if header.last_offset() >= offset => {
                    return Ok(Found::Batch(Located { position, header }));
                }
                Ok(Some(_)) => continue,
                Ok(None) => return Ok(Found::Nothing),
                Err(reason) => reason,
            };
            let end = self.end_of_damage(segment, &*file, scan.position(), chain.next_offset)?;
            match end {
                // The damage lies before the offset.
                Some(DamageEnd {
                    offset: next,
                    resume_position: Some(position),
                }) if next <= offset => {
                    chain.next_offset = next;
                    scan = Scan::new(&*file, position, segment.size());
                }
                end => {
                    let to = end.map(|end| end.offset);
                    let reason = at_position(segment, scan.position(), &reason);
                    let from = chain.next_offset;
                    return Ok(Found::Damage(ReadError::Corrupt { from, to, reason }));
                }
            }
        }
    }

    /// The error for damage that is met at a position, where `from` is the first offset that is not known to be sound.
    pub(super) fn corrupt(
        &self,
        segment: &Segment,
        position: u64,
        from: i64,
        reason: &dyn std::fmt::Display,
    ) -> io::Result<ReadError> {
        let file = segment.file()?;
        let end = self.end_of_damage(segment, &*file, position, from)?;
        Ok(ReadError::Corrupt {
            from,
            to: end.map(|end| end.offset),
            reason: at_position(segment, position, reason),
        })
    }

    /// Where the log is readable again behind a damaged batch; `None` if that is farther away than a read looks.
    fn end_of_damage(
        &self,
        segment: &Segment,
        file: &dyn File,
        position: u64,
        from: i64,
    ) -> io::Result<Option<DamageEnd>> {
        // Before the size: all below this end lies in what is looked through.
        let log_end = self.log_end();
        let segments = self.segments();
        let after = segments.partition_point(|other| other.base_offset <= segment.base_offset);
        let segment_end = segments.get(after).map_or(log_end, |next| next.base_offset);
        let size = segment.size();
        if let Some(end) = end_by_header(file, segment.base_offset, position, from, (size, segment_end))? {
            return Ok(Some(end));
        }
        let bound = position.saturating_add(SEARCH_BYTES).min(size);
        if let Some((position, header)) = resync(file, position + 1, bound, from)? {
            return Ok(Some(DamageEnd {
                offset: header.base_offset,
                resume_position: Some(position),
            }));
        }
        let whole = bound == size && segment_end > from;
        Ok(whole.then_some(DamageEnd {
            offset: segment_end,
            resume_position: None,
        }))
    }
}

/// Where a damaged batch ends by what its header says, if what follows agrees: the next batch's offset, or the
/// segment's end as size and offset.
fn end_by_header(
    file: &dyn File,
    base_offset: i64,
    position: u64,
    from: i64,
    (size, segment_end): (u64, i64),
) -> io::Result<Option<DamageEnd>> {
    let header_at = |position| header_at(file, base_offset, position, size);
    let Some(header) = header_at(position)? else {
        return Ok(None);
    };
    let behind = position + header.size_in_bytes() as u64;
    if header.base_offset < from || behind > size {
        return Ok(None);
    }
    let offset = header.next_offset();
    if behind == size {
        let is_last = offset == segment_end;
        return Ok(is_last.then_some(DamageEnd {
            offset,
            resume_position: None,
        }));
    }
    let next = header_at(behind)?;
    Ok(next.filter(|next| next.base_offset == offset).map(|_| DamageEnd {
        offset,
        resume_position: Some(behind),
    }))
}

/// A possible header, whatever its offset.
fn header_at(file: &dyn File, base_offset: i64, position: u64, size: u64) -> io::Result<Option<BatchHeader>> {
    let found = Scan::new(file, position, size).next_header(base_offset, &mut Chain::at(i64::MIN))?;
    Ok(found.ok().flatten().map(|(_, header)| header))
}

pub(super) fn at_position(segment: &Segment, position: u64, reason: &dyn std::fmt::Display) -> String {
    format!("segment {} at byte {position}: {reason}", segment.base_offset)
}
