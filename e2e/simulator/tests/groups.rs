//! Random runs of whole clusters with consumer groups: members and coordinators fail, and so do the brokers below them.
//!
//! The same variables as for `seeds`.
#![allow(clippy::unwrap_used)]

mod support;

use millrace_simulator::{Settings, run};

use self::support::{Runs, hashes_are_equal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT_SEEDS: u64 = 150;

/// What so many random runs must have met: a rule that is never asked is not tested.
const TO_BE_MET: [(&str, u64); 27] = [
    ("append of unknown outcome", 150),
    ("answer of a coordinator lost", 150),
    ("answer waited for the lease", 150),
    ("commit refused", 150),
    ("connection of a member lost", 150),
    ("coordinator began", 150),
    ("coordinator ended", 150),
    ("coordinator loaded", 150),
    ("crash of all", 150),
    ("kill", 150),
    ("late copy of a request", 150),
    ("member began anew", 150),
    ("member failed", 150),
    ("member froze", 150),
    ("member killed", 150),
    ("member left", 150),
    ("offset committed", 150),
    ("offset reset", 150),
    ("partition acquired", 150),
    ("partition added", 150),
    ("partition lost", 150),
    ("partition released", 150),
    ("records of groups refused", 150),
    ("session over", 150),
    ("start looked up", 150),
    ("state of groups rebuilt", 150),
    ("stream broken", 150),
];

#[test]
fn every_seed_keeps_every_rule_of_groups() {
    Runs {
        default_seeds: DEFAULT_SEEDS,
        to_be_met: &TO_BE_MET,
        test: "groups",
        settings: |seed| Some(Settings::draw_groups(seed)),
    }
    .all();
}

#[test]
fn the_same_seed_gives_the_same_trace_of_groups() {
    for seed in 0..5 {
        let settings = || Some(Settings::draw_groups(seed));
        hashes_are_equal(seed, run(seed, settings(), true), run(seed, settings(), true));
    }
}
