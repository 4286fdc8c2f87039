use std::collections::BTreeMap;

use millrace_placement::{
    BrokerState, Cluster, Partition, Plan, balance_leaders, change_replication_factor, drain_brokers, repair_racks,
};
use proptest::prelude::*;

use crate::model::{
    EXACT, Shape, WILD, brokers, cases, check, clusters, created, difference, leaders, topic, with_states,
};

type Planner = fn(&Cluster, &BTreeMap<uuid::Uuid, usize>) -> Option<Plan>;

#[test]
fn a_drain_and_its_leaders_are_one_plan() {
    let cluster = created(brokers(&["a", "b", "c", "a", "b", "c"]), &[(30, 3, 10)]);
    let cluster = with_states(&cluster, &[(3, BrokerState::Draining)]);
    let drain = drain_brokers(&cluster, &EXACT).unwrap();
    let lead = balance_leaders(&cluster.after(&drain));
    let moved = drain.replicas_moved();
    let both = drain.then(lead);
    check(&cluster, &both);
    assert_eq!((both.replicas_moved(), both.bytes()), (moved, 10 * moved as u64));
    let mut counts = leaders(&cluster.after(&both));
    assert_eq!(counts.remove(&3), Some(0));
    assert_eq!(difference(counts.into_values()), 0);
}

#[test]
fn there_and_back_is_nothing() {
    let all = vec![Partition::new(topic(1), 0, vec![0], 10)];
    let cluster = Cluster::new(brokers(&["-", "-"]), all).unwrap();
    let there = drain_brokers(&with_states(&cluster, &[(0, BrokerState::Draining)]), &EXACT).unwrap();
    let after = with_states(&cluster.after(&there), &[(1, BrokerState::Draining)]);
    let back = drain_brokers(&after, &EXACT).unwrap();
    assert_eq!((there.bytes(), back.bytes()), (10, 10));
    assert!(there.then(back).is_empty());
}

#[test]
fn bytes_are_those_that_each_broker_gets() {
    let all = vec![
        Partition::new(topic(1), 0, vec![0], 10),
        Partition::new(topic(1), 1, vec![0], 7),
    ];
    let cluster = Cluster::new(brokers(&["-"; 3]), all).unwrap();
    let factors = BTreeMap::from([(topic(1), 3)]);
    let plan = change_replication_factor(&cluster, &factors, &EXACT).unwrap();
    assert_eq!(plan.bytes(), 34);
    assert_eq!(plan.bytes_onto(), BTreeMap::from([(1, 17), (2, 17)]));
}

proptest! {
    #![proptest_config(cases(400))]

    /// One plan after the other ends where both joined do, and the joined one never copies more.
    #[test]
    fn joined_plans_end_where_both_do(cluster in clusters(Shape { unknown_racks: false, ..WILD }), factor in 1usize..4) {
        let names: Vec<_> = cluster.partitions().iter().map(|partition| partition.id.topic).collect();
        let factors: BTreeMap<_, _> = names.into_iter().map(|name| (name, factor)).collect();
        let plans: [Planner; 4] = [
            |cluster, _| drain_brokers(cluster, &EXACT).ok(),
            |cluster, _| repair_racks(cluster, &EXACT).ok(),
            |cluster, factors| change_replication_factor(cluster, factors, &EXACT).ok(),
            |cluster, _| Some(balance_leaders(cluster)),
        ];
        for first in plans {
            for second in plans {
                let Some(one) = first(&cluster, &factors) else { continue };
                let Some(two) = second(&cluster.after(&one), &factors) else { continue };
                let both = one.clone().then(two.clone());
                check(&cluster, &both);
                prop_assert!(both.bytes() <= one.bytes() + two.bytes());
                let lists = |cluster: &Cluster| cluster.partitions().iter().map(|partition| partition.replicas.clone()).collect::<Vec<_>>();
                prop_assert_eq!(lists(&cluster.after(&both)), lists(&cluster.after(&one).after(&two)));
            }
        }
    }
}
