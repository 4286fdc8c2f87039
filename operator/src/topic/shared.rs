//! What many passes ask at once is asked once: 2,000 Topics of one Cluster need not fetch it 2,000 times. Only for
//! what decides nothing that can't be undone.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The most answers that are remembered; beyond that the old ones are dropped.
const MAX_KEPT: usize = 1024;

type Slot<V> = Arc<tokio::sync::Mutex<Option<(Instant, V)>>>;

/// Answers by what was asked.
#[derive(Debug)]
pub struct Shared<K, V>(Mutex<HashMap<K, Slot<V>>>);

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Shared<K, V> {
    /// The answer, if it is not older than it may be; otherwise it is asked for, once, and others wait for it. An error
    /// is nobody else's.
    ///
    /// # Errors
    /// Those of asking.
    pub async fn get<E>(
        &self,
        key: &K,
        age: impl Fn(&V) -> Duration,
        ask: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        let slot = self.slot(key);
        let mut known = slot.lock().await;
        if let Some((at, value)) = &*known
            && at.elapsed() < age(value)
        {
            return Ok(value.clone());
        }
        let value = ask.await?;
        *known = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    /// Something has changed: who asks from now on is not answered with what was true before, nor with what somebody
    /// is being told at this moment.
    pub fn forget(&self, about: impl Fn(&K) -> bool) {
        self.0.lock().retain(|key, _| !about(key));
    }

    fn slot(&self, key: &K) -> Slot<V> {
        let mut slots = self.0.lock();
        if slots.len() >= MAX_KEPT && !slots.contains_key(key) {
            // Those that are in use are held by others, too.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn many_at_once_ask_once() {
        let shared: Shared<&str, u32> = Shared::default();
        let asked = AtomicU32::new(0);
        let ask = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, ()>(asked.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let age = |_: &u32| Duration::from_secs(60);
        let all = join_all((0..50).map(|_| shared.get(&"a", age, ask()))).await;
        assert!(all.iter().all(|answer| *answer == Ok(1)), "{all:?}");
        assert_eq!(shared.get(&"b", age, ask()).await, Ok(2));
        assert_eq!(shared.get(&"a", |_| Duration::ZERO, ask()).await, Ok(3));
        shared.forget(|key| *key == "a");
        assert_eq!(shared.get(&"a", age, ask()).await, Ok(4));
        assert_eq!(shared.get(&"b", age, ask()).await, Ok(2));
    }

    #[tokio::test]
    async fn what_is_being_asked_is_forgotten_too() {
        let shared: Shared<&str, u32> = Shared::default();
        let age = |_: &u32| Duration::from_secs(60);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let early = shared.get(&"a", age, async { Ok::<_, ()>(answered.await.unwrap_or_default()) });
        let late = async {
            shared.forget(|_| true);
            let late = shared.get(&"a", age, async { Ok::<_, ()>(2) }).await;
            answer.send(1).unwrap();
            late
        };
        assert_eq!(tokio::join!(early, late), (Ok(1), Ok(2)));
        assert_eq!(shared.get(&"a", age, async { Ok::<_, ()>(3) }).await, Ok(2));
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let shared: Shared<&str, u32> = Shared::default();
        let age = |_: &u32| Duration::from_secs(60);
        assert_eq!(shared.get(&"a", age, async { Err(()) }).await, Err(()));
        assert_eq!(shared.get(&"a", age, async { Ok::<_, ()>(1) }).await, Ok(1));
    }
}
