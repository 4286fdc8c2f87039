//! Known ways to lose, double or reorder records, each told in words. A leads unless said: the
//! broker with index 0; B and C are 1 and 2.
#![allow(clippy::unwrap_used)]

mod compaction;
mod disks;
mod flushes;
mod leaders;
mod proposals;
mod readers;
mod topics;

use std::time::Duration;

use millrace_simulator::{Settings, World};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
/// Where there are more than three brokers: holds no replica.
const D: usize = 3;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three brokers, one partition on all of them, two must be in sync; all are.
fn cluster() -> World {
    let mut world = World::new(1, Some(Settings::calm()), true);
    assert!(world.run_until_whole(), "{:?}", world.violation());
    assert_eq!(world.leader(0), Some(A));
    world
}

/// The cluster with some acknowledged records.
fn cluster_with_records() -> World {
    let mut world = cluster();
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(1));
    world
}

/// A cluster with some acknowledged records and more brokers than replicas. D is the controller:
/// with any one of the replicas' brokers, those that hold none are a majority.
fn cluster_with_voters(settings: Settings) -> World {
    seeded_cluster_with_voters(1, settings)
}

fn seeded_cluster_with_voters(seed: u64, settings: Settings) -> World {
    let mut world = World::new(seed, Some(settings), true);
    assert!(world.run_until_whole(), "{:?}", world.violation());
    assert_eq!(world.leader(0), Some(A));
    world.move_controller(D);
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(1));
    world
}

/// All is well again: no rule was broken, everybody is in sync, and a record is taken.
fn ends_well(world: &mut World) {
    ends_well_in(world, 0);
}

fn ends_well_in(world: &mut World, partition: u32) {
    let record = |world: &World| world.record(partition).cloned();
    assert!(world.run_until_whole(), "{:?} {:?}", world.violation(), record(world));
    assert!(world.produce_and_wait(partition), "{:?}", world.violation());
    // Between two tries of what may wait: nothing is under way then.
    world.run_for(seconds(2) + seconds(1) / 10);
    world.check_end();
    assert_eq!(world.violation(), None);
    let replicas = record(world).unwrap().replicas;
    let end = |id: &i32| world.log_end(usize::try_from(*id).unwrap(), partition);
    let ends: Vec<Option<i64>> = replicas.iter().map(end).collect();
    assert!(ends[0].is_some() && ends.iter().all(|end| *end == ends[0]), "{ends:?}");
}
