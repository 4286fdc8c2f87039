//! A segment whose name another one takes: compaction puts a shorter one in its place while it is read.

use std::io;

use super::{Segment, names};
use crate::fs::OpenMode;
use crate::index::IndexFile;

impl Segment {
    /// Prepares for another segment to take this one's name: the file stays open for who still reads it, and the
    /// indexes are looked at while they are there.
    pub(crate) fn pin(&self) -> io::Result<()> {
        let path = names::log_path(&self.dir, self.base_offset);
        self.file.pin(|| self.fs.open(&path, OpenMode::Read))?;
        self.with_indexes(|_| ()).inspect_err(|_| self.unpin())
    }

    /// The name stays this one's.
    pub(crate) fn unpin(&self) {
        self.file.unpin();
    }

    /// Lets go of the index files, which become another segment's. Who still reads walks from the segment's front.
    pub(crate) fn detach_indexes(&self) {
        let mut indexes = self.indexes.lock();
        indexes.offsets = IndexFile::empty(names::index_path(&self.dir, self.base_offset));
        indexes.times = IndexFile::empty(names::time_index_path(&self.dir, self.base_offset));
        indexes.detached = true;
    }
}
