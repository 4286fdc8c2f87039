//! A batch whose checksum was compared with its bytes, so that nobody needs to do it again.

use bytes::Bytes;
use millrace_proto::batch::{BatchBuilder, BatchError, BatchHeader, BatchView, BuildError, DecodeLimits, Records};

use crate::error::AppendError;

/// Exactly one whole record batch that is sound: its header is possible and its CRC is right. The type is the proof;
/// it can only be had by checking bytes or by building them here.
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    header: BatchHeader,
    bytes: Bytes,
    oldest_timestamp: i64,
}

impl CheckedBatch {
    /// Checks bytes that somebody sent.
    ///
    /// # Errors
    /// [`AppendError::Corrupt`] if they are no whole batch or the checksum differs, [`AppendError::Invalid`] if
    /// something follows the batch.
    pub fn check(bytes: Bytes) -> Result<Self, AppendError> {
        let view = BatchView::parse(&bytes)?;
        let header = *view.header();
        if header.size_in_bytes() != bytes.len() {
            return Err(AppendError::Invalid(format!(
                "{} bytes follow the batch; exactly one batch is appended at a time",
                bytes.len() - header.size_in_bytes()
            )));
        }
        view.verify_crc()?;
        Ok(Self::new(header, bytes))
    }

    /// Takes what a builder makes, which has just computed the checksum over its own bytes.
    ///
    /// # Errors
    /// The builder's.
    pub fn build(builder: &mut BatchBuilder) -> Result<Self, BuildError> {
        let bytes = builder.build()?;
        let header = *BatchView::parse(&bytes)?.header();
        Ok(Self::new(header, bytes))
    }

    fn new(header: BatchHeader, bytes: Bytes) -> Self {
        CheckedBatch {
            header,
            bytes,
            oldest_timestamp: header.base_timestamp,
        }
    }

    /// Says which is the oldest of the records' times, in milliseconds since 1970: only who looks into the records
    /// knows. Until then it is the batch's base time, which is the first record's.
    pub fn set_oldest_timestamp(&mut self, oldest: i64) {
        self.oldest_timestamp = oldest;
    }

    /// The oldest of the records' times, as far as it is known.
    #[must_use]
    pub fn oldest_timestamp(&self) -> i64 {
        self.oldest_timestamp
    }

    /// The decoded header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, decompressed under `limits`.
    ///
    /// # Errors
    /// If there are too many records or they can't be decompressed: a right checksum says only that the sender wrote
    /// what arrived.
    pub fn records(&self, limits: &DecodeLimits) -> Result<Records<'_>, BatchError> {
        BatchView::parse(&self.bytes)?.records(limits)
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::batch::Codec;

    use super::*;

    fn builder() -> BatchBuilder {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1000, None, Some(b"value"), &[]).unwrap();
        builder
    }

    #[test]
    fn only_one_whole_sound_batch_passes() {
        let built = CheckedBatch::build(&mut builder()).unwrap();
        let good = built.bytes().clone();
        let checked = CheckedBatch::check(good.clone()).unwrap();
        assert_eq!((checked.header(), checked.bytes()), (built.header(), &good));
        assert_eq!(checked.records(&DecodeLimits::default()).unwrap().iter().count(), 1);
        let mut twice = good.to_vec();
        twice.extend_from_slice(&good);
        assert!(matches!(
            CheckedBatch::check(twice.into()),
            Err(AppendError::Invalid(_))
        ));
        for at in 0..good.len() {
            assert!(matches!(
                CheckedBatch::check(good.slice(..at)),
                Err(AppendError::Corrupt(_))
            ));
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            // Base offset and leader epoch lie outside of the checksum: the leader sets them.
            let covered = !(at < 8 || (12..16).contains(&at));
            assert_eq!(CheckedBatch::check(bad.into()).is_err(), covered, "byte {at}");
        }
    }
}
