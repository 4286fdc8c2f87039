//! Counting bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::state::StreamState;
use crate::limits;

/// How long a reader's answer waits for memory before it is made small: longer than others
/// that are served well hold theirs.
const MOMENT: Duration = Duration::from_millis(50);

/// The broker's budget: half of it for requests and half for answers, so that readers who do
/// not take theirs leave room for writers.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    large_answers: Arc<Semaphore>,
    decoded: Arc<Semaphore>,
    acknowledgements: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    half: usize,
    per_connection: usize,
}

/// One connection's part of the budget.
#[derive(Clone, Debug)]
pub struct ConnectionBudget {
    requests: Share,
    answers: Share,
    large_answers: Arc<Semaphore>,
    decoded: Share,
    acknowledgements: Share,
    windows: Arc<Semaphore>,
    streams: Share,
}

/// What all connections share, and one connection's bound in it.
#[derive(Clone, Debug)]
pub(super) struct Share {
    broker: Arc<Semaphore>,
    connection: Arc<Semaphore>,
    /// The connection's bound. What is larger gets through alone on its connection; in all it counts
    /// as it is.
    most: usize,
    /// Bytes that all connections share: what is larger still has them alone.
    all: usize,
}

/// Bytes that are held; given back when the last copy is dropped.
#[derive(Clone, Debug)]
pub struct MemoryPermit {
    _held: Arc<Held>,
    decoded: Option<Arc<Held>>,
}

/// Bytes that are held and may become more or fewer.
#[derive(Debug)]
pub(super) struct HeldBytes {
    connection: OwnedSemaphorePermit,
    broker: OwnedSemaphorePermit,
}

impl HeldBytes {
    /// Holds `more` as well, which is of the same share.
    pub fn add(&mut self, more: Self) {
        self.connection.merge(more.connection);
        self.broker.merge(more.broker);
    }

    /// Gives back `bytes`, which must not be more than it has: then nothing is given back.
    pub fn give_back(&mut self, bytes: usize) {
        drop((self.connection.split(bytes), self.broker.split(bytes)));
    }
}

#[derive(Debug)]
struct Held {
    _connection: Option<OwnedSemaphorePermit>,
    _broker: OwnedSemaphorePermit,
}

impl MemoryPermit {
    fn new(connection: Option<OwnedSemaphorePermit>, broker: OwnedSemaphorePermit) -> Self {
        Self {
            _held: Arc::new(Held {
                _connection: connection,
                _broker: broker,
            }),
            decoded: None,
        }
    }

    /// Holds what `decoded` holds as well: what its message takes decoded.
    pub fn add_decoded(&mut self, decoded: Self) {
        self.decoded = Some(decoded._held);
    }

    /// Gives that back.
    pub fn release_decoded(&mut self) {
        self.decoded = None;
    }
}

impl MemoryBudget {
    /// A budget of `total` bytes; one connection's requests may use `per_connection` of their half,
    /// and its answers twice that: the next one is made while one is sent.
    pub fn new(total: usize, per_connection: usize) -> Self {
        let half = total / 2;
        Self {
            requests: Arc::new(Semaphore::new(half)),
            answers: Arc::new(Semaphore::new(half)),
            large_answers: Arc::new(Semaphore::new(limits::LARGE_ANSWERS_BYTES)),
            decoded: Arc::new(Semaphore::new(limits::DECODED_REQUESTS_BYTES)),
            acknowledgements: Arc::new(Semaphore::new(limits::ACKNOWLEDGEMENTS_BYTES)),
            windows: Arc::new(Semaphore::new(limits::HTTP2_WIDENED_BYTES)),
            streams: Arc::new(Semaphore::new(half)),
            half,
            per_connection,
        }
    }

    /// The part of a new connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionBudget {
        let decoded = limits::DECODED_REQUESTS_BYTES;
        let acknowledgements = limits::ACKNOWLEDGEMENTS_BYTES;
        ConnectionBudget {
            requests: Share::new(&self.requests, self.half, self.per_connection),
            answers: Share::new(&self.answers, self.half, 2 * self.per_connection),
            large_answers: self.large_answers.clone(),
            decoded: Share::new(&self.decoded, decoded, decoded / 2),
            acknowledgements: Share::new(&self.acknowledgements, acknowledgements, acknowledgements / 8),
            windows: self.windows.clone(),
            streams: Share::new(&self.streams, self.half, self.per_connection),
        }
    }

    /// Bytes beside the budget that requests hold now, for what they take decoded.
    #[must_use]
    pub fn decoded_used(&self) -> usize {
        limits::DECODED_REQUESTS_BYTES - self.decoded.available_permits()
    }

    /// Bytes beside the budget that acknowledgements hold now.
    #[must_use]
    pub fn acknowledgements_used(&self) -> usize {
        limits::ACKNOWLEDGEMENTS_BYTES - self.acknowledgements.available_permits()
    }

    /// Bytes beside the budget of what streams remember.
    #[must_use]
    pub fn streams_used(&self) -> usize {
        self.half - self.streams.available_permits()
    }

    /// Bytes beside the budget of answers that are large though memory is short.
    #[must_use]
    pub fn large_answers_used(&self) -> usize {
        limits::LARGE_ANSWERS_BYTES - self.large_answers.available_permits()
    }

    /// Bytes by which connections' windows are wider now than at their beginning.
    #[must_use]
    pub fn windows_used(&self) -> usize {
        limits::HTTP2_WIDENED_BYTES - self.windows.available_permits()
    }

    /// Bytes of the budget that are held now.
    #[must_use]
    pub fn used(&self) -> usize {
        2 * self.half - self.requests.available_permits() - self.answers.available_permits()
    }
}

