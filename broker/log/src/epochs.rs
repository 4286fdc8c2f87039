//! The leader epoch cache: where each epoch began in this log, and where it ends (KIP-101, KIP-279, KIP-320).

use crate::checkpoint::leader_epochs::EpochEntry;

/// Entries with rising epochs and offsets. Mirrors the batches of the log, plus epochs that began and wrote nothing
/// yet (KAFKA-7415).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    entries: Vec<EpochEntry>,
}

impl EpochCache {
    /// A cache of entries that were checked when they were decoded.
    #[must_use]
    pub fn from_entries(entries: Vec<EpochEntry>) -> Self {
        EpochCache { entries }
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The newest entry.
    #[must_use]
    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Notes that `epoch` begins at `start_offset`. Nothing happens for an epoch that is not newer than the latest
    /// one; returns whether something changed. Newer entries that hold no offset below `start_offset` stay: an epoch
    /// without data is still part of the history.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        if epoch < 0 || self.latest().is_some_and(|last| last.epoch >= epoch) {
            return false;
        }
        // An epoch that wrote nothing, and whose place is taken, never was.
        while self
            .entries
            .last()
            .is_some_and(|last| last.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// Forgets what begins at or after `end_offset`, also when no byte of the log was cut (KAFKA-10706).
    pub fn truncate_to(&mut self, end_offset: i64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start_offset < end_offset);
        before != self.entries.len()
    }

    /// Forgets epochs that ended at or below the log start; the one that holds the log start begins there now.
    pub fn advance_start(&mut self, start_offset: i64) -> bool {
        let keep_from = self
            .entries
            .partition_point(|entry| entry.start_offset <= start_offset)
            .saturating_sub(1);
        let mut changed = keep_from > 0;
        self.entries.drain(..keep_from);
        if let Some(first) = self.entries.first_mut()
            && first.start_offset < start_offset
        {
            first.start_offset = start_offset;
            changed = true;
        }
        changed
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The epoch of the record at `offset` (or that it would have).
    #[must_use]
    pub fn epoch_at(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The largest epoch that is not above `epoch`, and where it ends: the start of the next one, or `log_end` for
    /// the latest. An epoch above the latest, and any epoch on an empty cache, is unknown: `None`. Below the first
    /// entry the asked epoch comes back with the first entry's start (KIP-595).
    #[must_use]
    pub fn end_offset_for(&self, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        let latest = self.latest()?;
        if epoch > latest.epoch || epoch < 0 {
            return None;
        }
        if epoch == latest.epoch {
            return Some((epoch, log_end));
        }
        let after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries[after].start_offset;
        Some((after.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        for (epoch, start_offset) in entries {
            cache.assign(*epoch, *start_offset);
        }
        cache
    }

    fn pairs(cache: &EpochCache) -> Vec<(i32, i64)> {
        cache
            .entries()
            .iter()
            .map(|entry| (entry.epoch, entry.start_offset))
            .collect()
    }

    #[test]
    fn end_offsets_as_kip_101_and_kip_595_say() {
        let full = cache(&[(2, 10), (3, 20), (7, 30)]);
        for (asked, expected) in [
            (-1, None),
            (0, Some((0, 10))),
            (1, Some((1, 10))),
            (2, Some((2, 20))),
            (3, Some((3, 30))),
            (5, Some((3, 30))),
            (7, Some((7, 45))),
            (8, None),
        ] {
            assert_eq!(full.end_offset_for(asked, 45), expected, "epoch {asked}");
        }
        assert_eq!(cache(&[]).end_offset_for(0, 45), None);
        assert_eq!(
            cache(&[(0, 0)]).end_offset_for(0, 45),
            Some((0, 45)),
            "epoch 0 survives (KAFKA-10432)"
        );
    }

    #[test]
    fn assignment_keeps_epochs_and_offsets_rising() {
        let mut epochs = cache(&[(1, 0), (2, 10)]);
        assert!(!epochs.assign(2, 12));
        assert!(!epochs.assign(1, 12));
        assert!(epochs.assign(4, 10), "epoch 2 wrote nothing");
        assert_eq!(pairs(&epochs), [(1, 0), (4, 10)]);
        assert_eq!(epochs.epoch_at(9), Some(1));
        assert_eq!(epochs.epoch_at(10), Some(4));
        assert_eq!(cache(&[(1, 5)]).epoch_at(4), None);
    }

    #[test]
    fn truncation_and_log_start() {
        let mut epochs = cache(&[(1, 0), (2, 10), (3, 20)]);
        assert!(!epochs.truncate_to(21));
        assert!(
            epochs.truncate_to(20),
            "the entry goes although no record is cut (KAFKA-10706)"
        );
        assert_eq!(pairs(&epochs), [(1, 0), (2, 10)]);

        let mut epochs = cache(&[(1, 0), (2, 10), (3, 20)]);
        assert!(epochs.advance_start(15));
        assert_eq!(pairs(&epochs), [(2, 15), (3, 20)]);
        assert!(epochs.advance_start(20));
        assert_eq!(pairs(&epochs), [(3, 20)]);
        assert!(!epochs.advance_start(20));
        assert!(epochs.advance_start(100), "beyond the end the last epoch stays known");
        assert_eq!(pairs(&epochs), [(3, 100)]);
    }
}
