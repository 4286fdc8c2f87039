//! Runs of the toy, and where they must lead.

use super::*;

pub(super) fn created(seed: u64, replicas: i32) -> World {
    let mut world = World::new(seed, json!({ "replicas": replicas, "storage": { "size": "10Gi" } }));
    world.settle(true);
    world
}

#[test]
fn a_cluster_is_begun_once_whenever_the_operator_dies() {
    for seed in 0..SEEDS {
        for replicas in [1, 2, 3, 5] {
            let mut world = created(seed, replicas);
            for _ in 0..20 {
                // Voters beyond the third wait until their brokers have been ready for a while.
                world.pass(false);
                world.tick();
            }
            let wanted = [1, 1, 1, 3, 3, 5][usize::try_from(replicas).unwrap()];
            assert_eq!(world.voters().len(), wanted, "{replicas} brokers");
        }
    }
}

#[test]
fn whoever_waited_for_ready_may_lose_a_broker() {
    for seed in 0..SEEDS {
        for replicas in [3, 5] {
            let mut world = World::new(seed, json!({ "replicas": replicas, "storage": { "size": "10Gi" } }));
            while !world.tells_ready() {
                assert!(world.passes < 600, "never ready: {:?}", world.cluster.status);
                world.tick();
            }
            assert!(world.voters().len() >= 3, "{:?} vote", world.voters());
        }
    }
}

#[test]
fn brokers_come_and_go_with_all_that_they_hold() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(30);
        for replicas in [5, 3, 4, 3] {
            world.edit(|spec| spec["replicas"] = json!(replicas));
            world.settle(true);
            let fewest = world
                .brokers
                .values()
                .map(|broker| broker.replicas.len())
                .min()
                .unwrap();
            assert!(fewest > 0, "each broker has a share: {:?}", world.brokers);
            assert_eq!(world.claims.len(), usize::try_from(replicas).unwrap());
        }
    }
}

#[test]
fn a_change_of_mind_in_the_middle_ends_as_if_it_had_been_the_first() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 5);
        world.fill(40);
        world.edit(|spec| spec["replicas"] = json!(3));
        for _ in 0..world.dice.roll(12) {
            world.pass(true);
            world.tick();
        }
        world.edit(|spec| spec["replicas"] = json!(5));
        world.settle(true);
        assert!(
            world.brokers.values().all(|broker| !broker.draining),
            "drained for ever: {:?}",
            world.brokers
        );
    }
}

#[test]
fn a_roll_and_a_scale_in_at_once_end_as_one_after_the_other() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 5);
        world.fill(40);
        world.edit(|spec| {
            spec["config"] = json!({ "max.connections": "10" });
            spec["replicas"] = json!(3);
        });
        world.settle(true);
        assert_eq!(world.claims.len(), 3);
    }
}

#[test]
fn a_bad_image_takes_one_broker_and_a_good_one_brings_it_back() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(9);
        world.edit(|spec| spec["image"] = json!("bad:1"));
        for _ in 0..40 {
            world.pass(true);
            world.tick();
            let away = world.pods.values().filter(|pod| !pod.is_ready()).count();
            assert!(away <= 1, "one at a time: {:?}", world.pods);
        }
        let stuck = decide(&world.seen());
        assert_eq!(stuck.roll.stuck.len(), 1);
        world.edit(|spec| spec["image"] = json!("good:1"));
        world.settle(true);
    }
}

/// With too few healthy ones the disruption budget alone would let none of them go.
#[test]
fn brokers_that_all_crash_are_replaced_by_those_of_a_good_template() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(9);
        world.edit(|spec| spec["image"] = json!("bad:1"));
        world.pass(false);
        // As after a crash of each: what comes back has the template that there is now.
        world.pods.clear();
        for _ in 0..20 {
            world.pass(true);
            world.tick();
        }
        assert!(world.pods.values().all(|pod| !pod.is_ready()), "{:?}", world.pods);
        world.edit(|spec| spec["image"] = json!("good:1"));
        world.settle(true);
        let budget = &world.objects[&Kind::DisruptionBudget]["spec"];
        assert_eq!(budget["unhealthyPodEvictionPolicy"], "IfHealthyBudget");
    }
}

#[test]
fn a_cluster_that_never_began_for_a_bad_template_begins_with_a_good_one() {
    for seed in 0..SEEDS {
        let spec = json!({ "replicas": 3, "storage": { "size": "10Gi" }, "image": "bad:1" });
        let mut world = World::new(seed, spec);
        for _ in 0..20 {
            world.pass(true);
            world.tick();
        }
        assert!(world.brokers.is_empty());
        world.edit(|spec| spec["image"] = json!("good:1"));
        world.settle(true);
        assert_eq!(world.brokers.len(), 3);
    }
}

