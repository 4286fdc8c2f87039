//! The threads that force written data to the disk.
//!
//! A partition stands in the queue at most once; while one flush of it runs, all that is
//! appended meanwhile waits for the next one together (group commit). Several threads let
//! the fdatasyncs of many partitions share the device's own flushes.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::Partition;

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
        loop {
            let partition = {
                let mut state = self.state.lock();
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
            partition.flush();
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
