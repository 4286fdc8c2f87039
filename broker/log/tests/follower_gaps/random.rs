//! Random runs of a follower with gaps: the machine dies at each change of the disk, and what is left is compared with a
//! toy model, a list of batches.

use std::collections::BTreeSet;

use bytes::Bytes;
use millrace_log::fs::faulty::{FaultPlan, SplitMix64};
use millrace_proto::batch::BatchView;

use crate::follower::{Follower, fetched};
use crate::stopping::Stopping;

const STEPS: usize = 18;

/// One thing that happens to the log.
#[derive(Clone, Debug)]
enum Step {
    Follow(Vec<Bytes>),
    Flush,
    Checkpoint,
    Roll,
    Truncate(i64),
}

/// What the log must hold.
#[derive(Clone, Default)]
struct Model {
    batches: Vec<Bytes>,
    end: i64,
}

fn span(batch: &Bytes) -> (i64, i64) {
    let header = *BatchView::parse(batch).unwrap().header();
    (header.base_offset, header.next_offset())
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Follow(batches) => {
                self.batches.extend_from_slice(batches);
                self.end = batches.last().map_or(self.end, |batch| span(batch).1);
            }
            Step::Truncate(to) => {
                self.batches.retain(|batch| span(batch).1 <= *to);
                self.end = self.batches.last().map_or(0, |batch| span(batch).1);
            }
            Step::Flush | Step::Checkpoint | Step::Roll => {}
        }
    }
}

/// Steps, and the model after each; `gaps` are there before batches.
fn plan(rng: &mut SplitMix64, gaps: &[i64]) -> Vec<(Step, Model)> {
    let mut model = Model::default();
    let mut epoch = 0;
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let step = match rng.below(12) {
            0 | 1 => Step::Flush,
            2 => Step::Checkpoint,
            3 => Step::Roll,
            4 if model.end > 0 => Step::Truncate(model.end - rng.below(50.min(model.end as u64)) as i64),
            _ => {
                let mut next = model.end;
                let many = 1 + rng.below(4);
                Step::Follow(
                    (0..many)
                        .map(|_| {
                            next += gaps[rng.below(gaps.len() as u64) as usize];
                            epoch += i32::from(rng.below(5) == 0);
                            let records = 1 + rng.below(3) as usize;
                            let batch = fetched(next, records, epoch);
                            next += records as i64;
                            batch
                        })
                        .collect(),
                )
            }
        };
        model.apply(&step);
        steps.push((step, model.clone()));
    }
    steps
}

