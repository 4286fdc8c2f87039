//! What compaction leaves of a batch.

use proptest::prelude::*;

use super::*;

/// Everything of a record that must stay.
type Kept = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

fn records_of(bytes: &[u8]) -> Vec<Kept> {
    let view = BatchView::parse(bytes).unwrap();
    view.verify_crc().unwrap();
    assert_eq!(view.bytes().len(), bytes.len());
    let records = view.records(&DecodeLimits::default()).unwrap();
    let kept: Vec<Kept> = records
        .iter()
        .map(|record| record.unwrap())
        .map(|record| {
            (
                record.offset,
                record.timestamp,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                record.headers.len(),
            )
        })
        .collect();
    assert_eq!(view.header().record_count as usize, kept.len());
    kept
}

/// A sample at offset 100 in epoch 4.
fn stored(codec: Codec) -> Vec<u8> {
    let mut bytes = sample(codec).to_vec();
    stamp_offset_and_epoch(&mut bytes, 100, 4);
    bytes
}

fn retain(filter: &mut BatchFilter, bytes: &[u8], horizon: Option<i64>, keep: &[bool]) -> Result<Bytes, BuildError> {
    let view = BatchView::parse(bytes).unwrap();
    let records = view.records(&DecodeLimits::default()).unwrap();
    let base = view.header().base_offset;
    filter.retain(view.header(), &records, horizon, |record| {
        keep[(record.offset - base) as usize]
    })
}

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

#[test]
fn kept_records_keep_offsets_and_times_and_the_header_its_producer() {
    // One filter for all: nothing of one batch may show in the next.
    let mut filter = BatchFilter::default();
    for codec in CODECS {
        let before = stored(codec);
        let all = records_of(&before);
        let header = *BatchView::parse(&before).unwrap().header();
        for set in 1..8_usize {
            let keep: Vec<bool> = (0..3).map(|at| set >> at & 1 == 1).collect();
            for horizon in [None, Some(5_000_000)] {
                let after = retain(&mut filter, &before, horizon, &keep).unwrap();
                let expected: Vec<Kept> = all
                    .iter()
                    .zip(&keep)
                    .filter(|(_, keep)| **keep)
                    .map(|(kept, _)| kept.clone())
                    .collect();
                assert_eq!(records_of(&after), expected, "{codec} {set:03b} {horizon:?}");
                let now = *BatchView::parse(&after).unwrap().header();
                assert_eq!(now.delete_horizon_ms(), horizon);
                let newest = expected.iter().map(|kept| kept.1).max();
                now.verify_max_timestamp(newest).unwrap();
                let same = BatchHeader {
                    batch_length: header.batch_length,
                    crc: header.crc,
                    attributes: header.attributes,
                    base_timestamp: header.base_timestamp,
                    max_timestamp: header.max_timestamp,
                    record_count: header.record_count,
                    ..now
                };
                assert_eq!(same, header);
                assert_eq!(now.codec(), codec);
                // A horizon once set stays through the next cleaning.
                let last = keep.iter().rposition(|keep| *keep).unwrap();
                let one: Vec<bool> = (0..3).map(|at| at == last).collect();
                let again = retain(&mut filter, &after, None, &one).unwrap();
                assert_eq!(records_of(&again), expected[expected.len() - 1..]);
                assert_eq!(BatchView::parse(&again).unwrap().header().delete_horizon_ms(), horizon);
            }
        }
    }
}

#[test]
fn an_append_time_stays() {
    let mut before = stored(Codec::Lz4);
    stamp_log_append_time(&mut before, 77_000);
    let after = retain(&mut BatchFilter::default(), &before, Some(99), &[false, false, true]).unwrap();
    let header = *BatchView::parse(&after).unwrap().header();
    assert_eq!(
        (header.max_timestamp, header.timestamp_type()),
        (77_000, TimestampType::LogAppendTime)
    );
    assert_eq!(records_of(&after)[0].1, 77_000);
}

#[test]
fn an_empty_batch_keeps_offsets_and_sequences() {
    for codec in CODECS {
        let before = stored(codec);
        let header = *BatchView::parse(&before).unwrap().header();
        let empty = empty_batch(&header);
        assert_eq!(records_of(&empty), []);
        let now = *BatchView::parse(&empty).unwrap().header();
        assert_eq!((now.base_offset, now.last_offset()), (100, 102));
        assert_eq!((now.producer_id, now.producer_epoch, now.last_sequence()), (77, 3, 12));
        assert_eq!(
            (now.partition_leader_epoch, now.max_timestamp),
            (4, header.max_timestamp)
        );
        assert_eq!(empty_batch(&now), empty, "it stays as it is");
    }
}

#[test]
fn what_can_not_be_kept_is_an_error_and_harms_nothing() {
    let mut filter = BatchFilter::default();
    let before = stored(Codec::Zstd);
    assert_eq!(retain(&mut filter, &before, None, &[false; 3]), Err(BuildError::Empty));
    let far = retain(&mut filter, &before, Some(i64::MIN), &[true; 3]);
    assert!(matches!(far, Err(BuildError::Timestamp { .. })), "{far:?}");
    let garbled = raw_batch(Codec::None, 2, &[0; 9]);
    let view = BatchView::parse(&garbled).unwrap();
    let records = view.records(&DecodeLimits::default()).unwrap();
    let bad = filter.retain(view.header(), &records, None, |_| true);
    assert!(matches!(bad, Err(BuildError::Invalid(_))), "{bad:?}");
    let after = retain(&mut filter, &before, None, &[true; 3]).unwrap();
    assert_eq!(records_of(&after), records_of(&before));
}

proptest! {
    #[test]
    fn any_choice_of_any_records_is_kept_exactly(
        records in prop::collection::vec((any::<i32>(), any::<Option<[u8; 3]>>(), any::<Option<Vec<u8>>>(), any::<bool>()), 1..20),
        codec in 0..5_usize,
        horizon in any::<Option<u32>>(),
    ) {
        let mut builder = BatchBuilder::new(CODECS[codec]);
        for (time, key, value, _) in &records {
            builder.append(i64::from(*time), key.as_ref().map(|key| &key[..]), value.as_deref(), &[]).unwrap();
        }
        let before = builder.build().unwrap();
        let keep: Vec<bool> = records.iter().map(|record| record.3).collect();
        let result = retain(&mut BatchFilter::default(), &before, horizon.map(i64::from), &keep);
        if keep.contains(&true) {
            let expected: Vec<Kept> = records_of(&before).into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(kept, _)| kept).collect();
            prop_assert_eq!(records_of(&result.unwrap()), expected);
        } else {
            prop_assert_eq!(result, Err(BuildError::Empty));
        }
    }
}
