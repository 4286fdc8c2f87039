//! openraft's view of the entry log.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

use futures::{Stream, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    entry_log::EntryLog,
    io_thread::Work,
    types::{Entry, LogId, TypeConfig, Vote},
};

/// A replication request carries about so much at most, and so much is in memory while a long
/// log is applied.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes entries at once and leaves their durability to the IO thread.
pub(super) struct LogStore {
    log: Arc<EntryLog>,
    io: mpsc::Sender<Work>,
}

impl LogStore {
    /// A store whose durability `io` sees to.
    pub(super) fn new(log: Arc<EntryLog>, io: mpsc::Sender<Work>) -> Self {
        Self { log, io }
    }

    async fn ask(&self, work: impl FnOnce(super::io_thread::Done) -> Work) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.io.send(work(done)).await.map_err(stopped)?;
        answer.await.map_err(stopped)?
    }
}

fn stopped<E>(_: E) -> io::Error {
    io::Error::other("the metadata log's IO thread has ended")
}

/// Reads entries; many may read at a time.
#[derive(Clone)]
pub(super) struct LogReader {
    log: Arc<EntryLog>,
}

impl RaftLogReader<TypeConfig> for LogReader {
    /// Reads as it goes: a state machine that is far behind does not bring the whole log into
    /// memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = bounds(&range);
        stream::unfold((Arc::clone(&self.log), range, Vec::new().into_iter()), next_entry)
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.log.read(bounds(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.log.read(start..end, CHUNK_BYTES)
    }
}

type Cursor = (Arc<EntryLog>, Range<u64>, std::vec::IntoIter<Entry>);

async fn next_entry((log, mut range, mut chunk): Cursor) -> Option<(io::Result<Entry>, Cursor)> {
    if let Some(entry) = chunk.next() {
        return Some((Ok(entry), (log, range, chunk)));
    }
    match log.read(range.clone(), CHUNK_BYTES) {
        Ok(entries) => {
            let last = entries.last()?.log_id.index;
            range.start = last + 1;
            let mut chunk = entries.into_iter();
            let first = chunk.next()?;
            Some((Ok(first), (log, range, chunk)))
        }
        Err(error) => {
            // Nothing may follow an error.
            range.start = range.end;
            Some((Err(error), (log, range, chunk)))
        }
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.log.purged(),
            last_log_id: self.log.last()?,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            log: Arc::clone(&self.log),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.ask(|done| Work::Vote(*vote, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.log.append(&entries)?;
        self.io.send(Work::Flush(callback)).await.map_err(stopped)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let end = last.map_or(0, |last| last.index.saturating_add(1));
        self.ask(|done| Work::Truncate(end, done)).await
    }

    async fn purge(&mut self, last: LogId) -> io::Result<()> {
        self.ask(|done| Work::Purge(last, done)).await
    }
}
