//! Applying commands: each is checked against the present state and then changes it
//! whole, or is rejected and changes nothing.

use std::sync::Arc;

use super::{
    command::{Command, ConfigChange, CreateTopic, Outcome, ProducerIdBlock, RegisterBroker, Rejection},
    state::{
        Broker, BrokerId, Cluster, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, PRODUCER_ID_BLOCK, Partition,
        PartitionGrowth, Topic,
    },
};
use crate::{config, names};

/// A change that was checked and can be made: what `validate_only` stops at.
enum Change {
    None(Outcome),
    Register(RegisterBroker),
    PutTopic(Topic),
    RemoveTopic(String),
    TakeProducerIds,
}

impl Cluster {
    /// Applies the command at `index` of the metadata log.
    ///
    /// # Errors
    /// Why the command is rejected; then nothing has changed.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, Rejection> {
        let outcome = match self.prepare(command)? {
            Change::None(outcome) => return Ok(outcome),
            Change::Register(registration) => self.register(index, registration),
            Change::PutTopic(topic) => {
                self.topics.insert(topic.name.clone(), Arc::new(topic));
                Outcome::Done
            }
            Change::RemoveTopic(name) => {
                self.topics.remove(&name);
                Outcome::Done
            }
            Change::TakeProducerIds => {
                let first = self.next_producer_id;
                self.next_producer_id += PRODUCER_ID_BLOCK;
                Outcome::ProducerIds(ProducerIdBlock {
                    first,
                    count: PRODUCER_ID_BLOCK,
                })
            }
        };
        self.version = index;
        Ok(outcome)
    }

    /// Whether the command would be applied now; changes nothing.
    ///
    /// # Errors
    /// Why it would be rejected.
    pub fn check(&self, command: &Command) -> Result<(), Rejection> {
        self.prepare(command).map(|_| ())
    }

    fn prepare(&self, command: &Command) -> Result<Change, Rejection> {
        match command {
            Command::RegisterBroker(registration) => self.prepare_registration(registration),
            Command::CreateTopic(create) => self.prepare_topic(create),
            Command::DeleteTopic { name, id } => {
                let topic = self.topic(name)?;
                if id.is_some_and(|id| id != topic.id) {
                    return Err(Rejection::OtherTopicId { name: name.clone() });
                }
                Ok(Change::RemoveTopic(name.clone()))
            }
            Command::AlterTopicConfigs { name, change } => self.prepare_configs(name, change),
            Command::CreatePartitions { name, present, added } => self.prepare_partitions(name, *present, added),
            Command::AllocateProducerIds {
                broker_id,
                broker_epoch,
            } => {
                self.check_broker_epoch(*broker_id, *broker_epoch)?;
                self.next_producer_id
                    .checked_add(PRODUCER_ID_BLOCK)
                    .map(|_| Change::TakeProducerIds)
                    .ok_or(Rejection::ProducerIdsExhausted)
            }
        }
    }

    fn topic(&self, name: &str) -> Result<&Arc<Topic>, Rejection> {
        self.topics.get(name).ok_or_else(|| Rejection::UnknownTopic {
            name: name.chars().take(250).collect(),
        })
    }

    fn check_broker_epoch(&self, id: BrokerId, epoch: i64) -> Result<(), Rejection> {
        let broker = self.brokers.get(&id).ok_or(Rejection::UnknownBroker { id })?;
        if broker.epoch == epoch {
            Ok(())
        } else {
            Err(Rejection::StaleBrokerEpoch {
                id,
                current: broker.epoch,
            })
        }
    }

    /// A disk is one broker's, a broker has one disk, both are of this cluster (KIP-858).
    fn prepare_registration(&self, new: &RegisterBroker) -> Result<Change, Rejection> {
        if !self.cluster_id.is_empty() && self.cluster_id != new.cluster_id {
            return Err(Rejection::OtherCluster {
                expected: self.cluster_id.clone(),
                found: new.cluster_id.clone(),
            });
        }
        let owner = self
            .brokers
            .values()
            .find(|broker| broker.directory_id == new.directory_id && broker.id != new.broker_id);
        if let Some(owner) = owner {
            return Err(Rejection::DirectoryOfOtherBroker {
                directory_id: new.directory_id,
                owner: owner.id,
            });
        }
        match self.brokers.get(&new.broker_id) {
            Some(known) if known.directory_id != new.directory_id => Err(Rejection::OtherDirectory {
                id: known.id,
                expected: known.directory_id,
                found: new.directory_id,
            }),
            // The answer to this same registration was lost, and it is asked again.
            Some(known) if known.incarnation == new.incarnation => Ok(Change::None(Outcome::Registered {
                broker_epoch: known.epoch,
            })),
            _ => Ok(Change::Register(new.clone())),
        }
    }

    fn register(&mut self, index: u64, new: RegisterBroker) -> Outcome {
        let epoch = i64::try_from(index).unwrap_or(i64::MAX);
        let id = new.broker_id;
        self.cluster_id = new.cluster_id;
        self.brokers.insert(
            id,
            Broker {
                id,
                epoch,
                incarnation: new.incarnation,
                directory_id: new.directory_id,
                address: new.address,
                rack: new.rack,
                version: new.version,
                registered_at_ms: new.now_ms,
                fenced: false,
            },
        );
        for topic in self.topics.values_mut() {
            if topic.partitions.iter().any(|partition| partition.leader == Some(id)) {
                let topic = Arc::make_mut(topic);
                for partition in &mut topic.partitions {
                    partition.begin_new_life_of(id, &self.brokers);
                }
            }
        }
        Outcome::Registered { broker_epoch: epoch }
    }

    fn prepare_topic(&self, create: &CreateTopic) -> Result<Change, Rejection> {
        names::check_topic_name(&create.name)?;
        if self.topics.contains_key(&create.name) {
            return Err(Rejection::TopicExists {
                name: create.name.clone(),
            });
        }
        for (key, value) in &create.configs {
            config::check(key, value)?;
        }
        self.check_partition_count(0, create.assignments.len())?;
        Ok(Change::PutTopic(Topic {
            name: create.name.clone(),
            id: create.id,
            partitions: self.place(&create.assignments)?,
            configs: create.configs.clone(),
            created_at_ms: create.now_ms,
            growth: Vec::new(),
        }))
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

    fn place(&self, assignments: &[Vec<BrokerId>]) -> Result<Vec<Partition>, Rejection> {
        let invalid = |reason: String| Rejection::InvalidAssignment { reason };
        let factor = assignments.first().map_or(0, Vec::len);
        assignments
            .iter()
            .map(|replicas| {
                if replicas.is_empty() || replicas.len() != factor {
                    return Err(invalid(
                        "every partition needs the same number of replicas, at least one".into(),
                    ));
                }
                for (at, id) in replicas.iter().enumerate() {
                    if !self.brokers.contains_key(id) {
                        return Err(Rejection::UnknownBroker { id: *id });
                    }
                    if replicas[..at].contains(id) {
                        return Err(invalid(format!("broker {id} would hold a partition twice")));
                    }
                }
                let usable = |id: BrokerId| self.brokers.get(&id).is_some_and(|b| !b.fenced);
                Ok(Partition::new(replicas.clone(), usable))
            })
            .collect()
    }

    fn prepare_configs(&self, name: &str, change: &ConfigChange) -> Result<Change, Rejection> {
        let topic = self.topic(name)?;
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
        let mut configs = topic.configs.clone();
        configs.retain(|key, _| !change.unset.contains(key));
        configs.extend(change.set.clone());
        if configs == topic.configs {
            return Ok(Change::None(Outcome::Done));
        }
        Ok(Change::PutTopic(Topic {
            configs,
            ..Topic::clone(topic)
        }))
    }

    fn prepare_partitions(&self, name: &str, present: u32, added: &[Vec<BrokerId>]) -> Result<Change, Rejection> {
        let topic = self.topic(name)?;
        let actual = topic.partitions_for_producer(None);
        if actual != present {
            return Err(Rejection::PartitionsChanged {
                name: name.to_owned(),
                actual,
            });
        }
        if added.is_empty() {
            return Ok(Change::None(Outcome::Done));
        }
        self.check_partition_count(topic.partitions.len(), added.len())?;
        let mut topic = Topic::clone(topic);
        topic.partitions.extend(self.place(added)?);
        topic.growth.push(PartitionGrowth {
            before_producer_id: self.next_producer_id,
            partitions: present,
        });
        Ok(Change::PutTopic(topic))
    }
}

impl Partition {
    /// A broker that led this partition has begun a new life. Its unflushed tail may be
    /// lost: under the old leader epoch it could fill lost offsets with other records than
    /// followers hold, which no epoch check would see. So the lead moves on, or stays
    /// under a new epoch (the fault that KIP-631 and KIP-903 fence for other requests).
    fn begin_new_life_of(&mut self, id: BrokerId, brokers: &std::collections::BTreeMap<BrokerId, Broker>) {
        if self.leader != Some(id) {
            return;
        }
        let usable = |other: &BrokerId| brokers.get(other).is_some_and(|broker| !broker.fenced);
        let successor = self.isr.iter().copied().find(|other| *other != id && usable(other));
        self.leader = Some(successor.unwrap_or(id));
        self.leader_epoch += 1;
        self.partition_epoch += 1;
    }
}

#[cfg(test)]
mod tests;
