//! Searches that read from the disk for a while, away from the threads that serve calls, and only
//! a few at once.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::turns;

/// Takes turns.
#[derive(Debug)]
pub struct Searches {
    state: Mutex<State>,
    ended: Condvar,
    at_once: usize,
    waiting: usize,
    wait: Duration,
}

#[derive(Debug)]
struct State {
    running: usize,
    waiting: usize,
}

impl Searches {
    /// At most `at_once` run, at most `waiting` wait, each for at most `wait`.
    pub const fn new(at_once: usize, waiting: usize, wait: Duration) -> Self {
        Self {
            state: Mutex::new(State { running: 0, waiting: 0 }),
            ended: Condvar::new(),
            at_once,
            waiting,
            wait,
        }
    }

    /// Runs a search when its turn comes. `None` if it does not come in time or too many wait.
    /// On a runtime with several threads the others take over this one's tasks meanwhile.
    pub fn run<T>(&self, search: impl FnOnce() -> T) -> Option<T> {
        turns::aside(|| {
            let _turn = self.turn()?;
            Some(search())
        })
    }

    fn turn(&self) -> Option<Turn<'_>> {
        let deadline = Instant::now() + self.wait;
        let mut state = self.state.lock();
        if state.running >= self.at_once {
            if state.waiting >= self.waiting {
                return None;
            }
            state.waiting += 1;
            while state.running >= self.at_once && !self.ended.wait_until(&mut state, deadline).timed_out() {}
            state.waiting -= 1;
            if state.running >= self.at_once {
                return None;
            }
        }
        state.running += 1;
        Some(Turn(self))
    }
}

struct Turn<'a>(&'a Searches);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn few_run_at_once_and_few_wait() {
        let searches = Searches::new(2, 8, Duration::from_secs(60));
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let ran = searches.run(|| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(5));
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                    assert!(ran.is_some(), "two run and eight wait");
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(searches.run(|| 7), Some(7));
    }

    #[test]
    fn who_finds_no_turn_is_told_so() {
        let searches = Searches::new(1, 1, Duration::from_millis(20));
        let nested = searches.run(|| searches.run(|| ()));
        assert_eq!(
            nested,
            Some(None),
            "the only turn is taken for longer than anybody waits"
        );
        let full = Searches::new(1, 0, Duration::from_secs(60));
        assert_eq!(full.run(|| full.run(|| ())), Some(None), "nobody may wait");
    }

    #[test]
    fn other_tasks_go_on_meanwhile() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let searches = Arc::new(Searches::new(1, 1, Duration::from_secs(60)));
        let (send, receive) = std::sync::mpsc::channel();
        let search = runtime.spawn({
            let searches = searches.clone();
            async move {
                tokio::spawn(async move { send.send(()) });
                searches.run(|| receive.recv_timeout(Duration::from_secs(30)))
            }
        });
        let answer = runtime.block_on(search).unwrap();
        assert_eq!(answer, Some(Ok(())), "the runtime's only thread was kept by a search");
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(single.block_on(async { searches.run(|| 1) }), Some(1));
    }
}
