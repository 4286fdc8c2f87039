//! Where two logs part: the table of leader epochs that leader and follower compare instead of
//! high watermarks (KIP-101, KIP-279, KIP-320, KIP-595).
//!
//! A log's epoch table says at which offset each leader epoch began in it:
//!
//! ```text
//!  epoch     1          3                  4
//!  offset    0 ........ 120 .............. 300 ....... log end 340
//! ```
//!
//! Two logs that hold a record of the same offset and the same epoch are equal up to there. So it
//! is enough to find the largest epoch that both know, and the lower of its two ends.

/// An epoch, and the offset after its last record in the log that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochEnd {
    /// The leader epoch.
    pub epoch: i32,
    /// The first offset that is not of this epoch any more; the log's end for the latest one.
    pub end_offset: i64,
}

/// A log's table of leader epochs, as the rules need it. Answers must be of the same moment as
/// the log end that the last event told.
pub trait EpochView {
    /// The epoch of the record before the log's end; `None` if the log holds no record.
    fn last_record_epoch(&self) -> Option<i32>;

    /// The largest epoch that is not above `epoch`, and where it ends in this log. `None` for an
    /// epoch above the latest, or if the table is empty. Is every epoch in the table larger, then
    /// the asked one comes back with the start of the lowest (KIP-595).
    fn end_of_epoch(&self, epoch: i32) -> Option<EpochEnd>;

    /// Whether the table's latest epoch begins at the log's end: its leader wrote nothing.
    fn ends_with_empty_epoch(&self) -> bool;
}

/// What a leader's table says about a follower's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The follower's log up to its fetch offset is a prefix of the leader's.
    Prefix,
    /// It is not: the follower must look for the common part at or below this point.
    Diverged(EpochEnd),
    /// The follower's last epoch is later than any that the leader knows: no honest follower of
    /// this leader epoch can have it.
    UnknownEpoch,
}

/// Compares a follower's log, which ends at `offset` with a record of `last_fetched_epoch`, with
/// the leader's (KIP-595).
///
/// Without a last epoch the follower's log is empty, and an empty log diverges from none.
#[must_use]
pub fn compare(leader: &impl EpochView, last_fetched_epoch: Option<i32>, offset: i64) -> Agreement {
    let Some(asked) = last_fetched_epoch else {
        return Agreement::Prefix;
    };
    match leader.end_of_epoch(asked) {
        None => Agreement::UnknownEpoch,
        Some(end) if end.epoch < asked || end.end_offset < offset => Agreement::Diverged(end),
        Some(_) => Agreement::Prefix,
    }
}

