//! Moving all replicas away from brokers, and changing how many replicas a topic has: plans that
//! placement makes and the metadata quorum carries out.

use std::collections::BTreeMap;

use millrace_engine::{
    BrokerId, Cluster, Command, Rejection,
    cluster::{MAX_BROKERS, Move},
};
use millrace_placement::{Options, Plan, change_replication_factor, drain_brokers};
use millrace_proto::v1;

use super::{AdminService, known_broker, placement, quorum::member_of};
use crate::{
    error::{ApiError, sentence, unknown_topic},
    quorum::QuorumStatus,
};

/// Moves in one command: those of a plan do not depend on each other, and small commands leave
/// room for others between them.
const MOVES_PER_COMMAND: usize = 1_000;

/// Refused moves that an answer explains: what a person reads.
const MAX_REFUSALS: usize = 20;

/// Begins or ends a drain.
///
/// # Errors
/// An unknown broker; replicas that have no place to go, and then nothing is changed; or as of
/// the metadata quorum.
pub async fn drain(
    service: &AdminService,
    request: v1::DrainBrokersRequest,
) -> Result<v1::DrainBrokersResponse, ApiError> {
    let cluster = service.latest().await?;
    let brokers = request.broker_ids;
    check_brokers(&cluster, &brokers)?;
    let (moves, notices) = if request.cancel {
        settle(&cluster, moves_away_from(&cluster, &brokers))
    } else {
        let plan = drain_brokers(&placement::view(&cluster, &brokers)?, &Options::default())
            .map_err(|error| placement::plan_error(&cluster, error))?;
        let (moves, refused) = settle(&cluster, placement::moves(&cluster, &plan));
        let mut notices = placement::notices(&plan);
        notices.extend(votes(&cluster, &service.0.quorum.status(), &brokers));
        notices.extend(refused);
        (moves, notices)
    };
    let planned = placement::planned(&cluster, &moves, notices);
    if !request.validate_only {
        // First the marks, so that nothing new comes in between.
        for broker_id in brokers {
            let draining = !request.cancel;
            service.submit(Command::DrainBroker { broker_id, draining }).await?;
        }
        carry_out(service, moves).await?;
    }
    Ok(v1::DrainBrokersResponse { moves: Some(planned) })
}

