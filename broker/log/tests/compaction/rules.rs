//! What stays and what goes.

use bytes::Bytes;
use millrace_log::{
    CleanupPolicy, CompactionBounds, CompactionError, CompactionOptions, CompactionStep, DeletionReason, LogConfig,
};
use millrace_proto::batch::{
    BatchHeader, BatchView, Codec, ControlRecord, batches, end_transaction_batch, stamp_offset_and_epoch,
};

use crate::broker::{Broker, DAY_MS, config, options};
use crate::model::{CODECS, build, record};

pub fn texts(broker: &Broker) -> Vec<String> {
    broker
        .texts()
        .into_iter()
        .map(|(offset, text)| format!("{offset}:{text}"))
        .collect()
}

/// The headers of all batches.
pub fn headers(broker: &Broker) -> Vec<BatchHeader> {
    let mut found = Vec::new();
    let mut offset = broker.log().log_start_offset();
    loop {
        let data = broker.log().read(offset, usize::MAX, true, i64::MAX).unwrap();
        if data.bytes.is_empty() {
            return found;
        }
        found.extend(batches(&data.bytes).map(|batch| *batch.unwrap().header()));
        offset = data.next_offset;
    }
}

#[test]
fn the_last_record_of_each_key_stays_at_its_offset() {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["a=1", "b=1", "c=1"]);
    broker.put(&["a=2", "d=1"]);
    broker.put(&["b=2"]);
    broker.roll();
    broker.put(&["a=3"]);
    let report = broker.compact().unwrap().unwrap();
    assert_eq!(report.cleaned_offset, Some(6));
    assert_eq!(report.superseded_records, 2);
    // The active segment is not looked at: 3 and 6 are both there.
    assert_eq!(texts(&broker), ["2:c=1", "3:a=2", "4:d=1", "5:b=2", "6:a=3"]);
    let bases: Vec<_> = headers(&broker)
        .iter()
        .map(|header| (header.base_offset, header.last_offset()))
        .collect();
    assert_eq!(bases, [(0, 2), (3, 4), (5, 5), (6, 6)]);
    broker.check();
    assert_eq!(broker.compact().unwrap(), None, "nothing is dirty any more");
    broker.roll();
    assert_eq!(broker.compact().unwrap().unwrap().superseded_records, 1);
    assert_eq!(texts(&broker), ["2:c=1", "4:d=1", "5:b=2", "6:a=3"]);
    broker.check();
    broker.reopen();
    broker.check();
}

#[test]
fn a_batch_that_keeps_all_records_is_copied_byte_for_byte() {
    for codec in CODECS {
        let mut broker = Broker::new(config(), 1);
        let batch = build(&[record("a", Some("1")), record("b", Some("2"))], 5, codec, None);
        broker.append(&batch);
        broker.put(&["x=1"]);
        broker.roll();
        broker.put(&["x=2"]);
        broker.roll();
        let before = broker.log().read(0, usize::MAX, true, 2).unwrap().bytes;
        assert_eq!(broker.compact().unwrap().unwrap().superseded_records, 1);
        assert_eq!(
            broker.log().read(0, usize::MAX, true, 2).unwrap().bytes,
            before,
            "{codec}"
        );
        broker.check();
    }
}

