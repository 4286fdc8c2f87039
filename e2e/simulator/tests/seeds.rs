//! Random runs of whole clusters.
//!
//! `MILLRACE_SIM_SEEDS` says how many seeds and `MILLRACE_SIM_FIRST_SEED` where they begin;
//! `MILLRACE_SIM_SEED` replays one and prints its settings and the end of its trace;
//! `MILLRACE_SIM_FAIL_FAST=1` ends with the first seed that fails.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Instant};

use millrace_simulator::{Failure, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT_SEEDS: u64 = 300;

/// What so many random runs must have met: a rule that is never asked is not tested.
///
/// Not here: "log below the floor". That is how an image of the present life is found out, and random
/// runs restore images of earlier ones only, for above the floor nothing tells the former.
const TO_BE_MET: [(&str, u64); 19] = [
    ("logs diverged", 300),
    ("log cut", 300),
    ("leaderless", 300),
    ("eligible leader elected", 300),
    ("duplicate recognised", 300),
    ("disk restored from an image", 300),
    ("disks swapped", 300),
    ("quorum leader changed", 300),
    ("left down", 300),
    ("core healed alone", 300),
    ("flush altered", 300),
    ("min.insync.replicas altered", 300),
    ("log of a deleted topic set aside", 300),
    ("bit flipped", 300),
    ("all records deleted", 300),
    ("a reader's records were deleted", 300),
    ("replication factor changed", 300),
    // Seldom does somebody read there.
    ("damage found", 2_000),
    // About one run in a hundred.
    ("superseding proposal", 2_000),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn print(failure: &Failure) {
    let told = run(failure.seed, None, true).expect_err("it failed before");
    for line in &told.trace {
        println!("{line}");
    }
    println!(
        "seed {}: {}: {}",
        failure.seed, told.violation.rule, told.violation.seen
    );
    println!(
        "replay: MILLRACE_SIM_SEED={} cargo test --profile dist -p millrace-simulator --test seeds -- --nocapture",
        failure.seed
    );
}

#[test]
fn every_seed_keeps_every_rule() {
    let seeds = match number("MILLRACE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("MILLRACE_SIM_FIRST_SEED").unwrap_or(0);
            first..first + number("MILLRACE_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS)
        }
    };
    let fail_fast = number("MILLRACE_SIM_FAIL_FAST").is_some_and(|on| on > 0);
    let began = Instant::now();
    let count = seeds.end - seeds.start;
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed: Vec<Failure> = Vec::new();
    let (mut events, mut stored) = (0, 0);
    for seed in seeds {
        match run(seed, None, false) {
            Ok(summary) => {
                events += summary.events;
                stored += summary.stored;
                for (what, times) in summary.reached {
                    *reached.entry(what).or_insert(0) += times;
                }
            }
            Err(failure) => failed.push(*failure),
        }
        if fail_fast && !failed.is_empty() {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{reached:#?}");
    println!(
        "{count} seeds, {events} events, {stored} batches stored, {:.1} seeds a second",
        count as f64 / seconds
    );
    if let Some(first) = failed.first() {
        print(first);
        let list: Vec<String> = failed
            .iter()
            .map(|one| format!("{}: {}", one.seed, one.violation.rule))
            .collect();
        panic!("{} of {count} seeds failed:\n{}", failed.len(), list.join("\n"));
    }
    let missed: Vec<&str> = TO_BE_MET
        .iter()
        .filter(|(what, within)| count >= *within && !reached.contains_key(what))
        .map(|(what, _)| *what)
        .collect();
    assert!(missed.is_empty(), "none of {count} seeds met {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..30 {
        let (one, other) = (run(seed, None, true), run(seed, None, true));
        match (one, other) {
            (Ok(one), Ok(other)) => {
                assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
                assert_eq!(one.reached, other.reached, "seed {seed}");
            }
            (Err(one), Err(other)) => assert_eq!(one.trace, other.trace, "seed {seed}"),
            _ => panic!("seed {seed} fails only once"),
        }
    }
}
