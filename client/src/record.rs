//! Records as an application sees them, before and after.

use std::sync::Arc;

use bytes::Bytes;
use millrace_proto::{batch::OwnedHeader, v1};

/// A record to produce.
///
/// ```
/// use millrace_client::Record;
///
/// let record = Record::new("orders").key("42").value("paid").header("source", "web");
/// assert_eq!(record.headers.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The topic's name. It must exist.
    pub topic: String,
    /// The partition's number; `None`: the producer's partitioner decides.
    pub partition: Option<i32>,
    /// What decides the partition and, with compaction, which records replace each other.
    pub key: Option<Bytes>,
    /// The payload; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Application headers; order and repeats are kept. At most 1,000.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record without key, value and headers.
    #[must_use]
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            ..Self::default()
        }
    }

    /// The same in this partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The same with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            name: Bytes::from(name.into()),
            value: Some(value.into()),
        });
        self
    }

    /// The same with this time, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// One header of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The name. UTF-8 by Kafka's rule, but not every client keeps it.
    pub name: Bytes,
    /// The value, if it has one.
    pub value: Option<Bytes>,
}

impl From<OwnedHeader> for Header {
    fn from(header: OwnedHeader) -> Self {
        Self {
            name: header.key,
            value: header.value,
        }
    }
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition's number.
    pub partition: i32,
    /// The offset; -1 if it is not known: with [`Acks::None`](crate::Acks::None), or where a
    /// repeated batch had been stored so long ago that the broker does not remember where.
    pub offset: i64,
    /// The time stored with the record, in milliseconds since 1970: the broker's where the topic
    /// uses LogAppendTime, else the producer's.
    pub timestamp: i64,
}

/// A record as it came from a partition. Key, value and headers are slices of the fetched bytes and
/// keep them in memory: copy what is kept for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970; -1 if it has none.
    pub timestamp: i64,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in the producer's order.
    pub headers: Vec<Header>,
}

/// Where reading begins in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset, 0 or more.
    Offset(i64),
    /// At the first record whose time, in milliseconds since 1970, is this or later; at the end if
    /// there is none.
    Time(i64),
    /// At the oldest record that is kept.
    Beginning,
    /// Behind the newest readable record.
    End,
}

impl Start {
    pub(crate) fn to_proto(self) -> v1::Start {
        let at = match self {
            Self::Offset(offset) => v1::start::At::Offset(offset),
            Self::Time(ms) => v1::start::At::Time(timestamp(ms)),
            Self::Beginning => v1::start::At::Edge(v1::Edge::Beginning.into()),
            Self::End => v1::start::At::Edge(v1::Edge::End.into()),
        };
        v1::Start { at: Some(at) }
    }
}

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark: all that can't be lost any more.
    ReadUncommitted,
    /// Up to the last stable offset: no record of a transaction that is open or aborted.
    #[default]
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn to_proto(self) -> v1::Isolation {
        match self {
            Self::ReadUncommitted => v1::Isolation::ReadUncommitted,
            Self::ReadCommitted => v1::Isolation::ReadCommitted,
        }
    }
}

/// A protobuf time of milliseconds since 1970.
pub(crate) fn timestamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: i32::try_from(ms.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
    }
}

/// Milliseconds since 1970 of a protobuf time.
pub(crate) fn timestamp_ms(timestamp: &prost_types::Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_survive() {
        for ms in [0, 1, 999, 1_000, 1_700_000_000_123, -1, -1_001] {
            let Some(v1::start::At::Time(time)) = Start::Time(ms).to_proto().at else {
                panic!("no time")
            };
            assert_eq!(timestamp_ms(&time), ms);
            assert!((0..1_000_000_000).contains(&time.nanos));
        }
    }
}
