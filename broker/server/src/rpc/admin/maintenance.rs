//! May this broker be taken down now, and the one permission in the cluster to do so.

use std::time::Duration;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome,
    cluster::{AcquireMaintenance, MAX_MAINTENANCE_MS},
};
use millrace_proto::v1::{self, ErrorReason};

use super::{
    AdminService,
    cluster::{current_slot, describe_slot, listed},
    known_broker, preview,
    quorum::{ask_the_leader, leads, member_of},
    unexpected,
};
use crate::{error::ApiError, quorum::QuorumStatus, rpc::convert::duration};

/// For how long a broker may be taken down where the request does not say it: a restart with
/// recovery takes less.
const USUAL_TTL: Duration = Duration::from_secs(600);

/// A voter that was heard of within this time is there.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

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
    let mut reasons = Vec::new();
    reasons.extend(quorum_needs(&cluster, &service.0.quorum.status(), id)?);
    let maintenance = current_slot(&cluster, service.0.now_ms());
    if let Some(slot) = maintenance.as_ref().filter(|slot| slot.broker_id != id) {
        reasons.push(format!(
            "{:?} has broker {} under maintenance: wait until it is given back.",
            slot.holder, slot.broker_id
        ));
    }
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
    })
}

/// Why the metadata quorum can't do without the broker. With one voter or two it never can, which
/// forbids nothing as long as the others are there, like partitions without a choice.
fn quorum_needs(cluster: &Cluster, status: &QuorumStatus, id: BrokerId) -> Result<Option<String>, ApiError> {
    let Some(voter) = member_of(cluster, status, id).filter(|member| member.is_voter) else {
        return Ok(None);
    };
    let voters = status.voters.len();
    if voters <= 1 {
        return Ok(None);
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
    if others >= majority.min(voters - 1) {
        return Ok(None);
    }
    Ok(Some(format!(
        "Without broker {id}, {others} of {voters} voters of the metadata quorum would be there and {majority} are needed: bring the others back first."
    )))
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
    // Who has it may have it longer: the broker may be down by now.
    let renewed =
        current_slot(&cluster, now_ms).is_some_and(|slot| slot.broker_id == id && slot.holder == request.holder);
    if !renewed && let Some(reason) = quorum_needs(&cluster, &service.0.quorum.status(), id)? {
        return Err(ApiError::new(ErrorReason::StillNeeded, reason));
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
        }),
        other => Err(unexpected(&other)),
    }
}

/// Takes the permission back.
///
/// # Errors
/// Somebody else has it.
pub async fn release(
    service: &AdminService,
    request: v1::ReleaseMaintenanceRequest,
) -> Result<v1::ReleaseMaintenanceResponse, ApiError> {
    if request.holder.is_empty() {
        return Err(ApiError::field("holder", "must name who has the permission"));
    }
    let command = Command::ReleaseMaintenance {
        holder: request.holder,
        broker_id: request.broker_id,
    };
    service.change(command, request.validate_only).await?;
    Ok(v1::ReleaseMaintenanceResponse {})
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn needs(silent: &[u64], voters: &[(u64, i32, bool)], id: BrokerId) -> Option<String> {
        let brokers: Vec<i32> = voters.iter().map(|(_, broker, _)| *broker).collect();
        let cluster = cluster_of(&brokers);
        let mut status = status_of(voters, Some(voters[0].0));
        for member in &mut status.members {
            if silent.contains(&member.voter_id) {
                member.last_heard = Some(Duration::from_secs(60));
            }
        }
        quorum_needs(&cluster, &status, id).unwrap()
    }

    #[test]
    fn a_voter_may_go_while_the_others_are_a_majority() {
        let three = [(1, 1, true), (2, 2, true), (3, 3, true), (4, 4, false)];
        assert_eq!(needs(&[], &three, 2), None);
        assert_eq!(needs(&[], &three, 1), None, "the leader too");
        assert_eq!(needs(&[3], &three, 3), None, "who is gone already");
        let reason = needs(&[3], &three, 2).unwrap();
        assert!(
            reason.starts_with("Without broker 2, 1 of 3 voters of the metadata quorum would be there and 2 are"),
            "{reason}"
        );
        assert_eq!(needs(&[2, 3], &three, 4), None, "it has no vote");
    }

    #[test]
    fn a_quorum_without_a_choice_forbids_nothing_as_long_as_all_are_there() {
        assert_eq!(needs(&[], &[(1, 1, true)], 1), None);
        let two = [(1, 1, true), (2, 2, true)];
        assert_eq!(needs(&[], &two, 1), None);
        assert!(needs(&[2], &two, 1).is_some());
    }

    #[test]
    fn a_follower_does_not_guess() {
        let cluster = cluster_of(&[1, 2, 3]);
        let mut status = status_of(&[(1, 1, true), (2, 2, true), (3, 3, true)], Some(1));
        for member in &mut status.members {
            (member.last_heard, member.lag_entries) = (None, None);
        }
        let error = quorum_needs(&cluster, &status, 2).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::NotLeader);
    }
}
