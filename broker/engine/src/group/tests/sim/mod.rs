//! A group under faults: requests and answers that are lost, late or come twice, members that
//! freeze, die and restart, coordinators that fail over with part of their log. After each step
//! the promises are checked; in the end all must be well.

mod checks;
mod client;
mod random;
mod world;

use std::collections::BTreeMap;

use self::{random::Random, world::World};

/// What happened in runs, so that a run in which nothing did is no proof.
pub(super) type Seen = BTreeMap<&'static str, u64>;

fn run(seed: u64, steps: usize, seen: &mut Seen) {
    let mut world = World::new(Random::new(seed));
    for step in 0..steps {
        world.step(seen);
        if let Err(problem) = world.check() {
            panic!("seed {seed}, step {step}: {problem}");
        }
    }
    if let Err(problem) = world.heal(seen) {
        panic!("seed {seed}, at the end: {problem}");
    }
}

const MUST_BE_SEEN: [&str; 17] = [
    "acquired",
    "revoked",
    "fenced",
    "bound passed",
    "commit accepted",
    "commit refused",
    "late copy",
    "held up",
    "answer lost",
    "request lost",
    "refused append",
    "failover with lost tail",
    "failover",
    "froze",
    "killed",
    "static restart",
    "taken over",
];

#[test]
fn no_partition_has_two_owners_and_no_offset_falls() {
    let mut seen = Seen::new();
    for seed in 0..100 {
        run(seed, 600, &mut seen);
    }
    println!("{seen:?}");
    for what in MUST_BE_SEEN {
        assert!(
            seen.get(what).is_some_and(|count| *count >= 10),
            "{what} was not seen enough: {seen:?}"
        );
    }
}

/// Minutes long: `cargo test -p millrace-engine -- --ignored --nocapture many_runs_of_a_group`.
#[test]
#[ignore = "takes minutes"]
fn many_runs_of_a_group() {
    let mut seen = Seen::new();
    for seed in 1_000..11_000 {
        run(seed, 600, &mut seen);
    }
    println!("{seen:?}");
}

#[test]
fn a_seed_makes_the_same_run() {
    let runs = [0, 1].map(|_| {
        let mut world = World::new(Random::new(7));
        let mut seen = Seen::new();
        for _ in 0..300 {
            world.step(&mut seen);
        }
        (format!("{:?}", world.log), seen)
    });
    assert_eq!(runs[0], runs[1]);
}
