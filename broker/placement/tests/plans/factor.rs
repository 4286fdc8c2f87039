use std::collections::BTreeMap;

use millrace_placement::{
    BlockReason, BrokerState, Cluster, Options, Partition, PlanError, RackPolicy, change_replication_factor,
};
use proptest::prelude::*;

use crate::model::{
    EXACT, PLAIN, WILD, brokers, cases, check, clusters, created, difference, is_even, loads, shuffled, topic,
    with_states,
};

fn factors(factor: usize) -> BTreeMap<uuid::Uuid, usize> {
    BTreeMap::from([(topic(1), factor)])
}

#[test]
fn up_and_down_again() {
    for racks in [["a", "b", "c", "a", "b", "c"], ["a", "a", "a", "b", "b", "b"], ["-"; 6]] {
        let mut cluster = created(brokers(&racks), &[(30, 1, 10)]);
        for factor in [3, 2, 6, 4, 1] {
            let plan = change_replication_factor(&cluster, &factors(factor), &EXACT).unwrap();
            check(&cluster, &plan);
            let before = cluster.partitions()[0].replicas.len();
            assert_eq!(plan.replicas_moved(), 30 * factor.saturating_sub(before));
            assert_eq!(plan.bytes(), 10 * plan.replicas_moved() as u64);
            let after = cluster.after(&plan);
            for (old, new) in cluster.partitions().iter().zip(after.partitions()) {
                assert_eq!(new.replicas.len(), factor);
                assert_eq!(new.replicas[0], old.replicas[0], "the leader stays");
                if factor > before {
                    assert_eq!(new.replicas[..before], old.replicas);
                }
                assert!(racks[0] == "-" || is_even(&after, &new.replicas));
            }
            assert!(
                difference(loads(&after).into_values()) <= 1,
                "{factor}: {:?}",
                loads(&after)
            );
            assert!(
                change_replication_factor(&after, &factors(factor), &EXACT)
                    .unwrap()
                    .is_empty()
            );
            cluster = after;
        }
    }
}

#[test]
fn replicas_that_are_lost_or_lead_nothing_go_first() {
    let one = |states: &[(i32, BrokerState)], leader: i32| {
        let mut partition = Partition::new(topic(1), 0, vec![0, 1, 2], 10);
        partition.leader = Some(leader);
        let cluster = Cluster::new(brokers(&["-"; 3]), vec![partition]).unwrap();
        let cluster = with_states(&cluster, states);
        let plan = change_replication_factor(&cluster, &factors(2), &EXACT).unwrap();
        plan.reassignments[0].to.clone()
    };
    assert_eq!(one(&[], 0), [0, 1]);
    assert_eq!(one(&[], 2), [0, 2], "neither the leader nor the preferred one");
    assert_eq!(one(&[(1, BrokerState::Fenced)], 0), [0, 2]);
    assert_eq!(one(&[(1, BrokerState::Draining), (2, BrokerState::Fenced)], 0), [0, 2]);
    assert_eq!(one(&[(0, BrokerState::Gone)], 2), [1, 2]);
}