impl ConnectionBudget {
    /// By how much all connections' windows may grow, for what came and is not read.
    pub fn windows(&self) -> Arc<Semaphore> {
        self.windows.clone()
    }

    /// Takes a request's bytes, if they get free in time.
    pub async fn acquire(&self, bytes: usize) -> Option<MemoryPermit> {
        tokio::time::timeout(limits::REQUEST_MEMORY_WAIT, self.requests.acquire(bytes))
            .await
            .ok()
    }

    /// Takes what a request is larger decoded than as it came, if that much gets free in time. It is
    /// kept apart from the budget: else requests that have their bytes and wait for this could hold
    /// all that each other waits for. One that takes more than there is has all of it.
    pub async fn acquire_decoded(&self, bytes: usize) -> Option<MemoryPermit> {
        tokio::time::timeout(limits::REQUEST_MEMORY_WAIT, self.decoded.acquire(bytes))
            .await
            .ok()
    }

    /// Takes the bytes of what a write is answered with, before anything of it is written, if they get
    /// free in time. They are kept apart: from the requests' memory, as a request that has its bytes
    /// would wait for more of the same, and from the answers', so that writers do not depend on readers.
    pub async fn acquire_for_acknowledgement(&self, bytes: usize) -> Option<MemoryPermit> {
        tokio::time::timeout(limits::REQUEST_MEMORY_WAIT, self.acknowledgements.acquire(bytes))
            .await
            .ok()
    }

    /// Takes such bytes if they are free now.
    pub fn try_for_acknowledgement(&self, bytes: usize) -> Option<MemoryPermit> {
        self.acknowledgements.try_acquire(bytes, 0)
    }

    /// For what a stream of this connection will remember: as much for all as either half of the budget.
    pub fn stream_state(&self) -> StreamState {
        StreamState::new(self.streams.clone())
    }

    /// Takes an answer's bytes, if they get free within a moment.
    pub async fn acquire_for_answer(&self, bytes: usize) -> Option<MemoryPermit> {
        tokio::time::timeout(MOMENT, self.answers.acquire(bytes)).await.ok()
    }

    /// Takes bytes for an answer that nobody asked for yet: only if three quarters of what
    /// all connections share stay free.
    pub fn spare_for_answer(&self, bytes: usize) -> Option<MemoryPermit> {
        self.answers.try_acquire(bytes, self.answers.all / 4 * 3)
    }

    /// Takes an answer's bytes, if they are free now.
    pub fn try_for_answer(&self, bytes: usize) -> Option<MemoryPermit> {
        self.answers.try_acquire(bytes, 0)
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
        Some(MemoryPermit::new(None, permit))
    }
}

impl Share {
    /// Of `all` bytes that `broker` counts, at most `most` for a connection.
    fn new(broker: &Arc<Semaphore>, all: usize, most: usize) -> Self {
        let most = most.min(all);
        Self {
            broker: broker.clone(),
            connection: Arc::new(Semaphore::new(most)),
            most,
            all,
        }
    }

    /// What `bytes` count: for the connection, and in all.
    fn counted(&self, bytes: usize) -> (u32, u32) {
        let counted = |most: usize| u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        (counted(self.most), counted(self.all))
    }

    /// Takes `bytes` if they are free, and `rest` of what all share stays free beside them.
    fn try_acquire(&self, bytes: usize, rest: usize) -> Option<MemoryPermit> {
        if self.broker.available_permits() < bytes.min(self.all) + rest {
            return None;
        }
        let (bytes, in_all) = self.counted(bytes);
        let connection = self.connection.clone().try_acquire_many_owned(bytes).ok()?;
        let broker = self.broker.clone().try_acquire_many_owned(in_all).ok()?;
        Some(MemoryPermit::new(Some(connection), broker))
    }

    /// Takes exactly `bytes` if they are free.
    pub fn try_more(&self, bytes: usize) -> Option<HeldBytes> {
        let bytes = u32::try_from(bytes).ok()?;
        Some(HeldBytes {
            connection: self.connection.clone().try_acquire_many_owned(bytes).ok()?,
            broker: self.broker.clone().try_acquire_many_owned(bytes).ok()?,
        })
    }

