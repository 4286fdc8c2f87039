//! What Prometheus is told of the operator. How objects are stands in their status, where kube-state-metrics finds it.

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Of which kind an object is that passes look after. What is counted by kind begins at 0: Prometheus sees no increase in a
/// counter that appears with its first count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reconciled {
    /// Clusters.
    Cluster,
    /// Topics.
    Topic,
}

/// Why a broker is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Restart {
    /// It is to have another template.
    Roll,
    /// It does not come up with the template that it has, and there is another.
    Stuck,
}

/// Which kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Reconciled,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfObject {
    kind: Reconciled,
    namespace: String,
    name: String,
}

/// Which check holds something up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGate {
    gate: &'static str,
}

/// Which reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: Restart,
}

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    durations: Family<OfKind, Histogram, fn() -> Histogram>,
    errors: Family<OfKind, Counter>,
    last_success: Family<OfKind, Gauge<f64, AtomicU64>>,
    started: Family<OfObject, Gauge<f64, AtomicU64>>,
    blocked: Family<OfGate, Counter>,
    restarts: Family<OfReason, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("millrace_operator");
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 4.0, 9));
        let durations = Family::new_with_constructor(buckets);
        registry.register_with_unit(
            "reconcile_duration",
            "How long passes over one object took",
            Unit::Seconds,
            durations.clone(),
        );
        let errors = Family::<OfKind, Counter>::default();
        for kind in [Reconciled::Cluster, Reconciled::Topic] {
            drop(errors.get_or_create(&OfKind { kind }));
        }
        registry.register("reconcile_errors", "Passes that failed", errors.clone());
        let last_success = Family::default();
        registry.register_with_unit(
            "last_success_timestamp",
            "When a pass last succeeded, in seconds since 1970",
            Unit::Seconds,
            last_success.clone(),
        );
        let started = Family::default();
        registry.register_with_unit(
            "reconcile_start_time",
            "When the pass that is under way began, in seconds since 1970",
            Unit::Seconds,
            started.clone(),
        );
        let blocked = Family::default();
        registry.register("blocked", "Passes in which a check held something up", blocked.clone());
        let restarts = Family::<OfReason, Counter>::default();
        for reason in [Restart::Roll, Restart::Stuck] {
            drop(restarts.get_or_create(&OfReason { reason }));
        }
        registry.register(
            "broker_restarts",
            "Brokers that were evicted to restart them",
            restarts.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 if this operator works, 0 if it stands by", leader.clone());
        Self {
            registry,
            durations,
            errors,
            last_success,
            started,
            blocked,
            restarts,
            leader,
        }
    }
}

impl Metrics {
    /// A pass over an object begins, or has ended.
    pub fn running(&self, kind: Reconciled, namespace: &str, name: &str, since_epoch: Option<f64>) {
        let object = OfObject {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        match since_epoch {
            Some(seconds) => {
                self.started.get_or_create(&object).set(seconds);
            }
            None => {
                self.started.remove(&object);
            }
        }
    }

    /// A pass has ended.
    pub fn passed(&self, kind: Reconciled, took: Duration, failed: bool, now_since_epoch: f64) {
        let kind = OfKind { kind };
        self.durations.get_or_create(&kind).observe(took.as_secs_f64());
        if failed {
            self.errors.get_or_create(&kind).inc();
        } else {
            self.last_success.get_or_create(&kind).set(now_since_epoch);
        }
    }

    /// A check held something up.
    pub fn blocked(&self, gate: &'static str) {
        self.blocked.get_or_create(&OfGate { gate }).inc();
    }

    /// A broker was evicted.
    pub fn restarted(&self, reason: Restart) {
        self.restarts.get_or_create(&OfReason { reason }).inc();
    }

    /// Whether this operator works or stands by.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All of it in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            let _ = write!(out, "# {error}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_alerted_by_is_counted_from_the_start() {
        let text = Metrics::default().text();
        for counter in [
            "reconcile_errors_total{kind=\"Cluster\"} 0",
            "reconcile_errors_total{kind=\"Topic\"} 0",
            "broker_restarts_total{reason=\"Roll\"} 0",
            "broker_restarts_total{reason=\"Stuck\"} 0",
        ] {
            assert!(
                text.contains(&format!("\nmillrace_operator_{counter}\n")),
                "{counter}: {text}"
            );
        }
    }
}
