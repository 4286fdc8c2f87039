//! Replicas that a broker in service can't open, while its other ones serve (KIP-858).

use super::{
    apply::Applied,
    command::ReportOfflineReplicas,
    limits::MAX_CHANGES,
    outcome::Outcome,
    partition::Partition,
    rejection::Rejection,
    state::{BrokerId, Cluster},
};

impl Cluster {
    /// The broker leaves the in-sync and eligible sets of these partitions, and others lead, where
    /// anybody else may lead now or later. It comes back as any replica does that has caught up.
    pub(super) fn report_offline_replicas(&mut self, report: &ReportOfflineReplicas) -> Result<Applied, Rejection> {
        if report.partitions.len() > MAX_CHANGES {
            return Err(Rejection::TooManyChanges);
        }
        self.check_broker_epoch(report.broker_id, report.broker_epoch)?;
        let mut changed = false;
        for at in &report.partitions {
            // Deleted meanwhile.
            let Ok((topic, present)) = self.find_partition(at) else {
                continue;
            };
            let next = present.changed(self.rules(topic), |next, notes| {
                next.isr.retain(|id| *id != report.broker_id);
                notes.lost.push(report.broker_id);
            });
            if let Some(next) = next.filter(|next| present.may_do_without(report.broker_id, next)) {
                self.put_partition(at, next);
                changed = true;
            }
        }
        Ok(Applied {
            outcome: Outcome::Done,
            changed,
        })
    }
}

impl Partition {
    /// Whether a member is in a set that it may leave. The last one stays: what it holds is not
    /// known, and that is not the same as lost.
    fn may_do_without(&self, id: BrokerId, next: &Self) -> bool {
        (self.isr.contains(&id) || self.elr.contains(&id)) && !(next.isr.is_empty() && next.elr.is_empty())
    }
}
