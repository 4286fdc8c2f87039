//! The bound on what a move may send to one follower (KIP-73).
//!
//! Only answers with records for a replica that a move adds, and that is not in sync, are held: no
//! producer waits for such a replica. An answer that is held for long goes out without records, so
//! that the follower does not give its fetch up; it asks again at once.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use super::{Key, limits, outlet::Ready};

/// Answers to one follower that wait for their turn.
#[derive(Debug)]
pub struct Throttle {
    held: Vec<Held>,
    /// When each partition was last sent records: whoever has waited for longest is next. Forgotten
    /// while nobody waits.
    served: HashMap<Key, Instant>,
    /// What was sent is paid for at this time.
    free_at: Instant,
}

#[derive(Debug)]
struct Held {
    ready: Ready,
    since: Instant,
}

impl Throttle {
    /// Nothing was sent yet.
    pub fn new(now: Instant) -> Self {
        Self {
            held: Vec::new(),
            served: HashMap::new(),
            free_at: now,
        }
    }

    /// An answer that waits.
    pub fn hold(&mut self, ready: Ready, now: Instant) {
        self.held.push(Held { ready, since: now });
    }

    /// An answer that may go out now: the one whose partition has waited for longest, or without
    /// records one that was held for long.
    pub fn next(&mut self, now: Instant) -> Option<Ready> {
        if self.free_at <= now {
            let waiting = self.held.iter().enumerate();
            let longest = waiting.min_by_key(|(_, held)| (self.served.get(&held.ready.key).copied(), held.since));
            return longest.map(|(at, _)| at).map(|at| self.held.swap_remove(at).ready);
        }
        let at = self
            .held
            .iter()
            .position(|held| held.since + limits::THROTTLED_AT_MOST <= now)?;
        Some(self.held.swap_remove(at).ready.without_records())
    }

    /// `bytes` of a partition were sent, at most `rate` of them a second.
    pub fn sent(&mut self, key: Key, bytes: usize, rate: NonZeroU64, now: Instant) {
        #[allow(clippy::cast_precision_loss, reason = "a time of sending")]
        let seconds = bytes as f64 / rate.get() as f64;
        let cost = Duration::try_from_secs_f64(seconds).unwrap_or(limits::THROTTLE_PAUSE_LONGEST);
        self.free_at = self.free_at.max(now) + cost.min(limits::THROTTLE_PAUSE_LONGEST);
        if self.held.is_empty() && self.served.len() >= limits::THROTTLE_REMEMBERED {
            self.served.clear();
        }
        self.served.insert(key, now);
    }

    /// When [`next`](Self::next) will have something; `None` if nothing waits.
    pub fn wake_at(&self) -> Option<Instant> {
        let oldest = self.held.iter().map(|held| held.since).min()?;
        Some(self.free_at.min(oldest + limits::THROTTLED_AT_MOST))
    }

    /// Forgets all that waits.
    pub fn clear(&mut self) {
        self.held.clear();
        self.served.clear();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::replication::outlet::ReadyOutcome;

    const RATE: NonZeroU64 = NonZeroU64::new(1_000).unwrap();

    fn key(partition: u32) -> Key {
        (Uuid::nil(), partition)
    }

    fn ready(partition: u32) -> Ready {
        let request = millrace_engine::partition::FetchRequest {
            replica: 1,
            broker_epoch: 1,
            leader_epoch: 1,
            sequence: 1,
            offset: 0,
            last_fetched_epoch: None,
            durable_end: 0,
            log_start: 0,
            high_watermark: 0,
        };
        Ready::refused(key(partition), &request, "stands for records")
    }

    fn next(throttle: &mut Throttle, now: Instant) -> Option<u32> {
        throttle.next(now).map(|ready| {
            assert!(matches!(ready.what, ReadyOutcome::Other(_)));
            ready.key.1
        })
    }

    #[test]
    fn what_was_sent_is_paid_for_before_more_goes_out() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        assert_eq!(throttle.wake_at(), None);
        throttle.hold(ready(0), start);
        assert_eq!(next(&mut throttle, start), Some(0));
        throttle.sent(key(0), 500, RATE, start);
        throttle.hold(ready(0), start);
        let paid = start + Duration::from_millis(500);
        assert_eq!(throttle.wake_at(), Some(paid));
        assert_eq!(next(&mut throttle, paid - Duration::from_millis(1)), None);
        assert_eq!(next(&mut throttle, paid), Some(0));
    }

    #[test]
    fn partitions_take_turns_and_those_that_wait_for_long_are_answered_meanwhile() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let mut sent = HashMap::<u32, u32>::new();
        for partition in 0..10 {
            throttle.hold(ready(partition), start);
        }
        // Each answer costs a second; what goes out, with records or without, is asked for anew.
        let mut answered_empty = 0;
        for ms in 0..40_000 {
            let now = start + Duration::from_millis(ms);
            while let Some(partition) = next(&mut throttle, now) {
                if throttle.free_at <= now {
                    *sent.entry(partition).or_default() += 1;
                    throttle.sent(key(partition), 1_000, RATE, now);
                } else {
                    answered_empty += 1;
                }
                throttle.hold(ready(partition), now);
            }
        }
        assert_eq!(sent.len(), 10, "{sent:?}");
        assert!(sent.values().all(|count| *count == 4), "{sent:?}");
        assert!(answered_empty > 100, "{answered_empty}");
    }

    #[test]
    fn a_bound_of_next_to_nothing_does_not_stop_for_ever() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        throttle.sent(key(0), usize::MAX, NonZeroU64::MIN, start);
        throttle.hold(ready(0), start);
        assert!(next(&mut throttle, start + limits::THROTTLE_PAUSE_LONGEST).is_some());
    }
}
