//! What goes in comes out, in every codec.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::plain::Plain;
use super::*;

fn bytes(up_to: usize) -> impl Strategy<Value = Vec<u8>> {
    // Some that compress, some that do not.
    prop_oneof![
        vec(any::<u8>(), 0..up_to),
        (any::<u8>(), 0..up_to).prop_map(|(byte, length)| vec![byte; length])
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    let headers = vec((bytes(20), option::of(bytes(100))), 0..4);
    (
        -1i64..1 << 42,
        option::of(bytes(100)),
        option::of(bytes(40_000)),
        headers,
    )
        .prop_map(|(timestamp, key, value, headers)| Plain {
            timestamp,
            key,
            value,
            headers,
        })
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

fn append(builder: &mut BatchBuilder, record: &Plain) {
    let before = builder.size_in_bytes();
    record.append_to(builder);
    let grown = builder.size_in_bytes() - before;
    let (key, value, headers) = (record.key.as_deref(), record.value.as_deref(), record.headers());
    let bound = record_size_upper_bound(key, value, &headers);
    assert!(grown <= bound && grown + MAX_RECORD_OVERHEAD > bound, "{grown} {bound}");
}

fn owned(record: &Record<'_>) -> Plain {
    Plain {
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers
            .map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)))
            .collect(),
    }
}

fn plain_of(record: OwnedRecord) -> Plain {
    let vec = |bytes: Bytes| bytes.to_vec();
    Plain {
        timestamp: record.timestamp,
        key: record.key.map(vec),
        value: record.value.map(vec),
        headers: record
            .headers
            .into_iter()
            .map(|h| (h.key.to_vec(), h.value.map(vec)))
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_come_back(codec in codec(), batches in vec(vec(plain(), 1..20), 1..4)) {
        // One builder for all, as a producer has.
        let mut builder = BatchBuilder::new(codec);
        let limits = DecodeLimits::default();
        let mut sequence = i32::MAX - 10;
        for records in batches {
            for record in &records {
                append(&mut builder, record);
            }
            let size = builder.size_in_bytes();
            builder.set_producer(9, 1, sequence).set_base_offset(1_000).set_leader_epoch(4);
            let batch = builder.build().unwrap();
            let view = BatchView::parse(&batch).unwrap();
            view.verify_crc().unwrap();
            let header = view.header();
            prop_assert_eq!(header.size_in_bytes(), batch.len());
            prop_assert_eq!(header.codec(), codec);
            prop_assert_eq!(header.record_count as usize, records.len());
            prop_assert_eq!(header.next_offset(), 1_000 + records.len() as i64);
            prop_assert_eq!(header.base_timestamp, records[0].timestamp);
            let latest = records.iter().map(|record| record.timestamp).max();
            prop_assert_eq!(Some(header.max_timestamp), latest);
            let last_sequence = advance_sequence(sequence, header.last_offset_delta);
            prop_assert_eq!(header.last_sequence(), last_sequence);
            sequence = advance_sequence(header.last_sequence(), 1);
            if codec == Codec::None {
                prop_assert_eq!(size, batch.len());
            }

            let decoded = view.records(&limits).unwrap();
            let decoded = decoded.iter().map(|record| record.unwrap());
            let decoded: Vec<_> = decoded.map(|record| (record.offset, owned(&record))).collect();
            let expected: Vec<_> = (1_000..).zip(records.iter().cloned()).collect();
            prop_assert_eq!(&decoded, &expected);

            let shared = OwnedBatch::parse(&batch).unwrap();
            shared.verify_crc().unwrap();
            let shared = shared.records(&limits).unwrap().map(|record| record.unwrap());
            let shared: Vec<_> = shared.map(|record| (record.offset, plain_of(record))).collect();
            prop_assert_eq!(&shared, &expected);
        }
    }

    #[test]
    fn any_header_that_decodes_encodes_to_the_same(raw in vec(any::<u8>(), HEADER_LEN)) {
        let mut raw = raw;
        raw[field::MAGIC] = 2;
        // Makes the signed fields positive, or nearly all would be refused.
        for at in [field::BASE_OFFSET, field::BATCH_LENGTH, field::LAST_OFFSET_DELTA] {
            raw[at] = 0;
        }
        raw[field::RECORD_COUNT..].fill(0);
        if let Ok(header) = BatchHeader::decode(&raw) {
            prop_assert_eq!(&header.encode()[..], &raw[..]);
            prop_assert!(header.next_offset() > header.base_offset);
        }
    }
}

#[test]
fn large_values_in_every_codec() {
    // Beyond one block of every codec, half of it noise.
    let mut state = 1u32;
    let value: Vec<u8> = (0..9 << 20)
        .map(|index: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if index & 1 << 16 == 0 {
                (state >> 24) as u8
            } else {
                (index >> 9) as u8
            }
        })
        .collect();
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        builder.append(1, None, Some(&value), &[]).unwrap();
        let batch = builder.build().unwrap();
        let records = BatchView::parse(&batch)
            .unwrap()
            .records(&DecodeLimits::default())
            .unwrap();
        let record = records.iter().next().unwrap().unwrap();
        assert!(record.value == Some(&value[..]), "{codec}");
        if codec != Codec::None {
            assert!(batch.len() < value.len() * 3 / 4, "{codec} {}", batch.len());
        }
    }
}

