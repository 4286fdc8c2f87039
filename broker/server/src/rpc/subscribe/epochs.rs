//! Of which leader epochs the messages are that a subscriber is sent: a commit keeps that of its last message, so that
//! whoever goes on there finds out if the log was cut meanwhile (KIP-320).

use std::collections::VecDeque;

/// Most epochs that are known of one partition. With more than so many elections between two commits, the oldest of
/// what is not committed has none.
const MOST: usize = 8;

/// Where a reader is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The next offset.
    pub offset: i64,
    /// The leader epoch of the record before it, if known.
    pub leader_epoch: Option<i32>,
}

impl From<i64> for Position {
    /// What is before it is not known.
    fn from(offset: i64) -> Self {
        Self {
            offset,
            leader_epoch: None,
        }
    }
}

/// Offsets that follow each other and are of one epoch; `begin` is the first, `end` is behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    begin: i64,
    end: i64,
    epoch: i32,
}

/// The leader epochs of a stretch of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// The last one is apart: there is hardly ever another, and it costs no memory of its own.
    last: Option<Run>,
    before: VecDeque<Run>,
}

impl Epochs {
    /// What is known of a position alone.
    pub fn at(position: Position) -> Self {
        let mut epochs = Self::default();
        if let Some(epoch) = position.leader_epoch {
            epochs.add(position.offset - 1, position.offset, epoch);
        }
        epochs
    }

    /// The records from `begin` up to `end` are of this epoch, whatever was known of them and of those behind them.
    pub fn add(&mut self, begin: i64, end: i64, epoch: i32) {
        let mut run = Run { begin, end, epoch };
        while let Some(last) = self.last {
            // In a log epochs only rise: those between two records of one epoch are of it as well.
            if last.epoch == epoch && last.begin <= end {
                run.begin = run.begin.min(last.begin);
                run.end = run.end.max(last.end);
            } else if last.begin < run.begin {
                self.before.push_back(Run {
                    end: last.end.min(run.begin),
                    ..last
                });
                break;
            }
            self.last = self.before.pop_back();
        }
        self.last = Some(run);
        if self.before.len() >= MOST {
            self.before.pop_front();
        }
    }

    /// What follows, as [`add`](Self::add).
    pub fn append(&mut self, next: Self) {
        for run in next.before.into_iter().chain(next.last) {
            self.add(run.begin, run.end, run.epoch);
        }
    }

    /// The epoch of the record before `offset`, if known.
    pub fn before(&self, offset: i64) -> Option<i32> {
        let mut all = self.last.iter().chain(self.before.iter().rev());
        let found = all.find(|run| run.begin < offset && offset <= run.end);
        // A batch that no leader has stamped has none.
        found.map(|run| run.epoch).filter(|epoch| *epoch >= 0)
    }

    /// No position below `offset` is asked for any more.
    pub fn forget_below(&mut self, offset: i64) {
        while self.before.pop_front_if(|run| run.end < offset).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(epochs: &Epochs, offsets: std::ops::RangeInclusive<i64>) -> Vec<Option<i32>> {
        offsets.map(|offset| epochs.before(offset)).collect()
    }

    #[test]
    fn a_position_has_the_epoch_of_the_record_before_it() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.before(1), None);
        epochs.add(10, 12, 3);
        epochs.add(12, 13, 4);
        // Behind a gap, which may have been of the one or the other.
        epochs.add(15, 17, 6);
        let (no, is) = (None, Some);
        assert_eq!(
            known(&epochs, 9..=18),
            [no, no, is(3), is(3), is(4), no, no, is(6), is(6), no]
        );
        // Between two records of one epoch there is no other.
        epochs.add(20, 21, 6);
        assert_eq!(known(&epochs, 17..=22), [is(6), is(6), is(6), is(6), is(6), no]);
        assert_eq!(epochs.before.len(), 2);
        // One that no leader has stamped.
        epochs.add(21, 22, -1);
        assert_eq!(epochs.before(22), None);
    }

    #[test]
    fn what_is_read_again_counts_as_it_was_read_last() {
        let mut epochs = Epochs::at(Position {
            offset: 10,
            leader_epoch: Some(1),
        });
        epochs.add(10, 20, 2);
        epochs.add(20, 30, 3);
        // From the midst of a batch on.
        epochs.add(20, 30, 3);
        assert_eq!(epochs.before.len(), 2);
        let mut again = Epochs::default();
        again.add(15, 25, 5);
        again.add(25, 26, 6);
        epochs.append(again);
        let (no, is) = (None, Some);
        assert_eq!(
            known(&epochs, 9..=11),
            [no, is(1), is(2)],
            "what is before stays as it was"
        );
        assert_eq!(known(&epochs, 15..=17), [is(2), is(5), is(5)]);
        assert_eq!(known(&epochs, 25..=27), [is(5), is(6), no]);
        epochs.add(0, 30, 7);
        assert_eq!(
            (known(&epochs, 0..=2), epochs.before.len()),
            (vec![no, is(7), is(7)], 0)
        );
    }

    #[test]
    fn only_so_many_are_known_and_none_that_nobody_asks_for() {
        let mut epochs = Epochs::default();
        let at = |epoch: i32| i64::from(epoch) * 10;
        for epoch in 0..100 {
            epochs.add(at(epoch), at(epoch + 1), epoch);
            assert!(epochs.before.len() <= MOST);
        }
        assert_eq!((epochs.before(at(100)), epochs.before(at(98))), (Some(99), Some(97)));
        assert_eq!(epochs.before(at(50)), None);
        epochs.forget_below(at(98));
        assert_eq!(
            (epochs.before(at(98)), epochs.before(at(97)), epochs.before.len()),
            (Some(97), None, 2)
        );
        epochs.forget_below(i64::MAX);
        assert_eq!((epochs.before.len(), epochs.before(at(100))), (0, Some(99)));
    }
}
