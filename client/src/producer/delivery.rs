//! The promise that a record is stored: one shared state for all records of a batch.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    record::RecordMetadata,
};

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The first record's offset; -1 if not known.
    pub base_offset: i64,
    /// The broker's time, where the topic uses that.
    pub log_append_time: Option<i64>,
}

/// The state that a batch's records share.
#[derive(Debug)]
pub struct BatchState {
    partition: i32,
    result: OnceLock<Result<Stored>>,
    wakers: Mutex<Vec<Waker>>,
}

impl BatchState {
    pub fn new(partition: i32) -> Self {
        Self {
            partition,
            result: OnceLock::new(),
            wakers: Mutex::default(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.result.get().is_some()
    }

    /// Ends the batch; the first call counts.
    pub fn complete(&self, result: Result<Stored>) {
        if self.result.set(result).is_ok() {
            let wakers = std::mem::take(&mut *self.wakers.lock());
            for waker in wakers {
                waker.wake();
            }
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<&Result<Stored>> {
        if let Some(result) = self.result.get() {
            return Poll::Ready(result);
        }
        let mut wakers = self.wakers.lock();
        // Set before the wakers are taken, so a result that came meanwhile is seen here.
        if let Some(result) = self.result.get() {
            return Poll::Ready(result);
        }
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until the batch is done.
    pub async fn done(&self) {
        std::future::poll_fn(|context| self.poll(context).map(|_| ())).await;
    }
}

/// The promise that one record is stored: await it for the record's place. Dropping it changes
/// nothing for the record; [`Producer::flush`](crate::Producer::flush) tells failures that nobody
/// awaited.
#[derive(Clone, Debug)]
#[must_use = "a failed record is told here, or by flush"]
pub struct Delivery {
    batch: Arc<BatchState>,
    index: i32,
    timestamp: i64,
}

impl Delivery {
    pub(crate) fn new(batch: Arc<BatchState>, index: i32, timestamp: i64) -> Self {
        Self {
            batch,
            index,
            timestamp,
        }
    }

    /// The partition that the record goes to.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.batch.partition
    }

    /// The result, if it is there already.
    #[must_use]
    pub fn result(&self) -> Option<Result<RecordMetadata>> {
        self.batch.result.get().map(|result| self.of_record(result))
    }

    fn of_record(&self, result: &Result<Stored>) -> Result<RecordMetadata, Error> {
        match result {
            Ok(stored) => Ok(RecordMetadata {
                partition: self.batch.partition,
                offset: if stored.base_offset < 0 {
                    -1
                } else {
                    stored.base_offset + i64::from(self.index)
                },
                timestamp: stored.log_append_time.unwrap_or(self.timestamp),
            }),
            Err(error) => Err(error.clone()),
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.batch.poll(context).map(|result| self.of_record(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_records_of_a_batch_are_told_their_own_offset() {
        let batch = Arc::new(BatchState::new(3));
        let first = Delivery::new(batch.clone(), 0, 10);
        let second = Delivery::new(batch.clone(), 1, 11);
        let waiting = tokio::spawn(first.clone());
        tokio::task::yield_now().await;
        assert!(second.result().is_none());
        batch.complete(Ok(Stored {
            base_offset: 40,
            log_append_time: None,
        }));
        batch.complete(Err(Error::closed("producer")));
        assert_eq!(
            waiting.await.unwrap().unwrap(),
            RecordMetadata {
                partition: 3,
                offset: 40,
                timestamp: 10
            }
        );
        assert_eq!(
            second.await.unwrap(),
            RecordMetadata {
                partition: 3,
                offset: 41,
                timestamp: 11
            }
        );
    }

    #[test]
    fn an_unknown_offset_stays_unknown_and_the_brokers_time_wins() {
        let batch = Arc::new(BatchState::new(0));
        let delivery = Delivery::new(batch.clone(), 5, 1);
        batch.complete(Ok(Stored {
            base_offset: -1,
            log_append_time: Some(99),
        }));
        let told = delivery.result().unwrap().unwrap();
        assert_eq!((told.offset, told.timestamp), (-1, 99));
    }
}
