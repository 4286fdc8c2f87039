//! All orders of the next few things that can happen, from states in which much is under way.
//! Without drops and repeats, which the random runs have; each message arrives at some time.

use super::{
    basics::{Message, Seen},
    world::World,
};

#[derive(Clone, Copy, Debug)]
enum Choice {
    Deliver(usize),
    Fail(usize),
    Flush(usize),
    FinishIo(usize),
    Image(usize),
    Produce(usize),
    Unfence(i32),
}

fn choices(world: &World) -> Vec<Choice> {
    let mut all = Vec::new();
    for (index, message) in world.messages.iter().enumerate() {
        all.push(Choice::Deliver(index));
        // Its outcome is not known to its sender, and it stays under way.
        if matches!(message, Message::Proposal(_)) {
            all.push(Choice::Fail(index));
        }
    }
    for (at, broker) in world.brokers.iter().enumerate() {
        if broker.is_busy() {
            all.push(Choice::FinishIo(at));
        }
        if broker.replica.log().durable_end < broker.table.end {
            all.push(Choice::Flush(at));
        }
        if broker.image < world.latest_image() {
            all.push(Choice::Image(at));
        }
        // Few records, so that the states stay few.
        if broker.replica.leader().is_some() && broker.table.end < 3 {
            all.push(Choice::Produce(at));
        }
        if world.controller.fenced(broker.id) {
            all.push(Choice::Unfence(broker.id));
        }
    }
    all
}

fn choose(world: &mut World, choice: Choice, seen: &mut Seen) {
    match choice {
        Choice::Deliver(index) => {
            let message = world.messages.remove(index);
            world.deliver(message, 2, seen);
        }
        Choice::Fail(index) => {
            let message = world.messages[index].clone();
            world.fail_call(&message, seen);
        }
        Choice::Flush(at) => world.flush(at, seen),
        Choice::FinishIo(at) => world.finish_io(at, seen),
        Choice::Image(at) => {
            let latest = world.latest_image();
            world.give_image(at, latest, seen);
        }
        Choice::Produce(at) => {
            world.produce(at, seen);
        }
        Choice::Unfence(id) => world.controller.unfence(id, seen),
    }
}

/// Tries every order; answers with how many steps were taken.
fn explore(world: &World, depth: u32, path: &mut Vec<Choice>, seen: &mut Seen) -> u64 {
    if depth == 0 {
        return 0;
    }
    let mut steps = 0;
    for choice in choices(world) {
        path.push(choice);
        let mut next = world.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            choose(&mut next, choice, seen);
            next.check();
        }));
        if let Err(panic) = outcome {
            eprintln!("after {path:?}");
            std::panic::resume_unwind(panic);
        }
        steps += 1 + explore(&next, depth - 1, path, seen);
        path.pop();
    }
    steps
}

/// Broker 0 leads; all have its metadata, and its first record is written at all of them.
fn running(seen: &mut Seen) -> World {
    let mut world = World::new(2, true);
    for at in 0..3 {
        world.give_image(at, 0, seen);
    }
    world.produce(0, seen);
    for _ in 0..2 {
        for message in std::mem::take(&mut world.messages) {
            world.deliver(message, 2, seen);
        }
        for at in 0..3 {
            world.finish_io(at, seen);
        }
    }
    world
}

const DEPTH: u32 = 5;

#[test]
fn a_leader_is_replaced_while_everything_is_under_way() {
    let mut seen = Seen::default();
    let mut world = running(&mut seen);
    world.flush(0, &mut seen);
    world.flush(1, &mut seen);
    world.produce(0, &mut seen);
    world.controller.fence(0, false, &mut seen);
    let steps = explore(&world, DEPTH, &mut Vec::new(), &mut seen);
    eprintln!("{steps} steps, {seen:?}");
    assert!(steps > 10_000 && seen.0.contains_key("became leader"));
}

#[test]
fn a_member_joins_while_its_proposal_is_in_doubt() {
    let mut seen = Seen::default();
    let mut world = running(&mut seen);
    // Broker 2 was out, and is back.
    world.controller.fence(2, false, &mut seen);
    world.controller.unfence(2, &mut seen);
    let latest = world.latest_image();
    for at in 0..3 {
        world.flush(at, &mut seen);
        world.give_image(at, latest, &mut seen);
    }
    for _ in 0..3 {
        for message in std::mem::take(&mut world.messages) {
            if matches!(message, Message::Proposal(_)) {
                world.messages.push(message);
            } else {
                world.deliver(message, 2, &mut seen);
            }
        }
    }
    assert!(
        world
            .messages
            .iter()
            .any(|message| matches!(message, Message::Proposal(_)))
    );
    world.controller.fence(2, false, &mut seen);
    let steps = explore(&world, DEPTH, &mut Vec::new(), &mut seen);
    eprintln!("{steps} steps, {seen:?}");
    assert!(steps > 10_000 && seen.0.contains_key("ineligible member"));
}
