//! Work that keeps a thread for long, and whose turn it is.
//!
//! The threads that serve calls also send heartbeats, keep leases and run the quorum's timers, so what takes long
//! goes aside. Work of codecs takes turns besides: many large batches at once would leave no processor to anything
//! else, and each holds memory while it is looked at.
//!
//! A turn is held for work alone: never while waiting for memory or for who takes an answer.

use std::{
    num::NonZero,
    sync::{Arc, LazyLock},
    thread,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{error::ApiError, limits};

/// Turns at decompressing and compressing, of the whole process.
pub static CODECS: LazyLock<Turns> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Turns::new(cores.min(limits::CODEC_TURNS))
});

/// Turns at finding records by their time, which reads from the disk and may decompress a batch.
pub static LOOKUPS: LazyLock<Turns> = LazyLock::new(|| Turns::new(limits::TIME_LOOKUPS));

/// Turns at looking up the times of batches for lags, some dozens each.
pub static BATCH_TIMES: LazyLock<Turns> = LazyLock::new(|| Turns::new(limits::BATCH_TIME_LOOKUPS));

/// Turns at matching patterns with the names of all topics.
pub static PATTERNS: LazyLock<Turns> = LazyLock::new(|| Turns::new(limits::PATTERNS_AT_ONCE));

/// Turns, which come in the order in which they are asked for.
#[derive(Debug)]
pub struct Turns(Arc<Semaphore>);

/// The right to work now; dropped, the next one's turn comes.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// As many turns at once.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Does work when its turn comes, on a thread that may be kept. The work drops its turn, or hands it on to a
    /// caller who at once does more of it. Work that nobody waits for any more is not begun.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(Turn) -> T + Send + 'static) -> Result<T, ApiError> {
        let turns = self.0.clone();
        // In a task of its own: to a caller who is busy elsewhere, with an answer that its reader does not take, a
        // turn may come that he does not notice, and all others would wait for him.
        let working = tokio::spawn(async move {
            // The semaphore is never closed, which would be the only error.
            let turn = Turn {
                _permit: turns.acquire_owned().await.ok(),
            };
            task::spawn_blocking(move || work(turn)).await
        });
        match AbortOnDropHandle::new(working).await {
            Ok(Ok(worked)) => Ok(worked),
            Ok(Err(error)) | Err(error) => Err(ApiError::internal("working on records", &error)),
        }
    }
}

/// Does work that may take long on this thread, while another one goes on with this one's other tasks. Costs some
/// microseconds. On a runtime with one thread there is no other.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => task::block_in_place(work),
        _ => work(),
    }
}

/// Lets other tasks run, amidst steps that wait for nothing; `bytes` is what the last one worked on.
pub async fn pause(bytes: usize) {
    if bytes >= limits::PAUSE_BYTES {
        task::yield_now().await;
    } else {
        task::consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use futures::{FutureExt as _, future::join_all};

    use super::*;

    /// Ends once it is told to; tells that it has begun.
    fn work_until_told() -> (
        impl FnOnce(Turn) + Send + 'static,
        tokio::sync::oneshot::Receiver<()>,
        mpsc::Sender<()>,
    ) {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (end, ends) = mpsc::channel();
        let work = move |_turn| {
            begun.send(()).unwrap();
            let _ = ends.recv_timeout(Duration::from_secs(60));
        };
        (work, has_begun, end)
    }

    /// Has begun work that keeps a turn until it is told to end.
    async fn keep_the_turn(turns: &Turns) -> (impl Future<Output = Result<(), ApiError>>, mpsc::Sender<()>) {
        let (work, has_begun, end) = work_until_told();
        let mut working = Box::pin(turns.run(work));
        assert!(working.as_mut().now_or_never().is_none());
        has_begun.await.unwrap();
        (working, end)
    }

    #[tokio::test]
    async fn timers_go_on_beside_work() {
        let turns = Turns::new(1);
        let (work, has_begun, end) = work_until_told();
        let on_time = async {
            has_begun.await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            end.send(()).unwrap();
        };
        let (worked, ()) = tokio::join!(turns.run(work), on_time);
        worked.unwrap();
    }

    #[tokio::test]
    async fn few_work_at_once() {
        let turns = Turns::new(2);
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let working = (0..16).map(|_| {
            let counts = counts.clone();
            turns.run(move |_turn| {
                let running = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_max(running, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                counts.0.fetch_sub(1, Ordering::SeqCst);
            })
        });
        assert!(join_all(working).await.into_iter().all(|worked| worked.is_ok()));
        assert!(counts.1.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_looks_for_holds_up_nobody() {
        let turns = Turns::new(1);
        let (first, end) = keep_the_turn(&turns).await;
        let mut busy_elsewhere = Box::pin(turns.run(|_turn| 1));
        assert!(busy_elsewhere.as_mut().now_or_never().is_none());
        end.send(()).unwrap();
        assert_eq!(turns.run(|_turn| 2).await.unwrap(), 2);
        assert_eq!(busy_elsewhere.await.unwrap(), 1);
        first.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_begun() {
        let turns = Turns::new(1);
        let (_first, end) = keep_the_turn(&turns).await;
        let (held, dropped) = mpsc::channel::<()>();
        let mut gone = Box::pin(turns.run(move |_turn| held.send(())));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        end.send(()).unwrap();
        turns.run(|_turn| ()).await.unwrap();
        assert_eq!(dropped.recv(), Err(mpsc::RecvError), "it was begun");
    }

    #[tokio::test]
    async fn a_panic_gives_its_turn_back() {
        let turns = Turns::new(1);
        assert!(turns.run(|_turn| panic!("as tested")).await.is_err());
        assert!(turns.run(|_turn| ()).await.is_ok());
    }

    #[test]
    fn other_tasks_go_on_beside_what_is_done_aside() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (send, receive) = mpsc::channel();
        let working = runtime.spawn(async move {
            tokio::spawn(async move { send.send(()) });
            aside(|| receive.recv_timeout(Duration::from_secs(60)))
        });
        assert_eq!(runtime.block_on(working).unwrap(), Ok(()), "the only thread was kept");
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(single.block_on(async { aside(|| 1) }), 1);
    }
}
