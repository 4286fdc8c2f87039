use millrace_placement::{Broker, BrokerState, ByteGoal, Cluster, Options, Partition, PlanError, add_brokers};
use proptest::prelude::*;

use crate::model::{
    EXACT, PLAIN, WILD, brokers, cases, check_moves, clusters, created, difference, is_even, loads, shuffled, squares,
    topic, with_brokers,
};

/// What new brokers lack of the floor of the mean and old ones have above its ceiling: no fewer moves can do.
fn fewest_moves(cluster: &Cluster, new: &[i32]) -> usize {
    let loads = loads(cluster);
    let total: usize = loads.values().sum();
    let (floor, ceiling) = (total / loads.len(), total.div_ceil(loads.len()));
    let old = loads.iter().filter(|(id, _)| !new.contains(id));
    let excess: usize = old.map(|(_, load)| load.saturating_sub(ceiling)).sum();
    let lack: usize = new.iter().map(|id| floor.saturating_sub(loads[id])).sum();
    excess.max(lack)
}

#[test]
fn new_brokers_get_their_share_with_the_fewest_moves() {
    let names = ["a", "b", "c", "a", "b", "c", "a", "b", "c"];
    for (old, new, factor) in [(3, 3, 3), (3, 6, 3), (6, 3, 3), (6, 3, 2), (6, 3, 1), (3, 6, 2)] {
        for partitions in [1, 7, 20, 61] {
            let before = created(brokers(&names[..old]), &[(partitions, factor, 10)]);
            let cluster = with_brokers(&before, brokers(&names[..old + new]));
            let added: Vec<i32> = (old as i32..(old + new) as i32).collect();
            let plan = add_brokers(&cluster, &added, &EXACT).unwrap();
            check_moves(&cluster, &plan);
            let after = cluster.after(&plan);
            assert!(
                difference(loads(&after).into_values()) <= 1,
                "{old}+{new}, {partitions} x {factor}"
            );
            assert_eq!(plan.replicas_moved(), fewest_moves(&cluster, &added));
            assert_eq!(plan.bytes(), 10 * plan.replicas_moved() as u64);
            assert!(add_brokers(&after, &added, &EXACT).unwrap().is_empty());
        }
    }
}

