//! Sequence numbers and their offsets, compactly: a stretch of both that rises by one is one run. Millions of messages of
//! one producer are one run if nobody else writes to the partition.

/// Consecutive sequence numbers at consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first sequence number.
    pub first: u64,
    /// How many there are, at least 1.
    pub count: u64,
    /// Where the first one is; none: nobody knows, for all of the run.
    pub offset: Option<i64>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.count
    }

    fn offset_of(&self, sequence: u64) -> Option<i64> {
        self.offset.map(|offset| offset + (sequence - self.first).cast_signed())
    }
}

/// Runs by their sequence numbers: sorted, `each.end() <= next.first`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

/// What became of some runs in others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many are not there at all.
    pub missing: u64,
    /// How many are at another offset.
    pub elsewhere: u64,
    /// The first that is missing, and where it should be.
    pub first_missing: Option<(u64, Option<i64>)>,
    /// The first that is elsewhere, where it should be and where it is.
    pub first_elsewhere: Option<(u64, Option<i64>, Option<i64>)>,
}

impl Runs {
    /// Adds a sequence number. `false`: it is there already, and stays where it was.
    pub fn add(&mut self, sequence: u64, offset: Option<i64>) -> bool {
        let one = Run {
            first: sequence,
            count: 1,
            offset,
        };
        let Some(last) = self.0.last_mut() else {
            self.0.push(one);
            return true;
        };
        if sequence == last.end() && last.offset_of(sequence) == offset {
            last.count += 1;
            return true;
        }
        if sequence >= last.end() {
            self.0.push(one);
            return true;
        }
        let at = self.0.partition_point(|run| run.first <= sequence);
        if at > 0 && sequence < self.0[at - 1].end() {
            return false;
        }
        self.0.insert(at, one);
        true
    }

    /// Whether it is there.
    #[cfg(test)]
    fn contains(&self, sequence: u64) -> bool {
        let at = self.0.partition_point(|run| run.first <= sequence);
        at > 0 && sequence < self.0[at - 1].end()
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|run| run.end() - 1)
    }

    /// How many numbers there are.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|run| run.count).sum()
    }

    /// Takes away what lies at `offset` or behind it.
    pub fn cut(&mut self, offset: i64) {
        for run in &mut self.0 {
            if let Some(begin) = run.offset {
                run.count = run.count.min(u64::try_from(offset - begin).unwrap_or(0));
            }
        }
        self.0.retain(|run| run.count > 0);
    }

    /// Looks each number up in `found`. With `below`, what should lie at that offset or behind it, or nobody knows where,
    /// may be missing.
    pub fn compare(&self, found: &Runs, below: Option<i64>) -> Compared {
        let mut compared = Compared::default();
        let mut others = found.0.iter().peekable();
        for run in &self.0 {
            let mut at = run.first;
            while at < run.end() {
                while others.next_if(|other| other.end() <= at).is_some() {}
                let (until, other) = match others.peek() {
                    Some(other) if other.first <= at => (other.end().min(run.end()), Some(*other)),
                    Some(other) => (other.first.min(run.end()), None),
                    None => (run.end(), None),
                };
                match other {
                    Some(other) => compared.note_found(run, other, at, until),
                    None => compared.note_missing(run, at, until, below),
                }
                at = until;
            }
        }
        compared
    }
}

impl Compared {
    fn note_found(&mut self, run: &Run, other: &Run, at: u64, until: u64) {
        let (wanted, found) = (run.offset_of(at), other.offset_of(at));
        if wanted.is_some() && found.is_some() && wanted != found {
            self.elsewhere += until - at;
            self.first_elsewhere.get_or_insert((at, wanted, found));
        }
    }

    fn note_missing(&mut self, run: &Run, at: u64, until: u64, below: Option<i64>) {
        let wanted = run.offset_of(at);
        let count = match (wanted, below) {
            (_, None) => until - at,
            (None, Some(_)) => 0,
            (Some(wanted), Some(below)) => (until - at).min(u64::try_from(below - wanted).unwrap_or(0)),
        };
        if count > 0 {
            self.missing += count;
            self.first_missing.get_or_insert((at, wanted));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn runs(pairs: impl IntoIterator<Item = (u64, i64)>) -> Runs {
        let mut runs = Runs::default();
        for (sequence, offset) in pairs {
            assert!(runs.add(sequence, Some(offset)));
        }
        runs
    }

    #[test]
    fn what_rises_by_one_is_one_run() {
        let mut all = runs((0_u64..1000).map(|n| (n, n.cast_signed() + 5)));
        assert_eq!(all.0.len(), 1);
        assert!(!all.add(999, Some(1)) && all.add(1000, Some(1006)) && all.add(1001, None) && all.add(1002, None));
        assert_eq!((all.0.len(), all.total(), all.last()), (3, 1003, Some(1002)));
    }

    #[test]
    fn the_missing_and_the_moved_are_found() {
        let told = runs([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
        let seen = runs([(0, 0), (1, 1), (3, 2), (4, 4)]);
        let compared = told.compare(&seen, None);
        assert_eq!((compared.missing, compared.elsewhere), (1, 1));
        assert_eq!(compared.first_missing, Some((2, Some(2))));
        assert_eq!(compared.first_elsewhere, Some((3, Some(3), Some(2))));
        assert_eq!(told.compare(&told, None), Compared::default());
    }

    #[test]
    fn what_was_not_reached_yet_is_not_missing() {
        let mut told = runs((0_u64..10).map(|n| (n, n.cast_signed())));
        let seen = runs((0_u64..4).map(|n| (n, n.cast_signed())));
        assert_eq!(told.compare(&seen, Some(4)).missing, 0);
        assert_eq!(told.compare(&seen, Some(6)).missing, 2);
        told.add(10, None);
        assert_eq!(told.compare(&seen, Some(100)).missing, 6);
        assert_eq!(told.compare(&seen, None).missing, 7);
    }

    #[test]
    fn a_cut_takes_the_end() {
        let mut seen = runs([(0, 0), (1, 1), (2, 5), (3, 6)]);
        seen.cut(6);
        assert_eq!(seen, runs([(0, 0), (1, 1), (2, 5)]));
        seen.cut(1);
        assert_eq!(seen, runs([(0, 0)]));
    }

    fn any_map() -> impl Strategy<Value = BTreeMap<u64, i64>> {
        proptest::collection::btree_map(0_u64..30, 0_i64..10, 0..30)
    }

    proptest! {
        /// Against the plain way, with maps, and in any order of adding.
        #[test]
        fn comparing_is_looking_each_one_up(told in any_map(), seen in any_map(), below in proptest::option::of(0_i64..12)) {
            let compared = runs(told.clone()).compare(&runs(seen.clone().into_iter().rev()), below);
            let missing = told.iter().filter(|(sequence, offset)| {
                !seen.contains_key(sequence) && below.is_none_or(|below| **offset < below)
            });
            prop_assert_eq!(compared.missing, missing.count() as u64);
            let elsewhere = told.iter().filter(|(sequence, offset)| seen.get(sequence).is_some_and(|other| other != *offset));
            prop_assert_eq!(compared.elsewhere, elsewhere.count() as u64);
            prop_assert_eq!(runs(seen.clone()).total(), seen.len() as u64);
            for sequence in 0..31 {
                prop_assert_eq!(runs(told.clone()).contains(sequence), told.contains_key(&sequence));
            }
        }
    }
}
