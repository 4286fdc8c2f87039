//! Rolls of the toy beside a disruption budget, and all that may stand in their way.

use super::{runs::created, *};

#[test]
fn a_roll_restarts_each_broker_once_and_one_at_a_time() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(9);
        let before: BTreeSet<String> = world.pods.values().map(|pod| pod.uid.clone()).collect();
        world.restarts = 0;
        world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
        world.settle(true);
        let after: BTreeSet<String> = world.pods.values().map(|pod| pod.uid.clone()).collect();
        assert!(before.is_disjoint(&after));
        assert_eq!(world.restarts, 3);
    }
}

#[test]
fn a_budget_of_none_gives_way_to_what_the_quorum_permits_and_to_nothing_else() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(9);
        world.needed = [0, 1].into();
        world.pass(false);
        assert_eq!(world.budget(), Some(0));
        let before = world.pods.clone();
        world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
        for _ in 0..60 {
            world.pass(true);
            world.tick();
        }
        let same = |id: i32| world.pods[&id].uid == before[&id].uid;
        assert_eq!([same(0), same(1), same(2)], [true, true, false]);
        // What is asked for in vain opens it for nobody.
        for _ in 0..10 {
            let decision = world.pass(false);
            assert!(
                matches!(decision.roll.step, Some(Step::Restart { .. })),
                "{:?}",
                decision.roll
            );
            assert_eq!((world.budget(), &world.slot), (Some(0), &None));
            world.tick();
        }
        // What was permitted and did not come to it is not kept.
        world.needed = [0, 2].into();
        world.pass(false);
        assert_eq!(world.slot.as_ref().map(|(id, _)| *id), Some(1));
        world.needed = [0, 1].into();
        world.pass(false);
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        world.needed = [0, 2].into();
        world.pass(false);
        world.edit(|spec| spec["config"] = json!({}));
        world.pods.retain(|id, _| *id != 2);
        world.needed.clear();
        world.settle(true);
        assert_eq!(world.slot, None);
    }
}

/// A toy whose budget lets nobody go at will, and whose quorum lets broker 1 alone be restarted, which a roll wants.
fn permits_one(seed: u64) -> World {
    let mut world = created(seed, 3);
    world.fill(9);
    world.needed = [0, 2].into();
    world.pass(false);
    world.tick();
    assert_eq!(world.budget(), Some(0));
    world.restarts = 0;
    world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
    world
}

/// Passes until the slot is ours and the budget is open, and only the eviction is left.
fn until_opened(world: &mut World) {
    world.trouble.budgets_lag = true;
    for _ in 0..10 {
        world.pass(false);
        if world.budget() == Some(1) {
            assert_eq!(world.slot.as_ref().map(|(id, _)| *id), Some(1));
            return;
        }
    }
    panic!("never opened: {:?}", world.objects[&Kind::DisruptionBudget]);
}

#[test]
fn a_roll_gets_through_where_the_controller_of_budgets_is_late() {
    for seed in 0..SEEDS {
        let mut world = created(seed, 3);
        world.fill(9);
        world.trouble.budgets_lag = true;
        world.needed = [0, 1, 2].into();
        world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
        for _ in 0..5 {
            world.pass(true);
            world.tick();
        }
        world.restarts = 0;
        // One after another, as partitions get a replica to spare, and never at will.
        for id in [1, 2, 0] {
            world.needed = [0, 1, 2].into_iter().filter(|other| *other != id).collect();
            let before = world.restarts;
            for _ in 0..60 {
                world.pass(true);
                world.tick();
            }
            assert_eq!(world.restarts, before + 1, "broker {id}");
        }
        world.needed.clear();
        world.settle(true);
        assert_eq!((world.restarts, &world.slot), (3, &None));
    }
}

#[test]
fn a_template_that_is_not_admitted_shuts_the_budget_in_the_same_pass() {
    for seed in 0..SEEDS {
        let mut world = permits_one(seed);
        until_opened(&mut world);
        world.trouble.refuses_pods = true;
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        world.trouble.drains = Some(2);
        for _ in 0..10 {
            world.pass(false);
            world.tick();
        }
        assert_eq!((world.budget(), world.trouble.drained), (Some(0), 0));
        world.trouble.refuses_pods = false;
        world.trouble.drains = None;
        world.needed.clear();
        world.settle(true);
        assert_eq!(world.restarts, 3);
    }
}

#[test]
fn what_the_quorum_takes_back_shuts_the_budget_in_the_same_pass() {
    for seed in 0..SEEDS {
        let mut world = permits_one(seed);
        until_opened(&mut world);
        world.needed = [0, 1, 2].into();
        world.trouble.drains = Some(2);
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        for _ in 0..10 {
            world.tick();
            world.pass(false);
        }
        assert_eq!(world.trouble.drained, 0);
        // Also of an operator that had died before it opened the budget.
        world.slot = Some((1, world.pods[&1].uid.clone()));
        let seen = world.seen();
        assert!(decide(&seen).roll.permitted.is_some());
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        let generation = |seen: &Seen| seen.objects[&Kind::DisruptionBudget]["metadata"]["generation"].clone();
        assert_eq!(generation(&world.seen()), generation(&seen), "nor for a moment");
    }
}

