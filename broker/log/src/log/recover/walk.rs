//! Walking one segment from its last durable index entry on.

use std::io;
use std::sync::Arc;

use super::indexes::Trusted;
use super::{Recovered, Recovery, note_epoch};
use crate::segment::Segment;
use crate::segment::scan::{BadBatch, Chain, Scan, resync};

/// The batch before the present one in a walk.
struct Previous {
    position: u64,
    /// What it had to follow.
    before: Chain,
    /// Its base offset may be higher than it was written: one that rose leaves a gap.
    offset_may_have_risen: bool,
}

/// How a walk over one segment ended.
pub(super) enum WalkEnd {
    /// At the end of the file.
    Whole,
    /// At bytes that are no batch, from which nothing sound follows in this segment.
    Torn { position: u64, reason: BadBatch },
}

impl Recovery<'_> {
    /// Walks a segment from its last durable index entry, with every CRC unless the directory was closed cleanly. Makes
    /// the indexes match.
    ///
    /// A header is believed without its CRC only where all of them lead exactly to the flushed point. Otherwise one of
    /// them is damaged, and may say that the log ends far beyond, where nothing counts as flushed, or before.
    pub(super) fn recover_segment(
        &mut self,
        segment: &Arc<Segment>,
        chain: &mut Chain,
        (flushed, is_last): (i64, bool),
        out: &mut Recovered,
    ) -> io::Result<WalkEnd> {
        let by_headers = !self.known.drop_cache && self.known.flushed.is_some();
        if by_headers {
            let before = (*chain, out.epochs.len(), out.walked_from, out.indexed_end);
            match self.walk_segment(segment, chain, (flushed, false), out)? {
                Some(WalkEnd::Whole) if is_last && chain.next_offset < flushed => {}
                Some(end) => return Ok(end),
                None => {}
            }
            (*chain, out.walked_from, out.indexed_end) = (before.0, before.2, before.3);
            out.epochs.truncate(before.1);
        }
        // With every CRC a walk always comes to an end.
        let end = self.walk_segment(segment, chain, (flushed, true), out)?;
        Ok(end.unwrap_or(WalkEnd::Whole))
    }

    /// One walk. `None`: without every CRC (`verify_all`) it came to something that no sound segment has below the
    /// flushed point, and is to be repeated.
    fn walk_segment(
        &mut self,
        segment: &Arc<Segment>,
        chain: &mut Chain,
        (flushed, verify_all): (i64, bool),
        out: &mut Recovered,
    ) -> io::Result<Option<WalkEnd>> {
        let file = segment.file()?;
        if self.known.drop_cache {
            // Dirty pages first, so that dropping the cache drops nothing but lies.
            file.sync_data()?;
        }
        let mut from_cache = self.known.drop_cache;
        let mut size = segment.size();
        let indexed = self.known.flushed.map_or(i64::MIN, |point| point.indexed);
        let Trusted {
            mut indexes,
            mut position,
            base_offset: trusted_offset,
        } = self.trusted_indexes(segment, indexed)?;
        let trusted_to = position;
        // The stored flushed point says that the files are right up to `indexed`; they are made anew, so they must be
        // so whole, before anything that a crash may leave half done.
        let claimed = position == 0 && indexed > segment.base_offset;
        if position > 0 {
            // The chain begins at that entry's batch.
            chain.next_offset = trusted_offset;
            chain.epoch = -1;
            out.indexed_end = out.indexed_end.max(indexed);
        }
        loop {
            let mut scan = Scan::new(&*file, position, size);
            let mut previous = Previous {
                position,
                before: *chain,
                offset_may_have_risen: false,
            };
            let bad = loop {
                if from_cache && chain.next_offset >= flushed {
                    // An fsync has succeeded for what lies below the flushed point: what the cache shows of it is what
                    // the disk has.
                    from_cache = false;
                    file.drop_cache(scan.position());
                    // A cut that never reached the disk is not seen in the cache, either.
                    size = file.len()?.max(scan.position());
                    segment.limit_size(size);
                    scan = Scan::new(&*file, scan.position(), size);
                }
                let before = *chain;
                // After a crash below the flushed point, too: a damaged length there would make a torn tail of all that
                // follows. What is walked is bounded by what came since the indexes were last made durable.
                let verify = verify_all || chain.next_offset >= flushed;
                let next = if verify {
                    scan.next_batch(segment.base_offset, chain)?
                        .map(|next| next.map(|(at, header, _)| (at, header)))
                } else {
                    scan.next_header(segment.base_offset, chain)?
                };
                let is_doubtful = match &next {
                    Ok(Some((_, header))) => !verify && header.next_offset() > flushed,
                    Ok(None) => false,
                    // The batch before may be shorter or longer than it says.
                    Err(_) => true,
                };
                if is_doubtful && !verify_all {
                    return Ok(None);
                }
                match next {
                    Ok(Some((at, header))) => {
                        out.walked_from.get_or_insert(header.base_offset);
                        if verify {
                            self.report.scanned_bytes += header.size_in_bytes() as u64;
                        }
                        if at != trusted_to || at == 0 {
                            indexes.note_batch(segment.base_offset, self.interval_bytes, at, &header);
                        }
                        note_epoch(&mut out.epochs, &header);
                        previous = Previous {
                            position: at,
                            before,
                            offset_may_have_risen: header.base_offset > before.next_offset,
                        };
                    }
                    Ok(None) => break None,
                    Err(reason) => break Some(reason),
                }
            };
            // Base offset and leader epoch lie outside the CRC. One that is too high passes until the next batch
            // contradicts it; below the flushed point, where nothing may be cut, it is the damaged one then.
            let before = previous.before;
            let contradicted = match &bad {
                Some(BadBatch::Offset { found, .. })
                    if previous.offset_may_have_risen && before.next_offset <= *found =>
                {
                    Some(*found)
                }
                Some(BadBatch::Epoch { found, .. }) if before.epoch <= *found => Some(chain.next_offset),
                _ => None,
            };
            if let Some(BadBatch::Offset { .. }) = &bad
                && let Some(next_offset) = contradicted
                && self.known.flushed.is_some()
                && next_offset > flushed
                && before.next_offset >= flushed
            {
                // Where all may be cut neither of the two is believed: one would be kept at an offset that is not its own.
                *chain = before;
                out.epochs.retain(|(_, base_offset)| *base_offset < before.next_offset);
                self.put_indexes(segment, indexes, claimed)?;
                segment.cut_indexes(previous.position)?;
                return Ok(bad.map(|reason| WalkEnd::Torn {
                    position: previous.position,
                    reason,
                }));
            }
            if let Some(next_offset) = contradicted.filter(|next| self.known.flushed.is_none_or(|_| *next <= flushed))
                && next_offset > before.next_offset
                && let Some(reason) = &bad
            {
                self.add_damage(
                    segment,
                    before.next_offset,
                    next_offset,
                    previous.position,
                    Some(scan.position()),
                    reason,
                );
                position = scan.position();
                chain.next_offset = next_offset;
                chain.epoch = before.epoch;
                // What the damaged batch said of its epoch goes with it.
                out.epochs.retain(|(_, base_offset)| *base_offset < before.next_offset);
                continue;
            }
            let torn = scan.position();
            let Some(reason) = bad else {
                self.put_indexes(segment, indexes, claimed)?;
                return Ok(Some(WalkEnd::Whole));
            };
            // Below the flushed point, or if that is unknown, sound batches may follow the damage. Above it, they may
            // too (a disk writes in any order), but then they were never reported durable.
            let may_go_on = self.known.flushed.is_none() || chain.next_offset < flushed;
            let next = if may_go_on {
                resync(&*file, torn + 1, size, chain.next_offset)?
            } else {
                None
            };
            match next {
                Some((at, header)) => {
                    self.add_damage(segment, chain.next_offset, header.base_offset, torn, Some(at), &reason);
                    chain.next_offset = header.base_offset;
                    position = at;
                }
                None => {
                    self.put_indexes(segment, indexes, claimed)?;
                    return Ok(Some(WalkEnd::Torn { position: torn, reason }));
                }
            }
        }
    }
}
