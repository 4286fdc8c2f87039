//! All that is known of one partition: what producers were told, what consumers were shown, and whether both agree.
//! Pure.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use serde::Serialize;

use crate::{gaps::Gaps, reading::Reading, runs::Runs};

/// What producers were told of a partition, and what was read of it.
#[derive(Debug)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub number: i32,
    /// Waits for acknowledgements.
    pub gaps: Gaps,
    /// What follows while it is written.
    pub following: Reading,
    /// A second reading of all of it at the end.
    pub again: Option<Reading>,
    acknowledged: BTreeMap<u32, Runs>,
    /// Surely not written.
    refused: BTreeMap<u32, Runs>,
    /// How many failed, also those of which nobody knows whether they are written.
    failed: u64,
}

/// What is wrong; all of it must be nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Acknowledged and not there, or shown and gone.
    pub lost: u64,
    /// There or shown twice.
    pub doubled: u64,
    /// Not where they were acknowledged, out of order, damaged, in another partition, or refused and there.
    pub misplaced: u64,
    /// Offsets that hold nothing.
    pub skipped: u64,
}

impl Wrong {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            doubled: self.doubled + other.doubled,
            misplaced: self.misplaced + other.misplaced,
            skipped: self.skipped + other.skipped,
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self {
            lost: self.lost.max(other.lost),
            doubled: self.doubled.max(other.doubled),
            misplaced: self.misplaced.max(other.misplaced),
            skipped: self.skipped.max(other.skipped),
        }
    }
}

impl Partition {
    /// One of which nothing is known.
    pub fn new(topic: Arc<str>, number: i32) -> Self {
        Self {
            topic,
            number,
            gaps: Gaps::default(),
            following: Reading::default(),
            again: None,
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
            failed: 0,
        }
    }

    /// A message was acknowledged, at an offset if the broker knew it.
    pub fn acknowledged(&mut self, producer: u32, sequence: u64, offset: Option<i64>, now: Instant) {
        self.acknowledged.entry(producer).or_default().add(sequence, offset);
        self.gaps.acknowledged(now);
    }

    /// A message was given up; `surely`: the client says that it is not written.
    pub fn failed(&mut self, producer: u32, sequence: u64, surely: bool) {
        self.failed += 1;
        if surely {
            self.refused.entry(producer).or_default().add(sequence, None);
        }
    }

    /// How many were acknowledged.
    pub fn acknowledged_total(&self) -> u64 {
        self.acknowledged.values().map(Runs::total).sum()
    }

    /// How many failed.
    pub fn failed_total(&self) -> u64 {
        self.failed
    }

    /// What is wrong so far, and in words. `at_end`: all was read, so that what is not there is lost.
    pub fn judge(&self, at_end: bool) -> (Wrong, Vec<String>) {
        let mut words = Vec::new();
        let mut wrong = self.judge_reading(&self.following, at_end, &mut words);
        if let Some(again) = &self.again {
            wrong = wrong.at_least(self.judge_reading(again, true, &mut words));
            // What was shown is what is there.
            for (producer, shown) in &self.following.seen {
                let compared = shown.compare(again.seen.get(producer).unwrap_or(&Runs::default()), None);
                wrong.lost = wrong.lost.max(compared.missing);
                wrong.misplaced = wrong.misplaced.max(compared.elsewhere);
                if compared.missing + compared.elsewhere > 0 {
                    words.push(format!("producer {producer}: shown, then gone or moved: {compared:?}"));
                }
            }
        }
        let place = format!("{}-{}", self.topic, self.number);
        (
            wrong,
            words.into_iter().map(|words| format!("{place}: {words}")).collect(),
        )
    }

