//! What a compacted log must hold, by the plainest means: all records ever appended, and the state that they add up to.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_log::Log;
use millrace_proto::batch::{BatchBuilder, Codec, DecodeLimits, batches};

pub const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: i64,
    pub time: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// What a producer gives: key and value.
pub type KeyValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A record by key; `None` is a tombstone.
pub fn record(key: &str, value: Option<&str>) -> KeyValue {
    let bytes = |text: &str| text.as_bytes().to_vec();
    (Some(bytes(key)), value.map(bytes))
}

/// A batch of these, all of one time.
pub fn build(records: &[KeyValue], time: i64, codec: Codec, producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for (key, value) in records {
        builder.append(time, key.as_deref(), value.as_deref(), &[]).unwrap();
    }
    if let Some((id, epoch, sequence)) = producer {
        builder.set_producer(id, epoch, sequence);
    }
    builder.build().unwrap()
}

/// All records from an offset up to below another, as a consumer gets them, with every checksum.
pub fn read(log: &Log, from: i64, up_to: i64) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut offset = from;
    loop {
        let data = log.read(offset, 1 << 20, true, up_to).unwrap();
        if data.bytes.is_empty() {
            return found;
        }
        found.extend(entries(&data.bytes, offset));
        assert!(data.next_offset > offset, "a read gets on");
        offset = data.next_offset;
    }
}

/// The records in batches, from an offset on.
pub fn entries(bytes: &[u8], from: i64) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for batch in batches(bytes) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        let records = batch.records(&DecodeLimits::default()).unwrap();
        let newest = records.iter().map(|record| record.unwrap().timestamp).max();
        batch.header().verify_max_timestamp(newest).unwrap();
        for record in &records {
            let record = record.unwrap();
            assert!(
                found.last().is_none_or(|last| last.offset < record.offset),
                "offsets rise"
            );
            found.push(Entry {
                offset: record.offset,
                time: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
            });
        }
    }
    found.retain(|entry| entry.offset >= from);
    found
}

/// What records add up to: each key's last value.
pub fn state<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    for entry in entries {
        match (&entry.key, &entry.value) {
            (Some(key), Some(value)) => state.insert(key.clone(), value.clone()),
            (Some(key), None) => state.remove(key),
            (None, _) => None,
        };
    }
    state
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    /// All that was appended and not cut, oldest first.
    pub history: Vec<Entry>,
    pub log_end: i64,
    pub log_start: i64,
    /// No compaction was ever allowed to look at this offset or above.
    pub untouched_from: i64,
}

impl Model {
    /// Takes in a batch that was appended at the log end.
    pub fn append(&mut self, batch: &Bytes) {
        let added = entries(batch, 0).into_iter().map(|entry| Entry {
            offset: entry.offset + self.log_end,
            ..entry
        });
        let added: Vec<Entry> = added.collect();
        self.log_end += added.len() as i64;
        self.history.extend(added);
    }

    pub fn cut_to(&mut self, end: i64) {
        self.history.retain(|entry| entry.offset < end);
        self.log_end = end;
    }

    /// The log holds what it must, and nothing else.
    pub fn check(&self, log: &Log) {
        assert_eq!(
            (log.log_start_offset(), log.log_end_offset()),
            (self.log_start, self.log_end)
        );
        let found = read(log, self.log_start, i64::MAX);
        let visible: Vec<&Entry> = self
            .history
            .iter()
            .filter(|entry| entry.offset >= self.log_start)
            .collect();
        let mut model = visible.iter();
        for entry in &found {
            assert!(
                model.any(|other| *other == entry),
                "{entry:?} was never appended like this"
            );
        }
        assert_eq!(
            state(&found),
            state(visible.iter().copied()),
            "the last value of each key"
        );
        let above = |entries: &mut dyn Iterator<Item = &Entry>| {
            entries
                .filter(|entry| entry.offset >= self.untouched_from)
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            above(&mut found.iter()),
            above(&mut visible.iter().copied()),
            "what no compaction may look at"
        );
        // A key whose tombstone is gone must not be back, nor hold anything before it.
        for entry in visible.iter().filter(|entry| entry.key.is_some()) {
            let is_last = |last: &&&Entry| last.key == entry.key;
            let last = visible.iter().rev().find(is_last).unwrap();
            let is_there = found.iter().any(|found| found.offset == last.offset);
            let any = found.iter().any(|found| found.key == last.key);
            assert!(is_there || (last.value.is_none() && !any), "{last:?} is missing");
        }
    }
}
