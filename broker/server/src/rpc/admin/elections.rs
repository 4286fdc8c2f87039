//! Leaders chosen on request (KIP-460, KIP-704).

use std::collections::BTreeSet;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome,
    cluster::{
        Broker, Elected, Election, ElectionError, ElectionKind, MAX_CHANGES, PartitionRef, ReplicaLogEnd, longest_log,
    },
};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::{AdminService, id_list, number, partition_ref, preview};
use crate::{
    error::ApiError,
    forward::{Inventories, log_ends, take_inventories},
};

/// Chooses leaders; each on its own.
///
/// # Errors
/// A field breaks a rule, or as of the metadata quorum. What can't be chosen is in the answer.
pub async fn elect(
    service: &AdminService,
    request: v1::ElectLeadersRequest,
) -> Result<v1::ElectLeadersResponse, ApiError> {
    let asked = asked(&request)?;
    if request.partitions.len() > MAX_CHANGES {
        return Err(ApiError::field(
            "partitions",
            format!("must name at most {MAX_CHANGES} partitions"),
        ));
    }
    let cluster = service.latest().await?;
    let partitions = if request.partitions.is_empty() {
        all_misled(&cluster, asked)?
    } else {
        request
            .partitions
            .iter()
            .map(|named| Ok((named.clone(), partition_ref(&cluster, &named.topic, named.partition))))
            .collect::<Result<Vec<_>, ApiError>>()?
    };
    let told = match asked {
        Asked::Of(ElectionKind::Preferred | ElectionKind::InSync { .. }) => Inventories::new(),
        Asked::Of(ElectionKind::Unclean { .. }) | Asked::LongestLog => {
            let known = partitions.iter().filter_map(|(_, found)| found.as_ref().ok());
            let topics: BTreeSet<Uuid> = known.map(|partition| partition.topic_id).collect();
            take_inventories(&service.0, &cluster, &topics.into_iter().collect::<Vec<_>>()).await
        }
    };
    // Who has come into service while the others were asked has not told, and may have the longest log.
    let cluster = if asked == Asked::LongestLog {
        service.latest().await?
    } else {
        cluster
    };
    let partitions: Vec<(v1::PartitionName, Result<Election, ApiError>)> = partitions
        .into_iter()
        .map(|(named, found)| {
            let election = found.and_then(|partition| {
                let kind = match asked {
                    Asked::Of(kind) => kind,
                    Asked::LongestLog => longest(&cluster, &partition, &told)?,
                };
                Ok(Election { partition, kind })
            });
            (named, election)
        })
        .collect();
    let elections = partitions.iter().filter_map(|(_, election)| election.as_ref().ok());
    let outcomes = carry_out(service, &cluster, elections.cloned().collect(), request.validate_only).await?;
    let mut outcomes = outcomes.into_iter();
    let results = partitions
        .into_iter()
        .map(|(named, election)| {
            let outcome = election.and_then(|election| {
                let outcome = outcomes
                    .next()
                    .ok_or_else(|| ApiError::internal("an election", &"the metadata quorum told no outcome"))?;
                Ok((outcome?, election.partition))
            });
            result(named, outcome, &told)
        })
        .collect();
    Ok(v1::ElectLeadersResponse { results })
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// This.
    Of(ElectionKind),
    /// An unclean election of the replica whose log reaches furthest.
    LongestLog,
}

