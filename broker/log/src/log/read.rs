//! Reading batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use millrace_proto::batch::BatchView;

use super::damage::Found;
use super::{DamagedRange, Log, LogInner};
use crate::error::ReadError;
use crate::segment::{LocateError, Located, Segment};

/// Reads that were overtaken by a truncation are repeated so often without a lock, then once with it.
const LOCK_FREE_ATTEMPTS: usize = 8;

/// Whole batches as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadData {
    /// The batches. The first one may begin before the offset asked for.
    pub bytes: Bytes,
    /// Base offset of the first batch; the offset asked for if there is none.
    pub base_offset: i64,
    /// The offset after the last batch; the offset asked for if there is none.
    pub next_offset: i64,
    /// Whether nothing was returned because the first batch alone is larger than `max_bytes`; its size.
    pub first_batch_too_large: Option<usize>,
    /// Whether the batches' checksums were compared: as the log's configuration says.
    pub crc_verified: bool,
    /// The log start when the read was made.
    pub log_start: i64,
    /// The log end when the read was made.
    pub log_end: i64,
}

impl Log {
    /// Reads whole batches from the one that holds `offset` on, at most `max_bytes` of them, none that ends at or
    /// above `up_to` (the high watermark, the last stable offset or the log end). With `min_one_batch` the first
    /// batch is returned even if it is larger than `max_bytes`.
    ///
    /// Reading at the log end or at `up_to` returns no bytes; that is not an error.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, offset: i64, max_bytes: usize, min_one_batch: bool, up_to: i64) -> Result<ReadData, ReadError> {
        let inner = &*self.inner;
        let request = Request {
            offset,
            max_bytes,
            min_one_batch,
            bound: up_to,
        };
        for attempt in 0..=LOCK_FREE_ATTEMPTS {
            // The last attempt excludes truncations, so that a busy one can't starve a reader.
            let guard = (attempt == LOCK_FREE_ATTEMPTS).then(|| inner.writer.lock());
            let before = inner.truncations.load(Ordering::SeqCst);
            if before % 2 == 1 && guard.is_none() {
                std::thread::yield_now();
                continue;
            }
            let result = inner.read_once(request);
            if guard.is_some() || inner.truncations.load(Ordering::SeqCst) == before {
                if let Err(ReadError::Corrupt { .. }) = &result {
                    tracing::warn!(partition = %inner.name, offset, "read damaged records");
                }
                return result;
            }
        }
        // Not reached: the last attempt returns.
        Err(ReadError::Closed)
    }
}

impl LogInner {
    fn read_once(&self, request: Request) -> Result<ReadData, ReadError> {
        let offset = request.offset;
        self.check_read()?;
        let segments = self.segments();
        let (log_start, log_end) = (self.log_start(), self.log_end());
        if offset < log_start || offset > log_end {
            return Err(ReadError::OffsetOutOfRange {
                offset,
                log_start,
                log_end,
            });
        }
        let empty = ReadData {
            bytes: Bytes::new(),
            base_offset: offset,
            next_offset: offset,
            first_batch_too_large: None,
            crc_verified: self.config().verify_crc_on_read,
            log_start,
            log_end,
        };
        let bound = request.bound.min(log_end);
        if offset >= bound {
            return Ok(empty);
        }
        if self.has_damage.load(Ordering::Acquire) {
            let damage = self.damage.read().clone();
            if let Some(range) = damage.iter().find(|range| range.from <= offset && offset < range.to) {
                return Err(known(range));
            }
            let ahead = damage.iter().filter(|range| offset < range.from && range.from < bound);
            if let Some(next) = ahead.min_by_key(|range| range.from) {
                let data = self.read_below(&segments, next.from, request, &empty)?;
                // Only a gap lies before the damage: without being told, a reader would wait for it to go.
                let nothing = data.bytes.is_empty() && data.first_batch_too_large.is_none();
                return if nothing { Err(known(next)) } else { Ok(data) };
            }
        }
        self.read_below(&segments, bound, request, &empty)
    }

    fn read_below(
        &self,
        segments: &[Arc<Segment>],
        bound: i64,
        request: Request,
        empty: &ReadData,
    ) -> Result<ReadData, ReadError> {
        let request = Request { bound, ..request };
        let offset = request.offset;
        // The segment that holds the offset, or the first later one if compaction left a gap.
        let first = segments
            .partition_point(|segment| segment.base_offset <= offset)
            .saturating_sub(1);
        for segment in &segments[first..] {
            if segment.base_offset >= bound {
                break;
            }
            if let Some(data) = self.read_from(segment, &request, empty)? {
                return Ok(data);
            }
        }
        Ok(empty.clone())
    }

