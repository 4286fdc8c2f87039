//! How far a log is compacted and below which offset it may have gaps, as its file tells.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::{Log, LogInner};
use crate::checkpoint::cleaned::{self, Cleaned};
use crate::checkpoint::{Loaded, load};
use crate::error::{ChangeError, ReadError};
use crate::fs::{FileSystem, OpenMode, is_disk_full, remove_if_exists, temporary_path, write_atomic};

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownCleaned {
    /// There is none: nothing was ever compacted.
    Never,
    /// This.
    UpTo(Cleaned),
    /// Nothing that can be read, so that all must be taken for dirty, and for full of gaps.
    Unknown,
}

/// Reads the file of a partition's directory.
pub(super) fn read(fs: &dyn FileSystem, dir: &Path) -> io::Result<KnownCleaned> {
    let path = dir.join(cleaned::FILE_NAME);
    Ok(match load(fs, &path, cleaned::decode)? {
        Loaded::Found(cleaned) => KnownCleaned::UpTo(cleaned),
        Loaded::Missing => KnownCleaned::Never,
        Loaded::Damaged(reason) => {
            tracing::warn!(path = %path.display(), %reason, "how far the log is compacted is not known: all of it counts as dirty");
            KnownCleaned::Unknown
        }
    })
}

/// Below which offset the file says that there may be gaps; nowhere if it says nothing.
pub(super) fn told_gaps_below(known: Option<KnownCleaned>) -> i64 {
    match known {
        Some(KnownCleaned::UpTo(cleaned)) => cleaned.gaps_below,
        Some(KnownCleaned::Never | KnownCleaned::Unknown) | None => i64::MIN,
    }
}

impl Log {
    /// Below this offset compaction has taken out tombstones whose time had come; 0 if none. Who has the log up to a lower
    /// offset and goes on from there never gets them, and may have kept the records that they deleted. Where that is not
    /// known it is the log end. Durable before the first tombstone goes; falls only where the log is cut.
    ///
    /// # Errors
    /// The log is closed or the directory offline; the file can't be read.
    pub fn tombstones_gone_below(&self) -> Result<i64, ReadError> {
        self.inner.check_read()?;
        Ok(self.inner.cleaned()?.tombstones_gone_below)
    }

    /// Below this offset no record has a later one of its key below this offset. Who begins to copy the log now gets
    /// nothing that a tombstone below it deletes.
    ///
    /// # Errors
    /// As [`Log::tombstones_gone_below`].
    pub fn cleaned_offset(&self) -> Result<i64, ReadError> {
        self.inner.check_read()?;
        Ok(self.inner.cleaned()?.offset)
    }

    /// Forgets how far the log is compacted, durably: the next compaction looks at all of it. To be called when the
    /// directory's contents became another replica's.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] on a full disk; the log is closed or the directory offline.
    pub fn reset_compaction(&self) -> Result<(), ChangeError> {
        let inner = &*self.inner;
        let _no_compaction_ends = inner.flush_lock.lock();
        inner.check_change()?;
        // Gaps stay where they are, and so does what readers may have seen and what is gone.
        let reset = |cleaned: &mut Cleaned| cleaned.offset = 0;
        inner
            .change_cleaned(reset)
            .map_err(|error| inner.shared.refuse_or_fail("forgetting what is compacted", &error))
    }
}

impl LogInner {
    /// How far the log is compacted. Where that is not known, nothing is, there may be gaps everywhere, and whoever reads
    /// may have what the tombstones delete for as long as those are kept.
    pub(super) fn cleaned(&self) -> io::Result<Cleaned> {
        let known = self.known_cleaned(&mut self.cleaned.lock())?;
        Ok(self.cleaned_by(known))
    }

    /// What is known; the file is read once.
    fn known_cleaned(&self, slot: &mut Option<KnownCleaned>) -> io::Result<KnownCleaned> {
        if let Some(known) = *slot {
            return Ok(known);
        }
        let known = read(&*self.shared.fs, &self.dir)?;
        self.note_known(slot, Some(known));
        Ok(known)
    }

    fn note_known(&self, slot: &mut Option<KnownCleaned>, known: Option<KnownCleaned>) {
        *slot = known;
        self.gaps_below.store(told_gaps_below(known), Ordering::Release);
    }

    /// After the file was removed with all others.
    pub(super) fn note_cleaned_removed(&self) {
        self.note_known(&mut self.cleaned.lock(), None);
    }

    fn cleaned_by(&self, known: KnownCleaned) -> Cleaned {
        match known {
            KnownCleaned::Never => Cleaned::default(),
            KnownCleaned::UpTo(cleaned) => cleaned,
            KnownCleaned::Unknown => Cleaned {
                gaps_below: self.log_end(),
                tombstones_gone_below: self.log_end(),
                longest_copy_ms: self.config().delete_retention_ms.max(0),
                ..Cleaned::default()
            },
        }
    }

    /// Changes and stores it, if that changes anything. Durable when this returns. The caller holds the flush lock of a
    /// log that is not closed, or opens it: a compaction that notes something must not bring back what a truncation has
    /// lowered or removed, nor write into the directory of another log that has this one's name.
    pub(super) fn change_cleaned(&self, change: impl FnOnce(&mut Cleaned)) -> io::Result<()> {
        let mut slot = self.cleaned.lock();
        let known = self.known_cleaned(&mut slot)?;
        let before = self.cleaned_by(known);
        let mut after = before;
        change(&mut after);
        after.gaps_below = after.gaps_below.max(after.offset);
        if after == before {
            return Ok(());
        }
        write_atomic(
            &*self.shared.fs,
            &self.dir.join(cleaned::FILE_NAME),
            &cleaned::encode(&after),
        )?;
        self.note_known(&mut slot, Some(KnownCleaned::UpTo(after)));
        Ok(())
    }

    /// Before the log is cut to `end`: what is written there later was never compacted (KAFKA-3330).
    pub(super) fn lower_cleaned(&self, end: i64) -> io::Result<()> {
        self.change_cleaned(|cleaned| {
            cleaned.offset = cleaned.offset.min(end);
            cleaned.gaps_below = cleaned.gaps_below.min(end);
            // Those between would come again from whoever leads, or are gone there as well.
            cleaned.tombstones_gone_below = cleaned.tombstones_gone_below.min(end);
        })
    }

    /// The same where the log is opened and ends at `end`. On a full disk what is compacted is forgotten instead: that
    /// takes no room, and makes no start fail.
    pub(super) fn lower_cleaned_at_start(&self, end: i64) -> io::Result<()> {
        match self.lower_cleaned(end) {
            Err(error) if is_disk_full(&error) => self.forget_cleaned(),
            other => other,
        }
    }

    /// Durably makes the file one that tells nothing. To remove it would tell that there are no gaps.
    fn forget_cleaned(&self) -> io::Result<()> {
        let mut slot = self.cleaned.lock();
        let fs = &*self.shared.fs;
        let path = self.dir.join(cleaned::FILE_NAME);
        remove_if_exists(fs, &temporary_path(&path))?;
        let file = fs.open(&path, OpenMode::ReadWrite)?;
        file.set_len(0)?;
        file.sync_all()?;
        self.note_known(&mut slot, Some(KnownCleaned::Unknown));
        Ok(())
    }
}
