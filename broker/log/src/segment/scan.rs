//! Walking a segment's batches from front to back: by headers alone, or with every CRC.

use std::io;

use bytes::Bytes;
use millrace_proto::batch::{BatchError, BatchHeader, BatchView, HEADER_LEN};

use crate::fs::File;

/// Bytes read at once when only headers are wanted: neighbours of small batches come along.
const HEADER_CHUNK: usize = 8 << 10;
/// Bytes read at once when all bytes are wanted: a few of the usual largest batches, so that few are read twice because
/// they lie across the end of a chunk.
const DATA_CHUNK: usize = 4 << 20;

/// What the next batch must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The next batch's base offset is this or, behind a gap, more.
    pub next_offset: i64,
    /// The next batch's leader epoch is this or more.
    pub epoch: i32,
    /// Where batches may leave a gap before them.
    pub gaps: Gaps,
    /// No batch has a later leader epoch. `i32::MAX`: not known.
    pub latest_epoch: i32,
}

/// Where batches may leave a gap before them.
///
/// ```text
///                flushed                     below
///   -----------------|-------------------------|-----------
///     gaps, none     |  gaps                   |  no gaps
///     across the end |                         |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Those that end at or below this offset, at which some batch ends. `i64::MAX`: all. `i64::MIN`: not known.
    pub flushed: i64,
    /// Those that begin behind the former and end at or below this offset.
    pub below: i64,
}

impl Gaps {
    /// They may be anywhere.
    pub const ANYWHERE: Gaps = Gaps {
        flushed: i64::MAX,
        below: i64::MAX,
    };

    /// Whether there may be a gap between a batch that ends at `from` and one that ends at `end`.
    fn permit(&self, from: i64, end: i64) -> bool {
        end <= self.flushed || (from >= self.flushed && end <= self.below)
    }
}

impl Chain {
    /// A chain of which only the offset is known.
    #[must_use]
    pub fn at(next_offset: i64) -> Self {
        Chain {
            next_offset,
            epoch: -1,
            gaps: Gaps::ANYWHERE,
            latest_epoch: i32::MAX,
        }
    }

    /// Checks that a batch follows, and moves on behind it.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn follow(&mut self, header: &BatchHeader) -> Result<(), BadBatch> {
        if header.base_offset < self.next_offset {
            return Err(BadBatch::Offset {
                expected: self.next_offset,
                found: header.base_offset,
            });
        }
        if header.base_offset > self.next_offset && !self.gaps.permit(self.next_offset, header.next_offset()) {
            return Err(BadBatch::Gap {
                expected: self.next_offset,
                found: header.base_offset,
            });
        }
        if header.partition_leader_epoch > self.latest_epoch {
            return Err(BadBatch::FutureEpoch {
                latest: self.latest_epoch,
                found: header.partition_leader_epoch,
            });
        }
        if header.partition_leader_epoch < self.epoch {
            return Err(BadBatch::Epoch {
                previous: self.epoch,
                found: header.partition_leader_epoch,
            });
        }
        self.next_offset = header.next_offset();
        self.epoch = header.partition_leader_epoch;
        Ok(())
    }
}

/// Why the bytes at a position are not the next batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// No whole, valid batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Offsets go back.
    #[error("base offset {found} where {expected} or more must follow")]
    Offset {
        /// The least possible offset.
        expected: i64,
        /// The batch's base offset.
        found: i64,
    },
    /// Offsets leave a gap where there is none.
    #[error("base offset {found} where {expected} must follow")]
    Gap {
        /// The only possible offset.
        expected: i64,
        /// The batch's base offset.
        found: i64,
    },
    /// A leader epoch that there has not been yet.
    #[error("leader epoch {found}, and the latest is {latest}")]
    FutureEpoch {
        /// The latest epoch of the partition's metadata.
        latest: i32,
        /// The batch's epoch.
        found: i32,
    },
    /// Leader epochs go back: bytes of an older time.
    #[error("leader epoch {found} after {previous}")]
    Epoch {
        /// The epoch of the batch before.
        previous: i32,
        /// The batch's epoch.
        found: i32,
    },
    /// An offset that the segment's indexes can't express.
    #[error("offset {offset} is too far from the segment's base offset {base_offset}")]
    Range {
        /// The batch's last offset.
        offset: i64,
        /// The segment's base offset.
        base_offset: i64,
    },
    /// A whole part of the log is not there.
    #[error("records from {from} to {to} are missing")]
    Missing {
        /// First missing offset.
        from: i64,
        /// First offset that is there again.
        to: i64,
    },
}

/// A batch's position, header and bytes.
pub type ScannedBatch = (u64, BatchHeader, Bytes);

/// A walk over `[position, end)` of a file.
pub struct Scan<'a> {
    file: &'a dyn File,
    position: u64,
    end: u64,
    chunk: Bytes,
    chunk_position: u64,
    bytes_read: u64,
}

impl<'a> Scan<'a> {
    /// A walk that begins at `position`, which must be where a batch begins.
    #[must_use]
    pub fn new(file: &'a dyn File, position: u64, end: u64) -> Self {
        Scan {
            file,
            position,
            end,
            chunk: Bytes::new(),
            chunk_position: position,
            bytes_read: 0,
        }
    }

