//! The one thread that makes votes and entries durable, in the order in which they came.
//!
//! Entries are written (and can be read and replicated) by whoever appends them; this thread
//! flushes them. While one flush runs, more appends come in; the next flush covers them all.
//! A vote, a truncation or a purge first flushes what came before it.

use std::{io, sync::Arc, thread};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    entry_log::EntryLog,
    types::{LogId, TypeConfig, Vote},
};

/// Appends that one flush may cover: bounds how long the first of them waits for the rest to be
/// taken from the queue.
const MAX_GROUP: usize = 1_024;
/// Work that may wait for the thread. Past it, openraft's core waits, and with it whoever
/// submits: that is the back pressure of a slow disk.
const QUEUE: usize = 1_024;

/// Something to make durable.
pub(super) enum Work {
    /// All entries written so far; then the callback is called.
    Flush(IOFlushed<TypeConfig>),
    /// A vote.
    Vote(Vote, Done),
    /// Remove the entries from this index on.
    Truncate(u64, Done),
    /// Give up the entries up to this one.
    Purge(LogId, Done),
}

/// Who waits for a piece of work.
pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// How a piece of work is done.
type Act = Box<dyn FnOnce(&EntryLog) -> io::Result<()>>;

/// Starts the thread. It ends once all senders are dropped and their work is done. The first
/// error goes to `failed` too, and after it no work succeeds: what a failed fsync has dropped,
/// no later one brings back (Rebello et al., USENIX ATC'20).
pub(super) fn start(
    log: Arc<EntryLog>,
    failed: watch::Sender<Option<String>>,
) -> io::Result<(mpsc::Sender<Work>, thread::JoinHandle<()>)> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let worker = Worker {
        log,
        failed,
        broken: None,
        waiting: Vec::new(),
    };
    let thread = thread::Builder::new()
        .name("quorum-io".into())
        .spawn(move || worker.run(queue))?;
    Ok((sender, thread))
}

struct Worker {
    log: Arc<EntryLog>,
    failed: watch::Sender<Option<String>>,
    /// The first error.
    broken: Option<String>,
    /// Appends that the next flush covers, in order.
    waiting: Vec<IOFlushed<TypeConfig>>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(work) = next {
                self.take(work);
                next = if self.waiting.len() < MAX_GROUP {
                    queue.try_recv().ok()
                } else {
                    None
                };
            }
            self.flush();
        }
    }

    fn take(&mut self, work: Work) {
        let (done, act): (Done, Act) = match work {
            Work::Flush(callback) => return self.waiting.push(callback),
            Work::Vote(vote, done) => (done, Box::new(move |log| log.save_vote(&vote))),
            Work::Truncate(end, done) => (done, Box::new(move |log| log.truncate(end))),
            Work::Purge(last, done) => (done, Box::new(move |log| log.purge(&last))),
        };
        self.flush();
        let result = self.guarded("metadata log", act);
        // Whoever does not wait any more does not need the answer.
        let _ = done.send(result);
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let result = self.guarded("flush of the metadata log", EntryLog::flush);
        for callback in std::mem::take(&mut self.waiting) {
            let copy = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            callback.io_completed(copy);
        }
    }

    fn guarded(&mut self, what: &str, act: impl FnOnce(&EntryLog) -> io::Result<()>) -> io::Result<()> {
        if let Some(reason) = &self.broken {
            return Err(io::Error::other(format!("stopped after: {reason}")));
        }
        act(&self.log).inspect_err(|error| {
            let reason = format!("{what}: {error}");
            tracing::error!(reason, "metadata quorum storage failed");
            self.broken = Some(reason.clone());
            super::handle::report(&self.failed, reason);
        })
    }
}
