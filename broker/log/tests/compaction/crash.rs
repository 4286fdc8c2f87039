//! A crash at each change of the disk, from the beginning of a round to its end.

use std::path::Path;

use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{CompactionBounds, CompactionStep, LogConfig};

use crate::broker::{Broker, DAY_MS, config, options};
use crate::stopping::Stopping;

/// A log with much to do: several groups, tombstones whose time has come and others, a cleaned part and a dirty one.
fn dirty_log(seed: u64) -> Broker {
    let mut broker = Broker::new(
        LogConfig {
            segment_bytes: 700,
            ..config()
        },
        seed,
    );
    let fill = |broker: &mut Broker, from: usize| {
        for number in from..from + 24 {
            let (first, second) = (format!("k{}={number}", number % 7), format!("t{}", number % 5));
            let second = if number % 2 == 0 {
                second
            } else {
                format!("{second}={number}")
            };
            broker.put(&[&first, &second]);
            if number % 3 == 2 {
                broker.roll();
            }
        }
    };
    fill(&mut broker, 0);
    broker.put(&["gone=1"]);
    broker.put(&["gone"]);
    broker.put(&["once=1"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    fill(&mut broker, 100);
    broker.now_ms += 2 * DAY_MS;
    broker.log().flush().unwrap();
    broker.dir.as_ref().unwrap().write_checkpoints().unwrap();
    broker
}

/// A whole round, or as much as the disk lets through.
fn run(broker: &Broker, bounds: &CompactionBounds) -> bool {
    let Ok(Some(mut round)) = broker.log().begin_compaction(|| *bounds, &options(), broker.now_ms) else {
        return false;
    };
    loop {
        match round.step(300, broker.now_ms) {
            Ok(CompactionStep::More) => {}
            Ok(CompactionStep::Done(report)) => return report.cleaned_offset.is_some(),
            Err(_) => return false,
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The power goes, and with it all that was not synced.
    LosesAll,
    /// The power goes, and the seed says what is left.
    LosesSome,
    /// The same, and the flushed point is garbled.
    LosesFlushedPoint,
    /// The machine lives.
    Kill,
}

fn end_everywhere(end: End, seeds: u64) {
    for seed in 0..seeds {
        let mut broker = dirty_log(seed);
        let bounds = broker.bounds();
        broker.model.untouched_from = bounds.high_watermark;
        let mut at = 0;
        while !end_after(&broker, &bounds, end, at) {
            at += 1;
        }
        assert!(at > 40, "{at} changes are too few for a round");
    }
}

/// A tombstone that is gone and that nothing has replaced is told of.
fn check_gone(before: &Broker, after: &Broker) {
    let (had, has) = (before.texts(), after.texts());
    let gone_below = after.log().tombstones_gone_below().unwrap();
    let is_last = |offset: i64, key: &str| {
        let later = had.iter().filter(|(other, _)| *other > offset);
        later
            .map(|(_, text)| text.split('=').next())
            .all(|other| other != Some(key))
    };
    for (offset, key) in had
        .iter()
        .filter(|(offset, text)| !text.contains('=') && is_last(*offset, text))
    {
        assert!(
            *offset < gone_below || has.contains(&(*offset, key.clone())),
            "{key} at {offset} is gone, and they are told to be gone below {gone_below}"
        );
    }
}

/// Ends a round after so many changes of the disk. True if it was at its end before that.
fn end_after(broker: &Broker, bounds: &CompactionBounds, end: End, at: u64) -> bool {
    let disk = broker.disk.copy();
    let (fs, left) = Stopping::around(disk.shared());
    let mut fork = broker.fork(disk.clone(), &fs);
    left.stop_after(at);
    let was_whole = run(&fork, bounds) && left.made() < at;
    if end == End::Kill {
        disk.kill_process();
    } else {
        disk.set_plan(FaultPlan {
            lose_all_unsynced: end == End::LosesAll,
            ..FaultPlan::default()
        });
        disk.crash();
    }
    if end == End::LosesFlushedPoint {
        let path = Path::new("/data/flushed-offset-checkpoint");
        disk.flip_bit(path, 3, 0).unwrap();
    }
    fork.reopen();
    assert_eq!(fork.log().damage(), [], "a crash is no damage: after change {at}");
    fork.check();
    check_gone(broker, &fork);
    let is_leftover = |path: &Path| {
        [".swap", ".cleaned"]
            .iter()
            .any(|end| path.to_string_lossy().ends_with(end))
    };
    let files = disk.list_files();
    let leftovers: Vec<_> = files.iter().filter(|(path, _)| is_leftover(path)).collect();
    assert!(leftovers.is_empty(), "{leftovers:?} after change {at}");
    // And what was begun can be brought to its end.
    fork.compact().unwrap();
    fork.check();
    fork.reopen();
    fork.check();
    was_whole
}

#[test]
fn a_crash_that_loses_all_that_is_not_synced_harms_nothing() {
    end_everywhere(End::LosesAll, 1);
}

#[test]
fn a_crash_that_keeps_some_of_it_harms_nothing() {
    end_everywhere(End::LosesSome, 6);
}

#[test]
fn a_crash_that_takes_the_flushed_point_with_it_takes_no_gap_for_damage() {
    end_everywhere(End::LosesFlushedPoint, 2);
}

#[test]
fn a_killed_process_leaves_the_log_whole() {
    end_everywhere(End::Kill, 1);
}
