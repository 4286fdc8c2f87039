//! The bound on bytes that wait for their acknowledgement.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A counter with a limit. One atomic exchange per record: a semaphore's lock would be the most
/// expensive step of the way of a small record.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    waiting: AtomicUsize,
    released: Notify,
}

impl MemoryBudget {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            released: Notify::new(),
        }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Whether somebody waits for room.
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes `bytes` if they fit, or if nothing else is taken: what is larger than the whole budget
    /// goes alone.
    #[inline]
    pub fn try_acquire(&self, bytes: usize) -> bool {
        // Not added first and taken back: others would fail in between, and nobody would wake them.
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            (used == 0 || used + bytes <= self.limit).then(|| used + bytes)
        });
        taken.is_ok()
    }

    /// Waits until `bytes` fit.
    pub async fn acquire(&self, bytes: usize) {
        if self.try_acquire(bytes) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _guard = Waiting(self);
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Registered before the next try, so that no release in between is missed.
            released.as_mut().enable();
            if self.try_acquire(bytes) {
                return;
            }
            released.await;
        }
    }

    #[inline]
    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.released.notify_waiters();
        }
    }
}

struct Waiting<'a>(&'a MemoryBudget);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_full_budget_waits_for_room() {
        let budget = Arc::new(MemoryBudget::new(100));
        assert!(budget.try_acquire(60));
        assert!(!budget.try_acquire(60));
        assert_eq!(budget.used(), 60);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(60).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        budget.release(60);
        waiting.await.unwrap();
        assert_eq!(budget.used(), 60);
    }

    #[test]
    fn what_is_larger_than_all_goes_alone() {
        let budget = MemoryBudget::new(100);
        assert!(budget.try_acquire(1_000));
        assert!(!budget.try_acquire(1));
        budget.release(1_000);
        assert!(budget.try_acquire(1));
    }
}
