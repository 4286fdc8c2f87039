//! Deleting from the front: retention by time and size, and delete-records.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, LogInner, Writer};
use crate::error::ChangeError;
use crate::fs::is_disk_full;
use crate::producer::ProducerState;
use crate::segment::Segment;

/// Why a segment was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionReason {
    /// Its newest record is older than `retention.ms`.
    Time,
    /// The log is larger than `retention.bytes`.
    Size,
    /// It lies below the log start offset.
    LogStart,
}

/// One deleted segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedSegment {
    /// Its base offset.
    pub base_offset: i64,
    /// The offset after it.
    pub end_offset: i64,
    /// Its size.
    pub size_bytes: u64,
    /// Why it went.
    pub reason: DeletionReason,
}

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionReport {
    /// The segments that went, oldest first.
    pub deleted: Vec<DeletedSegment>,
    /// The log start offset now.
    pub log_start: i64,
}

impl Log {
    /// Deletes the segments that retention lets go: a prefix, never the active one, nothing at or above the high
    /// watermark. An active segment whose records are all too old is rolled first, so that quiet topics age out
    /// (KAFKA-15047). Where records are compacted and not deleted, only what lies below the log start goes (KAFKA-7400).
    /// Works on a full disk, except that a segment stays (unreadable) for as long as only its records tell of a producer
    /// and the disk, its reserve used up, takes no snapshot either: the next call tries again.
    ///
    /// # Errors
    /// The log is closed or the directory offline.
    pub fn apply_retention(&self, now_ms: i64, high_watermark: i64) -> Result<RetentionReport, ChangeError> {
        let inner = &*self.inner;
        let _no_truncation = inner.flush_lock.lock();
        let deleted = {
            let mut writer = inner.writer.lock();
            inner.check_change()?;
            // What is not durable is not old, whatever its times say.
            let high_watermark = high_watermark.min(inner.durable_end());
            let deleted = inner.choose(now_ms, high_watermark);
            let all_expired = deleted.len() + 1 == inner.segments().len()
                && inner.log_end() <= high_watermark
                && inner.is_expired(&inner.active(), now_ms);
            // Without room for a new file the active segment stays for now.
            let rolled = match all_expired.then(|| inner.roll_locked(&mut writer)).transpose() {
                Ok(rolled) => rolled == Some(true),
                Err(ChangeError::Refused(_)) => false,
                Err(error) => return Err(error),
            };
            if rolled {
                inner.choose(now_ms, high_watermark)
            } else {
                deleted
            }
        };
        let doomed = match deleted.last() {
            Some(last) => inner.move_start(last.end_offset.max(inner.log_start()))?,
            None => Vec::new(),
        };
        // Those that only tell of their producers yet are to go later.
        let deleted = deleted.into_iter().take(doomed.len()).collect();
        Ok(RetentionReport {
            deleted,
            log_start: inner.log_start(),
        })
    }

