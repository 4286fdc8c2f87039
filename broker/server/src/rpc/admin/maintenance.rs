//! May this broker be taken down now, and the one permission in the cluster to do so.

use std::time::Duration;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome,
    cluster::{AcquireMaintenance, Broker, MAX_MAINTENANCE_MS, MAX_TEXT_BYTES},
};
use millrace_proto::v1::{self, ErrorReason};

use super::{
    AdminService,
    cluster::{current_slot, describe_slot, listed},
    known_broker, preview,
    quorum::{ask_the_leader, leads, member_of},
    unexpected,
};
use crate::{
    error::ApiError,
    quorum::QuorumStatus,
    rpc::convert::{duration, timestamp_to_ms},
};

/// For how long a broker may be taken down where the request does not say it: a restart with
/// recovery takes less.
const USUAL_TTL: Duration = Duration::from_secs(600);

/// A voter that was heard of within this time is there.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// What a notice says of a quorum without a majority.
const STANDS_STILL: &str =
    "while it is down no topic is created or changed, and a partition whose leader fails gets no other.";

/// A voter that lacks no more entries than this can stand in at once.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// Whether a broker may be taken down.
///
/// # Errors
/// An unknown broker; this broker does not know.
pub async fn may_restart(
    service: &AdminService,
    request: &v1::MayRestartRequest,
) -> Result<v1::MayRestartResponse, ApiError> {
    let id = request.broker_id;
    let cluster = service.latest().await?;
    let epoch = known_broker(&cluster, id)?.epoch;
    let (mut reasons, mut notices) = (Vec::new(), Vec::new());
    match quorum_without(&cluster, &service.0.quorum.status(), id)? {
        Quorum::GoesOn => {}
        Quorum::HasNoChoice(notice) => notices.push(notice),
        Quorum::Needs(reason) => reasons.push(reason),
    }
    let maintenance = current_slot(&cluster, service.0.now_ms());
    if let Some(slot) = maintenance.as_ref().filter(|slot| slot.broker_id != id) {
        reasons.push(format!(
            "{:?} has broker {} under maintenance: wait until it is given back.",
            slot.holder, slot.broker_id
        ));
    }
    notices.extend(stopped_writes(&cluster, id));
    let (forbidding, exempt) = match cluster.may_restart(id) {
        Ok(exempt) => (Default::default(), exempt),
        Err(forbidding) => (forbidding, Default::default()),
    };
    Ok(v1::MayRestartResponse {
        allowed: forbidding.is_empty() && reasons.is_empty(),
        forbidding: Some(listed(&forbidding)),
        exempt: Some(listed(&exempt)),
        reasons,
        maintenance,
        broker_epoch: epoch,
        notices,
    })
}

/// What a notice says of partitions that are replicated, and are not written to without the broker.
fn stopped_writes(cluster: &Cluster, id: BrokerId) -> Option<String> {
    let stopped = cluster.writes_stop_without(id);
    let first = stopped.first.first()?;
    let partitions = match stopped.count {
        1 => "1 partition".to_owned(),
        many => format!("{many} partitions"),
    };
    Some(format!(
        "Writes with acks=all to {partitions} stop while broker {id} is down, as all of their replicas must be in sync ({} is the first): to go on without one they need more replicas, or a lower min.insync.replicas.",
        first.partition
    ))
}

/// What becomes of the metadata quorum without a broker.
#[derive(Debug, PartialEq, Eq)]
enum Quorum {
    /// The others are a majority.
    GoesOn,
    /// It stands still, whenever the broker is down, as nobody else could vote: what that stops.
    HasNoChoice(String),
    /// It would stand still and need not: why, and what to do.
    Needs(String),
}

