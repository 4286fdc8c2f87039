//! The cluster as placement sees it, and plans as commands and answers.

use std::collections::BTreeMap;

use millrace_engine::{
    BrokerId, Cluster,
    cluster::{Broker, Move},
};
use millrace_placement::{
    self as placement, BlockReason, Blocked, BrokerState, Options, Partition, Plan, PlanError, TopicPartition,
};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use crate::error::{ApiError, sentence};

/// Moves that an answer names: more than a person reads, and a small message.
const MAX_NAMED_MOVES: usize = 1_000;

/// Brokers and partitions, with `leaving` brokers as if they were drained already.
///
/// Sizes are not known to the metadata, so that all replicas weigh the same and no disk is full.
///
/// # Errors
/// The metadata contradicts itself.
pub fn view(cluster: &Cluster, leaving: &[BrokerId]) -> Result<placement::Cluster, ApiError> {
    let brokers = cluster
        .brokers
        .values()
        .map(|known| {
            let state = state(known, leaving.contains(&known.id));
            placement::Broker::new(known.id)
                .with_rack(known.rack.clone())
                .with_state(state)
        })
        .collect();
    let partitions = cluster
        .partitions()
        .map(|(topic, partition, record)| {
            let replicas = record.target();
            Partition {
                id: TopicPartition {
                    topic: topic.id,
                    partition,
                },
                leader: record.leader.filter(|leader| replicas.contains(leader)),
                replicas,
                bytes: 0,
            }
        })
        .collect();
    placement::Cluster::new(brokers, partitions).map_err(|error| ApiError::internal("planning", &error))
}

/// Who is drained while it is down is not expected back.
fn state(broker: &Broker, leaving: bool) -> BrokerState {
    match (leaving || broker.draining, broker.is_active()) {
        (true, true) => BrokerState::Draining,
        (true, false) => BrokerState::Gone,
        (false, false) => BrokerState::Fenced,
        (false, true) if broker.cordoned => BrokerState::Cordoned,
        (false, true) => BrokerState::Active,
    }
}

/// How many brokers may get new replicas.
pub fn targets(view: &placement::Cluster) -> usize {
    view.brokers().iter().filter(|broker| broker.state.is_target()).count()
}

/// The replicas of new partitions, preferred leader first.
///
/// # Errors
/// Too few brokers can take them.
pub fn place(
    cluster: &Cluster,
    view: &placement::Cluster,
    topic: Uuid,
    partitions: usize,
    factor: usize,
) -> Result<Vec<Vec<BrokerId>>, ApiError> {
    placement::create_partitions(view, topic, partitions, factor, &Options::default())
        .map(|placed| placed.replicas)
        .map_err(|error| plan_error(cluster, error))
}

/// A plan as commands.
pub fn moves(cluster: &Cluster, plan: &Plan) -> Vec<Move> {
    let topics = topics(cluster);
    plan.reassignments
        .iter()
        .filter_map(|change| {
            let topic = topics.get(&change.partition.topic)?;
            Some(Move {
                partition: topic.partition_ref(change.partition.partition),
                target: Some(change.to.clone()),
                throttle: None,
            })
        })
        .collect()
}

fn topics(cluster: &Cluster) -> BTreeMap<Uuid, &millrace_engine::Topic> {
    cluster.topics.values().map(|topic| (topic.id, &**topic)).collect()
}

/// Moves as an answer names them: from the replicas of now to those of then.
pub fn planned(cluster: &Cluster, moves: &[Move], notices: Vec<String>) -> v1::PlannedMoves {
    let mut planned = v1::PlannedMoves {
        notices,
        ..v1::PlannedMoves::default()
    };
    for one in moves {
        let Ok((_, record)) = cluster.find_partition(&one.partition) else {
            continue;
        };
        let from = record.target();
        let to = one.target.clone().unwrap_or_else(|| record.original());
        let copied = to.iter().filter(|id| !record.replicas.contains(id)).count();
        planned.partitions = planned.partitions.saturating_add(1);
        planned.replicas_to_copy = planned.replicas_to_copy.saturating_add(super::count(copied));
        if planned.first.len() < MAX_NAMED_MOVES {
            planned.first.push(v1::PlannedMove {
                topic: one.partition.topic.clone(),
                partition: super::number(one.partition.partition),
                from,
                to,
            });
        }
    }
    planned
}

/// What a plan's reader should know, in sentences.
pub fn notices(plan: &Plan) -> Vec<String> {
    plan.notices.iter().map(sentence).collect()
}

/// Why there is no plan, with the topics' names in place of their ids.
pub fn plan_error(cluster: &Cluster, error: PlanError) -> ApiError {
    let message = sentence(&error);
    match error {
        PlanError::NoReplicas => ApiError::field("replication_factor", "must be 1 or more"),
        PlanError::TooFewBrokers { usable, .. } => {
            ApiError::new(ErrorReason::NotEnoughBrokers, message).with("brokers", usable)
        }
        PlanError::Blocked(blocked) => blocked_error(cluster, &blocked),
        PlanError::TooFewRacks { .. }
        | PlanError::RacksUnavailable
        | PlanError::UnknownTopic { .. }
        | PlanError::UnknownBroker { .. }
        | PlanError::NotActive { .. } => ApiError::new(ErrorReason::PlacementBlocked, message),
    }
}

fn blocked_error(cluster: &Cluster, blocked: &[Blocked]) -> ApiError {
    let topics = topics(cluster);
    let first = blocked.first().map(|one| {
        let at = one.partition;
        let name = topics
            .get(&at.topic)
            .map_or_else(|| at.to_string(), |topic| topic.partition_ref(at.partition).to_string());
        format!("the first is {name}: {}", one.reason)
    });
    let message = format!(
        "{} can't be placed, {}.",
        match blocked.len() {
            1 => "1 partition".to_owned(),
            many => format!("{many} partitions"),
        },
        first.unwrap_or_default()
    );
    let few = blocked.iter().find_map(|one| match one.reason {
        BlockReason::TooFewBrokers { usable, .. } => Some(usable),
        BlockReason::DiskFull { .. } | BlockReason::RackSpread => None,
    });
    let error = match few {
        Some(usable) => ApiError::new(ErrorReason::NotEnoughBrokers, message).with("brokers", usable),
        None => ApiError::new(ErrorReason::PlacementBlocked, message),
    };
    error.with("partitions", blocked.len())
}
