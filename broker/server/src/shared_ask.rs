//! One question for all who would ask the same at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// A question whose answer is the same for all who ask before it is put: whoever comes while one is under
/// way waits and shares the next, as the present one may tell of a time before. So there is one at a time,
/// however many ask, and who asks waits for two at most.
#[derive(Debug, Default)]
pub struct SharedAsk {
    /// How many questions were put.
    put: AtomicU64,
    /// Held while one is under way. The last one that was answered: its number, counted from 1, and what
    /// failed.
    answered: Mutex<(u64, Option<String>)>,
}

impl SharedAsk {
    /// Has `question` put, or waits for another's that is put after this call.
    ///
    /// # Errors
    /// As of the question; also where another has put it.
    pub async fn ask(&self, question: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let before = self.put.load(Ordering::Acquire);
        let mut answered = self.answered.lock().await;
        if answered.0 <= before {
            let number = self.put.fetch_add(1, Ordering::AcqRel) + 1;
            *answered = (number, question.await.err());
        }
        answered.1.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn those_who_come_while_one_is_asked_share_the_next_question() {
        let shared = Arc::new(SharedAsk::default());
        let (answer, answered) = oneshot::channel();
        let first = tokio::spawn({
            let shared = shared.clone();
            async move { shared.ask(async { answered.await.unwrap() }).await }
        });
        while shared.put.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move { shared.ask(async { Err("none".into()) }).await })
            })
            .collect();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(
            others.iter().all(|other| !other.is_finished()),
            "the first began before them"
        );
        answer.send(Ok(())).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        for other in others {
            assert_eq!(other.await.unwrap(), Err("none".into()));
        }
        assert_eq!(shared.put.load(Ordering::Acquire), 2);
        assert_eq!(shared.ask(async { Ok(()) }).await, Ok(()), "a later one asks anew");
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_is_put_by_the_next() {
        let shared = SharedAsk::default();
        {
            let given_up = shared.ask(std::future::pending());
            tokio::pin!(given_up);
            assert!(futures::poll!(given_up).is_pending());
        }
        assert_eq!(shared.ask(async { Ok(()) }).await, Ok(()));
    }
}