#[test]
fn every_kind_of_lz4_frame() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    // Repeats at a distance that reaches into the block before, and some noise.
    let value: Vec<u8> = (0..300_000u32)
        .map(|i| (i % 50_000).wrapping_mul(i % 50_000) as u8)
        .collect();
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1, None, Some(&value), &[]).unwrap();
    let plain = builder.build().unwrap();
    let records = &plain[HEADER_LEN..];
    for block_mode in [BlockMode::Independent, BlockMode::Linked] {
        for block_size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(block_mode)
                    .block_size(block_size)
                    .block_checksums(checksums)
                    .content_checksum(checksums)
                    .content_size(checksums.then_some(records.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(records).unwrap();
                let mut stream = encoder.finish().unwrap();
                let batch = raw_batch(Codec::Lz4, 1, &stream);
                let decoded = BatchView::parse(&batch).unwrap();
                let decoded = decoded.records(&DecodeLimits::default()).unwrap();
                assert!(decoded.bytes() == records, "{block_mode:?} {block_size:?} {checksums}");

                if checksums {
                    // The last four bytes are the content's checksum.
                    *stream.last_mut().unwrap() ^= 1;
                    let error = read_all(&raw_batch(Codec::Lz4, 1, &stream), &DecodeLimits::DEFAULT);
                    assert!(matches!(error, Err(BatchError::Compressed { .. })), "{error:?}");
                }
            }
        }
    }
}

#[test]
fn every_level() {
    for codec in [Codec::None, Codec::Snappy, Codec::Lz4] {
        for level in -1..3 {
            let error = BatchBuilder::with_level(codec, Some(level)).err();
            assert_eq!(error, Some(BuildError::Level { codec, level }));
        }
    }
    for codec in [Codec::Gzip, Codec::Zstd] {
        let levels = codec.levels().unwrap();
        for level in levels.clone().filter(|level| *level > -5) {
            let mut builder = BatchBuilder::with_level(codec, Some(level)).unwrap();
            builder.append(1, None, Some(&[7; 100_000]), &[]).unwrap();
            let batch = builder.build().unwrap();
            assert_eq!(read_all(&batch, &DecodeLimits::default()), Ok(1), "{codec} {level}");
        }
        for level in [levels.start() - 1, levels.end() + 1] {
            assert_eq!(
                BatchBuilder::with_level(codec, Some(level)).err(),
                Some(BuildError::Level { codec, level })
            );
        }
    }
}

