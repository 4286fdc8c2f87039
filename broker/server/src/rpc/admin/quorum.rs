//! The metadata quorum: who belongs to it, who votes.

use millrace_engine::{BrokerId, Cluster, Command};
use millrace_proto::v1::{self, ErrorReason, remove_voter_request::Member};

use super::{AdminService, known_broker, signed};
use crate::{
    broker::{Broker, quorum_error},
    error::{ApiError, sentence},
    quorum::{MAX_VOTERS, MemberStatus, QuorumError, QuorumStatus},
};

/// The broker that runs a member: as its id was given out, else the one with its disk.
pub fn broker_of(cluster: &Cluster, member: &MemberStatus) -> Option<BrokerId> {
    let registered = cluster.voters.registered.get(&member.voter_id);
    let by_disk = || {
        let mut brokers = cluster.brokers.values();
        brokers.find(|known| known.directory_id == member.directory_id)
    };
    registered
        .map(|identity| identity.broker_id)
        .or_else(|| by_disk().map(|known| known.id))
}

/// All members that a broker runs, or ran with former disks.
pub fn members_of<'a>(
    cluster: &'a Cluster,
    status: &'a QuorumStatus,
    id: BrokerId,
) -> impl Iterator<Item = &'a MemberStatus> {
    let members = status.members.iter();
    members.filter(move |member| broker_of(cluster, member) == Some(id))
}

/// The member that a broker runs with the disk that it has now.
pub fn member_of<'a>(cluster: &'a Cluster, status: &'a QuorumStatus, id: BrokerId) -> Option<&'a MemberStatus> {
    let directory_id = cluster.brokers.get(&id)?.directory_id;
    members_of(cluster, status, id).find(|member| member.directory_id == directory_id)
}

/// The quorum as this broker knows it.
pub fn describe(broker: &Broker) -> v1::DescribeQuorumResponse {
    let cluster = broker.quorum.cluster();
    let status = broker.quorum.status();
    let leader = leader(&status);
    v1::DescribeQuorumResponse {
        leader_voter_id: status.leader.map(signed),
        leader_broker_id: leader.and_then(|leader| broker_of(&cluster, leader)),
        term: signed(status.term),
        committed_index: status.committed_index.map_or(-1, signed),
        applied_index: status.applied_index.map_or(-1, signed),
        members: status
            .members
            .iter()
            .map(|member| v1::QuorumMember {
                voter_id: signed(member.voter_id),
                broker_id: broker_of(&cluster, member),
                directory_id: member.directory_id.to_string(),
                address: member.address.clone(),
                is_voter: member.is_voter,
                lag_entries: member.lag_entries.map(signed),
                last_heard: member.last_heard.and_then(|heard| heard.try_into().ok()),
            })
            .collect(),
    }
}

fn leader(status: &QuorumStatus) -> Option<&MemberStatus> {
    let leader = status.leader?;
    status.members.iter().find(|member| member.voter_id == leader)
}

/// Whether this broker leads the quorum, so that it knows how far the members are.
pub fn leads(status: &QuorumStatus) -> bool {
    leader(status).is_some_and(|leader| leader.last_heard.is_some())
}

/// NOT_LEADER, with the broker that leads the quorum.
pub fn ask_the_leader(cluster: &Cluster, status: &QuorumStatus) -> ApiError {
    let broker = leader(status)
        .and_then(|leader| broker_of(cluster, leader))
        .and_then(|id| cluster.brokers.get(&id));
    match broker {
        Some(leader) => ApiError::new(
            ErrorReason::NotLeader,
            format!(
                "Only the leader of the metadata quorum knows that: ask broker {} at {}.",
                leader.id, leader.address
            ),
        )
        .with("leader", &leader.address)
        .with("leader_id", leader.id),
        None => ApiError::new(
            ErrorReason::QuorumUnavailable,
            "Only the leader of the metadata quorum knows that, and none is known: try again.",
        ),
    }
}

/// Gives a broker a vote.
///
/// # Errors
/// It is unknown, not in service, no member, or lacks too much of the metadata.
pub async fn add(service: &AdminService, request: v1::AddVoterRequest) -> Result<v1::AddVoterResponse, ApiError> {
    let cluster = service.latest().await?;
    let status = service.0.quorum.status();
    let member = judge_new_voter(&cluster, &status, request.broker_id)?;
    let voter_id = member.voter_id;
    if !request.validate_only && !member.is_voter {
        if cluster.voters.withheld.contains(&voter_id) {
            let withheld = false;
            service.submit(Command::WithholdVote { voter_id, withheld }).await?;
        }
        let promoted = service.0.quorum.promote(voter_id).await;
        promoted.map_err(|error| member_error(&error))?;
    }
    Ok(v1::AddVoterResponse {
        voter_id: signed(voter_id),
    })
}

