//! The result of a benchmark.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::latency::Percentiles;

const MIB: f64 = 1_048_576.0;

/// What a benchmark prints.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    records: u64,
    /// Of keys and values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    mib_per_second: f64,
    /// Of this process, all threads, user and system.
    cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
}

/// A measurement under way.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: process_cpu(),
        }
    }

    /// Ends now.
    pub fn report(self, records: u64, bytes: u64, latency_ms: Option<Percentiles>) -> Report {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        Report {
            records,
            bytes,
            seconds: sensible(seconds),
            records_per_second: sensible(records as f64 / seconds),
            mib_per_second: sensible(bytes as f64 / MIB / seconds),
            cpu_seconds: sensible(process_cpu().saturating_sub(self.cpu).as_secs_f64()),
            latency_ms,
        }
    }
}

/// Four digits, and for large numbers all those before the point: more would be noise.
fn sensible(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let before_point = number.abs().log10().floor() as i32 + 1;
    let scale = 10_f64.powi((4 - before_point).clamp(0, 9));
    (number * scale).round() / scale
}

/// The CPU time that this process has used: what getrusage tells as user and system time, but
/// with nanoseconds.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_digits_that_mean_something() {
        for (number, told) in [
            (0.0, 0.0),
            (123_456.789, 123_457.0),
            (117.738_1, 117.7),
            (2.123_456, 2.123),
            (0.012_345_6, 0.012_35),
        ] {
            assert!((sensible(number) - told).abs() < 1e-12, "{number}");
        }
    }

    #[test]
    fn rates_fit_time() {
        let watch = Stopwatch::start();
        let mut sum = 0_u64;
        while watch.started.elapsed() < Duration::from_millis(30) {
            sum = std::hint::black_box(sum + 1);
        }
        let report = watch.report(1000, 1 << 20, None);
        assert!((report.records_per_second * report.seconds / 1000.0 - 1.0).abs() < 2e-3);
        assert!((report.mib_per_second * report.seconds - 1.0).abs() < 2e-3);
        assert!(report.cpu_seconds > 0.001, "{}", report.cpu_seconds);
        assert!(!serde_json::to_string(&report).unwrap().contains("latency"));
    }
}
