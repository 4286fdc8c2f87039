//! What the broker counts, in Prometheus' text format. Names follow Prometheus' naming
//! practice: a unit at the end, `_total` for counters.

mod group_lags;

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use group_lags::{GroupLag, GroupLagGauges, GroupLags};

use crate::memory::MemoryGauges;

/// A floating-point gauge.
type FloatGauge = Gauge<f64, AtomicU64>;

/// The label of what belongs to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// The topic's name.
    pub topic: String,
}

/// The label of failed calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The error's reason.
    pub reason: String,
}

/// The label of groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// What they are in.
    pub state: &'static str,
}

/// All metrics of one broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Bytes appended, by topic.
    pub appended_bytes: Family<TopicLabel, Counter>,
    /// Batches appended, by topic.
    pub appended_batches: Family<TopicLabel, Counter>,
    /// Bytes appended that were fetched from leaders.
    pub replicated_bytes: Counter,
    /// Bytes read for clients, by topic.
    pub fetched_bytes: Family<TopicLabel, Counter>,
    /// Failed items of calls, by reason.
    pub errors: Family<ReasonLabel, Counter>,
    /// Time of a flush.
    pub flush_seconds: Histogram,
    /// Time from append to acknowledgement with acks=all.
    pub acknowledge_seconds: Histogram,
    /// Open client connections.
    pub connections: Gauge,
    /// The memory of calls.
    pub memory: MemoryGauges,
    /// Partitions held.
    pub partitions: Gauge,
    /// Partitions held that can't be used.
    pub offline_partitions: Gauge,
    /// Partitions led here.
    pub led_partitions: Gauge,
    /// Of these, those with replicas that are not in sync.
    pub under_replicated_partitions: Gauge,
    /// Of these, those that take no writes with acks=all.
    pub under_min_isr_partitions: Gauge,
    /// Consumer groups coordinated here, by state.
    pub groups: Family<StateLabel, Gauge>,
    /// Members of these.
    pub group_members: Gauge,
    /// What the coordinators here take of their memory budget.
    pub group_state_bytes: Gauge,
    /// Replicas that the groups' topic lacks to what the configuration asks for.
    pub group_topic_lacking_replicas: Gauge,
    /// How far these groups are behind.
    pub group_lags: GroupLagGauges,
    /// Offsets that were committed.
    pub group_commits: Counter,
    /// Coordinators that have read their records.
    pub group_loads: Counter,
    /// Coordinators that could not read their records.
    pub group_load_failures: Counter,
    /// Bytes free on the disk.
    pub disk_available_bytes: FloatGauge,
    /// Bytes of all logs.
    pub log_bytes: FloatGauge,
    /// Rounds of compaction that came to their end.
    pub compactions: Counter,
    /// Attempts to compact a log that failed.
    pub compaction_failures: Counter,
    /// Bytes read by compaction.
    pub compaction_read: Counter,
    /// Bytes written by compaction.
    pub compaction_written: Counter,
    /// The largest share of a log that was not compacted yet.
    pub compaction_max_dirty_ratio: FloatGauge,
    /// Partitions whose last compaction failed.
    pub compaction_failing: Gauge,
    /// Time that reading the logs took at start.
    pub recovery_seconds: FloatGauge,
    /// Bytes scanned at start.
    pub recovered_bytes: Gauge,
    /// Whether the last stop was clean.
    pub clean_start: Gauge,
    /// The metadata's last applied index.
    pub metadata_applied_index: Gauge,
    /// Whether the metadata quorum has a leader.
    pub metadata_has_leader: Gauge,
}

