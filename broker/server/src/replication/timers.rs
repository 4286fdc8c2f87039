//! Wakes replicas at the times that they ask for. An idle partition has no entry, or one that is
//! far away, so that it costs nothing.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Weak,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{limits, partition::Partition};

/// The time at which a replica that is due at `at` is woken: later, together with others, if that is far away from
/// `now`.
pub fn coalesced(at: Duration, now: Duration) -> Duration {
    if at.saturating_sub(now) < limits::TIMER_EXACT_WITHIN {
        return at;
    }
    let grain = limits::TIMER_GRAIN.as_nanos();
    let whole = at.as_nanos().div_ceil(grain).saturating_mul(grain);
    Duration::from_nanos(u64::try_from(whole).unwrap_or(u64::MAX)).max(at)
}

/// Times at which replicas are due.
#[derive(Debug)]
pub struct Timers {
    begun: Instant,
    due: Mutex<BinaryHeap<Reverse<Entry>>>,
    earlier: Notify,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    partition: Weak<Partition>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Timers {
    /// No times yet; the clock begins now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            due: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    /// The time since the beginning; never goes back.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Has the partition woken at `at`. Entries are not taken back: a partition that asks for an
    /// earlier time is woken once more in vain.
    pub fn wake_at(&self, at: Duration, partition: Weak<Partition>) {
        let mut due = self.due.lock();
        let first = due.peek().is_none_or(|Reverse(next)| at < next.at);
        due.push(Reverse(Entry { at, partition }));
        drop(due);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Wakes partitions until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.due.lock().peek().map(|Reverse(entry)| entry.at);
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep(at.saturating_sub(self.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.earlier.notified() => continue,
                () = stop.cancelled() => return,
            }
            let now = self.now();
            while let Some(partition) = self.pop(now) {
                if let Some(partition) = partition.upgrade() {
                    partition.on_timer();
                }
            }
        }
    }

    fn pop(&self, now: Duration) -> Option<Weak<Partition>> {
        let mut due = self.due.lock();
        if due.peek().is_some_and(|Reverse(entry)| entry.at <= now) {
            due.pop().map(|Reverse(entry)| entry.partition)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_away_is_woken_with_others_and_never_early() {
        let ms = Duration::from_millis;
        for (at, now, expected) in [
            (1_001, 1_000, 1_001),
            (2_999, 1_000, 2_999),
            (3_001, 1_000, 3_250),
            (3_250, 1_000, 3_250),
            (20_251, 17, 20_500),
        ] {
            assert_eq!(coalesced(ms(at), ms(now)), ms(expected), "{at}");
        }
        assert_eq!(coalesced(Duration::MAX, ms(1)), Duration::MAX);
    }
}
