//! The cluster as placement sees it, and plans as commands and answers.

use std::{collections::BTreeMap, num::NonZeroU64};

use millrace_engine::{
    BrokerId, Cluster,
    cluster::{Broker, Move},
};
use millrace_placement::{
    self as placement, BlockReason, Blocked, BrokerState, Notice, Options, Partition, Plan, PlanError, TopicPartition,
};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::untold;
use crate::{
    error::{ApiError, sentence},
    forward::{Inventories, Inventory},
    replication::Key,
};

/// Moves that an answer names: more than a person reads, and a small message.
const MAX_NAMED_MOVES: usize = 1_000;

/// Brokers and partitions, with `leaving` brokers as if they were drained already, and what `told` says of sizes: how
/// large replicas are, and how full disks. A broker that has not told keeps what it has and gets nothing.
///
/// # Errors
/// The metadata contradicts itself.
pub fn view(cluster: &Cluster, leaving: &[BrokerId], told: &Inventories) -> Result<placement::Cluster, ApiError> {
    let silent = untold::silent(cluster, leaving, told);
    let state = |known: &Broker| match silent.contains(&known.id) {
        true => BrokerState::Fenced,
        false => state(known, leaving.contains(&known.id)),
    };
    view_by(cluster, state, told)
}

fn view_by(
    cluster: &Cluster,
    state: impl Fn(&Broker) -> BrokerState,
    told: &Inventories,
) -> Result<placement::Cluster, ApiError> {
    let brokers = cluster
        .brokers
        .values()
        .map(|known| {
            let broker = placement::Broker::new(known.id)
                .with_rack(known.rack.clone())
                .with_state(state(known));
            match told.get(&known.id).and_then(Inventory::disk_bytes) {
                Some(bytes) => broker.with_disk_bytes(bytes),
                None => broker,
            }
        })
        .collect();
    // The largest is nearest to what a new one will take: others may still be copied.
    let size = |key: Key| {
        let sizes = told.values().filter_map(|inventory| inventory.replicas.get(&key));
        sizes.map(|replica| replica.size_bytes).max().unwrap_or(0)
    };
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
                bytes: size((topic.id, partition)),
            }
        })
        .collect();
    placement::Cluster::new(brokers, partitions).map_err(|error| ApiError::internal("planning", &error))
}

/// Who is drained while it is down is not expected back.
pub(super) fn state(broker: &Broker, leaving: bool) -> BrokerState {
    match (leaving || broker.draining, broker.is_active()) {
        (true, true) => BrokerState::Draining,
        (true, false) => BrokerState::Gone,
        (false, false) => BrokerState::Fenced,
        (false, true) if broker.cordoned => BrokerState::Cordoned,
        (false, true) => BrokerState::Active,
    }
}

/// How many brokers may hold new partitions, also those that are down for a restart: a topic's replication
/// factor must not depend on the moment at which it is created.
pub fn targets(cluster: &Cluster) -> usize {
    cluster.brokers.values().filter(|known| is_target(known)).count()
}

/// The brokers that can take replicas now.
pub fn in_use(cluster: &Cluster) -> Vec<BrokerId> {
    let brokers = cluster.brokers.values();
    brokers
        .filter(|known| is_target(known) && known.is_active())
        .map(|known| known.id)
        .collect()
}

/// Whether a broker may hold new partitions once it is up.
fn is_target(known: &Broker) -> bool {
    !known.cordoned && !known.draining
}

/// The replicas of new partitions, preferred leader first. Where those in service do not suffice, brokers
/// that are down get replicas too, as in KRaft: these come into sync when their broker is back.
///
/// # Errors
/// Too few brokers can take them.
pub fn place(cluster: &Cluster, topic: Uuid, partitions: usize, factor: usize) -> Result<Vec<Vec<BrokerId>>, ApiError> {
    let awaited = awaited(cluster, factor);
    let state = |known: &Broker| match awaited.contains(&known.id) {
        true => BrokerState::Active,
        false => state(known, false),
    };
    // Nobody is asked: a topic is made at once, whoever does not answer.
    let view = view_by(cluster, state, &Inventories::new())?;
    placement::create_partitions(&view, topic, partitions, factor, &Options::default())
        .map(|placed| placed.replicas)
        .map_err(|error| plan_error(cluster, error))
}

/// Brokers that are down and must be waited for where each partition has so many replicas: no more than are
/// lacking, so that every partition is on all that are in service, and those that hold the least. None
/// where nobody is in service, who could lead.
fn awaited(cluster: &Cluster, factor: usize) -> Vec<BrokerId> {
    let (active, mut down): (Vec<&Broker>, Vec<&Broker>) = cluster
        .brokers
        .values()
        .filter(|known| is_target(known))
        .partition(|known| known.is_active());
    if active.is_empty() {
        return Vec::new();
    }
    let loads = cluster.loads();
    down.sort_by_key(|known| (loads.get(&known.id).map_or(0, |load| load.replicas), known.id));
    let lacking = factor.saturating_sub(active.len());
    down.into_iter().take(lacking).map(|known| known.id).collect()
}

