//! Looking into a batch before it is appended.

use std::sync::Arc;

use bytes::Bytes;
use millrace_engine::TopicConfig;
use millrace_log::CheckedBatch;
use millrace_proto::{
    batch::{
        BatchBuilder, BatchError, BatchHeader, BuildError, Codec, DecodeLimits, HEADER_LEN, NO_TIMESTAMP, Records,
    },
    v1::ErrorReason,
};

use super::errors;
use crate::{error::ApiError, limits, rpc::convert::topic_codec, turns::Turns};

/// What looking at a batch's records may cost; what is beyond it readers would refuse too.
const INGEST_LIMITS: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: limits::MAX_DECOMPRESSED_BYTES,
    ..DecodeLimits::DEFAULT
};

/// What trying to look at a compressed batch in place may cost.
const TRIAL_LIMITS: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: limits::CODED_IN_PLACE_BYTES,
    ..DecodeLimits::DEFAULT
};

/// A batch that holds the records that its header claims, so that no reader meets one that it can't decode. The type
/// is the proof; it can only be had by looking into what somebody sent, or by building it here.
#[derive(Clone, Debug)]
pub struct SoundBatch {
    checked: CheckedBatch,
    /// The place in the batch of its first record without a key, from 0.
    keyless: Option<usize>,
}

/// Why a batch is not taken.
#[derive(Debug)]
enum Refusal {
    /// Its records.
    Records(BatchError),
    /// Another reason.
    Other(ApiError),
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        Self::Records(error)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Records(error) => errors::corrupt(&error),
            Refusal::Other(error) => error,
        }
    }
}

impl SoundBatch {
    /// Takes what a builder makes of this broker's own records, whose times are `times`; `keyless` is the place of the
    /// first one without a key, if one has none.
    ///
    /// # Errors
    /// The builder's.
    pub fn build(builder: &mut BatchBuilder, times: &[i64], keyless: Option<usize>) -> Result<Self, BuildError> {
        let mut checked = CheckedBatch::build(builder)?;
        checked.set_oldest_timestamp(times.iter().copied().fold(NO_TIMESTAMP, older));
        Ok(Self { checked, keyless })
    }

    /// Looks into a batch that somebody sent, and encodes it anew where `config` asks for another codec. Work that
    /// may take long waits for a turn.
    ///
    /// # Errors
    /// It is refused.
    pub(super) async fn check(bytes: Bytes, config: &Arc<TopicConfig>, turns: &Turns) -> Result<Self, ApiError> {
        if let Some(limits) = in_place(&bytes, topic_codec(config.compression)) {
            match look(bytes.clone(), config, &limits) {
                // Of few bytes it makes many, which is known only now.
                Err(Refusal::Records(BatchError::DecompressedTooLarge { .. })) => {}
                looked => return Ok(looked?),
            }
        }
        let config = config.clone();
        Ok(turns.run(move |_turn| look(bytes, &config, &INGEST_LIMITS)).await??)
    }

    pub(super) fn checked(&self) -> &CheckedBatch {
        &self.checked
    }

    /// The place in the batch of its first record without a key, from 0.
    pub(super) fn keyless(&self) -> Option<usize> {
        self.keyless
    }

    /// The batch's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        self.checked.bytes()
    }
}

/// The bounds within which a batch may be looked into on the thread that serves calls; none if it is work that
/// takes long anyway.
fn in_place(bytes: &Bytes, wanted: Option<Codec>) -> Option<DecodeLimits> {
    let Ok(header) = BatchHeader::decode(bytes) else {
        // It is refused at once.
        return Some(TRIAL_LIMITS);
    };
    let (longest, limits) = match header.codec() {
        Codec::None if wanted.is_none_or(|codec| codec == Codec::None) => {
            (limits::CHECKED_IN_PLACE_BYTES, INGEST_LIMITS)
        }
        Codec::None => (limits::CODED_IN_PLACE_BYTES, INGEST_LIMITS),
        _ => (limits::TRIED_IN_PLACE_BYTES, TRIAL_LIMITS),
    };
    (bytes.len() <= longest).then_some(limits)
}

/// The older of two records' times; -1 says that there is none.
fn older(one: i64, other: i64) -> i64 {
    match (one, other) {
        (NO_TIMESTAMP, time) | (time, NO_TIMESTAMP) => time,
        (one, other) => one.min(other),
    }
}

