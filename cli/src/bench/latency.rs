//! Latencies in a histogram.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::limits::MAX_LATENCY_US;

/// Latencies with three significant digits, in microseconds.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

impl Latencies {
    /// No latency yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)?))
    }

    /// Adds one. What is beyond the histogram's bounds counts as the bound.
    pub fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// The percentiles; zeros if there are none.
    pub fn percentiles(&self) -> Percentiles {
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile: f64| ms(self.0.value_at_quantile(quantile).min(self.0.max()));
        Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(self.0.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latencies = Latencies::new().unwrap();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us * 10));
        }
        latencies.record(Duration::from_secs(1 << 40));
        let percentiles = latencies.percentiles();
        assert!((percentiles.p50 - 5.0).abs() < 0.02, "{percentiles:?}");
        assert!((percentiles.p99 - 9.9).abs() < 0.03, "{percentiles:?}");
        assert!(percentiles.max >= 599_000.0, "{percentiles:?}");
        assert!(percentiles.p50 <= percentiles.p99 && percentiles.p99 <= percentiles.p99_9);
    }

    #[test]
    fn without_latencies_they_are_zero() {
        assert_eq!(
            Latencies::new().unwrap().percentiles(),
            Percentiles {
                p50: 0.0,
                p99: 0.0,
                p99_9: 0.0,
                max: 0.0
            }
        );
    }
}
