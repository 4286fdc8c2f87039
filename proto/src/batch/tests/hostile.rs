//! Bytes made to cost memory or time.

use std::io::Write;

use super::*;

const LIMIT: usize = 1 << 20;
const LIMITS: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: LIMIT,
    max_records: 1000,
    max_headers_per_record: 10,
};
/// 64 times the limit.
const BOMB: usize = 64 << 20;
/// Decoders' own state.
const STATE: usize = 100_000;

fn varint(value: i64) -> Vec<u8> {
    let mut bytes = [0; 10];
    let mut at = 0;
    super::super::varint::write(&mut bytes, &mut at, value);
    bytes[..at].to_vec()
}

fn record(body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [varint(body.len() as i64), body].concat()
}

fn refused(codec: Codec, payload: &[u8], most_held: usize) -> BatchError {
    let batch = raw_batch(codec, 1, payload);
    let (result, held) = allocations::peak(|| read_all(&batch, &LIMITS));
    assert!(held <= most_held, "{codec}: {held} bytes held");
    result.unwrap_err()
}

#[test]
fn bombs_stop_at_the_limit() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.append(1, None, Some(&vec![0; BOMB]), &[]).unwrap();
        let batch = builder.build().unwrap();
        let (result, held) = allocations::peak(|| read_all(&batch, &LIMITS));
        assert_eq!(result, Err(BatchError::DecompressedTooLarge { codec, limit: LIMIT }));
        assert!(result.unwrap_err().is_limit());
        // A growing buffer holds its old and its new self for a moment.
        assert!(held <= 2 * LIMIT + STATE, "{codec}: {held} bytes held");
    }
}

#[test]
fn a_zstd_stream_that_does_not_tell_its_size() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&vec![0; BOMB]).unwrap();
    let error = refused(Codec::Zstd, &encoder.finish().unwrap(), LIMIT + STATE);
    assert_eq!(
        error,
        BatchError::DecompressedTooLarge {
            codec: Codec::Zstd,
            limit: LIMIT
        }
    );

    // Within the limit it is read, at the first guess and after several.
    for length in [10, 65_536, 65_537, 1_000_000, LIMIT - 10] {
        let value = vec![0; length];
        let record = record(&[&[0, 0, 0, 1], &varint(length as i64), &value, &[0]]);
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(&record).unwrap();
        let batch = raw_batch(Codec::Zstd, 1, &encoder.finish().unwrap());
        let limits = DecodeLimits {
            max_decompressed_bytes: record.len(),
            ..LIMITS
        };
        assert_eq!(read_all(&batch, &limits), Ok(1), "{length}");
        let limits = DecodeLimits {
            max_decompressed_bytes: record.len() - 1,
            ..LIMITS
        };
        assert!(read_all(&batch, &limits).unwrap_err().is_limit(), "{length}");
    }
}

#[test]
fn the_limit_is_exact() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.append(1, None, Some(&[3; 200_000]), &[]).unwrap();
        let records = builder.size_in_bytes() - HEADER_LEN;
        let batch = builder.build().unwrap();
        let at = |limit| {
            read_all(
                &batch,
                &DecodeLimits {
                    max_decompressed_bytes: limit,
                    ..LIMITS
                },
            )
        };
        assert_eq!(at(records), Ok(1), "{codec}");
        for limit in [0, 1, 65_536, records - 1] {
            assert_eq!(at(limit), Err(BatchError::DecompressedTooLarge { codec, limit }));
        }
    }
}

#[test]
fn claimed_sizes_are_not_allocated() {
    // zstd: a content size of 2^60, a window of 128 MiB, one block of one byte.
    let told = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x88][..],
        &(1u64 << 60).to_le_bytes(),
        &[9, 0, 0, 0],
    ]
    .concat();
    refused(Codec::Zstd, &told, STATE);
    // Snappy: a block that claims 2 GiB, bare and framed.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x07, 0, 0];
    refused(Codec::Snappy, &claim, 1000);
    let framed = [
        b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x07",
        &claim[..],
    ]
    .concat();
    refused(Codec::Snappy, &framed, 1000);
    // Snappy: a block that claims 900,000 bytes, which the limit would allow.
    let within_limit = [0xa0, 0xf7, 0x36, 0, 0];
    refused(Codec::Snappy, &within_limit, 1000);
    // Snappy: a frame whose block is said to be longer than all there is, or less than nothing.
    for length in [i32::MAX, -1, 8] {
        let framed = [
            b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01",
            &length.to_be_bytes()[..],
            &claim[..],
        ]
        .concat();
        refused(Codec::Snappy, &framed, 1000);
    }
    // LZ4: blocks of up to 4 MiB, with a content size; one block of a few bytes.
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0b0110_1000, 0x70];
    frame.extend_from_slice(&(1u64 << 60).to_le_bytes());
    frame.push((twox_hash::XxHash32::oneshot(0, &frame[4..]) >> 8) as u8);
    frame.extend_from_slice(&[2, 0, 0, 0, 0x10, 7, 0, 0, 0, 0]);
    let error = refused(Codec::Lz4, &frame, 2000);
    assert!(
        matches!(&error, BatchError::Compressed { reason, .. } if reason.contains("content size")),
        "{error}"
    );
}

