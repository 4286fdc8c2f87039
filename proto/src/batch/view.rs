//! Batches over borrowed bytes.

use super::crc::crc32c;
use super::{BatchError, BatchHeader, DecodeLimits, HEADER_LEN, Records, field};

/// A whole batch over borrowed bytes. Copies nothing.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the front of `bytes`; what follows it is not looked at. The checksum is not
    /// verified.
    ///
    /// # Errors
    /// [`BatchError::Incomplete`] if `bytes` ends before the batch does, else the header's rule
    /// that is broken.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let header = BatchHeader::decode(bytes)?;
        match bytes.get(..header.size_in_bytes()) {
            Some(bytes) => Ok(BatchView { header, bytes }),
            None => Err(BatchError::Incomplete {
                needed: header.size_in_bytes(),
                available: bytes.len(),
            }),
        }
    }

    /// The decoded header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Exactly this batch.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records as they are stored: compressed, if the batch is.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }

    /// Compares the checksum with the bytes.
    ///
    /// # Errors
    /// [`BatchError::Crc`] if they differ.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let computed = crc32c(&self.bytes[field::ATTRIBUTES..]);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::Crc {
                stored: self.header.crc,
                computed,
            })
        }
    }

    /// The records, decompressed under `limits`. Reads uncompressed ones in place. Does not verify
    /// the checksum.
    ///
    /// # Errors
    /// If there are too many records or they can't be decompressed. Damage within them shows in the
    /// iteration.
    pub fn records(&self, limits: &DecodeLimits) -> Result<Records<'a>, BatchError> {
        Records::decode(&self.header, self.payload(), limits)
    }
}

/// The batches that lie back to back in a buffer. Ends after the first error: where a batch is
/// wrong, no one knows where the next begins.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    position: usize,
}

/// Iterates over the batches in `bytes`. A cut last batch gives [`BatchError::Incomplete`].
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches {
        rest: bytes,
        position: 0,
    }
}

impl Batches<'_> {
    /// Bytes of the whole batches given out so far: where the next batch, or the one in error,
    /// begins.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchView::parse(self.rest);
        match &batch {
            Ok(batch) => {
                self.rest = &self.rest[batch.bytes.len()..];
                self.position += batch.bytes.len();
            }
            Err(_) => self.rest = &[],
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for Batches<'_> {}