/// What becomes of the metadata quorum without the broker. A voter that is the only one, or one of
/// two where no other broker could be the third, is like a partition without a choice: it forbids
/// nothing as long as the others are there.
fn quorum_without(cluster: &Cluster, status: &QuorumStatus, id: BrokerId) -> Result<Quorum, ApiError> {
    let Some(voter) = member_of(cluster, status, id).filter(|member| member.is_voter) else {
        return Ok(Quorum::GoesOn);
    };
    let voters = status.voters.len();
    if voters <= 1 {
        return Ok(Quorum::HasNoChoice(format!(
            "Broker {id} is the only voter of the metadata quorum: {STANDS_STILL}"
        )));
    }
    if !leads(status) {
        return Err(ask_the_leader(cluster, status));
    }
    let is_there = |member: &&crate::quorum::MemberStatus| {
        let heard = member.last_heard.is_some_and(|ago| ago <= HEARD_WITHIN);
        heard && member.lag_entries.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
    };
    let others = status
        .members
        .iter()
        .filter(|member| member.is_voter && member.voter_id != voter.voter_id)
        .filter(is_there)
        .count();
    let majority = voters / 2 + 1;
    if others >= majority {
        return Ok(Quorum::GoesOn);
    }
    let first = if others < voters - 1 {
        "bring the others back first".to_owned()
    } else if let Some(other) = without_vote(cluster, status) {
        format!("first give another a vote, as with `millrace quorum add {other}`")
    } else {
        return Ok(Quorum::HasNoChoice(format!(
            "Broker {id} is one of {voters} voters of the metadata quorum, all of which are needed: {STANDS_STILL}"
        )));
    };
    Ok(Quorum::Needs(format!(
        "Without broker {id}, {others} of {voters} voters of the metadata quorum would be there and {majority} are needed: {first}."
    )))
}

/// A broker that could have a vote and has none, in service if there is one that is.
fn without_vote(cluster: &Cluster, status: &QuorumStatus) -> Option<BrokerId> {
    let votes = |id| member_of(cluster, status, id).is_some_and(|member| member.is_voter);
    let others = cluster.brokers.values().filter(|known| !votes(known.id));
    others.min_by_key(|known| !known.is_active()).map(|known| known.id)
}

/// Gives the permission to take a broker down.
///
/// # Errors
/// Somebody else has it; partitions or the metadata quorum need the broker; it has begun another
/// life.
pub async fn acquire(
    service: &AdminService,
    request: v1::AcquireMaintenanceRequest,
) -> Result<v1::AcquireMaintenanceResponse, ApiError> {
    let id = request.broker_id;
    check_holder(&request.holder)?;
    let most = Duration::from_millis(u64::try_from(MAX_MAINTENANCE_MS).unwrap_or(0));
    let ttl = duration("ttl", request.ttl, USUAL_TTL, most)?;
    let cluster = service.latest().await?;
    let epoch = known_broker(&cluster, id)?.epoch;
    if let Some(meant) = request.broker_epoch.filter(|meant| *meant != epoch) {
        return Err(ApiError::new(
            ErrorReason::BrokerState,
            format!("Broker {id} has started again since: it is in epoch {epoch}, not {meant}; look again."),
        )
        .with("broker_epoch", epoch));
    }
    let now_ms = service.0.now_ms();
    // Who has it may have it longer if the broker is down by now, or on its way: then there is nothing to judge.
    let is_held =
        current_slot(&cluster, now_ms).is_some_and(|slot| slot.broker_id == id && slot.holder == request.holder);
    let serves = cluster.brokers.get(&id).is_some_and(Broker::is_active);
    let mut notices = Vec::new();
    if serves || !is_held {
        match quorum_without(&cluster, &service.0.quorum.status(), id)? {
            Quorum::GoesOn => {}
            Quorum::HasNoChoice(notice) => notices.push(notice),
            Quorum::Needs(reason) => return Err(ApiError::new(ErrorReason::StillNeeded, reason)),
        }
        notices.extend(stopped_writes(&cluster, id));
    }
    let command = Command::AcquireMaintenance(AcquireMaintenance {
        holder: request.holder,
        broker_id: id,
        broker_epoch: epoch,
        ttl_ms: i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX),
        now_ms,
    });
    let outcome = if request.validate_only {
        preview(&cluster, &command)?.1
    } else {
        service.submit(command).await?
    };
    match outcome {
        Outcome::Maintenance { slot, exempt } => Ok(v1::AcquireMaintenanceResponse {
            slot: Some(describe_slot(&slot)),
            exempt: Some(listed(&exempt)),
            notices,
        }),
        other => Err(unexpected(&other)),
    }
}