/// Checks what the log takes on trust. As in Kafka, compressed batches are looked into as well.
fn look(bytes: Bytes, config: &TopicConfig, limits: &DecodeLimits) -> Result<SoundBatch, Refusal> {
    // The checksum before the records, which a flipped bit makes a riddle.
    let mut batch = CheckedBatch::check(bytes).map_err(errors::append)?;
    let header = *batch.header();
    if header.is_transactional() {
        return Err(Refusal::Other(ApiError::new(
            ErrorReason::NotSupported,
            "Transactions are not supported yet: send the batch without the transactional attribute.",
        )));
    }
    let records = batch.records(limits)?;
    let (mut newest, mut oldest, mut keyless) = (None, NO_TIMESTAMP, None);
    for (at, record) in records.iter().enumerate() {
        let record = record?;
        if record.key.is_none() && keyless.is_none() {
            keyless = Some(at);
        }
        let timestamp = record.timestamp;
        newest = newest.max(Some(timestamp));
        oldest = older(oldest, timestamp);
    }
    // Look-ups and retention by time go by it.
    header.verify_max_timestamp(newest)?;
    match topic_codec(config.compression) {
        Some(codec) if codec != header.codec() && !header.is_control() => {
            let encoded = encode_anew(&header, &records, codec)?;
            let size = encoded.bytes().len();
            // Here and not only by the log: what may be large is dropped while its turn lasts.
            if size > config.max_message_bytes as usize {
                return Err(Refusal::Other(errors::too_large(size, config.max_message_bytes)));
            }
            batch = encoded;
        }
        _ => drop(records),
    }
    batch.set_oldest_timestamp(oldest);
    Ok(SoundBatch {
        checked: batch,
        keyless,
    })
}

/// Encodes a batch anew in the topic's codec.
fn encode_anew(header: &BatchHeader, records: &Records<'_>, codec: Codec) -> Result<CheckedBatch, Refusal> {
    let mut builder = BatchBuilder::new(codec);
    builder.reserve(HEADER_LEN + records.bytes().len());
    for record in records {
        let record = record?;
        let headers: Vec<_> = record.headers.collect();
        builder
            .append(record.timestamp, record.key, record.value, &headers)
            .map_err(not_encoded)?;
    }
    if header.has_producer() {
        builder.set_producer(header.producer_id, header.producer_epoch, header.base_sequence);
    }
    builder.set_transactional(header.is_transactional());
    CheckedBatch::build(&mut builder).map_err(not_encoded)
}

