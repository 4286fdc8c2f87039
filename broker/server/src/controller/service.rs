//! Coming into service, and back after a lease was lost.

use std::sync::Arc;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome, Rejection,
    cluster::{FenceReason, UnfenceBroker, UnfenceError},
};

use super::formation::Wait;
use crate::{broker::Broker, http::Health, limits, quorum::QuorumError};

/// Why a fenced broker does not come into service, or not yet.
#[derive(Debug)]
enum NotInService {
    /// To be asked again.
    NotNow(String),
    /// This life never will.
    Never(String),
}

/// Asks to be put into service until it is so. The partitions are open.
///
/// # Errors
/// In words why this life never will be.
pub(crate) async fn wait_for_service(broker: &Broker, health: &Health) -> Result<(), String> {
    health.starting("waiting to be put into service");
    let mut wait = Wait::new(health);
    loop {
        match unfence(broker).await {
            Ok(()) => return Ok(()),
            Err(NotInService::Never(problem)) => return Err(problem),
            Err(NotInService::NotNow(problem)) => wait.tell("waiting to be put into service", &problem),
        }
        wait.pause().await;
    }
}

/// Asks to be put into service whenever the broker lives and is fenced, and ends the broker when the
/// metadata says that its life is over; until it stops.
pub(crate) async fn keep_in_service(broker: Arc<Broker>) {
    let mut changes = broker.quorum.watch();
    loop {
        let standing = standing(&changes.borrow_and_update(), broker.config.node_id, broker.broker_epoch);
        let mut again = limits::SERVICE_LOOK_EVERY;
        match standing {
            Standing::InService | Standing::Leaving => {}
            Standing::Superseded(epoch) => return broker.superseded(epoch),
            Standing::Removed => return broker.end("it was removed from the cluster"),
            Standing::Fenced => match unfence(&broker).await {
                Ok(()) => tracing::info!("back in service"),
                Err(NotInService::Never(problem)) => {
                    tracing::error!(problem, "this life serves no more");
                    return;
                }
                Err(NotInService::NotNow(problem)) => {
                    tracing::warn!(problem, "fenced");
                    again = limits::UNFENCE_AGAIN;
                }
            },
        }
        tokio::select! {
            () = broker.stopping.cancelled() => return,
            () = tokio::time::sleep(again) => {}
            changed = changes.changed(), if again == limits::SERVICE_LOOK_EVERY => if changed.is_err() { return },
        }
    }
}

/// What the metadata says of this life.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    InService,
    /// It may ask to be put into service.
    Fenced,
    /// It is shutting down, or fenced for good.
    Leaving,
    Superseded(i64),
    Removed,
}

fn standing(cluster: &Cluster, id: BrokerId, epoch: i64) -> Standing {
    let Some(own) = cluster.brokers.get(&id) else {
        return match cluster.removed_brokers.contains_key(&id) {
            true => Standing::Removed,
            // This copy of the metadata is from before the registration.
            false => Standing::Leaving,
        };
    };
    if own.epoch > epoch {
        Standing::Superseded(own.epoch)
    } else if own.epoch < epoch || own.shutting_down_at.is_some() {
        Standing::Leaving
    } else if !own.fenced {
        Standing::InService
    } else if own.fence_reason == Some(FenceReason::DirectoryFailed) {
        Standing::Leaving
    } else {
        Standing::Fenced
    }
}

/// Asks once.
async fn unfence(broker: &Broker) -> Result<(), NotInService> {
    if let Some(offline) = broker.dir.offline() {
        return Err(NotInService::Never(offline.to_string()));
    }
    if !broker.disk.writes() {
        return Err(NotInService::NotNow("the disk does not take writes".into()));
    }
    let command = Command::UnfenceBroker(UnfenceBroker {
        broker_id: broker.config.node_id,
        broker_epoch: broker.broker_epoch,
        // Before the ends: logs that the metadata up to there places here are open by then.
        applied_index: broker.carried_out(),
        log_ends: broker.partitions.log_ends(&broker.quorum.cluster()),
    });
    match broker.quorum.submit(command).await {
        Ok(Ok(Outcome::Unfenced { lost })) => {
            if !lost.is_empty() {
                tracing::error!(partitions = %lost, "these partitions lack what was committed: their data is older, or damaged");
            }
            Ok(())
        }
        Ok(Ok(other)) => Err(NotInService::NotNow(format!("an unexpected answer: {other:?}"))),
        Ok(Err(rejection)) => Err(match &rejection {
            Rejection::StaleBrokerEpoch { current, .. } => {
                broker.superseded(*current);
                NotInService::Never(rejection.to_string())
            }
            Rejection::UnknownBroker { .. } | Rejection::Unfence(UnfenceError::DirectoryFailed { .. }) => {
                NotInService::Never(rejection.to_string())
            }
            _ => NotInService::NotNow(rejection.to_string()),
        }),
        Err(error @ QuorumError::Stopped { .. }) => Err(NotInService::Never(error.to_string())),
        Err(error) => Err(NotInService::NotNow(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::{RegisterBroker, StartBroker};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_the_metadata_says_of_this_life() {
        let mut cluster = Cluster::default();
        assert_eq!(standing(&cluster, 3, 5), Standing::Leaving, "not yet there");
        let mut index = 4;
        let mut apply = |cluster: &mut Cluster, command: Command| {
            index += 1;
            cluster.apply(index, &command).unwrap();
        };
        let start = |incarnation| {
            Command::StartBroker(StartBroker {
                registration: RegisterBroker {
                    broker_id: 3,
                    incarnation: Uuid::from_u128(incarnation),
                    cluster_id: "c".into(),
                    directory_id: Uuid::from_u128(9),
                    address: "h:1".into(),
                    rack: String::new(),
                    version: "1".into(),
                    now_ms: 0,
                },
                internal_address: "h:2".into(),
                directory: millrace_engine::cluster::DirectoryReport::default(),
                replaces: None,
            })
        };
        apply(&mut cluster, start(1));
        let epoch = cluster.brokers[&3].epoch;
        assert_eq!(standing(&cluster, 3, epoch), Standing::Fenced);
        assert_eq!(standing(&cluster, 3, epoch - 1), Standing::Superseded(epoch));
        assert_eq!(standing(&cluster, 3, epoch + 1), Standing::Leaving);
        let unfence = UnfenceBroker {
            broker_id: 3,
            broker_epoch: epoch,
            applied_index: 100,
            log_ends: Vec::new(),
        };
        apply(&mut cluster, Command::UnfenceBroker(unfence));
        assert_eq!(standing(&cluster, 3, epoch), Standing::InService);
        let fence = |reason| Command::FenceBroker {
            broker_id: 3,
            broker_epoch: epoch,
            reason,
        };
        apply(&mut cluster, fence(FenceReason::LeaseExpired));
        assert_eq!(standing(&cluster, 3, epoch), Standing::Fenced);
        apply(&mut cluster, fence(FenceReason::DirectoryFailed));
        assert_eq!(standing(&cluster, 3, epoch), Standing::Leaving);
        let remove = Command::RemoveBroker {
            broker_id: 3,
            force: true,
            now_ms: 0,
        };
        apply(&mut cluster, remove);
        assert_eq!(standing(&cluster, 3, epoch), Standing::Removed);
    }
}
