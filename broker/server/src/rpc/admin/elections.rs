//! Leaders chosen on request (KIP-460, KIP-704).

use millrace_engine::{
    Cluster, Command, Outcome,
    cluster::{Elected, Election, ElectionError, ElectionKind, MAX_CHANGES, PartitionRef},
};
use millrace_proto::v1;

use super::{AdminService, number, partition_ref, preview};
use crate::error::ApiError;

/// Chooses leaders; each on its own.
///
/// # Errors
/// A field breaks a rule, or as of the metadata quorum. What can't be chosen is in the answer.
pub async fn elect(
    service: &AdminService,
    request: v1::ElectLeadersRequest,
) -> Result<v1::ElectLeadersResponse, ApiError> {
    let kind = kind(&request)?;
    if request.partitions.len() > MAX_CHANGES {
        return Err(ApiError::field(
            "partitions",
            format!("must name at most {MAX_CHANGES} partitions"),
        ));
    }
    let cluster = service.latest().await?;
    let partitions = if request.partitions.is_empty() {
        all_misled(&cluster, kind)?
    } else {
        request
            .partitions
            .iter()
            .map(|named| Ok((named.clone(), partition_ref(&cluster, &named.topic, named.partition))))
            .collect::<Result<Vec<_>, ApiError>>()?
    };
    let elections: Vec<Election> = partitions
        .iter()
        .filter_map(|(_, found)| found.as_ref().ok())
        .map(|partition| Election {
            partition: partition.clone(),
            kind,
        })
        .collect();
    let outcomes = carry_out(service, &cluster, elections, request.validate_only).await?;
    let mut outcomes = outcomes.into_iter();
    let results = partitions
        .into_iter()
        .map(|(named, found)| {
            let outcome = match found {
                Ok(_) => outcomes
                    .next()
                    .ok_or_else(|| ApiError::internal("an election", &"the metadata quorum told no outcome"))
                    .and_then(|outcome| outcome.map_err(ApiError::from)),
                Err(error) => Err(error),
            };
            result(named, outcome)
        })
        .collect();
    Ok(v1::ElectLeadersResponse { results })
}

type Named = (v1::PartitionName, Result<PartitionRef, ApiError>);

/// The rule that the fields name.
fn kind(request: &v1::ElectLeadersRequest) -> Result<ElectionKind, ApiError> {
    let asked = v1::ElectionKind::try_from(request.kind)
        .map_err(|_| ApiError::field("kind", "is no kind of election that this version knows"))?;
    if request.accept_data_loss && asked != v1::ElectionKind::Unclean {
        return Err(ApiError::field(
            "accept_data_loss",
            "must be set only with ELECTION_KIND_UNCLEAN: no other election loses data",
        ));
    }
    let replica = || {
        request
            .broker_id
            .ok_or_else(|| ApiError::field("broker_id", "must name the broker that shall lead"))
    };
    match asked {
        v1::ElectionKind::Unspecified | v1::ElectionKind::Preferred => match request.broker_id {
            None => Ok(ElectionKind::Preferred),
            Some(_) => Err(ApiError::field(
                "broker_id",
                "must be absent where the preferred leader is asked for: use ELECTION_KIND_IN_SYNC",
            )),
        },
        v1::ElectionKind::InSync => Ok(ElectionKind::InSync { replica: replica()? }),
        v1::ElectionKind::Unclean if !request.accept_data_loss => Err(ApiError::field(
            "accept_data_loss",
            "must be set: acknowledged messages that the broker does not have are lost for ever",
        )),
        v1::ElectionKind::Unclean => Ok(ElectionKind::Unclean { replica: replica()? }),
    }
}

/// The partitions that another broker leads than should.
fn all_misled(cluster: &Cluster, kind: ElectionKind) -> Result<Vec<Named>, ApiError> {
    if kind != ElectionKind::Preferred {
        return Err(ApiError::field(
            "partitions",
            "must name partitions, unless the preferred leaders are asked for",
        ));
    }
    let misled = cluster.misled().take(MAX_CHANGES);
    Ok(misled
        .map(|found| {
            let named = v1::PartitionName {
                topic: found.topic.clone(),
                partition: number(found.partition),
            };
            (named, Ok(found))
        })
        .collect())
}

async fn carry_out(
    service: &AdminService,
    cluster: &Cluster,
    elections: Vec<Election>,
    validate_only: bool,
) -> Result<Vec<Result<Elected, ElectionError>>, ApiError> {
    if elections.is_empty() {
        return Ok(Vec::new());
    }
    let command = Command::ElectLeaders { elections };
    let outcome = if validate_only {
        preview(cluster, &command)?.1
    } else {
        service.apply(command).await?
    };
    match outcome {
        Outcome::Elected(results) => Ok(results),
        other => Err(super::unexpected(&other)),
    }
}

fn result(named: v1::PartitionName, outcome: Result<Elected, ApiError>) -> v1::ElectionResult {
    let result = v1::ElectionResult {
        topic: named.topic,
        partition: named.partition,
        ..v1::ElectionResult::default()
    };
    match outcome {
        Ok(elected) => v1::ElectionResult {
            leader_id: elected.partition.leader,
            leader_epoch: Some(elected.partition.leader_epoch),
            committed_before: elected.floor_before.map(|floor| floor.offset),
            ..result
        },
        Err(error) => v1::ElectionResult {
            error: Some(error.to_message()),
            ..result
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: v1::ElectionKind, broker_id: Option<i32>, accept_data_loss: bool) -> v1::ElectLeadersRequest {
        v1::ElectLeadersRequest {
            kind: kind.into(),
            broker_id,
            accept_data_loss,
            ..v1::ElectLeadersRequest::default()
        }
    }

    #[test]
    fn data_is_given_up_only_where_that_is_said() {
        use v1::ElectionKind as K;
        let read = |kind, broker, accept| super::kind(&request(kind, broker, accept));
        assert_eq!(read(K::Unspecified, None, false), Ok(ElectionKind::Preferred));
        assert_eq!(read(K::InSync, Some(2), false), Ok(ElectionKind::InSync { replica: 2 }));
        assert_eq!(
            read(K::Unclean, Some(2), true),
            Ok(ElectionKind::Unclean { replica: 2 })
        );
        for (kind, broker, accept) in [
            (K::Unclean, Some(2), false),
            (K::Unclean, None, true),
            (K::InSync, None, false),
            (K::InSync, Some(1), true),
            (K::Preferred, Some(1), false),
            (K::Unspecified, None, true),
        ] {
            assert!(read(kind, broker, accept).is_err(), "{kind:?} {broker:?} {accept}");
        }
        let mut unknown = request(K::Preferred, None, false);
        unknown.kind = 77;
        assert!(super::kind(&unknown).is_err());
    }

    #[test]
    fn only_preferred_leaders_are_chosen_for_all_topics_at_once() {
        let cluster = Cluster::default();
        assert_eq!(all_misled(&cluster, ElectionKind::Preferred).unwrap().len(), 0);
        for kind in [
            ElectionKind::InSync { replica: 1 },
            ElectionKind::Unclean { replica: 1 },
        ] {
            assert!(all_misled(&cluster, kind).is_err());
        }
    }
}
