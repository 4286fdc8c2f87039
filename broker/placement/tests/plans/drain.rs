use std::collections::{BTreeMap, BTreeSet};

use millrace_placement::{
    BlockReason, Broker, BrokerState, Cluster, Notice, Options, Partition, PlanError, RackPolicy, drain_brokers,
};
use proptest::prelude::*;

use crate::model::{
    EXACT, PLAIN, WILD, brokers, cases, check, check_moves, clusters, created, difference, is_even, leaders, loads,
    shuffled, squares, survivors, topic, with_states,
};

use BrokerState::{Cordoned, Draining, Fenced, Gone};

fn on_leaving(cluster: &Cluster) -> usize {
    let leaving = |id: &&i32| cluster.broker(**id).unwrap().state.is_leaving();
    let replicas = cluster.partitions().iter().flat_map(|partition| &partition.replicas);
    replicas.filter(leaving).count()
}

fn stay(cluster: &Cluster) -> Vec<usize> {
    let loads = loads(cluster);
    let staying = cluster
        .brokers()
        .iter()
        .filter(|broker| broker.state == BrokerState::Active);
    staying.map(|broker| loads[&broker.id]).collect()
}

#[test]
fn what_leaves_moves_and_nothing_else() {
    let racks = ["a", "b", "c", "a", "b", "c", "a", "b", "c"];
    for factor in [1, 2, 3] {
        let cluster = created(brokers(&racks), &[(30, factor, 10), (7, factor, 10)]);
        let cluster = with_states(&cluster, &[(6, Draining), (7, Draining), (8, Gone)]);
        let plan = drain_brokers(&cluster, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        assert_eq!(plan.replicas_moved(), on_leaving(&cluster));
        let after = cluster.after(&plan);
        assert_eq!(on_leaving(&after), 0);
        assert!(difference(stay(&after)) <= 1, "{:?}", stay(&after));
        assert!(
            after
                .partitions()
                .iter()
                .all(|partition| is_even(&after, &partition.replicas))
        );
        assert!(drain_brokers(&after, &EXACT).unwrap().is_empty());
    }
}

#[test]
fn a_whole_rack_leaves() {
    let cluster = created(brokers(&["a", "b", "c", "a", "b", "c"]), &[(24, 3, 10)]);
    let cluster = with_states(&cluster, &[(2, Draining), (5, Draining)]);
    let plan = drain_brokers(&cluster, &EXACT).unwrap();
    check(&cluster, &plan);
    let after = cluster.after(&plan);
    assert_eq!(stay(&after), [18; 4]);
    assert!(plan.notices.contains(&Notice::TooFewRacks {
        replication_factor: 3,
        racks: 2
    }));
    let strict = Options {
        racks: RackPolicy::OnePerRack,
        ..EXACT
    };
    assert_eq!(
        drain_brokers(&cluster, &strict).unwrap_err(),
        PlanError::TooFewRacks { wanted: 3, racks: 2 }
    );
}

#[test]
fn every_partition_with_too_few_brokers_is_named() {
    let cluster = created(brokers(&["a", "b", "c"]), &[(2, 3, 10), (2, 2, 10)]);
    let cluster = with_states(&cluster, &[(0, Draining)]);
    let PlanError::Blocked(blocked) = drain_brokers(&cluster, &EXACT).unwrap_err() else {
        panic!("not blocked");
    };
    assert_eq!(blocked.len(), 2);
    for blocked in blocked {
        assert_eq!(blocked.partition.topic, topic(1));
        assert_eq!(blocked.reason, BlockReason::TooFewBrokers { wanted: 3, usable: 2 });
        assert!(blocked.to_string().contains("lower the replication factor"));
    }
}

#[test]
fn a_cordoned_rack_blocks_a_drain_but_not_a_repair() {
    let cluster = created(brokers(&["a", "a", "b", "b"]), &[(8, 2, 10)]);
    let cluster = with_states(&cluster, &[(2, Draining), (3, Cordoned)]);
    let PlanError::Blocked(blocked) = drain_brokers(&cluster, &EXACT).unwrap_err() else {
        panic!("not blocked");
    };
    assert_eq!(blocked.len(), 4);
    assert!(blocked.iter().all(|blocked| blocked.reason == BlockReason::RackSpread));
    // What is gone must be replaced wherever there is place.
    let cluster = with_states(&cluster, &[(2, Gone)]);
    let plan = drain_brokers(&cluster, &EXACT).unwrap();
    check(&cluster, &plan);
    assert_eq!(plan.replicas_moved(), 4);
    assert!(
        plan.notices
            .iter()
            .any(|notice| matches!(notice, Notice::NotSpread { partitions: 4, .. }))
    );
}

#[test]
fn full_disks_block_and_room_is_used() {
    let partition = |number, broker, bytes| Partition::new(topic(1), number, vec![broker], bytes);
    let with_disks = |first: u64, second: u64| {
        let listed = vec![
            Broker::new(0).with_state(Draining),
            Broker::new(1).with_disk_bytes(first),
            Broker::new(2).with_disk_bytes(second),
        ];
        Cluster::new(
            listed,
            vec![partition(0, 0, 400), partition(1, 0, 300), partition(2, 1, 100)],
        )
        .unwrap()
    };
    // 85 % of 1000 hold the 100 of broker 1 and both others, but loads say one each.
    let cluster = with_disks(1000, 1000);
    check_moves(&cluster, &drain_brokers(&cluster, &EXACT).unwrap());
    // Broker 2 has room for neither.
    let cluster = with_disks(1000, 300);
    let plan = drain_brokers(&cluster, &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(plan.bytes_onto().into_iter().collect::<Vec<_>>(), [(1, 700)]);
    let PlanError::Blocked(blocked) = drain_brokers(&with_disks(600, 300), &EXACT).unwrap_err() else {
        panic!("not blocked");
    };
    assert_eq!(blocked.len(), 1);
    assert_eq!(
        blocked[0].reason,
        BlockReason::DiskFull {
            bytes: 300,
            max_disk_percent: 85
        }
    );
}

#[test]
fn bytes_come_out_even_as_well() {
    let partition = |number: u32| Partition::new(topic(1), number, vec![0], u64::from(number + 1));
    let cluster = Cluster::new(brokers(&["-"; 4]), (0..30).map(partition).collect()).unwrap();
    let plan = drain_brokers(&with_states(&cluster, &[(0, Draining)]), &EXACT).unwrap();
    let onto: Vec<u64> = plan.bytes_onto().into_values().collect();
    assert_eq!(onto, [155, 155, 155]);
}

#[test]
fn the_place_in_the_list_is_kept() {
    let cluster = Cluster::new(
        brokers(&["a", "b", "c", "a"]),
        vec![Partition::new(topic(1), 0, vec![0, 1, 2], 5)],
    )
    .unwrap();
    let plan = drain_brokers(&with_states(&cluster, &[(0, Draining)]), &EXACT).unwrap();
    assert_eq!(plan.reassignments[0].to, [3, 1, 2]);
    assert_eq!(plan.reassignments[0].bytes, 5);
}

#[test]
fn fenced_brokers_keep_what_they_have() {
    let cluster = created(brokers(&["a", "b", "c", "a", "b", "c"]), &[(12, 3, 10)]);
    let cluster = with_states(&cluster, &[(0, Fenced), (1, Fenced), (2, Cordoned)]);
    assert!(drain_brokers(&cluster, &EXACT).unwrap().is_empty());
}

/// The lowest sum of squares over all ways to replace the replicas on the one leaving broker with an even spread.
fn exact(cluster: &Cluster) -> usize {
    let count = cluster.brokers().len();
    let mut sums: BTreeSet<Vec<usize>> = BTreeSet::from([vec![0; count]]);
    for partition in cluster.partitions() {
        let mut next = BTreeSet::new();
        let leaves = |id: &i32| cluster.broker(*id).unwrap().state.is_leaving();
        let mut lists = vec![partition.replicas.clone()];
        if let Some(at) = partition.replicas.iter().position(leaves) {
            let free = |id: &i32| !partition.replicas.contains(id);
            let replace = |id: i32| {
                let mut list = partition.replicas.clone();
                list[at] = id;
                list
            };
            lists = (0..count as i32).filter(free).map(replace).collect();
            lists.retain(|list| is_even(cluster, list));
        }
        for sum in &sums {
            for list in &lists {
                let mut sum = sum.clone();
                list.iter().for_each(|id| sum[*id as usize] += 1);
                next.insert(sum);
            }
        }
        sums = next;
    }
    sums.into_iter().map(squares).min().unwrap()
}

proptest! {
    #![proptest_config(cases(400))]

    /// As even as the best of all ways to drain one broker, on small clusters with racks of any sizes.
    #[test]
    fn no_more_even_plan_exists(
        racks in prop::collection::vec(0u8..3, 2..6),
        partitions in 1usize..9,
        factor in 1usize..4,
        pick in any::<prop::sample::Index>(),
    ) {
        let factor = factor.min(racks.len() - 1);
        let listed = (0..).zip(&racks).map(|(id, rack)| Broker::new(id).with_rack(format!("r{rack}")));
        let cluster = created(listed.collect(), &[(partitions, factor, 10)]);
        let cluster = with_states(&cluster, &[(pick.index(racks.len()) as i32, Draining)]);
        let plan = drain_brokers(&cluster, &EXACT).unwrap();
        check(&cluster, &plan);
        prop_assert_eq!(plan.replicas_moved(), on_leaving(&cluster));
        let after = cluster.after(&plan);
        prop_assert!(after.partitions().iter().all(|partition| is_even(&after, &partition.replicas)));
        prop_assert_eq!(squares(loads(&after).into_values()), exact(&cluster));
    }

    #[test]
    fn holds_for_any_cluster(cluster in clusters(WILD)) {
        let answer = drain_brokers(&cluster, &EXACT);
        prop_assert_eq!(&answer, &drain_brokers(&shuffled(&cluster), &EXACT));
        let state = |id: i32| cluster.broker(id).unwrap().state;
        let plan = match answer {
            Ok(plan) => plan,
            Err(PlanError::Blocked(blocked)) => {
                // Each has something to move, and too few brokers or none in the right racks.
                for blocked in blocked {
                    let found = cluster.partitions().iter().find(|partition| partition.id == blocked.partition);
                    let replicas = &found.unwrap().replicas;
                    prop_assert!(replicas.iter().any(|id| state(*id).is_leaving()));
                    let keep = replicas.iter().filter(|id| !state(**id).is_leaving()).count();
                    let free = cluster.brokers().iter().filter(|broker| broker.state.is_target() && !replicas.contains(&broker.id)).count();
                    match blocked.reason {
                        BlockReason::TooFewBrokers { wanted, usable } => {
                            prop_assert_eq!((wanted, usable), (replicas.len(), keep + free));
                            prop_assert!(usable < wanted);
                        }
                        reason => prop_assert_eq!(reason, BlockReason::RackSpread),
                    }
                }
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        check(&cluster, &plan);
        prop_assert_eq!(plan.replicas_moved(), on_leaving(&cluster));
        let after = cluster.after(&plan);
        prop_assert_eq!(on_leaving(&after), 0);
        for change in &plan.reassignments {
            for (from, to) in change.from.iter().zip(&change.to) {
                prop_assert!(from == to || state(*from).is_leaving());
            }
            // Only where a rack keeps too few brokers for its share can the loss of one hurt more.
            let mut staying = BTreeMap::new();
            for broker in cluster.brokers() {
                *staying.entry(broker.rack.clone()).or_insert(0) += usize::from(broker.state.is_target());
            }
            let enough = staying.iter().all(|(rack, brokers)| rack.is_some() && *brokers >= change.from.len());
            if enough {
                prop_assert!(survivors(&cluster, &change.to) >= survivors(&cluster, &change.from));
            }
        }
        prop_assert!(drain_brokers(&after, &EXACT).unwrap().is_empty());
    }

    /// Where every rack keeps brokers enough for its share, no state on the way is worse spread.
    #[test]
    fn the_spread_is_kept(cluster in clusters(PLAIN), pick in any::<prop::sample::Index>()) {
        let id = pick.index(cluster.brokers().len()) as i32;
        let leaves = cluster.broker(id).unwrap().rack.clone();
        let others = cluster.brokers().iter().filter(|broker| broker.rack == leaves && broker.id != id).count();
        let most = cluster.partitions().iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
        prop_assume!(others >= most && most < cluster.brokers().len());
        let cluster = with_states(&cluster, &[(id, Draining)]);
        let plan = drain_brokers(&cluster, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        prop_assert_eq!(leaders(&cluster.after(&plan))[&id], 0);
    }
}
