//! Writing to a log on a thread that serves calls.
//!
//! A write goes to the page cache, which takes a small one in less time than it takes to leave the thread; but a
//! large one copies for a while, and when too much waits for the disk the system has each writer wait. Then the
//! thread's other tasks must go on: heartbeats and leases are among them.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{limits, turns};

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Of all logs together: they wait for the same disk.
static SLOWNESS: Slowness = Slowness::new();

/// Writes `bytes` by `write`, aside if they are many or writes were slow lately. The first slow one of small writes
/// keeps its thread.
pub(super) fn write<T>(bytes: usize, write: impl FnOnce() -> T) -> T {
    let began = BEGINNING.elapsed();
    let written = if bytes >= limits::WRITTEN_ASIDE_BYTES || SLOWNESS.is_recent(began) {
        turns::aside(write)
    } else {
        write()
    };
    SLOWNESS.learn(began, BEGINNING.elapsed());
    written
}

/// Whether writes were slow lately.
#[derive(Debug)]
struct Slowness {
    /// In milliseconds; 0: they never were.
    until_ms: AtomicU64,
}

impl Slowness {
    const fn new() -> Self {
        Self {
            until_ms: AtomicU64::new(0),
        }
    }

    fn is_recent(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.until_ms.load(Ordering::Relaxed))
    }

    /// Takes in how long a write took.
    fn learn(&self, began: Duration, ended: Duration) {
        if ended.saturating_sub(began) >= limits::SLOW_WRITE {
            let until = (ended + limits::SLOW_WRITE_REMEMBERED).as_millis();
            self.until_ms
                .fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_is_remembered_for_a_while() {
        let slowness = Slowness::new();
        let second = Duration::from_secs(1);
        slowness.learn(second, second + limits::SLOW_WRITE / 2);
        assert!(!slowness.is_recent(second));
        let ended = 2 * second + limits::SLOW_WRITE;
        slowness.learn(2 * second, ended);
        assert!(slowness.is_recent(ended));
        assert!(!slowness.is_recent(ended + limits::SLOW_WRITE_REMEMBERED));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_beside_a_large_write() {
        let (send, receive) = std::sync::mpsc::channel();
        let writing = tokio::spawn(async move {
            tokio::spawn(async move { send.send(()) });
            let wait = || receive.recv_timeout(Duration::from_secs(60));
            write(limits::WRITTEN_ASIDE_BYTES, wait)
        });
        assert_eq!(writing.await.unwrap(), Ok(()), "the only thread was kept");
        assert_eq!(write(1, || 7), 7);
    }
}
