//! What compaction leaves of a batch: some of its records, or its header alone.
//!
//! Base offset, last offset, leader epoch, producer fields and codec stay, and every kept record its offset and time:
//! so what readers and producers know of the batch stays true.

use bytes::Bytes;

use super::crc::crc32c;
use super::{
    BatchBuilder, BatchHeader, BuildError, Codec, HEADER_LEN, LENGTH_PREFIX_LEN, NO_TIMESTAMP, Record, Records,
    TimestampType, field,
};

/// Rewrites batches with fewer records. Keeps its buffers and the codecs' states from one to the next.
#[derive(Debug, Default)]
pub struct BatchFilter {
    /// One for each codec that was met.
    builders: Vec<BatchBuilder>,
}

impl BatchFilter {
    /// The batch of `header` with those of its `records` for which `keep` holds, at least one, compressed by the same
    /// codec at its default level.
    ///
    /// With `delete_horizon_ms` the batch gets that delete horizon, in milliseconds, which takes the place of the base
    /// timestamp (KIP-534); without, it keeps the one it has, if any. With create time the largest timestamp becomes
    /// that of the kept records.
    ///
    /// # Errors
    /// [`BuildError::Empty`] if no record is kept (see [`empty_batch`]), [`BuildError::Timestamp`] if a record's time
    /// can't be told from the horizon, [`BuildError::Invalid`] for a record that can't be decoded, and what the codec's
    /// library says. The filter can be used again after each.
    pub fn retain(
        &mut self,
        header: &BatchHeader,
        records: &Records<'_>,
        delete_horizon_ms: Option<i64>,
        keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<Bytes, BuildError> {
        let builder = self.builder(header.codec());
        builder.clear();
        let result = rewrite(builder, header, records, delete_horizon_ms, keep);
        // What an error leaves is not part of the next batch.
        builder.clear();
        result
    }

    fn builder(&mut self, codec: Codec) -> &mut BatchBuilder {
        let at = match self.builders.iter().position(|builder| builder.codec() == codec) {
            Some(at) => at,
            None => {
                self.builders.push(BatchBuilder::new(codec));
                self.builders.len() - 1
            }
        };
        &mut self.builders[at]
    }
}

fn rewrite(
    builder: &mut BatchBuilder,
    header: &BatchHeader,
    records: &Records<'_>,
    delete_horizon_ms: Option<i64>,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Bytes, BuildError> {
    let base = delete_horizon_ms.unwrap_or(header.base_timestamp);
    let mut newest = NO_TIMESTAMP;
    for record in records {
        let record = record?;
        if !keep(&record) {
            continue;
        }
        let timestamp = record.timestamp;
        let timestamp_delta = timestamp
            .checked_sub(base)
            .ok_or(BuildError::Timestamp { timestamp, base })?;
        newest = newest.max(timestamp);
        // The records of a batch lie within its offsets, which differ by 31 bits.
        let offset_delta = (record.offset - header.base_offset) as i32;
        builder.put_record(timestamp_delta, offset_delta, record.key, record.value, record.headers)?;
    }
    if builder.is_empty() {
        return Err(BuildError::Empty);
    }
    builder.finish(BatchHeader {
        batch_length: (builder.size_in_bytes() - LENGTH_PREFIX_LEN) as i32,
        attributes: match delete_horizon_ms {
            Some(_) => header.attributes.with_delete_horizon(true),
            None => header.attributes,
        },
        base_timestamp: base,
        max_timestamp: match header.timestamp_type() {
            TimestampType::CreateTime => newest,
            TimestampType::LogAppendTime => header.max_timestamp,
        },
        record_count: builder.record_count(),
        ..*header
    })
}

/// The batch of `header` without records: what stays where its offsets or its producer's last sequence must stay known
/// (KAFKA-5490, KAFKA-8335). As in Kafka it is not compressed and has neither a base timestamp nor a delete horizon.
#[must_use]
pub fn empty_batch(header: &BatchHeader) -> [u8; HEADER_LEN] {
    let mut raw = BatchHeader {
        batch_length: (HEADER_LEN - LENGTH_PREFIX_LEN) as i32,
        attributes: header.attributes.with_codec(Codec::None).with_delete_horizon(false),
        base_timestamp: NO_TIMESTAMP,
        record_count: 0,
        ..*header
    }
    .encode();
    let crc = crc32c(&raw[field::ATTRIBUTES..]);
    raw[field::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
    raw
}
