//! The producer state as of an offset: a snapshot, and the batches after it.

use std::io;
use std::sync::atomic::Ordering;

use super::{DamagedRange, LogInner, Writer};
use crate::producer::{ProducerState, snapshot};
use crate::segment::scan::{BadBatch, Chain, Scan, resync};
use crate::segment::{LocateError, Segment, names};

/// The producer state as of an offset.
pub(super) struct Replayed {
    pub state: ProducerState,
    /// The snapshot that it was made from.
    pub from: Option<i64>,
    /// How many batches were replayed on top of that.
    pub batches: u64,
    /// What could not be read on the way and was not known to be damaged: what it told of producers is missing.
    pub damage: Vec<DamagedRange>,
}

impl LogInner {
    /// Makes the producer state as of `end` from the newest snapshot at or below it and the headers from there on.
    /// Newer snapshots must be gone. What is damaged on the way is quarantined. Returns how many batches were replayed.
    pub(super) fn reload_producers(&self, writer: &mut Writer, end: i64) -> io::Result<u64> {
        let replayed = self.producers_at(end)?;
        // Between the one that was sound and the end there are damaged ones only.
        self.remove_snapshots_where(|offset| offset <= end && replayed.from.is_none_or(|from| offset > from))?;
        writer.producers = replayed.state;
        writer.snapshot_offset = replayed.from.unwrap_or(-1);
        for range in replayed.damage {
            self.quarantine(range);
        }
        Ok(replayed.batches)
    }

    /// The producer state as of `end`. Damaged snapshots are passed over.
    pub(super) fn producers_at(&self, end: i64) -> io::Result<Replayed> {
        let fs = &*self.shared.fs;
        let mut replayed = Replayed {
            state: ProducerState::default(),
            from: None,
            batches: 0,
            damage: Vec::new(),
        };
        for offset in self
            .snapshot_offsets()?
            .into_iter()
            .rev()
            .filter(|offset| *offset <= end)
        {
            let path = names::snapshot_path(&self.dir, offset);
            let decoded = crate::fs::read_whole(fs, &path, 1 << 30).map(|bytes| snapshot::decode(&bytes));
            match decoded {
                Ok(Ok(found)) => {
                    replayed.state = found;
                    replayed.from = Some(offset);
                    break;
                }
                Ok(Err(reason)) => {
                    tracing::warn!(path = %path.display(), %reason, "a producer snapshot is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        let from = replayed.from.unwrap_or(i64::MIN);
        let segments = self.segments();
        for (at, segment) in segments.iter().enumerate() {
            let next_base = segments.get(at + 1).map_or(i64::MAX, |next| next.base_offset);
            if next_base > from && segment.base_offset < end {
                self.replay(segment, (from, end), next_base, &mut replayed)?;
            }
        }
        replayed.state.bound(self.config().max_producer_ids);
        Ok(replayed)
    }

    /// Takes in the headers of one segment, which ends at `next_base`. Where one can't be read, or contradicts what
    /// follows, it goes on behind that and notes it: half of a producer's batches must not pass for all of them.
    fn replay(
        &self,
        segment: &Segment,
        (from, end): (i64, i64),
        next_base: i64,
        replayed: &mut Replayed,
    ) -> io::Result<()> {
        let file = segment.file()?;
        let size = segment.size();
        let begin = from.max(segment.base_offset);
        let (offset, position) = match segment.locate(begin, &self.resume_points(segment.base_offset)) {
            Ok(Some(found)) => (found.header.base_offset, found.position),
            Ok(None) => (begin, size),
            Err(LocateError::Io(error)) => return Err(error),
            // Where the walk ended says nothing of where it was led astray: a wrong length leads into another batch.
            Err(LocateError::Bad { .. }) => (segment.base_offset, 0),
        };
        let stop = next_base.min(end);
        let mut chain = Chain::at(offset);
        let mut scan = Scan::new(&*file, position, size);
        // The batch before: where it is, and what it had to follow.
        let mut previous: Option<(u64, Chain)> = None;
        loop {
            if let Some((offset, position)) = self.behind_known_damage(segment.base_offset, scan.position()) {
                (chain, previous) = (Chain::at(offset), None);
                scan = Scan::new(&*file, position, size);
                continue;
            }
            let before = chain;
            let (at, reason) = match scan.next_header(segment.base_offset, &mut chain)? {
                Ok(Some((_, header))) if header.base_offset >= end && before.next_offset >= stop => return Ok(()),
                Ok(Some((at, header))) if header.base_offset >= stop => {
                    chain = before;
                    let (expected, found) = (before.next_offset, header.base_offset);
                    (at, BadBatch::Gap { expected, found })
                }
                Ok(Some((at, header))) => {
                    if header.base_offset >= from {
                        replayed.state.apply(&header, None);
                        replayed.batches += 1;
                    }
                    previous = Some((at, before));
                    continue;
                }
                Ok(None) | Err(_) if chain.next_offset >= stop => return Ok(()),
                Ok(None) if is_wide_gap(segment, next_base) => return Ok(()),
                Ok(None) => {
                    let (from, to) = (chain.next_offset, stop);
                    (scan.position(), BadBatch::Missing { from, to })
                }
                Err(reason) => (scan.position(), reason),
            };
            let mut note = |from: i64, to: i64, position: u64, resume_position: Option<u64>| {
                replayed.damage.push(DamagedRange {
                    from,
                    to,
                    segment: segment.base_offset,
                    position,
                    resume_position,
                    reason: reason.to_string(),
                });
            };
            // Base offset and leader epoch lie outside the CRC: of two batches that contradict each other it is the first
            // one whose offset or epoch rose.
            let contradicted = previous.and_then(|(at, before)| match reason {
                BadBatch::Offset { found, .. } => Some((at, before, found)),
                BadBatch::Epoch { found, .. } if before.epoch <= found => Some((at, before, chain.next_offset)),
                _ => None,
            });
            if let Some((previous_at, before, to)) = contradicted.filter(|(_, before, to)| before.next_offset < *to) {
                note(before.next_offset, to, previous_at, Some(at));
                chain = Chain {
                    next_offset: to,
                    ..before
                };
                (previous, scan) = (None, Scan::new(&*file, at, size));
                continue;
            }
            if self.is_known_damage(chain.next_offset) {
                return Ok(());
            }
            // A wrong length leads into the midst of another batch, or over it.
            let mut at = at;
            if let Some((previous_at, before)) = previous {
                let mut probe = before;
                if Scan::new(&*file, previous_at, size)
                    .next_batch(segment.base_offset, &mut probe)?
                    .is_err()
                {
                    (at, chain) = (previous_at, before);
                }
            }
            let Some((position, header)) = resync(&*file, at.saturating_add(1), size, chain.next_offset)? else {
                note(chain.next_offset, stop, at, None);
                return Ok(());
            };
            note(chain.next_offset, header.base_offset, at, Some(position));
            (chain, previous) = (Chain::at(header.base_offset), None);
            scan = Scan::new(&*file, position, size);
        }
    }

    fn is_known_damage(&self, offset: i64) -> bool {
        let holds = |range: &DamagedRange| range.from <= offset && offset < range.to;
        self.has_damage.load(Ordering::Acquire) && self.damage.read().iter().any(holds)
    }
}

/// Whether the segment may end before the next one begins: where a gap is so wide that no segment can span it. A record
/// takes a few bytes, so that the offsets of the batch behind it are far fewer than those of the gap.
fn is_wide_gap(segment: &Segment, next_base: i64) -> bool {
    next_base < i64::MAX && next_base - segment.base_offset > i64::from(i32::MAX) / 2
}