    fn judge_reading(&self, reading: &Reading, at_end: bool, words: &mut Vec<String>) -> Wrong {
        words.extend(reading.findings.iter().cloned());
        let mut wrong = Wrong {
            lost: reading.cut,
            doubled: reading.doubled,
            misplaced: reading.misplaced,
            skipped: reading.skipped,
        };
        let below = (!at_end).then_some(reading.next);
        let nothing = Runs::default();
        for (producer, told) in &self.acknowledged {
            let compared = told.compare(reading.seen.get(producer).unwrap_or(&nothing), below);
            wrong.lost += compared.missing;
            wrong.misplaced += compared.elsewhere;
            if compared.missing + compared.elsewhere > 0 {
                words.push(format!("producer {producer}: acknowledged, and then: {compared:?}"));
            }
        }
        for (producer, refused) in &self.refused {
            let missing = refused
                .compare(reading.seen.get(producer).unwrap_or(&nothing), None)
                .missing;
            let there = refused.total() - missing;
            wrong.misplaced += there;
            if there > 0 {
                words.push(format!(
                    "producer {producer}: {there} were refused as not written, and are there"
                ));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Value;

    const RUN: u32 = 1;

    fn partition(acknowledged: &[(u64, Option<i64>)]) -> Partition {
        let mut partition = Partition::new("t".into(), 0);
        for (sequence, offset) in acknowledged {
            partition.acknowledged(0, *sequence, *offset, Instant::now());
        }
        partition
    }

    fn reading(sequences: &[u64]) -> Reading {
        let mut reading = Reading::default();
        for (offset, sequence) in (0..).zip(sequences) {
            let value = Value {
                run: RUN,
                producer: 0,
                sequence: *sequence,
            };
            reading.read(RUN, offset, Ok(value));
        }
        reading
    }

    fn judged(partition: &Partition, at_end: bool) -> [u64; 4] {
        let (wrong, words) = partition.judge(at_end);
        assert_eq!(wrong == Wrong::default(), words.is_empty(), "{wrong:?} {words:?}");
        [wrong.lost, wrong.doubled, wrong.misplaced, wrong.skipped]
    }

    const THREE: [(u64, Option<i64>); 3] = [(0, Some(0)), (1, Some(1)), (2, Some(2))];

    #[test]
    fn what_is_where_it_was_acknowledged_is_right() {
        let mut all = partition(&THREE);
        all.following = reading(&[0, 1, 2, 3]);
        assert_eq!(judged(&all, true), [0; 4], "one that was never answered may be there");
        all.again = Some(reading(&[0, 1, 2, 3]));
        assert_eq!(judged(&all, true), [0; 4]);
    }

    #[test]
    fn the_lost_are_lost_when_reading_has_passed_them() {
        let mut all = partition(&THREE);
        all.following = reading(&[0, 1]);
        assert_eq!(judged(&all, false), [0; 4], "it has not come there yet");
        assert_eq!(judged(&all, true), [1, 0, 0, 0]);
        let mut passed = partition(&THREE);
        passed.following = reading(&[0, 1, 3]);
        assert_eq!(judged(&passed, false), [1, 0, 0, 0], "another one is in its place");
    }

    #[test]
    fn the_moved_are_misplaced() {
        let mut all = partition(&THREE);
        all.following = reading(&[7, 0, 1, 2]);
        // 7 was never told of; the others are one place behind, and come after a later number.
        assert_eq!(judged(&all, true), [0, 0, 3 + 3, 0]);
    }

    #[test]
    fn the_doubled_are_doubled_and_the_reordered_misplaced() {
        let mut all = partition(&THREE);
        all.following = reading(&[0, 1, 2, 1]);
        assert_eq!(judged(&all, true), [0, 1, 0, 0]);
        let mut turned = partition(&[(0, Some(0)), (2, Some(1)), (1, Some(2))]);
        turned.following = reading(&[0, 2, 1]);
        assert_eq!(
            judged(&turned, true),
            [0, 0, 1, 0],
            "acknowledged so, and yet out of order"
        );
    }

    #[test]
    fn an_acknowledgement_without_an_offset_is_kept_anywhere() {
        let mut all = partition(&[(0, Some(0)), (1, None)]);
        all.following = reading(&[0]);
        assert_eq!(judged(&all, false), [0; 4]);
        assert_eq!(judged(&all, true), [1, 0, 0, 0]);
        all.following = reading(&[0, 1]);
        assert_eq!(judged(&all, true), [0; 4]);
    }

    #[test]
    fn the_refused_must_not_be_there() {
        let mut all = partition(&THREE);
        all.failed(0, 3, true);
        all.failed(0, 4, false);
        all.following = reading(&[0, 1, 2, 4]);
        assert_eq!(
            (judged(&all, true), all.failed_total()),
            ([0; 4], 2),
            "nobody knew of 4"
        );
        all.following = reading(&[0, 1, 2, 3]);
        assert_eq!(judged(&all, true), [0, 0, 1, 0]);
    }

    #[test]
    fn what_was_shown_must_be_there_in_the_end() {
        let mut all = partition(&THREE);
        all.following = reading(&[0, 1, 2, 3]);
        all.again = Some(reading(&[0, 1, 2]));
        assert_eq!(
            judged(&all, true),
            [1, 0, 0, 0],
            "3 was shown, though never acknowledged"
        );
        all.again = Some(reading(&[0, 1, 3, 2]));
        assert_eq!(judged(&all, true), [0, 0, 2, 0]);
    }

    #[test]
    fn what_was_cut_off_is_lost() {
        let mut all = partition(&THREE);
        all.following = reading(&[0, 1, 2]);
        all.following.cut(2);
        assert_eq!(judged(&all, false), [1, 0, 0, 0]);
    }
}
