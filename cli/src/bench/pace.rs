//! When records are due at a fixed rate.

use std::time::{Duration, Instant};

/// Records spread evenly over time. The schedule never waits for anybody: a latency counts from
/// when its record was due, so that a stall is seen by all records that it held up, and not only
/// by the one that was under way (Tene, "How NOT to Measure Latency": coordinated omission).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    per_second: f64,
}

impl Pace {
    /// `per_second` records, the first one at `start`.
    pub fn new(start: Instant, per_second: f64) -> Self {
        Self { start, per_second }
    }

    /// When the record with this number, from 0, is due.
    pub fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_spread_evenly() {
        let start = Instant::now();
        let pace = Pace::new(start, 1000.0);
        assert_eq!(pace.due(0), start);
        assert_eq!(pace.due(2500), start + Duration::from_millis(2500));
    }
}
