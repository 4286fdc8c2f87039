//! Reading batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use millrace_proto::batch::{BatchHeader, BatchView};

use super::{Log, LogInner};
use crate::error::ReadError;
use crate::segment::{LocateError, Segment};

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
        for attempt in 0..=LOCK_FREE_ATTEMPTS {
            // The last attempt excludes truncations, so that a busy one can't starve a reader.
            let guard = (attempt == LOCK_FREE_ATTEMPTS).then(|| inner.writer.lock());
            let before = inner.truncations.load(Ordering::SeqCst);
            if before % 2 == 1 && guard.is_none() {
                std::thread::yield_now();
                continue;
            }
            let result = inner.read_once(offset, max_bytes, min_one_batch, up_to);
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
    fn read_once(&self, offset: i64, max_bytes: usize, min_one_batch: bool, up_to: i64) -> Result<ReadData, ReadError> {
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
            log_start,
            log_end,
        };
        let mut bound = up_to.min(log_end);
        if offset >= bound {
            return Ok(empty);
        }
        if self.has_damage.load(Ordering::Acquire) {
            let damage = self.damage.read();
            if let Some(range) = damage.iter().find(|range| range.from <= offset && offset < range.to) {
                return Err(ReadError::Corrupt {
                    from: range.from,
                    to: range.to,
                    reason: range.reason.clone(),
                });
            }
            bound = damage
                .iter()
                .filter(|range| range.from > offset)
                .map(|range| range.from)
                .fold(bound, i64::min);
        }
        // The segment that holds the offset, or the first later one if compaction left a gap.
        let first = segments
            .partition_point(|segment| segment.base_offset <= offset)
            .saturating_sub(1);
        for segment in &segments[first..] {
            if segment.base_offset >= bound {
                break;
            }
            let resume = self.resume_points(segment.base_offset);
            let located = match segment.locate(offset, &resume) {
                Ok(located) => located,
                Err(LocateError::Io(error)) => return Err(error.into()),
                Err(LocateError::Bad {
                    next_offset, reason, ..
                }) => {
                    return Err(ReadError::Corrupt {
                        from: next_offset,
                        to: offset + 1,
                        reason: reason.to_string(),
                    });
                }
            };
            let Some(located) = located else { continue };
            let request = Request {
                offset,
                max_bytes,
                min_one_batch,
                bound,
            };
            return self.read_segment(segment, located.position, &located.header, &request, empty);
        }
        Ok(empty)
    }

    fn read_segment(
        &self,
        segment: &Arc<Segment>,
        position: u64,
        first: &BatchHeader,
        request: &Request,
        empty: ReadData,
    ) -> Result<ReadData, ReadError> {
        if first.last_offset() >= request.bound {
            return Ok(empty);
        }
        let first_size = first.size_in_bytes();
        let mut wanted = request.max_bytes;
        if first_size > wanted {
            if !request.min_one_batch {
                return Ok(ReadData {
                    first_batch_too_large: Some(first_size),
                    ..empty
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
        empty: ReadData,
    ) -> Result<ReadData, ReadError> {
        let verify = self.config().verify_crc_on_read;
        let mut len = 0;
        let mut base_offset = request.offset;
        let mut next_offset = request.offset;
        while len < bytes.len() {
            let view = match BatchView::parse(&bytes[len..]) {
                Ok(view) => view,
                // The buffer ends within the batch.
                Err(error) if error.is_incomplete() => break,
                Err(error) => {
                    return self.damaged(segment, position, len, next_offset, &error.to_string(), empty, &bytes);
                }
            };
            let header = view.header();
            if header.last_offset() >= request.bound {
                break;
            }
            let follows = if len == 0 {
                header.last_offset() >= request.offset
            } else {
                header.base_offset >= next_offset
            };
            if !follows {
                let reason = format!("base offset {} after {next_offset}", header.base_offset);
                return self.damaged(segment, position, len, next_offset, &reason, empty, &bytes);
            }
            if verify && let Err(error) = view.verify_crc() {
                return self.damaged(
                    segment,
                    position,
                    len,
                    header.base_offset,
                    &error.to_string(),
                    empty,
                    &bytes,
                );
            }
            if len == 0 {
                base_offset = header.base_offset;
            }
            next_offset = header.next_offset();
            len += header.size_in_bytes();
        }
        if len == 0 {
            return Ok(empty);
        }
        segment.add_hint(next_offset, position + len as u64);
        Ok(ReadData {
            bytes: bytes.slice(..len),
            base_offset,
            next_offset,
            ..empty
        })
    }

    /// Damage met by a read: the sound batches before it are returned, or, at its very beginning, the error. Not
    /// remembered here, as a read may have raced with a truncation: each read that comes by meets it again, and it is
    /// in [`Log::damage`] only after a recovery that walks there or a [`Log::scrub`], which is for the caller to ask for.
    #[allow(clippy::too_many_arguments)]
    fn damaged(
        &self,
        segment: &Segment,
        position: u64,
        len: usize,
        at: i64,
        reason: &str,
        empty: ReadData,
        bytes: &Bytes,
    ) -> Result<ReadData, ReadError> {
        if len > 0
            && let Ok(view) = BatchView::parse(bytes)
        {
            return Ok(ReadData {
                bytes: bytes.slice(..len),
                base_offset: view.header().base_offset,
                next_offset: at,
                ..empty
            });
        }
        let reason = format!("segment {} at byte {position}: {reason}", segment.base_offset);
        Err(ReadError::Corrupt {
            from: at,
            to: at + 1,
            reason,
        })
    }
}

struct Request {
    offset: i64,
    max_bytes: usize,
    min_one_batch: bool,
    bound: i64,
}
