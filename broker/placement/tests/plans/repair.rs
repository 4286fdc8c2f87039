use millrace_placement::{
    BlockReason, BrokerState, Cluster, Notice, Options, Partition, PlanError, RackPolicy, drain_brokers, repair_racks,
};
use proptest::prelude::*;

use crate::model::{
    EXACT, PLAIN, Shape, WILD, brokers, by_rack, cases, check_moves, clusters, difference, is_even, loads, shuffled,
    topic, with_states,
};

const STRICT: Options = Options {
    racks: RackPolicy::OnePerRack,
    ..EXACT
};

#[test]
fn a_rack_that_was_added_gets_one_of_each() {
    let partition = |number: u32| {
        let three = [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]][number as usize % 4];
        Partition::new(topic(1), number, three.to_vec(), 10)
    };
    let listed = brokers(&["a", "a", "b", "b", "c", "c"]);
    let cluster = Cluster::new(listed, (0..24).map(partition).collect()).unwrap();
    let plan = repair_racks(&cluster, &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(plan.replicas_moved(), 24, "one of each, from the rack that has two");
    let after = cluster.after(&plan);
    assert!(
        after
            .partitions()
            .iter()
            .all(|partition| is_even(&after, &partition.replicas))
    );
    assert_eq!(difference(loads(&after).into_values()), 0);
    assert!(
        plan.reassignments.iter().all(|change| change.from[0] == change.to[0]),
        "followers can go"
    );
    assert!(repair_racks(&after, &STRICT).unwrap().is_empty());
}

#[test]
fn without_racks_there_is_nothing_to_mend() {
    for rack in ["-", "a"] {
        let all = vec![Partition::new(topic(1), 0, vec![0, 1, 2], 10)];
        let cluster = Cluster::new(brokers(&[rack; 4]), all).unwrap();
        assert!(repair_racks(&cluster, &EXACT).unwrap().is_empty());
    }
}

#[test]
fn a_replica_of_unknown_rack_gives_way_to_a_known_one() {
    let all = vec![Partition::new(topic(1), 0, vec![0, 1, 3], 10)];
    let cluster = Cluster::new(brokers(&["a", "b", "c", "-"]), all).unwrap();
    let plan = repair_racks(&cluster, &EXACT).unwrap();
    assert_eq!(plan.reassignments[0].to, [0, 1, 2]);
    assert!(plan.notices.contains(&Notice::UnknownRack { brokers: vec![3] }));
    // With two racks it can't be worse than two and one, which is as good as it gets.
    let all = vec![Partition::new(topic(1), 0, vec![0, 1, 3], 10)];
    let cluster = Cluster::new(brokers(&["a", "b", "b", "-"]), all).unwrap();
    assert!(repair_racks(&cluster, &EXACT).unwrap().is_empty());
}

#[test]
fn what_can_not_be_mended_is_told_or_refused() {
    let all = vec![Partition::new(topic(1), 0, vec![0, 1], 10)];
    let cluster = Cluster::new(brokers(&["a", "a", "b"]), all).unwrap();
    let cluster = with_states(&cluster, &[(2, BrokerState::Fenced)]);
    let plan = repair_racks(&cluster, &EXACT).unwrap();
    assert!(plan.is_empty());
    assert!(
        matches!(plan.notices[0], Notice::NotSpread { partitions: 1, .. }),
        "{:?}",
        plan.notices
    );
    let PlanError::Blocked(blocked) = repair_racks(&cluster, &STRICT).unwrap_err() else {
        panic!("not blocked");
    };
    assert_eq!(blocked[0].reason, BlockReason::RackSpread);
}

