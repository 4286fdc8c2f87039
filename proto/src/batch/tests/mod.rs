//! Tests of the batch format: round trips, damage, hostile bytes, and bytes that a real Kafka
//! wrote.

mod damage;
mod golden;
mod header;
mod hostile;
pub(crate) mod plain;
mod retain;
mod round_trip;
mod speed;

use bytes::Bytes;

use super::*;
use crate::allocations;

/// A batch of a few records of all shapes.
fn sample(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    builder.append(1_000, Some(b"key"), Some(b"value"), &[]).unwrap();
    builder.append(1_005, None, None, &[]).unwrap();
    let headers = [
        Header {
            key: b"name",
            value: Some(b"x"),
        },
        Header { key: b"", value: None },
        Header {
            key: b"e",
            value: Some(b""),
        },
    ];
    builder
        .append(
            990,
            Some(b""),
            Some(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            &headers,
        )
        .unwrap();
    builder.set_producer(77, 3, 10);
    builder.build().unwrap()
}

/// A batch with `payload` for records, as it is, and a correct checksum.
fn raw_batch(codec: Codec, record_count: i32, payload: &[u8]) -> Vec<u8> {
    let header = BatchHeader {
        base_offset: 0,
        batch_length: (HEADER_LEN - LENGTH_PREFIX_LEN + payload.len()) as i32,
        partition_leader_epoch: 0,
        crc: 0,
        attributes: Attributes::default().with_codec(codec),
        last_offset_delta: (record_count - 1).max(0),
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        record_count,
    };
    let mut batch = [&header.encode()[..], payload].concat();
    let crc = crc::crc32c(&batch[field::ATTRIBUTES..]);
    batch[field::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Reads all records; the first error ends it.
fn read_all(batch: &[u8], limits: &DecodeLimits) -> Result<usize, BatchError> {
    let mut count = 0;
    for record in &BatchView::parse(batch)?.records(limits)? {
        record?;
        count += 1;
    }
    Ok(count)
}