/// A webhook, a second budget, an API server that is too busy.
#[test]
fn an_eviction_that_is_refused_for_another_reason_keeps_and_opens_nothing() {
    for seed in 0..SEEDS {
        let mut world = permits_one(seed);
        world.trouble.refuses_evictions = true;
        world.trouble.drains = Some(2);
        for _ in 0..20 {
            world.pass(false);
            assert_eq!((world.budget(), &world.slot), (Some(0), &None));
            world.tick();
        }
        assert_eq!((world.restarts, world.trouble.drained), (0, 0));
        // Also where it begins while the budget is open.
        world.trouble.refuses_evictions = false;
        until_opened(&mut world);
        world.trouble.refuses_evictions = true;
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        world.trouble.refuses_evictions = false;
        world.needed.clear();
        world.settle(true);
    }
}

/// The budget counts pods that the operator does not restart.
#[test]
fn a_budget_that_is_open_and_refuses_all_the_same_keeps_no_slot() {
    let mut world = created(1, 3);
    world.fill(9);
    world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
    world.trouble.budgets_lag = true;
    for _ in 0..5 {
        let budget = world.objects.get_mut(&Kind::DisruptionBudget).unwrap();
        budget["status"]["disruptionsAllowed"] = json!(0);
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(1), &None));
    }
    world.tick();
    world.settle(false);
}

#[test]
fn a_drain_beside_a_roll_gets_a_broker_only_by_the_open_budget_and_the_roll_ends() {
    for seed in 0..SEEDS {
        let mut world = permits_one(seed);
        until_opened(&mut world);
        // The drain is first.
        world.judge_budget();
        world.trouble.drains = Some(2);
        world.drain();
        assert_eq!(world.trouble.drained, 1);
        world.pass(false);
        assert_eq!(world.restarts, 0, "one at a time");
        world.needed.clear();
        world.settle(true);
        assert_eq!(world.slot, None);
    }
}

/// What one pass has opened the next one shuts, whatever it comes to: the brokers do not answer any more.
#[test]
fn an_open_budget_does_not_outlive_its_permission() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    world.slot = None;
    world.needed.clear();
    world.needed.extend([0, 1, 2]);
    world.pass(false);
    assert_eq!(world.budget(), Some(0));
    let mut world = permits_one(1);
    until_opened(&mut world);
    let mut seen = world.seen();
    seen.brokers = Reach::Unreachable("no answer".into());
    let steps = decide(&seen).steps;
    let budget = steps.iter().find_map(|step| match step {
        Step::Apply(object) if object.kind == Kind::DisruptionBudget => Some(&object.value["spec"]["maxUnavailable"]),
        _ => None,
    });
    assert_eq!(budget, Some(&json!(0)));
}

/// Its slot says that it is on its way, and ends when it is back.
#[test]
fn the_slot_of_a_broker_that_goes_by_another_hand_is_not_given_back() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    let seen = world.seen();
    let decision = decide(&seen);
    world.trouble.refuses_evictions = true;
    // Between the look and the act.
    world.pods.remove(&1);
    let Some(Step::Restart {
        candidates,
        hash,
        budgets,
    }) = decision.roll.step
    else {
        panic!("{:?}", decision.roll);
    };
    world.needed.insert(1);
    world.restart(&candidates, &hash, budgets.as_deref());
    assert_eq!(world.slot.as_ref().map(|(id, _)| *id), Some(1));
    world.trouble.refuses_evictions = false;
    world.needed.clear();
    world.settle(true);
    assert_eq!(world.slot, None);
}

/// Kubernetes lets nobody go by a budget that its controller has not looked at: to shut it again would begin anew.
#[test]
fn an_open_budget_that_is_not_looked_at_yet_is_waited_for() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    for _ in 0..5 {
        world.pass(false);
        assert_eq!(world.budget(), Some(1));
        assert_eq!(world.slot.as_ref().map(|(id, _)| *id), Some(1));
    }
    world.judge_budget();
    world.pass(false);
    assert_eq!(world.restarts, 1);
}

/// Nobody restarts anything any more, and what was opened for that is nobody else's.
#[test]
fn a_roll_that_is_paused_shuts_the_budget_and_gives_the_slot_back() {
    for seed in 0..SEEDS {
        let mut world = permits_one(seed);
        until_opened(&mut world);
        world.edit(|spec| spec["paused"] = json!(true));
        world.trouble.drains = Some(2);
        let decision = world.pass(false);
        assert_eq!(decision.hold, Some(Hold::Paused));
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
        for _ in 0..10 {
            assert_eq!(world.pass(false).steps, Vec::new(), "a pause writes nothing else");
            world.tick();
        }
        assert_eq!((world.restarts, world.trouble.drained), (0, 0));
        world.trouble.drains = None;
        world.edit(|spec| spec["paused"] = json!(false));
        world.needed.clear();
        world.settle(true);
        assert_eq!(world.restarts, 3);
    }
}

