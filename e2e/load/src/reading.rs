//! What was read of a partition, from its beginning, and what is wrong with it in itself. Pure.

use std::collections::BTreeMap;

use crate::{runs::Runs, values::Value};

/// Findings beyond these are counted and not described.
const MAX_FINDINGS: usize = 10;

/// One reading of a partition.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The offset that is next.
    pub next: i64,
    /// What was seen of each producer of this run.
    pub seen: BTreeMap<u32, Runs>,
    /// How many messages were read.
    pub consumed: u64,
    /// Messages of other runs: not judged.
    pub foreign: u64,
    /// Messages that were read twice: at two offsets, or one offset twice.
    pub doubled: u64,
    /// Messages behind a later one of their producer, and values that are damaged or were sent to another partition.
    pub misplaced: u64,
    /// Offsets that were passed over. There are neither transactions nor compaction here that would explain it.
    pub skipped: u64,
    /// Messages that were shown and then cut off.
    pub cut: u64,
    /// The first few in words.
    pub findings: Vec<String>,
}

impl Reading {
    /// A message was read; `value`: what it says, or why it is none.
    pub fn read(&mut self, run: u32, offset: i64, value: Result<Value, String>) {
        self.consumed += 1;
        if offset < self.next {
            self.doubled += 1;
            self.find(|| format!("offset {offset} was read again"));
            return;
        }
        if offset > self.next {
            self.skipped += (offset - self.next).unsigned_abs();
            let next = self.next;
            self.find(|| format!("offset {offset} came after {}", next - 1));
        }
        self.next = offset + 1;
        let value = match value {
            Ok(value) if value.run == run => value,
            Ok(_) => {
                self.foreign += 1;
                return;
            }
            Err(why) => {
                self.misplaced += 1;
                self.find(|| format!("offset {offset} holds {why}"));
                return;
            }
        };
        let (producer, sequence) = (value.producer, value.sequence);
        let seen = self.seen.entry(producer).or_default();
        let before = seen.last();
        if !seen.add(sequence, Some(offset)) {
            self.doubled += 1;
            self.find(|| format!("offset {offset} holds number {sequence} of producer {producer} again"));
        } else if before.is_some_and(|before| before > sequence) {
            self.misplaced += 1;
            self.find(|| format!("offset {offset} holds number {sequence} of producer {producer} after {before:?}"));
        }
    }

    /// The log was cut below what was read, and goes on differently from `end` on.
    pub fn cut(&mut self, end: i64) {
        let gone = self.next - end;
        if gone <= 0 {
            return;
        }
        self.cut += gone.unsigned_abs();
        self.find(|| format!("offsets from {end} on were shown and are gone"));
        self.next = end;
        for seen in self.seen.values_mut() {
            seen.cut(end);
        }
    }

    /// Something is wrong that is not counted otherwise: what was asked for at `next` is not there, and reading goes on
    /// at `offset`.
    pub fn jump(&mut self, offset: i64, why: &str) {
        self.skipped += (offset - self.next).max(1).unsigned_abs();
        self.find(|| why.to_owned());
        self.next = offset;
    }

    fn find(&mut self, text: impl FnOnce() -> String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 9;

    fn value(producer: u32, sequence: u64) -> Result<Value, String> {
        Ok(Value {
            run: RUN,
            producer,
            sequence,
        })
    }

    fn read(messages: &[(i64, u32, u64)]) -> Reading {
        let mut reading = Reading::default();
        for (offset, producer, sequence) in messages {
            reading.read(RUN, *offset, value(*producer, *sequence));
        }
        reading
    }

    fn wrong(reading: &Reading) -> [u64; 4] {
        [reading.doubled, reading.misplaced, reading.skipped, reading.cut]
    }

    #[test]
    fn producers_may_take_turns_and_leave_out_numbers() {
        let reading = read(&[(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 0, 1), (4, 0, 5)]);
        assert_eq!((wrong(&reading), reading.next, reading.consumed), ([0; 4], 5, 5));
    }

    #[test]
    fn a_number_at_two_offsets_is_doubled() {
        let reading = read(&[(0, 0, 0), (1, 0, 1), (2, 0, 0)]);
        assert_eq!(wrong(&reading), [1, 0, 0, 0]);
        assert!(reading.findings[0].contains("offset 2 holds number 0 of producer 0 again"));
    }

    #[test]
    fn an_offset_that_is_read_twice_is_doubled() {
        assert_eq!(wrong(&read(&[(0, 0, 0), (0, 0, 0), (1, 0, 1)])), [1, 0, 0, 0]);
    }

    #[test]
    fn a_number_after_a_later_one_is_misplaced() {
        assert_eq!(wrong(&read(&[(0, 0, 0), (1, 0, 2), (2, 0, 1)])), [0, 1, 0, 0]);
    }

    #[test]
    fn offsets_that_are_passed_over_are_counted() {
        assert_eq!(wrong(&read(&[(0, 0, 0), (4, 0, 1)])), [0, 0, 3, 0]);
    }

    #[test]
    fn damage_is_counted_and_others_messages_are_not_judged() {
        let mut reading = Reading::default();
        reading.read(RUN, 0, Err("rubbish".into()));
        let other = Value {
            run: RUN + 1,
            producer: 0,
            sequence: 0,
        };
        reading.read(RUN, 1, Ok(other));
        reading.read(RUN, 2, Ok(other));
        assert_eq!((wrong(&reading), reading.foreign), ([0, 1, 0, 0], 2));
    }

    #[test]
    fn what_was_cut_off_was_shown_and_may_come_again() {
        let mut reading = read(&[(0, 0, 0), (1, 0, 1), (2, 0, 2)]);
        reading.cut(3);
        assert_eq!(wrong(&reading), [0; 4], "nothing of what was read");
        reading.cut(1);
        reading.read(RUN, 1, value(0, 1));
        reading.read(RUN, 2, value(0, 3));
        assert_eq!((wrong(&reading), reading.next), ([0, 0, 0, 2], 3));
    }

    #[test]
    fn a_jump_is_counted_once_at_least() {
        let mut reading = read(&[(0, 0, 0)]);
        reading.jump(1, "damaged");
        reading.jump(5, "not there");
        assert_eq!((wrong(&reading), reading.next), ([0, 0, 5, 0], 5));
    }
}