fn judge_new_voter<'a>(
    cluster: &'a Cluster,
    status: &'a QuorumStatus,
    id: BrokerId,
) -> Result<&'a MemberStatus, ApiError> {
    let known = known_broker(cluster, id)?;
    let wrong_state = |message: String| Err(ApiError::new(ErrorReason::BrokerState, message));
    let Some(member) = member_of(cluster, status, id) else {
        return wrong_state(format!(
            "Broker {id} is not a member of the metadata quorum yet: start it, and wait until it has joined."
        ));
    };
    if member.is_voter {
        return Ok(member);
    }
    if !known.is_active() {
        return wrong_state(format!("Broker {id} is not in service: wait until it is."));
    }
    if status.voters.len() >= MAX_VOTERS {
        return Err(ApiError::new(
            ErrorReason::LimitReached,
            format!("There are {MAX_VOTERS} voters, the most there may be: remove one first."),
        )
        .with("limit", MAX_VOTERS));
    }
    Ok(member)
}

/// Takes a vote away. Who lives on goes on following the metadata: a broker that was cut off from
/// it would act by what was true some time ago.
///
/// # Errors
/// It is unknown; the others would be no majority.
pub async fn remove(
    service: &AdminService,
    request: v1::RemoveVoterRequest,
) -> Result<v1::RemoveVoterResponse, ApiError> {
    let cluster = service.latest().await?;
    let status = service.0.quorum.status();
    let voter_id = match request.member {
        None => return Err(ApiError::field("member", "must name a broker or a voter id")),
        Some(Member::BrokerId(id)) => voter_of(&cluster, &status, id)?,
        Some(Member::VoterId(id)) => known_voter(&cluster, &status, id)?,
    };
    if status.voters == [voter_id] {
        return Err(ApiError::new(
            ErrorReason::StillNeeded,
            format!("Voter {voter_id} is the only one of the metadata quorum: add another first."),
        )
        .with("voter_id", voter_id));
    }
    let follows = lives_on(&cluster, &status, voter_id);
    if !request.validate_only {
        if follows {
            // First: else it would get its vote back by itself.
            if cluster.voters.registered.contains_key(&voter_id) {
                let withheld = true;
                service.submit(Command::WithholdVote { voter_id, withheld }).await?;
            }
            let demoted = service.0.quorum.demote(voter_id).await;
            demoted.map_err(|error| member_error(&error))?;
        } else {
            forget(service, &cluster, voter_id).await?;
        }
    }
    Ok(v1::RemoveVoterResponse {
        voter_id: signed(voter_id),
        follows,
    })
}

/// Whether a registered broker has the member's disk.
fn lives_on(cluster: &Cluster, status: &QuorumStatus, voter_id: u64) -> bool {
    let member = status.members.iter().find(|member| member.voter_id == voter_id);
    let runs = |member: &MemberStatus| {
        let broker = broker_of(cluster, member)?;
        member_of(cluster, status, broker).map(|current| current.voter_id == voter_id)
    };
    member.and_then(runs).unwrap_or(false)
}

/// The one voter that a broker runs.
fn voter_of(cluster: &Cluster, status: &QuorumStatus, id: BrokerId) -> Result<u64, ApiError> {
    let voters: Vec<u64> = members_of(cluster, status, id)
        .filter(|member| member.is_voter)
        .map(|member| member.voter_id)
        .collect();
    match voters[..] {
        [one] => Ok(one),
        [] if members_of(cluster, status, id).next().is_none() && !cluster.brokers.contains_key(&id) => {
            Err(known_broker(cluster, id)
                .err()
                .unwrap_or_else(|| unknown_voter(&format!("of broker {id}"))))
        }
        [] => Err(unknown_voter(&format!("of broker {id}"))),
        _ => Err(ApiError::field(
            "member",
            format!("broker {id} has the voters {voters:?}, of several disks: name one by its voter id"),
        )),
    }
}

fn known_voter(cluster: &Cluster, status: &QuorumStatus, id: i64) -> Result<u64, ApiError> {
    u64::try_from(id)
        .ok()
        .filter(|id| {
            // A removal that was cut short has left only the registration.
            status.members.iter().any(|member| member.voter_id == *id) || cluster.voters.registered.contains_key(id)
        })
        .ok_or_else(|| unknown_voter(&id.to_string()))
}

fn unknown_voter(which: &str) -> ApiError {
    ApiError::new(
        ErrorReason::UnknownVoter,
        format!("The metadata quorum has no voter {which}: `millrace quorum describe` lists them."),
    )
}

