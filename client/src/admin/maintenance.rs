//! May a broker be taken down now, and the one permission in the cluster to do so.

use std::{sync::Arc, time::Duration};

use millrace_proto::v1::{self, ErrorReason, admin_client::AdminClient};
use tonic::transport::Channel;

use super::Admin;
use crate::{
    error::{Error, Result},
    limits,
};

impl Admin {
    /// Whether a broker may be taken down now without writes stopping anywhere, and if not, what
    /// forbids it.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, and those of any call.
    pub async fn may_restart(&self, broker_id: i32) -> Result<v1::MayRestartResponse> {
        let request = v1::MayRestartRequest { broker_id };
        self.at_quorum_leader(|mut admin| async move { Ok(admin.may_restart(request).await?.into_inner()) })
            .await
    }

    /// Asks for the cluster's one permission to take a broker down, for `ttl` (at most 24 h; none:
    /// 10 minutes). `broker_epoch`: only if the broker is in this life. The same holder may ask again
    /// to have it longer.
    ///
    /// # Errors
    /// MAINTENANCE_TAKEN if another holder has it, STILL_NEEDED with the partitions that need the
    /// broker, BROKER_STATE for another life, UNKNOWN_BROKER, and those of any call.
    pub async fn acquire_maintenance(
        &self,
        holder: &str,
        broker_id: i32,
        broker_epoch: Option<i64>,
        ttl: Option<Duration>,
    ) -> Result<v1::AcquireMaintenanceResponse> {
        let ttl = ttl
            .map(prost_types::Duration::try_from)
            .transpose()
            .map_err(|_| Error::invalid("The time is longer than any: give at most 24 hours."))?;
        let request = v1::AcquireMaintenanceRequest {
            broker_id,
            broker_epoch,
            holder: holder.to_owned(),
            ttl,
            validate_only: self.validate_only,
        };
        self.at_quorum_leader(|mut admin| {
            let request = request.clone();
            async move { Ok(admin.acquire_maintenance(request).await?.into_inner()) }
        })
        .await
    }

    /// Gives the permission back. Nothing to give back is no error.
    ///
    /// # Errors
    /// MAINTENANCE_TAKEN if another holder has it, and those of any call.
    pub async fn release_maintenance(&self, holder: &str, broker_id: i32) -> Result<()> {
        self.release(holder, broker_id, None).await
    }

    /// Gives this permission back, as [`Admin::acquire_maintenance`] or a description told it, and none that was asked
    /// for since. Nothing to give back is no error.
    ///
    /// # Errors
    /// MAINTENANCE_TAKEN if another holder has it, or the same one has asked for it again, and those of any call.
    pub async fn release_maintenance_slot(&self, slot: &v1::MaintenanceSlot) -> Result<()> {
        self.release(&slot.holder, slot.broker_id, slot.until).await
    }

    async fn release(&self, holder: &str, broker_id: i32, until: Option<prost_types::Timestamp>) -> Result<()> {
        let request = v1::ReleaseMaintenanceRequest {
            holder: holder.to_owned(),
            broker_id,
            validate_only: self.validate_only,
            until,
        };
        self.change(|mut admin| async move { Ok(admin.release_maintenance(request).await?) })
            .await?;
        Ok(())
    }

    /// A call that only the leader of the metadata quorum answers: others say who that is.
    async fn at_quorum_leader<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(AdminClient<Channel>) -> F,
    ) -> Result<T> {
        let mut address: Arc<str> = self.client.contact();
        for _ in 0..limits::MAX_REDIRECTS {
            match self.at(&address, &call).await {
                Err(error) if error.reason() == Some(ErrorReason::NotLeader) => match error.metadata("leader") {
                    Some(leader) if *leader != *address => address = leader.into(),
                    _ => return Err(error),
                },
                other => return other,
            }
        }
        self.at(&address, &call).await
    }
}