/// Of the replicas whose brokers are in service and have told, the one with the longest log (KIP-966).
///
/// # Errors
/// A broker in service has not told: it may have the longest. Or none has told, which does not mean that none has records.
fn longest(cluster: &Cluster, partition: &PartitionRef, told: &Inventories) -> Result<ElectionKind, ApiError> {
    let (_, record) = cluster.find_partition(partition)?;
    let in_service = |id: &BrokerId| cluster.brokers.get(id).is_some_and(Broker::is_active);
    let mut ends = log_ends(told, (partition.topic_id, partition.partition));
    ends.retain(|end| record.replicas.contains(&end.broker_id) && in_service(&end.broker_id));
    let unheard = unheard(&record.replicas, &ends);
    let silent: Vec<BrokerId> = unheard.into_iter().filter(in_service).collect();
    if !silent.is_empty() {
        return Err(ApiError::new(
            ErrorReason::BrokerNotReady,
            format!(
                "Brokers {silent:?} are in service and do not tell how far their logs of {partition} reach; one may have more than the others. Try again, see in their logs why, or name the broker that shall lead."
            ),
        )
        .with("broker_ids", id_list(&silent)));
    }
    longest_log(&ends, record.floor)
        .map(|replica| ElectionKind::Unclean { replica })
        .ok_or_else(|| {
            ApiError::new(
                ErrorReason::EligibleLeaderNotAvailable,
                format!(
                    "No broker that holds {partition} tells how far its log reaches: start one of the brokers {:?}.",
                    record.replicas
                ),
            )
        })
}

/// The replicas of which is not known how far their logs reach.
fn unheard(replicas: &[BrokerId], ends: &[ReplicaLogEnd]) -> Vec<BrokerId> {
    let has_told = |id: &BrokerId| ends.iter().any(|end| end.broker_id == *id);
    replicas.iter().copied().filter(|id| !has_told(id)).collect()
}

type Named = (v1::PartitionName, Result<PartitionRef, ApiError>);

/// What the fields name.
fn asked(request: &v1::ElectLeadersRequest) -> Result<Asked, ApiError> {
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
            None => Ok(Asked::Of(ElectionKind::Preferred)),
            Some(_) => Err(ApiError::field(
                "broker_id",
                "must be absent where the preferred leader is asked for: use ELECTION_KIND_IN_SYNC",
            )),
        },
        v1::ElectionKind::InSync => Ok(Asked::Of(ElectionKind::InSync { replica: replica()? })),
        v1::ElectionKind::Unclean if !request.accept_data_loss => Err(ApiError::field(
            "accept_data_loss",
            "must be set: acknowledged messages that the broker does not have are lost for ever",
        )),
        v1::ElectionKind::Unclean => Ok(match request.broker_id {
            Some(replica) => Asked::Of(ElectionKind::Unclean { replica }),
            None => Asked::LongestLog,
        }),
    }
}

