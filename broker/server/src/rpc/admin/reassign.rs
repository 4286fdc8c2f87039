//! Moves of partitions between brokers (KIP-455): start, cancel, list.

use millrace_engine::{
    Cluster, Command, Partition,
    cluster::{MAX_BROKERS, MAX_CHANGES, Move, PartitionRef},
};
use millrace_proto::v1;

use super::{AdminService, moves::throttle, number, page_size, partition_ref, preview};
use crate::{broker::Broker, error::ApiError};

/// Begins or cancels moves; all or none.
///
/// # Errors
/// A field breaks a rule, or as of the metadata quorum.
pub async fn start(
    service: &AdminService,
    request: v1::ReassignPartitionsRequest,
) -> Result<v1::ReassignPartitionsResponse, ApiError> {
    let asked = request.reassignments;
    if asked.is_empty() || asked.len() > MAX_CHANGES {
        return Err(ApiError::field(
            "reassignments",
            format!("must name 1 to {MAX_CHANGES} partitions"),
        ));
    }
    let cluster = service.latest().await?;
    let moves: Vec<Move> = asked
        .into_iter()
        .map(|one| to_move(&cluster, one))
        .collect::<Result<_, _>>()?;
    let partitions: Vec<PartitionRef> = moves.iter().map(|one| one.partition.clone()).collect();
    let command = Command::ReassignPartitions { moves };
    let (then, _) = preview(&cluster, &command)?;
    let then = if request.validate_only {
        std::sync::Arc::new(then)
    } else {
        service.change(command, false).await?;
        service.0.quorum.cluster()
    };
    Ok(v1::ReassignPartitionsResponse {
        reassignments: partitions
            .iter()
            .filter_map(|at| {
                // A topic may be deleted by now: then there is nothing to tell of.
                let (_, record) = then.find_partition(at).ok()?;
                Some(describe(&service.0, &at.topic, at.partition, record))
            })
            .collect(),
    })
}

fn to_move(cluster: &Cluster, one: v1::PartitionReassignment) -> Result<Move, ApiError> {
    let partition = partition_ref(cluster, &one.topic, one.partition)?;
    let wrong = |problem: String| Err(ApiError::field("reassignments", format!("{partition}: {problem}")));
    let throttle = match throttle(one.throttle_bytes_per_second) {
        Ok(throttle) => throttle,
        Err(problem) => return wrong(format!("throttle_bytes_per_second {problem}")),
    };
    match (one.cancel, one.replicas.len()) {
        (true, _) if throttle.is_some() => wrong("throttle_bytes_per_second must be 0 where cancel is set".into()),
        (true, 0) => Ok(Move {
            partition,
            target: None,
            throttle: None,
        }),
        (true, _) => wrong("replicas must be empty where cancel is set".into()),
        (false, 0) => wrong("replicas must name at least one broker, or cancel must be set".into()),
        (false, many) if many > MAX_BROKERS => wrong(format!("replicas names more than {MAX_BROKERS} brokers")),
        (false, _) => Ok(Move {
            partition,
            target: Some(one.replicas),
            throttle,
        }),
    }
}

/// A partition and its move. How far replicas are only the leader knows, and tells if it is this
/// broker.
pub fn describe(broker: &Broker, topic: &str, at: u32, record: &Partition) -> v1::Reassignment {
    let leads = record.leader == Some(broker.config.node_id);
    let local = leads.then(|| broker.partitions.find(topic, number(at)).ok()).flatten();
    v1::Reassignment {
        topic: topic.to_owned(),
        partition: number(at),
        leader_id: record.leader,
        original_replicas: record.original(),
        target_replicas: record.target(),
        adding_replicas: record.adding.clone(),
        removing_replicas: record.removing.clone(),
        in_sync_replicas: record.isr.clone(),
        progress: record
            .adding
            .iter()
            .map(|id| v1::ReplicaProgress {
                broker_id: *id,
                log_end: local.as_ref().and_then(|local| local.durable_end_of(*id)),
                in_sync: record.isr.contains(id),
            })
            .collect(),
        leader_log_end: local.as_ref().map(|local| local.offsets().log_end),
        throttle_bytes_per_second: record
            .throttle
            .map_or(0, |rate| i64::try_from(rate.get()).unwrap_or(i64::MAX)),
    }
}