/// The restart comes after the settings, and so does all that would shut the budget.
#[test]
fn settings_that_are_refused_leave_no_budget_open() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    world.trouble.refuses_settings = true;
    // It stands in the record.
    world.edit(|spec| spec["config"]["topic.default.retention.ms"] = json!("86400000"));
    world.trouble.drains = Some(2);
    for _ in 0..10 {
        let decision = world.pass(false);
        assert!(matches!(decision.roll.step, Some(Step::Restart { .. })));
        assert_eq!(world.budget(), Some(0));
        world.tick();
    }
    assert_eq!((world.restarts, world.trouble.drained), (0, 0));
    world.trouble.refuses_settings = false;
    world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
    world.trouble.drains = None;
    world.needed.clear();
    world.settle(true);
    assert_eq!(world.restarts, 3);
}

/// A pass that takes the last pod away restarts nobody besides.
#[test]
fn a_pod_that_goes_for_good_leaves_no_budget_open() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    let seen = world.seen();
    let decision = decide(&seen);
    let mut passing = Passing {
        world: &mut world,
        seen,
        left: None,
        progress: Progress {
            shrunk: true,
            ..Progress::default()
        },
        pods: 1,
    };
    carry_out(&mut passing, &decision.steps)
        .now_or_never()
        .unwrap()
        .unwrap();
    assert_eq!((world.restarts, world.budget()), (0, Some(0)));
}

/// It is on its way back, and its eviction is refused: the permission is another one by then, and for the same broker.
#[test]
fn the_slot_of_a_broker_that_may_not_be_evicted_again_is_not_given_back() {
    let mut world = on_its_way_back();
    world.trouble.refuses_evictions = true;
    world.edit(|spec| spec["config"] = json!({ "max.connections": "20" }));
    for _ in 0..3 {
        world.pass(false);
        assert_eq!(world.slot.as_ref().map(|(slot, _)| *slot), current(&world));
    }
    assert!(current(&world).is_some());
}

/// Kubernetes counts a pod as one that goes for two minutes after something else has refused that.
#[test]
fn a_budget_is_not_opened_again_and_again_for_an_eviction_that_was_counted_and_refused() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    world.trouble.budgets_lag = false;
    world.judge_budget();
    world.trouble.refuses_counted = true;
    world.pass(false);
    assert_eq!((world.budget(), &world.slot), (Some(0), &None));
    let before = world.trouble.budget_writes;
    for _ in 0..20 {
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
    }
    assert_eq!(world.trouble.budget_writes, before);
    // Then it is tried anew.
    world.trouble.refuses_counted = false;
    for _ in 0..20 {
        world.tick();
        world.pass(false);
    }
    assert_eq!(world.restarts, 1);
}

#[test]
fn a_budget_whose_controller_fails_keeps_no_slot() {
    let mut world = permits_one(1);
    until_opened(&mut world);
    world.trouble.budgets_fail = true;
    world.judge_budget();
    for _ in 0..10 {
        world.pass(false);
        assert_eq!((world.budget(), &world.slot), (Some(0), &None));
    }
    world.trouble.budgets_fail = false;
    world.trouble.budgets_lag = false;
    world.needed.clear();
    world.settle(true);
    assert_eq!(world.restarts, 3);
}

/// A toy one of whose brokers was restarted and catches up.
fn on_its_way_back() -> World {
    let mut world = created(1, 3);
    world.fill(9);
    world.edit(|spec| spec["config"] = json!({ "max.connections": "10" }));
    while world.restarts == 0 {
        world.pass(false);
    }
    let (id, _) = world.slot.clone().unwrap();
    while !world.pods.get(&id).is_some_and(|pod| pod.running) {
        world.tick();
    }
    world.pods.get_mut(&id).unwrap().ready_since = None;
    world.slot = Some((id, "the pod before".into()));
    world
}

fn current(world: &World) -> Option<i32> {
    let mut pods = world.pods.iter();
    pods.find(|(_, pod)| !pod.is_ready()).map(|(id, _)| *id)
}

/// It was restarted into a template that a newer one has followed, and is asked about while it catches up.
#[test]
fn the_slot_of_a_broker_on_its_way_back_is_not_given_back() {
    let mut world = on_its_way_back();
    let id = current(&world).unwrap();
    world.needed = [0, 1, 2].into();
    world.edit(|spec| spec["config"] = json!({ "max.connections": "20" }));
    for _ in 0..3 {
        let step = world.pass(false).roll.step;
        assert!(
            matches!(&step, Some(Step::Restart { candidates, .. }) if *candidates == [id]),
            "{step:?}"
        );
        assert_eq!(world.slot.as_ref().map(|(slot, _)| *slot), Some(id));
    }
    world.needed.clear();
    world.settle(true);
    assert_eq!(world.slot, None);
}
