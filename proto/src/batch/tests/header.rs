//! The header's rules, and stamping it.

use super::*;

fn valid() -> BatchHeader {
    BatchHeader::decode(&sample(Codec::None)).unwrap()
}

fn decode_after(change: impl FnOnce(&mut BatchHeader)) -> Result<BatchHeader, BatchError> {
    let mut header = valid();
    change(&mut header);
    BatchHeader::decode(&header.encode())
}

#[test]
fn fields_survive_encoding() {
    let header = BatchHeader {
        base_offset: 0x0102030405060708,
        batch_length: 0x11121314,
        partition_leader_epoch: 0x21222324,
        crc: 0x31323334,
        attributes: Attributes::from_bits(0xff7c).unwrap(),
        last_offset_delta: 0x41424344,
        base_timestamp: -2,
        max_timestamp: 0x5152535455565758,
        producer_id: 0x6162636465666768,
        producer_epoch: 0x7172,
        base_sequence: 0x01828384,
        record_count: 0x11929394,
    };
    let raw = header.encode();
    assert_eq!(BatchHeader::decode(&raw), Ok(header));
    assert_eq!(raw[field::MAGIC], 2);
    assert_eq!(header.codec(), Codec::Zstd);
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    assert!(header.is_control() && header.is_transactional() && header.has_producer());
    assert_eq!(header.delete_horizon_ms(), Some(-2));
}

#[test]
fn each_rule_has_its_error() {
    use BatchError as E;
    type Case = (Result<BatchHeader, BatchError>, fn(&BatchError) -> bool);
    let cases: Vec<Case> = vec![
        (decode_after(|h| h.batch_length = 48), |e| {
            matches!(
                e,
                E::LengthTooSmall {
                    batch_length: 48,
                    minimum: 49
                }
            )
        }),
        (decode_after(|h| h.batch_length = i32::MIN), |e| {
            matches!(e, E::LengthTooSmall { .. })
        }),
        (decode_after(|h| h.base_offset = -1), |e| {
            matches!(e, E::NegativeBaseOffset { .. })
        }),
        (decode_after(|h| h.last_offset_delta = -1), |e| {
            matches!(e, E::NegativeLastOffsetDelta { .. })
        }),
        (decode_after(|h| h.base_offset = i64::MAX - 2), |e| {
            matches!(e, E::OffsetOverflow { .. })
        }),
        (decode_after(|h| h.record_count = -1), |e| {
            matches!(e, E::RecordCount { .. })
        }),
        (decode_after(|h| h.record_count = 4), |e| {
            matches!(e, E::RecordCount { .. })
        }),
        (decode_after(|h| h.producer_id = -2), |e| {
            matches!(e, E::Producer { .. })
        }),
        (decode_after(|h| h.producer_epoch = -1), |e| {
            matches!(e, E::Producer { .. })
        }),
        (decode_after(|h| h.base_sequence = -1), |e| {
            matches!(e, E::Producer { .. })
        }),
        (decode_after(|h| h.base_sequence = -2), |e| {
            matches!(e, E::Producer { .. })
        }),
        (
            decode_after(|h| {
                h.producer_id = -1;
                h.attributes = h.attributes.with_transactional(true);
            }),
            |e| matches!(e, E::Producer { .. }),
        ),
    ];
    for (index, (result, expected)) in cases.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(expected(&error), "case {index}: {error}");
    }
    for id in 5..8 {
        let mut raw = valid().encode();
        raw[field::ATTRIBUTES + 1] |= id;
        assert_eq!(BatchHeader::decode(&raw), Err(E::UnknownCodec { id }));
    }
    for magic in [0, 1, 3, -1] {
        let mut raw = valid().encode();
        raw[field::MAGIC] = magic as u8;
        assert_eq!(BatchHeader::decode(&raw), Err(E::UnsupportedMagic { magic }));
        // A message of an older format can be shorter than our header; it is still no torn batch.
        assert_eq!(BatchHeader::decode(&raw[..34]), Err(E::UnsupportedMagic { magic }));
    }
}

#[test]
fn what_is_allowed() {
    // Compaction leaves fewer records than offsets.
    assert!(decode_after(|h| h.record_count = 0).is_ok());
    // The last offset there can be, with one after it for the log end.
    assert_eq!(
        decode_after(|h| h.base_offset = i64::MAX - 3).unwrap().next_offset(),
        i64::MAX
    );
    // Some clients send sequence 0 without being idempotent.
    assert!(
        decode_after(|h| {
            h.producer_id = -1;
            h.base_sequence = 0;
        })
        .is_ok()
    );
    // A marker has a producer and no sequence.
    let marker = decode_after(|h| {
        h.attributes = h.attributes.with_control(true);
        h.base_sequence = -1;
    });
    assert_eq!(marker.unwrap().last_sequence(), NO_SEQUENCE);
}

