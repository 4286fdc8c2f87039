//! Which partitions this broker holds, and what the metadata says of each: opened, created, told
//! of leaders, given settings, removed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicUsize, Ordering},
    },
    thread,
};

use millrace_engine::{
    Cluster, Topic, TopicConfig,
    cluster::{MetadataDelta, ReplicaChangeKind},
    partition::{LogPositions, PartitionView, Replica},
};
use millrace_log::{Log, LogConfig, OpenLogError, OpenLogOptions, PartitionState, TopicPartition};
use parking_lot::{Mutex, RwLock};

use super::{
    Gone, Partition,
    committed::Waiters,
    damage::DamageMet,
    registry::{Hosted, Partitions, log_config},
    replica::ReplicaCell,
};
use crate::quorum::METADATA_TOPIC;

/// Logs that are opened or created at once: each waits for the disk now and then.
const OPEN_THREADS: usize = 8;

/// A log to open or create.
struct Opening {
    topic: Arc<Topic>,
    number: u32,
    config: Arc<TopicConfig>,
}

/// Which of this broker's partitions a version of the metadata may say something new about.
enum Scope {
    All,
    /// By topic and number.
    Some(Vec<(Arc<Topic>, u32)>),
}

impl Partitions {
    /// Makes the partitions what the metadata says: opens, creates, tells of leaders and in-sync
    /// sets, changes settings, removes. Versions may be skipped, and must not go back.
    pub fn reconcile(&self, cluster: &Arc<Cluster>) {
        let mut last = self.reconciling.lock();
        let scope = self.scope(last.as_deref(), cluster);
        let mut openings = Vec::new();
        // Where only some are looked at, all others are open.
        let mut may_be_unopened = matches!(scope, Scope::All);
        let placed: Vec<(Arc<Topic>, u32)> = match scope {
            Scope::All => {
                let placed = cluster.replicas_of(self.node_id);
                placed.map(|(topic, number)| (topic.clone(), number)).collect()
            }
            Scope::Some(changed) => changed,
        };
        for (topic, number) in placed {
            // Checked when they were set; a later version may have stricter bounds.
            let config = match TopicConfig::parse(&topic.configs, &cluster.topic_defaults) {
                Ok(config) => Arc::new(config),
                Err(error) => {
                    tracing::error!(topic = topic.name, %error, "the topic's settings can't be used");
                    may_be_unopened = true;
                    continue;
                }
            };
            match self.present(&topic, number) {
                Some(partition) => {
                    if *partition.config() != *config {
                        partition.update_config(config);
                        self.settings_changes.fetch_add(1, Ordering::Release);
                    }
                    self.tell(&partition, cluster, &topic, number);
                }
                None => openings.push(Opening { topic, number, config }),
            }
        }
        // After the others were told of their leaders, and before a topic that was created anew takes the name.
        self.remove_missing(cluster);
        self.remove_moved(cluster);
        self.keep_topics(cluster);
        self.open_all(&openings, cluster);
        if may_be_unopened || !openings.is_empty() {
            let placed = cluster.replicas_of(self.node_id);
            let unopened = placed
                .filter(|(topic, number)| self.present(topic, *number).is_none())
                .count();
            self.unopened.store(unopened, Ordering::Relaxed);
        }
        self.count();
        *last = Some(cluster.clone());
    }

    /// What changed since the last version that was carried out.
    fn scope(&self, last: Option<&Cluster>, cluster: &Cluster) -> Scope {
        let Some(last) = last else { return Scope::All };
        let delta = MetadataDelta::between(last, cluster, self.node_id);
        // A broker's life, lease or wish to stop is part of what each leader goes by.
        if delta.topic_defaults || !delta.brokers.is_empty() || self.unopened.load(Ordering::Relaxed) > 0 {
            return Scope::All;
        }
        let mut changed: Vec<(Arc<Topic>, u32)> = delta
            .replicas
            .into_iter()
            .filter(|change| !matches!(change.kind, ReplicaChangeKind::Removed | ReplicaChangeKind::Deleted))
            .map(|change| (change.topic, change.partition))
            .collect();
        for topic in delta.reconfigured_topics {
            for (number, record) in (0u32..).zip(&topic.partitions) {
                if record.replicas.contains(&self.node_id) {
                    changed.push((topic.clone(), number));
                }
            }
        }
        Scope::Some(changed)
    }