/// Where a follower cuts its log after a leader answered with `leader_end`: the lower of the
/// leader's end of that epoch and its own end of the largest epoch not above it (KIP-101,
/// KIP-279). Never its high watermark: what lies above that may be committed all the same.
///
/// Several rounds may be needed when the follower holds epochs that the leader never had.
#[must_use]
pub fn truncation_point(follower: &impl EpochView, leader_end: EpochEnd, log_end: i64) -> i64 {
    let own_end = follower
        .end_of_epoch(leader_end.epoch)
        .map_or(log_end, |end| end.end_offset);
    leader_end.end_offset.min(own_end).min(log_end).max(0)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A log in memory: the epoch of each record from `start` on, and epochs that began at its
    /// end and wrote nothing.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct Table {
        /// `(epoch, first offset)`, rising in both.
        pub entries: Vec<(i32, i64)>,
        pub start: i64,
        pub end: i64,
    }

    impl Table {
        pub(crate) fn new(entries: &[(i32, i64)], end: i64) -> Self {
            Self {
                entries: entries.to_vec(),
                start: entries.first().map_or(0, |entry| entry.1),
                end,
            }
        }

        pub(crate) fn of_records(epochs: &[i32]) -> Self {
            let mut table = Self::default();
            for epoch in epochs {
                table.append(*epoch);
            }
            table
        }

        pub(crate) fn assign(&mut self, epoch: i32) {
            if self.entries.last().is_some_and(|last| last.0 >= epoch) {
                return;
            }
            while self.entries.last().is_some_and(|last| last.1 >= self.end) {
                self.entries.pop();
            }
            self.entries.push((epoch, self.end));
        }

        pub(crate) fn append(&mut self, epoch: i32) {
            self.assign(epoch);
            assert_eq!(self.entries.last().unwrap().0, epoch, "the table would be wrong");
            self.end += 1;
        }

        pub(crate) fn truncate(&mut self, to: i64) {
            self.entries.retain(|entry| entry.1 < to);
            self.end = self.end.min(to);
        }
    }

    impl EpochView for Table {
        fn last_record_epoch(&self) -> Option<i32> {
            if self.end == self.start {
                return None;
            }
            let entry = self.entries.iter().rev().find(|entry| entry.1 < self.end);
            entry.map(|entry| entry.0)
        }

        fn end_of_epoch(&self, epoch: i32) -> Option<EpochEnd> {
            let latest = self.entries.last()?.0;
            if epoch > latest {
                return None;
            }
            let after = self.entries.iter().position(|entry| entry.0 > epoch);
            let end_offset = after.map_or(self.end, |at| self.entries[at].1);
            let below = self.entries.iter().rev().find(|entry| entry.0 <= epoch);
            Some(EpochEnd {
                epoch: below.map_or(epoch, |entry| entry.0),
                end_offset,
            })
        }

        fn ends_with_empty_epoch(&self) -> bool {
            self.entries.last().is_some_and(|last| last.1 >= self.end)
        }
    }

    fn diverged(epoch: i32, end_offset: i64) -> Agreement {
        Agreement::Diverged(EpochEnd { epoch, end_offset })
    }

    #[test]
    fn a_leader_finds_where_a_follower_diverges() {
        let full = Table::new(&[(1, 0), (3, 120), (4, 300)], 340);
        let cut = Table::new(&[(3, 120), (4, 300)], 340);
        let empty = Table::default();
        let idle = Table::new(&[(1, 0), (5, 100)], 100);
        use Agreement::{Prefix, UnknownEpoch};
        let table: [(&str, &Table, Option<i32>, i64, Agreement); 14] = [
            ("equal", &full, Some(4), 340, Prefix),
            ("behind, same epoch", &full, Some(4), 301, Prefix),
            ("behind, earlier epoch", &full, Some(3), 300, Prefix),
            ("ahead in the latest epoch", &full, Some(4), 341, diverged(4, 340)),
            ("ahead in an earlier epoch", &full, Some(3), 301, diverged(3, 300)),
            ("an epoch in a gap", &full, Some(2), 100, diverged(1, 120)),
            ("an epoch in a gap, far ahead", &full, Some(2), 400, diverged(1, 120)),
            ("below the first epoch, at its start", &cut, Some(2), 120, Prefix),
            ("below the first epoch, ahead", &cut, Some(2), 150, diverged(2, 120)),
            ("a later epoch than the leader's", &full, Some(5), 340, UnknownEpoch),
            ("an empty leader", &empty, Some(0), 10, UnknownEpoch),
            ("an empty follower of an empty leader", &empty, None, 0, Prefix),
            ("an empty follower", &full, None, 0, Prefix),
            ("an epoch that wrote nothing", &idle, Some(4), 100, diverged(1, 100)),
        ];
        for (name, leader, last, offset, expected) in table {
            assert_eq!(compare(leader, last, offset), expected, "{name}");
        }
    }

    #[test]
    fn a_follower_cuts_to_the_lower_end() {
        let own = Table::new(&[(1, 0), (2, 50), (4, 80)], 100);
        let end = |epoch, end_offset| EpochEnd { epoch, end_offset };
        for (name, leader_end, expected) in [
            ("the leader's end is lower", end(4, 90), 90),
            ("its own end is lower", end(3, 95), 80),
            ("of an epoch that it lacks", end(3, 60), 60),
            ("of the first epoch", end(1, 70), 50),
            ("of an epoch below its first", end(0, 30), 0),
            ("of an epoch above its latest", end(7, 95), 95),
            ("above its own log", end(7, 500), 100),
        ] {
            assert_eq!(truncation_point(&own, leader_end, own.end), expected, "{name}");
        }
        let empty = Table::default();
        assert_eq!(truncation_point(&empty, end(3, 7), 0), 0);
    }

    /// Two histories with a common beginning; then each goes its own way through later epochs,
    /// never the same one in both: an epoch has one leader.
    fn histories() -> impl Strategy<Value = (Vec<i32>, Vec<i32>)> {
        let tail = || prop::collection::vec((0..3usize, 0..4usize), 0..6);
        (prop::collection::vec(0..3usize, 0..4), tail(), tail()).prop_map(|(common, left, right)| {
            let shared: Vec<i32> = (0i32..)
                .zip(&common)
                .flat_map(|(epoch, count)| vec![epoch; *count])
                .collect();
            let extend = |runs: &[(usize, usize)], parity: i32| {
                let mut log = shared.clone();
                let mut epoch = 10 + parity;
                for (skip, count) in runs {
                    epoch += 2 * i32::try_from(*skip).unwrap() + 2;
                    log.extend(vec![epoch; *count]);
                }
                log
            };
            (extend(&left, 0), extend(&right, 1))
        })
    }

    proptest! {
        /// However two logs parted, repeated rounds end exactly at their common part: no record
        /// is cut that both have, none stays that only the follower has.
        #[test]
        fn rounds_end_at_the_common_prefix((leader, follower) in histories()) {
            let common = leader.iter().zip(&follower).take_while(|(a, b)| a == b).count();
            let mut table = Table::of_records(&leader);
            table.assign(1000);
            let mut own = Table::of_records(&follower);
            let mut rounds = 0;
            loop {
                match compare(&table, own.last_record_epoch(), own.end) {
                    Agreement::Prefix => break,
                    Agreement::UnknownEpoch => prop_assert!(false, "the leader's epoch is the latest"),
                    Agreement::Diverged(end) => {
                        let to = truncation_point(&own, end, own.end);
                        prop_assert!(to < own.end, "each round cuts");
                        own.truncate(to);
                    }
                }
                rounds += 1;
                prop_assert!(rounds <= 16);
            }
            prop_assert_eq!(own.end, i64::try_from(common).unwrap());
        }
    }
}
