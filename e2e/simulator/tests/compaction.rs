//! Random runs of whole clusters with a compacted topic: each replica compacts its own log, at its own pace, while brokers
//! fail; and the same where the records are those of consumer groups, which coordinators read back.
//!
//! The same variables as for `seeds`.
#![allow(clippy::unwrap_used)]

mod support;

use millrace_simulator::{Settings, run};

use self::support::{Runs, hashes_are_equal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT_SEEDS: u64 = 150;
const DEFAULT_SEEDS_OF_GROUPS: u64 = 100;

/// What so many random runs must have met: a rule that is never asked is not tested.
const TO_BE_MET: [(&str, u64); 23] = [
    ("a reader's records were deleted", 150),
    ("all records deleted", 150),
    ("bit flipped", 150),
    ("crash of all", 150),
    ("death in a step of compaction", 150),
    ("disk wiped", 150),
    ("disks swapped", 150),
    ("duplicate recognised", 150),
    ("eligible leader elected", 150),
    ("gap copied", 150),
    ("log begun anew", 150),
    ("log cut", 150),
    ("log of a deleted topic removed", 150),
    ("log read from its start in time", 150),
    ("log read from its start too late", 150),
    ("logs diverged", 150),
    ("records consumed", 150),
    ("records replaced by later ones", 150),
    ("round of compaction", 150),
    ("round of compaction overtaken by a cut", 150),
    ("round of compaction refused", 150),
    ("tombstone gone", 150),
    ("tombstone gone before it was copied", 150),
];
const TO_BE_MET_BY_GROUPS: [(&str, u64); 11] = [
    ("coordinator ended", 100),
    ("coordinator loaded", 100),
    ("death in a step of compaction", 100),
    ("gap copied", 100),
    ("log read from its start in time", 100),
    ("offset committed", 100),
    ("offset reset", 100),
    ("records replaced by later ones", 100),
    ("round of compaction", 100),
    ("state of groups rebuilt", 100),
    ("tombstone gone", 100),
];

#[test]
fn every_seed_keeps_every_rule_of_compaction() {
    Runs {
        default_seeds: DEFAULT_SEEDS,
        to_be_met: &TO_BE_MET,
        test: "compaction",
        settings: |seed| Some(Settings::draw_compacted(seed)),
    }
    .all();
}

#[test]
fn every_seed_keeps_every_rule_of_groups_in_a_compacted_topic() {
    Runs {
        default_seeds: DEFAULT_SEEDS_OF_GROUPS,
        to_be_met: &TO_BE_MET_BY_GROUPS,
        test: "compaction",
        settings: |seed| Some(Settings::draw_compacted_groups(seed)),
    }
    .all();
}

#[test]
fn the_same_seed_gives_the_same_trace_of_compaction() {
    for seed in 0..5 {
        let settings = || Some(Settings::draw_compacted(seed));
        hashes_are_equal(seed, run(seed, settings(), true), run(seed, settings(), true));
    }
}
