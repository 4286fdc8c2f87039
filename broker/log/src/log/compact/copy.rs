//! Copying a group of segments to one, batch by batch, without what compaction takes away.

use std::io::IoSlice;
use std::sync::Arc;

use millrace_proto::batch::{BatchFilter, BatchHeader, BatchView};

use super::swap::Copied;
use super::{CompactionError, Planned, damaged};
use crate::compact::rule::{Counts, Fate, RuleError, Rules};
use crate::config::MAX_SEGMENT_BYTES;
use crate::fs::{File, OpenMode, remove_if_exists};
use crate::log::LogInner;
use crate::segment::scan::{Chain, Scan};
use crate::segment::{Indexes, names};

/// Bytes that are collected before they are written.
const WRITE_CHUNK: usize = 1 << 20;

/// Milliseconds in which a copy is surely synced and in place after the time that the caller told: added to how long
/// copying took.
const SWAP_MS: i64 = 60_000;

/// One group under way.
pub(super) struct GroupCopy {
    pub group: Vec<Planned>,
    /// Which segment is read, and from where on.
    at: usize,
    position: u64,
    chain: Chain,
    target: Arc<dyn File>,
    written: u64,
    pending: Vec<u8>,
    indexes: Indexes,
    interval_bytes: u32,
    /// Bytes that were not read yet.
    left: u64,
    pub counts: Counts,
    /// Whether the copy differs from what it was made of.
    pub changed: bool,
    /// When the first delete horizon was set.
    horizon_since_ms: Option<i64>,
}

impl GroupCopy {
    /// Begins. Nothing of an earlier attempt is left.
    pub fn begin(inner: &LogInner, group: Vec<Planned>) -> Result<Option<Self>, CompactionError> {
        let Some(base_offset) = group.first().map(|planned| planned.segment.base_offset) else {
            return Ok(None);
        };
        let left = group.iter().map(|planned| planned.segment.size()).sum();
        // What it frees comes later than what it takes, which must not be what appends leave.
        inner.shared.claim_space(left).map_err(|full| {
            CompactionError::Refused(format!("a copy may take {left} bytes, which are not free ({full})"))
        })?;
        let path = names::cleaned_path(&inner.dir, base_offset);
        let opened = {
            // No deletion between the look and the opening: the copy would be begun in the directory of another log.
            let _no_deletion = inner.flush_lock.lock();
            inner.check_change()?;
            inner.shared.fs.open(&path, OpenMode::CreateOrTruncate)
        };
        let target = opened.map_err(|error| inner.refuse_copy(base_offset, &error))?;
        Ok(Some(GroupCopy {
            at: 0,
            position: 0,
            chain: Chain::at(base_offset),
            target,
            written: 0,
            pending: Vec::new(),
            indexes: Indexes::rebuilt(&inner.dir, base_offset),
            interval_bytes: inner.config().index_interval_bytes,
            left,
            counts: Counts::default(),
            changed: group.len() > 1,
            horizon_since_ms: None,
            group,
        }))
    }

    pub fn base_offset(&self) -> i64 {
        self.group[0].segment.base_offset
    }

