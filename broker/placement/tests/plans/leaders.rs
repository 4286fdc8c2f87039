use millrace_placement::{BrokerState, Cluster, Partition, balance_leaders};
use proptest::prelude::*;

use crate::{
    flow::can_choose,
    model::{PLAIN, WILD, brokers, cases, check, clusters, created, difference, leaders, shuffled, topic, with_states},
};

#[test]
fn all_led_by_one_are_shared_without_moving_data() {
    let partition = |number| Partition::new(topic(1), number, vec![0, 1, 2], 10);
    let cluster = Cluster::new(brokers(&["a", "b", "c"]), (0..10).map(partition).collect()).unwrap();
    let plan = balance_leaders(&cluster);
    check(&cluster, &plan);
    assert_eq!((plan.bytes(), plan.replicas_moved()), (0, 0));
    assert_eq!(plan.reassignments.len(), 6, "4 stay with broker 0");
    let after = cluster.after(&plan);
    assert_eq!(difference(leaders(&after).into_values()), 1);
    assert!(balance_leaders(&after).is_empty());
    // The new leader comes first, the others keep their order.
    let to: std::collections::BTreeSet<Vec<i32>> = plan.reassignments.into_iter().map(|change| change.to).collect();
    assert_eq!(to.into_iter().collect::<Vec<_>>(), [vec![1, 0, 2], vec![2, 0, 1]]);
}

#[test]
fn a_chain_of_partitions_is_found() {
    // Broker 0 leads two, and 2 none; they share no partition, but each shares one with 1.
    let all = vec![
        Partition::new(topic(1), 0, vec![0], 1),
        Partition::new(topic(1), 1, vec![0, 1], 1),
        Partition::new(topic(1), 2, vec![1, 2], 1),
    ];
    let cluster = Cluster::new(brokers(&["a", "b", "c"]), all).unwrap();
    let after = cluster.after(&balance_leaders(&cluster));
    assert_eq!(leaders(&after).into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn who_leads_already_is_preferred() {
    let mut all: Vec<Partition> = (0..4)
        .map(|number| Partition::new(topic(1), number, vec![0, 1], 1))
        .collect();
    all[2].leader = Some(1);
    all[3].leader = Some(1);
    let cluster = Cluster::new(brokers(&["a", "b"]), all).unwrap();
    let changed: Vec<u32> = balance_leaders(&cluster)
        .reassignments
        .iter()
        .map(|change| change.partition.partition)
        .collect();
    assert_eq!(changed, [2, 3]);
}

#[test]
fn of_brokers_with_equal_loads_the_rack_that_leads_less_comes_first() {
    let partition = |number| Partition::new(topic(1), number, vec![0, 1, 2, 3], 1);
    let cluster = Cluster::new(brokers(&["a", "a", "b", "b"]), (0..2).map(partition).collect()).unwrap();
    let after = cluster.after(&balance_leaders(&cluster));
    assert_eq!(leaders(&after).into_values().collect::<Vec<_>>(), [1, 0, 1, 0]);
}

#[test]
fn states_say_who_may_lead() {
    let cluster = created(brokers(&["a"; 4]), &[(16, 4, 10)]);
    assert!(balance_leaders(&cluster).is_empty());
    let states = [
        (0, BrokerState::Draining),
        (1, BrokerState::Fenced),
        (2, BrokerState::Cordoned),
    ];
    let cluster = with_states(&cluster, &states);
    let counts: Vec<usize> = leaders(&cluster.after(&balance_leaders(&cluster)))
        .into_values()
        .collect();
    assert_eq!(
        counts,
        [0, 4, 4, 8],
        "cordoned and fenced keep theirs, the active one takes those of the leaving one"
    );
}

proptest! {
    #![proptest_config(cases(600))]

    /// The least maximum and, with it, the greatest minimum that maximum flow finds.
    #[test]
    fn no_more_even_choice_exists(cluster in clusters(PLAIN)) {
        let plan = balance_leaders(&cluster);
        check(&cluster, &plan);
        prop_assert_eq!(plan.replicas_moved(), 0);
        let after = cluster.after(&plan);
        let counts: Vec<usize> = leaders(&after).into_values().collect();
        let places: Vec<Vec<usize>> = cluster.partitions().iter()
            .map(|partition| partition.replicas.iter().map(|id| *id as usize).collect())
            .collect();
        let (least, most) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
        let fits = |least, most| can_choose(&places, counts.len(), least, most);
        prop_assert!(fits(least, most));
        prop_assert!(most == 0 || !fits(0, most - 1), "{counts:?}");
        prop_assert!(least == most || !fits(least + 1, most), "{counts:?}");
    }

    #[test]
    fn holds_for_any_cluster(cluster in clusters(WILD)) {
        let plan = balance_leaders(&cluster);
        check(&cluster, &plan);
        prop_assert_eq!(plan.replicas_moved(), 0);
        prop_assert_eq!(&plan, &balance_leaders(&shuffled(&cluster)));
        let state = |id: i32| cluster.broker(id).unwrap().state;
        for change in &plan.reassignments {
            prop_assert_eq!(state(change.to[0]), BrokerState::Active);
            prop_assert!(state(change.from[0]) != BrokerState::Fenced);
            let others = |list: &[i32], without: i32| list.iter().copied().filter(|id| *id != without).collect::<Vec<_>>();
            prop_assert_eq!(others(&change.from, change.to[0]), others(&change.to[1..], change.to[0]));
        }
        let after = cluster.after(&plan);
        for partition in after.partitions() {
            let able = partition.replicas.iter().any(|id| state(*id) == BrokerState::Active);
            prop_assert!(!able || !state(partition.replicas[0]).is_leaving());
        }
        prop_assert!(balance_leaders(&after).is_empty());
    }
}