#[test]
fn what_a_drain_moves_is_left_to_it() {
    // Rack a has two, but one of them is gone: a repair could move only the live one, and the drain has to move
    // the other anyway.
    let all = vec![Partition::new(topic(1), 0, vec![0, 1, 2], 10)];
    let cluster = Cluster::new(brokers(&["a", "a", "b", "c"]), all).unwrap();
    let cluster = with_states(&cluster, &[(1, BrokerState::Gone)]);
    assert!(repair_racks(&cluster, &EXACT).unwrap().is_empty());
    let drain = drain_brokers(&cluster, &EXACT).unwrap();
    assert_eq!(drain.reassignments[0].to, [0, 3, 2]);
}

#[test]
fn what_was_mended_first_makes_place_for_the_next() {
    // Both need a replica in rack b; the first could be on 2 or 3, the second has room on 2 only.
    let all = vec![
        Partition::new(topic(1), 0, vec![0, 1], 1),
        Partition::new(topic(1), 1, vec![0, 1], 1000),
    ];
    let mut listed = brokers(&["a", "a", "b", "b"]);
    listed[3] = listed[3].clone().with_disk_bytes(100);
    let cluster = Cluster::new(listed, all).unwrap();
    let plan = repair_racks(&cluster, &EXACT).unwrap();
    check_moves(&cluster, &plan);
    let after = loads(&cluster.after(&plan));
    assert_eq!((after[&2], after[&3]), (1, 1));
}

#[test]
fn a_restarting_rack_is_still_a_rack() {
    // Else its replicas would be one too many, and the next ones were put beside those of the others.
    let all = vec![Partition::new(topic(1), 0, vec![0, 2, 4], 10)];
    let cluster = Cluster::new(brokers(&["a", "a", "b", "b", "c"]), all).unwrap();
    let cluster = with_states(&cluster, &[(4, BrokerState::Fenced)]);
    assert!(repair_racks(&cluster, &EXACT).unwrap().is_empty());
}

/// The replicas that must change racks: the most even counts, reached by taking from the fullest and giving to the
/// emptiest rack that has a broker left.
fn fewest_moves(cluster: &Cluster, replicas: &[i32]) -> usize {
    let mut counts = by_rack(cluster, replicas);
    let mut sizes = std::collections::BTreeMap::new();
    for broker in cluster.brokers() {
        *sizes.entry(broker.rack.clone()).or_insert(0) += 1;
        counts.entry(broker.rack.clone()).or_insert(0);
    }
    let mut moves = 0;
    loop {
        let (full, most) = counts
            .iter()
            .map(|(rack, count)| (rack.clone(), *count))
            .max_by_key(|(_, count)| *count)
            .unwrap();
        let room = counts.iter().filter(|(rack, count)| **count < sizes[*rack]);
        let Some((empty, least)) = room
            .map(|(rack, count)| (rack.clone(), *count))
            .min_by_key(|(_, count)| *count)
        else {
            return moves;
        };
        if most < least + 2 {
            return moves;
        }
        *counts.get_mut(&full).unwrap() -= 1;
        *counts.get_mut(&empty).unwrap() += 1;
        moves += 1;
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn all_is_even_in_the_fewest_moves(cluster in clusters(Shape { sizes: true, ..PLAIN })) {
        let plan = repair_racks(&cluster, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        let after = cluster.after(&plan);
        for partition in after.partitions() {
            prop_assert!(is_even(&after, &partition.replicas), "{:?}", partition.replicas);
        }
        let least: usize = cluster.partitions().iter().map(|partition| fewest_moves(&cluster, &partition.replicas)).sum();
        prop_assert_eq!(plan.replicas_moved(), least);
    }

    #[test]
    fn holds_for_any_cluster(cluster in clusters(WILD)) {
        let plan = repair_racks(&cluster, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        prop_assert_eq!(&plan, &repair_racks(&shuffled(&cluster), &EXACT).unwrap());
        for change in &plan.reassignments {
            for id in change.removed() {
                let state = cluster.broker(id).unwrap().state;
                prop_assert!(matches!(state, BrokerState::Active | BrokerState::Cordoned));
            }
        }
        prop_assert!(repair_racks(&cluster.after(&plan), &EXACT).unwrap().is_empty());
    }
}
