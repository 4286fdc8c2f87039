//! Moving all replicas away from brokers, and changing how many replicas a topic has: plans that
//! placement makes and the metadata quorum carries out.

use std::{collections::BTreeMap, num::NonZeroU64};

use millrace_engine::{
    BrokerId, Cluster, Command, Topic,
    cluster::{MAX_BROKERS, Move},
};
use millrace_placement::{Options, change_replication_factor, drain_brokers};
use millrace_proto::v1;

use super::{
    AdminService, known_broker, moves,
    moves::{Settled, throttle_field},
    placement,
    quorum::member_of,
    untold,
};
use crate::{
    error::{ApiError, unknown_topic},
    forward::{Inventories, take_inventories},
    quorum::QuorumStatus,
};

/// Begins or ends a drain.
///
/// # Errors
/// An unknown broker; a throttle out of bounds; replicas that have no place to go, and then nothing is
/// changed; or as of the metadata quorum.
pub async fn drain(
    service: &AdminService,
    request: v1::DrainBrokersRequest,
) -> Result<v1::DrainBrokersResponse, ApiError> {
    let cluster = service.latest().await?;
    check(&request, &cluster)?;
    let told = match request.cancel {
        true => Inventories::new(),
        false => take_inventories(&service.0, &cluster, &[]).await,
    };
    // Taken when all have told, which may last.
    drain_told(service, request, &*service.latest().await?, &told).await
}

/// The same by what the brokers have told.
pub async fn drain_told(
    service: &AdminService,
    request: v1::DrainBrokersRequest,
    cluster: &Cluster,
    told: &Inventories,
) -> Result<v1::DrainBrokersResponse, ApiError> {
    let throttle = check(&request, cluster)?;
    let brokers = request.broker_ids;
    let settled = if request.cancel {
        Settled::of_moves(cluster, moves_away_from(cluster, &brokers))
    } else {
        let plan = drain_brokers(&placement::view(cluster, &brokers, told)?, &Options::default())
            .map_err(|error| untold::refused(cluster, &brokers, told, error))?;
        let mut settled = Settled::of(cluster, &plan, throttle);
        settled.notices.extend(untold::notices(cluster, &brokers, told));
        settled
            .notices
            .extend(votes(cluster, &service.0.quorum.status(), &brokers));
        settled
    };
    let planned = settled.planned(cluster);
    if !request.validate_only {
        // First the marks, so that nothing new comes in between.
        for broker_id in brokers {
            let draining = !request.cancel;
            service.submit(Command::DrainBroker { broker_id, draining }).await?;
        }
        moves::carry_out(service, settled.moves, Ok).await?;
    }
    Ok(v1::DrainBrokersResponse { moves: Some(planned) })
}

/// The fields, before anybody is asked for anything; the bound on the moves.
fn check(request: &v1::DrainBrokersRequest, cluster: &Cluster) -> Result<Option<NonZeroU64>, ApiError> {
    let throttle = throttle_field(request.throttle_bytes_per_second)?;
    if request.cancel && throttle.is_some() {
        return Err(ApiError::field(
            "throttle_bytes_per_second",
            "must be 0 where cancel is set",
        ));
    }
    if request.broker_ids.is_empty() {
        return Err(ApiError::field(
            "broker_ids",
            format!("must name 1 to {MAX_BROKERS} brokers"),
        ));
    }
    check_brokers(cluster, &request.broker_ids)?;
    Ok(throttle)
}

/// That each is known and named once.
///
/// # Errors
/// One is not.
pub fn check_brokers(cluster: &Cluster, brokers: &[BrokerId]) -> Result<(), ApiError> {
    if brokers.len() > MAX_BROKERS {
        return Err(ApiError::field(
            "broker_ids",
            format!("must name at most {MAX_BROKERS} brokers"),
        ));
    }
    for (at, id) in brokers.iter().enumerate() {
        if brokers[..at].contains(id) {
            return Err(ApiError::field("broker_ids", format!("names broker {id} twice")));
        }
        known_broker(cluster, *id)?;
    }
    Ok(())
}

/// Cancels the moves under way that take replicas away from these brokers.
fn moves_away_from(cluster: &Cluster, brokers: &[BrokerId]) -> Vec<Move> {
    cluster
        .partitions()
        .filter(|(_, _, record)| record.removing.iter().any(|id| brokers.contains(id)))
        .map(|(topic, number, _)| Move {
            partition: topic.partition_ref(number),
            target: None,
            throttle: None,
        })
        .collect()
}

/// A broker that votes can be drained and can't be removed.
fn votes(cluster: &Cluster, status: &QuorumStatus, brokers: &[BrokerId]) -> Vec<String> {
    brokers
        .iter()
        .filter(|id| member_of(cluster, status, **id).is_some_and(|member| member.is_voter))
        .map(|id| {
            format!("Broker {id} votes in the metadata quorum: take its vote away (RemoveVoter) before you remove it.")
        })
        .collect()
}

/// Begins to change how many replicas a topic's partitions have; the moves that this takes.
///
/// # Errors
/// An unknown topic, a factor that is none, replicas that have no place to go.
pub fn plan_replication_factor(
    cluster: &Cluster,
    topic: &str,
    factor: i32,
    throttle: Option<NonZeroU64>,
    told: &Inventories,
) -> Result<Settled, ApiError> {
    let (known, factor) = check_factor(cluster, topic, factor)?;
    let factors = BTreeMap::from([(known.id, factor)]);
    let plan = change_replication_factor(&placement::view(cluster, &[], told)?, &factors, &Options::default())
        .map_err(|error| untold::refused(cluster, &[], told, error))?;
    let mut settled = Settled::of(cluster, &plan, throttle);
    settled.notices.extend(untold::notices(cluster, &[], told));
    Ok(settled)
}

