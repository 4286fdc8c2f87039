//! Random clusters, and what must hold of any plan; written without the crate's own arithmetic.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
};

use millrace_placement::{
    Broker, BrokerState, Cluster, Options, Partition, Plan, RackPolicy, Reassignment, create_partitions,
};
use proptest::prelude::*;
use uuid::Uuid;

/// Balance exactly, not only within some percent.
pub const EXACT: Options = Options {
    racks: RackPolicy::Spread,
    tolerance_percent: 0,
    bytes: millrace_placement::ByteGoal::Share,
    max_disk_percent: 85,
};

pub fn topic(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Active brokers 0, 1, ... in these racks; `-` is none.
pub fn brokers(racks: &[&str]) -> Vec<Broker> {
    let place = |(id, rack): (i32, &&str)| match *rack {
        "-" => Broker::new(id),
        rack => Broker::new(id).with_rack(rack),
    };
    (0..).zip(racks).map(place).collect()
}

/// A cluster whose partitions are where they would be created, topic by topic: (partitions, factor, bytes).
pub fn created(brokers: Vec<Broker>, topics: &[(usize, usize, u64)]) -> Cluster {
    let mut cluster = Cluster::new(brokers.clone(), vec![]).unwrap();
    for (number, (partitions, factor, bytes)) in (1u128..).zip(topics) {
        let placed = create_partitions(&cluster, topic(number), *partitions, *factor, &EXACT).unwrap();
        let new = (0..).zip(placed.replicas);
        let new = new.map(|(at, replicas)| Partition::new(topic(number), at, replicas, *bytes));
        let all = cluster.partitions().iter().cloned().chain(new).collect();
        cluster = Cluster::new(brokers.clone(), all).unwrap();
    }
    cluster
}

/// The cluster with other brokers.
pub fn with_brokers(cluster: &Cluster, brokers: Vec<Broker>) -> Cluster {
    Cluster::new(brokers, cluster.partitions().to_vec()).unwrap()
}

/// The cluster with `states` for some brokers.
pub fn with_states(cluster: &Cluster, states: &[(i32, BrokerState)]) -> Cluster {
    let mut brokers = cluster.brokers().to_vec();
    for (id, state) in states {
        brokers.iter_mut().find(|broker| broker.id == *id).unwrap().state = *state;
    }
    with_brokers(cluster, brokers)
}

pub fn loads(cluster: &Cluster) -> BTreeMap<i32, usize> {
    let mut loads: BTreeMap<i32, usize> = cluster.brokers().iter().map(|broker| (broker.id, 0)).collect();
    for id in cluster.partitions().iter().flat_map(|partition| &partition.replicas) {
        *loads.get_mut(id).unwrap() += 1;
    }
    loads
}

pub fn leaders(cluster: &Cluster) -> BTreeMap<i32, usize> {
    let mut leaders: BTreeMap<i32, usize> = cluster.brokers().iter().map(|broker| (broker.id, 0)).collect();
    for partition in cluster.partitions() {
        *leaders.get_mut(&partition.replicas[0]).unwrap() += 1;
    }
    leaders
}

/// Greatest less least.
pub fn difference(counts: impl IntoIterator<Item = usize>) -> usize {
    let counts: Vec<usize> = counts.into_iter().collect();
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

pub fn squares(counts: impl IntoIterator<Item = usize>) -> usize {
    counts.into_iter().map(|count| count * count).sum()
}

/// Replicas by rack, the unknown one as none.
pub fn by_rack(cluster: &Cluster, replicas: &[i32]) -> BTreeMap<Option<String>, usize> {
    let mut racks = BTreeMap::new();
    for id in replicas {
        *racks.entry(cluster.broker(*id).unwrap().rack.clone()).or_default() += 1;
    }
    racks
}

/// The replicas that are sure to be left when the rack that hurts most is lost: one of unknown rack is sure of nothing.
pub fn survivors(cluster: &Cluster, replicas: &[i32]) -> usize {
    let racks = by_rack(cluster, replicas);
    let known = racks.iter().filter(|(rack, _)| rack.is_some()).map(|(_, count)| *count);
    let (sum, most) = known.fold((0, 0), |(sum, most), count| (sum + count, count.max(most)));
    sum - most
}

/// Whether no replica could go from a rack that has two or more of the partition's than another to that other one, which has
/// brokers that stay and do not hold it. All racks are known.
pub fn is_even(cluster: &Cluster, replicas: &[i32]) -> bool {
    let counts = by_rack(cluster, replicas);
    let stays = |broker: &&Broker| !broker.state.is_leaving();
    let mut sizes: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for broker in cluster.brokers().iter().filter(stays) {
        *sizes.entry(broker.rack.clone()).or_default() += 1;
    }
    let count = |rack: &Option<String>| counts.get(rack).copied().unwrap_or(0);
    sizes.keys().all(|from| {
        let better = |to: &Option<String>, size: usize| count(to) < size && count(from) >= count(to) + 2;
        count(from) <= sizes[from] && !sizes.iter().any(|(to, size)| better(to, *size))
    })
}

/// What every plan must keep to.
pub fn check(cluster: &Cluster, plan: &Plan) {
    let mut names = BTreeSet::new();
    for Reassignment {
        partition,
        from,
        to,
        bytes,
    } in &plan.reassignments
    {
        assert!(names.insert(*partition), "{partition} twice");
        let known = cluster
            .partitions()
            .iter()
            .find(|known| known.id == *partition)
            .unwrap();
        assert_eq!(&known.replicas, from);
        assert_ne!(from, to);
        let distinct: BTreeSet<i32> = to.iter().copied().collect();
        assert_eq!(distinct.len(), to.len(), "{to:?}");
        assert!(!to.is_empty());
        let added: Vec<i32> = to.iter().copied().filter(|id| !from.contains(id)).collect();
        for id in &added {
            assert_eq!(
                cluster.broker(*id).unwrap().state,
                BrokerState::Active,
                "{id} gets a replica"
            );
        }
        assert_eq!(*bytes, known.bytes * added.len() as u64);
    }
    assert!(plan.reassignments.is_sorted_by_key(|change| change.partition));
    check_disks(cluster, plan);
}

/// Every broker that gets something has room for all it gets before anything leaves it.
fn check_disks(cluster: &Cluster, plan: &Plan) {
    for (id, onto) in plan.bytes_onto() {
        let held = cluster
            .partitions()
            .iter()
            .filter(|partition| partition.replicas.contains(&id));
        let held: u64 = held.map(|partition| partition.bytes).sum();
        if let Some(disk) = cluster.broker(id).unwrap().disk_bytes {
            assert!(held + onto <= disk * 85 / 100, "broker {id}: {held} + {onto} of {disk}");
        }
    }
}

/// For plans that keep the number of replicas: positions are kept, and no state on the way is worse spread than the one
/// before it. The states on the way are the old replicas, old and new together, and the new ones.
pub fn check_moves(cluster: &Cluster, plan: &Plan) {
    check(cluster, plan);
    for change in &plan.reassignments {
        assert_eq!(change.from.len(), change.to.len());
        for (from, to) in change.from.iter().zip(&change.to) {
            assert!(from == to || !change.from.contains(to), "{change:?} reorders");
        }
        let mut both = change.from.clone();
        both.extend(change.added());
        let before = survivors(cluster, &change.from);
        assert!(survivors(cluster, &both) >= before, "{change:?}");
        assert!(survivors(cluster, &change.to) >= before, "{change:?}");
    }
}

/// The same cluster, given in another order.
pub fn shuffled(cluster: &Cluster) -> Cluster {
    let mut brokers = cluster.brokers().to_vec();
    let mut partitions = cluster.partitions().to_vec();
    brokers.reverse();
    partitions.reverse();
    let middle = partitions.len() / 2;
    partitions.rotate_left(middle);
    Cluster::new(brokers, partitions).unwrap()
}

/// So many cases, however many draws do not fit a property's conditions.
pub fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        max_global_rejects: 1_000_000,
        failure_persistence: None,
        ..ProptestConfig::with_cases(count)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Brokers may have no rack.
    pub unknown_racks: bool,
    /// Brokers may be in any state and have any weight; all are active and equal otherwise.
    pub mixed: bool,
    /// Partitions have different sizes; all the same otherwise.
    pub sizes: bool,
}

pub const PLAIN: Shape = Shape {
    unknown_racks: false,
    mixed: false,
    sizes: false,
};
pub const WILD: Shape = Shape {
    unknown_racks: true,
    mixed: true,
    sizes: true,
};

/// Clusters with replicas anywhere: 2 to 8 brokers in 1 to 4 racks of any sizes, up to 30 partitions of up to 3 topics.
pub fn clusters(shape: Shape) -> impl Strategy<Value = Cluster> {
    let rack = (0u8..4, prop::bool::weighted(0.2));
    let state = prop_oneof![
        6 => Just(BrokerState::Active),
        1 => Just(BrokerState::Cordoned),
        1 => Just(BrokerState::Draining),
        1 => Just(BrokerState::Fenced),
        1 => Just(BrokerState::Gone),
    ];
    let broker = (rack, state, 1u16..4);
    let partition = (0u128..3, any::<u64>(), 0u64..1000);
    let factors = prop::array::uniform3(1usize..5);
    let parts = prop::collection::vec(partition, 0..30);
    (prop::collection::vec(broker, 2..9), 1u8..5, factors, parts).prop_map(move |(drawn, racks, factors, parts)| {
        let brokers: Vec<Broker> = (0..)
            .zip(drawn)
            .map(|(id, ((rack, unknown), state, weight))| {
                let mut broker = Broker::new(id);
                if !(shape.unknown_racks && unknown) {
                    broker = broker.with_rack(format!("r{}", rack % racks));
                }
                if shape.mixed {
                    broker = broker.with_state(state).with_weight(NonZeroU16::new(weight).unwrap());
                }
                broker
            })
            .collect();
        let partitions = (0..)
            .zip(parts)
            .map(|(number, (name, seed, bytes))| {
                let factor = factors[name as usize].min(brokers.len());
                let mut order: Vec<i32> = (0..brokers.len() as i32).collect();
                // A permutation drawn from the seed.
                order.sort_by_key(|id| seed.rotate_left(*id as u32 * 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8);
                order.truncate(factor);
                let bytes = if shape.sizes { bytes } else { 100 };
                Partition::new(topic(name), number, order, bytes)
            })
            .collect();
        Cluster::new(brokers, partitions).unwrap()
    })
}
