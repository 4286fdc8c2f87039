//! What operators do to brokers: cordon, drain, remove, give a new disk.

use super::{
    apply::Applied,
    outcome::{ListedPartition, Outcome, PartitionList},
    refusal::{BrokerError, RegistrationError},
    rejection::Rejection,
    state::{Broker, BrokerId, Cluster, ExpectedDirectory, RemovedBroker},
};

impl Cluster {
    /// Sets a broker's mark.
    pub(super) fn mark_broker(&mut self, id: BrokerId, mark: impl FnOnce(&mut Broker)) -> Result<Applied, Rejection> {
        let broker = self.brokers.get_mut(&id).ok_or(Rejection::UnknownBroker { id })?;
        let before = (broker.cordoned, broker.draining);
        mark(broker);
        Ok(Applied {
            outcome: Outcome::Done,
            changed: before != (broker.cordoned, broker.draining),
        })
    }

    /// Removes a broker that holds nothing, and remembers its number and disk: one that comes
    /// back, or is mounted under another number, must not pass for a new one. A broker that will
    /// never return goes by force, whatever marks it has left (redpanda-data/redpanda #8547).
    pub(super) fn remove_broker(&mut self, id: BrokerId, force: bool, now_ms: i64) -> Result<Applied, Rejection> {
        let Some(broker) = self.brokers.get(&id) else {
            // Asked again after the answer was lost.
            return match self.removed_brokers.contains_key(&id) {
                true => Ok(Applied::unchanged(Outcome::Done)),
                false => Err(Rejection::UnknownBroker { id }),
            };
        };
        let mut replicas = PartitionList::default();
        for (topic, number) in self.replicas_of(id) {
            replicas.push(|| ListedPartition {
                partition: topic.partition_ref(number),
                reason: "replica".into(),
            });
        }
        if !replicas.is_empty() {
            return Err(BrokerError::HoldsReplicas { id, replicas }.into());
        }
        let voter = self.voters.registered.iter().find(|(_, voter)| voter.broker_id == id);
        if let Some((voter_id, _)) = voter {
            let voter_id = *voter_id;
            return Err(BrokerError::Votes { id, voter_id }.into());
        }
        if !force && broker.is_active() {
            return Err(BrokerError::InService { id }.into());
        }
        if let Some(slot) = self.maintenance_at(now_ms).filter(|slot| slot.broker_id == id)
            && !force
        {
            let holder = slot.holder.clone();
            return Err(BrokerError::UnderMaintenance { id, holder }.into());
        }
        let removed = RemovedBroker {
            directory_id: broker.directory_id,
            epoch: broker.epoch,
            expected_directory: None,
        };
        self.brokers.remove(&id);
        self.removed_brokers.insert(id, removed);
        self.maintenance.take_if(|slot| slot.broker_id == id);
        Ok(Applied::changed(Outcome::Done))
    }

    /// An operator says that a broker's disk is gone and a new one comes. Its replicas stop
    /// counting first, so that the empty ones are nobody's hope; then the new disk is admitted.
    pub(super) fn replace_directory(
        &mut self,
        id: BrokerId,
        directory: ExpectedDirectory,
        accept_data_loss: bool,
        only_if_removed: bool,
    ) -> Result<Applied, Rejection> {
        self.check_is_free(directory)?;
        if let Some(removed) = self.removed_brokers.get_mut(&id) {
            let changed = removed.expected_directory.replace(directory) != Some(directory);
            return Ok(Applied {
                outcome: Outcome::Done,
                changed,
            });
        }
        let broker = self.brokers.get(&id).ok_or(Rejection::UnknownBroker { id })?;
        if only_if_removed {
            return Err(BrokerError::NotRemoved { id }.into());
        }
        if !broker.fenced {
            return Err(BrokerError::InService { id }.into());
        }
        let partitions = self.only_clean_on(id);
        if !accept_data_loss && !partitions.is_empty() {
            return Err(BrokerError::OnlyCleanReplica { id, partitions }.into());
        }
        let mut changed = false;
        if let Some(broker) = self.brokers.get_mut(&id) {
            changed = broker.expected_directory.replace(directory) != Some(directory);
        }
        changed |= self.rewrite_hosted(id, |_, _, partition, rules| {
            partition.changed(rules, |next, notes| {
                next.isr.retain(|member| *member != id);
                notes.lost.push(id);
            })
        });
        Ok(Applied {
            outcome: Outcome::Done,
            changed,
        })
    }

    fn check_is_free(&self, directory: ExpectedDirectory) -> Result<(), Rejection> {
        let ExpectedDirectory::Id(directory_id) = directory else {
            return Ok(());
        };
        if let Some(owner) = self.brokers.values().find(|b| b.directory_id == directory_id) {
            let owner = owner.id;
            return Err(BrokerError::DirectoryTaken { directory_id, owner }.into());
        }
        let removed = self
            .removed_brokers
            .iter()
            .find(|(_, b)| b.directory_id == directory_id);
        if let Some((owner, _)) = removed {
            let owner = *owner;
            return Err(RegistrationError::DirectoryOfRemovedBroker { directory_id, owner }.into());
        }
        Ok(())
    }

    /// The partitions of which no other broker has a clean replica.
    fn only_clean_on(&self, id: BrokerId) -> PartitionList {
        let mut found = PartitionList::default();
        for (topic, number) in self.replicas_of(id) {
            let partition = &topic.partitions[number as usize];
            let others = partition.isr.iter().chain(&partition.elr).any(|other| *other != id);
            let has = partition.elr.contains(&id) || partition.last_known_elr.contains(&id);
            if has && !others {
                found.push(|| ListedPartition {
                    partition: topic.partition_ref(number),
                    reason: format!("known to be committed below {}", partition.floor.offset),
                });
            }
        }
        found
    }
}