/// A plan as commands: moves that send at most so many bytes a second.
pub fn moves(cluster: &Cluster, plan: &Plan, throttle: Option<NonZeroU64>) -> Vec<Move> {
    let topics = topics(cluster);
    plan.reassignments
        .iter()
        .filter_map(|change| {
            let topic = topics.get(&change.partition.topic)?;
            Some(Move {
                partition: topic.partition_ref(change.partition.partition),
                target: Some(change.to.clone()),
                throttle,
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

/// What a plan's reader should know, in sentences, with the topics' names in place of their ids.
pub fn notices(cluster: &Cluster, plan: &Plan) -> Vec<String> {
    let topics = topics(cluster);
    let told = |notice: &Notice| match notice {
        Notice::NotSpread { first, .. } => sentence(notice).replace(&first.to_string(), &named(&topics, *first)),
        other => sentence(other),
    };
    plan.notices.iter().map(told).collect()
}

fn named(topics: &BTreeMap<Uuid, &millrace_engine::Topic>, at: TopicPartition) -> String {
    topics
        .get(&at.topic)
        .map_or_else(|| at.to_string(), |topic| topic.partition_ref(at.partition).to_string())
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
    let first = blocked
        .first()
        .map(|one| format!("the first is {}: {}", named(&topics, one.partition), one.reason));
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

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{cluster_of, with_topic},
        *,
    };
    use crate::forward::StoredReplica;

    #[test]
    fn brokers_that_are_down_are_taken_only_as_far_as_others_are_lacking() {
        let mut cluster = cluster_of(&[1, 2, 3, 4, 5]);
        let mut change = |id, change: fn(&mut Broker)| change(cluster.brokers.get_mut(&id).unwrap());
        change(1, |broker| broker.fenced = true);
        change(3, |broker| broker.fenced = true);
        change(5, |broker| (broker.fenced, broker.cordoned) = (true, true));
        let place = |cluster: &Cluster, factor| -> Result<Vec<Vec<BrokerId>>, ApiError> {
            let placed = place(cluster, Uuid::nil(), 2, factor)?;
            Ok(placed.into_iter().map(sorted).collect())
        };
        assert_eq!(targets(&cluster), 4);
        assert_eq!(place(&cluster, 2), Ok(vec![vec![2, 4]; 2]));
        assert_eq!(place(&cluster, 3), Ok(vec![vec![1, 2, 4]; 2]));
        assert_eq!(place(&cluster, 4), Ok(vec![vec![1, 2, 3, 4]; 2]));
        let error = place(&cluster, 5).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::NotEnoughBrokers);
        assert_eq!(error.metadata()["brokers"], "4");
        for broker in cluster.brokers.values_mut() {
            broker.fenced = true;
        }
        let error = place(&cluster, 1).unwrap_err();
        assert_eq!(error.metadata()["brokers"], "0", "somebody must lead");
    }

    #[test]
    fn sizes_are_the_largest_that_was_told_and_who_is_silent_gets_nothing() {
        let cluster = with_topic(&[1, 2, 3], vec![vec![1, 2]]);
        let key = (cluster.topics["t"].id, 0);
        let inventory = |size_bytes, available_bytes| {
            let replica = StoredReplica {
                size_bytes,
                log_end: 0,
                last_epoch: None,
                is_damaged: false,
                is_offline: false,
            };
            Inventory {
                available_bytes: Some(available_bytes),
                replicas: BTreeMap::from([(key, replica)]),
            }
        };
        let told = Inventories::from([(1, inventory(700, 300)), (2, inventory(500, 9_500))]);
        let seen = view(&cluster, &[], &told).unwrap();
        assert_eq!(seen.partitions()[0].bytes, 700);
        let broker = |id| seen.broker(id).unwrap();
        assert_eq!(
            (broker(1).disk_bytes, broker(2).disk_bytes),
            (Some(1_000), Some(10_000))
        );
        assert_eq!((broker(3).state, broker(3).disk_bytes), (BrokerState::Fenced, None));
        assert_eq!(broker(1).state, BrokerState::Active);
        // 2 is drained, 3 is nearly full: there is no place for it.
        let mut full = told.clone();
        full.insert(
            3,
            Inventory {
                available_bytes: Some(100),
                replicas: BTreeMap::new(),
            },
        );
        let drain = |told: &Inventories| {
            let seen = view(&cluster, &[2], told).unwrap();
            placement::drain_brokers(&seen, &Options::default()).map_err(|error| plan_error(&cluster, error).reason())
        };
        assert_eq!(drain(&full).unwrap_err(), ErrorReason::PlacementBlocked);
        full.insert(
            3,
            Inventory {
                available_bytes: Some(10_000),
                replicas: BTreeMap::new(),
            },
        );
        assert_eq!(drain(&full).unwrap().reassignments.len(), 1);
    }

    fn sorted(mut ids: Vec<BrokerId>) -> Vec<BrokerId> {
        ids.sort_unstable();
        ids
    }
}
