//! Records and their headers, read in place.
//!
//! ```text
//! record  length varint | attributes i8 | timestamp delta varlong | offset delta varint
//!         | key length varint, key | value length varint, value | header count varint, headers
//! header  key length varint, key | value length varint, value
//! ```
//!
//! A length of -1 is null, where null is allowed: keys, values and header values. The attributes
//! are unused.

use std::borrow::Cow;

use super::varint::{self, VarintFault};
use super::{BatchError, BatchHeader, DecodeLimits, TimestampType, compress};

/// The least bytes of a header: two lengths.
const MIN_HEADER_LEN: usize = 2;

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// Its time in milliseconds, of the batch's [`TimestampType`]; -1 if the producer gave none.
    pub timestamp: i64,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Its headers, in the producer's order.
    pub headers: Headers<'a>,
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name. UTF-8 by Kafka's rule, but not every client keeps it.
    pub key: &'a [u8],
    /// The value, if it has one.
    pub value: Option<&'a [u8]>,
}

/// A record's headers: an iterator that reads them in place. They were checked when the record was
/// read.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader {
            bytes: self.bytes,
            position: 0,
            index: 0,
        };
        let header = reader.header().ok()?;
        self.bytes = &self.bytes[reader.position..];
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// A batch's records, decompressed where they were compressed. Iterate over a reference: the
/// records borrow from it.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: Cow<'a, [u8]>,
    cursor: Cursor,
}

impl<'a> Records<'a> {
    pub(crate) fn decode(
        header: &BatchHeader,
        payload: &'a [u8],
        limits: &DecodeLimits,
    ) -> Result<Records<'a>, BatchError> {
        let cursor = Cursor::new(header, limits)?;
        let bytes = match compress::decompress(header.codec(), payload, limits.max_decompressed_bytes)? {
            Some(bytes) => Cow::Owned(bytes),
            None => Cow::Borrowed(payload),
        };
        Ok(Records { bytes, cursor })
    }

    /// From the first record. Ends after the first error.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            bytes: &self.bytes,
            cursor: self.cursor,
        }
    }

    /// The encoded records, decompressed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'s> IntoIterator for &'s Records<'_> {
    type Item = Result<Record<'s>, BatchError>;
    type IntoIter = RecordIter<'s>;

    fn into_iter(self) -> RecordIter<'s> {
        self.iter()
    }
}

/// Iterator over a batch's records; see [`Records::iter`].
#[derive(Clone, Debug)]
pub struct RecordIter<'s> {
    bytes: &'s [u8],
    cursor: Cursor,
}

impl<'s> Iterator for RecordIter<'s> {
    type Item = Result<Record<'s>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.bytes)
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

/// Where in a batch's records a reader stands, apart from the bytes, so that borrowed and owned
/// bytes share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    base_offset: i64,
    base_timestamp: i64,
    log_append_time: Option<i64>,
    last_offset_delta: i32,
    count: i32,
    max_headers: usize,
    position: usize,
    index: i32,
    /// The least offset delta the next record may have.
    next_delta: i64,
    ended: bool,
}

impl Cursor {
    pub(crate) fn new(header: &BatchHeader, limits: &DecodeLimits) -> Result<Self, BatchError> {
        if header.record_count as usize > limits.max_records {
            return Err(BatchError::TooManyRecords {
                record_count: header.record_count,
                limit: limits.max_records,
            });
        }
        let log_append_time = (header.timestamp_type() == TimestampType::LogAppendTime).then_some(header.max_timestamp);
        Ok(Self {
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            log_append_time,
            last_offset_delta: header.last_offset_delta,
            count: header.record_count,
            max_headers: limits.max_headers_per_record,
            position: 0,
            index: 0,
            next_delta: 0,
            ended: false,
        })
    }

