//! What a read says of damage that it meets: the whole range, so that whoever reads can go on behind it, before any
//! scrub.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use millrace_log::{AppendOptions, FaultyFileSystem, Log, LogConfig, LogDir, ReadError};
use millrace_proto::batch::{BatchBuilder, Codec, HEADER_LEN, batches};

use common::{TOPIC_ID, format, open};

const RECORDS: i64 = 50;
const BATCHES: i64 = 6;

struct Damaged {
    disk: FaultyFileSystem,
    _dir: LogDir,
    log: Log,
}

/// Six batches of 50 records, three to a segment; flushed.
fn log_of_batches(index_interval_bytes: u32) -> Damaged {
    let disk = FaultyFileSystem::new(1);
    let dir = open(&format(&disk));
    let config = LogConfig {
        index_interval_bytes,
        ..LogConfig::default()
    };
    let log = dir.create_log("t", 0, TOPIC_ID, config).unwrap();
    for at in 0..BATCHES {
        if at > 0 && at % 3 == 0 {
            log.roll().unwrap();
        }
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..RECORDS {
            builder.append(1000, Some(b"key"), Some(b"some value"), &[]).unwrap();
        }
        log.append_as_leader(&builder.build().unwrap(), 0, 1000, &AppendOptions::default())
            .unwrap();
    }
    log.flush().unwrap();
    Damaged { disk, _dir: dir, log }
}

fn segment(base_offset: i64) -> PathBuf {
    Path::new("/data/t-0").join(format!("{base_offset:020}.log"))
}

impl Damaged {
    /// Flips bits of a byte of a batch, which is counted from 0.
    fn flip(&self, batch: i64, byte: u64, mask: u8) {
        let path = segment(batch / 3 * 3 * RECORDS);
        let size = self.disk.contents(&path).unwrap().len() as u64 / 3;
        let at = usize::try_from((batch % 3) as u64 * size + byte).unwrap();
        self.disk
            .edit(&path, |bytes| {
                bytes[at] ^= mask;
                Ok(())
            })
            .unwrap();
    }

    fn damage_at(&self, offset: i64) -> (i64, Option<i64>) {
        match self.log.read(offset, 1 << 20, true, i64::MAX) {
            Err(ReadError::Corrupt { from, to, .. }) => (from, to),
            other => panic!("offset {offset}: {other:?}"),
        }
    }

    /// The base offsets that are read from `offset` on, where each damage is skipped as its error says.
    fn read_and_skip(&self, mut offset: i64) -> Vec<i64> {
        let mut found = Vec::new();
        while offset < self.log.log_end_offset() {
            match self.log.read(offset, 1 << 20, true, i64::MAX) {
                Ok(data) => {
                    assert!(!data.bytes.is_empty(), "nothing at {offset}");
                    found.extend(batches(&data.bytes).map(|batch| {
                        let batch = batch.unwrap();
                        batch.verify_crc().unwrap();
                        batch.header().base_offset
                    }));
                    offset = data.next_offset;
                }
                Err(ReadError::Corrupt { to, .. }) => {
                    let to = to.unwrap();
                    assert!(to > offset, "sent from {offset} to {to}");
                    offset = to;
                }
                Err(error) => panic!("{error}"),
            }
        }
        found
    }
}

/// Wherever a bit is flipped and wherever a reader stands in the batch, it is told the batch's own range.
#[test]
fn a_read_within_a_damaged_batch_is_told_the_whole_of_it() {
    // Length, magic, CRC, last offset delta, record count, records; with and without index entries on the way.
    let bytes = [8, 9, 11, 16, 17, 21, 23, 24, 25, 26, 57, 60, HEADER_LEN as u64 + 40];
    for (interval, batch) in [1, 1 << 20].into_iter().flat_map(|i| (0..BATCHES).map(move |b| (i, b))) {
        for (byte, mask) in bytes
            .iter()
            .flat_map(|byte| [1_u8, 0x20, 0x80].map(|mask| (*byte, mask)))
        {
            let test = log_of_batches(interval);
            test.flip(batch, byte, mask);
            let what = format!("batch {batch}, byte {byte}, mask {mask:#x}, interval {interval}");
            let range = (batch * RECORDS, batch * RECORDS + RECORDS);
            for offset in [range.0, range.0 + 1, range.0 + 20, range.1 - 1] {
                let (from, to) = test.damage_at(offset);
                assert_eq!((from, to), (range.0, Some(range.1)), "{what}, read at {offset}");
            }
            let sound: Vec<i64> = (0..BATCHES)
                .filter(|other| *other != batch)
                .map(|b| b * RECORDS)
                .collect();
            assert_eq!(test.read_and_skip(0), sound, "{what}");
            // A scrub says the same.
            let report = test.log.scrub(0, u64::MAX).unwrap();
            let known: Vec<(i64, i64)> = report.damage.iter().map(|range| (range.from, range.to)).collect();
            assert_eq!(known, [range], "{what}");
        }
    }
}

/// Two damaged batches in a row, and one whose header says nothing any more before the end of the log.
#[test]
fn a_reader_gets_behind_several_damaged_batches() {
    let test = log_of_batches(4096);
    test.flip(1, 90, 1);
    test.flip(2, 90, 1);
    test.flip(4, 16, 0xff);
    test.flip(5, 9, 0xff);
    assert_eq!(test.read_and_skip(0), [0, 3 * RECORDS]);
    assert_eq!(test.read_and_skip(2 * RECORDS + 7), [3 * RECORDS]);
    assert_eq!(test.damage_at(5 * RECORDS + 3).1, Some(6 * RECORDS));
}

/// A damaged header that claims more records than there are must not make a reader wait for them.
#[test]
fn damage_before_the_bound_is_no_empty_answer() {
    let test = log_of_batches(4096);
    let bound = 2 * RECORDS;
    test.flip(1, 25, 1);
    let result = test.log.read(RECORDS, 1 << 20, true, bound);
    assert!(matches!(result, Err(ReadError::Corrupt { .. })), "{result:?}");
}

/// Known damage right behind a gap: a reader that stands in the gap is told, and does not wait for it to go.
#[test]
fn a_reader_in_a_gap_before_known_damage_is_told_of_it() {
    let test = log_of_batches(4096);
    // So wide that a segment begins behind it: within one, damage begins where the batch before it ends.
    let (gap, base) = (BATCHES * RECORDS, BATCHES * RECORDS + (1 << 31));
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1000, None, Some(b"value"), &[]).unwrap();
    for offset in [base, base + 1] {
        builder.set_base_offset(offset).set_leader_epoch(0);
        let batch = builder.build().unwrap();
        test.log.append_as_follower(&batch, 0, 1000).unwrap();
        builder = BatchBuilder::new(Codec::None);
        builder.append(1000, None, Some(b"value"), &[]).unwrap();
    }
    test.log.flush().unwrap();
    test.disk.flip_bit(&segment(base), 20, 0).unwrap();
    for when in ["met", "known"] {
        assert_eq!(test.damage_at(gap), (base, Some(base + 1)), "{when}");
        assert_eq!(test.read_and_skip(gap), [base + 1], "{when}");
        test.log.scrub(0, u64::MAX).unwrap();
    }
}
