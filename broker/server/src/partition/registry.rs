//! All partitions of this broker, kept as the metadata says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use millrace_engine::{BrokerId, Cluster, Topic, TopicConfig, config::TimestampKind};
use millrace_log::{CleanupPolicy, LogConfig, LogDir};
use millrace_proto::{batch::TimestampType, v1::ErrorReason};
use parking_lot::{Mutex, RwLock};

use super::{Flusher, Partition, errors, removal::Removal};
use crate::{
    error::{ApiError, unknown_topic},
    metrics::Metrics,
    replication::{Key, Replication},
};

/// The partitions of this broker.
pub struct Partitions {
    pub(super) node_id: BrokerId,
    pub(super) dir: Arc<LogDir>,
    pub(super) removal: Arc<Removal>,
    pub(super) topics: RwLock<HashMap<String, Hosted>>,
    /// The same partitions, as other brokers name them.
    pub(super) by_key: RwLock<HashMap<Key, Arc<Partition>>>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) metrics: Arc<Metrics>,
    /// Partitions opened so far and to be opened, for the readiness report.
    pub(super) opening: (AtomicUsize, AtomicUsize),
    /// Partitions that the metadata places here and that could not be opened.
    pub(super) unopened: AtomicUsize,
    pub(super) replication: Arc<Replication>,
    /// Counts what may change which partitions are flushed every `flush.ms`: openings, and new settings.
    pub(super) settings_changes: AtomicU64,
    /// The version that was carried out last; held while one is.
    pub(super) reconciling: Mutex<Option<Arc<Cluster>>>,
}

/// A topic, and the partitions of it that this broker holds.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) topic: Arc<Topic>,
    pub(super) partitions: BTreeMap<i32, Arc<Partition>>,
}

impl Hosted {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        Self {
            topic,
            partitions: BTreeMap::new(),
        }
    }
}

impl Partitions {
    /// No partitions yet, over a log directory.
    pub fn new(
        node_id: BrokerId,
        dir: Arc<LogDir>,
        flusher: Arc<Flusher>,
        metrics: Arc<Metrics>,
        replication: Arc<Replication>,
    ) -> Self {
        Self {
            node_id,
            dir,
            removal: Arc::default(),
            topics: RwLock::default(),
            by_key: RwLock::default(),
            flusher,
            metrics,
            opening: (AtomicUsize::new(0), AtomicUsize::new(0)),
            unopened: AtomicUsize::new(0),
            replication,
            settings_changes: AtomicU64::new(0),
            reconciling: Mutex::new(None),
        }
    }

    /// The partition, if this broker leads it.
    ///
    /// # Errors
    /// Unknown topic or partition, or led by another broker.
    pub fn find(&self, topic: &str, number: i32) -> Result<Arc<Partition>, ApiError> {
        self.find_checked(topic, &[], number)
    }

    /// The partition, if this broker leads it and the topic has this id (16 bytes; empty:
    /// any).
    ///
    /// # Errors
    /// Unknown topic, id or partition, or led by another broker.
    pub fn find_checked(&self, topic: &str, id: &[u8], number: i32) -> Result<Arc<Partition>, ApiError> {
        let topics = self.topics.read();
        let hosted = topics.get(topic).ok_or_else(|| self.not_hosted(topic, id))?;
        if !id.is_empty() && id != hosted.topic.id.as_bytes() {
            if id.len() != 16 {
                return Err(ApiError::field("topic_id", "must have 16 bytes, or be empty"));
            }
            if let Some(error) = self.not_carried_out(topic, id) {
                return Err(error);
            }
            return Err(ApiError::new(
                ErrorReason::UnknownTopic,
                format!("Topic {topic:?} has another id: it was deleted and created anew; fetch metadata again."),
            ));
        }
        if let Some(partition) = hosted.partitions.get(&number) {
            // One whose disk failed says so itself.
            if partition.leads() || partition.log.offline().is_some() {
                return Ok(partition.clone());
            }
        }
        let count = hosted.topic.partitions.len();
        let known = usize::try_from(number)
            .ok()
            .and_then(|at| hosted.topic.partitions.get(at));
        Err(match known {
            None => errors::unknown_partition(topic, number, count),
            Some(record) => {
                let leader = record.leader.filter(|leader| *leader != self.node_id);
                errors::not_leader(topic, number, leader, record.leader_epoch, &self.replication.cluster())
            }
        })
    }

    /// Why a topic is not among those that this broker has taken over from the metadata.
    fn not_hosted(&self, topic: &str, id: &[u8]) -> ApiError {
        self.not_carried_out(topic, id).unwrap_or_else(|| unknown_topic(topic))
    }

