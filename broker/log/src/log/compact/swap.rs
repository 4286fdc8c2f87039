//! Putting a compacted segment in the place of those it was copied from.
//!
//! ```text
//! 0.log.cleaned                    written and synced               crash: removed when the log is opened
//! 0-30.swap                        renamed; directory synced        crash: the rest is done when the log is opened
//! 0.log, 10.log, 20.log            10 and 20 and all indexes are removed; directory synced
//! 0.log                            renamed over; directory synced
//! 0.index, 0.timeindex             written anew
//! ```
//!
//! Readers of the old segments hold them open, and finish with what they began.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CompactionError, Planned};
use crate::fs::{FileSystem, remove_if_exists};
use crate::index::IndexFile;
use crate::log::LogInner;
use crate::segment::names::{self, FileKind};
use crate::segment::{Indexes, Segment};

/// What is to take the place of segments: written and durable under its first name.
pub(super) struct Copied {
    pub size: u64,
    pub indexes: Indexes,
    /// Milliseconds from when the first delete horizon in it was set to when it is surely in place; 0 if none was set.
    pub copied_ms: i64,
    /// The offset after the last tombstone that is not in it any more; 0 if none went.
    pub tombstones_gone_below: i64,
    /// Below it lie the records because of which others are not in it any more; 0 if none went.
    pub replaced_below: i64,
}

/// Whether a copy was put in place.
pub(super) enum Swapped {
    Yes,
    /// The log was cut meanwhile.
    Overtaken,
    /// Some of the segments were deleted meanwhile.
    Outdated,
}

/// Finishes the swaps that a crash interrupted. Before anything else is looked at.
pub(in crate::log) fn finish_swaps(fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    for entry in fs.read_dir(dir)? {
        if let Some((base_offset, end_offset)) = entry.name.to_str().and_then(names::parse_swap) {
            finish_swap(fs, dir, base_offset, end_offset)?;
        }
    }
    Ok(())
}

/// From a durable swap file to the one segment. Can be done again after a crash anywhere in it.
fn finish_swap(fs: &dyn FileSystem, dir: &Path, base_offset: i64, end_offset: i64) -> io::Result<()> {
    for entry in fs.read_dir(dir)? {
        let Some((offset, kind)) = entry.name.to_str().and_then(names::parse) else {
            continue;
        };
        let goes = match kind {
            FileKind::Log => base_offset < offset && offset < end_offset,
            // Those of the first one are wrong as soon as the name is the new segment's.
            FileKind::OffsetIndex | FileKind::TimeIndex => (base_offset..end_offset).contains(&offset),
            // What they tell stays true.
            FileKind::TransactionIndex | FileKind::Snapshot => false,
        };
        if goes {
            remove_if_exists(fs, &names::path(dir, offset, kind))?;
        }
    }
    // With the new segment in place and an old one back there would be two copies.
    fs.sync_dir(dir)?;
    fs.rename(
        &names::swap_path(dir, base_offset, end_offset),
        &names::log_path(dir, base_offset),
    )?;
    fs.sync_dir(dir)
}