    /// Waits until `bytes` are free and takes them.
    async fn acquire(&self, bytes: usize) -> MemoryPermit {
        let (bytes, in_all) = self.counted(bytes);
        // First the connection's, so that one connection that waits for itself holds none
        // of what all share. Neither semaphore is ever closed.
        loop {
            let connection = self.connection.clone().acquire_many_owned(bytes).await;
            let broker = self.broker.clone().acquire_many_owned(in_all).await;
            if let (Ok(connection), Ok(broker)) = (connection, broker) {
                return MemoryPermit::new(Some(connection), broker);
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
    use crate::config::BrokerConfig;

    #[tokio::test]
    async fn what_is_used_up_is_waited_for() {
        let budget = MemoryBudget::new(200, 60);
        let (one, other) = (budget.connection(), budget.connection());
        let wait = Duration::from_millis(20);
        let held = one.requests.acquire(60).await;
        assert_eq!(budget.used(), 60);
        assert!(
            tokio::time::timeout(wait, one.acquire(1)).await.is_err(),
            "the connection's part is used up"
        );
        let second = other.acquire(40).await;
        assert!(
            tokio::time::timeout(wait, other.acquire(1)).await.is_err(),
            "the requests' half is used up"
        );
        let answer = other.acquire_for_answer(50).await;
        assert!(answer.is_some(), "answers have a half of their own");
        assert!(other.acquire_for_answer(60).await.is_none(), "and no more than that");
        drop((held, second, answer));
        let all = one.acquire(usize::MAX).await;
        assert_eq!(budget.used(), 100, "an oversized message counts as the whole half");
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    /// Whatever a connection sends, others have most of the memory; and the largest message gets through.
    #[tokio::test]
    async fn by_default_a_connection_has_a_quarter_of_what_requests_share() {
        let defaults = [("data.dir".to_owned(), "/a".to_owned())];
        let config = BrokerConfig::load(None, std::iter::empty(), &defaults).unwrap();
        let budget = MemoryBudget::new(config.memory_bytes, config.memory_bytes_per_connection);
        let one = budget.connection();
        let quarter = config.memory_bytes / 8;
        let held = one.acquire(quarter).await;
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, one.acquire(1)).await.is_err());
        drop(held);
        let largest = one.acquire(limits::MAX_RPC_MESSAGE_BYTES).await;
        assert_eq!(budget.used(), limits::MAX_RPC_MESSAGE_BYTES, "all of it counts");
        assert!(tokio::time::timeout(wait, one.acquire(1)).await.is_err());
        assert!(budget.connection().try_for_answer(quarter).is_some());
        let other = budget.connection();
        assert!(tokio::time::timeout(wait, other.acquire(quarter)).await.is_ok());
        drop(largest);
    }

    #[tokio::test]
    async fn acknowledgements_have_memory_of_their_own() {
        let budget = MemoryBudget::new(200, 60);
        let one = budget.connection();
        let _requests = one.acquire(usize::MAX).await;
        let share = limits::ACKNOWLEDGEMENTS_BYTES / 8;
        let held = one.acquire_for_acknowledgement(share).await;
        assert_eq!((budget.acknowledgements_used(), budget.used()), (share, 100));
        let more = one.acquire_for_acknowledgement(1);
        assert!(tokio::time::timeout(Duration::from_millis(20), more).await.is_err());
        assert!(
            budget
                .connection()
                .acquire_for_acknowledgement(7 * share)
                .await
                .is_some()
        );
        drop(held);
        assert_eq!(budget.acknowledgements_used(), 0);
    }

    #[tokio::test]
    async fn what_nobody_asked_for_leaves_most_free() {
        let budget = MemoryBudget::new(200, 60);
        let (one, other) = (budget.connection(), budget.connection());
        let spare = one.spare_for_answer(20);
        assert!(spare.is_some());
        assert!(other.spare_for_answer(6).is_none(), "three quarters stay free");
        assert!(other.spare_for_answer(5).is_some());
        assert!(one.acquire_for_answer(40).await.is_some());
        drop(spare);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn bytes_give_back_their_permit_with_the_last_copy() {
        let budget = MemoryBudget::new(100, 100);
        let permit = budget.connection().acquire(3).await.unwrap();
        let bytes = hold(Bytes::from_static(b"abc"), permit);
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(budget.used(), 3);
        assert_eq!(&slice[..], b"b");
        drop(slice);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_connection_does_not_take_all_that_requests_take_decoded() {
        let budget = MemoryBudget::new(200, 60);
        let (one, other) = (budget.connection(), budget.connection());
        let wait = Duration::from_millis(20);
        let half = limits::DECODED_REQUESTS_BYTES / 2;
        let first = one.acquire_decoded(half).await;
        assert!(tokio::time::timeout(wait, one.acquire_decoded(1)).await.is_err());
        let second = other.acquire_decoded(half).await;
        assert_eq!(budget.decoded_used(), 2 * half);
        drop(first);
        let larger = one.acquire_decoded(half + 1);
        assert!(
            tokio::time::timeout(wait, larger).await.is_err(),
            "it has all to itself"
        );
        drop(second);
        let larger = one.acquire_decoded(usize::MAX).await;
        assert_eq!((budget.decoded_used(), budget.used()), (2 * half, 0));
        drop(larger);
        assert_eq!(budget.decoded_used(), 0);
    }
}
