//! The time of the batch at an offset: what is told, and what is read for it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use millrace_log::{AppendOptions, FaultyFileSystem, Log, LogConfig, LogDir, ReadError};
use millrace_proto::batch::{
    BatchBuilder, BatchView, Codec, ControlRecord, HEADER_LEN, TimestampType, empty_batch, end_transaction_batch,
    stamp_offset_and_epoch,
};

use common::{TOPIC_ID, format, open};

struct Test {
    disk: FaultyFileSystem,
    dir: Option<LogDir>,
    log: Log,
}

impl Test {
    fn new(config: LogConfig) -> Test {
        let disk = FaultyFileSystem::new(1);
        let dir = open(&format(&disk));
        let log = dir.create_log("t", 0, TOPIC_ID, config).unwrap();
        let dir = Some(dir);
        Test { disk, dir, log }
    }

    fn append(&self, batch: &Bytes) {
        self.log
            .append_as_leader(batch, 0, 1_000_000, &AppendOptions::default())
            .unwrap();
    }

    fn time_at(&self, offset: i64) -> Option<i64> {
        self.log.batch_time(offset, i64::MAX).unwrap()
    }
}

/// Records of these times, with values of so many bytes.
fn batch(times: &[i64], codec: Codec, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    let value: Vec<u8> = (0..value_bytes).map(|at| (at * 7919 % 251) as u8).collect();
    for time in times {
        builder.append(*time, None, Some(&value), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn segment(base_offset: i64) -> PathBuf {
    Path::new("/data/t-0").join(format!("{base_offset:020}.log"))
}

/// As a follower gets it from its leader.
fn placed(batch: &Bytes, offset: i64) -> Bytes {
    let mut bytes = batch.to_vec();
    stamp_offset_and_epoch(&mut bytes, offset, 0);
    bytes.into()
}

#[test]
fn it_is_the_time_of_the_first_record_of_the_batch_at_the_offset() {
    for interval in [0, 4096, 1 << 20] {
        let mut test = Test::new(LogConfig {
            index_interval_bytes: interval,
            ..LogConfig::default()
        });
        for at in 0..300_i64 {
            if at % 100 == 99 {
                test.log.roll().unwrap();
            }
            test.append(&batch(&[at * 10, at * 10 + 5, at * 10 + 3], Codec::Lz4, 40));
        }
        test.log.flush().unwrap();
        for reopened in [false, true] {
            for offset in 0..900 {
                assert_eq!(
                    test.time_at(offset),
                    Some(offset / 3 * 10),
                    "{offset}, {interval}, {reopened}"
                );
            }
            assert_eq!((test.time_at(900), test.time_at(i64::MAX)), (None, None));
            assert_eq!(
                test.log.batch_time(6, 6).unwrap(),
                None,
                "nothing begins below the bound"
            );
            assert_eq!(test.log.batch_time(6, 7).unwrap(), Some(20));
            let disk = test.disk.shared();
            test.dir = None;
            let dir = open(&disk);
            test.log = dir.open_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
            test.dir = Some(dir);
        }
        // What retention has deleted waits no more.
        test.log.advance_log_start(400).unwrap();
        assert_eq!(test.time_at(0), Some(1330));
    }
}

#[test]
fn records_are_not_read_however_large_they_are() {
    let test = Test::new(LogConfig::default());
    for at in 0..64 {
        test.append(&batch(&[at], Codec::None, 1_000_000));
    }
    test.log.roll().unwrap();
    for at in 64..10_064 {
        test.append(&batch(&[at], Codec::Zstd, 20));
    }
    test.log.flush().unwrap();
    for offset in (0..64).chain((64..10_064).step_by(97)) {
        let before = test.disk.bytes_read();
        assert_eq!(test.time_at(offset), Some(offset));
        let read = test.disk.bytes_read() - before;
        assert!(read <= 32 << 10, "{read} bytes at {offset}");
    }
}

#[test]
fn what_a_record_says_does_not_matter() {
    let test = Test::new(LogConfig::default());
    test.append(&batch(&[7; 50], Codec::Zstd, 100));
    test.append(&batch(&[9; 50], Codec::Zstd, 100));
    test.log.flush().unwrap();
    let damaged = HEADER_LEN as u64 + 9;
    test.disk.flip_bit(&segment(0), damaged, 3).unwrap();
    assert!(matches!(
        test.log.read(0, 1 << 20, true, i64::MAX),
        Err(ReadError::Corrupt { .. })
    ));
    assert_eq!(
        (test.time_at(0), test.time_at(49), test.time_at(50)),
        (Some(7), Some(7), Some(9))
    );
}

#[test]
fn a_gap_and_batches_without_records_are_passed_over() {
    let test = Test::new(LogConfig::default());
    let follow = |batch: &Bytes, offset| {
        test.log
            .append_as_follower(&placed(batch, offset), 0, 1_000_000)
            .unwrap()
    };
    follow(&batch(&[1; 10], Codec::None, 10), 0);
    let gone = batch(&[5; 10], Codec::None, 10);
    let empty = Bytes::copy_from_slice(&empty_batch(BatchView::parse(&gone).unwrap().header()));
    follow(&empty, 100);
    let marker = ControlRecord::Commit { coordinator_epoch: 1 };
    follow(&end_transaction_batch(marker, 7, 1, 6).unwrap(), 110);
    follow(&batch(&[9; 10], Codec::None, 10), 200);
    for offset in [10, 99, 100, 109, 110, 150, 200, 209] {
        assert_eq!(test.time_at(offset), Some(9), "{offset}");
    }
    assert_eq!(test.log.batch_time(50, 200).unwrap(), None);
    assert_eq!((test.time_at(9), test.time_at(210)), (Some(1), None));
}

/// Batches that must be walked through are no reason to read without end.
#[test]
fn a_look_ends_among_very_many_batches_without_records() {
    let test = Test::new(LogConfig {
        index_interval_bytes: 1 << 30,
        ..LogConfig::default()
    });
    for _ in 0..20_000 {
        test.append(&batch(&[5], Codec::None, 10));
    }
    test.append(&batch(&[6], Codec::None, 10));
    let before = test.disk.bytes_read();
    assert_eq!(
        (test.time_at(0), test.time_at(1_000), test.time_at(20_000)),
        (Some(5), Some(5), None)
    );
    let read = test.disk.bytes_read() - before;
    assert!(read <= 1 << 20, "{read}");
}

#[test]
fn the_broker_s_time_counts_where_it_gave_one_and_no_time_is_told_as_none() {
    let test = Test::new(LogConfig::default());
    test.append(&batch(&[5], Codec::None, 10));
    test.log.update_config(LogConfig {
        timestamp_type: TimestampType::LogAppendTime,
        ..LogConfig::default()
    });
    test.append(&batch(&[6], Codec::None, 10));
    test.log.update_config(LogConfig::default());
    test.append(&batch(&[-1], Codec::None, 10));
    assert_eq!(
        [0, 1, 2].map(|offset| test.time_at(offset)),
        [Some(5), Some(1_000_000), None]
    );
}

#[test]
fn damage_of_headers_is_told_and_its_end_not_looked_for() {
    let test = Test::new(LogConfig::default());
    for _ in 0..3 {
        test.append(&batch(&[7], Codec::None, 1_000_000));
    }
    test.log.flush().unwrap();
    // The magic.
    test.disk.flip_bit(&segment(0), 16, 6).unwrap();
    let before = test.disk.bytes_read();
    let told = test.log.batch_time(0, i64::MAX);
    assert!(
        matches!(told, Err(ReadError::Corrupt { from: 0, to: None, .. })),
        "{told:?}"
    );
    assert!(test.disk.bytes_read() - before <= 32 << 10);
    test.log.scrub(0, u64::MAX).unwrap();
    let known = test.log.batch_time(0, i64::MAX);
    assert!(
        matches!(
            known,
            Err(ReadError::Corrupt {
                from: 0,
                to: Some(1),
                ..
            })
        ),
        "{known:?}"
    );
    assert_eq!(test.time_at(1), Some(7));
}
