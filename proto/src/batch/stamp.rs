//! What a leader changes in a producer's batch, in place and without touching the records.

use super::crc::Crc32c;
use super::{Attributes, HEADER_LEN, TimestampType, field};

/// Sets base offset and leader epoch, which the checksum does not cover. `header` is a batch or the
/// front of one.
///
/// # Panics
/// Below 16 bytes, which no decoded header has.
pub fn stamp_offset_and_epoch(header: &mut [u8], base_offset: i64, leader_epoch: i32) {
    header[field::BASE_OFFSET..][..8].copy_from_slice(&base_offset.to_be_bytes());
    header[field::LEADER_EPOCH..][..4].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Gives a whole batch its append time in milliseconds: the timestamp type, the max timestamp and,
/// over both and the records, the checksum, which is returned. The base timestamp stays, as in
/// Kafka.
///
/// # Panics
/// Below 61 bytes, which no parsed batch has.
pub fn stamp_log_append_time(batch: &mut [u8], now_ms: i64) -> u32 {
    let (header, records) = batch.split_at_mut(HEADER_LEN);
    stamp(header, records, now_ms)
}

/// The same for a header that was copied from its records, so that the records need no copy.
/// `records` is all of the batch after the header.
pub fn stamp_header_log_append_time(header: &mut [u8; HEADER_LEN], records: &[u8], now_ms: i64) -> u32 {
    stamp(header, records, now_ms)
}

fn stamp(header: &mut [u8], records: &[u8], now_ms: i64) -> u32 {
    let log_append_time = Attributes::default()
        .with_timestamp_type(TimestampType::LogAppendTime)
        .bits();
    let [high, low] = log_append_time.to_be_bytes();
    header[field::ATTRIBUTES] |= high;
    header[field::ATTRIBUTES + 1] |= low;
    header[field::MAX_TIMESTAMP..][..8].copy_from_slice(&now_ms.to_be_bytes());
    let crc = Crc32c::new()
        .update(&header[field::ATTRIBUTES..HEADER_LEN])
        .update(records)
        .value();
    header[field::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
    crc
}