fn check_brokers(cluster: &Cluster, brokers: &[BrokerId]) -> Result<(), ApiError> {
    if brokers.is_empty() || brokers.len() > MAX_BROKERS {
        return Err(ApiError::field(
            "broker_ids",
            format!("must name 1 to {MAX_BROKERS} brokers"),
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
) -> Result<(Vec<Move>, Vec<String>), ApiError> {
    let factor = usize::try_from(factor)
        .ok()
        .filter(|factor| *factor > 0)
        .ok_or_else(|| ApiError::field("replication_factor", "must be 1 or more"))?;
    let known = cluster.topics.get(topic).ok_or_else(|| unknown_topic(topic))?;
    let factors = BTreeMap::from([(known.id, factor)]);
    let plan: Plan = change_replication_factor(&placement::view(cluster, &[])?, &factors, &Options::default())
        .map_err(|error| placement::plan_error(cluster, error))?;
    let (moves, refused) = settle(cluster, placement::moves(cluster, &plan));
    let mut notices = placement::notices(&plan);
    notices.extend(refused);
    Ok((moves, notices))
}

/// Parts the moves that can be made now from those that the rules refuse: one of them stops no
/// other here, unlike in a request that names its moves.
fn settle(cluster: &Cluster, moves: Vec<Move>) -> (Vec<Move>, Vec<String>) {
    let mut then = cluster.clone();
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for one in moves {
        let version = then.version.saturating_add(1);
        let command = Command::ReassignPartitions {
            moves: vec![one.clone()],
        };
        match then.apply(version, &command) {
            Ok(_) => accepted.push(one),
            Err(Rejection::Move(reason)) => {
                refused.push(format!(
                    "Partition {reason}; it is left out: ask again when that has changed."
                ));
            }
            Err(other) => refused.push(sentence(other)),
        }
    }
    let left_out = refused.len();
    if left_out > MAX_REFUSALS {
        refused.truncate(MAX_REFUSALS);
        refused.push(format!("{} more partitions are left out.", left_out - MAX_REFUSALS));
    }
    (accepted, refused)
}

/// Has moves made, in parts.
///
/// # Errors
/// The metadata quorum refuses a part, or does not answer: what was begun before goes on, and
/// the same request plans the rest.
pub async fn carry_out(service: &AdminService, moves: Vec<Move>) -> Result<(), ApiError> {
    for part in moves.chunks(MOVES_PER_COMMAND) {
        service
            .submit(Command::ReassignPartitions { moves: part.to_vec() })
            .await?;
    }
    service.0.wait_until_current().await
}

#[cfg(test)]
mod tests {
    use millrace_engine::{Outcome, cluster::CreateTopic};
    use uuid::Uuid;

    use super::{super::testing::cluster_of, *};

    fn with_topic(brokers: &[i32], assignments: Vec<Vec<i32>>) -> Cluster {
        let mut cluster = cluster_of(brokers);
        let create = CreateTopic {
            name: "t".into(),
            id: Uuid::from_u128(1),
            assignments,
            configs: BTreeMap::new(),
            now_ms: 0,
        };
        let done = cluster.apply(100, &Command::CreateTopic(create)).unwrap();
        assert_eq!(done, Outcome::Done);
        cluster
    }

    fn begin(cluster: &mut Cluster, moves: Vec<Move>) {
        cluster.apply(200, &Command::ReassignPartitions { moves }).unwrap();
    }

    #[test]
    fn a_drain_takes_all_and_puts_nothing_on_those_that_leave() {
        let cluster = with_topic(&[1, 2, 3, 4], vec![vec![1, 2], vec![2, 1], vec![2, 3]]);
        let view = placement::view(&cluster, &[1, 2]).unwrap();
        let plan = drain_brokers(&view, &Options::default()).unwrap();
        let (moves, refused) = settle(&cluster, placement::moves(&cluster, &plan));
        assert_eq!((moves.len(), refused.len()), (3, 0));
        for one in &moves {
            let target = one.target.as_ref().unwrap();
            assert!(target.iter().all(|id| [3, 4].contains(id)), "{target:?}");
        }
        let planned = placement::planned(&cluster, &moves, vec![]);
        assert_eq!((planned.partitions, planned.replicas_to_copy), (3, 5));
        assert_eq!(planned.first[0].from, [1, 2]);
    }

    #[test]
    fn a_drain_that_has_nowhere_to_go_says_which_partition_by_its_name() {
        let cluster = with_topic(&[1, 2], vec![vec![1, 2]]);
        let view = placement::view(&cluster, &[1]).unwrap();
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
        let (moves, _) = plan_replication_factor(&cluster, "t", 3).unwrap();
        assert_eq!(moves.len(), 2);
        assert_eq!(moves[0].target.as_ref().unwrap().len(), 3);
        assert_eq!(moves[0].target.as_ref().unwrap()[0], 1, "the leader stays");
        assert!(plan_replication_factor(&cluster, "t", 1).unwrap().0.is_empty());
        let reason = |factor| plan_replication_factor(&cluster, "t", factor).unwrap_err().reason();
        assert_eq!(reason(4), v1::ErrorReason::NotEnoughBrokers);
        assert_eq!(reason(0), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(i32::MAX), v1::ErrorReason::NotEnoughBrokers);
        let unknown = plan_replication_factor(&cluster, "x", 2).unwrap_err();
        assert_eq!(unknown.reason(), v1::ErrorReason::UnknownTopic);
    }

    #[test]
    fn brokers_are_named_once_and_are_known() {
        let cluster = cluster_of(&[1, 2]);
        assert!(check_brokers(&cluster, &[1, 2]).is_ok());
        let reason = |ids: &[i32]| check_brokers(&cluster, ids).unwrap_err().reason();
        assert_eq!(reason(&[]), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(&[1, 1]), v1::ErrorReason::InvalidRequest);
        assert_eq!(reason(&[1, 9]), v1::ErrorReason::UnknownBroker);
    }
}
