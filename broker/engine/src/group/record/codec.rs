//! Numbers and texts as bytes, big-endian; reading is bounded by what is there.

use thiserror::Error;
use uuid::Uuid;

use super::super::types::{Assigned, TopicPartition};

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// They end too early.
    #[error("it ends within {what}")]
    Truncated {
        /// In which field.
        what: &'static str,
    },
    /// There is more than the record.
    #[error("{count} bytes follow its end")]
    Trailing {
        /// How many bytes.
        count: usize,
    },
    /// A field has no meaning.
    #[error("its {what} is not valid")]
    Field {
        /// Which.
        what: &'static str,
    },
}

/// Writes a record.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.0.extend(value.as_bytes());
    }

    /// How many entries follow.
    pub(super) fn count(&mut self, count: usize) {
        // All that is stored has a bound far below this; a wrong count would be read as damage.
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Partitions by topic, each with what `write` says of it.
    pub(super) fn partitions<T>(
        &mut self,
        all: impl Iterator<Item = (TopicPartition, T)> + Clone,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let topics = all.clone().fold((0, None), |(count, last), (at, _)| {
            (count + usize::from(last != Some(at.topic)), Some(at.topic))
        });
        self.count(topics.0);
        let mut all = all.peekable();
        while let Some((first, value)) = all.next() {
            self.uuid(first.topic);
            let count_at = self.0.len();
            self.count(0);
            let mut count = 1usize;
            self.u32(first.partition);
            write(self, value);
            while let Some((next, value)) = all.next_if(|(next, _)| next.topic == first.topic) {
                count += 1;
                self.u32(next.partition);
                write(self, value);
            }
            let count = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
            self.0[count_at..count_at + count.len()].copy_from_slice(&count);
        }
    }

    pub(super) fn assigned(&mut self, assigned: &Assigned) {
        self.partitions(assigned.iter().map(|(at, epoch)| (*at, *epoch)), Self::i32);
    }
}

/// Reads a record.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Truncated { what })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated { what })?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array(what).map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        self.array(what).map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self, what: &'static str) -> Result<Uuid, Malformed> {
        self.array(what).map(Uuid::from_bytes)
    }

    /// A count of entries of at least `least` bytes each: no more than there is room for, so that
    /// it is safe to allocate.
    pub(super) fn count(&mut self, least: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = self.u32(what)? as usize;
        if count > self.0.len() / least.max(1) {
            return Err(Malformed::Truncated { what });
        }
        Ok(count)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<String, Malformed> {
        let length = self.count(1, what)?;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Field { what })
    }

    pub(super) fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.u8(what)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed::Field { what }),
        }
    }

    /// Partitions in their order, without repeats.
    pub(super) fn partitions<T>(
        &mut self,
        what: &'static str,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<(TopicPartition, T)>, Malformed> {
        const TOPIC_BYTES: usize = 16 + 4;
        let mut all: Vec<(TopicPartition, T)> = Vec::new();
        for _ in 0..self.count(TOPIC_BYTES, what)? {
            let topic = self.uuid(what)?;
            for _ in 0..self.count(4, what)? {
                let at = TopicPartition {
                    topic,
                    partition: self.u32(what)?,
                };
                if all.last().is_some_and(|(last, _)| *last >= at) {
                    return Err(Malformed::Field { what });
                }
                let value = each(self)?;
                all.push((at, value));
            }
        }
        Ok(all)
    }

    pub(super) fn assigned(&mut self, what: &'static str) -> Result<Assigned, Malformed> {
        Ok(self.partitions(what, |reader| reader.i32(what))?.into_iter().collect())
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(Malformed::Trailing { count }),
        }
    }
}