    /// The next record in `bytes`, which must be the same at each call.
    #[inline]
    pub(crate) fn next<'s>(&mut self, bytes: &'s [u8]) -> Option<Result<Record<'s>, BatchError>> {
        if self.ended {
            return None;
        }
        if self.index == self.count {
            self.ended = true;
            let count = bytes.len() - self.position;
            return (count > 0).then_some(Err(BatchError::LeftOver {
                index: self.index - 1,
                position: self.position,
                count,
            }));
        }
        let record = self.read(bytes);
        self.ended = record.is_err();
        self.index += 1;
        Some(record)
    }

    #[inline]
    fn read<'s>(&mut self, bytes: &'s [u8]) -> Result<Record<'s>, BatchError> {
        let mut reader = Reader {
            bytes,
            position: self.position,
            index: self.index,
        };
        let length = reader.length("record length", false)?.unwrap_or(0);
        let start = reader.position;
        let end = start + reader.room(length, "record")?;
        reader.bytes = &bytes[..end];
        reader.skip(1, "attributes")?;

        let at = reader.position;
        let timestamp_delta = reader.i64("timestamp delta")?;
        let timestamp = match (self.log_append_time, self.base_timestamp.checked_add(timestamp_delta)) {
            (Some(time), _) => time,
            (None, Some(time)) => time,
            (None, None) => return Err(reader.invalid(at, "timestamp delta", timestamp_delta)),
        };
        let at = reader.position;
        let offset_delta = reader.i32("offset delta")?;
        if i64::from(offset_delta) < self.next_delta || offset_delta > self.last_offset_delta {
            return Err(reader.invalid(at, "offset delta", i64::from(offset_delta)));
        }
        let key = reader.bytes("key length", "key")?;
        let value = reader.bytes("value length", "value")?;
        let headers = reader.headers(self.max_headers)?;
        if reader.position != end {
            return Err(BatchError::LeftOver {
                index: self.index,
                position: reader.position,
                count: end - reader.position,
            });
        }
        self.next_delta = i64::from(offset_delta) + 1;
        self.position = end;
        Ok(Record {
            offset: self.base_offset + i64::from(offset_delta),
            timestamp,
            key,
            value,
            headers,
        })
    }
}

struct Reader<'s> {
    bytes: &'s [u8],
    position: usize,
    index: i32,
}

impl<'s> Reader<'s> {
    #[inline]
    fn i32(&mut self, field: &'static str) -> Result<i32, BatchError> {
        varint::read_i32(self.bytes, &mut self.position).map_err(|fault| self.varint(field, fault))
    }

    #[inline]
    fn i64(&mut self, field: &'static str) -> Result<i64, BatchError> {
        varint::read_i64(self.bytes, &mut self.position).map_err(|fault| self.varint(field, fault))
    }

    /// A length of zero or more, or null.
    #[inline]
    fn length(&mut self, field: &'static str, nullable: bool) -> Result<Option<usize>, BatchError> {
        let at = self.position;
        match self.i32(field)? {
            length @ 0.. => Ok(Some(length as usize)),
            -1 if nullable => Ok(None),
            length => Err(self.invalid(at, field, i64::from(length))),
        }
    }

    /// `length`, if that many bytes are left.
    #[inline]
    fn room(&self, length: usize, field: &'static str) -> Result<usize, BatchError> {
        if length <= self.bytes.len() - self.position {
            Ok(length)
        } else {
            Err(self.cut(field))
        }
    }

    #[inline]
    fn skip(&mut self, length: usize, field: &'static str) -> Result<&'s [u8], BatchError> {
        let start = self.position;
        self.position += self.room(length, field)?;
        Ok(&self.bytes[start..self.position])
    }

    #[inline]
    fn bytes(&mut self, length_field: &'static str, field: &'static str) -> Result<Option<&'s [u8]>, BatchError> {
        match self.length(length_field, true)? {
            Some(length) => self.skip(length, field).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn headers(&mut self, limit: usize) -> Result<Headers<'s>, BatchError> {
        let at = self.position;
        let count = self.length("header count", false)?.unwrap_or(0);
        let start = self.position;
        if count > 0 {
            if count > limit {
                return Err(BatchError::TooManyHeaders {
                    index: self.index,
                    position: at,
                    headers: count as i32,
                    limit,
                });
            }
            self.room(count.saturating_mul(MIN_HEADER_LEN), "headers")?;
            for _ in 0..count {
                self.header()?;
            }
        }
        Ok(Headers {
            bytes: &self.bytes[start..self.position],
            left: count,
        })
    }

    fn header(&mut self) -> Result<Header<'s>, BatchError> {
        let length = self.length("header key length", false)?.unwrap_or(0);
        let key = self.skip(length, "header key")?;
        let value = self.bytes("header value length", "header value")?;
        Ok(Header { key, value })
    }

    #[cold]
    fn varint(&self, field: &'static str, fault: VarintFault) -> BatchError {
        match fault {
            VarintFault::Cut => self.cut(field),
            VarintFault::TooLong => BatchError::Varint {
                index: self.index,
                position: self.position,
                field,
            },
        }
    }

    #[cold]
    fn cut(&self, field: &'static str) -> BatchError {
        BatchError::RecordCut {
            index: self.index,
            position: self.position,
            field,
        }
    }

    #[cold]
    fn invalid(&self, position: usize, field: &'static str, value: i64) -> BatchError {
        BatchError::RecordField {
            index: self.index,
            position,
            field,
            value,
        }
    }
}
