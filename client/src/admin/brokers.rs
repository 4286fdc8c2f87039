//! Brokers: cordon, drain, remove, a new disk.

use millrace_proto::v1;

use super::Admin;
use crate::error::Result;

impl Admin {
    /// Gives a broker no new replicas from now on; it keeps and serves what it has.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, and those of any call.
    pub async fn cordon_broker(&self, broker_id: i32) -> Result<()> {
        let request = v1::CordonBrokerRequest {
            broker_id,
            validate_only: self.validate_only,
        };
        self.change(|mut admin| async move { Ok(admin.cordon_broker(request).await?) })
            .await?;
        Ok(())
    }

    /// Gives a broker new replicas again.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, and those of any call.
    pub async fn uncordon_broker(&self, broker_id: i32) -> Result<()> {
        let request = v1::UncordonBrokerRequest {
            broker_id,
            validate_only: self.validate_only,
        };
        self.change(|mut admin| async move { Ok(admin.uncordon_broker(request).await?) })
            .await?;
        Ok(())
    }

    /// Begins to move all replicas away from brokers; answers with the moves. It is done when
    /// [`Admin::describe_cluster`] shows no partitions on them. All that leave should be in one call:
    /// drained one after another, they would hand replicas to the next one that leaves.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, NOT_ENOUGH_BROKERS and PLACEMENT_BLOCKED where replicas have no place to go
    /// (then nothing is changed), and those of any call.
    pub async fn drain_brokers(&self, broker_ids: impl IntoIterator<Item = i32>) -> Result<v1::PlannedMoves> {
        self.drain(broker_ids.into_iter().collect(), false).await
    }

    /// Ends a drain: the brokers may get replicas again, and the moves that take replicas away from
    /// them are cancelled; answers with these. What has moved stays where it is.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, and those of any call.
    pub async fn cancel_drain(&self, broker_ids: impl IntoIterator<Item = i32>) -> Result<v1::PlannedMoves> {
        self.drain(broker_ids.into_iter().collect(), true).await
    }

    async fn drain(&self, broker_ids: Vec<i32>, cancel: bool) -> Result<v1::PlannedMoves> {
        let request = v1::DrainBrokersRequest {
            broker_ids,
            cancel,
            validate_only: self.validate_only,
            throttle_bytes_per_second: if cancel { 0 } else { self.throttle },
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.drain_brokers(request).await?.into_inner()) })
            .await?;
        Ok(answer.moves.unwrap_or_default())
    }

    /// Plans moves that even out the cluster, as few as that takes, and begins them; answers with these.
    /// Replicas are spread over racks, `onto` brokers (those that were added, for instance; none: all that
    /// can take replicas) get their share, and each broker becomes the preferred leader of as many partitions
    /// as the others. Once they are done, asking again finds nothing to do.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, PLACEMENT_BLOCKED for brokers that take no replicas, and those of any call.
    pub async fn rebalance(&self, onto: impl IntoIterator<Item = i32>) -> Result<v1::PlannedMoves> {
        let request = v1::RebalanceRequest {
            broker_ids: onto.into_iter().collect(),
            throttle_bytes_per_second: self.throttle,
            validate_only: self.validate_only,
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.rebalance(request).await?.into_inner()) })
            .await?;
        Ok(answer.moves.unwrap_or_default())
    }

    /// Removes a broker that holds no replica and is stopped; its number and its disk are refused
    /// from then on. `force`: also if it is in service or under maintenance.
    ///
    /// # Errors
    /// STILL_NEEDED if it holds replicas or votes, BROKER_STATE if it is in service,
    /// MAINTENANCE_TAKEN, UNKNOWN_BROKER, and those of any call.
    pub async fn remove_broker(&self, broker_id: i32, force: bool) -> Result<()> {
        let request = v1::RemoveBrokerRequest {
            broker_id,
            force,
            validate_only: self.validate_only,
            if_down: false,
        };
        self.change(|mut admin| async move { Ok(admin.remove_broker(request).await?) })
            .await?;
        Ok(())
    }

    /// Asks whether a broker could be removed if it were down, before it is stopped: it is drained (or
    /// being drained), holds no replica, not even one that a move is about to fill, and has no vote. By
    /// metadata that a majority of the quorum has confirmed after this call began. Changes nothing. A
    /// broker that is removed already may be removed.
    ///
    /// # Errors
    /// STILL_NEEDED if it holds replicas or votes, BROKER_STATE if it is not marked to be drained,
    /// MAINTENANCE_TAKEN, UNKNOWN_BROKER, and those of any call.
    pub async fn may_remove_broker(&self, broker_id: i32) -> Result<()> {
        let request = v1::RemoveBrokerRequest {
            broker_id,
            force: false,
            validate_only: true,
            if_down: true,
        };
        self.change(|mut admin| async move { Ok(admin.remove_broker(request).await?) })
            .await?;
        Ok(())
    }

    /// Permits a broker that is down to come back with another disk, `directory_id` (a UUID) or any.
    /// Its replicas stop counting at once. `accept_data_loss`: also if partitions have no other
    /// replica that surely holds all acknowledged records.
    ///
    /// # Errors
    /// BROKER_STATE if it is in service, STILL_NEEDED with such partitions, UNKNOWN_BROKER, and those
    /// of any call.
    pub async fn replace_broker_directory(
        &self,
        broker_id: i32,
        directory_id: Option<&str>,
        accept_data_loss: bool,
    ) -> Result<()> {
        self.permit_directory(v1::ReplaceBrokerDirectoryRequest {
            broker_id,
            directory_id: directory_id.unwrap_or_default().to_owned(),
            accept_data_loss,
            validate_only: self.validate_only,
            only_if_removed: false,
        })
        .await
    }

    /// Permits the number of a removed broker to be used again, with any disk. Judged as it is permitted:
    /// if a broker of this number has registered meanwhile nothing is permitted.
    ///
    /// # Errors
    /// BROKER_STATE if the number is not a removed broker's, UNKNOWN_BROKER if it never was a broker's,
    /// and those of any call.
    pub async fn permit_removed_broker(&self, broker_id: i32) -> Result<()> {
        self.permit_directory(v1::ReplaceBrokerDirectoryRequest {
            broker_id,
            directory_id: String::new(),
            accept_data_loss: false,
            validate_only: self.validate_only,
            only_if_removed: true,
        })
        .await
    }

    async fn permit_directory(&self, request: v1::ReplaceBrokerDirectoryRequest) -> Result<()> {
        self.change(|mut admin| async move { Ok(admin.replace_broker_directory(request).await?) })
            .await?;
        Ok(())
    }
}
