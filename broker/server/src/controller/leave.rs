//! Leaving in order (KIP-841, KAFKA-14292): what this broker leads moves to others while it still
//! serves and applies metadata (KAFKA-14296).

use std::sync::atomic::Ordering;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome,
    cluster::{Broker as Registered, ShutdownProgress},
};
use tokio::time::Instant;

use crate::{broker::Broker, limits};

/// Has others take over what this broker leads, until `by` at the latest. Does nothing where there is
/// no other.
pub(crate) async fn leave(broker: &Broker, by: Instant) {
    let me = broker.config.node_id;
    let has_others = |cluster: &Cluster| {
        cluster
            .brokers
            .values()
            .any(|other| other.id != me && other.is_active())
    };
    if !has_others(&broker.quorum.cluster()) {
        return;
    }
    // First of all: the controller that moves the leaders should be one that stays.
    broker.quorum.hand_over().await;
    let Some(progress) = shut_down(broker, by).await else {
        return;
    };
    if !progress.below_min_isr.is_empty() {
        tracing::warn!(partitions = %progress.below_min_isr, "these partitions have too few replicas in sync without this broker");
    }
    // Followers and clients are told of new leaders by brokers that know of them.
    let patience = by.min(Instant::now() + limits::LEAVE_APPLIED_WAIT);
    let has_spread = || broker.applied_by_others.load(Ordering::Acquire) >= progress.target_index;
    while !has_spread() && has_others(&broker.quorum.cluster()) && Instant::now() < patience {
        tokio::time::sleep(limits::LEAVE_ASK_EVERY).await;
    }
}

/// Waits until calls in flight have ended, until `by` at the latest; or for a moment only, where others that
/// writes wait for are all leaving, down or out of reach. Returns whether the calls have ended.
pub(crate) async fn end_calls(broker: &Broker, by: Instant) -> bool {
    broker.tasks.close();
    let nobody_confirms = async {
        let mut alone: Option<Instant> = None;
        loop {
            if !is_left_alone(broker) {
                alone = None;
            } else if alone.get_or_insert_with(Instant::now).elapsed() >= limits::LEAVE_ALONE_WAIT {
                return;
            }
            tokio::time::sleep(limits::LEAVE_ASK_EVERY).await;
        }
    };
    tokio::select! {
        () = broker.tasks.wait() => true,
        () = tokio::time::sleep_until(by) => false,
        () = nobody_confirms => false,
    }
}

/// Whether there are other brokers, and none of them is in service, or nobody can tell.
fn is_left_alone(broker: &Broker) -> bool {
    let me = broker.config.node_id;
    let cluster = broker.quorum.cluster();
    let mut others = cluster.brokers.values().filter(|other| other.id != me).peekable();
    others.peek().is_some() && (!others.any(Registered::is_active) || !broker.quorum.has_leader())
}

/// Asks until nothing is left that could move; `None` if it could not be asked to the end. The index that
/// others must have applied is then that of the last one that took over, not that of the first request.
async fn shut_down(broker: &Broker, by: Instant) -> Option<ShutdownProgress> {
    let me = broker.config.node_id;
    // What others take over they may change before this broker has applied that they have.
    broker.lease.give_up();
    let mut without_leader: Option<Instant> = None;
    while Instant::now() < by {
        let command = Command::ControlledShutdown {
            broker_id: me,
            broker_epoch: broker.broker_epoch,
        };
        let until = by.min(Instant::now() + limits::LEAVE_ANSWER_WITHIN);
        match tokio::time::timeout_at(until, broker.quorum.submit(command)).await {
            Ok(Ok(Ok(Outcome::Shutdown(progress)))) => {
                let cluster = broker.quorum.cluster();
                // What was answered may be of a moment ago; then it is asked again.
                let leads = cluster.partitions().any(|(_, _, record)| record.leader == Some(me));
                if progress.remaining.is_empty() || (leads && !can_move(&cluster, me)) {
                    if !progress.remaining.is_empty() {
                        tracing::warn!(partitions = %progress.remaining, "nobody takes these partitions over");
                    }
                    return Some(ShutdownProgress {
                        target_index: progress.target_index.max(cluster.version),
                        ..progress
                    });
                }
            }
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(rejection))) => {
                tracing::info!(%rejection, "leaving without others taking over");
                return None;
            }
            Ok(Err(error)) => tracing::debug!(%error, "the shutdown was not taken"),
            Err(_) => tracing::debug!("the shutdown was not answered in time"),
        }
        if broker.quorum.has_leader() {
            without_leader = None;
        } else if without_leader.get_or_insert_with(Instant::now).elapsed() >= limits::LEAVE_LEADER_WAIT {
            // The others may be leaving as well, and with them the quorum.
            tracing::warn!("leaving without others taking over: the metadata quorum has no leader");
            return None;
        }
        tokio::time::sleep(limits::LEAVE_ASK_EVERY).await;
    }
    tracing::warn!("others did not take over all partitions in time");
    None
}

/// Whether any partition that `me` leads has another replica whose broker could come into sync and
/// take over. Waiting for others is in vain.
fn can_move(cluster: &Cluster, me: BrokerId) -> bool {
    let active = |id: &BrokerId| *id != me && cluster.brokers.get(id).is_some_and(Registered::is_active);
    cluster
        .partitions()
        .any(|(_, _, partition)| partition.leader == Some(me) && partition.replicas.iter().any(active))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_engine::cluster::FenceReason;

    use super::*;
    use crate::testing::{PHANTOM, TestBroker};

    /// A write that waits for replicas of brokers that leave as well is never confirmed.
    #[tokio::test(flavor = "multi_thread")]
    async fn calls_in_flight_are_waited_for_while_somebody_could_confirm_them() {
        let test = TestBroker::start().await;
        let broker = test.broker();
        broker.spawn(std::future::pending());
        let far = Instant::now() + Duration::from_secs(3600);
        let waits = tokio::time::timeout(limits::LEAVE_ALONE_WAIT * 2, end_calls(broker, far)).await;
        assert!(waits.is_err(), "another one is in service");
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(!end_calls(broker, soon).await, "not longer than it may");
        broker
            .submit(Command::FenceBroker {
                broker_id: PHANTOM,
                broker_epoch: broker.quorum.cluster().brokers[&PHANTOM].epoch,
                reason: FenceReason::LeaseExpired,
            })
            .await
            .unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), end_calls(broker, far)).await;
        assert_eq!(ended, Ok(false));
    }

    /// Clients are sent on by those who know of the last new leader, too.
    #[tokio::test(flavor = "multi_thread")]
    async fn others_are_to_know_of_the_last_one_that_took_over() {
        let test = TestBroker::start().await;
        let broker = test.broker();
        test.partition("t", &[0, PHANTOM]).await;
        test.set_isr("t", &[0], &[], 0).await;
        let leaving = tokio::spawn({
            let broker = broker.clone();
            async move { shut_down(&broker, Instant::now() + Duration::from_secs(60)).await }
        });
        let mut changes = broker.quorum.watch();
        let begun = changes.wait_for(|cluster| cluster.brokers[&0].shutting_down_at.is_some());
        let first = begun.await.unwrap().version;
        // The other replica has caught up.
        test.set_isr("t", &[0, PHANTOM], &[], 0).await;
        let cluster = broker.quorum.cluster();
        assert_eq!(cluster.topics["t"].partitions[0].leader, Some(PHANTOM));
        assert!(cluster.version > first);
        let progress = leaving.await.unwrap().unwrap();
        assert!(progress.remaining.is_empty());
        assert!(progress.target_index >= cluster.version, "{progress:?}");
    }
}
