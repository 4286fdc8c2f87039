//! Messages that were read for a subscriber and are not sent yet, encoded.

use bytes::Bytes;

use crate::rpc::read::Encoded;

/// Encoded messages of one partition, of which parts are taken as the credit allows.
#[derive(Debug, Default)]
pub struct Messages {
    /// Of all messages, in which they stand one behind the other.
    bytes: Bytes,
    marks: Vec<Mark>,
    /// How many were taken.
    taken: usize,
}

/// Where a message ends.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Behind its offset.
    next: i64,
    /// Behind it in the bytes.
    end: usize,
    /// What it and all before it count of a credit in bytes.
    credit: u64,
}

/// Messages that were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The messages, encoded.
    pub bytes: Bytes,
    /// How many.
    pub count: u64,
    /// What they count of a credit in bytes.
    pub credit: u64,
    /// Behind the last one's offset.
    pub next: i64,
}

/// Marks messages as they are encoded.
#[derive(Debug, Default)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Marks the next message.
    pub fn push(&mut self, message: Encoded) {
        let before = self.0.last().map_or(0, |mark| mark.credit);
        // One without content counts as well.
        let credit = u64::try_from(message.content.max(1)).unwrap_or(u64::MAX);
        self.0.push(Mark {
            next: message.offset + 1,
            end: message.end,
            credit: before.saturating_add(credit),
        });
    }

    /// The messages that were marked since the last time, whose bytes these are.
    pub fn take(&mut self, bytes: Bytes) -> Messages {
        Messages {
            bytes,
            marks: std::mem::take(&mut self.0),
            taken: 0,
        }
    }
}

impl Messages {
    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.taken == self.marks.len()
    }

    /// Takes the next messages: at most `messages`, and while `bytes` of credit are left before each, if they are
    /// counted; none if that allows none.
    pub fn take(&mut self, messages: u64, bytes: Option<u64>) -> Option<Taken> {
        let before = match self.taken.checked_sub(1) {
            Some(last) => self.marks[last],
            None => Mark::default(),
        };
        let left = &self.marks[self.taken..];
        let allowed = match bytes {
            None => left.len(),
            Some(0) => 0,
            // The message with which the credit ends may go beyond it.
            Some(bytes) => 1 + left.partition_point(|mark| mark.credit - before.credit < bytes),
        };
        let allowed = allowed.min(usize::try_from(messages).unwrap_or(usize::MAX));
        let count = allowed.min(left.len());
        let last = *left.get(count.checked_sub(1)?)?;
        self.taken += count;
        Some(Taken {
            bytes: self.bytes.slice(before.end..last.end),
            count: u64::try_from(count).unwrap_or(u64::MAX),
            credit: last.credit - before.credit,
            next: last.next,
        })
    }

    /// Takes all that are left, for nobody.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of two bytes each, with so much content.
    fn messages(contents: &[usize]) -> Messages {
        let mut marks = Marks::default();
        for (at, content) in contents.iter().enumerate() {
            marks.push(Encoded {
                offset: 10 * i64::try_from(at).unwrap(),
                content: *content,
                end: 2 * (at + 1),
            });
        }
        let bytes: Vec<u8> = (0..2 * contents.len()).map(|at| u8::try_from(at).unwrap()).collect();
        marks.take(bytes.into())
    }

    #[test]
    fn as_much_is_taken_as_both_credits_allow() {
        // As if message by message: while there is credit of both kinds.
        for contents in [&[][..], &[0], &[5, 0, 3, 8], &[1; 9], &[100, 1, 100]] {
            for count in 0..6 {
                for bytes in [
                    None,
                    Some(0),
                    Some(1),
                    Some(5),
                    Some(6),
                    Some(8),
                    Some(101),
                    Some(u64::MAX),
                ] {
                    let mut all = messages(contents);
                    let mut at = 0;
                    loop {
                        let (mut expected, mut left, mut credit) = (0, bytes, 0);
                        while expected < count && left != Some(0) && at + expected < contents.len() {
                            let size = contents[at + expected].max(1) as u64;
                            left = left.map(|left| left.saturating_sub(size));
                            credit += size;
                            expected += 1;
                        }
                        let taken = all.take(count as u64, bytes);
                        if expected == 0 {
                            assert_eq!(taken, None);
                            break;
                        }
                        let bytes: Vec<u8> = (2 * at..2 * (at + expected)).map(|at| at as u8).collect();
                        at += expected;
                        let next = 10 * (at as i64 - 1) + 1;
                        assert_eq!(
                            taken,
                            Some(Taken {
                                bytes: bytes.into(),
                                count: expected as u64,
                                credit,
                                next
                            })
                        );
                    }
                    assert_eq!(all.is_empty(), at == contents.len());
                }
            }
        }
    }

    #[test]
    fn what_nobody_wants_is_gone() {
        let mut all = messages(&[1, 2]);
        all.clear();
        assert!(all.is_empty());
        assert_eq!(all.take(9, None), None);
    }
}