#[test]
fn segments_become_one_up_to_the_segment_size_and_never_more_than_indexes_can_tell() {
    let mut broker = Broker::new(
        LogConfig {
            segment_bytes: 400,
            ..config()
        },
        1,
    );
    for number in 0..40 {
        broker.put(&[&format!("k{}={number}", number % 8)]);
        broker.roll();
    }
    let before = broker.log().segment_sizes().len();
    let report = broker.compact().unwrap().unwrap();
    assert_eq!(report.segments_before, before - 1);
    let sizes = broker.log().segment_sizes();
    assert!(sizes.iter().all(|(_, size)| *size <= 400), "{sizes:?}");
    assert!(sizes.len() < before / 2, "{sizes:?}");
    broker.check();
    // The next round joins what has become small, and what was kept only as the end of a segment goes.
    broker.put(&["z=1"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    assert!(broker.log().segment_sizes().len() < sizes.len());
    broker.check();
    broker.reopen();
    broker.check();
}

#[test]
fn what_is_left_empty_goes_except_where_a_sequence_or_an_end_must_stay_known() {
    let mut broker = Broker::new(config(), 1);
    for sequence in 0..3 {
        let batch = build(
            &[record("k", Some(&format!("{sequence}")))],
            1,
            Codec::None,
            Some((7, 2, sequence)),
        );
        broker.append(&batch);
    }
    broker.put(&["k=3"]);
    broker.put(&["k=4"]);
    broker.put(&["k=5"]);
    broker.roll();
    broker.put(&["k=6"]);
    broker.roll();
    broker.put(&["other=1"]);
    let state = broker.log().producer_state();
    broker.compact().unwrap().unwrap();
    let left: Vec<_> = headers(&broker)
        .iter()
        .map(|header| {
            (
                header.base_offset,
                header.producer_id,
                header.base_sequence,
                header.record_count,
            )
        })
        .collect();
    // The last sequence of producer 7, and the last record. Between them is nothing.
    assert_eq!(left, [(2, 7, 2, 0), (6, -1, -1, 1), (7, -1, -1, 1)]);
    broker.check();
    // Without snapshots all is made of what is left of the log.
    drop(state);
    broker.reopen();
    let known = broker.log().producers();
    assert_eq!(
        (known[0].producer_epoch, known[0].last_sequence, known[0].last_offset),
        (2, 2, 2)
    );

    // When the producer goes on, its former batch is not needed any more.
    let batch = build(&[record("k", Some("7"))], 1, Codec::None, Some((7, 2, 3)));
    broker.append(&batch);
    broker.roll();
    broker.compact().unwrap().unwrap();
    let left: Vec<_> = headers(&broker).iter().map(|header| header.base_offset).collect();
    assert_eq!(left, [7, 8]);
    broker.check();
}

#[test]
fn a_producer_is_known_by_what_is_left_of_the_log() {
    let mut broker = Broker::new(config(), 1);
    for sequence in 0..5 {
        let batch = build(
            &[record("k", Some("v")), record("l", Some("v"))],
            1,
            Codec::Zstd,
            Some((7, 2, 2 * sequence)),
        );
        broker.append(&batch);
    }
    broker.put(&["k=1", "l=1"]);
    broker.roll();
    // Above the end of the round: should it be cut, the batch below must still tell.
    let late = build(&[record("m", Some("v"))], 1, Codec::None, Some((7, 2, 10)));
    broker.append(&late);
    broker.compact().unwrap().unwrap();
    broker.log().truncate_to(12).unwrap();
    broker.model.cut_to(12);
    broker.lose_files(".snapshot");
    let known = broker.log().producers();
    assert_eq!((known.len(), known[0].last_sequence, known[0].last_offset), (1, 9, 9));
    broker.check();
}

#[test]
fn nothing_at_or_above_a_bound_counts() {
    let mut broker = Broker::new(config(), 1);
    for number in 0..6 {
        broker.put(&[&format!("k={number}")]);
        broker.roll();
    }
    for (high_watermark, last_stable_offset) in [(3, 6), (6, 3), (3, 3)] {
        let disk = broker.disk.copy();
        let mut fork = broker.fork(disk.clone(), &disk.shared());
        let bounds = CompactionBounds {
            high_watermark,
            last_stable_offset,
        };
        fork.model.untouched_from = 3;
        let mut round = fork.log().begin_compaction(|| bounds, &options(), 0).unwrap().unwrap();
        while round.step(u64::MAX, 0).unwrap() == CompactionStep::More {}
        drop(round);
        assert_eq!(texts(&fork), ["2:k=2", "3:k=3", "4:k=4", "5:k=5"]);
        // What was not committed may be cut: then the record that it was to replace is the last one again.
        fork.log().truncate_to(3).unwrap();
        fork.model.cut_to(3);
        fork.check();
        assert_eq!(texts(&fork), ["2:k=2"]);
    }
}

#[test]
fn records_without_a_key_go() {
    let mut broker = Broker::new(config(), 1);
    broker.append(&build(
        &[(None, Some(b"x".to_vec())), record("a", Some("1"))],
        1,
        Codec::Gzip,
        None,
    ));
    broker.put(&["b=1"]);
    broker.roll();
    let report = broker.compact().unwrap().unwrap();
    assert_eq!(report.records_without_key, 1);
    assert_eq!(texts(&broker), ["1:a=1", "2:b=1"]);
}

#[test]
fn what_a_full_map_has_left_out_stays_for_the_next_round() {
    let mut broker = Broker::new(config(), 1);
    let keyless = (None, Some(b"x".to_vec()));
    let records = [record("a", Some("1")), record("b", Some("1")), keyless];
    broker.append(&build(&records, 1, Codec::None, None));
    broker.roll();
    let small = CompactionOptions {
        map_bytes: 0,
        ..options()
    };
    let report = broker.compact_with(&small, u64::MAX).unwrap().unwrap();
    assert_eq!(report.cleaned_offset, Some(1));
    assert_eq!(texts(&broker), ["0:a=1", "1:b=1", "2:?=x"]);
    broker.compact_with(&small, u64::MAX).unwrap().unwrap();
    assert_eq!(texts(&broker), ["0:a=1", "1:b=1"]);
}

/// A round ended within a segment, as its map was full, and the next one was broken off when a copy was in place without
/// the record right before that. Then a broker starts, which does not know yet what is committed, and a tombstone's
/// time has come.
#[test]
fn a_gap_right_before_the_end_of_the_last_round_is_no_damage() {
    let small_segments = LogConfig {
        segment_bytes: 320,
        ..config()
    };
    let mut broker = Broker::new(small_segments, 1);
    broker.put(&["gone"]);
    broker.roll();
    for text in ["a=1", "b=1", "c=1", "d=1"] {
        broker.put(&[text]);
    }
    broker.roll();
    broker.put(&["b=2"]);
    broker.roll();
    broker.put(&["active=1"]);
    broker.log().flush().unwrap();
    let three_keys = CompactionOptions {
        map_bytes: 4 * 24,
        ..options()
    };
    let report = broker.compact_with(&three_keys, u64::MAX).unwrap().unwrap();
    assert_eq!(report.cleaned_offset, Some(3));

    let bounds = broker.bounds();
    broker.model.untouched_from = bounds.high_watermark;
    let mut round = broker
        .log()
        .begin_compaction(|| bounds, &options(), broker.now_ms)
        .unwrap()
        .unwrap();
    while texts(&broker).contains(&"2:b=1".to_owned()) {
        assert_eq!(round.step(1, broker.now_ms).unwrap(), CompactionStep::More);
    }
    drop(round);
    assert_eq!(broker.log().cleaned_offset().unwrap(), 3);

    broker.reopen();
    broker.now_ms += 2 * DAY_MS;
    let unknown = CompactionBounds {
        high_watermark: 0,
        last_stable_offset: 0,
    };
    let mut round = broker
        .log()
        .begin_compaction(|| unknown, &options(), broker.now_ms)
        .unwrap()
        .expect("a tombstone's time has come");
    let report = loop {
        if let CompactionStep::Done(report) = round.step(u64::MAX, broker.now_ms).unwrap() {
            break report;
        }
    };
    assert_eq!(report.deleted_tombstones, 1);
    drop(round);
    broker.check();
}

#[test]
fn markers_stay_and_records_of_transactions_replace_none() {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["a=1", "b=1"]);
    let mut builder = millrace_proto::batch::BatchBuilder::new(Codec::None);
    builder.append(1, Some(b"a"), Some(b"aborted"), &[]).unwrap();
    builder.append(1, Some(b"b"), None, &[]).unwrap();
    builder.set_producer(9, 0, 0).set_transactional(true);
    let follow = |broker: &Broker, batch: Bytes| {
        let mut batch = batch.to_vec();
        stamp_offset_and_epoch(&mut batch, broker.log().log_end_offset(), 0);
        broker.log().append_as_follower(&batch.into(), 0, 1).unwrap();
    };
    follow(&broker, builder.build().unwrap());
    for _ in 0..2 {
        let marker = end_transaction_batch(ControlRecord::Abort { coordinator_epoch: 1 }, 9, 0, 1);
        follow(&broker, marker.unwrap());
    }
    broker.put(&["c=1"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    broker.now_ms += 10 * DAY_MS;
    broker.put(&["b=2"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    let left: Vec<_> = headers(&broker)
        .iter()
        .map(|header| (header.base_offset, header.record_count, header.is_control()))
        .collect();
    // The aborted "b" has gone with the later one; "a" has none.
    assert_eq!(
        left,
        [
            (0, 1, false),
            (2, 1, false),
            (4, 1, true),
            (5, 1, true),
            (6, 1, false),
            (7, 1, false)
        ]
    );
}

#[test]
fn a_map_that_is_too_small_takes_several_rounds_and_always_gets_on() {
    for map_bytes in [0, 24 * 4, 24 * 11] {
        let mut broker = Broker::new(config(), 1);
        for number in 0..30 {
            let text = |at: usize| format!("k{}={number}", (number * 3 + at) % 17);
            broker.put(&[&text(0), &text(1), &text(2)]);
            if number % 10 == 9 {
                broker.roll();
            }
        }
        let small = CompactionOptions { map_bytes, ..options() };
        let mut ends = Vec::new();
        while let Some(report) = broker.compact_with(&small, 50).unwrap() {
            broker.check();
            ends.push(report.cleaned_offset.unwrap());
            assert!(ends.len() <= 90, "{ends:?}");
        }
        assert!(ends.len() > 1 && ends.is_sorted_by(|one, next| one < next), "{ends:?}");
        assert_eq!(ends.last(), Some(&90));
        assert_eq!(broker.texts().len(), 17, "one record a key");
    }
}

#[test]
fn what_is_compacted_and_not_deleted_still_goes_below_the_log_start() {
    let mut broker = Broker::new(
        LogConfig {
            retention_ms: Some(1),
            retention_bytes: Some(1),
            ..config()
        },
        1,
    );
    for number in 0..4 {
        broker.put(&[&format!("k{number}=1")]);
        broker.roll();
    }
    broker.now_ms += DAY_MS;
    assert_eq!(broker.log().apply_retention(broker.now_ms, 4).unwrap().deleted, []);
    broker.model.log_start = 2;
    let deleted = broker.log().advance_log_start(2).unwrap().deleted;
    assert!(deleted.iter().all(|deleted| deleted.reason == DeletionReason::LogStart));
    assert_eq!(deleted.len(), 2);
    broker.check();
    // With both policies it is deleted by age as well.
    let both = CleanupPolicy {
        delete: true,
        compact: true,
    };
    broker.log().update_config(LogConfig {
        cleanup_policy: both,
        ..broker.config.clone()
    });
    assert_eq!(broker.log().apply_retention(broker.now_ms, 4).unwrap().deleted.len(), 2);
}

#[test]
fn a_record_that_gets_too_old_is_sealed_and_makes_a_compaction_due() {
    let mut broker = Broker::new(
        LogConfig {
            max_compaction_lag_ms: Some(1_000),
            min_compaction_lag_ms: 500,
            min_cleanable_dirty_ppm: 1_000_000,
            ..config()
        },
        1,
    );
    broker.put(&["k=1"]);
    broker.put(&["k=2"]);
    let need = |broker: &Broker| broker.log().compaction_need(&broker.bounds(), broker.now_ms).unwrap();
    assert!(!broker.log().roll_if_due(broker.now_ms + 1_000).unwrap());
    assert!(broker.log().roll_if_due(broker.now_ms + 1_001).unwrap());
    broker.log().flush().unwrap();
    broker.now_ms += 499;
    assert_eq!(need(&broker).dirty_bytes, 0, "too young");
    assert_eq!(broker.compact().unwrap(), None);
    broker.now_ms += 1;
    assert!(need(&broker).dirty_bytes > 0);
    broker.compact().unwrap().unwrap();
    assert_eq!(texts(&broker), ["1:k=2"]);
    // A share that is too small does not matter for one that is too old.
    broker.put(&["k=3"]);
    broker.roll();
    broker.now_ms += 1_000;
    assert!(!need(&broker).is_due);
    broker.now_ms += 1;
    assert!(need(&broker).is_due);
}

#[test]
fn only_one_compaction_is_under_way() {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["k=1"]);
    broker.put(&["k=2"]);
    broker.roll();
    let first = broker
        .log()
        .begin_compaction(|| broker.bounds(), &options(), 0)
        .unwrap();
    assert_eq!(broker.compact(), Err(CompactionError::Busy));
    drop(first);
    broker.compact().unwrap().unwrap();
    assert_eq!(texts(&broker), ["1:k=2"]);
    // The disk of another replica: all has to be looked at again.
    broker.log().reset_compaction().unwrap();
    let need = broker.log().compaction_need(&broker.bounds(), 0).unwrap();
    assert_eq!((need.first_dirty_offset, need.clean_bytes), (0, 0));
    broker.reopen();
    assert_eq!(
        broker
            .log()
            .compaction_need(&broker.bounds(), 0)
            .unwrap()
            .first_dirty_offset,
        0
    );
}

#[test]
fn an_empty_batch_is_what_kafka_writes() {
    let batch = build(&[record("k", Some("1"))], 77, Codec::Zstd, Some((7, 2, 5)));
    let mut broker = Broker::new(config(), 1);
    broker.append(&batch);
    broker.put(&["k=2"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    let bytes = broker.log().read(0, 61, true, 1).unwrap().bytes;
    let view = BatchView::parse(&bytes).unwrap();
    view.verify_crc().unwrap();
    let header = view.header();
    assert_eq!((view.bytes().len(), header.record_count), (61, 0));
    assert_eq!(
        (header.codec(), header.base_timestamp, header.max_timestamp),
        (Codec::None, -1, 77)
    );
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (7, 2, 5)
    );
}
