//! The threads that force written data to the disk.
//!
//! A partition has one thread at most; while one flush of it runs, all that is appended meanwhile
//! waits for the next one together (group commit). Several threads let the fdatasyncs of many
//! partitions share the device's own flushes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::Partition;

/// Where one partition's flushes stand. A thread that came for a partition while another one flushes
/// it would only wait for it, and with it soon all the threads that there are.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

/// Nothing is asked for.
const IDLE: u8 = 0;
/// It stands in the queue.
const QUEUED: u8 = 1;
/// A thread flushes it.
const RUNNING: u8 = 2;
/// The same, and the next flush is asked for.
const AGAIN: u8 = 3;

impl Turn {
    /// Asks for a flush that begins from here on; `true` if the caller must put it into the queue.
    pub(super) fn ask(&self) -> bool {
        let asked = |turn| match turn {
            IDLE => Some(QUEUED),
            RUNNING => Some(AGAIN),
            _ => None,
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, asked) == Ok(IDLE)
    }

    /// A thread begins: what is appended from here on asks for the next flush.
    fn begin(&self) {
        self.0.swap(RUNNING, Ordering::AcqRel);
    }

    /// It has ended; `true` if the next one was asked for, so that it belongs into the queue again.
    fn end(&self) -> bool {
        let ended = |turn| Some(if turn == AGAIN { QUEUED } else { IDLE });
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended) == Ok(AGAIN)
    }
}

/// The queue of partitions to flush, and its threads.
#[derive(Debug)]
pub struct Flusher {
    state: Mutex<State>,
    work: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Bounded by the number of partitions.
    queue: VecDeque<Arc<Partition>>,
    stopping: bool,
}

impl Flusher {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The operating system gives no more threads.
    pub fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let flusher = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            threads: Mutex::default(),
        });
        for number in 0..threads {
            let shared = flusher.clone();
            let thread = thread::Builder::new()
                .name(format!("flush-{number}"))
                .spawn(move || shared.run())?;
            flusher.threads.lock().push(thread);
        }
        Ok(flusher)
    }

    /// Adds a partition; the caller sees to it that it stands there once.
    pub(super) fn push(&self, partition: Arc<Partition>) {
        self.state.lock().queue.push_back(partition);
        self.work.notify_one();
    }

    fn run(&self) {
        let mut again = None;
        loop {
            let partition = {
                let mut state = self.state.lock();
                // Behind the others. The thread that is here takes the first of them in its place, so that nobody has
                // to be woken.
                state.queue.extend(again.take());
                loop {
                    if let Some(partition) = state.queue.pop_front() {
                        break partition;
                    }
                    if state.stopping {
                        return;
                    }
                    self.work.wait(&mut state);
                }
            };
            partition.flush_turn.begin();
            partition.flush();
            again = partition.flush_turn.end().then_some(partition);
        }
    }

    /// Flushes what is queued and ends the threads.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_comes_for_all_that_is_asked_for() {
        let turn = Turn::default();
        assert!(turn.ask());
        assert!(!turn.ask(), "it stands in the queue");
        turn.begin();
        assert!(!turn.ask(), "the thread that flushes it goes on");
        assert!(!turn.ask());
        assert!(turn.end());
        assert!(!turn.ask(), "it stands in the queue again");
        turn.begin();
        assert!(!turn.end(), "all was asked for before it began");
        assert!(turn.ask());
    }
}
