//! All partitions of this broker, kept as the metadata says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    thread,
};

use millrace_engine::{BrokerId, Cluster, Topic, TopicConfig, config::TimestampKind, partition::Leader};
use millrace_log::{Log, LogConfig, LogDir, OpenLogError, PartitionState, TopicPartition};
use millrace_proto::{batch::TimestampType, v1::ErrorReason};
use parking_lot::{Mutex, RwLock};

use super::{Flusher, Partition, committed::Waiters};
use crate::{
    error::{ApiError, unknown_topic},
    metrics::Metrics,
    quorum::METADATA_TOPIC,
};

/// Logs that are opened or created at once: each waits for the disk now and then.
const OPEN_THREADS: usize = 8;

/// The partitions of this broker.
pub struct Partitions {
    node_id: BrokerId,
    dir: Arc<LogDir>,
    topics: RwLock<HashMap<String, Hosted>>,
    defaults: BTreeMap<String, String>,
    flusher: Arc<Flusher>,
    metrics: Arc<Metrics>,
    /// Partitions opened so far and to be opened, for the readiness report.
    opening: (AtomicUsize, AtomicUsize),
    /// Partitions that the metadata places here and that could not be opened.
    unopened: AtomicUsize,
    /// Where each broker is, for those who ask here for another one's partition.
    addresses: RwLock<BTreeMap<BrokerId, String>>,
    /// One reconciliation at a time.
    reconciling: Mutex<()>,
}

/// A topic of which this broker holds partitions.
#[derive(Debug)]
struct Hosted {
    topic: Arc<Topic>,
    partitions: BTreeMap<i32, Arc<Partition>>,
}

/// A log to open or create.
struct Opening {
    topic: Arc<Topic>,
    number: u32,
    config: Arc<TopicConfig>,
}