/// The topic, and how many replicas its partitions shall have.
///
/// # Errors
/// An unknown topic, or no replicas.
pub fn check_factor<'a>(cluster: &'a Cluster, topic: &str, factor: i32) -> Result<(&'a Topic, usize), ApiError> {
    let factor = usize::try_from(factor)
        .ok()
        .filter(|factor| *factor > 0)
        .ok_or_else(|| ApiError::field("replication_factor", "must be 1 or more"))?;
    let known = cluster.topics.get(topic).ok_or_else(|| unknown_topic(topic))?;
    Ok((&**known, factor))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{cluster_of, roomy, with_topic},
        *,
    };

    fn begin(cluster: &mut Cluster, moves: Vec<Move>) {
        cluster.apply(200, &Command::ReassignPartitions { moves }).unwrap();
    }

    #[test]
    fn a_drain_takes_all_and_puts_nothing_on_those_that_leave() {
        let cluster = with_topic(&[1, 2, 3, 4], vec![vec![1, 2], vec![2, 1], vec![2, 3]]);
        let view = placement::view(&cluster, &[1, 2], &roomy(&cluster)).unwrap();
        let plan = drain_brokers(&view, &Options::default()).unwrap();
        let rate = NonZeroU64::new(1 << 20);
        let settled = Settled::of(&cluster, &plan, rate);
        assert_eq!((settled.moves.len(), settled.notices.len()), (3, 0));
        for one in &settled.moves {
            let target = one.target.as_ref().unwrap();
            assert!(target.iter().all(|id| [3, 4].contains(id)), "{target:?}");
            assert_eq!(one.throttle, rate);
        }
        let planned = settled.planned(&cluster);
        assert_eq!((planned.partitions, planned.replicas_to_copy), (3, 5));
        assert_eq!(planned.first[0].from, [1, 2]);
    }

    #[test]
    fn a_drain_that_has_nowhere_to_go_says_which_partition_by_its_name() {
        let cluster = with_topic(&[1, 2], vec![vec![1, 2]]);
        let view = placement::view(&cluster, &[1], &roomy(&cluster)).unwrap();
        let error = drain_brokers(&view, &Options::default()).unwrap_err();
        let error = placement::plan_error(&cluster, error);
        assert_eq!(error.reason(), v1::ErrorReason::NotEnoughBrokers);
        assert!(
            error.to_string().contains("the first is t-0: 2 replicas need"),
            "{error}"
        );
    }

    #[test]
    fn ending_a_drain_cancels_only_what_takes_away_from_its_brokers() {
        let mut cluster = with_topic(&[1, 2, 3, 4], vec![vec![1], vec![2]]);
        let to = |partition: u32, target: i32| Move {
            partition: cluster.topics["t"].partition_ref(partition),
            target: Some(vec![target]),
            throttle: None,
        };
        let moves = vec![to(0, 3), to(1, 4)];
        begin(&mut cluster, moves);
        // All are in service and nothing is copied in this test: the moves wait.
        let cancelled = moves_away_from(&cluster, &[1]);
        assert_eq!(cancelled.len(), 1);
        assert_eq!((cancelled[0].partition.partition, &cancelled[0].target), (0, &None));
        let planned = placement::planned(&cluster, &cancelled, vec![]);
        assert_eq!((&planned.first[0].from, &planned.first[0].to), (&vec![3], &vec![1]));
        assert_eq!(planned.replicas_to_copy, 0);
    }

    #[test]
    fn the_replication_factor_grows_where_there_are_brokers_and_shrinks() {
        let cluster = with_topic(&[1, 2, 3], vec![vec![1], vec![2]]);
        let rate = NonZeroU64::new(1 << 20);
        let moves = plan_replication_factor(&cluster, "t", 3, rate, &roomy(&cluster))
            .unwrap()
            .moves;
        assert_eq!(moves.len(), 2);
        assert_eq!(moves[0].throttle, rate);
        assert_eq!(moves[0].target.as_ref().unwrap().len(), 3);
        assert_eq!(moves[0].target.as_ref().unwrap()[0], 1, "the leader stays");
        let same = plan_replication_factor(&cluster, "t", 1, None, &roomy(&cluster)).unwrap();
        assert!(same.moves.is_empty());
        let reason = |factor| {
            let refused = plan_replication_factor(&cluster, "t", factor, None, &roomy(&cluster));
            refused.unwrap_err().reason()
        };
        assert_eq!(reason(4), v1::ErrorReason::NotEnoughBrokers);
        assert_eq!(reason(0), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(i32::MAX), v1::ErrorReason::NotEnoughBrokers);
        let unknown = plan_replication_factor(&cluster, "x", 2, None, &roomy(&cluster)).unwrap_err();
        assert_eq!(unknown.reason(), v1::ErrorReason::UnknownTopic);
    }

    #[test]
    fn brokers_are_named_once_and_are_known() {
        let cluster = cluster_of(&[1, 2]);
        assert!(check_brokers(&cluster, &[1, 2]).is_ok());
        let reason = |ids: &[i32]| check_brokers(&cluster, ids).unwrap_err().reason();
        assert_eq!(reason(&[1; MAX_BROKERS + 1]), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(&[1, 1]), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(&[1, 9]), v1::ErrorReason::UnknownBroker);
    }
}