#[test]
fn sequences_wrap_to_zero() {
    for (sequence, increment, result) in [
        (0, 0, 0),
        (5, 3, 8),
        (i32::MAX, 0, i32::MAX),
        (i32::MAX, 1, 0),
        (i32::MAX - 1, 3, 1),
        (i32::MAX, i32::MAX, i32::MAX - 1),
    ] {
        assert_eq!(
            advance_sequence(sequence, increment),
            result,
            "{sequence} + {increment}"
        );
    }
    let header = decode_after(|h| h.base_sequence = i32::MAX - 1).unwrap();
    assert_eq!(header.last_sequence(), 0);
}

#[test]
fn stamping_leaves_the_rest() {
    let original = sample(Codec::Lz4);
    let mut batch = original.to_vec();
    stamp_offset_and_epoch(&mut batch, 1_000_000_007, 12);
    let view = BatchView::parse(&batch).unwrap();
    view.verify_crc().unwrap();
    assert_eq!(
        *view.header(),
        BatchHeader {
            base_offset: 1_000_000_007,
            partition_leader_epoch: 12,
            ..BatchHeader::decode(&original).unwrap()
        }
    );
    assert_eq!(batch[field::CRC..], original[field::CRC..]);
}

#[test]
fn append_time_holds_for_all_records() {
    let original = sample(Codec::Gzip);
    let mut batch = original.to_vec();
    let crc = stamp_log_append_time(&mut batch, 5_000);
    let view = BatchView::parse(&batch).unwrap();
    view.verify_crc().unwrap();
    assert_eq!((view.header().crc, view.header().max_timestamp), (crc, 5_000));
    assert_eq!(view.header().codec(), Codec::Gzip);
    let records = view.records(&DecodeLimits::default()).unwrap();
    assert!(records.iter().all(|record| record.unwrap().timestamp == 5_000));

    let (header, records) = original.split_first_chunk::<HEADER_LEN>().unwrap();
    let mut header = *header;
    assert_eq!(stamp_header_log_append_time(&mut header, records, 5_000), crc);
    assert_eq!(header, batch[..HEADER_LEN]);
}

#[test]
fn the_largest_time_is_that_of_the_records() {
    let mut header = valid();
    header.max_timestamp = 1_000;
    assert_eq!(header.verify_max_timestamp(Some(1_000)), Ok(()));
    assert_eq!(
        header.verify_max_timestamp(None),
        Ok(()),
        "no record says anything else"
    );
    for newest in [999, 1_001, NO_TIMESTAMP] {
        let wrong = BatchError::MaxTimestamp {
            max_timestamp: 1_000,
            expected: newest,
        };
        assert_eq!(header.verify_max_timestamp(Some(newest)), Err(wrong));
    }
    // Below the value for no time nothing counts.
    header.max_timestamp = NO_TIMESTAMP;
    assert_eq!(header.verify_max_timestamp(Some(-5)), Ok(()));
    header.max_timestamp = -5;
    assert!(header.verify_max_timestamp(Some(-5)).is_err());
    header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    assert_eq!(header.verify_max_timestamp(Some(7)), Ok(()), "the broker's time");
}

#[test]
fn crc_known_values_and_pieces() {
    // RFC 3720 appendix B.4, and the check value of the CRC catalogues.
    assert_eq!(crc::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc::crc32c(b""), 0);
    let bytes: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
    for cut in [0, 1, 40, 61, 2500, 5000] {
        let mut sum = crc::Crc32c::new();
        sum.update(&bytes[..cut]).update(&bytes[cut..]);
        assert_eq!(sum.value(), crc::crc32c(&bytes), "cut at {cut}");
    }
}

#[test]
fn codec_names() {
    for codec in Codec::ALL {
        assert_eq!(codec.to_string().parse(), Ok(codec));
        assert_eq!(Codec::from_id(codec.id()), Some(codec));
    }
    assert_eq!("LZ4".parse::<Codec>(), Err(UnknownCodec("LZ4".into())));
    assert_eq!(Codec::from_id(5), None);
}
