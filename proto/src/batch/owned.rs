//! Batches and records that own their bytes by reference count: for consumers, which hand records
//! on.

use bytes::Bytes;

use super::record::Cursor;
use super::{BatchError, BatchHeader, BatchView, DecodeLimits, HEADER_LEN, Record, compress};

/// A whole batch over shared bytes.
#[derive(Clone, Debug)]
pub struct OwnedBatch {
    header: BatchHeader,
    bytes: Bytes,
}

/// One record over shared bytes. Keys and values of an uncompressed batch are slices of the batch
/// and keep it in memory; copy what is kept for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its offset in the partition.
    pub offset: i64,
    /// Its time in milliseconds; -1 if the producer gave none.
    pub timestamp: i64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Its headers, in the producer's order.
    pub headers: Vec<OwnedHeader>,
}

/// One header of an [`OwnedRecord`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedHeader {
    /// The name. UTF-8 by Kafka's rule, but not every client keeps it.
    pub key: Bytes,
    /// The value, if it has one.
    pub value: Option<Bytes>,
}

impl OwnedBatch {
    /// The batch at the front of `bytes`; what follows it is not looked at. The checksum is not
    /// verified.
    ///
    /// # Errors
    /// As [`BatchView::parse`].
    pub fn parse(bytes: &Bytes) -> Result<OwnedBatch, BatchError> {
        let view = BatchView::parse(bytes)?;
        Ok(OwnedBatch {
            header: *view.header(),
            bytes: bytes.slice(..view.bytes().len()),
        })
    }

    /// The decoded header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Exactly this batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Exactly this batch, by value.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Compares the checksum with the bytes.
    ///
    /// # Errors
    /// [`BatchError::Crc`] if they differ.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        BatchView::parse(&self.bytes)?.verify_crc()
    }

    /// The records, decompressed under `limits`. Does not verify the checksum.
    ///
    /// # Errors
    /// As [`BatchView::records`].
    pub fn records(&self, limits: &DecodeLimits) -> Result<OwnedRecords, BatchError> {
        let cursor = Cursor::new(&self.header, limits)?;
        let payload = self.bytes.slice(HEADER_LEN..);
        let bytes = match compress::decompress(self.header.codec(), &payload, limits.max_decompressed_bytes)? {
            Some(bytes) => Bytes::from(bytes),
            None => payload,
        };
        Ok(OwnedRecords { bytes, cursor })
    }
}

/// Iterator over a batch's records. Ends after the first error.
#[derive(Clone, Debug)]
pub struct OwnedRecords {
    bytes: Bytes,
    cursor: Cursor,
}

impl OwnedRecords {
    /// How many bytes the records take, decompressed; those already given out included.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The next record as [`Iterator::next`] has it, borrowed: without a reference count for each key and value.
    #[inline]
    pub fn next_borrowed(&mut self) -> Option<Result<Record<'_>, BatchError>> {
        self.cursor.next(&self.bytes)
    }
}

impl Iterator for OwnedRecords {
    type Item = Result<OwnedRecord, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let record = self.cursor.next(&self.bytes)?;
        Some(record.map(|record| share(&self.bytes, &record)))
    }
}

impl std::iter::FusedIterator for OwnedRecords {}

fn share(bytes: &Bytes, record: &Record<'_>) -> OwnedRecord {
    let slice = |part: &[u8]| bytes.slice_ref(part);
    OwnedRecord {
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(slice),
        value: record.value.map(slice),
        // The headers were all read once, so their number is real and within the limit.
        headers: record
            .headers
            .map(|header| OwnedHeader {
                key: slice(header.key),
                value: header.value.map(slice),
            })
            .collect(),
    }
}

/// The batches that lie back to back in shared bytes. Ends after the first error.
#[derive(Clone, Debug)]
pub struct OwnedBatches {
    rest: Bytes,
}

/// Iterates over the batches in `bytes`. A cut last batch gives [`BatchError::Incomplete`].
pub fn owned_batches(bytes: Bytes) -> OwnedBatches {
    OwnedBatches { rest: bytes }
}

impl Iterator for OwnedBatches {
    type Item = Result<OwnedBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = OwnedBatch::parse(&self.rest);
        self.rest = match &batch {
            Ok(batch) => self.rest.slice(batch.bytes.len()..),
            Err(_) => Bytes::new(),
        };
        Some(batch)
    }
}

impl std::iter::FusedIterator for OwnedBatches {}
