//! The time of a batch, as its header tells.

use std::sync::atomic::Ordering;

use millrace_proto::batch::{BatchHeader, TimestampType};

use super::damage::at_position;
use super::read::known;
use super::{Log, LogInner};
use crate::error::ReadError;
use crate::segment::Segment;
use crate::segment::scan::{Chain, Scan};

/// Bytes of headers and of what lies between them that one look reads at most behind the place that the index names: the
/// index leads to within its interval, which is 4 KiB by default. What is left to pass over then are batches without
/// records, of which compaction keeps one a producer.
const WALKED_BYTES: u64 = 256 << 10;

/// What a look at another segment counts beside what it reads there: a file is opened for it.
const SEGMENT_BYTES: u64 = 8 << 10;

/// What a walk over one segment came to.
enum Walked {
    /// The batch that was looked for, or that there is none within the bounds.
    Found(Option<BatchHeader>),
    /// Nothing in this segment; how many bytes were read.
    End(u64),
}

impl Log {
    /// The time of the batch that holds the record at `offset`, or of the first one behind it where compaction left a gap
    /// or retention has deleted it, in milliseconds since 1970: that of its first record, so that none in it waits for
    /// longer; of a batch that the broker gave its time (log append time), and of one whose first time compaction has
    /// replaced by a delete horizon, the largest. Batches without records and control batches are passed over.
    ///
    /// `None`: no such batch begins below `up_to`, its records have no time, or it lies farther behind what the offset
    /// index names than a look reads (256 KiB).
    ///
    /// Only the index and headers are read, never records; no checksum is looked at, so that a damaged header may tell a
    /// wrong time. An index that does not match its segment is made anew, which reads all headers of it once.
    ///
    /// # Errors
    /// See [`ReadError`]. The end of damage is not looked for.
    pub fn batch_time(&self, offset: i64, up_to: i64) -> Result<Option<i64>, ReadError> {
        self.stable(|inner| Ok(inner.batch_at(offset, up_to)?.and_then(|header| time_of(&header))))
    }
}

fn time_of(header: &BatchHeader) -> Option<i64> {
    let largest = header.timestamp_type() == TimestampType::LogAppendTime || header.delete_horizon_ms().is_some();
    let time_ms = if largest {
        header.max_timestamp
    } else {
        header.base_timestamp
    };
    (time_ms >= 0).then_some(time_ms)
}

impl LogInner {
    fn batch_at(&self, offset: i64, up_to: i64) -> Result<Option<BatchHeader>, ReadError> {
        let offset = offset.max(self.log_start());
        let bound = up_to.min(self.log_end());
        if offset >= bound {
            return Ok(None);
        }
        if self.has_damage.load(Ordering::Acquire) {
            let damage = self.damage.read();
            if let Some(range) = damage.iter().find(|range| range.from <= offset && offset < range.to) {
                return Err(known(range));
            }
        }
        let segments = self.segments();
        let first = segments.partition_point(|segment| segment.base_offset <= offset);
        let mut left = WALKED_BYTES;
        for segment in &segments[first.saturating_sub(1)..] {
            if segment.base_offset >= bound {
                break;
            }
            match self.batch_in(segment, offset, bound, left)? {
                Walked::Found(found) => return Ok(found),
                Walked::End(read) => left = left.saturating_sub(read + SEGMENT_BYTES),
            }
            if left == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// The first batch of a segment that has records, ends at `offset` or behind it, and begins below `bound`; at most
    /// about `left` bytes are read for it.
    fn batch_in(&self, segment: &Segment, offset: i64, bound: i64, left: u64) -> Result<Walked, ReadError> {
        let resume = self.resume_points(segment.base_offset);
        let (from_offset, from) = segment.start_of_walk(offset, &resume)?;
        let file = segment.file()?;
        let mut chain = Chain::at(from_offset);
        let mut scan = Scan::new(&*file, from, segment.size());
        loop {
            let header = match scan.next_header(segment.base_offset, &mut chain)? {
                Ok(Some((_, header))) => header,
                Ok(None) => return Ok(Walked::End(scan.bytes_read())),
                Err(reason) => {
                    return Err(ReadError::Corrupt {
                        from: chain.next_offset,
                        to: None,
                        reason: at_position(segment, scan.position(), &reason),
                    });
                }
            };
            if header.base_offset >= bound {
                return Ok(Walked::Found(None));
            }
            if header.last_offset() >= offset && header.record_count > 0 && !header.is_control() {
                return Ok(Walked::Found(Some(header)));
            }
            if scan.bytes_read() > left {
                return Ok(Walked::Found(None));
            }
        }
    }
}