    fn present(&self, topic: &Topic, number: u32) -> Option<Arc<Partition>> {
        self.find_replica((topic.id, number))
    }

    /// Tells a replica what the metadata says of its partition.
    fn tell(&self, partition: &Arc<Partition>, cluster: &Cluster, topic: &Topic, number: u32) {
        let Some(record) = topic.partitions.get(number as usize) else {
            return;
        };
        // The number by which the controller itself decides who stays eligible (KIP-966).
        let required = record.required(cluster.min_insync_replicas(topic));
        let shutting_down = |id| {
            let broker = cluster.brokers.get(&id);
            broker.is_some_and(|broker| broker.shutting_down_at.is_some())
        };
        if let Some(view) = PartitionView::of(cluster, &topic.name, number, required, shutting_down) {
            partition.on_metadata(&view);
        }
    }

    /// Topics are known even where none of their partitions can be opened here.
    fn keep_topics(&self, cluster: &Cluster) {
        let mut topics = self.topics.write();
        for (name, topic) in &cluster.topics {
            topics
                .entry(name.clone())
                .and_modify(|hosted| hosted.topic = topic.clone())
                .or_insert_with(|| Hosted::new(topic.clone()));
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
                self.remove(&partition, Gone::Deleted);
            }
        }
    }

    /// Deletes the logs of partitions that a move, or its cancellation, took from this broker:
    /// it held them in this life, and has seen that the others are complete without it.
    fn remove_moved(&self, cluster: &Cluster) {
        let moved: Vec<Arc<Partition>> = {
            let mut topics = self.topics.write();
            let mut moved = Vec::new();
            for hosted in topics.values_mut() {
                let Some(topic) = cluster.topics.get(&hosted.topic.name) else {
                    continue;
                };
                hosted.partitions.retain(|number, partition| {
                    let record = usize::try_from(*number).ok().and_then(|at| topic.partitions.get(at));
                    let stays = record.is_none_or(|record| record.replicas.contains(&self.node_id));
                    if !stays {
                        moved.push(partition.clone());
                    }
                    stays
                });
            }
            moved
        };
        for partition in moved {
            tracing::info!(topic = partition.topic, partition = partition.number, "moved away");
            self.remove(&partition, Gone::MovedAway);
        }
    }

    fn remove(&self, partition: &Arc<Partition>, why: Gone) {
        self.by_key.write().remove(&partition.key());
        partition.remove(why);
        match self.dir.begin_deletion(&partition.topic, partition.number) {
            Ok(deleted) => self.removal.push(deleted),
            Err(error) => {
                tracing::error!(topic = partition.topic, partition = partition.number, %error, "data that is not needed any more can't be removed");
            }
        }
    }

    fn open_all(&self, openings: &[Opening], cluster: &Cluster) {
        self.opening.1.fetch_add(openings.len(), Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(opening) = openings.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.open(opening, cluster) {
                    Ok(partition) => {
                        self.by_key.write().insert(partition.key(), partition.clone());
                        if let Some(hosted) = self.topics.write().get_mut(&opening.topic.name) {
                            hosted.partitions.insert(partition.number, partition.clone());
                        }
                        self.settings_changes.fetch_add(1, Ordering::Release);
                        self.tell(&partition, cluster, &opening.topic, opening.number);
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

    fn open(&self, opening: &Opening, cluster: &Cluster) -> Result<Arc<Partition>, OpenLogError> {
        let Opening { topic, number, config } = opening;
        let number_on_disk = i32::try_from(*number).unwrap_or(i32::MAX);
        let options = OpenLogOptions {
            latest_epoch: self.latest_epoch(cluster, topic, *number),
        };
        let log = self.open_or_create(topic, number_on_disk, log_config(config), options)?;
        self.report(topic, *number, &log);
        let positions = LogPositions {
            start: log.log_start_offset(),
            durable_end: log.durable_end_offset(),
            end: log.log_end_offset(),
        };
        // What was committed is found out anew from those in sync; below the log start all was.
        let replica = Replica::new(self.replication.replica_config(), positions, positions.start);
        let damaged_from = log.damage().iter().map(|range| range.from).min();
        if damaged_from.is_some() {
            self.replication.note_damage();
        }
        let replica = replica.with_damage(damaged_from);
        Ok(Arc::new(Partition {
            topic: topic.name.clone(),
            topic_id: topic.id,
            number: number_on_disk,
            log,
            cell: Mutex::new(ReplicaCell::new(replica)),
            roles: RwLock::new(()),
            config: RwLock::new(config.clone()),
            high_watermark: AtomicI64::new(positions.start),
            leader_epoch: AtomicI32::new(-1),
            leads: AtomicBool::new(false),
            flush_turn: super::flusher::Turn::default(),
            waiters: Waiters::new(self.metrics.acknowledge_seconds.clone()),
            readers: Mutex::default(),
            damage: DamageMet::default(),
            gone: OnceLock::new(),
            metrics: self.metrics.clone(),
            flusher: self.flusher.clone(),
            replication: self.replication.clone(),
        }))
    }

    /// The partition's leader epoch, if the metadata is new enough for the log to go by it: it shows this
    /// process's own registration, and whatever this broker appended before that was under an epoch from before that.
    fn latest_epoch(&self, cluster: &Cluster, topic: &Topic, number: u32) -> Option<i32> {
        let own = cluster.brokers.get(&self.node_id)?;
        if own.epoch != self.replication.replica_config().broker_epoch {
            return None;
        }
        let record = topic.partitions.get(usize::try_from(number).ok()?)?;
        Some(record.leader_epoch)
    }

    /// Opens a log, or creates one that was never there. A half-made one that a crash left is
    /// made anew; one that is gone although it had data is an error, not an empty log. One of another topic
    /// of the same name, which was deleted while its log could not be opened, is set aside.
    fn open_or_create(
        &self,
        topic: &Topic,
        number: i32,
        config: LogConfig,
        options: OpenLogOptions,
    ) -> Result<Log, OpenLogError> {
        let opened = self
            .dir
            .open_log_with(&topic.name, number, topic.id, config.clone(), options);
        if matches!(opened, Err(OpenLogError::TopicIdMismatch { .. })) && self.set_aside(&topic.name, number) {
            return self.dir.create_log(&topic.name, number, topic.id, config);
        }
        let missing = match opened {
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
                "stored data is damaged; it is not served, and fetched again where other brokers have it"
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
            let known = cluster.topics.get(name.topic.as_str()).is_some_and(|topic| {
                let record = usize::try_from(name.partition)
                    .ok()
                    .and_then(|at| topic.partitions.get(at));
                topic.id == topic_id && record.is_some_and(|record| record.replicas.contains(&self.node_id))
            });
            if known || name.topic == METADATA_TOPIC {
                continue;
            }
            self.set_aside(name.topic.as_str(), name.partition);
        }
        let known = |name: &TopicPartition| name.topic == METADATA_TOPIC || cluster.topics.contains_key(&name.topic);
        if let Err(error) = self.dir.forget_missing(known) {
            tracing::warn!(%error, "what is recorded of deleted partitions can't be checked");
        }
        match self.dir.deleted_logs() {
            Ok(deleted) => deleted.into_iter().for_each(|deleted| self.removal.push(deleted)),
            Err(error) => tracing::warn!(%error, "what a deletion left can't be listed"),
        }
    }

    /// Sets a partition on the disk aside; whether that went well.
    fn set_aside(&self, topic: &str, partition: i32) -> bool {
        match self.dir.set_aside_stray(topic, partition) {
            Ok(path) => {
                tracing::warn!(
                    topic, partition, set_aside = %path.display(),
                    "a partition on the disk has no place here by the metadata: it is set aside, not deleted"
                );
                true
            }
            Err(error) => {
                tracing::error!(topic, partition, %error, "can't set a stray partition aside");
                false
            }
        }
    }
}
