//! Topics: created, deleted, grown, their settings changed.

use std::{collections::BTreeMap, sync::Arc};

use uuid::Uuid;

use super::{
    apply::Applied,
    change::Rules,
    command::{ConfigChange, CreateTopic, PartitionRef},
    limits::{MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, PRODUCER_ID_BLOCK},
    outcome::{Outcome, ProducerIdBlock},
    partition::{Partition, without},
    refusal::PartitionError,
    rejection::Rejection,
    state::{Broker, BrokerId, Cluster, PartitionGrowth, Topic, flushes_before_ack, min_insync_replicas},
};
use crate::{config, names};

impl Topic {
    /// Names one of its partitions.
    #[must_use]
    pub fn partition_ref(&self, partition: u32) -> PartitionRef {
        PartitionRef {
            topic: self.name.clone(),
            topic_id: self.id,
            partition,
        }
    }
}

impl Cluster {
    pub(super) fn create_topic(&mut self, create: &CreateTopic) -> Result<Applied, Rejection> {
        names::check_topic_name(&create.name)?;
        if self.topics.contains_key(&create.name) {
            return Err(Rejection::TopicExists {
                name: create.name.clone(),
            });
        }
        if let Some(owner) = &create.owner {
            owner.check()?;
        }
        for (key, value) in &create.configs {
            config::check(key, value)?;
        }
        config::check_together(&create.configs, &self.topic_defaults)?;
        self.check_partition_count(0, create.assignments.len())?;
        let topic = Topic {
            name: create.name.clone(),
            id: create.id,
            partitions: self.place(&create.assignments, &create.configs)?,
            configs: create.configs.clone(),
            created_at_ms: create.now_ms,
            growth: Vec::new(),
            flushes_since: 0,
            owner: create.owner.clone(),
        };
        self.topics.insert(topic.name.clone(), Arc::new(topic));
        Ok(Applied::changed(Outcome::Done))
    }

    pub(super) fn delete_topic(&mut self, name: &str, id: Option<Uuid>) -> Result<Applied, Rejection> {
        let topic = self.topic(name)?;
        if id.is_some_and(|id| id != topic.id) {
            return Err(Rejection::OtherTopicId { name: name.to_owned() });
        }
        self.topics.remove(name);
        Ok(Applied::changed(Outcome::Done))
    }

    pub(super) fn create_partitions(
        &mut self,
        name: &str,
        present: u32,
        added: &[Vec<BrokerId>],
    ) -> Result<Applied, Rejection> {
        let topic = self.topic(name)?;
        let actual = topic.partitions_for_producer(None);
        if actual != present {
            return Err(Rejection::PartitionsChanged {
                name: name.to_owned(),
                actual,
            });
        }
        if added.is_empty() {
            return Ok(Applied::unchanged(Outcome::Done));
        }
        self.check_partition_count(topic.partitions.len(), added.len())?;
        let mut topic = Topic::clone(topic);
        topic.partitions.extend(self.place(added, &topic.configs)?);
        topic.growth.push(PartitionGrowth {
            before_producer_id: self.next_producer_id,
            partitions: present,
        });
        self.topics.insert(topic.name.clone(), Arc::new(topic));
        Ok(Applied::changed(Outcome::Done))
    }

    pub(super) fn alter_topic_configs(
        &mut self,
        index: u64,
        name: &str,
        change: &ConfigChange,
    ) -> Result<Applied, Rejection> {
        let topic = self.topic(name)?;
        let configs = changed_configs(&topic.configs, change)?;
        if configs == topic.configs {
            return Ok(Applied::unchanged(Outcome::Done));
        }
        config::check_together(&configs, &self.topic_defaults)?;
        let was = self.min_insync_replicas(topic);
        let flushed = flushes_before_ack(&topic.configs, &self.topic_defaults);
        let mut topic = Topic {
            configs,
            ..Topic::clone(topic)
        };
        let rules = self.rules(&topic);
        for partition in &mut topic.partitions {
            if let Some(next) = partition.after_min_insync_change(was, rules) {
                *partition = next;
            }
        }
        if !flushed && self.has_leases() && flushes_before_ack(&topic.configs, &self.topic_defaults) {
            topic.flushes_since = index;
        }
        self.topics.insert(topic.name.clone(), Arc::new(topic));
        Ok(Applied::changed(Outcome::Done))
    }

    pub(super) fn alter_topic_defaults(&mut self, index: u64, change: &ConfigChange) -> Result<Applied, Rejection> {
        let defaults = changed_configs(&self.topic_defaults, change)?;
        if defaults == self.topic_defaults {
            return Ok(Applied::unchanged(Outcome::Done));
        }
        let before = std::mem::replace(&mut self.topic_defaults, defaults);
        if self.has_leases() {
            self.note_flushes_since(index, &before);
        }
        self.rewrite(|topic, _, partition, rules| {
            partition.after_min_insync_change(min_insync_replicas(&topic.configs, &before), rules)
        });
        Ok(Applied::changed(Outcome::Done))
    }

    /// Notes `index` at topics that did not wait for the disk by the defaults `before`, and do now.
    fn note_flushes_since(&mut self, index: u64, before: &BTreeMap<String, String>) {
        for topic in self.topics.values_mut() {
            if !flushes_before_ack(&topic.configs, before) && flushes_before_ack(&topic.configs, &self.topic_defaults) {
                Arc::make_mut(topic).flushes_since = index;
            }
        }
    }

    /// A cluster of one as former versions had it knows no leases: no disk of it is compared with another.
    fn has_leases(&self) -> bool {
        self.brokers.values().any(|broker| broker.leased)
    }

