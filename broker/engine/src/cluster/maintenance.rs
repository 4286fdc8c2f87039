//! The permission to take a broker down: one in the cluster, bound to a life of the broker and
//! to a time, so that neither a crash of its holder nor a restart of the broker leaves it behind.

use super::{
    apply::Applied,
    command::AcquireMaintenance,
    limits::{MAX_MAINTENANCE_MS, MAX_TEXT_BYTES},
    outcome::{Outcome, PartitionList},
    refusal::MaintenanceError,
    rejection::Rejection,
    state::{Broker, BrokerId, Cluster, MaintenanceSlot},
};

impl Cluster {
    /// Who has the permission at this time, in milliseconds since 1970: one whose time is up stays in the
    /// state until somebody else gets it, and means nothing.
    #[must_use]
    pub fn maintenance_at(&self, now_ms: i64) -> Option<&MaintenanceSlot> {
        self.maintenance.as_ref().filter(|slot| slot.until_ms > now_ms)
    }

    /// Gives the permission if nobody has it and writes go on without the broker. Who has it may have it longer: while
    /// the broker serves, if writes still go on without it; another may have failed since. That it is down by then, or on
    /// its way, is no reason to refuse.
    pub(super) fn acquire_maintenance(&mut self, wish: &AcquireMaintenance) -> Result<Applied, Rejection> {
        let id = wish.broker_id;
        if wish.holder.is_empty() || wish.holder.len() > MAX_TEXT_BYTES {
            return Err(MaintenanceError::InvalidHolder.into());
        }
        if !(1..=MAX_MAINTENANCE_MS).contains(&wish.ttl_ms) {
            return Err(MaintenanceError::InvalidTime { ttl_ms: wish.ttl_ms }.into());
        }
        self.check_broker_epoch(id, wish.broker_epoch)?;
        let present = self.maintenance_at(wish.now_ms);
        if let Some(slot) = present.filter(|slot| slot.holder != wish.holder || slot.broker_id != id) {
            return Err(MaintenanceError::Taken {
                holder: slot.holder.clone(),
                broker_id: slot.broker_id,
            }
            .into());
        }
        let serves = self.brokers.get(&id).is_some_and(Broker::is_active);
        let exempt = if serves || present.is_none() {
            self.may_restart(id)
                .map_err(|partitions| MaintenanceError::Needed { id, partitions })?
        } else {
            PartitionList::default()
        };
        let slot = MaintenanceSlot {
            holder: wish.holder.clone(),
            broker_id: id,
            broker_epoch: wish.broker_epoch,
            until_ms: wish.now_ms.saturating_add(wish.ttl_ms),
        };
        let changed = self.maintenance.as_ref() != Some(&slot);
        self.maintenance = Some(slot.clone());
        Ok(Applied {
            outcome: Outcome::Maintenance { slot, exempt },
            changed,
        })
    }

    /// Takes the permission back. Nothing to take back is no error: the broker's new life, or an
    /// earlier try, has done so. Who was held up since it looked gives back what it saw, and not what was asked for again
    /// in its name.
    pub(super) fn release_maintenance(
        &mut self,
        holder: &str,
        broker_id: BrokerId,
        until_ms: Option<i64>,
    ) -> Result<Applied, Rejection> {
        match &self.maintenance {
            None => Ok(Applied::unchanged(Outcome::Done)),
            Some(slot)
                if slot.holder == holder
                    && slot.broker_id == broker_id
                    && until_ms.is_some_and(|until_ms| until_ms != slot.until_ms) =>
            {
                Err(MaintenanceError::AcquiredAgain {
                    holder: slot.holder.clone(),
                    broker_id,
                }
                .into())
            }
            Some(slot) if slot.holder == holder && slot.broker_id == broker_id => {
                self.maintenance = None;
                Ok(Applied::changed(Outcome::Done))
            }
            Some(slot) => Err(MaintenanceError::NotHeld {
                holder: holder.chars().take(MAX_TEXT_BYTES).collect(),
                broker_id,
                present_holder: slot.holder.clone(),
                present_broker_id: slot.broker_id,
            }
            .into()),
        }
    }
}