    /// Delete-records: nothing below `offset` is readable any more; segments wholly below it are deleted (the active
    /// one is rolled if the whole log goes; on a full disk some may stay for [`Log::apply_retention`]). The caller bounds
    /// `offset` by the high watermark (KIP-107). Durable when this returns; on a full disk, with the next checkpoint that
    /// finds room.
    ///
    /// # Errors
    /// [`ChangeError::OffsetOutOfRange`] above the log end; an offset at or below the log start changes nothing.
    pub fn advance_log_start(&self, offset: i64) -> Result<RetentionReport, ChangeError> {
        let inner = &*self.inner;
        let _no_truncation = inner.flush_lock.lock();
        {
            let mut writer = inner.writer.lock();
            inner.check_change()?;
            let (log_start, log_end) = (inner.log_start(), inner.log_end());
            if offset > log_end {
                return Err(ChangeError::OffsetOutOfRange {
                    offset,
                    log_start,
                    log_end,
                });
            }
            if offset <= log_start {
                return Ok(RetentionReport {
                    deleted: Vec::new(),
                    log_start,
                });
            }
            if offset == log_end {
                match inner.roll_locked(&mut writer) {
                    Ok(_) | Err(ChangeError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if offset > inner.durable_end() {
            // After a crash the log must not begin behind its end.
            inner.flush_locked()?;
        }
        let doomed = inner.move_start(offset)?;
        let deleted = doomed
            .iter()
            .map(|(segment, end_offset)| DeletedSegment {
                base_offset: segment.base_offset,
                end_offset: *end_offset,
                size_bytes: segment.size(),
                reason: DeletionReason::LogStart,
            })
            .collect();
        Ok(RetentionReport {
            deleted,
            log_start: inner.log_start(),
        })
    }
}

/// What no snapshot tells of producers.
struct Untold {
    /// All that is known.
    state: ProducerState,
    /// The newest snapshot at or below, if there is one.
    from: Option<i64>,
}

impl LogInner {
    /// The prefix of sealed segments that may go, with reasons.
    fn choose(&self, now_ms: i64, high_watermark: i64) -> Vec<DeletedSegment> {
        let config = self.config();
        let segments = self.segments();
        let mut left: u64 = segments.iter().map(|segment| segment.size()).sum();
        let mut chosen = Vec::new();
        for pair in segments.windows(2) {
            let (segment, end_offset) = (&pair[0], pair[1].base_offset);
            let size_bytes = segment.size();
            if end_offset > high_watermark {
                break;
            }
            let reason = if end_offset <= self.log_start() {
                DeletionReason::LogStart
            } else if self.is_expired(segment, now_ms) {
                DeletionReason::Time
            } else if config
                .retention_bytes
                .filter(|_| config.cleanup_policy.delete)
                .is_some_and(|bytes| left.saturating_sub(size_bytes) >= bytes)
            {
                DeletionReason::Size
            } else {
                break;
            };
            left = left.saturating_sub(size_bytes);
            chosen.push(DeletedSegment {
                base_offset: segment.base_offset,
                end_offset,
                size_bytes,
                reason,
            });
        }
        chosen
    }

    /// Whether the segment's newest record is older than `retention.ms`. A record time ahead of the clock, or none at
    /// all, says nothing: then the file's own age counts, so that one absurd time does not keep everything behind it
    /// (KIP-937, KAFKA-14991).
    fn is_expired(&self, segment: &Segment, now_ms: i64) -> bool {
        let config = self.config();
        let Some(retention_ms) = config.retention_ms.filter(|_| config.cleanup_policy.delete) else {
            return false;
        };
        if segment.size() == 0 {
            return false;
        }
        let newest = segment
            .max_timestamp()
            .and_then(|time| self.about_ms(segment, time, now_ms));
        // Not known is not expired.
        newest.is_ok_and(|newest| now_ms.saturating_sub(newest) > retention_ms)
    }

    /// A record's time, or the file's own where that is ahead of the clock, or none at all.
    pub(super) fn about_ms(&self, segment: &Segment, time: i64, now_ms: i64) -> io::Result<i64> {
        if (0..=now_ms).contains(&time) {
            return Ok(time);
        }
        Ok(self.shared.fs.metadata(&segment.log_path())?.modified_ms)
    }

    /// Moves the log start and removes the segments wholly below it. The caller holds the flush lock, not the writer
    /// lock: appends go on.
    ///
    /// The log start is stored first, so that a crash in the middle leaves no hole that looks like damage; a disk too
    /// full for that gets the files removed one by one, oldest first, each removal durable before the next.
    ///
    /// On a disk too full for the producers' snapshot only those segments go whose producers an older snapshot tells of.
    /// If that made room the rest goes, too; else it stays, below the log start. Returns what went.
    fn move_start(&self, offset: i64) -> Result<Vec<(Arc<Segment>, i64)>, ChangeError> {
        // The producer state as of the first segment that stays must be durable before the records that it was built
        // from may go (KAFKA-7190): once the log start is stored, the next opening removes them.
        let first_kept = || {
            let segments = self.segments();
            let last = segments.windows(2).rfind(|pair| pair[1].base_offset <= offset);
            last.map(|pair| pair[1].base_offset)
        };
        // Made without the writer lock where batches have to be read for it: sealed segments do not change, and
        // truncation is kept away by the flush lock.
        let foreseen = match first_kept() {
            Some(end) => self.untold_producers(end)?.map(|untold| (end, untold)),
            None => None,
        };
        let (told_below, must_flush) = {
            let writer = self.writer.lock();
            self.check_change()?;
            let end = first_kept();
            let untold = match (end, foreseen) {
                (Some(end), Some((at, untold))) if at == end => Some(untold),
                (Some(end), _) => self.untold_producers(end)?,
                (None, _) => None,
            };
            let told_below = match (end, untold) {
                (Some(end), Some(untold)) => self.keep_producers(end, &untold)?,
                _ => i64::MAX,
            };
            (told_below, end.is_some() && !writer.unsynced_snapshots.is_empty())
        };
        if must_flush {
            self.flush_locked()?;
        }
        let stored = match self.shared.store_start(&self.name, offset) {
            Ok(()) => true,
            Err(error) if is_disk_full(&error) => false,
            Err(error) => return Err(self.fail("storing the log start offset", &error).into()),
        };
        let doomed = {
            let mut writer = self.writer.lock();
            self.check_change()?;
            self.advance_start(&mut writer, offset, told_below, stored)
        };
        let Some((_, last_end)) = doomed.last() else {
            return Ok(doomed);
        };
        let remove = || -> io::Result<()> {
            let fs = &*self.shared.fs;
            for (segment, _) in &doomed {
                // A file that is still open would take up its room as before.
                segment.close();
                self.remove_segment_files(segment.base_offset, false)?;
                if !stored {
                    fs.sync_dir(&self.dir)?;
                }
            }
            // The newest snapshot at or below the first segment that stays is still needed (KAFKA-5829).
            let needed = self
                .snapshot_offsets()?
                .into_iter()
                .filter(|offset| offset <= last_end)
                .max();
            self.remove_snapshots_where(|offset| needed.is_some_and(|needed| offset < needed))?;
            fs.sync_dir(&self.dir)
        };
        remove().map_err(|error| self.fail("deleting segments", &error))?;
        tracing::info!(partition = %self.name, segments = doomed.len(), log_start = offset, "deleted segments");
        if told_below < offset {
            // There may be room for the snapshot now. Each time at least one segment goes.
            let more = self.move_start(offset)?;
            return Ok(doomed.into_iter().chain(more).collect());
        }
        Ok(doomed)
    }

    /// The producers as of `end`, where the first segment that stays begins, if only the records below tell of them:
    /// normally a snapshot was made when that segment was begun, but a crash or a full disk may have prevented it.
    fn untold_producers(&self, end: i64) -> Result<Option<Untold>, ChangeError> {
        let snapshots = self.snapshot_offsets().map_err(ChangeError::from_read)?;
        if snapshots.contains(&end) {
            return Ok(None);
        }
        let known = self.producers_at(end).map_err(ChangeError::from_read)?;
        for range in known.damage {
            self.quarantine(range);
        }
        let (state, from) = (known.state, known.from);
        Ok(Some(Untold { state, from }))
    }

    /// Stores the producers as of `end`. Returns below which offset no producer needs the records of a segment that goes: any, or, if there is
    /// no room, that of the last snapshot.
    fn keep_producers(&self, end: i64, untold: &Untold) -> Result<i64, ChangeError> {
        match self.write_snapshot_in_need(end, &untold.state) {
            // Nothing is known without a snapshot, either.
            Err(error) if is_disk_full(&error) && untold.state.entries().is_empty() => Ok(i64::MAX),
            Err(error) if is_disk_full(&error) => Ok(untold.from.unwrap_or(i64::MIN)),
            Err(error) => Err(self.fail("writing a producer snapshot", &error).into()),
            Ok(()) => Ok(i64::MAX),
        }
    }

    /// Moves the log start and takes segments wholly below it and `told_below` out of the list; their files are still there. Epochs
    /// below go only if the log start is stored: else it may go back, and its epochs with it.
    fn advance_start(
        &self,
        writer: &mut Writer,
        offset: i64,
        told_below: i64,
        stored: bool,
    ) -> Vec<(Arc<Segment>, i64)> {
        self.log_start.store(offset, Ordering::Release);
        self.touch();
        if stored {
            writer.epochs_dirty |= self.epochs.write().advance_start(offset);
        }
        let below = offset.min(told_below);
        let mut doomed = Vec::new();
        self.change_segments(|segments| {
            let count = segments
                .windows(2)
                .take_while(|pair| pair[1].base_offset <= below)
                .count();
            let ends: Vec<i64> = segments[1..=count].iter().map(|next| next.base_offset).collect();
            doomed = segments.drain(..count).zip(ends).collect();
        });
        writer
            .unsynced
            .retain(|segment| !doomed.iter().any(|(gone, _)| Arc::ptr_eq(gone, segment)));
        self.damage.write().retain(|range| range.to > below);
        doomed
    }
}