impl Partitions {
    /// No partitions yet, over a log directory.
    pub fn new(
        node_id: BrokerId,
        dir: Arc<LogDir>,
        defaults: BTreeMap<String, String>,
        flusher: Arc<Flusher>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            node_id,
            dir,
            topics: RwLock::default(),
            defaults,
            flusher,
            metrics,
            opening: (AtomicUsize::new(0), AtomicUsize::new(0)),
            unopened: AtomicUsize::new(0),
            addresses: RwLock::default(),
            reconciling: Mutex::new(()),
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
        let hosted = topics.get(topic).ok_or_else(|| unknown_topic(topic))?;
        if !id.is_empty() && id != hosted.topic.id.as_bytes() {
            if id.len() != 16 {
                return Err(ApiError::field("topic_id", "must have 16 bytes, or be empty"));
            }
            return Err(ApiError::new(
                ErrorReason::UnknownTopic,
                format!("Topic {topic:?} has another id: it was deleted and created anew; fetch metadata again."),
            ));
        }
        if let Some(partition) = hosted.partitions.get(&number) {
            return Ok(partition.clone());
        }
        let count = hosted.topic.partitions.len();
        let known = usize::try_from(number)
            .ok()
            .and_then(|at| hosted.topic.partitions.get(at));
        Err(match known {
            None => ApiError::new(
                ErrorReason::UnknownPartition,
                format!(
                    "Topic {topic:?} has partitions 0 to {}; {number} is none of them.",
                    count.saturating_sub(1)
                ),
            )
            .with("partitions", count),
            Some(partition) => match partition.leader {
                Some(leader) if leader != self.node_id => ApiError::new(
                    ErrorReason::NotLeader,
                    format!("Broker {leader} leads partition {number}: fetch metadata and ask there."),
                )
                .with("leader", self.addresses.read().get(&leader).map_or("", String::as_str))
                .with("leader_id", leader)
                .with("leader_epoch", partition.leader_epoch),
                _ => ApiError::new(
                    ErrorReason::LeaderNotAvailable,
                    format!("Partition {number} of {topic:?} can't be used at the moment; the broker's log says why."),
                ),
            },
        })
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

    /// How many partitions are open, and how many shall be.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (
            self.opening.0.load(Ordering::Relaxed),
            self.opening.1.load(Ordering::Relaxed),
        )
    }

    /// Makes the partitions what the metadata says: opens, creates, leads anew, changes
    /// settings, removes.
    pub fn reconcile(&self, cluster: &Cluster) {
        let _one = self.reconciling.lock();
        *self.addresses.write() = cluster
            .brokers
            .values()
            .map(|broker| (broker.id, broker.address.clone()))
            .collect();
        self.remove_missing(cluster);
        let mut openings = Vec::new();
        for (topic, number) in cluster.replicas_of(self.node_id) {
            let config = match TopicConfig::parse(&topic.configs, &self.defaults) {
                Ok(config) => Arc::new(config),
                Err(error) => {
                    // Checked when it was set; a later version may have stricter bounds.
                    tracing::error!(topic = topic.name, %error, "the topic's settings can't be used");
                    continue;
                }
            };
            let present = self
                .topics
                .read()
                .get(&topic.name)
                .and_then(|hosted| hosted.partitions.get(&i32::try_from(number).ok()?).cloned());
            match present {
                Some(partition) => self.update(&partition, topic, number, config),
                None => openings.push(Opening {
                    topic: topic.clone(),
                    number,
                    config,
                }),
            }
        }
        self.keep_topics(cluster);
        self.open_all(&openings);
        let unopened = {
            let topics = self.topics.read();
            let is_open = |topic: &Topic, number: u32| {
                let hosted = topics.get(&topic.name);
                hosted.is_some_and(|hosted| i32::try_from(number).is_ok_and(|n| hosted.partitions.contains_key(&n)))
            };
            let placed = cluster.replicas_of(self.node_id);
            placed.filter(|(topic, number)| !is_open(topic, *number)).count()
        };
        self.unopened.store(unopened, Ordering::Relaxed);
        self.count();
    }

    /// Sets the gauges of how many partitions are held, and how many of them can't be used: also those of a data
    /// directory that went offline meanwhile.
    pub fn count(&self) {
        let held = self.all().len();
        let offline = offline_partitions(
            held,
            self.unopened.load(Ordering::Relaxed),
            self.dir.offline().is_some(),
        );
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.partitions.set(gauge(held));
        self.metrics.offline_partitions.set(gauge(offline));
    }

    /// Topics are known even where none of their partitions can be opened here.
    fn keep_topics(&self, cluster: &Cluster) {
        let mut topics = self.topics.write();
        for (name, topic) in &cluster.topics {
            topics
                .entry(name.clone())
                .and_modify(|hosted| hosted.topic = topic.clone())
                .or_insert_with(|| Hosted {
                    topic: topic.clone(),
                    partitions: BTreeMap::new(),
                });
        }
    }

    /// Deletes the logs of topics that the metadata had and has no more: this broker has
    /// seen the deletion itself. (What is on the disk and was never seen in the metadata is
    /// set aside at the start, not deleted: absence is no order to delete, KAFKA-13127.)
    fn remove_missing(&self, cluster: &Cluster) {
        let gone: Vec<Hosted> = {
            let mut topics = self.topics.write();
            let names: Vec<String> = topics
                .iter()
                .filter(|(name, hosted)| {
                    cluster
                        .topics
                        .get(*name)
                        .is_none_or(|topic| topic.id != hosted.topic.id)
                })
                .map(|(name, _)| name.clone())
                .collect();
            names.iter().filter_map(|name| topics.remove(name)).collect()
        };
        for hosted in gone {
            tracing::info!(topic = hosted.topic.name, "topic deleted");
            self.metrics.forget_topic(&hosted.topic.name);
            for partition in hosted.partitions.into_values() {
                partition.remove();
                if let Err(error) = self.dir.delete_log(&partition.topic, partition.number) {
                    tracing::error!(topic = partition.topic, partition = partition.number, %error, "a deleted topic's data can't be removed");
                }
            }
        }
    }

    fn update(&self, partition: &Arc<Partition>, topic: &Topic, number: u32, config: Arc<TopicConfig>) {
        let Some(record) = topic.partitions.get(number as usize) else {
            return;
        };
        if *partition.config() != *config {
            partition.update_config(config.clone(), record.replicas.len());
        }
        let present = partition.leader.lock().leader_epoch();
        if record.leader == Some(self.node_id) && record.leader_epoch > present {
            let high_watermark = partition.high_watermark.load(Ordering::Acquire);
            match self.lead(&partition.log, topic, number, &config, high_watermark) {
                Ok(leader) => *partition.leader.lock() = leader,
                Err(error) => {
                    tracing::error!(topic = topic.name, partition = number, %error, "can't lead a partition anew");
                }
            }
        }
    }

    fn open_all(&self, openings: &[Opening]) {
        self.opening.1.fetch_add(openings.len(), Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(opening) = openings.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.open(opening) {
                    Ok(partition) => {
                        if let Some(hosted) = self.topics.write().get_mut(&opening.topic.name) {
                            hosted.partitions.insert(partition.number, partition);
                        }
                    }
                    Err(error) => {
                        tracing::error!(
                            topic = opening.topic.name, partition = opening.number, %error,
                            "a partition can't be opened and is not served"
                        );
                    }
                }
                self.opening.0.fetch_add(1, Ordering::Relaxed);
            }
        };
        if openings.len() < 2 {
            work();
        } else {
            thread::scope(|scope| {
                for _ in 0..OPEN_THREADS.min(openings.len()) {
                    scope.spawn(work);
                }
            });
        }
    }

    fn open(&self, opening: &Opening) -> Result<Arc<Partition>, OpenLogError> {
        let Opening { topic, number, config } = opening;
        let number_on_disk = i32::try_from(*number).unwrap_or(i32::MAX);
        let log_config = log_config(config);
        let log = self.open_or_create(topic, number_on_disk, log_config)?;
        self.report(topic, *number, &log);
        // Opening has made durable what it kept. As the only in-sync replica's log, all of
        // it is committed.
        let durable = log.durable_end_offset();
        let leader = self.lead(&log, topic, *number, config, 0)?;
        let partition = Arc::new(Partition {
            topic: topic.name.clone(),
            number: number_on_disk,
            leader: Mutex::new(leader),
            log,
            config: RwLock::new(config.clone()),
            high_watermark: AtomicI64::new(0),
            flush_queued: AtomicBool::new(false),
            waiters: Waiters::default(),
            readers: Mutex::default(),
            removed: AtomicBool::new(false),
            metrics: self.metrics.clone(),
            flusher: self.flusher.clone(),
        });
        debug_assert!(durable <= partition.log.log_end_offset());
        partition.advance();
        Ok(partition)
    }

    /// Opens a log, or creates one that was never there. A half-made one that a crash left is
    /// made anew; one that is gone although it had data is an error, not an empty log.
    fn open_or_create(&self, topic: &Topic, number: i32, config: LogConfig) -> Result<Log, OpenLogError> {
        let missing = match self.dir.open_log(&topic.name, number, topic.id, config.clone()) {
            Err(error @ (OpenLogError::NotFound(_) | OpenLogError::Damaged { .. })) => error,
            opened => return opened,
        };
        if let Some(end) = self.dir.recorded_flushed(&topic.name, number).filter(|end| *end > 0) {
            return Err(OpenLogError::Damaged {
                path: self.dir.path().join(format!("{}-{number}", topic.name)),
                reason: format!(
                    "the directory is gone or damaged, and it had records up to offset {end}: restore it, or delete the topic"
                ),
            });
        }
        match self.dir.create_log(&topic.name, number, topic.id, config) {
            Err(OpenLogError::AlreadyExists(_)) => Err(missing),
            created => created,
        }
    }

    fn lead(
        &self,
        log: &Log,
        topic: &Topic,
        number: u32,
        config: &TopicConfig,
        high_watermark: i64,
    ) -> Result<Leader, OpenLogError> {
        let record = topic.partitions.get(number as usize);
        let (epoch, isr, replicas) = record.map_or((0, Vec::new(), 1), |r| {
            (r.leader_epoch, r.isr.clone(), r.replicas.len())
        });
        // Noted even before there is data of it (KAFKA-7415).
        if let Err(error) = log.assign_epoch(epoch) {
            return Err(OpenLogError::Damaged {
                path: log.path().to_owned(),
                reason: error.to_string(),
            });
        }
        Ok(Leader::new(
            self.node_id,
            epoch,
            isr,
            required_in_sync(config, replicas),
            high_watermark,
            log.log_end_offset(),
        ))
    }

    fn report(&self, topic: &Topic, number: u32, log: &Log) {
        let report = log.recovery_report();
        self.metrics
            .recovered_bytes
            .inc_by(i64::try_from(report.scanned_bytes).unwrap_or(i64::MAX));
        if report.truncated_bytes > 0 {
            tracing::warn!(
                topic = topic.name,
                partition = number,
                truncated_bytes = report.truncated_bytes,
                "cut a tail that the last stop left half written"
            );
        }
        for damage in &report.damage {
            tracing::error!(
                topic = topic.name,
                partition = number,
                ?damage,
                "stored data is damaged; it is kept and not served"
            );
        }
    }

    /// Sets aside the partitions on the disk that the metadata does not know.
    pub fn set_aside_strays(&self, cluster: &Cluster) {
        let found = match self.dir.partitions() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the data directory can't be listed");
                return;
            }
        };
        for found in found {
            let (Some(name), PartitionState::Present { topic_id }) = (found.name, found.state) else {
                continue;
            };
            let known = cluster
                .topics
                .get(name.topic.as_str())
                .is_some_and(|topic| topic.id == topic_id);
            if known || name.topic == METADATA_TOPIC {
                continue;
            }
            match self.dir.set_aside_stray(name.topic.as_str(), name.partition) {
                Ok(path) => tracing::warn!(
                    partition = %name, set_aside = %path.display(),
                    "a partition on the disk is of no known topic: it is set aside, not deleted"
                ),
                Err(error) => tracing::error!(partition = %name, %error, "can't set a stray partition aside"),
            }
        }
        let known = |name: &TopicPartition| name.topic == METADATA_TOPIC || cluster.topics.contains_key(&name.topic);
        if let Err(error) = self.dir.forget_missing(known) {
            tracing::warn!(%error, "what is recorded of deleted partitions can't be checked");
        }
        if let Err(error) = self.dir.remove_deleted() {
            tracing::warn!(%error, "what a deletion left can't be removed");
        }
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

/// How many replicas must be in sync: never more than there are (KIP-966).
#[must_use]
pub fn required_in_sync(config: &TopicConfig, replicas: usize) -> usize {
    (config.min_insync_replicas as usize).min(replicas.max(1))
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
