use std::num::NonZeroU16;

use millrace_placement::{
    Broker, BrokerState, Cluster, Notice, Options, Partition, PlanError, RackPolicy, create_partitions,
};
use proptest::prelude::*;

use crate::{
    flow::can_place,
    model::{
        EXACT, PLAIN, WILD, brokers, by_rack, cases, clusters, created, difference, is_even, leaders, loads, shuffled,
        topic,
    },
};

fn create(brokers: Vec<Broker>, partitions: usize, factor: usize) -> Cluster {
    created(brokers, &[(partitions, factor, 0)])
}

#[test]
fn equal_racks_get_equal_loads() {
    for (racks, factor) in [(3, 3), (3, 2), (3, 1), (2, 3), (1, 3), (4, 3), (3, 6), (3, 5)] {
        let names = ["a", "b", "c", "d"];
        let listed: Vec<&str> = (0..racks * 3).map(|at| names[at % racks]).collect();
        let cluster = create(brokers(&listed), 50, factor);
        assert!(
            difference(loads(&cluster).into_values()) <= 1,
            "{racks} racks, {factor} replicas"
        );
        assert!(difference(leaders(&cluster).into_values()) <= 1);
        for partition in cluster.partitions() {
            assert!(is_even(&cluster, &partition.replicas));
        }
    }
}

#[test]
fn without_racks_any_broker_will_do() {
    let cluster = create(brokers(&["-"; 5]), 20, 3);
    assert_eq!(difference(loads(&cluster).into_values()), 0);
    let placed = create_partitions(&cluster, topic(9), 5, 3, &EXACT).unwrap();
    assert_eq!(placed.notices, []);
}

#[test]
fn as_many_replicas_as_brokers() {
    let cluster = create(brokers(&["a", "a", "a", "b", "c"]), 10, 5);
    assert!(loads(&cluster).into_values().all(|load| load == 10));
    assert!(leaders(&cluster).into_values().all(|count| count == 2));
}

#[test]
fn a_small_rack_is_used_and_told() {
    let uneven = brokers(&["a", "a", "a", "b", "c"]);
    let cluster = create(uneven, 30, 3);
    let loads = loads(&cluster);
    assert_eq!(loads.into_values().collect::<Vec<_>>(), [10, 10, 10, 30, 30]);
    assert!(difference(leaders(&cluster).into_values()) <= 1);
    let plan = millrace_placement::repair_racks(&cluster, &EXACT).unwrap();
    assert!(plan.is_empty());
    let told = |rack: &str| {
        plan.notices.iter().any(
            |notice| matches!(notice, Notice::UnevenRacks { rack: small, replicas: 30, average: 18 } if small == rack),
        )
    };
    assert!(told("b") && told("c") && !told("a"), "{:?}", plan.notices);
}

#[test]
fn too_few_racks_are_told_or_refused() {
    let cluster = Cluster::new(brokers(&["a", "a", "b", "b"]), vec![]).unwrap();
    let placed = create_partitions(&cluster, topic(1), 4, 3, &EXACT).unwrap();
    assert_eq!(
        placed.notices,
        [Notice::TooFewRacks {
            replication_factor: 3,
            racks: 2
        }]
    );
    let strict = Options {
        racks: RackPolicy::OnePerRack,
        ..EXACT
    };
    let error = create_partitions(&cluster, topic(1), 4, 3, &strict).unwrap_err();
    assert_eq!(error, PlanError::TooFewRacks { wanted: 3, racks: 2 });
    assert!(error.to_string().contains("add brokers in more racks"));
    assert!(create_partitions(&cluster, topic(1), 4, 2, &strict).is_ok());
}

#[test]
fn only_active_brokers_with_room_are_used() {
    let mut listed = brokers(&["a", "b", "c", "a", "b", "c"]);
    for (id, state) in [BrokerState::Cordoned, BrokerState::Draining, BrokerState::Fenced]
        .into_iter()
        .enumerate()
    {
        listed[id].state = state;
    }
    listed[3] = listed[3].clone().with_disk_bytes(1000);
    let full = Partition::new(topic(7), 0, vec![3], 851);
    let cluster = Cluster::new(listed, vec![full]).unwrap();
    let placed = create_partitions(&cluster, topic(1), 3, 2, &EXACT).unwrap();
    assert!(
        placed.replicas.iter().flatten().all(|id| [4, 5].contains(id)),
        "{placed:?}"
    );
    assert_eq!(
        create_partitions(&cluster, topic(1), 3, 3, &EXACT).unwrap_err(),
        PlanError::TooFewBrokers { wanted: 3, usable: 2 }
    );
    assert_eq!(
        create_partitions(&cluster, topic(1), 3, 0, &EXACT).unwrap_err(),
        PlanError::NoReplicas
    );
}

