//! The longest time without an acknowledgement, while messages are sent. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// Watches one partition, or all.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    /// The last acknowledgement, or when sending went on; none while there is nothing to wait for.
    last: Option<Instant>,
    longest: Duration,
    paused: bool,
}

impl Gaps {
    /// A message was acknowledged.
    pub fn acknowledged(&mut self, now: Instant) {
        if self.paused {
            return;
        }
        self.note(now);
        self.last = Some(now);
    }

    /// Nothing is sent any more: no acknowledgement is waited for.
    pub fn pause(&mut self, now: Instant) {
        self.note(now);
        (self.last, self.paused) = (None, true);
    }

    /// Messages are sent again.
    pub fn resume(&mut self, now: Instant) {
        (self.last, self.paused) = (Some(now), false);
    }

    /// Forgets what was; the wait that is under way begins now.
    pub fn mark(&mut self, now: Instant) {
        self.longest = Duration::ZERO;
        self.last = self.last.map(|_| now);
    }

    /// The longest wait, also if it is not over.
    pub fn longest(&self, now: Instant) -> Duration {
        let present = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.longest.max(present)
    }

    fn note(&mut self, now: Instant) {
        self.longest = self.longest(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_counts_also_if_it_lasts() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut gaps = Gaps::default();
        assert_eq!(
            gaps.longest(at(9)),
            Duration::ZERO,
            "before the first one there is no gap"
        );
        gaps.acknowledged(at(10));
        gaps.acknowledged(at(13));
        assert_eq!(gaps.longest(at(14)), Duration::from_secs(3));
        assert_eq!(gaps.longest(at(20)), Duration::from_secs(7));
        gaps.mark(at(20));
        assert_eq!(gaps.longest(at(21)), Duration::from_secs(1));
    }

    #[test]
    fn a_pause_is_no_gap() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut gaps = Gaps::default();
        gaps.acknowledged(at(0));
        gaps.pause(at(1));
        gaps.acknowledged(at(2));
        assert_eq!(gaps.longest(at(50)), Duration::from_secs(1));
        gaps.resume(at(50));
        assert_eq!(
            gaps.longest(at(54)),
            Duration::from_secs(4),
            "what is sent again is waited for"
        );
    }
}
