//! Placing the partitions of a new topic, or those added to one.

use thiserror::Error;
use uuid::Uuid;

use crate::{
    Broker, Cluster, Notice, Options, PlanError, RackPolicy, TopicPartition,
    choose::mix,
    fill::{check_racks, fill},
    leaders::Leaders,
    shares::rack_notices,
    state::{Base, State},
    topology::Topology,
};

/// A broker that may get replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSpot {
    /// Its number.
    pub id: i32,
    /// Its failure domain; empty if none.
    pub rack: String,
    /// How many replicas it holds.
    pub replicas: usize,
    /// For how many partitions it is the preferred leader.
    pub leaders: usize,
}

/// Why partitions can't be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// Fewer brokers than replicas.
    #[error("a replication factor of {wanted} needs {wanted} brokers; {brokers} can be used")]
    NotEnoughBrokers {
        /// Replicas of each partition.
        wanted: usize,
        /// Usable brokers.
        brokers: usize,
    },
    /// Zero replicas.
    #[error("a partition needs at least one replica")]
    NoReplicas,
}

/// Where new partitions should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// By partition: the brokers that should hold it, preferred leader first.
    pub replicas: Vec<Vec<i32>>,
    /// What the reader should know.
    pub notices: Vec<Notice>,
}

/// The replicas of `partitions` new partitions, preferred leader first.
///
/// Each partition's replicas are spread as evenly over racks as the racks' sizes allow (KIP-36); within that,
/// replicas and then preferred leaders come out as even as they can be, counting those
/// that brokers have already. Of equal brokers, the lower number comes first. The order of `brokers`, which have
/// different numbers, does not matter.
///
/// # Errors
/// Fewer brokers than replicas, or no replicas asked for.
pub fn place_partitions(
    brokers: &[BrokerSpot],
    partitions: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<i32>>, PlacementError> {
    let mut spots: Vec<&BrokerSpot> = brokers.iter().collect();
    spots.sort_by_key(|spot| spot.id);
    spots.dedup_by_key(|spot| spot.id);
    let listed: Vec<Broker> = spots
        .iter()
        .map(|spot| Broker {
            rack: Some(spot.rack.clone()).filter(|rack| !rack.is_empty()),
            ..Broker::new(spot.id)
        })
        .collect();
    let base = Base {
        replicas: spots.iter().map(|spot| spot.replicas as u64).collect(),
        leaders: spots.iter().map(|spot| spot.leaders as u64).collect(),
        ..Base::empty(spots.len())
    };
    let options = Options::default();
    let topology = Topology::new(&listed, &options);
    let placed = place(&topology, &options, base, None, partitions, replication_factor);
    placed.map(|placed| placed.replicas).map_err(|error| match error {
        PlanError::NoReplicas => PlacementError::NoReplicas,
        // Racks are preferred, not required, and disks unbounded here: nothing else can be missing.
        _ => PlacementError::NotEnoughBrokers {
            wanted: replication_factor,
            brokers: listed.len(),
        },
    })
}

/// Places `partitions` more partitions of `topic`, which may have some already, on active brokers.
///
/// As [`place_partitions`], and brokers' weights, states, bytes, disks and the replicas of the same
/// topic count too. Brokers that are equal in all that are ordered by a hash of topic, partition and broker, so that
/// topics created at one time from one view of the cluster do not all choose the same ones.
///
/// # Errors
/// [`PlanError::NoReplicas`] for a replication factor of zero; [`PlanError::TooFewBrokers`] if fewer active brokers have
/// room than there are replicas; where each replica is to have its own rack, [`PlanError::TooFewRacks`], or
/// [`PlanError::RacksUnavailable`] if there are racks enough but not of active brokers with room.
pub fn create_partitions(
    cluster: &Cluster,
    topic: Uuid,
    partitions: usize,
    replication_factor: usize,
    options: &Options,
) -> Result<Placement, PlanError> {
    let topology = Topology::new(cluster.brokers(), options);
    let mut base = Base::empty(topology.len());
    let mut next = 0;
    for partition in cluster.partitions() {
        let same_topic = partition.id.topic == topic;
        if same_topic {
            next = next.max(partition.id.partition.saturating_add(1));
        }
        for (position, id) in partition.replicas.iter().enumerate() {
            let Some(at) = topology.index(*id) else { continue };
            base.replicas[at] += 1;
            base.leaders[at] += u64::from(position == 0);
            base.bytes[at] = base.bytes[at].saturating_add(partition.bytes);
            base.topic[at] += u32::from(same_topic);
        }
    }
    let (high, low) = topic.as_u64_pair();
    let seed = Some(mix(high, low));
    let placed = place(&topology, options, base, seed, partitions, replication_factor)?;
    let mut notices = rack_notices(&topology, std::iter::once(replication_factor));
    if let Some(first) = placed.uneven.first() {
        notices.push(Notice::NotSpread {
            partitions: placed.uneven.len(),
            first: TopicPartition {
                topic,
                partition: next.saturating_add(*first),
            },
        });
    }
    Ok(Placement {
        replicas: placed.replicas,
        notices,
    })
}

struct Placed {
    replicas: Vec<Vec<i32>>,
    /// Partitions that could be spread better if more brokers took replicas.
    uneven: Vec<u32>,
}

fn place(
    topology: &Topology,
    options: &Options,
    base: Base,
    seed: Option<u64>,
    partitions: usize,
    replication_factor: usize,
) -> Result<Placed, PlanError> {
    if replication_factor == 0 {
        return Err(PlanError::NoReplicas);
    }
    // A new partition is empty, but a disk that is too full already gets none.
    let has_room = |at: usize| topology.limits[at].is_none_or(|limit| base.bytes[at] <= limit);
    let usable = (0..topology.len()).filter(|at| topology.states[*at].is_target() && has_room(*at));
    let usable = usable.count();
    if usable < replication_factor {
        return Err(PlanError::TooFewBrokers {
            wanted: replication_factor,
            usable,
        });
    }
    check_racks(topology, std::iter::once(replication_factor), options)?;
    let mut leaders = Leaders::new(topology, base.leaders.clone());
    let mut state = State::of_new(topology, options, base, partitions, replication_factor);
    let parts = 0..state.parts() as u32;
    let slots = parts.clone().flat_map(|part| state.slots(part)).collect();
    if !fill(&mut state, slots, seed).is_empty() {
        return Err(PlanError::TooFewBrokers {
            wanted: replication_factor,
            usable,
        });
    }
    let uneven: Vec<u32> = parts.clone().filter(|part| !state.spread(*part).is_even()).collect();
    if options.racks == RackPolicy::OnePerRack && !uneven.is_empty() {
        return Err(PlanError::RacksUnavailable);
    }
    for part in parts {
        leaders.push(state.replicas(part), None);
    }
    leaders.even_out();
    let ids = |order: Vec<usize>| order.into_iter().map(|at| topology.ids[at]).collect();
    Ok(Placed {
        replicas: (0..partitions).map(|item| ids(leaders.order(item))).collect(),
        uneven,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spots(racks: &[&str]) -> Vec<BrokerSpot> {
        racks
            .iter()
            .zip(0..)
            .map(|(rack, id)| BrokerSpot {
                id,
                rack: (*rack).into(),
                replicas: 0,
                leaders: 0,
            })
            .collect()
    }

    #[test]
    fn refuses_what_can_not_be() {
        assert_eq!(
            place_partitions(&spots(&["a"]), 1, 2),
            Err(PlacementError::NotEnoughBrokers { wanted: 2, brokers: 1 })
        );
        assert_eq!(place_partitions(&spots(&["a"]), 1, 0), Err(PlacementError::NoReplicas));
    }

    #[test]
    fn three_racks_hold_one_replica_each_and_leaders_are_even() {
        let placed = place_partitions(&spots(&["a", "a", "b", "b", "c", "c"]), 12, 3).unwrap();
        for id in 0..6 {
            assert_eq!(placed.iter().filter(|replicas| replicas[0] == id).count(), 2);
            assert_eq!(placed.iter().filter(|replicas| replicas.contains(&id)).count(), 6);
        }
        for replicas in &placed {
            let mut racks: Vec<i32> = replicas.iter().map(|id| id / 2).collect();
            racks.sort_unstable();
            assert_eq!(racks, [0, 1, 2]);
        }
    }

    proptest! {
        #[test]
        fn replicas_differ_racks_are_used_and_the_order_of_brokers_does_not_matter(
            racks in prop::collection::vec(0u8..4, 1..8),
            partitions in 1usize..30,
            factor in 1usize..5,
        ) {
            let names: Vec<String> = racks.iter().map(|rack| format!("r{rack}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let brokers = spots(&names);
            let mut reversed = brokers.clone();
            reversed.reverse();
            let placed = place_partitions(&brokers, partitions, factor);
            prop_assert_eq!(&placed, &place_partitions(&reversed, partitions, factor));
            if factor > racks.len() {
                prop_assert!(placed.is_err());
                return Ok(());
            }
            let placed = placed.unwrap();
            prop_assert_eq!(placed.len(), partitions);
            let all: std::collections::BTreeSet<u8> = racks.iter().copied().collect();
            for replicas in &placed {
                let distinct: std::collections::BTreeSet<_> = replicas.iter().collect();
                prop_assert_eq!(distinct.len(), factor);
                let used: std::collections::BTreeSet<u8> =
                    replicas.iter().map(|id| racks[*id as usize]).collect();
                prop_assert_eq!(used.len(), factor.min(all.len()));
            }
            let leaders = |id: i32| placed.iter().filter(|replicas| replicas[0] == id).count();
            let counts: Vec<usize> = (0..racks.len() as i32).map(leaders).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
