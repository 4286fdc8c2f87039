//! Where a group is coordinated, and calls passed on to there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::{
    BrokerId, Cluster,
    group::{Answer, GroupRejection, Request as Asked, check_group_id, group_partition},
};
use millrace_proto::{
    internal::v1::{GroupsCall, GroupsCallRequest},
    v1::ErrorReason,
};
use prost::Message;

use super::{Origin, refusals::no_coordinator};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    forward::{self, Peer, error_in},
    groups::{self, Coordinator},
    limits,
};

/// A call that a group's coordinator answers.
pub(super) trait Call: Message + Clone + Default + 'static {
    /// As brokers name it among themselves.
    const CALL: GroupsCall;
    /// It changes nothing, so that it may be repeated whatever became of it.
    const READS: bool;
    /// Its answer.
    type Answer: Message + Default;

    /// The same of this one: some are only checked.
    fn reads(&self) -> bool {
        Self::READS
    }

    /// The group.
    fn group(&self) -> &str;

    /// Answers it, where the coordinator is.
    ///
    /// # Errors
    /// Of the request, or the coordinator's.
    fn here(
        self,
        broker: &Broker,
        coordinator: &Coordinator,
        origin: &Origin,
    ) -> impl Future<Output = Result<Self::Answer, ApiError>> + Send;
}

/// Where a group is coordinated.
pub(super) enum Place {
    /// By this broker.
    Here(Arc<Coordinator>),
    /// By another one.
    There(Arc<Peer>),
}

/// Finds a group's coordinator.
///
/// # Errors
/// There is none at the moment, or no topic of groups can be made.
pub(super) async fn place(broker: &Broker, group: &str) -> Result<Place, ApiError> {
    let (_, topic) = groups::find_or_create(broker).await?;
    let number = group_partition(group, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX));
    place_of(broker, number, topic.partitions[number as usize].leader)
}

/// The coordinator of a partition of the groups' topic that `leader` leads.
///
/// # Errors
/// There is none at the moment.
pub(super) fn place_of(broker: &Broker, number: u32, leader: Option<i32>) -> Result<Place, ApiError> {
    match leader {
        None => Err(no_coordinator("its partition has no leader")),
        Some(leader) if leader == broker.config.node_id => here(broker, number).map(Place::Here),
        Some(leader) => Ok(Place::There(broker.forward.peer(leader))),
    }
}

/// The coordinator of a partition of the groups' topic, if it is here.
///
/// # Errors
/// It is not, or not yet.
pub(super) fn here(broker: &Broker, number: u32) -> Result<Arc<Coordinator>, ApiError> {
    let here = broker.groups.of_partition(number);
    here.ok_or_else(|| no_coordinator("it has not begun yet").outcome(WriteOutcome::NotWritten))
}

/// The coordinator of a group, if it is here: what another broker passes on goes no further.
///
/// # Errors
/// It is not, or not yet.
pub(super) fn group_here(broker: &Broker, group: &str) -> Result<Arc<Coordinator>, ApiError> {
    check_group_id(group)?;
    let cluster = broker.quorum.cluster();
    let topic = cluster.topics.get(groups::NAME);
    let topic = topic.ok_or_else(|| no_coordinator("it is not known here yet").outcome(WriteOutcome::NotWritten))?;
    let number = group_partition(group, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX));
    here(broker, number)
}

/// Asks a coordinator. What the answer tells holds when this returns: nobody else coordinates the group while this
/// broker's lease holds, and its partition is led here in the coordinator's epoch.
///
/// An answer from memory for which the lease ended in between is not given: it is computed anew. A write was made or
/// not, whenever that is told; all that has to be known is that the coordinator is the same still. If this broker was
/// fenced in between, it has applied that before it asked to be put back into service, and then has no lease before.
///
/// # Errors
/// The coordinator's; that it is none any more, or can't be sure that it is.
pub(super) async fn ask(
    broker: &Broker,
    coordinator: &Coordinator,
    request: Asked,
    origin: &Origin,
) -> Result<Answer, ApiError> {
    if !broker.lease.wait(limits::GROUP_LEASE_WAIT).await {
        return Err(no_coordinator("this broker has no lease").outcome(WriteOutcome::NotWritten));
    }
    use Asked::{Commit, DeleteGroup, Heartbeat, Leave, ResetOffsets};
    let writes = match &request {
        Commit(_) | DeleteGroup(_) | Leave(_) => true,
        ResetOffsets(reset) => !reset.validate_only,
        _ => false,
    };
    let changes = writes || matches!(request, Heartbeat(_));
    let answer = coordinator.ask(request, origin.stream.clone(), origin.memory.clone());
    let answer = answer.await;
    use GroupRejection as R;
    // These tell nothing of the group.
    if let Err(R::NotCoordinator { .. } | R::Loading | R::NotStored | R::Overloaded) = answer {
        return Ok(answer?);
    }
    let holds = broker.lease.holds() || (writes && broker.lease.wait(limits::GROUP_LEASE_WAIT).await);
    if holds && coordinator.leads(broker) {
        return Ok(answer?);
    }
    let error = no_coordinator("it may be another broker by now");
    Err(match changes {
        true => error.outcome(WriteOutcome::Unknown),
        false => error,
    })
}

