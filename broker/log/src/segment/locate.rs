//! From an offset to the batch that holds it.

use std::io;

use millrace_proto::batch::BatchHeader;

use super::Segment;
use super::scan::{BadBatch, Chain, Scan};

/// Where a batch is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub position: u64,
    pub header: BatchHeader,
}

/// Why an offset was not found where it must be.
#[derive(Debug)]
pub(crate) enum LocateError {
    Io(io::Error),
    Bad {
        position: u64,
        next_offset: i64,
        reason: BadBatch,
    },
}

impl From<io::Error> for LocateError {
    fn from(error: io::Error) -> Self {
        LocateError::Io(error)
    }
}

impl Segment {
    /// The first batch whose last offset is `offset` or more; `None` if there is none in this segment. `resume` are
    /// places behind damage where a walk can begin: (base offset, position).
    pub(crate) fn locate(&self, offset: i64, resume: &[(i64, u64)]) -> Result<Option<Located>, LocateError> {
        if let Some(position) = self.hint(offset)
            && let Some(found) = self.header_at(position)?
            && found.header.base_offset == offset
        {
            return Ok(Some(found));
        }
        let (from_offset, from) = self.start_of_walk(offset, resume)?;
        self.walk(offset, from_offset, from)
    }

    /// Offset and position of a batch that begins at or before `offset`, from which a walk comes to it.
    pub(crate) fn start_of_walk(&self, offset: i64, resume: &[(i64, u64)]) -> io::Result<(i64, u64)> {
        let (from_offset, from) = if offset <= self.base_offset {
            (self.base_offset, 0)
        } else {
            self.indexed_before(offset)?
        };
        Ok(resume
            .iter()
            .copied()
            .filter(|(base, position)| *base <= offset && *position > from)
            .max_by_key(|(_, position)| *position)
            .unwrap_or((from_offset, from)))
    }

    fn indexed_before(&self, offset: i64) -> io::Result<(i64, u64)> {
        let fs = &*self.fs;
        let below = |relative: u32| self.base_offset + i64::from(relative) <= offset;
        let entry =
            self.with_indexes(|indexes| indexes.offsets.last_where(fs, |entry| below(entry.relative_offset)))??;
        let Some(entry) = entry else {
            return Ok((self.base_offset, 0));
        };
        // An index is derived data: it counts only if the segment agrees.
        let last_offset = self.base_offset + i64::from(entry.relative_offset);
        match self.header_at(u64::from(entry.position))? {
            Some(found) if found.header.last_offset() == last_offset => Ok((found.header.base_offset, found.position)),
            _ => {
                self.repair_indexes()?;
                Ok((self.base_offset, 0))
            }
        }
    }

    fn walk(&self, offset: i64, from_offset: i64, from: u64) -> Result<Option<Located>, LocateError> {
        let file = self.file()?;
        let mut chain = Chain::at(from_offset);
        let mut scan = Scan::new(&*file, from, self.size());
        loop {
            match scan.next_header(self.base_offset, &mut chain)? {
                Ok(Some((position, header))) if header.last_offset() >= offset => {
                    return Ok(Some(Located { position, header }));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(reason) => {
                    return Err(LocateError::Bad {
                        position: scan.position(),
                        next_offset: chain.next_offset,
                        reason,
                    });
                }
            }
        }
    }

    /// The batch header at a position, if there is a possible one.
    fn header_at(&self, position: u64) -> io::Result<Option<Located>> {
        if position >= self.size() {
            return Ok(None);
        }
        let file = self.file()?;
        let mut scan = Scan::new(&*file, position, self.size());
        let found = scan.next_header(self.base_offset, &mut Chain::at(self.base_offset))?;
        Ok(found
            .ok()
            .flatten()
            .map(|(position, header)| Located { position, header }))
    }

    /// The offset after the last batch that ends at or below `position`; the base offset if there is none.
    pub(crate) fn end_before(&self, position: u64) -> io::Result<i64> {
        let fs = &*self.fs;
        let entry = self.with_indexes(|indexes| {
            indexes
                .offsets
                .last_where(fs, |entry| u64::from(entry.position) < position)
        })??;
        let from = entry.map_or(0, |entry| u64::from(entry.position));
        let from = if self.header_at(from)?.is_some() { from } else { 0 };
        let file = self.file()?;
        let mut chain = Chain::at(self.base_offset);
        let mut scan = Scan::new(&*file, from, position.min(self.size()));
        while let Ok(Some(_)) = scan.next_header(self.base_offset, &mut chain)? {}
        Ok(chain.next_offset)
    }

    /// Where to begin to read the last `bytes` bytes: a batch at or before that.
    pub(crate) fn position_before_end(&self, bytes: u64) -> io::Result<u64> {
        let target = self.size().saturating_sub(bytes);
        let fs = &*self.fs;
        let entry = self.with_indexes(|indexes| {
            indexes
                .offsets
                .last_where(fs, |entry| u64::from(entry.position) <= target)
        })??;
        let position = entry.map_or(0, |entry| u64::from(entry.position));
        Ok(if self.header_at(position)?.is_some() {
            position
        } else {
            0
        })
    }
}