    /// Copies until `budget`, the bytes that may be read and written, is used up. True at the end of the group.
    pub fn proceed(
        &mut self,
        inner: &LogInner,
        rules: &Rules,
        filter: &mut BatchFilter,
        now_ms: i64,
        budget: &mut u64,
    ) -> Result<bool, CompactionError> {
        while let Some(planned) = self.group.get(self.at).cloned() {
            let segment = &planned.segment;
            let size = segment.size();
            let is_last_segment = self.group[self.at + 1..].iter().all(|later| later.segment.size() == 0);
            let file = segment.file().map_err(CompactionError::from_read)?;
            let mut scan = Scan::new(&*file, self.position, size);
            loop {
                let expected = self.chain.next_offset;
                let next = scan.next_batch(segment.base_offset, &mut self.chain);
                let (position, header, bytes) = match next.map_err(CompactionError::from_read)? {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    Err(reason) => return Err(damaged(&planned, scan.position(), self.chain.next_offset, &reason)),
                };
                planned.check_end(position, expected, &header)?;
                self.position = scan.position();
                let len = bytes.len() as u64;
                self.left = self.left.saturating_sub(len);
                // The end of a segment stays told: one that is missing would look like a gap otherwise. And who reads by
                // offset finds where the log goes on.
                let must_stay = is_last_segment && self.position == size;
                // Whatever grows here must leave room for all that may follow as it is.
                let held = self.written + self.pending.len() as u64 + self.left;
                let max_bytes = u64::from(MAX_SEGMENT_BYTES).saturating_sub(held);
                let view = BatchView::parse(&bytes)
                    .map_err(|reason| damaged(&planned, position, header.base_offset, &reason))?;
                let mut counts = self.counts;
                let fate = rules
                    .judge(&view, must_stay, max_bytes, now_ms, filter, &mut counts)
                    .map_err(|reason| match reason {
                        RuleError::Batch(reason) => damaged(&planned, position, header.base_offset, &reason),
                        // The batch is sound; it can't be made smaller here.
                        RuleError::Build(_) | RuleError::NoRoom(_) => {
                            CompactionError::Refused(format!("the batch at offset {}: {reason}", header.base_offset))
                        }
                    })?;
                self.counts = counts;
                if counts.set_horizon {
                    self.horizon_since_ms.get_or_insert(now_ms);
                }
                let mut spent = len;
                match fate {
                    Fate::Stays => self.put(header, &bytes),
                    Fate::Goes => self.changed = true,
                    Fate::Becomes(bytes) => {
                        let header = *BatchView::parse(&bytes)
                            .map_err(|reason| damaged(&planned, position, header.base_offset, &reason))?
                            .header();
                        self.put(header, &bytes);
                        self.changed = true;
                        spent += bytes.len() as u64;
                    }
                }
                if self.pending.len() >= WRITE_CHUNK {
                    self.write(inner)?;
                }
                *budget = budget.saturating_sub(spent);
                if *budget == 0 {
                    self.write(inner)?;
                    return Ok(false);
                }
            }
            self.at += 1;
            self.position = 0;
        }
        self.write(inner)?;
        Ok(true)
    }

    fn put(&mut self, header: BatchHeader, bytes: &[u8]) {
        let position = self.written + self.pending.len() as u64;
        self.indexes.note_batch(
            self.group[0].segment.base_offset,
            self.interval_bytes,
            position,
            &header,
        );
        self.pending.extend_from_slice(bytes);
    }

    fn write(&mut self, inner: &LogInner) -> Result<(), CompactionError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.target
            .write_all_vectored_at(&[IoSlice::new(&self.pending)], self.written)
            .map_err(|error| inner.refuse_copy(self.base_offset(), &error))?;
        self.target.start_writeback(self.written, self.pending.len() as u64);
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Makes the copy durable; `now_ms` is the broker's clock. Its group, and what takes its place.
    ///
    /// Where the file system finds only now that there is no room (delayed allocation, a quota, NFS) the copy is given up:
    /// nothing of the log is in it alone. Any other error tells of the disk, as everywhere.
    pub fn finish(
        mut self,
        inner: &LogInner,
        rules: &Rules,
        now_ms: i64,
    ) -> Result<(Vec<Planned>, Copied), CompactionError> {
        self.target
            .sync_all()
            .map_err(|error| inner.refuse_copy(self.base_offset(), &error))?;
        self.indexes.append_time(self.group[0].segment.base_offset);
        let copied = Copied {
            size: self.written,
            indexes: self.indexes,
            tombstones_gone_below: self.counts.tombstones_gone_below,
            replaced_below: if self.counts.superseded > 0 { rules.map_end } else { 0 },
            copied_ms: self
                .horizon_since_ms
                .map_or(0, |since| now_ms.saturating_sub(since).max(0).saturating_add(SWAP_MS)),
        };
        Ok((self.group, copied))
    }

    /// Bytes of the group that were not read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn written(&self) -> u64 {
        self.written
    }
}

impl LogInner {
    /// What is left of a copy is in nobody's way, but takes room. Where the log was deleted another one may have its
    /// place.
    pub(super) fn drop_copy(&self, base_offset: i64) {
        let _no_deletion = self.flush_lock.lock();
        if self.is_closed() {
            return;
        }
        let _ = remove_if_exists(&*self.shared.fs, &names::cleaned_path(&self.dir, base_offset));
    }

    fn refuse_copy(&self, base_offset: i64, error: &std::io::Error) -> CompactionError {
        if self.is_closed() {
            return CompactionError::Closed;
        }
        self.drop_copy(base_offset);
        self.shared.refuse_or_fail("writing a compacted segment", error).into()
    }
}
