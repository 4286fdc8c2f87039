//! Batches that Apache Kafka 4.3.1 wrote (`MemoryRecordsBuilder` and friends of kafka-clients), in
//! `testdata/`.

use super::*;

const TIME: i64 = 1_700_000_000_000;

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| ((index / 700) ^ (index % 16)) as u8).collect()
}

/// What was appended in Java, to a builder of ours.
fn fill(builder: &mut BatchBuilder, large: usize) {
    let headers = [
        Header {
            key: b"h1",
            value: Some(b"v1"),
        },
        Header {
            key: b"h2",
            value: None,
        },
        Header {
            key: b"",
            value: Some(b""),
        },
    ];
    builder.append(TIME, Some(b"key-0"), Some(b"value-0"), &[]).unwrap();
    builder.append(TIME + 5, None, None, &headers).unwrap();
    builder.append(TIME - 3, Some(b""), Some(&pattern(large)), &[]).unwrap();
    for index in 3..13 {
        let key = format!("key-{index}");
        let value = format!("line {index} of a text that can be compressed");
        builder
            .append(TIME + index, Some(key.as_bytes()), Some(value.as_bytes()), &[])
            .unwrap();
    }
}

fn golden(codec: Codec) -> Bytes {
    bytes(match codec {
        Codec::None => include_str!("../testdata/none.hex"),
        Codec::Gzip => include_str!("../testdata/gzip.hex"),
        Codec::Snappy => include_str!("../testdata/snappy.hex"),
        Codec::Lz4 => include_str!("../testdata/lz4.hex"),
        Codec::Zstd => include_str!("../testdata/zstd.hex"),
    })
}

fn ours(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    fill(&mut builder, if codec == Codec::None { 300 } else { 150_000 });
    builder
        .set_producer(1234, 5, i32::MAX - 1)
        .set_base_offset(42)
        .set_leader_epoch(7);
    builder.build().unwrap()
}

#[test]
fn kafkas_records_are_read() {
    let limits = DecodeLimits::default();
    for codec in Codec::ALL {
        let (theirs, ours) = (golden(codec), ours(codec));
        let (theirs, ours) = (BatchView::parse(&theirs).unwrap(), BatchView::parse(&ours).unwrap());
        theirs.verify_crc().unwrap();
        let header = theirs.header();
        assert_eq!(
            (header.codec(), header.last_offset(), header.last_sequence()),
            (codec, 54, 10)
        );
        // All header fields are equal but those that depend on how well the codec did.
        let comparable = BatchHeader {
            crc: ours.header().crc,
            batch_length: ours.header().batch_length,
            ..*header
        };
        assert_eq!(comparable, *ours.header());
        let (theirs, ours) = (theirs.records(&limits).unwrap(), ours.records(&limits).unwrap());
        assert!(theirs.bytes() == ours.bytes(), "{codec}: records differ");
        assert_eq!(
            theirs.iter().map(|record| record.unwrap().offset).collect::<Vec<_>>(),
            (42..55).collect::<Vec<_>>()
        );
    }
}

#[test]
fn uncompressed_batches_are_the_same_to_the_byte() {
    assert_eq!(ours(Codec::None), golden(Codec::None));

    let mut builder = BatchBuilder::new(Codec::None);
    fill(&mut builder, 300);
    builder
        .set_log_append_time(TIME + 1_000_000)
        .set_base_offset(42)
        .set_leader_epoch(7);
    let theirs = bytes(include_str!("../testdata/log-append-time.hex"));
    assert_eq!(builder.build().unwrap(), theirs);
    let records = OwnedBatch::parse(&theirs)
        .unwrap()
        .records(&DecodeLimits::default())
        .unwrap();
    assert!(
        records
            .map(|record| record.unwrap().timestamp)
            .all(|time| time == TIME + 1_000_000)
    );
}

#[test]
fn transaction_markers_are_the_same_to_the_byte() {
    let commit = ControlRecord::Commit { coordinator_epoch: 11 };
    let abort = ControlRecord::Abort { coordinator_epoch: 11 };
    for (marker, offset, hex) in [
        (commit, 99, include_str!("../testdata/commit-marker.hex")),
        (abort, 100, include_str!("../testdata/abort-marker.hex")),
    ] {
        let mut batch = end_transaction_batch(marker, 1234, 5, TIME).unwrap().to_vec();
        stamp_offset_and_epoch(&mut batch, offset, 3);
        assert_eq!(batch, bytes(hex));
        let view = BatchView::parse(&batch).unwrap();
        assert!(view.header().is_control() && view.header().is_transactional());
        let records = view.records(&DecodeLimits::default()).unwrap();
        let record = records.iter().next().unwrap().unwrap();
        assert_eq!(ControlRecord::decode(&record), Ok(marker));
    }
}

#[test]
fn other_control_records() {
    let batch = bytes(include_str!("../testdata/leader-change.hex"));
    let view = BatchView::parse(&batch).unwrap();
    view.verify_crc().unwrap();
    assert!(view.header().is_control() && !view.header().has_producer());
    let records = view.records(&DecodeLimits::default()).unwrap();
    let record = records.iter().next().unwrap().unwrap();
    let control = ControlRecord::decode(&record).unwrap();
    assert_eq!(control.kind(), ControlRecordType::LeaderChange);
    assert_eq!(control.encode_key()[..], record.key.unwrap()[..]);
    assert_eq!(control.encode_value(), record.value.unwrap());

    for (key, value, reason) in [
        (None, Some(&[0, 0, 0, 0, 0, 1][..]), "no key"),
        (Some(&[0, 0, 0][..]), Some(&[0, 0, 0, 0, 0, 1][..]), "key too short"),
        (
            Some(&[0xff, 0xff, 0, 0][..]),
            Some(&[0, 0, 0, 0, 0, 1][..]),
            "negative key version",
        ),
        (Some(&[0, 0, 0, 1][..]), None, "no value"),
        (Some(&[0, 0, 0, 1][..]), Some(&[0, 0, 0, 0, 1][..]), "marker too short"),
        (
            Some(&[0, 0, 0, 1][..]),
            Some(&[0x80, 0, 0, 0, 0, 1][..]),
            "negative marker version",
        ),
    ] {
        assert_eq!(
            ControlRecord::decode(&Record { key, value, ..record }),
            Err(BatchError::Control { reason })
        );
    }
    // What is to come: longer keys and values, unknown types.
    let longer = Record {
        key: Some(&[0, 1, 0, 0, 9]),
        value: Some(&[0, 1, 0, 0, 0, 8, 9]),
        ..record
    };
    assert_eq!(
        ControlRecord::decode(&longer),
        Ok(ControlRecord::Abort { coordinator_epoch: 8 })
    );
    let unknown = Record {
        key: Some(&[0, 0, 0, 44]),
        ..record
    };
    assert_eq!(
        ControlRecord::decode(&unknown).unwrap().kind(),
        ControlRecordType::Unknown(44)
    );
    for id in -1..50 {
        assert_eq!(ControlRecordType::from_id(id).id(), id);
    }
}

#[test]
fn an_empty_batch_that_compaction_left() {
    let batch = bytes(include_str!("../testdata/compacted-empty.hex"));
    let view = BatchView::parse(&batch).unwrap();
    view.verify_crc().unwrap();
    let header = view.header();
    assert_eq!(
        (header.record_count, header.base_offset, header.last_offset()),
        (0, 50, 59)
    );
    assert_eq!(
        (header.producer_id, header.base_sequence, header.last_sequence()),
        (1234, 17, 26)
    );
    assert!(view.records(&DecodeLimits::default()).unwrap().iter().next().is_none());
}