/// Before it is in any command: the metadata's log keeps also those that are refused.
fn check_holder(holder: &str) -> Result<(), ApiError> {
    if (1..=MAX_TEXT_BYTES).contains(&holder.len()) {
        return Ok(());
    }
    let problem = format!("must name in 1 to {MAX_TEXT_BYTES} bytes who has the permission");
    Err(ApiError::field("holder", problem))
}

/// Takes the permission back.
///
/// # Errors
/// Somebody else has it, or it was asked for again since; `until` is no time.
pub async fn release(
    service: &AdminService,
    request: v1::ReleaseMaintenanceRequest,
) -> Result<v1::ReleaseMaintenanceResponse, ApiError> {
    check_holder(&request.holder)?;
    let until = request.until.as_ref().map(|until| timestamp_to_ms("until", until));
    let command = Command::ReleaseMaintenance {
        holder: request.holder,
        broker_id: request.broker_id,
        until_ms: until.transpose()?,
    };
    service.change(command, request.validate_only).await?;
    Ok(v1::ReleaseMaintenanceResponse {})
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    /// The quorum without broker `id`, whose voters in `silent` were not heard of lately.
    fn without(silent: &[u64], voters: &[(u64, i32, bool)], id: BrokerId) -> Quorum {
        let brokers: Vec<i32> = voters.iter().map(|(_, broker, _)| *broker).collect();
        let cluster = cluster_of(&brokers);
        let mut status = status_of(voters, Some(voters[0].0));
        for member in &mut status.members {
            if silent.contains(&member.voter_id) {
                member.last_heard = Some(Duration::from_secs(60));
            }
        }
        quorum_without(&cluster, &status, id).unwrap()
    }

    fn reason(without: Quorum) -> String {
        match without {
            Quorum::Needs(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_voter_may_go_while_the_others_are_a_majority() {
        let three = [(1, 1, true), (2, 2, true), (3, 3, true), (4, 4, false)];
        assert_eq!(without(&[], &three, 2), Quorum::GoesOn);
        assert_eq!(without(&[], &three, 1), Quorum::GoesOn, "the leader too");
        assert_eq!(without(&[3], &three, 3), Quorum::GoesOn, "who is gone already");
        assert_eq!(
            reason(without(&[3], &three, 2)),
            "Without broker 2, 1 of 3 voters of the metadata quorum would be there and 2 are needed: bring the others \
             back first."
        );
        assert_eq!(without(&[2, 3], &three, 4), Quorum::GoesOn, "it has no vote");
    }

    #[test]
    fn a_quorum_without_a_choice_forbids_nothing_as_long_as_all_are_there() {
        let notice = |without| match without {
            Quorum::HasNoChoice(notice) => notice,
            other => panic!("{other:?}"),
        };
        let one = notice(without(&[], &[(1, 1, true)], 1));
        assert!(
            one.starts_with("Broker 1 is the only voter of the metadata quorum: while it is down no topic is created"),
            "{one}"
        );
        let two = [(1, 1, true), (2, 2, true)];
        let of_two = notice(without(&[], &two, 1));
        assert!(
            of_two.starts_with("Broker 1 is one of 2 voters of the metadata quorum, all of which"),
            "{of_two}"
        );
        assert!(reason(without(&[2], &two, 1)).ends_with("bring the others back first."));
    }

    #[test]
    fn a_quorum_that_could_have_another_voter_has_a_choice() {
        let voters = [(1, 0, true), (2, 1, false), (3, 2, true)];
        assert_eq!(
            reason(without(&[], &voters, 0)),
            "Without broker 0, 1 of 2 voters of the metadata quorum would be there and 2 are needed: first give another \
             a vote, as with `millrace quorum add 1`."
        );
        assert_eq!(without(&[], &voters, 1), Quorum::GoesOn, "it has no vote");
    }

    #[test]
    fn a_follower_does_not_guess() {
        let cluster = cluster_of(&[1, 2, 3]);
        let mut status = status_of(&[(1, 1, true), (2, 2, true), (3, 3, true)], Some(1));
        for member in &mut status.members {
            (member.last_heard, member.lag_entries) = (None, None);
        }
        let error = quorum_without(&cluster, &status, 2).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::NotLeader);
    }
}
