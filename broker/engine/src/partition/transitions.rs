//! From one role to another: what a replica does about a new version of the partition's record.
//!
//! ```text
//!                      leader = this broker, later leader epoch
//!        +---------------------------------------------------------------+
//!        |   leader = another or none                                    v
//!   [offline] ------------------> [follower] ---------------------> [leader]
//!        ^                         |      ^                          |   |
//!        | no replica here,        |      +--------------------------+   |
//!        | committed at risk,      |        leader = another or none     |
//!        | below floor, damaged    |        (waiters: outcome unknown)   |
//!        +-------------------------+-------------------------------------+
//!   for good in this process's life: directory failed, superseded by a newer life
//! ```

use std::time::Duration;

use super::{
    effect::{Alarm, Effect, OfflineReason, WaiterFailure},
    epochs::EpochView,
    follower::{Follower, Matched},
    leader::Leader,
    metadata::{Acceptance, PartitionView},
    replica::{Replica, Role},
};
use crate::cluster::{CommittedFloor, Partition};

impl Replica {
    /// Takes over a record of the epoch in which this replica leads.
    pub(super) fn adopt(&mut self, partition: &Partition) {
        self.known.take(self.config.id, partition);
        self.take_floor(partition);
        if let Role::Leader(leader) = &mut self.role {
            leader.adopt(partition);
        }
    }

    fn take_floor(&mut self, partition: &Partition) {
        self.floor = if partition.recovering {
            CommittedFloor::default()
        } else {
            partition.floor
        };
    }

    pub(super) fn on_metadata(
        &mut self,
        now: Duration,
        view: &PartitionView,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        if view.version < self.known.version || self.is_dead() {
            return;
        }
        if self.busy.is_some() {
            // The log's end is not known before its answer.
            if self
                .deferred
                .as_ref()
                .is_none_or(|waiting| waiting.version <= view.version)
            {
                self.deferred = Some(Box::new(view.clone()));
            }
            return;
        }
        match view.broker(self.config.id).map(|own| own.broker_epoch) {
            Some(epoch) if epoch > self.config.broker_epoch => {
                self.go_offline(OfflineReason::Superseded, out);
                return;
            }
            Some(epoch) if epoch == self.config.broker_epoch => {}
            // Written before this life began: it may show a lead of the last one, under whose
            // epoch records that are lost here may be elsewhere.
            _ if view.partition.replicas.contains(&self.config.id) => return,
            _ => {}
        }
        self.known.version = view.version;
        match self.known.judge(&view.partition) {
            Acceptance::Contradicts => out.push(Effect::Alarm(Alarm::ContradictoryMetadata {
                leader_epoch: view.partition.leader_epoch,
            })),
            Acceptance::Old => {}
            acceptance => self.take_record(now, acceptance, view, out),
        }
        let lost_data = &self.lost_data;
        if let Role::Leader(leader) = &mut self.role {
            leader.see_brokers(&view.brokers);
            for follower in &mut leader.followers {
                if lost_data.contains(&(follower.id, follower.broker_epoch)) {
                    follower.mark_lost();
                }
            }
            self.advance(now, out);
            self.propose(now, out);
        }
        self.fetch_if_ready(now, epochs, out);
    }

    fn take_record(&mut self, now: Duration, acceptance: Acceptance, view: &PartitionView, out: &mut Vec<Effect>) {
        let partition = &view.partition;
        let was_leading = matches!(self.role, Role::Leader(_));
        self.known.take(self.config.id, partition);
        self.take_floor(partition);
        self.lost_data.retain(|known| {
            view.brokers
                .iter()
                .any(|broker| (broker.id, broker.broker_epoch) == *known)
        });
        if !partition.replicas.contains(&self.config.id) {
            self.go_offline(OfflineReason::NotAReplica, out);
            return;
        }
        let leads = partition.leader == Some(self.config.id);
        if acceptance == Acceptance::SameEpoch && (was_leading && leads) {
            if let Role::Leader(leader) = &mut self.role {
                // First: who is fenced left the set for that reason.
                leader.see_brokers(&view.brokers);
                leader.adopt(partition);
                leader.required = view.required;
            }
            return;
        }
        if acceptance == Acceptance::SameEpoch && matches!(self.role, Role::Offline(reason) if lasts_for_epoch(reason))
        {
            return;
        }
        if leads && acceptance == Acceptance::NewEpoch {
            self.lead(now, view, out);
        } else if !leads {
            self.follow(acceptance, partition, was_leading, out);
        }
    }

    fn lead(&mut self, now: Duration, view: &PartitionView, out: &mut Vec<Effect>) {
        let floor = self.floor;
        if self.log.end < floor.offset {
            out.push(Effect::Alarm(Alarm::LogBelowFloor {
                log_end: self.log.end,
                floor,
            }));
            self.go_offline(OfflineReason::BelowFloor, out);
            return;
        }
        if let Some(from) = self.damaged_from.filter(|_| view.partition.is_replicated()) {
            let log_end = self.log.end;
            out.push(Effect::Alarm(Alarm::DamagedReplica { from, log_end }));
            // The controller chooses no damaged replica by itself: it is told of no log end of one.
            // Who is chosen by hand, for want of a better one, leads with what is left.
            if !view.partition.recovering {
                self.go_offline(OfflineReason::Damaged, out);
                return;
            }
        }
        let leader_epoch = view.partition.leader_epoch;
        let epoch_start = self.log.end;
        self.role = Role::Leader(Box::new(Leader::begin(
            self.config.id,
            self.config.broker_epoch,
            view,
            self.high_watermark,
            epoch_start,
            now,
        )));
        self.matched = Some(Matched {
            leader_epoch,
            end: epoch_start,
        });
        out.push(Effect::AssignEpoch {
            leader_epoch,
            start_offset: epoch_start,
        });
        out.push(Effect::BecameLeader {
            leader_epoch,
            epoch_start,
        });
        if self.log.durable_end < epoch_start {
            out.push(Effect::Flush);
        }
    }

    fn follow(&mut self, acceptance: Acceptance, partition: &Partition, was_leading: bool, out: &mut Vec<Effect>) {
        // A later version of the same leadership leaves its follower as it is (KAFKA-13790).
        if let Role::Follower(follower) = &self.role
            && acceptance == Acceptance::SameEpoch
            && follower.leader == partition.leader
        {
            return;
        }
        if was_leading {
            out.push(Effect::FailWaiters(WaiterFailure::NotLeader));
        }
        self.role = Role::Follower(Follower::new(partition.leader));
        out.push(Effect::BecameFollower {
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
        });
    }

    pub(super) fn go_offline(&mut self, reason: OfflineReason, out: &mut Vec<Effect>) {
        if self.role == Role::Offline(reason) {
            return;
        }
        if matches!(self.role, Role::Leader(_)) {
            out.push(Effect::FailWaiters(WaiterFailure::Offline));
        }
        self.role = Role::Offline(reason);
        out.push(Effect::GoOffline(reason));
    }
}

/// Whether the reason holds until another leader epoch begins.
fn lasts_for_epoch(reason: OfflineReason) -> bool {
    matches!(
        reason,
        OfflineReason::CommittedAtRisk | OfflineReason::BelowFloor | OfflineReason::Damaged
    )
}