#[test]
fn a_builder_starts_anew_after_each_batch() {
    let mut builder = BatchBuilder::new(Codec::None);
    assert_eq!(builder.build(), Err(BuildError::Empty));
    builder.append(10, None, Some(b"a"), &[]).unwrap();
    builder
        .set_producer(1, 1, 1)
        .set_transactional(true)
        .set_log_append_time(99)
        .set_base_offset(5);
    let first = builder.build().unwrap();
    assert!(builder.is_empty());
    assert_eq!(builder.build(), Err(BuildError::Empty));
    builder.append(3, None, Some(b"b"), &[]).unwrap();
    let second = builder.build().unwrap();
    let header = BatchHeader::decode(&second).unwrap();
    assert!(!header.has_producer() && !header.is_transactional());
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(
        (header.base_offset, header.base_timestamp, header.max_timestamp),
        (0, 3, 3)
    );
    // The first batch is not touched by the second.
    BatchView::parse(&first).unwrap().verify_crc().unwrap();
    assert_eq!(BatchHeader::decode(&first).unwrap().max_timestamp, 99);
}

#[test]
fn a_batch_that_would_be_invalid_is_kept() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(i64::MIN, None, None, &[]).unwrap();
    assert_eq!(
        builder.append(1, None, None, &[]),
        Err(BuildError::Timestamp {
            timestamp: 1,
            base: i64::MIN
        })
    );
    builder.set_transactional(true);
    assert!(matches!(
        builder.build(),
        Err(BuildError::Invalid(BatchError::Producer { .. }))
    ));
    assert_eq!(builder.record_count(), 1);
    builder.set_producer(1, 0, 0);
    assert_eq!(read_all(&builder.build().unwrap(), &DecodeLimits::default()), Ok(1));
}

#[test]
fn the_estimate_learns() {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for _ in 0..20 {
        builder.append(1, None, Some(&[0; 10_000]), &[]).unwrap();
        builder.build().unwrap();
    }
    builder.append(1, None, Some(&[0; 10_000]), &[]).unwrap();
    let estimate = builder.size_estimate();
    assert!((62..200).contains(&estimate), "{estimate}");
    assert!(builder.size_in_bytes() > 10_000);
}

#[test]
fn an_uncompressed_batch_takes_one_allocation_and_no_copy() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.reserve(1 << 20);
    let value = [5; 1024];
    let fill = |builder: &mut BatchBuilder| {
        for _ in 0..900 {
            builder.append(1, None, Some(&value), &[]).unwrap();
        }
        builder.build().unwrap()
    };
    let (first, held) = allocations::peak(|| fill(&mut builder));
    assert!(held < (1 << 20) + 1000, "{held}");
    let address = first.as_ptr();
    // Once dropped, its memory serves the next batch.
    drop(first);
    let (second, held) = allocations::peak(|| fill(&mut builder));
    assert!(held < 1000, "{held}");
    assert_eq!(second.as_ptr(), address);

    let batch = OwnedBatch::parse(&second).unwrap();
    let (total, held) = allocations::peak(|| {
        batch
            .records(&DecodeLimits::default())
            .unwrap()
            .map(|record| record.unwrap().value.unwrap().len())
            .sum::<usize>()
    });
    assert_eq!(total, 900 * 1024);
    assert!(held < 1000, "{held}");
}

#[test]
fn batches_back_to_back() {
    let all = [&sample(Codec::None)[..], &sample(Codec::Zstd), &sample(Codec::Gzip)].concat();
    let mut iterator = batches(&all);
    let codecs: Vec<_> = iterator.by_ref().map(|batch| batch.unwrap().header().codec()).collect();
    assert_eq!(codecs, [Codec::None, Codec::Zstd, Codec::Gzip]);
    assert_eq!(iterator.position(), all.len());
    let shared: Vec<_> = owned_batches(Bytes::from(all.clone()))
        .map(|batch| batch.unwrap().into_bytes())
        .collect();
    assert_eq!(shared.concat(), all);
}