#[test]
fn whoever_scales_the_statefulset_by_hand_loses_nothing() {
    for seed in 0..SEEDS / 2 {
        for by_hand in [1, 2, 4, 6] {
            let mut world = created(seed, 3);
            world.fill(9);
            world.objects.get_mut(&Kind::StatefulSet).unwrap()["spec"]["replicas"] = json!(by_hand);
            world.tick();
            world.settle(true);
        }
    }
}

#[test]
fn what_is_deleted_comes_again_and_no_second_cluster() {
    for seed in 0..SEEDS / 2 {
        for kind in Kind::ALL {
            let mut world = created(seed, 3);
            world.fill(9);
            world.objects.remove(&kind);
            if kind == Kind::StatefulSet {
                world.pods.clear();
            }
            world.settle(true);
        }
        let mut world = created(seed, 3);
        world.fill(9);
        world.objects.clear();
        world.pods.clear();
        world.settle(true);
    }
}

#[test]
fn a_broker_that_lost_its_disk_begins_no_cluster() {
    for lost in 0..3 {
        let mut world = created(lost, 3);
        world.claims.remove(&i32::try_from(lost).unwrap());
        world.disks.remove(&i32::try_from(lost).unwrap());
        world.pods.remove(&i32::try_from(lost).unwrap());
        for _ in 0..20 {
            world.pass(false);
            world.tick();
        }
        assert_eq!(world.began, 1);
    }
}

#[test]
fn pods_that_do_not_come_are_asked_for_again() {
    let mut world = created(3, 3);
    world.pods.remove(&2);
    let set = world.objects.get_mut(&Kind::StatefulSet).unwrap();
    let at = |world: &World, seconds: i64| {
        let then = world.now.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
        json!(then.to_string())
    };
    set["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:00Z");
    assert!(decide(&world.seen()).steps.contains(&Step::Nudge(1)));
    let nudged = |world: &mut World, seconds: i64, count: u32| {
        let last = at(world, seconds);
        world.objects.get_mut(&Kind::StatefulSet).unwrap()["metadata"]["annotations"][NUDGED_AT] =
            json!(format!("{} {count}", last.as_str().unwrap()));
        decide(&world.seen()).steps.into_iter().find_map(|step| match step {
            Step::Nudge(count) => Some(count),
            _ => None,
        })
    };
    assert_eq!(nudged(&mut world, 15, 1), None, "not all the time");
    assert_eq!(nudged(&mut world, 25, 1), Some(2));
    assert_eq!(nudged(&mut world, 55, 9), None, "seldom in the end");
    assert_eq!(nudged(&mut world, 65, 9), Some(10));
    assert_eq!(nudged(&mut world, 600, 9), Some(1), "that was another time");
}

#[test]
fn a_mistake_in_the_spec_keeps_nothing_from_being_repaired_or_scaled() {
    for seed in 0..SEEDS / 2 {
        let mut world = created(seed, 3);
        world.fill(9);
        let template = world.live_hash();
        for mistake in [
            json!({ "config": { "max.connections": "5", "node.id": "7" } }),
            json!({ "podTemplate": { "spec": { "containers": "broker" } } }),
        ] {
            world.edit(|spec| {
                let all = mistake.as_object().unwrap().clone();
                spec.as_object_mut().unwrap().extend(all);
                spec["replicas"] = json!(4);
            });
            world.objects.remove(&Kind::HeadlessService);
            world.pods.remove(&1);
            let decision = world.settle(true);
            assert_eq!(decision.problems.len(), 1, "{:?}", decision.problems);
            assert_eq!(world.live_hash(), template, "and nobody gets what is wrong");
            assert!(world.objects.contains_key(&Kind::HeadlessService));
            world.edit(|spec| spec["replicas"] = json!(3));
            world.settle(true);
            world.edit(|spec| {
                spec["config"] = json!({});
                spec["podTemplate"] = json!({});
            });
            assert_eq!(world.settle(true).problems, [""; 0]);
        }
        assert_eq!(world.live_hash(), template);
    }
}