/// Does a step. False if the disk did not let it.
fn run(follower: &Follower, step: &Step) -> bool {
    let log = follower.log();
    match step {
        Step::Follow(batches) => log.append_as_follower(&batches.concat().into(), i32::MAX, 1000).is_ok(),
        Step::Flush => log.flush().is_ok(),
        Step::Checkpoint => log.flush().is_ok() && follower.dir.as_ref().unwrap().write_checkpoints().is_ok(),
        Step::Roll => log.roll().is_ok(),
        Step::Truncate(to) => log.truncate_to(*to).is_ok(),
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The power goes, and with it all that was not synced.
    LosesAll,
    /// The power goes, and the seed says what is left.
    LosesSome,
    /// As the first, and the flushed point is garbled.
    LosesFlushedPoint,
    /// As the second, and the flushed point is garbled.
    LosesFlushedPointAndSome,
    /// The machine lives.
    Kill,
}

/// Runs a plan until the disk takes no more changes. True if it came to its end.
fn end_after(seed: u64, end: End, steps: &[(Step, Model)], at: u64, seen: &mut BTreeSet<&'static str>) -> bool {
    let mut follower = Follower::new(900, seed);
    let disk = follower.disk.clone();
    let (fs, left) = Stopping::around(disk.shared());
    follower.open_through(&fs);
    left.stop_after(at);
    let mut before = Model::default();
    let mut after = Model::default();
    let mut durable = 0;
    let mut whole = true;
    for (step, model) in steps {
        after = model.clone();
        if matches!(step, Step::Truncate(_)) {
            durable = durable.min(after.end);
        }
        if !run(&follower, step) {
            whole = false;
            break;
        }
        before = model.clone();
        durable = durable.max(follower.log().durable_end_offset());
    }
    follower.log = None;
    follower.dir = None;
    match end {
        End::Kill => disk.kill_process(),
        End::LosesAll | End::LosesSome | End::LosesFlushedPoint | End::LosesFlushedPointAndSome => {
            disk.set_plan(FaultPlan {
                lose_all_unsynced: matches!(end, End::LosesAll | End::LosesFlushedPoint),
                ..FaultPlan::default()
            });
            disk.crash();
        }
    }
    if matches!(end, End::LosesFlushedPoint | End::LosesFlushedPointAndSome) {
        follower.lose_flushed_point();
        seen.insert("flushed point lost");
    }
    let context = format!("seed {seed}, {end:?} after change {at}");
    follower.reopen();
    let damage = follower.log().damage();
    if matches!(end, End::LosesFlushedPoint | End::LosesFlushedPointAndSome) {
        // A tail of which only later parts arrived, or only the name of a later segment, can't be told from damage then.
        if let Some(first) = damage.first() {
            assert!(first.from >= durable, "{context}: {first:?}, durable up to {durable}");
            seen.insert("tail taken for damage");
            follower.log().truncate_to(first.from).unwrap();
        }
    } else {
        assert_eq!(damage, [], "{context}");
    }
    let found = follower.batches();
    let log_end = follower.log().log_end_offset();
    assert!(
        log_end >= durable,
        "{context}: ends at {log_end}, durable up to {durable}"
    );
    assert!(
        before.batches.starts_with(&found) || after.batches.starts_with(&found),
        "{context}: what is left is none of what was appended"
    );
    if log_end < after.end {
        seen.insert("tail lost");
    }
    // What was flushed is there, and what is there is all that its end tells.
    let model = if after.batches.starts_with(&found) {
        &after
    } else {
        &before
    };
    let kept = model.batches.iter().filter(|batch| span(batch).1 <= log_end);
    assert_eq!(found.len(), kept.count(), "{context}");
    follower.verify_files();
    // And it goes on.
    let last = fetched(log_end + 7, 2, 100);
    follower.follow(&last);
    follower.checkpoint();
    follower.kill();
    assert_eq!(follower.log().damage(), [], "{context}");
    assert_eq!(follower.batches(), [found, vec![last]].concat(), "{context}");
    follower.verify_files();
    whole
}

fn end_everywhere(end: End, seeds: u64) -> BTreeSet<&'static str> {
    // Where the flushed point is lost a gap that no segment can span can't be told from a lost segment.
    let widest = match end {
        End::LosesFlushedPoint | End::LosesFlushedPointAndSome => 3_000_000,
        End::LosesAll | End::LosesSome | End::Kill => i64::from(i32::MAX),
    };
    let gaps = [0, 0, 1, 30, 3_000_000, widest];
    let mut seen = BTreeSet::new();
    for seed in 0..seeds {
        let steps = plan(&mut SplitMix64::new(seed), &gaps);
        let mut at = 0;
        while !end_after(seed, end, &steps, at, &mut seen) {
            at += 1;
        }
        assert!(at > 40, "{at} changes are too few for a run");
    }
    seen
}

#[test]
fn a_crash_that_loses_all_that_is_not_synced_takes_no_gap_for_damage() {
    assert_eq!(end_everywhere(End::LosesAll, 6), ["tail lost"].into());
}

#[test]
fn a_crash_that_keeps_some_of_it_takes_no_gap_for_damage() {
    assert_eq!(end_everywhere(End::LosesSome, 10), ["tail lost"].into());
}

#[test]
fn without_the_flushed_point_nothing_is_cut_for_a_gap() {
    let expected = ["flushed point lost", "tail lost", "tail taken for damage"].into();
    assert_eq!(end_everywhere(End::LosesFlushedPoint, 6), expected);
    assert_eq!(end_everywhere(End::LosesFlushedPointAndSome, 10), expected);
}

#[test]
fn a_killed_process_leaves_the_log_whole() {
    end_everywhere(End::Kill, 4);
}