/// Has a call answered by the group's coordinator, wherever that is; waits a moment for one that is elected, or loads.
///
/// # Errors
/// Of the request, or the coordinator's; there is none in time.
pub(super) async fn call<C: Call>(broker: &Broker, request: C, origin: &Origin) -> Result<C::Answer, ApiError> {
    check_group_id(request.group())?;
    let mut search = Search::new();
    loop {
        let answered = match place(broker, request.group()).await {
            Ok(Place::Here(coordinator)) => request.clone().here(broker, &coordinator, origin).await,
            Ok(Place::There(peer)) => there(broker, &peer, &request).await,
            Err(error) => Err(error),
        };
        match answered {
            Err(error) if asks_again(&error, request.reads()) => {
                if !search.again(broker).await {
                    return Err(given_up(error));
                }
            }
            answered => return answered,
        }
    }
}

async fn there<C: Call>(broker: &Broker, peer: &Peer, request: &C) -> Result<C::Answer, ApiError> {
    let reads = request.reads();
    let sent = send(peer, C::CALL, request.encode_to_vec().into(), Vec::new(), reads);
    let response = tokio::select! {
        answered = sent => answered?,
        () = moved_from(broker, request.group(), peer.id()) => {
            let error = no_coordinator("another broker took over before it answered");
            return Err(if reads { error } else { error.outcome(WriteOutcome::Unknown) });
        }
    };
    C::Answer::decode(response).map_err(|error| ApiError::internal("a coordinator's answer", &error))
}

/// Returns when a group's coordinator has not been this broker for a moment, in which it could have answered: it may
/// have stopped without a word.
pub(super) async fn moved_from(broker: &Broker, group: &str, from: BrokerId) {
    let mut changes = broker.quorum.watch();
    loop {
        let led_by = |cluster: &Cluster| {
            let partitions = &cluster.topics.get(groups::NAME)?.partitions;
            let number = group_partition(group, u32::try_from(partitions.len()).unwrap_or(u32::MAX));
            partitions.get(number as usize)?.leader
        };
        let leader = led_by(&changes.borrow_and_update());
        if leader != Some(from) {
            return tokio::time::sleep(limits::DEPOSED_COORDINATOR_WAIT).await;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Sends a call to another coordinator. `reads`: it changes nothing.
///
/// # Errors
/// It can't be reached, with what that means for a change; or what it answers, as it is.
pub(super) async fn send(
    peer: &Peer,
    call: GroupsCall,
    request: Bytes,
    partitions: Vec<u32>,
    reads: bool,
) -> Result<Bytes, ApiError> {
    let request = GroupsCallRequest {
        hello: None,
        call: call.into(),
        request,
        partitions,
    };
    let answered = peer.groups_call(request).await;
    let response = answered.map_err(|error| {
        let told = no_coordinator(&format!("broker {}: {}", peer.id(), error.message()));
        match error.is_not_written() {
            true => told.outcome(WriteOutcome::NotWritten),
            false if reads => told,
            false => told.outcome(WriteOutcome::Unknown),
        }
    })?;
    match response.error {
        Some(error) => Err(error_in(error)),
        None => Ok(response.response),
    }
}

/// Whether another attempt makes sense after this error.
pub(super) fn asks_again(error: &ApiError, reads: bool) -> bool {
    let unknown = is_unknown(error);
    let elsewhere = matches!(
        error.reason(),
        ErrorReason::CoordinatorNotAvailable | ErrorReason::NotCoordinator
    );
    elsewhere && (reads || !unknown)
}

fn is_unknown(error: &ApiError) -> bool {
    let outcome = error.metadata().get("outcome");
    outcome.is_some_and(|outcome| outcome == "unknown")
}

/// What the caller is told when no coordinator was found in time.
pub(super) fn given_up(error: ApiError) -> ApiError {
    match error.reason() {
        ErrorReason::NotCoordinator => no_coordinator("it is just changing").outcome(match is_unknown(&error) {
            true => WriteOutcome::Unknown,
            false => WriteOutcome::NotWritten,
        }),
        _ => error,
    }
}

/// Attempts to find a coordinator, one after the other: the time counts from the first that failed, so that one which
/// took long to fail does not leave none for the next.
pub(super) struct Search {
    within: Duration,
    begun: Option<forward::Search>,
}

impl Search {
    /// For a moment.
    pub(super) fn new() -> Self {
        Self::within(limits::COORDINATOR_WAIT)
    }

    /// For as long.
    pub(super) fn within(within: Duration) -> Self {
        Self { within, begun: None }
    }

    /// Waits a little, longer with each attempt; false if there is no more time.
    pub(super) async fn again(&mut self, broker: &Broker) -> bool {
        let begun = self.begun.get_or_insert_with(|| forward::Search::new(self.within));
        begun.again(broker).await && !broker.stopping.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_perhaps_done_is_not_told_as_not_done() {
        let outcome = |error: &ApiError| error.metadata().get("outcome").cloned();
        for (unknown, expected) in [(true, "unknown"), (false, "not_written")] {
            let ended = ApiError::from(GroupRejection::NotCoordinator {
                outcome_unknown: unknown,
            });
            assert!(asks_again(&ended, true));
            assert_eq!(asks_again(&ended, false), !unknown);
            let told = given_up(ended);
            assert_eq!(told.reason(), ErrorReason::CoordinatorNotAvailable);
            assert_eq!(outcome(&told).as_deref(), Some(expected));
        }
    }
}
