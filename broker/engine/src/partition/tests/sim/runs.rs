//! Random runs: faults of all kinds at rates that each seed draws, then a time without.

use std::time::Duration;

use super::{
    basics::{Message, Random, Seen},
    world::{IDS, World},
};
use crate::partition::Event;

/// How a run goes; each seed draws its own (some rates are zero).
struct Rates {
    drop: usize,
    repeat: usize,
    crash: usize,
    fence: usize,
    flush: usize,
    delete: usize,
    unknown: usize,
    change: usize,
}

impl World {
    fn random_step(&mut self, random: &mut Random, rates: &Rates, seen: &mut Seen) {
        let at = random.below(3);
        match random.below(12) {
            0..=4 if !self.messages.is_empty() => {
                let index = random.below(self.messages.len());
                if rates.repeat > 0 && random.one_in(rates.repeat) {
                    let message = self.messages[index].clone();
                    self.deliver(message, 1 + random.below(4), seen);
                    return;
                }
                let message = self.messages.swap_remove(index);
                if rates.drop > 0 && random.one_in(rates.drop) {
                    self.fail_call(&message, seen);
                } else if rates.unknown > 0 && matches!(message, Message::Proposal(_)) && random.one_in(rates.unknown) {
                    // Late: the sender gives up, and a copy is still under way.
                    self.fail_call(&message, seen);
                    self.messages.push(message);
                } else {
                    self.deliver(message, 1 + random.below(4), seen);
                }
            }
            5 => drop(self.produce(at, seen)),
            6 if random.one_in(rates.flush) => self.flush(at, seen),
            7 => self.finish_io(at, seen),
            8 => {
                let (from, to) = (self.brokers[at].image, self.latest_image());
                self.give_image(at, from + random.below(to - from + 1), seen);
            }
            9 => {
                self.now += Duration::from_millis(random.below(12) as u64);
                for at in 0..3 {
                    self.step(at, Event::Tick, seen);
                }
            }
            10 if rates.fence > 0 && random.one_in(rates.fence) => {
                if random.one_in(2) {
                    let id = IDS[at];
                    if !self.controller.fenced(id) {
                        self.controller.fence(id, false, seen);
                    }
                } else {
                    self.controller.unfence(IDS[at], seen);
                }
            }
            10 if rates.change > 0 && random.one_in(rates.change) => {
                let required = 1 + random.below(3);
                self.least_required = self.least_required.min(required);
                self.controller.set_required(required);
                seen.note("requirement changed");
            }
            11 if rates.crash > 0 && random.one_in(rates.crash) => self.restart(at, random, seen),
            11 if rates.delete > 0 && random.one_in(rates.delete) => self.delete(at, random, seen),
            _ => {
                let broker = &mut self.brokers[at];
                broker.checkpoint = broker.replica.high_watermark();
            }
        }
    }

    fn delete(&mut self, at: usize, random: &mut Random, seen: &mut Seen) {
        let broker = &mut self.brokers[at];
        let room = broker.replica.high_watermark() - broker.table.start;
        if broker.replica.leader().is_some() && room > 0 && broker.io.is_none() {
            let to = broker.table.start + i64::try_from(random.below(usize::try_from(room).unwrap() + 1)).unwrap();
            broker.advance_start(to);
            self.step(at, Event::LogStartMoved { log_start: to }, seen);
        }
    }

    /// The faults end: all must come in sync, and all that is in the log gets committed.
    fn heal(&mut self, random: &mut Random, seen: &mut Seen) {
        for id in IDS {
            self.controller.unfence(id, seen);
        }
        for _ in 0..3000 {
            while !self.messages.is_empty() {
                let message = self.messages.swap_remove(random.below(self.messages.len()));
                self.deliver(message, 4, seen);
                if self.messages.len() > 500 || random.one_in(20) {
                    break;
                }
            }
            let image = self.latest_image();
            for at in 0..3 {
                if self.brokers[at].image != image {
                    self.give_image(at, image, seen);
                }
                self.finish_io(at, seen);
                self.flush(at, seen);
                self.step(at, Event::Tick, seen);
            }
            self.now += Duration::from_millis(3);
            self.check();
            if self.is_whole() {
                return;
            }
        }
        panic!("does not heal: {:?}", self.controller.partition);
    }

    fn is_whole(&self) -> bool {
        let leader = self.controller.partition.leader.and_then(|id| usize::try_from(id).ok());
        let Some(leader) = leader.map(|at| &self.brokers[at]) else {
            return false;
        };
        self.controller.partition.isr.len() == 3
            && self.brokers.iter().all(|broker| {
                broker.replica.high_watermark() == leader.table.end && broker.table.end == leader.table.end
            })
    }
}

fn run(seed: u64, steps: usize, seen: &mut Seen) -> World {
    let mut random = Random::new(seed);
    let required = 1 + random.below(3);
    let mut world = World::new(required, random.one_in(2));
    let mut rate = |choices: &[usize]| choices[random.below(choices.len())];
    let rates = Rates {
        drop: rate(&[0, 4, 20]),
        repeat: rate(&[0, 3, 10]),
        crash: rate(&[0, 10, 40]),
        fence: rate(&[0, 5, 20]),
        flush: rate(&[1, 2, 6]),
        delete: rate(&[0, 3, 10]),
        unknown: rate(&[0, 2, 5]),
        change: rate(&[0, 3, 10]),
    };
    // How many disks may be lost is a matter of what was required all along.
    if rates.change > 0 {
        world.lossy_left = 0;
    }
    for _ in 0..steps {
        world.random_step(&mut random, &rates, seen);
        world.check();
    }
    world.heal(&mut random, seen);
    world
}

/// How many runs; more from the environment, for a long search.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("MILLRACE_PARTITION_SEEDS").ok();
    let first = std::env::var("MILLRACE_PARTITION_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..count.and_then(|count| count.parse().ok()).unwrap_or(400),
    }
}

#[test]
fn nothing_committed_is_lost_in_any_order() {
    let mut seen = Seen::default();
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| {
            let mut seen = Seen::default();
            let world = run(seed, 1500, &mut seen);
            (seen, world.committed.len())
        });
        match result {
            Ok((noted, committed)) => {
                for (what, count) in noted.0 {
                    *seen.0.entry(what).or_default() += count;
                }
                *seen.0.entry("committed").or_default() += u32::try_from(committed).unwrap();
            }
            Err(panic) => {
                eprintln!("seed {seed} fails");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{seen:?}");
    for what in [
        "committed",
        "became leader",
        "leader elected",
        "eligible leader elected",
        "leaderless",
        "acknowledged",
        "diverged",
        "cut",
        "out of range",
        "begun anew",
        "equal proposal",
        "ineligible member",
        "requirement changed",
        "superseded",
        "disk lost",
    ] {
        assert!(seen.0.contains_key(what), "no run came to: {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let outcome = |seed| {
        let mut seen = Seen::default();
        let world = run(seed, 800, &mut seen);
        format!("{:?} {:?} {:?}", seen, world.committed, world.controller.partition)
    };
    for seed in 0..5 {
        assert_eq!(outcome(seed), outcome(seed));
    }
}
