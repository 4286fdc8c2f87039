//! What random runs share.

use std::{collections::BTreeMap, time::Instant};

use millrace_simulator::{Failure, Settings, Summary, run};

/// How a run ended.
pub type Ended = Result<Summary, Box<Failure>>;

/// Random runs, as the environment asks for them.
pub struct Runs<'a> {
    pub default_seeds: u64,
    /// What so many runs must have met.
    pub to_be_met: &'a [(&'a str, u64)],
    /// The test's name, for the command that replays a seed.
    pub test: &'a str,
    pub settings: fn(u64) -> Option<Settings>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

impl Runs<'_> {
    fn print(&self, failure: &Failure) {
        let told = run(failure.seed, (self.settings)(failure.seed), true).expect_err("it failed before");
        for line in &told.trace {
            println!("{line}");
        }
        println!(
            "seed {}: {}: {}",
            failure.seed, told.violation.rule, told.violation.seen
        );
        println!(
            "replay: MILLRACE_SIM_SEED={} cargo test --profile dist -p millrace-simulator --test {} -- --nocapture",
            failure.seed, self.test
        );
    }

    /// Runs all seeds; panics if one broke a rule, or what must be met was not.
    pub fn all(&self) {
        let seeds = match number("MILLRACE_SIM_SEED") {
            Some(seed) => seed..seed + 1,
            None => {
                let first = number("MILLRACE_SIM_FIRST_SEED").unwrap_or(0);
                first..first + number("MILLRACE_SIM_SEEDS").unwrap_or(self.default_seeds)
            }
        };
        let fail_fast = number("MILLRACE_SIM_FAIL_FAST").is_some_and(|on| on > 0);
        let began = Instant::now();
        let count = seeds.end - seeds.start;
        let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
        let mut failed: Vec<Failure> = Vec::new();
        let (mut events, mut stored) = (0, 0);
        for seed in seeds {
            match run(seed, (self.settings)(seed), false) {
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
            self.print(first);
            let list: Vec<String> = failed
                .iter()
                .map(|one| format!("{}: {}", one.seed, one.violation.rule))
                .collect();
            panic!("{} of {count} seeds failed:\n{}", failed.len(), list.join("\n"));
        }
        let missed: Vec<&str> = self
            .to_be_met
            .iter()
            .filter(|(what, within)| count >= *within && !reached.contains_key(what))
            .map(|(what, _)| *what)
            .collect();
        assert!(missed.is_empty(), "none of {count} seeds met {missed:?}");
    }
}

/// Two runs of one seed are the same.
pub fn hashes_are_equal(seed: u64, one: Ended, other: Ended) {
    match (one, other) {
        (Ok(one), Ok(other)) => {
            assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
            assert_eq!(one.reached, other.reached, "seed {seed}");
        }
        (Err(one), Err(other)) => assert_eq!(one.trace, other.trace, "seed {seed}"),
        _ => panic!("seed {seed} fails only once"),
    }
}