#[test]
fn a_large_zstd_window_is_read() {
    // As Kafka's producers write at level 22: a window of 128 MiB for a stream of unknown size.
    let record = record(&[&[0, 0, 0, 1, 1, 0]]);
    let block = ((record.len() as u32) << 3 | 1).to_le_bytes();
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3][..], &block[..3], &record].concat();
    assert_eq!(read_all(&raw_batch(Codec::Zstd, 1, &frame), &LIMITS), Ok(1));
}

#[test]
fn lengths_within_a_record() {
    let huge = varint(i64::from(i32::MAX));
    let cases: [(&str, Vec<u8>); 11] = [
        ("record", [&huge[..], &[0; 100]].concat()),
        ("record length", varint(-1)),
        ("record length", vec![0xff; 6]),
        ("key", record(&[&[0, 0, 0], &huge])),
        ("key length", record(&[&[0, 0, 0], &varint(-2)])),
        ("value", record(&[&[0, 0, 0, 1], &huge])),
        ("header count", record(&[&[0, 0, 0, 1, 1], &varint(-1)])),
        ("headers", record(&[&[0, 0, 0, 1, 1], &varint(10)])),
        ("header key length", record(&[&[0, 0, 0, 1, 1, 2, 1, 1]])),
        ("header key", record(&[&[0, 0, 0, 1, 1, 2], &huge])),
        ("header value", record(&[&[0, 0, 0, 1, 1, 2, 0], &huge])),
    ];
    for (field, payload) in cases {
        let error = refused(Codec::None, &payload, 0);
        let found = match error {
            BatchError::RecordCut { field, .. }
            | BatchError::RecordField { field, .. }
            | BatchError::Varint { field, .. } => field,
            other => panic!("{field}: {other}"),
        };
        assert_eq!(found, field);
    }
    let many = record(&[&[0, 0, 0, 1, 1], &varint(11), &[0; 22]]);
    assert!(matches!(
        refused(Codec::None, &many, 0),
        BatchError::TooManyHeaders {
            headers: 11,
            limit: 10,
            ..
        }
    ));
    let ten = record(&[&[0, 0, 0, 1, 1], &varint(10), &[0, 1].repeat(10)]);
    assert_eq!(read_all(&raw_batch(Codec::None, 1, &ten), &LIMITS), Ok(1));
}

#[test]
fn deltas_within_a_record() {
    let with_delta = |delta: i64| record(&[&[0, 0], &varint(delta), &[1, 1, 0]]);
    let batch = |deltas: [i64; 2]| raw_batch(Codec::None, 2, &[with_delta(deltas[0]), with_delta(deltas[1])].concat());
    assert_eq!(read_all(&batch([0, 1]), &LIMITS), Ok(2));
    for deltas in [[0, 0], [1, 0], [0, 2], [-1, 0]] {
        let error = read_all(&batch(deltas), &LIMITS).unwrap_err();
        assert!(
            matches!(
                error,
                BatchError::RecordField {
                    field: "offset delta",
                    ..
                }
            ),
            "{deltas:?} {error}"
        );
    }
    let late = record(&[&[0], &varint(i64::MAX), &[0, 1, 1, 0]]);
    let mut batch = raw_batch(Codec::None, 1, &late);
    assert_eq!(read_all(&batch, &LIMITS), Ok(1));
    batch[field::BASE_TIMESTAMP..][..8].copy_from_slice(&1i64.to_be_bytes());
    let error = read_all(&batch, &LIMITS).unwrap_err();
    assert!(
        matches!(
            error,
            BatchError::RecordField {
                field: "timestamp delta",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn counts_that_do_not_fit() {
    let one = record(&[&[0, 0, 0, 1, 1, 0]]);
    assert!(matches!(
        read_all(&raw_batch(Codec::None, i32::MAX, &one), &LIMITS),
        Err(BatchError::TooManyRecords {
            record_count: i32::MAX,
            limit: 1000
        })
    ));
    assert!(matches!(
        read_all(&raw_batch(Codec::None, 2, &one), &LIMITS),
        Err(BatchError::RecordCut { index: 1, .. })
    ));
    assert_eq!(
        read_all(&raw_batch(Codec::None, 0, &one), &LIMITS),
        Err(BatchError::LeftOver {
            index: -1,
            position: 0,
            count: 7
        })
    );
    let more = [&one[..], &[0]].concat();
    assert_eq!(
        read_all(&raw_batch(Codec::None, 1, &more), &LIMITS),
        Err(BatchError::LeftOver {
            index: 0,
            position: 7,
            count: 1
        })
    );
    let within = record(&[&[0, 0, 0, 1, 1, 0, 9, 9]]);
    assert_eq!(
        read_all(&raw_batch(Codec::None, 1, &within), &LIMITS),
        Err(BatchError::LeftOver {
            index: 0,
            position: 7,
            count: 2
        })
    );
    let view = raw_batch(Codec::None, 2, &one);
    let records = BatchView::parse(&view).unwrap().records(&LIMITS).unwrap();
    let mut iterator = records.iter();
    assert!(iterator.next().unwrap().is_ok());
    assert!(iterator.next().unwrap().is_err());
    assert!(iterator.next().is_none());
}

#[test]
fn a_codec_without_a_stream() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        assert_eq!(read_all(&raw_batch(codec, 0, &[]), &LIMITS), Ok(0));
        let error = refused(codec, b"this is no stream of any codec", STATE);
        assert!(matches!(error, BatchError::Compressed { .. }), "{codec}: {error}");
    }
}