    /// Partitions follow the metadata a moment later: what is there already must not be called
    /// unknown.
    fn not_carried_out(&self, topic: &str, id: &[u8]) -> Option<ApiError> {
        let cluster = self.replication.cluster();
        let known = cluster.topics.get(topic)?;
        (id.is_empty() || id == known.id.as_bytes()).then(|| {
            ApiError::new(
                ErrorReason::BrokerNotReady,
                format!("This broker is about to take over topic {topic:?}: try again."),
            )
        })
    }

    /// The replica that this broker holds, leader or not.
    #[must_use]
    pub fn find_replica(&self, key: Key) -> Option<Arc<Partition>> {
        self.by_key.read().get(&key).cloned()
    }

    /// The settings in force of a partition that the metadata knows, wherever it is led.
    ///
    /// # Errors
    /// The topic has no such partition, or settings that can't be used.
    pub fn config_of(&self, cluster: &Cluster, topic: &Topic, number: i32) -> Result<Arc<TopicConfig>, ApiError> {
        let count = topic.partitions.len();
        let at = u32::try_from(number).ok().filter(|at| (*at as usize) < count);
        let at = at.ok_or_else(|| errors::unknown_partition(&topic.name, number, count))?;
        match self.find_replica((topic.id, at)) {
            Some(partition) => Ok(partition.config()),
            None => Ok(Arc::new(TopicConfig::parse(&topic.configs, &cluster.topic_defaults)?)),
        }
    }

    /// All partitions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Partition>> {
        let topics = self.topics.read();
        topics
            .values()
            .flat_map(|hosted| hosted.partitions.values().cloned())
            .collect()
    }

    /// How many partitions there are.
    #[must_use]
    pub fn held(&self) -> usize {
        let topics = self.topics.read();
        topics.values().map(|hosted| hosted.partitions.len()).sum()
    }

    /// The topics of which there are partitions.
    #[must_use]
    pub fn topic_names(&self) -> Vec<String> {
        self.topics.read().keys().cloned().collect()
    }

    /// The partitions of one topic.
    #[must_use]
    pub fn of_topic(&self, topic: &str) -> Vec<Arc<Partition>> {
        let topics = self.topics.read();
        let hosted = topics.get(topic);
        hosted.map_or_else(Vec::new, |hosted| hosted.partitions.values().cloned().collect())
    }

    /// How many partitions are open, and how many shall be.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (
            self.opening.0.load(Ordering::Relaxed),
            self.opening.1.load(Ordering::Relaxed),
        )
    }

    /// How many partitions should be here and could not be opened.
    #[must_use]
    pub fn unopened(&self) -> usize {
        self.unopened.load(Ordering::Relaxed)
    }

    /// Sets the gauges of how many partitions are held, and how many of them can't be used: also those of a data
    /// directory that went offline meanwhile.
    pub fn count(&self) {
        let held = self.held();
        let offline = offline_partitions(
            held,
            self.unopened.load(Ordering::Relaxed),
            self.dir.offline().is_some(),
        );
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.partitions.set(gauge(held));
        self.metrics.offline_partitions.set(gauge(offline));
    }
}

/// How many partitions can't be used, of `held` ones that are open and `unopened` ones that could not be.
fn offline_partitions(held: usize, unopened: usize, directory_is_offline: bool) -> usize {
    unopened + if directory_is_offline { held } else { 0 }
}

/// A log's settings from its topic's.
#[must_use]
pub fn log_config(config: &TopicConfig) -> LogConfig {
    let bound = |ms: i64| Some(ms).filter(|ms| *ms < i64::MAX);
    LogConfig {
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms,
        segment_index_bytes: config.segment_index_bytes,
        index_interval_bytes: config.index_interval_bytes,
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        cleanup_policy: CleanupPolicy {
            delete: config.cleanup.delete,
            compact: config.cleanup.compact,
        },
        min_compaction_lag_ms: config.min_compaction_lag_ms,
        max_compaction_lag_ms: config.max_compaction_lag_ms,
        delete_retention_ms: config.delete_retention_ms,
        min_cleanable_dirty_ppm: config.min_cleanable_dirty_ppm,
        max_message_bytes: config.max_message_bytes,
        timestamp_type: match config.timestamp_kind {
            TimestampKind::CreateTime => TimestampType::CreateTime,
            TimestampKind::LogAppendTime => TimestampType::LogAppendTime,
        },
        message_timestamp_before_max_ms: bound(config.timestamp_before_max_ms),
        message_timestamp_after_max_ms: bound(config.timestamp_after_max_ms),
        ..LogConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_of_an_offline_directory_are_offline() {
        assert_eq!(offline_partitions(5, 0, false), 0);
        assert_eq!(offline_partitions(5, 2, false), 2);
        assert_eq!(offline_partitions(5, 2, true), 7);
    }
}