fn not_encoded(error: BuildError) -> Refusal {
    Refusal::Other(match error {
        // Its times are further apart than any batch can hold that counts from the first one.
        BuildError::Timestamp { .. } => errors::corrupt(&error),
        error => ApiError::internal("re-encoding a batch", &error),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::FutureExt as _;
    use millrace_proto::batch::{BatchView, crc::crc32c};

    use super::*;

    fn config(compression: &str) -> TopicConfig {
        let set = BTreeMap::from([("compression.type".to_owned(), compression.to_owned())]);
        TopicConfig::parse(&set, &BTreeMap::new()).unwrap()
    }

    fn plain(bytes: Bytes) -> Result<SoundBatch, ApiError> {
        Ok(look(bytes, &config("producer"), &INGEST_LIMITS)?)
    }

    fn zeros(codec: Codec, bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        builder.append(1, None, Some(&vec![0; bytes]), &[]).unwrap();
        builder.build().unwrap()
    }

    #[test]
    fn re_encoding_keeps_records_and_producer() {
        let mut builder = BatchBuilder::new(Codec::None);
        for at in 0..100i64 {
            builder.append(at, Some(b"key"), Some(&[7; 100]), &[]).unwrap();
        }
        builder.set_producer(5, 1, 9);
        let original = builder.build().unwrap();
        let encode = |bytes: &Bytes, compression| {
            let encoded = look(bytes.clone(), &config(compression), &INGEST_LIMITS).unwrap();
            encoded.checked().clone()
        };
        let small = encode(&original, "zstd");
        assert!(small.bytes().len() < original.len() / 2);
        let header = small.header();
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (5, 1, 9)
        );
        assert_eq!(header.record_count, 100);
        assert!(CheckedBatch::check(small.bytes().clone()).is_ok());
        let again = encode(small.bytes(), "zstd");
        assert_eq!(
            again.bytes(),
            small.bytes(),
            "a batch in the right codec stays as it is"
        );
        let restored = encode(small.bytes(), "uncompressed");
        assert_eq!(restored.bytes(), &original);
    }

    #[test]
    fn damage_is_the_senders_fault() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1, None, Some(b"value"), &[]).unwrap();
        let sound = builder.build().unwrap();
        assert!(plain(sound.clone()).is_ok());
        let mut flipped = sound.to_vec();
        flipped[70] ^= 1;
        for bad in [
            Bytes::from_static(b"abc"),
            flipped.into(),
            [sound.clone(), sound].concat().into(),
        ] {
            assert_eq!(plain(bad).unwrap_err().reason(), ErrorReason::CorruptBatch);
        }
    }

    #[test]
    fn a_largest_time_that_is_not_the_records_is_refused() {
        for codec in [Codec::None, Codec::Gzip] {
            let mut builder = BatchBuilder::new(codec);
            for time in [1_000, 3_000, 2_000] {
                builder.append(time, None, Some(b"value"), &[]).unwrap();
            }
            let right = builder.build().unwrap();
            assert!(plain(right.clone()).is_ok());
            for wrong in [i64::MAX, 3_001, 2_999, 0, -1, i64::MIN] {
                let refused = plain(with_max_timestamp(&right, wrong)).unwrap_err();
                assert_eq!(refused.reason(), ErrorReason::CorruptBatch);
                let text = refused.to_message().message;
                assert!(
                    text.contains(&format!("max timestamp {wrong} where the records say 3000")),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_oldest_time_is_that_of_any_record_with_one() {
        for (times, oldest) in [(&[3_000, -1, 500, 2_000][..], 500), (&[-1, -1], -1), (&[-1, 7], 7)] {
            let mut builder = BatchBuilder::new(Codec::None);
            for time in times {
                builder.append(*time, None, Some(b"value"), &[]).unwrap();
            }
            let batch = builder.build().unwrap();
            for compression in ["producer", "gzip"] {
                let looked = look(batch.clone(), &config(compression), &INGEST_LIMITS).unwrap();
                assert_eq!(looked.checked().oldest_timestamp(), oldest, "{compression}");
            }
        }
    }

    #[test]
    fn the_first_record_without_a_key_is_known_whatever_the_codec() {
        for (keys, keyless) in [
            (&[Some("a"), Some("")][..], None),
            (&[Some("a"), None, None], Some(1)),
            (&[None], Some(0)),
        ] {
            let mut builder = BatchBuilder::new(Codec::Gzip);
            for key in keys {
                builder.append(1, key.map(str::as_bytes), Some(b"value"), &[]).unwrap();
            }
            let batch = builder.build().unwrap();
            for compression in ["producer", "zstd"] {
                let looked = look(batch.clone(), &config(compression), &INGEST_LIMITS).unwrap();
                assert_eq!(looked.keyless(), keyless, "{compression}");
            }
        }
    }

    fn with_max_timestamp(batch: &Bytes, max_timestamp: i64) -> Bytes {
        let header = *BatchView::parse(batch).unwrap().header();
        let changed = BatchHeader {
            max_timestamp,
            ..header
        };
        sealed(changed, &batch[HEADER_LEN..])
    }

    /// A batch of these records, whatever they are, with the right length and checksum.
    fn sealed(mut header: BatchHeader, records: &[u8]) -> Bytes {
        header.batch_length = i32::try_from(HEADER_LEN - 12 + records.len()).unwrap();
        let mut batch = [&header.encode(), records].concat();
        // From the attributes on.
        header.crc = crc32c(&batch[21..]);
        batch[..HEADER_LEN].copy_from_slice(&header.encode());
        batch.into()
    }

    #[test]
    fn times_too_far_apart_are_the_senders_fault() {
        let mut builder = BatchBuilder::new(Codec::None);
        for time in [0, -1, i64::MAX] {
            builder.append(time, None, None, &[]).unwrap();
        }
        let batch = builder.build().unwrap();
        let records = &batch[HEADER_LEN..];
        // Without the first one, from which the times count: no batch counts from the second one to the last.
        let others = &records[1 + usize::from(records[0] / 2)..];
        let header = BatchHeader {
            record_count: 2,
            ..*BatchView::parse(&batch).unwrap().header()
        };
        let batch = sealed(header, others);
        assert!(plain(batch.clone()).is_ok());
        let Err(refused) = look(batch, &config("gzip"), &INGEST_LIMITS) else {
            panic!("taken");
        };
        assert_eq!(ApiError::from(refused).reason(), ErrorReason::CorruptBatch);
    }

    #[tokio::test]
    async fn only_what_may_take_long_takes_a_turn() {
        let as_sent = Arc::new(config("producer"));
        let gzip = Arc::new(config("gzip"));
        let none_at_all = Turns::new(0);
        for (bytes, config) in [
            (zeros(Codec::None, 1 << 20), &as_sent),
            (zeros(Codec::None, 10_000), &gzip),
            (zeros(Codec::Zstd, 100_000), &as_sent),
            (Bytes::from_static(b"abc"), &as_sent),
        ] {
            let looked = SoundBatch::check(bytes, config, &none_at_all).now_or_never();
            assert!(looked.is_some(), "work of a moment waits");
        }
        let turns = Turns::new(1);
        for (bytes, config) in [
            (zeros(Codec::None, 4 << 20), &as_sent),
            (zeros(Codec::None, 1 << 20), &gzip),
            // A few bytes that make more than they should.
            (zeros(Codec::Gzip, 1 << 20), &as_sent),
            (zeros(Codec::Zstd, 200_000), &as_sent),
        ] {
            let looked = SoundBatch::check(bytes.clone(), config, &none_at_all).now_or_never();
            assert!(looked.is_none(), "long work does not wait");
            SoundBatch::check(bytes, config, &turns).await.unwrap();
        }
    }

    #[test]
    fn what_is_encoded_anew_keeps_to_the_topics_size() {
        let small = TopicConfig {
            max_message_bytes: 1_000,
            ..config("uncompressed")
        };
        let Err(refused) = look(zeros(Codec::Gzip, 10_000), &small, &INGEST_LIMITS) else {
            panic!("taken");
        };
        assert_eq!(ApiError::from(refused).reason(), ErrorReason::MessageTooLarge);
    }
}