    /// Where the next batch begins, or the one in error.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that were read from the file so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// At least `len` bytes from the position on, fewer only at the end. Never allocates by what a length field
    /// claims: the file's end bounds it.
    fn fill(&mut self, len: usize, chunk: usize) -> io::Result<&[u8]> {
        let left = self.end.saturating_sub(self.position);
        let wanted = (len as u64).min(left);
        let have = (self.chunk_position + self.chunk.len() as u64).saturating_sub(self.position);
        if self.position < self.chunk_position || have < wanted {
            let read = usize::try_from((chunk as u64).max(wanted).min(left)).unwrap_or(usize::MAX);
            // The old buffer first, so that it is the one that is read into.
            self.chunk = Bytes::new();
            self.chunk = self.file.read_at(self.position, read)?;
            self.bytes_read += self.chunk.len() as u64;
            self.chunk_position = self.position;
        }
        let skip = usize::try_from(self.position - self.chunk_position).unwrap_or(usize::MAX);
        Ok(self.chunk.get(skip..).unwrap_or(&[]))
    }

    /// The next header, or `None` at the end. The chain is moved on.
    ///
    /// # Errors
    /// The outer error is the file system's, the inner one says why there is no next batch.
    pub fn next_header(
        &mut self,
        base_offset: i64,
        chain: &mut Chain,
    ) -> io::Result<Result<Option<(u64, BatchHeader)>, BadBatch>> {
        if self.position >= self.end {
            return Ok(Ok(None));
        }
        let left = self.end - self.position;
        let bytes = self.fill(HEADER_LEN, HEADER_CHUNK)?;
        let header = match BatchHeader::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.into())),
        };
        if header.size_in_bytes() as u64 > left {
            let needed = header.size_in_bytes();
            let available = usize::try_from(left).unwrap_or(usize::MAX);
            return Ok(Err(BatchError::Incomplete { needed, available }.into()));
        }
        Ok(self.accept(base_offset, chain, header).map(Some))
    }

    /// The next batch with its CRC checked, or `None` at the end.
    ///
    /// # Errors
    /// As [`Scan::next_header`].
    pub fn next_batch(
        &mut self,
        base_offset: i64,
        chain: &mut Chain,
    ) -> io::Result<Result<Option<ScannedBatch>, BadBatch>> {
        if self.position >= self.end {
            return Ok(Ok(None));
        }
        let header = match BatchHeader::decode(self.fill(HEADER_LEN, DATA_CHUNK)?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.into())),
        };
        let checked = match BatchView::parse(self.fill(header.size_in_bytes(), DATA_CHUNK)?) {
            Ok(view) => view.verify_crc(),
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            return Ok(Err(error.into()));
        }
        let skip = usize::try_from(self.position - self.chunk_position).unwrap_or(usize::MAX);
        let bytes = self.chunk.slice(skip..skip + header.size_in_bytes());
        Ok(self
            .accept(base_offset, chain, header)
            .map(|(position, header)| Some((position, header, bytes))))
    }

    fn accept(
        &mut self,
        base_offset: i64,
        chain: &mut Chain,
        header: BatchHeader,
    ) -> Result<(u64, BatchHeader), BadBatch> {
        if header.last_offset() - base_offset > i64::from(i32::MAX) {
            return Err(BadBatch::Range {
                offset: header.last_offset(),
                base_offset,
            });
        }
        chain.follow(&header)?;
        let position = self.position;
        self.position += header.size_in_bytes() as u64;
        Ok((position, header))
    }
}

/// Searches behind damage for the next place where a whole batch with a right CRC begins and whose offsets are not
/// below `min_offset`.
///
/// # Errors
/// The file system's.
pub fn resync(file: &dyn File, from: u64, end: u64, min_offset: i64) -> io::Result<Option<(u64, BatchHeader)>> {
    const MAGIC_AT: usize = 16;
    let mut window_start = from;
    while window_start + (HEADER_LEN as u64) <= end {
        let len = usize::try_from((end - window_start).min(DATA_CHUNK as u64)).unwrap_or(DATA_CHUNK);
        let window = file.read_at(window_start, len)?;
        if window.len() < HEADER_LEN {
            return Ok(None);
        }
        for at in 0..=window.len() - HEADER_LEN {
            // Cheap tests first: the magic, then the base offset.
            if window[at + MAGIC_AT] != 2 {
                continue;
            }
            let Ok(header) = BatchHeader::decode(&window[at..]) else {
                continue;
            };
            let position = window_start + at as u64;
            if header.base_offset < min_offset || header.size_in_bytes() as u64 > end - position {
                continue;
            }
            let batch = file.read_at(position, header.size_in_bytes())?;
            if BatchView::parse(&batch).is_ok_and(|view| view.verify_crc().is_ok()) {
                return Ok(Some((position, header)));
            }
        }
        window_start += (window.len() - HEADER_LEN + 1) as u64;
    }
    Ok(None)
}