#[test]
fn a_rack_of_its_own_takes_from_all_others() {
    let before = created(brokers(&["a", "b", "c", "a", "b", "c"]), &[(24, 3, 10)]);
    let cluster = with_brokers(&before, brokers(&["a", "b", "c", "a", "b", "c", "d", "d"]));
    let plan = add_brokers(&cluster, &[6, 7], &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(difference(loads(&cluster.after(&plan)).into_values()), 0);
    assert_eq!(plan.replicas_moved(), 18);
}

#[test]
fn a_replica_may_come_back_for_another_to_leave() {
    // If what has moved could not come back while planning, loads would end at 1 to 3.
    let before = created(brokers(&["a", "a", "a", "b"]), &[(4, 3, 10)]);
    let cluster = with_brokers(&before, brokers(&["a", "a", "a", "b", "b", "a"]));
    let plan = add_brokers(&cluster, &[4, 5], &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(difference(loads(&cluster.after(&plan)).into_values()), 0);
    assert_eq!(plan.replicas_moved(), 4);
}

#[test]
fn within_the_tolerance_nothing_moves() {
    // 100 each; the new one lacks its 66.7, and 5 % of that may stay lacking.
    let before = created(brokers(&["-", "-"]), &[(200, 1, 10)]);
    let cluster = with_brokers(&before, brokers(&["-", "-", "-"]));
    let plan = add_brokers(&cluster, &[2], &Options::default()).unwrap();
    check_moves(&cluster, &plan);
    let after = cluster.after(&plan);
    let counts = loads(&after);
    // 70 is the most that 66.7 and 5 % allow: the old ones give 30 each, and 60 is less than the 63.3 the new one needs.
    assert_eq!(counts[&2], 64, "{counts:?}");
    assert!(counts[&0] <= 70 && counts[&1] <= 70);
    assert!(add_brokers(&after, &[2], &Options::default()).unwrap().is_empty());
    // A rebalance of all brokers finds them near enough as well, but not without a tolerance.
    assert!(add_brokers(&after, &[0, 1, 2], &Options::default()).unwrap().is_empty());
    assert!(!add_brokers(&after, &[0, 1, 2], &EXACT).unwrap().is_empty());
}

#[test]
fn bytes_reach_their_share_too_unless_the_cheapest_will_do() {
    // Each old broker has partitions of 1 to 100 bytes.
    let partition = |number: u32| {
        let bytes = u64::from(number / 2 % 100 + 1);
        Partition::new(topic(1), number, vec![(number % 2) as i32], bytes)
    };
    let cluster = Cluster::new(brokers(&["-", "-", "-"]), (0..200).map(partition).collect()).unwrap();
    let share = 10_100 / 3;
    let plan = add_brokers(&cluster, &[2], &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(plan.replicas_moved(), 66);
    assert!(plan.bytes().abs_diff(share) <= 100, "{} of {share}", plan.bytes());
    let cheapest = Options {
        bytes: ByteGoal::Cheapest,
        ..EXACT
    };
    let plan = add_brokers(&cluster, &[2], &cheapest).unwrap();
    assert_eq!(plan.replicas_moved(), 66);
    // The 33 smallest of each.
    assert_eq!(plan.bytes(), 2 * (1..=33).sum::<u64>());
}

#[test]
fn a_full_disk_gets_nothing() {
    let before = created(brokers(&["-", "-"]), &[(20, 1, 100)]);
    let mut listed = brokers(&["-", "-", "-"]);
    listed[2] = listed[2].clone().with_disk_bytes(600);
    let cluster = with_brokers(&before, listed);
    let plan = add_brokers(&cluster, &[2], &EXACT).unwrap();
    check_moves(&cluster, &plan);
    assert_eq!(plan.replicas_moved(), 5, "85 % of 600 bytes hold five of 100");
}

#[test]
fn followers_move_rather_than_leaders() {
    let before = created(brokers(&["a", "b", "c"]), &[(12, 3, 10)]);
    let cluster = with_brokers(&before, brokers(&["a", "b", "c", "a", "b", "c"]));
    let plan = add_brokers(&cluster, &[3, 4, 5], &EXACT).unwrap();
    assert!(plan.reassignments.iter().all(|change| change.from[0] == change.to[0]));
}

#[test]
fn refuses_brokers_that_can_not_be_filled() {
    let mut listed = brokers(&["a", "b"]);
    listed[1].state = BrokerState::Cordoned;
    let cluster = Cluster::new(listed, vec![]).unwrap();
    assert_eq!(
        add_brokers(&cluster, &[9], &EXACT).unwrap_err(),
        PlanError::UnknownBroker { id: 9 }
    );
    assert_eq!(
        add_brokers(&cluster, &[1], &EXACT).unwrap_err(),
        PlanError::NotActive {
            id: 1,
            state: BrokerState::Cordoned
        }
    );
}

/// All ways to leave each replica of the cluster where it is or to put it on a new broker, without worse spread: the
/// lowest sum of squares of loads, and the fewest moves to it.
fn exact(cluster: &Cluster, new: &[i32]) -> (usize, usize) {
    fn options(cluster: &Cluster, partition: &Partition, new: &[i32]) -> Vec<(Vec<i32>, usize)> {
        let mut found: Vec<(Vec<i32>, usize)> = vec![(vec![], 0)];
        for home in &partition.replicas {
            let mut longer = Vec::new();
            for (list, moves) in found {
                for place in std::iter::once(home).chain(new) {
                    if !list.contains(place) && (place == home || !partition.replicas.contains(place)) {
                        let mut list = list.clone();
                        list.push(*place);
                        longer.push((list, moves + usize::from(place != home)));
                    }
                }
            }
            found = longer;
        }
        let even = is_even(cluster, &partition.replicas);
        assert!(even, "starts even");
        found.retain(|(list, _)| is_even(cluster, list));
        found
    }
    fn go(all: &[Vec<(Vec<i32>, usize)>], loads: &mut Vec<usize>, moves: usize, best: &mut (usize, usize)) {
        let Some((first, rest)) = all.split_first() else {
            *best = (*best).min((squares(loads.iter().copied()), moves));
            return;
        };
        for (list, more) in first {
            list.iter().for_each(|id| loads[*id as usize] += 1);
            go(rest, loads, moves + more, best);
            list.iter().for_each(|id| loads[*id as usize] -= 1);
        }
    }
    let all: Vec<_> = cluster
        .partitions()
        .iter()
        .map(|partition| options(cluster, partition, new))
        .collect();
    let mut best = (usize::MAX, usize::MAX);
    go(&all, &mut vec![0; cluster.brokers().len()], 0, &mut best);
    best
}

proptest! {
    #![proptest_config(cases(1500))]

    /// As even and as cheap as the best of all plans, on small clusters with racks of any sizes.
    #[test]
    fn no_better_plan_exists(
        racks in prop::collection::vec(0u8..3, 2..5),
        new in prop::collection::vec(0u8..3, 1..3),
        partitions in 1usize..5,
        factor in 1usize..4,
    ) {
        let factor = factor.min(racks.len());
        let name = |rack: &u8| format!("r{rack}");
        let listed = |racks: &[u8]| (0..).zip(racks).map(|(id, rack)| Broker::new(id).with_rack(name(rack))).collect::<Vec<_>>();
        let before = created(listed(&racks), &[(partitions, factor, 10)]);
        let all = [racks.clone(), new.clone()].concat();
        let cluster = with_brokers(&before, listed(&all));
        // Else the new racks make repairs possible, which is another plan's work.
        prop_assume!(cluster.partitions().iter().all(|partition| is_even(&cluster, &partition.replicas)));
        let added: Vec<i32> = (racks.len() as i32..all.len() as i32).collect();
        let plan = add_brokers(&cluster, &added, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        let after = cluster.after(&plan);
        let (even, moves) = exact(&cluster, &added);
        prop_assert_eq!(squares(loads(&after).into_values()), even);
        prop_assert_eq!(plan.replicas_moved(), moves);
    }

    #[test]
    fn holds_for_any_cluster(cluster in clusters(WILD), picks in prop::collection::vec(any::<bool>(), 8), tolerance in 0u32..30) {
        let options = Options { tolerance_percent: tolerance, ..Options::default() };
        let active = cluster.brokers().iter().filter(|broker| broker.state == BrokerState::Active);
        let new: Vec<i32> = active.map(|broker| broker.id).filter(|id| picks[*id as usize]).collect();
        let plan = add_brokers(&cluster, &new, &options).unwrap();
        check_moves(&cluster, &plan);
        for change in &plan.reassignments {
            prop_assert!(change.added().all(|id| new.contains(&id)));
            let state = |id: i32| cluster.broker(id).unwrap().state;
            prop_assert!(change.removed().all(|id| state(id) == BrokerState::Active));
        }
        prop_assert_eq!(&plan, &add_brokers(&shuffled(&cluster), &new, &options).unwrap());
        let again = add_brokers(&cluster.after(&plan), &new, &options).unwrap();
        prop_assert!(again.is_empty(), "{again:?}");
    }

    /// With disks as the bound, what leaves makes room that a next plan may use, but not without end.
    #[test]
    fn disks_are_never_too_full(cluster in clusters(WILD), disks in prop::collection::vec(prop::option::of(500u64..9000), 8)) {
        let mut listed = cluster.brokers().to_vec();
        for (broker, disk) in listed.iter_mut().zip(disks) {
            broker.disk_bytes = disk;
        }
        let mut cluster = with_brokers(&cluster, listed);
        let active = cluster.brokers().iter().filter(|broker| broker.state == BrokerState::Active);
        let all: Vec<i32> = active.map(|broker| broker.id).collect();
        let mut plans = 0;
        loop {
            let plan = add_brokers(&cluster, &all, &EXACT).unwrap();
            check_moves(&cluster, &plan);
            if plan.is_empty() {
                break;
            }
            cluster = cluster.after(&plan);
            plans += 1;
            prop_assert!(plans < 50);
        }
    }

    /// Within a tolerance too, the fewest moves are made: what new brokers lack of the band or old ones are above it.
    #[test]
    fn the_band_is_reached_in_the_fewest_moves(
        old in 1usize..6, new in 1usize..4, partitions in 0usize..200, factor in 1usize..4, tolerance in 1u32..40,
    ) {
        let factor = factor.min(old);
        let options = Options { tolerance_percent: tolerance, ..EXACT };
        let before = created(brokers(&vec!["-"; old]), &[(partitions, factor, 10)]);
        let cluster = with_brokers(&before, brokers(&vec!["-"; old + new]));
        let added: Vec<i32> = (old as i32..(old + new) as i32).collect();
        let plan = add_brokers(&cluster, &added, &options).unwrap();
        check_moves(&cluster, &plan);
        let after = loads(&cluster.after(&plan));
        // In hundredths of a replica and of a broker, so that nothing is rounded: share, band.
        let (total, count, percent) = (partitions * factor, old + new, tolerance as usize);
        let most = total.div_ceil(count).max(total * (100 + percent) / (100 * count));
        let least = (total / count).min((total * (100 - percent)).div_ceil(100 * count));
        let excess: usize = loads(&cluster).range(..old as i32).map(|(_, load)| load.saturating_sub(most)).sum();
        prop_assert_eq!(plan.replicas_moved(), excess.max(least * new));
        prop_assert!(after.values().all(|load| (least..=most).contains(load)), "{after:?} not in {least}..={most}");
    }

    /// Of partitions of any size, each new broker gets its share of bytes, give or take the greatest partition.
    #[test]
    fn new_brokers_get_their_share_of_bytes(
        sizes in prop::collection::vec(1u64..1000, 30..120), old in 2usize..6, new in 1usize..4,
    ) {
        let partition = |(number, bytes): (u32, &u64)| {
            Partition::new(topic(1), number, vec![(number as usize % old) as i32], *bytes)
        };
        let all: Vec<Partition> = (0..).zip(&sizes).map(partition).collect();
        let cluster = Cluster::new(brokers(&vec!["-"; old + new]), all).unwrap();
        let added: Vec<i32> = (old as i32..(old + new) as i32).collect();
        let plan = add_brokers(&cluster, &added, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        let share = sizes.iter().sum::<u64>() / (old + new) as u64;
        let greatest = *sizes.iter().max().unwrap();
        for id in added {
            let onto = plan.bytes_onto().get(&id).copied().unwrap_or(0);
            prop_assert!(onto.abs_diff(share) <= greatest, "{onto} of {share}, greatest {greatest}");
        }
    }

    /// Without racks, any loads come to where no old broker has 2 more than a new one, in the fewest moves.
    #[test]
    fn only_what_must_moves(cluster in clusters(PLAIN), count in 1usize..4) {
        let mut listed: Vec<Broker> = cluster.brokers().iter().map(|broker| Broker::new(broker.id)).collect();
        let first = listed.len() as i32;
        let new: Vec<i32> = (first..first + count as i32).collect();
        listed.extend(new.iter().map(|id| Broker::new(*id)));
        let cluster = with_brokers(&cluster, listed);
        let plan = add_brokers(&cluster, &new, &EXACT).unwrap();
        check_moves(&cluster, &plan);
        let after = loads(&cluster.after(&plan));
        let before = loads(&cluster);
        let most_old = after.iter().filter(|(id, _)| **id < first).map(|(_, load)| *load).max().unwrap();
        let least_new = new.iter().map(|id| after[id]).min().unwrap();
        prop_assert!(most_old <= least_new + 1);
        // Each old broker gave only what it had above the level that all ended at.
        for (id, load) in before.iter().filter(|(id, _)| **id < first) {
            prop_assert!(after[id] == *load || after[id] + 1 >= most_old);
        }
        prop_assert_eq!(plan.replicas_moved(), new.iter().map(|id| after[id]).sum::<usize>());
    }
}
