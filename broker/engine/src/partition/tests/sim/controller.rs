//! The metadata quorum, as far as it matters to one partition.

use super::basics::Seen;
use crate::{
    cluster::{BrokerId, Partition},
    partition::{BrokerView, PartitionView, Proposal, ProposalError},
};

/// The metadata quorum, as far as it matters here.
#[derive(Clone)]
pub(super) struct Controller {
    pub(super) partition: Partition,
    pub(super) brokers: Vec<BrokerView>,
    pub(super) required: usize,
    pub(super) images: Vec<PartitionView>,
    pub(super) bumps_when_leaderless: bool,
    pub(super) next_life: i64,
}

impl Controller {
    pub(super) fn publish(&mut self) {
        self.images.push(PartitionView {
            version: self.images.len() as u64 + 1,
            partition: self.partition.clone(),
            brokers: self.brokers.clone(),
            required: self.required,
        });
    }

    pub(super) fn broker(&mut self, id: BrokerId) -> &mut BrokerView {
        self.brokers.iter_mut().find(|broker| broker.id == id).unwrap()
    }

    pub(super) fn fenced(&self, id: BrokerId) -> bool {
        self.brokers.iter().any(|broker| broker.id == id && broker.fenced)
    }

    /// Sets the in-sync set, and who stays eligible beside it (KIP-966).
    pub(super) fn set_isr(&mut self, isr: Vec<BrokerId>) {
        let left: Vec<BrokerId> = self
            .partition
            .isr
            .iter()
            .copied()
            .filter(|id| !isr.contains(id))
            .collect();
        if isr.len() >= self.required {
            self.partition.elr.clear();
        } else {
            self.partition.elr.extend(left);
            self.partition.elr.retain(|id| !isr.contains(id));
        }
        self.partition.isr = isr;
    }

    pub(super) fn elect(&mut self, seen: &mut Seen) -> bool {
        let leader = self.partition.leader;
        if leader.is_some_and(|id| !self.fenced(id) && self.partition.isr.contains(&id)) {
            return false;
        }
        let in_sync = self.partition.isr.iter().copied().find(|id| !self.fenced(*id));
        let eligible = self.partition.elr.iter().copied().find(|id| !self.fenced(*id));
        if let Some(id) = in_sync.or(eligible) {
            if in_sync.is_none() {
                seen.note("eligible leader elected");
                self.partition.elr.retain(|member| *member != id);
                self.partition.isr = vec![id];
            }
            seen.note("leader elected");
            self.partition.leader = Some(id);
            self.partition.leader_epoch += 1;
            return true;
        }
        if leader.is_some() {
            seen.note("leaderless");
            self.partition.leader = None;
            self.partition.leader_epoch += i32::from(self.bumps_when_leaderless);
            return true;
        }
        false
    }

    /// Changes `min.insync.replicas`: who was eligible by the old one may not be by the new one, so
    /// nobody stays eligible beside the in-sync set (KIP-966).
    pub(super) fn set_required(&mut self, required: usize) {
        if self.partition.isr.is_empty() || self.required == required {
            return;
        }
        self.required = required;
        self.partition.partition_epoch += i32::from(!self.partition.elr.is_empty());
        self.partition.elr.clear();
        self.publish();
    }

    /// Takes a broker out of everything but the replicas.
    pub(super) fn fence(&mut self, id: BrokerId, lost_disk: bool, seen: &mut Seen) {
        self.broker(id).fenced = true;
        let mut changed = self.partition.isr.contains(&id);
        if changed {
            let rest = self
                .partition
                .isr
                .iter()
                .copied()
                .filter(|other| *other != id)
                .collect();
            self.set_isr(rest);
        }
        if lost_disk {
            changed |= self.partition.elr.contains(&id);
            self.partition.elr.retain(|other| *other != id);
        }
        changed |= self.elect(seen);
        self.partition.partition_epoch += i32::from(changed);
        self.publish();
    }

    pub(super) fn unfence(&mut self, id: BrokerId, seen: &mut Seen) {
        if self.fenced(id) {
            self.broker(id).fenced = false;
            let changed = self.elect(seen);
            self.partition.partition_epoch += i32::from(changed);
            self.publish();
        }
    }

    pub(super) fn register(&mut self, id: BrokerId, lost_disk: bool, seen: &mut Seen) -> i64 {
        self.next_life += 1;
        let life = self.next_life;
        self.broker(id).broker_epoch = life;
        self.fence(id, lost_disk, seen);
        life
    }

    /// The checks of KIP-497, KIP-841 and KIP-903 in their order; equal to the present set is
    /// success before fencing is looked at (KAFKA-14144).
    pub(super) fn alter(&mut self, proposal: &Proposal, seen: &mut Seen) -> Result<(Partition, usize), ProposalError> {
        let partition = &self.partition;
        if proposal.leader_epoch > partition.leader_epoch || proposal.partition_epoch > partition.partition_epoch {
            return Err(ProposalError::NotController);
        }
        if proposal.leader_epoch < partition.leader_epoch {
            return Err(ProposalError::FencedLeaderEpoch);
        }
        if partition.leader != Some(proposal.leader) {
            return Err(ProposalError::NotLeader);
        }
        let sender = self.brokers.iter().find(|broker| broker.id == proposal.leader).unwrap();
        if sender.broker_epoch != proposal.broker_epoch {
            return Err(ProposalError::StaleBrokerEpoch);
        }
        let members: Vec<BrokerId> = proposal.isr.iter().map(|member| member.0).collect();
        let mut sorted = (members.clone(), partition.isr.clone());
        sorted.0.sort_unstable();
        sorted.1.sort_unstable();
        let forgets = proposal.lost.iter().any(|id| partition.elr.contains(id));
        if sorted.0 == sorted.1 && !proposal.supersedes && !forgets {
            seen.note("equal proposal");
            return Ok((partition.clone(), self.required));
        }
        if proposal.partition_epoch < partition.partition_epoch {
            return Err(ProposalError::InvalidUpdateVersion);
        }
        assert!(members.contains(&proposal.leader), "{proposal:?}");
        for (id, epoch) in &proposal.isr {
            let sound = self
                .brokers
                .iter()
                .any(|broker| broker.id == *id && !broker.fenced && broker.broker_epoch == *epoch);
            if !sound {
                seen.note("ineligible member");
                return Err(ProposalError::IneligibleReplica);
            }
        }
        if proposal.supersedes {
            seen.note("superseded");
        }
        self.set_isr(members);
        self.partition.elr.retain(|id| !proposal.lost.contains(id));
        if proposal.floor.offset > self.partition.floor.offset {
            self.partition.floor = proposal.floor;
        }
        self.partition.partition_epoch += 1;
        self.publish();
        Ok((self.partition.clone(), self.required))
    }
}