impl LogInner {
    /// Puts a copy in the place of its group. Appends go on meanwhile; a flush waits for a few syncs of the directory
    /// and of a small file.
    pub(super) fn swap(&self, group: &[Planned], copied: Copied, cuts: u64) -> Result<Swapped, CompactionError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(Swapped::Outdated);
        };
        let (base_offset, end_offset) = (first.segment.base_offset, last.facts.end_offset);
        // No truncation, no retention, no flush, no deletion of the log.
        let _no_change = self.flush_lock.lock();
        self.check_change()?;
        if self.truncations.load(Ordering::SeqCst) != cuts {
            return Ok(Swapped::Overtaken);
        }
        if !self.all_current(group) {
            return Ok(Swapped::Outdated);
        }
        self.check_damage(group)?;
        // Known before the first gap is there, before the first tombstone relies on it, and before the first is gone.
        self.change_cleaned(|cleaned| {
            cleaned.gaps_below = cleaned.gaps_below.max(end_offset);
            cleaned.longest_copy_ms = cleaned.longest_copy_ms.max(copied.copied_ms);
            cleaned.tombstones_gone_below = cleaned.tombstones_gone_below.max(copied.tombstones_gone_below);
            cleaned.replaced_below = cleaned.replaced_below.max(copied.replaced_below);
        })
        .map_err(|error| self.refuse_or_fail("noting what is compacted", &error))?;
        let fs = &*self.shared.fs;
        let cleaned = names::cleaned_path(&self.dir, base_offset);
        let pinned = group.iter().try_for_each(|planned| planned.segment.pin());
        let renamed = pinned.map_err(CompactionError::from_read).and_then(|()| {
            fs.rename(&cleaned, &names::swap_path(&self.dir, base_offset, end_offset))
                .map_err(|error| {
                    self.shared
                        .refuse_or_fail("renaming a compacted segment", &error)
                        .into()
                })
        });
        if let Err(error) = renamed {
            group.iter().for_each(|planned| planned.segment.unpin());
            return Err(error);
        }
        // From here on there is no way back: what is begun is finished when the log is opened the next time.
        let finish = || -> io::Result<()> {
            fs.sync_dir(&self.dir)?;
            group.iter().for_each(|planned| planned.segment.detach_indexes());
            finish_swap(fs, &self.dir, base_offset, end_offset)
        };
        finish().map_err(|error| self.fail("putting a compacted segment in place", &error))?;

        let Copied { size, mut indexes, .. } = copied;
        let interval = self.config().index_interval_bytes;
        let new = Segment::open(&self.shared.fs, &self.dir, base_offset, interval, size, true);
        // On a full disk they stay in memory, and are made anew by the next start.
        let entries = (indexes.offsets.entries(fs), indexes.times.entries(fs));
        let entries = (
            entries.0.map_err(CompactionError::from_read)?,
            entries.1.map_err(CompactionError::from_read)?,
        );
        indexes.offsets = IndexFile::replace(fs, names::index_path(&self.dir, base_offset), entries.0);
        indexes.times = IndexFile::replace(fs, names::time_index_path(&self.dir, base_offset), entries.1);
        new.set_indexes(indexes);

        let mut writer = self.writer.lock();
        let is_old = |segment: &Arc<Segment>| group.iter().any(|planned| Arc::ptr_eq(&planned.segment, segment));
        writer.unsynced.retain(|segment| !is_old(segment));
        self.change_segments(|segments| {
            let at = segments.partition_point(|segment| segment.base_offset < base_offset);
            segments.retain(|segment| !is_old(segment));
            segments.insert(at, new);
        });
        Ok(Swapped::Yes)
    }

    /// Whether all of these are segments of the log as it is.
    pub(super) fn all_current(&self, planned: &[Planned]) -> bool {
        let segments = self.segments();
        planned.iter().all(|planned| is_current(&segments, &planned.segment))
    }

    /// A damaged batch can't be copied, and must not be passed over.
    pub(super) fn check_damage(&self, planned: &[Planned]) -> Result<(), CompactionError> {
        let damage = self.damage.read();
        let hit = damage.iter().find(|range| {
            planned.iter().any(|planned| {
                range.segment == planned.segment.base_offset
                    || (range.from < planned.facts.end_offset && planned.facts.base_offset < range.to)
            })
        });
        hit.map_or(Ok(()), |range| {
            Err(CompactionError::Damaged {
                segment: range.segment,
                position: range.position,
                offset: range.from,
                reason: range.reason.clone(),
            })
        })
    }
}

pub(super) fn is_current(segments: &[Arc<Segment>], segment: &Arc<Segment>) -> bool {
    let at = segments.partition_point(|other| other.base_offset < segment.base_offset);
    segments.get(at).is_some_and(|other| Arc::ptr_eq(other, segment))
}
