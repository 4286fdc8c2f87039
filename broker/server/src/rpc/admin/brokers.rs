//! Brokers: cordon, remove, a new disk. Draining is in `drain.rs`.

use millrace_engine::{BrokerId, Cluster, Command, cluster::ExpectedDirectory};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::{AdminService, preview, quorum};
use crate::{error::ApiError, quorum::QuorumStatus};

/// Gives a broker no new replicas, or some again.
///
/// # Errors
/// An unknown broker, or as of the metadata quorum.
pub async fn cordon(
    service: &AdminService,
    broker_id: BrokerId,
    cordoned: bool,
    validate_only: bool,
) -> Result<(), ApiError> {
    service
        .change(Command::CordonBroker { broker_id, cordoned }, validate_only)
        .await
}

/// Removes a broker that holds nothing, and its membership of the metadata quorum, which is no
/// vote.
///
/// # Errors
/// It holds replicas, votes, or is in service; asked whether it could be removed if it were down: it is
/// not drained.
pub async fn remove(
    service: &AdminService,
    request: v1::RemoveBrokerRequest,
) -> Result<v1::RemoveBrokerResponse, ApiError> {
    let (broker_id, force) = (request.broker_id, request.force);
    if request.if_down && !request.validate_only {
        return Err(ApiError::field(
            "if_down",
            "only with validate_only: a broker is stopped before it is removed",
        ));
    }
    let cluster = service.latest().await?;
    let status = service.0.quorum.status();
    let members = members_to_remove(&cluster, &status, broker_id)?;
    let command = Command::RemoveBroker {
        broker_id,
        force,
        now_ms: service.0.now_ms(),
    };
    // Judged without them: a follower of the metadata is in nobody's way.
    let mut without = Cluster::clone(&cluster);
    without
        .voters
        .registered
        .retain(|voter_id, _| !members.contains(voter_id));
    if request.if_down
        && let Some(broker) = without.brokers.get_mut(&broker_id)
    {
        if !broker.draining {
            return Err(ApiError::new(
                ErrorReason::BrokerState,
                format!(
                    "Broker {broker_id} is not drained, so that it may get replicas at any time: drain it first (millrace broker drain {broker_id} --wait)."
                ),
            ));
        }
        broker.fenced = true;
    }
    preview(&without, &command)?;
    if request.validate_only {
        return Ok(v1::RemoveBrokerResponse {});
    }
    for voter_id in members {
        quorum::forget(service, &cluster, voter_id).await?;
    }
    service.change(command, false).await?;
    Ok(v1::RemoveBrokerResponse {})
}

/// The broker's memberships of the metadata quorum, all of them without a vote.
fn members_to_remove(cluster: &Cluster, status: &QuorumStatus, id: BrokerId) -> Result<Vec<u64>, ApiError> {
    let votes = |voter_id: u64| status.voters.contains(&voter_id);
    let registered = cluster.voters.registered.iter();
    let mut members: Vec<u64> = registered
        .filter(|(_, voter)| voter.broker_id == id)
        .map(|(voter_id, _)| *voter_id)
        .collect();
    members.extend(quorum::members_of(cluster, status, id).map(|member| member.voter_id));
    members.sort_unstable();
    members.dedup();
    match members.iter().find(|voter_id| votes(**voter_id)) {
        None => Ok(members),
        Some(voter_id) => Err(ApiError::new(
            ErrorReason::StillNeeded,
            format!(
                "Broker {id} runs voter {voter_id} of the metadata quorum: remove the voter first (millrace quorum remove {id})."
            ),
        )
        .with("voter_id", voter_id)),
    }
}

/// Permits a broker to come with another disk.
///
/// # Errors
/// The broker is in service; its disk has the only clean replica of partitions; the disk is
/// another broker's.
pub async fn replace_directory(
    service: &AdminService,
    request: v1::ReplaceBrokerDirectoryRequest,
) -> Result<v1::ReplaceBrokerDirectoryResponse, ApiError> {
    let directory = match request.directory_id.as_str() {
        "" => ExpectedDirectory::Any,
        text => Uuid::parse_str(text)
            .map(ExpectedDirectory::Id)
            .map_err(|_| ApiError::field("directory_id", "must be a UUID, or empty"))?,
    };
    let command = Command::ReplaceDirectory {
        broker_id: request.broker_id,
        directory,
        accept_data_loss: request.accept_data_loss,
        only_if_removed: request.only_if_removed,
    };
    if request.validate_only {
        preview(&*service.latest().await?, &command)?;
    } else {
        service.change(command, false).await?;
    }
    Ok(v1::ReplaceBrokerDirectoryResponse {})
}

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::VoterIdentity;

    use super::{super::testing::*, *};

    #[test]
    fn a_voter_stays_and_a_follower_goes_with_its_broker() {
        let mut cluster = cluster_of(&[1, 2]);
        for (voter_id, broker_id) in [(11, 1), (12, 2), (13, 2)] {
            let directory_id = directory_of(broker_id);
            let identity = VoterIdentity {
                broker_id,
                directory_id,
            };
            cluster.voters.registered.insert(voter_id, identity);
        }
        let status = status_of(&[(11, 1, true), (12, 2, false)], Some(11));
        let error = members_to_remove(&cluster, &status, 1).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::StillNeeded);
        assert!(error.to_string().contains("voter 11"), "{error}");
        assert_eq!(members_to_remove(&cluster, &status, 2).unwrap(), [12, 13]);
        assert_eq!(members_to_remove(&cluster, &status, 3).unwrap(), [0; 0]);
    }
}
