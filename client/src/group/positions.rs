//! How far the application is in each partition of its group: what was handed out, what is known to be processed, and
//! what of it is committed. No IO here.
//!
//! ```text
//!  committed ≤ processed ≤ handed out
//! ```

use std::collections::BTreeMap;

use crate::{consumer::FetchedRecords, offsets::TopicPartition};

/// An offset to commit, with the leader epoch of the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
}

#[derive(Debug, Default)]
struct Progress {
    handed: Option<Position>,
    processed: Option<Position>,
    committed: Option<i64>,
    /// Of the batches that were handed out last: where each leader epoch ends.
    epochs: Vec<(i64, i32)>,
}

/// All partitions of a member.
#[derive(Debug, Default)]
pub struct Positions(BTreeMap<TopicPartition, Progress>);

impl Positions {
    /// A partition is used from `committed` on, if something was.
    pub fn begin(&mut self, key: TopicPartition, committed: Option<i64>) {
        let progress = Progress {
            committed,
            ..Progress::default()
        };
        self.0.insert(key, progress);
    }

    pub fn forget(&mut self, key: &TopicPartition) -> bool {
        self.0.remove(key).is_some()
    }

    pub fn has(&self, key: &TopicPartition) -> bool {
        self.0.contains_key(key)
    }

    /// Batches come to be handed out.
    pub fn fetched(&mut self, fetched: &FetchedRecords) {
        let Some(progress) = self.0.get_mut(&(fetched.topic().clone(), fetched.partition())) else {
            return;
        };
        progress.epochs.clear();
        for batch in fetched.batches().flatten() {
            let (end, epoch) = (batch.header().next_offset(), batch.header().partition_leader_epoch);
            match progress.epochs.last_mut() {
                Some(last) if last.1 == epoch => last.0 = end,
                _ => progress.epochs.push((end, epoch)),
            }
        }
    }

    /// All below `offset` was handed out.
    pub fn handed(&mut self, key: &TopicPartition, offset: i64) {
        if let Some(progress) = self.0.get_mut(key) {
            let found = progress.epochs.iter().find(|(end, _)| offset <= *end);
            let leader_epoch = found.or(progress.epochs.last()).map(|(_, epoch)| *epoch);
            progress.handed = Some(Position {
                offset,
                leader_epoch: leader_epoch.filter(|epoch| *epoch >= 0),
            });
        }
    }

    /// The application came back for more: what it was given, it has processed.
    pub fn processed(&mut self) {
        for progress in self.0.values_mut() {
            progress.processed = progress.handed;
        }
    }

    /// What is processed and not committed, of these partitions or of all.
    pub fn to_commit(&self, of: Option<&[TopicPartition]>) -> Vec<(TopicPartition, Position)> {
        let asked = |key: &TopicPartition| of.is_none_or(|of| of.contains(key));
        let all = self.0.iter().filter(|(key, _)| asked(key));
        all.filter_map(|(key, progress)| {
            let processed = progress.processed?;
            // Not back: the application may have committed more by itself.
            let is_new = progress.committed.is_none_or(|committed| committed < processed.offset);
            is_new.then(|| (key.clone(), processed))
        })
        .collect()
    }

    pub fn committed(&mut self, key: &TopicPartition, offset: i64) {
        if let Some(progress) = self.0.get_mut(key) {
            progress.committed = Some(offset);
        }
    }

    /// The leader epoch of the record before an offset that the application commits, if it was handed out last.
    pub fn leader_epoch(&self, key: &TopicPartition, offset: i64) -> Option<i32> {
        let handed = self.0.get(key)?.handed?;
        handed.leader_epoch.filter(|_| handed.offset == offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> TopicPartition {
        ("t".into(), partition)
    }

    fn at(offset: i64) -> Position {
        Position {
            offset,
            leader_epoch: None,
        }
    }

    #[test]
    fn only_what_was_processed_is_committed_and_only_once() {
        let mut positions = Positions::default();
        positions.begin(key(0), Some(5));
        positions.begin(key(1), None);
        positions.handed(&key(0), 8);
        positions.handed(&key(1), 2);
        assert_eq!(positions.to_commit(None), [], "it is in the application's hands");
        positions.processed();
        positions.handed(&key(0), 9);
        assert_eq!(positions.to_commit(None), [(key(0), at(8)), (key(1), at(2))]);
        assert_eq!(positions.to_commit(Some(&[key(1)])), [(key(1), at(2))]);
        positions.committed(&key(0), 8);
        positions.committed(&key(1), 2);
        assert_eq!(positions.to_commit(None), []);
        positions.processed();
        assert_eq!(positions.to_commit(None), [(key(0), at(9))]);
    }

    #[test]
    fn what_is_given_up_is_not_committed() {
        let mut positions = Positions::default();
        positions.begin(key(0), None);
        positions.handed(&key(0), 8);
        positions.processed();
        assert!(positions.forget(&key(0)));
        positions.handed(&key(0), 9);
        assert_eq!(positions.to_commit(None), []);
        positions.begin(key(0), Some(3));
        positions.processed();
        assert_eq!(positions.to_commit(None), [], "begun anew");
    }

    #[test]
    fn what_the_application_has_committed_farther_is_not_put_back() {
        let mut positions = Positions::default();
        positions.begin(key(0), None);
        positions.handed(&key(0), 8);
        positions.processed();
        positions.committed(&key(0), 10);
        assert_eq!(positions.to_commit(None), []);
    }
}