#[test]
fn refuses_what_can_not_be() {
    let cluster = created(brokers(&["a", "b", "b"]), &[(2, 1, 10)]);
    let error = |factor, options: &Options| change_replication_factor(&cluster, &factors(factor), options).unwrap_err();
    assert_eq!(error(0, &EXACT), PlanError::NoReplicas);
    assert_eq!(error(4, &EXACT), PlanError::TooFewBrokers { wanted: 4, usable: 3 });
    let huge = usize::MAX;
    assert_eq!(
        error(huge, &EXACT),
        PlanError::TooFewBrokers {
            wanted: huge,
            usable: 3
        }
    );
    let fenced = with_states(&cluster, &[(1, BrokerState::Fenced), (2, BrokerState::Fenced)]);
    let fenced = change_replication_factor(&fenced, &factors(3), &EXACT).unwrap_err();
    let PlanError::Blocked(blocked) = fenced else {
        panic!("not blocked")
    };
    assert_eq!(blocked.len(), 2);
    let too_few = |usable| BlockReason::TooFewBrokers { wanted: 3, usable };
    assert!(
        blocked
            .iter()
            .all(|blocked| [too_few(1), too_few(2)].contains(&blocked.reason))
    );
    let strict = Options {
        racks: RackPolicy::OnePerRack,
        ..EXACT
    };
    assert_eq!(error(3, &strict), PlanError::TooFewRacks { wanted: 3, racks: 2 });
    let unknown = BTreeMap::from([(topic(5), 1)]);
    assert_eq!(
        change_replication_factor(&cluster, &unknown, &EXACT).unwrap_err(),
        PlanError::UnknownTopic { topic: topic(5) }
    );
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn holds_for_any_cluster(cluster in clusters(WILD), wanted in prop::collection::vec(0usize..6, 3)) {
        let has = |name: u128| cluster.partitions().iter().any(|partition| partition.id.topic == topic(name));
        let wanted = (0u128..).zip(wanted).filter(|(name, factor)| *factor > 0 && has(*name));
        let wanted: BTreeMap<_, _> = wanted.map(|(name, factor)| (topic(name), factor)).collect();
        let answer = change_replication_factor(&cluster, &wanted, &EXACT);
        prop_assert_eq!(&answer, &change_replication_factor(&shuffled(&cluster), &wanted, &EXACT));
        let plan = match answer {
            Ok(plan) => plan,
            Err(PlanError::Blocked(blocked)) => {
                for blocked in blocked {
                    prop_assert!(matches!(blocked.reason, BlockReason::TooFewBrokers { wanted, usable } if usable < wanted), "{blocked:?}");
                }
                return Ok(());
            }
            Err(PlanError::TooFewBrokers { wanted, .. }) => {
                prop_assert!(wanted > cluster.brokers().len());
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        check(&cluster, &plan);
        let after = cluster.after(&plan);
        for (old, new) in cluster.partitions().iter().zip(after.partitions()) {
            let factor = wanted.get(&old.id.topic).copied().unwrap_or(old.replicas.len());
            prop_assert_eq!(new.replicas.len(), factor);
            // Only added at the end, or only taken away.
            let kept: Vec<i32> = old.replicas.iter().copied().filter(|id| new.replicas.contains(id)).collect();
            prop_assert_eq!(&new.replicas[..kept.len()], &kept[..]);
            prop_assert_eq!(kept.len(), factor.min(old.replicas.len()));
            let gone = |id: &&i32| cluster.broker(**id).unwrap().state == BrokerState::Gone;
            let lost = old.replicas.iter().filter(gone).count();
            let left = new.replicas.iter().filter(gone).count();
            prop_assert!(left == lost.saturating_sub(old.replicas.len() - kept.len()));
        }
        prop_assert!(change_replication_factor(&after, &wanted, &EXACT).unwrap().is_empty());
    }

    /// With all brokers active and all racks known, partitions that change come out evenly spread.
    #[test]
    fn the_rest_is_spread(cluster in clusters(PLAIN), factor in 1usize..5) {
        let name = cluster.partitions().first().map(|partition| partition.id.topic);
        prop_assume!(name.is_some() && factor <= cluster.brokers().len());
        let wanted = BTreeMap::from([(name.unwrap(), factor)]);
        // From an even spread: what others broke is a repair's work.
        let cluster = cluster.after(&millrace_placement::repair_racks(&cluster, &EXACT).unwrap());
        let plan = change_replication_factor(&cluster, &wanted, &EXACT).unwrap();
        check(&cluster, &plan);
        let after = cluster.after(&plan);
        for partition in after.partitions() {
            prop_assert!(is_even(&after, &partition.replicas), "{:?}", partition.replicas);
        }
    }
}