    pub(super) fn allocate_producer_ids(&mut self, id: BrokerId, epoch: i64) -> Result<Applied, Rejection> {
        self.check_broker_epoch(id, epoch)?;
        let first = self.next_producer_id;
        self.next_producer_id = first
            .checked_add(PRODUCER_ID_BLOCK)
            .ok_or(Rejection::ProducerIdsExhausted)?;
        Ok(Applied::changed(Outcome::ProducerIds(ProducerIdBlock {
            first,
            count: PRODUCER_ID_BLOCK,
        })))
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Arc<Topic>, Rejection> {
        self.topics.get(name).ok_or_else(|| Rejection::UnknownTopic {
            name: name.chars().take(250).collect(),
        })
    }

    /// The partition that is meant, and its topic.
    ///
    /// # Errors
    /// It is not there, or its topic is another of the same name.
    pub fn find_partition(&self, at: &PartitionRef) -> Result<(&Arc<Topic>, &Partition), PartitionError> {
        let shown = || at.topic.chars().take(250).collect::<String>();
        let topic = self
            .topics
            .get(&at.topic)
            .ok_or_else(|| PartitionError::UnknownTopic { topic: shown() })?;
        if topic.id != at.topic_id {
            return Err(PartitionError::OtherTopicId { topic: shown() });
        }
        let partition = topic.partitions.get(at.partition as usize);
        partition
            .map(|partition| (topic, partition))
            .ok_or_else(|| PartitionError::UnknownPartition {
                topic: shown(),
                partition: at.partition,
                count: topic.partitions.len(),
            })
    }

    /// Takes over the record of a partition that `find_partition` has found.
    pub(super) fn put_partition(&mut self, at: &PartitionRef, partition: Partition) {
        let slot = self
            .topics
            .get_mut(&at.topic)
            .and_then(|topic| Arc::make_mut(topic).partitions.get_mut(at.partition as usize));
        if let Some(slot) = slot {
            *slot = partition;
        }
    }

    fn check_partition_count(&self, present: usize, added: usize) -> Result<(), Rejection> {
        let total = present + added;
        if added == 0 || total > MAX_PARTITIONS_PER_TOPIC {
            return Err(Rejection::InvalidPartitionCount {
                reason: format!("a topic has 1 to {MAX_PARTITIONS_PER_TOPIC} partitions; asked for {total}"),
            });
        }
        if self.partition_count() + added > MAX_PARTITIONS {
            return Err(Rejection::TooManyPartitions {
                limit: MAX_PARTITIONS as u64,
            });
        }
        Ok(())
    }

    fn place(
        &self,
        assignments: &[Vec<BrokerId>],
        configs: &BTreeMap<String, String>,
    ) -> Result<Vec<Partition>, Rejection> {
        let invalid = |reason: String| Rejection::InvalidAssignment { reason };
        let factor = assignments.first().map_or(0, Vec::len);
        let min_insync = min_insync_replicas(configs, &self.topic_defaults);
        assignments
            .iter()
            .map(|replicas| {
                if replicas.is_empty() || replicas.len() != factor {
                    return Err(invalid(
                        "every partition needs the same number of replicas, at least one".into(),
                    ));
                }
                for (at, id) in replicas.iter().enumerate() {
                    let broker = self.brokers.get(id).ok_or(Rejection::UnknownBroker { id: *id })?;
                    if broker.cordoned || broker.draining {
                        return Err(invalid(format!("broker {id} is cordoned: it gets no new replicas")));
                    }
                    if replicas[..at].contains(id) {
                        return Err(invalid(format!("broker {id} would hold a partition twice")));
                    }
                }
                Ok(self.new_partition(replicas, min_insync))
            })
            .collect()
    }

    /// Nothing is committed yet, so that replicas that are down hold all of it: while too few
    /// are in sync for anything to become committed, they are eligible.
    fn new_partition(&self, replicas: &[BrokerId], min_insync: usize) -> Partition {
        let usable = |id: BrokerId| self.brokers.get(&id).is_some_and(Broker::is_active);
        let mut partition = Partition::new(replicas.to_vec(), usable);
        if partition.isr.len() < partition.required(min_insync) {
            partition.elr = without(replicas, &partition.isr);
        }
        partition
    }
}

impl Partition {
    /// The record after `min.insync.replicas` of its topic was changed. Who is eligible was
    /// judged by the old value, so nobody stays so, as in Kafka (KIP-966); where nobody is in
    /// sync, nothing can have been committed since, and the only clean replicas are kept.
    fn after_min_insync_change(&self, was: usize, rules: Rules<'_>) -> Option<Self> {
        if self.required(was) == self.required(rules.min_insync) {
            return None;
        }
        self.changed(rules, |next, notes| {
            if !next.isr.is_empty() {
                notes.lost.clone_from(&next.elr);
            }
        })
    }
}

fn changed_configs(
    present: &BTreeMap<String, String>,
    change: &ConfigChange,
) -> Result<BTreeMap<String, String>, Rejection> {
    for (key, value) in &change.set {
        config::check(key, value)?;
    }
    for key in &change.unset {
        let known = config::find_key(key);
        // An unknown key fails with the same words as an unknown key to set.
        config::check(key, known.map_or("", |known| known.default))?;
        if change.set.contains_key(key) {
            return Err(Rejection::InvalidConfig {
                key: key.clone(),
                reason: format!("{key} can't be set and unset at once"),
            });
        }
    }
    let mut configs = present.clone();
    configs.retain(|key, _| !change.unset.contains(key));
    configs.extend(change.set.clone());
    Ok(configs)
}
