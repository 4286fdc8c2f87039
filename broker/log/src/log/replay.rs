//! The producer state as of an offset: a snapshot, and the batches after it.

use std::io;

use super::{LogInner, Writer};
use crate::producer::{ProducerState, snapshot};
use crate::segment::names;
use crate::segment::scan::{Chain, Scan};

impl LogInner {
    /// Makes the producer state as of `end` from the newest snapshot at or below it and the headers from there on.
    /// Newer snapshots must be gone. Returns how many batches were replayed.
    pub(super) fn reload_producers(&self, writer: &mut Writer, end: i64) -> io::Result<u64> {
        let (state, from, replayed) = self.producers_at(end)?;
        // Between the one that was sound and the end there are damaged ones only.
        self.remove_snapshots_where(|offset| offset <= end && from.is_none_or(|from| offset > from))?;
        writer.producers = state;
        writer.snapshot_offset = from.unwrap_or(-1);
        Ok(replayed)
    }

    /// The producer state as of `end`, the snapshot it was made from, and how many batches were replayed. Damaged
    /// snapshots are passed over.
    pub(super) fn producers_at(&self, end: i64) -> io::Result<(ProducerState, Option<i64>, u64)> {
        let fs = &*self.shared.fs;
        let mut state = ProducerState::default();
        let mut from = None;
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
                    state = found;
                    from = Some(offset);
                    break;
                }
                Ok(Err(reason)) => {
                    tracing::warn!(path = %path.display(), %reason, "a producer snapshot is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        let replayed = self.replay(&mut state, from.unwrap_or(i64::MIN), end)?;
        state.bound(self.config().max_producer_ids);
        Ok((state, from, replayed))
    }

    fn replay(&self, state: &mut ProducerState, from: i64, end: i64) -> io::Result<u64> {
        let mut replayed = 0;
        let segments = self.segments();
        for (at, segment) in segments.iter().enumerate() {
            let next_base = segments.get(at + 1).map_or(i64::MAX, |next| next.base_offset);
            if next_base <= from || segment.base_offset >= end {
                continue;
            }
            let file = segment.file()?;
            let resume = self.resume_points(segment.base_offset);
            let mut position = match segment.locate(from.max(segment.base_offset), &resume) {
                Ok(Some(found)) => found.position,
                Ok(None) => continue,
                Err(crate::segment::LocateError::Io(error)) => return Err(error),
                Err(crate::segment::LocateError::Bad { position, .. }) => position,
            };
            let mut chain = Chain::at(segment.base_offset);
            loop {
                let mut scan = Scan::new(&*file, position, segment.size());
                while let Ok(Some((_, header))) = scan.next_header(segment.base_offset, &mut chain)? {
                    if header.base_offset >= end {
                        break;
                    }
                    if header.base_offset >= from {
                        state.apply(&header, None);
                        replayed += 1;
                    }
                }
                // Go on behind damage that is known.
                match resume.iter().find(|(_, at)| *at > scan.position()) {
                    Some((offset, at)) => {
                        chain = Chain::at(*offset);
                        position = *at;
                    }
                    None => break,
                }
            }
        }
        Ok(replayed)
    }
}