/// The partitions that another broker leads than should.
fn all_misled(cluster: &Cluster, asked: Asked) -> Result<Vec<Named>, ApiError> {
    if asked != Asked::Of(ElectionKind::Preferred) {
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

fn result(
    named: v1::PartitionName,
    outcome: Result<(Elected, PartitionRef), ApiError>,
    told: &Inventories,
) -> v1::ElectionResult {
    let result = v1::ElectionResult {
        topic: named.topic,
        partition: named.partition,
        ..v1::ElectionResult::default()
    };
    match outcome {
        Ok((elected, at)) => {
            let ends = log_ends(told, (at.topic_id, at.partition));
            let of_leader = ends.iter().find(|end| Some(end.broker_id) == elected.partition.leader);
            let unclean = elected.floor_before.is_some();
            let unheard = match unclean {
                true => unheard(&elected.partition.replicas, &ends),
                false => Vec::new(),
            };
            v1::ElectionResult {
                leader_id: elected.partition.leader,
                leader_epoch: Some(elected.partition.leader_epoch),
                committed_before: elected.floor_before.map(|floor| floor.offset),
                log_end: of_leader.filter(|_| unclean).map(|end| end.log_end),
                unheard_replicas: unheard,
                ..result
            }
        }
        Err(error) => v1::ElectionResult {
            error: Some(error.to_message()),
            ..result
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::testing::with_topic, *};
    use crate::forward::{Inventory, StoredReplica};

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
        let read = |kind, broker, accept| super::asked(&request(kind, broker, accept));
        assert_eq!(
            read(K::Unspecified, None, false),
            Ok(Asked::Of(ElectionKind::Preferred))
        );
        assert_eq!(
            read(K::InSync, Some(2), false),
            Ok(Asked::Of(ElectionKind::InSync { replica: 2 }))
        );
        assert_eq!(
            read(K::Unclean, Some(2), true),
            Ok(Asked::Of(ElectionKind::Unclean { replica: 2 }))
        );
        assert_eq!(read(K::Unclean, None, true), Ok(Asked::LongestLog));
        for (kind, broker, accept) in [
            (K::Unclean, Some(2), false),
            (K::Unclean, None, false),
            (K::InSync, None, false),
            (K::InSync, Some(1), true),
            (K::Preferred, Some(1), false),
            (K::Unspecified, None, true),
        ] {
            assert!(read(kind, broker, accept).is_err(), "{kind:?} {broker:?} {accept}");
        }
        let mut unknown = request(K::Preferred, None, false);
        unknown.kind = 77;
        assert!(super::asked(&unknown).is_err());
    }

    #[test]
    fn only_preferred_leaders_are_chosen_for_all_topics_at_once() {
        let cluster = Cluster::default();
        assert_eq!(
            all_misled(&cluster, Asked::Of(ElectionKind::Preferred)).unwrap().len(),
            0
        );
        for asked in [
            Asked::Of(ElectionKind::InSync { replica: 1 }),
            Asked::Of(ElectionKind::Unclean { replica: 1 }),
            Asked::LongestLog,
        ] {
            assert!(all_misled(&cluster, asked).is_err());
        }
    }

    #[test]
    fn the_longest_log_of_the_latest_epoch_is_chosen_among_replicas_that_told() {
        let cluster = with_topic(&[1, 2, 3, 4], vec![vec![1, 2, 3]]);
        let partition = cluster.topics["t"].partition_ref(0);
        let told = |ends: &[(i32, i64, i32)]| -> Inventories {
            let inventory = |log_end, last_epoch| {
                let replica = StoredReplica {
                    size_bytes: 0,
                    log_end,
                    last_epoch: Some(last_epoch),
                    is_damaged: false,
                    is_offline: false,
                };
                Inventory {
                    available_bytes: None,
                    replicas: BTreeMap::from([((partition.topic_id, 0), replica)]),
                }
            };
            ends.iter()
                .map(|(id, end, epoch)| (*id, inventory(*end, *epoch)))
                .collect()
        };
        // 4 holds a copy that the metadata does not know: an old one.
        let mut ends = told(&[(1, 100, 3), (2, 90, 4), (3, 10, 1), (4, 200, 9)]);
        assert_eq!(
            longest(&cluster, &partition, &ends),
            Ok(ElectionKind::Unclean { replica: 2 })
        );
        // One that could not open its log, or whose disk has failed, may have more.
        let key = (partition.topic_id, 0);
        ends.get_mut(&3).unwrap().replicas.get_mut(&key).unwrap().is_offline = true;
        let silent = longest(&cluster, &partition, &ends).unwrap_err();
        assert_eq!(silent.reason(), ErrorReason::BrokerNotReady);
        assert_eq!(silent.metadata()["broker_ids"], "3");
        ends.get_mut(&3).unwrap().replicas.clear();
        assert_eq!(longest(&cluster, &partition, &ends), Err(silent));
        // One that is down is not waited for.
        let mut cluster = cluster;
        cluster.brokers.get_mut(&3).unwrap().fenced = true;
        assert_eq!(
            longest(&cluster, &partition, &ends),
            Ok(ElectionKind::Unclean { replica: 2 })
        );
        for id in [1, 2] {
            cluster.brokers.get_mut(&id).unwrap().fenced = true;
        }
        let nobody = longest(&cluster, &partition, &told(&[(4, 200, 9)])).unwrap_err();
        assert_eq!(nobody.reason(), ErrorReason::EligibleLeaderNotAvailable);
    }
}