#[test]
fn a_rack_that_can_not_take_replicas_is_told() {
    let mut listed = brokers(&["a", "a", "b"]);
    listed[2].state = BrokerState::Cordoned;
    let cluster = Cluster::new(listed, vec![]).unwrap();
    let placed = create_partitions(&cluster, topic(1), 4, 2, &EXACT).unwrap();
    assert!(matches!(placed.notices[..], [Notice::NotSpread { partitions: 4, .. }]));
    let strict = Options {
        racks: RackPolicy::OnePerRack,
        ..EXACT
    };
    assert_eq!(
        create_partitions(&cluster, topic(1), 4, 2, &strict).unwrap_err(),
        PlanError::RacksUnavailable
    );
}

#[test]
fn weights_are_shares() {
    let heavy = |id: i32, weight| Broker::new(id).with_weight(NonZeroU16::new(weight).unwrap());
    let cluster = create(vec![heavy(0, 1), heavy(1, 2), heavy(2, 3)], 60, 1);
    assert_eq!(loads(&cluster).into_values().collect::<Vec<_>>(), [10, 20, 30]);
}

#[test]
fn topics_created_from_one_view_do_not_all_choose_the_same_brokers() {
    let cluster = Cluster::new(brokers(&["a"; 20]), vec![]).unwrap();
    let first = |number| {
        create_partitions(&cluster, topic(number), 1, 1, &EXACT)
            .unwrap()
            .replicas[0][0]
    };
    let chosen: std::collections::BTreeSet<i32> = (0..20).map(first).collect();
    assert!(chosen.len() >= 10, "{chosen:?}");
}

#[test]
fn partitions_added_to_a_topic_go_where_it_has_fewest() {
    // Loads are equal; the topic is on 0 and 1 only.
    let partition = |name, number, broker| Partition::new(topic(name), number, vec![broker], 1);
    let all = vec![
        partition(1, 0, 0),
        partition(1, 1, 1),
        partition(2, 0, 2),
        partition(2, 1, 3),
    ];
    let cluster = Cluster::new(brokers(&["-"; 4]), all).unwrap();
    let mut placed = create_partitions(&cluster, topic(1), 2, 1, &EXACT).unwrap().replicas;
    placed.sort();
    assert_eq!(placed, [[2], [3]]);
}

proptest! {
    #![proptest_config(cases(400))]

    /// The least maximum and the greatest minimum that maximum flow finds, for any sizes of racks.
    #[test]
    fn loads_are_as_even_as_racks_allow(
        racks in prop::collection::vec(0usize..4, 1..7),
        partitions in 1usize..14,
        factor in 1usize..5,
    ) {
        let factor = factor.min(racks.len());
        let mut used = racks.clone();
        used.sort_unstable();
        used.dedup();
        let racks: Vec<usize> = racks.iter().map(|rack| used.binary_search(rack).unwrap()).collect();
        let listed = (0..).zip(&racks).map(|(id, rack)| Broker::new(id).with_rack(format!("r{rack}")));
        let cluster = create(listed.collect(), partitions, factor);
        for partition in cluster.partitions() {
            prop_assert!(is_even(&cluster, &partition.replicas), "{:?}", partition.replicas);
        }
        let counts: Vec<usize> = loads(&cluster).into_values().collect();
        let (least, most) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
        prop_assert!(can_place(&racks, partitions, factor, least, most));
        prop_assert!(most == 0 || least > most - 1 || !can_place(&racks, partitions, factor, least.min(most - 1), most - 1), "{counts:?}");
        prop_assert!(least == most || !can_place(&racks, partitions, factor, least + 1, most), "{counts:?}");
        prop_assert!(difference(leaders(&cluster).into_values()) <= 1);
    }

    #[test]
    fn added_to_what_is_there(cluster in clusters(WILD), partitions in 1usize..20, factor in 1usize..4) {
        let active = |id: &i32| cluster.broker(*id).unwrap().state == BrokerState::Active;
        let count = cluster.brokers().iter().filter(|broker| active(&broker.id)).count();
        let placed = create_partitions(&cluster, topic(1), partitions, factor, &EXACT);
        prop_assert_eq!(&placed, &create_partitions(&shuffled(&cluster), topic(1), partitions, factor, &EXACT));
        if factor > count {
            prop_assert_eq!(placed.unwrap_err(), PlanError::TooFewBrokers { wanted: factor, usable: count });
            return Ok(());
        }
        let placed = placed.unwrap();
        prop_assert_eq!(placed.replicas.len(), partitions);
        for replicas in &placed.replicas {
            let distinct: std::collections::BTreeSet<&i32> = replicas.iter().collect();
            prop_assert_eq!(distinct.len(), factor);
            prop_assert!(replicas.iter().all(active));
        }
    }

    /// New partitions fill up the brokers that have least, as far as there are enough of them.
    #[test]
    fn the_emptiest_come_first(cluster in clusters(PLAIN)) {
        let before = loads(&cluster);
        let gap: usize = before.values().map(|load| before.values().max().unwrap() - load).sum();
        let placed = create_partitions(&cluster, topic(9), gap, 1, &EXACT).unwrap();
        let mut after = before;
        for replicas in &placed.replicas {
            prop_assert_eq!(by_rack(&cluster, replicas).len(), 1);
            *after.get_mut(&replicas[0]).unwrap() += 1;
        }
        prop_assert_eq!(difference(after.into_values()), 0);
    }
}