#[test]
fn a_template_that_nobody_has_approved_reaches_no_pod() {
    for seed in 0..SEEDS / 2 {
        let mut world = created(seed, 3);
        let template = world.live_hash();
        world.edit(|spec| {
            spec["rollout"] = json!({ "mode": "Approved" });
            spec["config"] = json!({ "max.connections": "5" });
            spec["replicas"] = json!(4);
        });
        world.pods.remove(&2);
        let decision = world.settle(true);
        assert!(world.pods.values().all(|pod| pod.hash == template));
        let wanted = decision.roll.newest().to_owned();
        assert_ne!(wanted, template);
        assert_eq!(decision.roll.waiting.map(|waiting| waiting.gate), Some("approval"));
        world.cluster.metadata.annotations = Some([(APPROVE.to_owned(), wanted.clone())].into());
        world.settle(true);
        assert!(world.pods.values().all(|pod| pod.hash == wanted));
    }
}

#[test]
fn settings_that_nobody_could_be_asked_about_reach_no_pod() {
    let mut world = created(1, 3);
    world.edit(|spec| spec["config"] = json!({ "max.connections": "5" }));
    world.settle(false);
    let template = world.live_hash();
    // None of them answers: the toy has no majority.
    for id in [0, 1] {
        world.pods.get_mut(&id).unwrap().ready_since = None;
    }
    world.edit(|spec| spec["config"] = json!({ "max.connections": "5", "mistake": "6" }));
    let decision = world.pass(false);
    let Some(KeptBack::Unasked(hash)) = decision.roll.kept_back else {
        panic!("{:?}", decision.roll);
    };
    assert_eq!(world.live_hash(), template);
    // Nobody may be there to answer before they are used.
    world.cluster.metadata.annotations = Some([(APPROVE.to_owned(), hash.clone())].into());
    assert_eq!(world.pass(false).roll.kept_back, None);
    assert_eq!(world.live_hash(), hash);
    world.cluster.metadata.annotations = None;
    // What is there already may be what the outage is mended with.
    world.edit(|spec| spec["config"] = json!({ "max.connections": "7" }));
    assert_eq!(world.pass(false).roll.kept_back, None);
    assert_ne!(world.live_hash(), template);
}

#[test]
fn what_is_about_to_go_is_waited_for() {
    let mut world = World::new(1, json!({ "replicas": 3, "storage": { "size": "10Gi" } }));
    let claim = Claim {
        terminating: true,
        ..Claim::default()
    };
    world.claims.insert(0, claim.clone());
    assert_eq!(world.pass(false).hold, Some(Hold::ClaimsGoing));
    world.claims.insert(1, Claim::default());
    let decision = decide(&world.seen());
    assert_eq!(
        (decision.hold, decision.forming),
        (None, false),
        "those that stay are of a cluster"
    );
    world.claims.clear();
    let leftover =
        json!({ "metadata": { "ownerReferences": [{ "kind": "Cluster", "name": "orders", "uid": "former" }] } });
    world.objects.insert(Kind::ConfigMap, leftover);
    assert!(matches!(world.pass(false).hold, Some(Hold::Leftover(_))));
    world.objects.clear();
    world.settle(true);
}

#[test]
fn nothing_is_done_for_what_is_as_it_should_be() {
    let mut world = created(7, 3);
    for _ in 0..50 {
        world.tick();
        let decision = world.pass(false);
        assert_eq!(decision.steps, []);
    }
}

#[test]
fn new_brokers_get_their_share_by_hand_where_that_is_wished() {
    let mut world = created(1, 3);
    world.fill(12);
    world.edit(|spec| {
        spec["rebalance"] = json!({ "mode": "Manual" });
        spec["replicas"] = json!(4);
    });
    world.settle(true);
    assert_eq!(world.brokers[&3].replicas, BTreeSet::new());
    // And of itself once that is not wished any more.
    world.edit(|spec| spec["rebalance"] = json!({ "mode": "Automatic" }));
    world.settle(true);
    assert_eq!(world.brokers[&3].replicas.len(), 3);
}

/// Their pods had no node, say: claims were made for them all the same.
#[test]
fn brokers_that_never_ran_leave_no_claim() {
    for seed in 0..SEEDS {
        for replicas in [4, 5] {
            let mut world = created(seed, 3);
            world.fill(12);
            world.edit(|spec| spec["replicas"] = json!(replicas));
            world.pass(false);
            for id in 3..replicas {
                let pod = Pod {
                    name: format!("orders-broker-{id}"),
                    uid: format!("pod-never-{id}"),
                    hash: world.live_hash(),
                    created: Some(world.now),
                    ..Pod::default()
                };
                world.pods.insert(id, pod);
                world.claims.insert(id, Claim::default());
            }
            world.edit(|spec| spec["replicas"] = json!(3));
            world.settle(true);
            assert_eq!(
                world.claims.keys().copied().collect::<Vec<_>>(),
                [0, 1, 2],
                "seed {seed}"
            );
        }
    }
}