/// Takes a member out of the quorum, then its id out of the metadata: in this order, what is cut
/// short can be repeated.
///
/// # Errors
/// The others would be no majority, or as of the metadata quorum.
pub async fn forget(service: &AdminService, cluster: &Cluster, voter_id: u64) -> Result<(), ApiError> {
    let removed = service.0.quorum.remove_voter(voter_id).await;
    removed.map_err(|error| member_error(&error))?;
    if cluster.voters.registered.contains_key(&voter_id) {
        service.submit(Command::RemoveVoter { voter_id }).await?;
    }
    Ok(())
}

/// Why the members are not changed.
fn member_error(error: &QuorumError) -> ApiError {
    let message = sentence(error);
    match error {
        QuorumError::NotCaughtUp { voter_id, lag_entries } => ApiError::new(ErrorReason::BrokerNotReady, message)
            .with("voter_id", voter_id)
            .with("lag_entries", lag_entries),
        QuorumError::QuorumAtRisk { voter_id, .. } => {
            ApiError::new(ErrorReason::StillNeeded, message).with("voter_id", voter_id)
        }
        QuorumError::Member { voter_id, .. } => {
            ApiError::new(ErrorReason::NotSupported, message).with("voter_id", voter_id)
        }
        QuorumError::ChangeInProgress => ApiError::new(ErrorReason::QuorumUnavailable, message),
        QuorumError::OutcomeUnknown { .. } => ApiError::new(
            ErrorReason::QuorumUnavailable,
            format!("It is not known whether the members were changed ({error}): look, then repeat it."),
        ),
        other => quorum_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn a_member_belongs_to_the_broker_with_its_disk() {
        let cluster = cluster_of(&[1, 2]);
        let status = status_of(&[(7, 1, true), (8, 9, false)], Some(7));
        assert_eq!(member_of(&cluster, &status, 1).unwrap().voter_id, 7);
        assert!(member_of(&cluster, &status, 2).is_none());
        assert_eq!(broker_of(&cluster, &status.members[1]), None, "nobody has that disk");
    }

    #[test]
    fn only_who_leads_knows_how_far_the_others_are() {
        let cluster = cluster_of(&[1, 2]);
        let mut status = status_of(&[(7, 1, true), (8, 2, true)], Some(7));
        assert!(leads(&status));
        for member in &mut status.members {
            member.last_heard = None;
        }
        assert!(!leads(&status));
        let error = ask_the_leader(&cluster, &status).to_message();
        assert_eq!(error.metadata.get("leader_id").map(String::as_str), Some("1"));
        assert!(
            error.message.contains("ask broker 1 at broker-1:9650"),
            "{}",
            error.message
        );
        status.leader = None;
        assert_eq!(
            ask_the_leader(&cluster, &status).reason(),
            ErrorReason::QuorumUnavailable
        );
    }

    #[test]
    fn who_gets_a_vote_is_in_service_and_follows_the_metadata() {
        let mut cluster = cluster_of(&[1, 2, 3]);
        cluster.brokers.get_mut(&2).unwrap().fenced = true;
        let status = status_of(&[(1, 1, true), (2, 2, false)], Some(1));
        let reason = |id| {
            judge_new_voter(&cluster, &status, id)
                .map(|m| m.voter_id)
                .map_err(|e| e.reason())
        };
        assert_eq!(reason(1), Ok(1), "a voter already");
        assert_eq!(reason(2), Err(ErrorReason::BrokerState), "fenced");
        assert_eq!(reason(3), Err(ErrorReason::BrokerState), "no member");
        assert_eq!(reason(4), Err(ErrorReason::UnknownBroker));
    }

    #[test]
    fn a_disk_that_is_gone_does_not_follow_on() {
        let cluster = cluster_of(&[1, 2]);
        // Voter 9 had a former disk of broker 2, which nobody has any more.
        let status = status_of(&[(7, 1, true), (8, 2, true), (9, 33, true)], Some(7));
        assert!(lives_on(&cluster, &status, 8));
        assert!(!lives_on(&cluster, &status, 9));
        assert!(!lives_on(&cluster, &status, 10), "no member");
    }

    #[test]
    fn a_voter_is_named_by_its_broker_or_its_id() {
        let cluster = cluster_of(&[1, 2]);
        let status = status_of(&[(7, 1, true), (8, 2, false)], Some(7));
        assert_eq!(voter_of(&cluster, &status, 1), Ok(7));
        let reason = |id| voter_of(&cluster, &status, id).unwrap_err().reason();
        assert_eq!(reason(2), ErrorReason::UnknownVoter, "it has no vote");
        assert_eq!(reason(5), ErrorReason::UnknownBroker);
        assert_eq!(known_voter(&cluster, &status, 8), Ok(8));
        for id in [9, -1] {
            assert_eq!(
                known_voter(&cluster, &status, id).unwrap_err().reason(),
                ErrorReason::UnknownVoter
            );
        }
    }
}
