//! Every order of events of three replicas with few records and leader epochs, nearest the start
//! first: who is trusted holds what was committed.

use std::collections::{BTreeSet, VecDeque};

use super::{
    super::*,
    model::{BROKERS, Model, Step},
};

/// The most records and the last leader epoch that are looked at.
const MAX_RECORDS: u32 = 2;
const MAX_LEADER_EPOCH: i32 = 2;

fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Append, Step::Commit];
    for id in 0..BROKERS {
        steps.extend([
            Step::Replicate(id),
            Step::Shrink(id),
            Step::Expand(id),
            Step::Fence(id),
            Step::Unfence(id),
            Step::Crash(id, 0),
            Step::Crash(id, MAX_RECORDS as usize),
            Step::RestartClean(id),
        ]);
    }
    steps
}

/// What tells two states apart, without what only counts up.
fn key(model: &Model) -> String {
    let partition = Partition {
        partition_epoch: 0,
        ..model.partition().clone()
    };
    let lives: Vec<_> = model
        .log
        .cluster
        .brokers
        .values()
        .map(|b| (b.fenced, b.proven, b.last_served_epoch == Some(b.epoch)))
        .collect();
    format!(
        "{partition:?} {lives:?} {:?} {:?} {:?}",
        model.disks, model.committed, model.term
    )
}

/// Looks at all states that one more event makes of the `most` nearest ones; tells how many there
/// were.
fn explore(min_insync: u8, flush: &'static str, most: usize) -> usize {
    let first = Model::new(min_insync, flush);
    let mut seen = BTreeSet::from([key(&first)]);
    let mut open = VecDeque::from([first]);
    let steps = steps();
    let mut looked_at = 0;
    while let Some(model) = open.pop_front() {
        looked_at += 1;
        for step in &steps {
            let mut next = model.clone();
            next.run(step, false);
            next.check().unwrap_or_else(|problem| panic!("{step:?}: {problem}"));
            let within = next.next <= MAX_RECORDS && next.partition().leader_epoch <= MAX_LEADER_EPOCH;
            if within && seen.len() < most && seen.insert(key(&next)) {
                open.push_back(next);
            }
        }
    }
    looked_at
}

#[test]
fn no_order_of_events_makes_a_replica_trusted_that_lacks_what_was_committed() {
    for (min_insync, flush) in [(2, "ack"), (2, "os"), (1, "os")] {
        assert_eq!(explore(min_insync, flush, 1_000), 1_000);
    }
}

/// Minutes long: `cargo test -p millrace-engine -- --ignored --nocapture whole_space`.
#[test]
#[ignore = "takes minutes"]
fn the_whole_space_of_few_events_is_safe() {
    const BOUND: usize = 500_000;
    for (min_insync, flush) in [(2, "ack"), (2, "os")] {
        let states = explore(min_insync, flush, BOUND);
        println!("min ISR {min_insync}, flush={flush}: {states} states");
        assert!(states < BOUND, "the space is larger than what was looked at");
    }
}