    /// Reads from one segment; `None` if nothing in it is at or behind the offset.
    fn read_from(
        &self,
        segment: &Arc<Segment>,
        request: &Request,
        empty: &ReadData,
    ) -> Result<Option<ReadData>, ReadError> {
        let resume = self.resume_points(segment.base_offset);
        match segment.locate(request.offset, &resume) {
            Ok(Some(located)) if located.header.base_offset <= request.offset => {
                match self.read_segment(segment, &located, request, empty) {
                    Err(ReadError::Corrupt { .. }) => {}
                    other => return other.map(Some),
                }
            }
            Err(LocateError::Io(error)) => return Err(error.into()),
            // A gap, the segment's end or damage: a damaged header would make the reader pass over records in silence.
            Ok(_) | Err(LocateError::Bad { .. }) => {}
        }
        match self.find_checked(segment, request.offset)? {
            Found::Batch(located) => self.read_segment(segment, &located, request, empty).map(Some),
            Found::Nothing => Ok(None),
            Found::Damage(error) => Err(error),
        }
    }

    fn read_segment(
        &self,
        segment: &Arc<Segment>,
        located: &Located,
        request: &Request,
        empty: &ReadData,
    ) -> Result<ReadData, ReadError> {
        let Located { position, header } = *located;
        if header.base_offset >= request.bound {
            return Ok(empty.clone());
        }
        let first_size = header.size_in_bytes();
        let mut wanted = request.max_bytes;
        if first_size > wanted {
            if !request.min_one_batch {
                let waits = header.last_offset() >= request.bound;
                return Ok(ReadData {
                    first_batch_too_large: (!waits).then_some(first_size),
                    ..empty.clone()
                });
            }
            wanted = first_size;
        }
        let available = usize::try_from(segment.size().saturating_sub(position)).unwrap_or(usize::MAX);
        let len = wanted.min(available);
        let file = segment.file()?;
        let bytes = if segment.is_sealed() {
            file.map(position, len)?
        } else {
            file.read_at(position, len)?
        };
        self.trim(segment, position, bytes, request, empty)
    }

    /// Cuts a buffer to the whole batches below the bound.
    fn trim(
        &self,
        segment: &Segment,
        position: u64,
        bytes: Bytes,
        request: &Request,
        empty: &ReadData,
    ) -> Result<ReadData, ReadError> {
        let mut len = 0;
        let mut base_offset = request.offset;
        let mut next_offset = request.offset;
        while len < bytes.len() {
            let view = match BatchView::parse(&bytes[len..]) {
                Ok(view) => view,
                // The buffer ends within the batch.
                Err(error) if error.is_incomplete() => break,
                Err(_) if len > 0 => break,
                Err(error) => return Err(self.corrupt(segment, position, next_offset, &error)?),
            };
            let header = view.header();
            let is_above = header.last_offset() >= request.bound;
            if is_above && len > 0 {
                break;
            }
            let follows = if len == 0 {
                header.last_offset() >= request.offset
            } else {
                header.base_offset >= next_offset
            };
            // What is sound comes first; the next read meets the damage at its very beginning. It is not remembered, as
            // a read may have raced with a truncation: it is in [`Log::damage`] only after a recovery that walks there
            // or a [`Log::scrub`], which is for the caller to ask for.
            if !follows {
                if len > 0 {
                    break;
                }
                let reason = format!("base offset {} after {next_offset}", header.base_offset);
                return Err(self.corrupt(segment, position, next_offset, &reason)?);
            }
            if empty.crc_verified
                && let Err(error) = view.verify_crc()
            {
                if len > 0 {
                    break;
                }
                return Err(self.corrupt(segment, position, header.base_offset, &error)?);
            }
            // Looked at only now: a damaged header may claim records up to far above.
            if is_above {
                break;
            }
            if len == 0 {
                base_offset = header.base_offset;
            }
            next_offset = header.next_offset();
            len += header.size_in_bytes();
        }
        if len == 0 {
            return Ok(empty.clone());
        }
        segment.add_hint(next_offset, position + len as u64);
        Ok(ReadData {
            bytes: bytes.slice(..len),
            base_offset,
            next_offset,
            ..empty.clone()
        })
    }
}

#[derive(Clone, Copy)]
struct Request {
    offset: i64,
    max_bytes: usize,
    min_one_batch: bool,
    bound: i64,
}

pub(super) fn known(range: &DamagedRange) -> ReadError {
    ReadError::Corrupt {
        from: range.from,
        to: Some(range.to),
        reason: range.reason.clone(),
    }
}