/// A page of the moves under way.
///
/// # Errors
/// A page size that is negative, a token that is none, an unknown topic, or the metadata quorum can't tell
/// whether there is one.
pub async fn list(
    broker: &Broker,
    request: &v1::ListReassignmentsRequest,
) -> Result<v1::ListReassignmentsResponse, ApiError> {
    let size = page_size(request.page_size)?;
    let cluster = match request.topic.as_str() {
        "" => broker.quorum.cluster(),
        topic => broker.topic(topic).await?.0,
    };
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(parse_token(token)?),
    };
    let mut found = moving(&cluster, &request.topic, after);
    let page: Vec<(&str, u32, &Partition)> = found.by_ref().take(size).collect();
    let next_page_token = match (found.next(), page.last()) {
        (Some(_), Some((topic, at, _))) => format!("{topic}:{at}"),
        _ => String::new(),
    };
    Ok(v1::ListReassignmentsResponse {
        reassignments: page
            .into_iter()
            .map(|(topic, at, record)| describe(broker, topic, at, record))
            .collect(),
        next_page_token,
    })
}

/// The partitions that move, of one topic or all, behind a place in their order.
fn moving<'a>(
    cluster: &'a Cluster,
    topic: &'a str,
    after: Option<(String, u32)>,
) -> impl Iterator<Item = (&'a str, u32, &'a Partition)> {
    cluster
        .partitions()
        .filter(move |(of, _, record)| record.is_moving() && (topic.is_empty() || of.name == topic))
        .map(|(of, at, record)| (of.name.as_str(), at, record))
        .filter(move |(name, at, _)| {
            after
                .as_ref()
                .is_none_or(|(last, last_at)| (*name, *at) > (last.as_str(), *last_at))
        })
}

/// The last partition of the page before: stable while moves come and go. No topic's name has
/// a colon.
fn parse_token(token: &str) -> Result<(String, u32), ApiError> {
    token
        .split_once(':')
        .and_then(|(topic, at)| Some((topic.to_owned(), at.parse().ok()?)))
        .ok_or_else(|| ApiError::field("page_token", "must be empty, or from the last answer"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_engine::Topic;
    use uuid::Uuid;

    use super::*;

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for (name, moving) in [("a", [true, false]), ("b", [true, true])] {
            let partitions = moving
                .iter()
                .map(|moving| {
                    let mut record = Partition::new(vec![1, 2], |_| true);
                    record.adding = if *moving { vec![2] } else { vec![] };
                    record
                })
                .collect();
            let topic = Topic {
                name: name.into(),
                id: Uuid::from_u128(u128::from(name.as_bytes()[0])),
                partitions,
                configs: Default::default(),
                created_at_ms: 0,
                growth: Vec::new(),
                flushes_since: 0,
                owner: None,
            };
            cluster.topics.insert(name.into(), Arc::new(topic));
        }
        cluster
    }

    #[test]
    fn a_page_goes_on_behind_the_last_one() {
        let cluster = cluster();
        let found = |topic: &str, token: &str| {
            let after = (!token.is_empty()).then(|| parse_token(token).unwrap());
            moving(&cluster, topic, after)
                .map(|(topic, at, _)| format!("{topic}:{at}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(found("", ""), ["a:0", "b:0", "b:1"]);
        assert_eq!(found("", "a:0"), ["b:0", "b:1"]);
        assert_eq!(found("", "b:1"), [""; 0]);
        assert_eq!(found("b", ""), ["b:0", "b:1"]);
    }

    #[test]
    fn a_token_of_somebody_else_is_refused() {
        for token in ["a", "a:x", ":", "a:-1", "a:4294967296"] {
            assert!(parse_token(token).is_err(), "{token}");
        }
    }

    #[test]
    fn a_move_says_either_where_to_or_to_cancel() {
        let cluster = cluster();
        let throttled = |replicas: Vec<i32>, cancel, throttle_bytes_per_second| {
            let topic = "a".to_owned();
            to_move(
                &cluster,
                v1::PartitionReassignment {
                    topic,
                    partition: 0,
                    replicas,
                    cancel,
                    throttle_bytes_per_second,
                },
            )
        };
        let asked = |replicas, cancel| throttled(replicas, cancel, 0);
        let rate = throttled(vec![3], false, 65_536).unwrap().throttle;
        assert_eq!(rate.map(std::num::NonZeroU64::get), Some(65_536));
        assert!(throttled(vec![3], false, 65_535).is_err());
        assert!(throttled(vec![3], false, -1).is_err());
        assert!(throttled(vec![], true, 65_536).is_err());
        assert_eq!(asked(vec![3], false).unwrap().target, Some(vec![3]));
        assert_eq!(asked(vec![], true).unwrap().target, None);
        assert!(asked(vec![3], true).is_err());
        assert!(asked(vec![], false).is_err());
        assert!(asked(vec![0; MAX_BROKERS + 1], false).is_err());
    }
}
