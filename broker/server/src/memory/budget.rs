//! Counting bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// How long a reader's answer waits for memory before it is made small: longer than others
/// that are served well hold theirs.
const MOMENT: Duration = Duration::from_millis(50);

/// The broker's budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    broker: Arc<Semaphore>,
    large_answers: Arc<Semaphore>,
    total: usize,
    per_connection: usize,
}

/// One connection's part of the budget.
#[derive(Clone, Debug)]
pub struct ConnectionBudget {
    broker: Arc<Semaphore>,
    connection: Arc<Semaphore>,
    large_answers: Arc<Semaphore>,
    per_connection: usize,
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    _connection: Option<OwnedSemaphorePermit>,
    _broker: OwnedSemaphorePermit,
}

impl MemoryBudget {
    /// A budget of `total` bytes, of which one connection may use `per_connection`.
    pub fn new(total: usize, per_connection: usize) -> Self {
        let large_answers = Arc::new(Semaphore::new(limits::LARGE_ANSWERS_BYTES));
        Self {
            broker: Arc::new(Semaphore::new(total)),
            large_answers,
            total,
            per_connection,
        }
    }

    /// The part of a new connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionBudget {
        ConnectionBudget {
            broker: self.broker.clone(),
            connection: Arc::new(Semaphore::new(self.per_connection)),
            large_answers: self.large_answers.clone(),
            per_connection: self.per_connection,
        }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.total - self.broker.available_permits()
    }
}

impl ConnectionBudget {
    /// Takes `bytes` if they get free within a moment.
    pub async fn acquire_soon(&self, bytes: usize) -> Option<MemoryPermit> {
        tokio::time::timeout(MOMENT, self.acquire(bytes)).await.ok()
    }

    /// Takes `bytes` of what is kept apart for answers that are large though memory is short,
    /// if they get free in time.
    pub async fn acquire_for_large_answer(&self, bytes: usize) -> Option<MemoryPermit> {
        let bytes = u32::try_from(bytes.min(limits::LARGE_ANSWERS_BYTES)).ok()?;
        let acquiring = self.large_answers.clone().acquire_many_owned(bytes);
        let permit = tokio::time::timeout(limits::LARGE_ANSWER_WAIT, acquiring)
            .await
            .ok()?
            .ok()?;
        Some(MemoryPermit {
            _connection: None,
            _broker: permit,
        })
    }

    /// Waits until `bytes` are free and takes them. More than the connection's whole part
    /// counts as that part: one message always gets through.
    pub async fn acquire(&self, bytes: usize) -> MemoryPermit {
        let bytes = u32::try_from(bytes.min(self.per_connection)).unwrap_or(u32::MAX);
        // First the connection's, so that one connection that waits for itself holds none
        // of what all share. Neither semaphore is ever closed.
        loop {
            let connection = self.connection.clone().acquire_many_owned(bytes).await;
            let broker = self.broker.clone().acquire_many_owned(bytes).await;
            if let (Ok(connection), Ok(broker)) = (connection, broker) {
                return MemoryPermit {
                    _connection: Some(connection),
                    _broker: broker,
                };
            }
        }
    }
}

/// `bytes` that give back `permit` when the last copy is dropped.
pub fn hold(bytes: Bytes, permit: MemoryPermit) -> Bytes {
    struct Held {
        bytes: Bytes,
        _permit: MemoryPermit,
    }
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Held { bytes, _permit: permit })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_used_up_is_waited_for() {
        let budget = MemoryBudget::new(100, 60);
        let (one, other) = (budget.connection(), budget.connection());
        let held = one.acquire(60).await;
        assert_eq!(budget.used(), 60);
        let blocked = tokio::time::timeout(Duration::from_millis(20), one.acquire(1)).await;
        assert!(blocked.is_err(), "the connection's part is used up");
        let second = other.acquire(40).await;
        let blocked = tokio::time::timeout(Duration::from_millis(20), other.acquire(1)).await;
        assert!(blocked.is_err(), "the broker's budget is used up");
        drop(held);
        drop(second);
        let all = one.acquire(usize::MAX).await;
        assert_eq!(budget.used(), 60, "an oversized message counts as the whole part");
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn bytes_give_back_their_permit_with_the_last_copy() {
        let budget = MemoryBudget::new(100, 100);
        let bytes = hold(Bytes::from_static(b"abc"), budget.connection().acquire(3).await);
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(budget.used(), 3);
        assert_eq!(&slice[..], b"b");
        drop(slice);
        assert_eq!(budget.used(), 0);
    }
}
