//! Applying commands: each is checked whole against the present state and then changes it
//! whole, or is rejected and changes nothing. The rules are in a file to each group; here is
//! only who is asked.

use super::{
    command::Command,
    outcome::Outcome,
    rejection::Rejection,
    state::{BrokerId, Cluster, VoterIdentity},
};

/// What a command did.
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    /// Whether the state is another: what changes nothing is not announced.
    pub(super) changed: bool,
}

impl Applied {
    pub(super) fn changed(outcome: Outcome) -> Self {
        Self { outcome, changed: true }
    }

    pub(super) fn unchanged(outcome: Outcome) -> Self {
        Self {
            outcome,
            changed: false,
        }
    }
}

impl Cluster {
    /// Applies the command at `index` of the metadata log.
    ///
    /// # Errors
    /// Why the command is rejected; then nothing has changed.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, Rejection> {
        let applied = self.dispatch(index, command)?;
        if applied.changed {
            self.version = index;
        }
        Ok(applied.outcome)
    }

    /// Whether the command would be applied now; changes nothing.
    ///
    /// # Errors
    /// Why it would be rejected.
    pub fn check(&self, command: &Command) -> Result<(), Rejection> {
        // Topics are shared, so that the copy is small.
        self.clone().apply(self.version.saturating_add(1), command).map(|_| ())
    }

    pub(super) fn dispatch(&mut self, index: u64, command: &Command) -> Result<Applied, Rejection> {
        match command {
            Command::RegisterBroker(registration) => self.register_broker(index, registration),
            Command::CreateTopic(create) => self.create_topic(create),
            Command::DeleteTopic { name, id } => self.delete_topic(name, *id),
            Command::ClaimTopic { name, id, owner, adopt } => self.claim_topic(name, *id, owner, *adopt),
            Command::ReleaseTopic { name, owner } => self.release_topic(name, owner),
            Command::AsOwner { name, owner, command } => self.as_owner(index, name, owner, command),
            Command::AlterTopicConfigs { name, change } => self.alter_topic_configs(index, name, change),
            Command::AlterTopicDefaults { change } => self.alter_topic_defaults(index, change),
            Command::CreatePartitions { name, present, added } => self.create_partitions(name, *present, added),
            Command::AllocateProducerIds {
                broker_id,
                broker_epoch,
            } => self.allocate_producer_ids(*broker_id, *broker_epoch),
            Command::StartBroker(start) => self.start_broker(index, start),
            Command::FenceBroker {
                broker_id,
                broker_epoch,
                reason,
            } => self.fence_broker(*broker_id, *broker_epoch, *reason),
            Command::UnfenceBroker(unfence) => self.unfence_broker(unfence),
            Command::ControlledShutdown {
                broker_id,
                broker_epoch,
            } => self.controlled_shutdown(index, *broker_id, *broker_epoch),
            Command::AlterPartitions(alter) => self.alter_partitions(alter),
            Command::ReportOfflineReplicas(report) => self.report_offline_replicas(report),
            Command::ElectLeaders { elections } => self.elect_leaders(elections),
            Command::ReassignPartitions { moves } => self.reassign_partitions(moves),
            Command::CordonBroker { broker_id, cordoned } => {
                self.mark_broker(*broker_id, |broker| broker.cordoned = *cordoned)
            }
            Command::DrainBroker { broker_id, draining } => {
                self.mark_broker(*broker_id, |broker| broker.draining = *draining)
            }
            Command::RemoveBroker {
                broker_id,
                force,
                now_ms,
            } => self.remove_broker(*broker_id, *force, *now_ms),
            Command::ReplaceDirectory {
                broker_id,
                directory,
                accept_data_loss,
                only_if_removed,
            } => self.replace_directory(*broker_id, *directory, *accept_data_loss, *only_if_removed),
            Command::AcquireMaintenance(wish) => self.acquire_maintenance(wish),
            Command::ReleaseMaintenance {
                holder,
                broker_id,
                until_ms,
            } => self.release_maintenance(holder, *broker_id, *until_ms),
            Command::RegisterVoter {
                broker_id,
                directory_id,
                highest_in_use,
                bootstrap_id,
            } => {
                let identity = VoterIdentity {
                    broker_id: *broker_id,
                    directory_id: *directory_id,
                };
                self.register_voter(identity, *highest_in_use, *bootstrap_id)
            }
            Command::WithholdVote { voter_id, withheld } => self.withhold_vote(*voter_id, *withheld),
            Command::RemoveVoter { voter_id } => self.remove_voter(*voter_id),
        }
    }

    /// A broker speaks only in its present life (KIP-631).
    pub(super) fn check_broker_epoch(&self, id: BrokerId, epoch: i64) -> Result<(), Rejection> {
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
}

#[cfg(test)]
mod tests;
