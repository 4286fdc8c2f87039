//! What planning costs on a large cluster, in steps that do not depend on the machine.

use std::collections::BTreeMap;

use millrace_placement::{
    BrokerState, Cluster, Options, Partition, Plan, add_brokers, balance_leaders, change_replication_factor,
    drain_brokers, repair_racks,
};

use crate::model::{EXACT, brokers, check, created, difference, loads, topic, with_brokers, with_states};

const PARTITIONS: usize = 10_000;
const BROKERS: usize = 100;

/// Steps for each replica that is looked at: a broker, or a replica, compared once.
const STEPS_PER_REPLICA: u64 = 150;

fn racks(count: usize) -> Vec<&'static str> {
    (0..count).map(|at| ["a", "b", "c"][at % 3]).collect()
}

fn large(count: usize) -> Cluster {
    created(
        brokers(&racks(count)),
        &[(PARTITIONS / 2, 3, 10), (PARTITIONS / 2, 3, 20)],
    )
}

fn bounded(what: &str, plan: &Plan) {
    let bound = STEPS_PER_REPLICA * 3 * PARTITIONS as u64;
    assert!(plan.steps <= bound, "{what}: {} steps", plan.steps);
    assert!(!plan.is_empty(), "{what} had nothing to do");
}

#[test]
fn work_is_bounded_by_the_clusters_size() {
    let cluster = large(BROKERS);

    let leaving: Vec<(i32, BrokerState)> = (90..100).map(|id| (id, BrokerState::Draining)).collect();
    let draining = with_states(&cluster, &leaving);
    let plan = drain_brokers(&draining, &EXACT).unwrap();
    bounded("drain", &plan);
    check(&draining, &plan);
    let drained = loads(&draining.after(&plan));
    assert!(difference(drained.range(..90).map(|(_, load)| *load)) <= 1);

    for options in [EXACT, Options::default()] {
        let before = large(90);
        let grown = with_brokers(&before, brokers(&racks(BROKERS)));
        let new: Vec<i32> = (90..100).collect();
        let plan = add_brokers(&grown, &new, &options).unwrap();
        bounded("add", &plan);
        let after = grown.after(&plan);
        assert!(add_brokers(&after, &new, &options).unwrap().is_empty());
    }

    // Every seventh broker turns out to be in rack a.
    let mut moved = racks(BROKERS);
    moved.iter_mut().step_by(7).for_each(|rack| *rack = "a");
    let misplaced = with_brokers(&cluster, brokers(&moved));
    let plan = repair_racks(&misplaced, &EXACT).unwrap();
    bounded("repair", &plan);
    assert!(repair_racks(&misplaced.after(&plan), &EXACT).unwrap().is_empty());

    // The lowest number leads wherever it can.
    let sorted = cluster.partitions().iter().map(|partition| {
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        Partition::new(partition.id.topic, partition.id.partition, replicas, partition.bytes)
    });
    let skewed = Cluster::new(cluster.brokers().to_vec(), sorted.collect()).unwrap();
    bounded("leaders", &balance_leaders(&skewed));

    for factor in [2, 4] {
        let factors = BTreeMap::from([(topic(1), factor), (topic(2), factor)]);
        let plan = change_replication_factor(&cluster, &factors, &EXACT).unwrap();
        bounded("factor", &plan);
        let after = cluster.after(&plan);
        assert!(difference(loads(&after).into_values()) <= 2, "{:?}", loads(&after));
    }
}