/// 50 µs to about 26 s, doubling.
fn time_buckets() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(50e-6, 2.0, 20)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("millrace");
        let metrics = Self {
            appended_bytes: Family::default(),
            appended_batches: Family::default(),
            replicated_bytes: Counter::default(),
            fetched_bytes: Family::default(),
            errors: Family::default(),
            flush_seconds: Histogram::new(time_buckets()),
            acknowledge_seconds: Histogram::new(time_buckets()),
            connections: Gauge::default(),
            memory: MemoryGauges::default(),
            partitions: Gauge::default(),
            offline_partitions: Gauge::default(),
            led_partitions: Gauge::default(),
            under_replicated_partitions: Gauge::default(),
            under_min_isr_partitions: Gauge::default(),
            groups: Family::default(),
            group_members: Gauge::default(),
            group_state_bytes: Gauge::default(),
            group_topic_lacking_replicas: Gauge::default(),
            group_lags: GroupLagGauges::default(),
            group_commits: Counter::default(),
            group_loads: Counter::default(),
            group_load_failures: Counter::default(),
            disk_available_bytes: FloatGauge::default(),
            log_bytes: FloatGauge::default(),
            compactions: Counter::default(),
            compaction_failures: Counter::default(),
            compaction_read: Counter::default(),
            compaction_written: Counter::default(),
            compaction_max_dirty_ratio: FloatGauge::default(),
            compaction_failing: Gauge::default(),
            recovery_seconds: FloatGauge::default(),
            recovered_bytes: Gauge::default(),
            clean_start: Gauge::default(),
            metadata_applied_index: Gauge::default(),
            metadata_has_leader: Gauge::default(),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        let bytes = || Unit::Bytes;
        registry.register_with_unit(
            "appended",
            "Bytes of record batches appended by clients",
            bytes(),
            self.appended_bytes.clone(),
        );
        registry.register(
            "appended_batches",
            "Record batches appended by clients",
            self.appended_batches.clone(),
        );
        registry.register_with_unit(
            "replicated",
            "Bytes of record batches appended that were fetched from leaders",
            bytes(),
            self.replicated_bytes.clone(),
        );
        registry.register_with_unit(
            "fetched",
            "Bytes of record batches read for clients",
            bytes(),
            self.fetched_bytes.clone(),
        );
        registry.register(
            "request_errors",
            "Items of requests that failed, by reason",
            self.errors.clone(),
        );
        registry.register_with_unit(
            "log_flush_duration",
            "Time to force a partition's written data to the disk",
            Unit::Seconds,
            self.flush_seconds.clone(),
        );
        registry.register_with_unit(
            "produce_acknowledge_duration",
            "Time from append to acknowledgement by all in-sync replicas",
            Unit::Seconds,
            self.acknowledge_seconds.clone(),
        );
        registry.register("connections", "Open client connections", self.connections.clone());
        self.memory.register(registry);
        registry.register("partitions", "Partitions held by this broker", self.partitions.clone());
        registry.register(
            "offline_partitions",
            "Partitions held by this broker that can't be used",
            self.offline_partitions.clone(),
        );
        registry.register(
            "led_partitions",
            "Partitions that this broker leads",
            self.led_partitions.clone(),
        );
        registry.register(
            "under_replicated_partitions",
            "Partitions that this broker leads and that have replicas out of sync",
            self.under_replicated_partitions.clone(),
        );
        registry.register(
            "under_min_isr_partitions",
            "Partitions that this broker leads and that have too few replicas in sync for acks=all",
            self.under_min_isr_partitions.clone(),
        );
        self.register_groups(registry);
        registry.register_with_unit(
            "disk_available",
            "Bytes free on the disk of the data directory",
            bytes(),
            self.disk_available_bytes.clone(),
        );
        registry.register_with_unit(
            "log_size",
            "Bytes of all partitions' segments",
            bytes(),
            self.log_bytes.clone(),
        );
        self.register_compaction(registry);
        registry.register_with_unit(
            "recovery_scanned",
            "Bytes that were scanned by CRC when this broker started",
            bytes(),
            self.recovered_bytes.clone(),
        );
        registry.register_with_unit(
            "log_recovery",
            "Time that opening and recovering all logs took when this broker started",
            Unit::Seconds,
            self.recovery_seconds.clone(),
        );
        registry.register(
            "clean_start",
            "1 if the last stop of this broker was clean, else 0",
            self.clean_start.clone(),
        );
        registry.register(
            "metadata_applied_index",
            "Last metadata entry applied by this broker",
            self.metadata_applied_index.clone(),
        );
        registry.register(
            "metadata_has_leader",
            "1 if the metadata quorum has a leader, else 0",
            self.metadata_has_leader.clone(),
        );
    }

    fn register_compaction(&self, registry: &mut Registry) {
        registry.register(
            "log_compactions",
            "Rounds of compaction that came to their end",
            self.compactions.clone(),
        );
        registry.register(
            "log_compaction_failures",
            "Attempts to compact a partition's log that failed",
            self.compaction_failures.clone(),
        );
        registry.register_with_unit(
            "log_compaction_read",
            "Bytes of segments read by compaction",
            Unit::Bytes,
            self.compaction_read.clone(),
        );
        registry.register_with_unit(
            "log_compaction_written",
            "Bytes of segments written by compaction",
            Unit::Bytes,
            self.compaction_written.clone(),
        );
        registry.register(
            "log_compaction_max_dirty_ratio",
            "Of all compacted topics' partitions here, the largest share of a log's sealed segments that was not compacted yet",
            self.compaction_max_dirty_ratio.clone(),
        );
        registry.register(
            "log_compaction_failing_partitions",
            "Partitions whose last compaction failed",
            self.compaction_failing.clone(),
        );
    }

    fn register_groups(&self, registry: &mut Registry) {
        registry.register(
            "consumer_groups",
            "Consumer groups that this broker coordinates, by state",
            self.groups.clone(),
        );
        registry.register(
            "consumer_group_members",
            "Members of the consumer groups that this broker coordinates",
            self.group_members.clone(),
        );
        registry.register(
            "consumer_group_state_bytes",
            "About how much memory the consumer groups take that this broker coordinates, of group.coordinator.state.max.bytes",
            self.group_state_bytes.clone(),
        );
        registry.register(
            "consumer_group_topic_lacking_replicas",
            "Replicas that a partition of __consumer_offsets lacks to this broker's offsets.topic.replication.factor: it was made while there were fewer brokers, or altered since",
            self.group_topic_lacking_replicas.clone(),
        );
        registry.register_collector(Box::new(self.group_lags.clone()));
        registry.register(
            "consumer_group_commits",
            "Offsets of partitions that were committed here",
            self.group_commits.clone(),
        );
        registry.register(
            "consumer_group_coordinator_loads",
            "Coordinators of consumer groups that have read their records here",
            self.group_loads.clone(),
        );
        registry.register(
            "consumer_group_coordinator_load_failures",
            "Coordinators of consumer groups that could not read their records here",
            self.group_load_failures.clone(),
        );
    }

    /// All metrics in Prometheus' text format (OpenMetrics 1.0).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("metrics can't be written");
        }
        text
    }

    /// Counts a failed item.
    pub fn count_error(&self, error: &crate::error::ApiError) {
        let reason = error.reason().reason_name().to_owned();
        self.errors.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts bytes read for clients.
    pub fn count_fetched(&self, topic: &str, bytes: usize) {
        if bytes > 0 {
            let label = TopicLabel {
                topic: topic.to_owned(),
            };
            self.fetched_bytes.get_or_create(&label).inc_by(bytes as u64);
        }
    }

    /// Forgets a topic's series.
    pub fn forget_topic(&self, topic: &str) {
        let label = TopicLabel {
            topic: topic.to_owned(),
        };
        self.appended_bytes.remove(&label);
        self.appended_batches.remove(&label);
        self.fetched_bytes.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_help_and_units() {
        let metrics = Metrics::default();
        metrics
            .appended_bytes
            .get_or_create(&TopicLabel { topic: "t".into() })
            .inc_by(5);
        let text = metrics.render();
        assert!(
            text.contains("# HELP millrace_appended_bytes Bytes of record batches"),
            "{text}"
        );
        assert!(text.contains("# UNIT millrace_appended_bytes bytes"), "{text}");
        assert!(text.contains("millrace_appended_bytes_total{topic=\"t\"} 5"), "{text}");
        metrics.forget_topic("t");
        assert!(!metrics.render().contains("topic=\"t\""));
    }
}
