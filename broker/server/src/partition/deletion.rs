//! Deleting the oldest records, at all replicas that may lead.

use std::sync::Arc;

use millrace_engine::BrokerId;
use millrace_proto::v1::ErrorReason;
use tokio::time::Instant;

use super::Partition;
use crate::{
    error::{ApiError, WriteOutcome},
    limits,
};

impl Partition {
    /// Waits until all in-sync replicas have deleted what is below `offset`, as this broker, which leads,
    /// has done (Kafka's low watermark, KIP-107).
    ///
    /// # Errors
    /// It does not lead any more, or not all have done it within [`limits::DELETED_BY_ALL_WAIT`].
    pub async fn deleted_by_all(self: &Arc<Self>, offset: i64) -> Result<(), ApiError> {
        let until = Instant::now() + limits::DELETED_BY_ALL_WAIT;
        loop {
            let missing = self.in_sync_below(offset)?;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(not_by_all(&missing));
            }
            tokio::time::sleep(limits::DELETED_LOOK_EVERY).await;
        }
    }

    fn in_sync_below(&self, offset: i64) -> Result<Vec<BrokerId>, ApiError> {
        self.check_epoch(None)?;
        let cell = self.cell.lock();
        let leader = cell.replica.as_leader().map_err(|error| self.refused(error))?;
        Ok(leader.in_sync_below(offset))
    }
}

fn not_by_all(missing: &[BrokerId]) -> ApiError {
    ApiError::new(
        ErrorReason::TimedOut,
        format!(
            "The messages are deleted, but brokers {missing:?} have not told that they deleted them, too: if one of them leads soon, it may show them again. Repeat the call."
        ),
    )
    .outcome(WriteOutcome::Unknown)
}
