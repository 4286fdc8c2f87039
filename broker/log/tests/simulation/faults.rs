//! Ends of a process: power cut, kill, clean stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_log::{EpochEntry, Log};

use crate::model::ModelProducer;
use crate::operations::has_segment_at;
use crate::rot::{rot, rot_small_file};
use crate::world::{DIR, PARTITION_DIR, World};

/// Whether a log's producers are these.
fn is_known(log: &Log, producers: &BTreeMap<i64, ModelProducer>) -> bool {
    let last = |known: &ModelProducer| known.batches.last().map_or(-1, |batch| batch.1);
    let expected = producers.iter().map(|(id, known)| (*id, known.epoch, last(known)));
    let found = log.producers();
    let found = found
        .iter()
        .map(|known| (known.producer_id, known.producer_epoch, known.last_sequence));
    found.eq(expected)
}

/// After a crash the log is a prefix of what was appended, covers all that was reported durable, and begins no lower
/// than what was stored.
fn adopt(world: &mut World, what: &str) {
    let log = world.log().clone();
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    world.note(format!("{what}: reopened {start}..{end}, epochs {:?}", log.epochs()));
    let report = log.recovery_report().clone();
    // Where the flushed point is lost, a tail of which only later parts arrived can't be told from damage.
    let unknown = report.flushed_point_unknown;
    assert!(
        unknown || report.damage.is_empty(),
        "a crash is no damage ({what}): {:?}",
        report.damage
    );
    if let Some(first) = report.damage.first() {
        // Nor can a gap between segments be told from a lost segment.
        let gap = world.model.gap_bases.contains(&first.to);
        assert!(
            gap || first.from >= world.model.durable,
            "durable records are damaged: {first:?}"
        );
        // As the replica manager does: what can't be served is fetched again.
        world.turn_all_faults_off();
        // A log start that a full disk could not store is forgotten, and is no bound then.
        world.model.log_start = world.model.log_start.min(start);
        let begins_there = has_segment_at(&log, start);
        let kept = world.model.producers_below(first.from);
        let end = log.truncate_to(first.from.max(start)).unwrap();
        world.lowered_to = 0;
        world.turn_faults_on();
        if end == start && !begins_there && log.segment_sizes() == [(start, 0)] {
            // A deletion that was not answered had moved the log start above all that is left.
            world.model.empty(start, kept);
        } else {
            world.model.truncate(end);
        }
        world.reach("tail taken for damage");
    }
    let end = log.log_end_offset();
    if report.truncated_bytes > 0 {
        world.reach("torn tail");
    }
    if report.flushed_point_unknown {
        world.lowered_to = 0;
        world.reach("flushed point lost");
    }
    if world.model.maybe_emptied_to.is_some() {
        world.lowered_to = 0;
    }
    if let Some((offset, producers)) = world.model.maybe_emptied_to.take()
        && (start, end) == (offset, offset)
        && log.epochs().is_empty()
        && is_known(&log, &producers)
    {
        world.model.empty(offset, producers);
        return;
    }
    let model = &mut world.model;
    assert!(
        end >= model.durable,
        "reported durable up to {}, recovered {end} ({what})",
        model.durable
    );
    assert!(
        end <= model.log_end,
        "cut records came back: end {end} above {} ({what})",
        model.log_end
    );
    let boundary = end == model.log_end
        || end == model.log_start
        || model.gap_bases.contains(&end)
        || model
            .history
            .iter()
            .any(|batch| batch.header.next_offset() == end || batch.header.base_offset == end);
    assert!(boundary, "the log ends within a batch: {end} ({what})");
    assert!(
        start >= model.stored_start.min(end),
        "log start went back to {start} from {} ({what})",
        model.stored_start
    );
    // Nothing lies below the first record that is left, or below a segment behind a gap if none is.
    let first = match model.visible().first() {
        Some(batch) => batch.header.base_offset,
        None => model.gap_bases.iter().copied().fold(model.log_start, i64::max),
    };
    let highest = first.max(model.log_start).max(model.start_may_reach);
    assert!(start <= highest, "log start {start} was never set ({what})");
    model.start_may_reach = 0;
    model.log_start = start;
    if end < model.log_end {
        model.history.retain(|batch| batch.header.last_offset() < end);
        model.log_end = end;
        model.gap_bases.retain(|base| *base <= end);
        model.replay_producers();
    }
    // Epochs without records are lost unless they were flushed.
    let found = log.epochs();
    let mut expected = millrace_log::EpochCache::default();
    for entry in model.epochs.entries() {
        let in_log = model
            .history
            .iter()
            .any(|batch| batch.header.partition_leader_epoch == entry.epoch);
        // One that holds the log start begins there now.
        let moved = EpochEntry {
            start_offset: entry.start_offset.max(start),
            ..*entry
        };
        if in_log || found.contains(entry) || found.contains(&moved) {
            expected.assign(entry.epoch, entry.start_offset);
        }
    }
    // One that began here and wrote nothing durable may be back, although a newer one had taken its place.
    for entry in found.iter().filter(|entry| entry.start_offset == end) {
        expected.assign(entry.epoch, entry.start_offset);
    }
    model.epochs = expected;
    // Recovery syncs what it found.
    model.durable = end;
    world.leader_epoch = world
        .leader_epoch
        .max(log.latest_epoch().map_or(0, |entry| entry.epoch))
        + 1;
}

/// The power goes.
pub fn crash(world: &mut World) {
    world.reach("crash");
    world.disk.crash();
    world.power_was_cut = true;
    damage_derived_files(world);
    world.fail_to_reopen();
    world.reopen();
    adopt(world, "crash");
}

/// The process is killed; the machine lives.
pub fn kill(world: &mut World) {
    world.reach("kill");
    world.disk.kill_process();
    world.fail_to_reopen();
    world.reopen();
    adopt(world, "kill");
}

/// A proper stop. What follows is opened without any scan.
pub fn close_clean(world: &mut World) {
    let dir = world.dir.take().unwrap();
    world.broker_epoch += 1;
    let closed = dir.close_clean(world.broker_epoch);
    world.let_reads_fail(false);
    let durable = world.log().durable_end_offset();
    drop(dir);
    world.note(format!("close: {closed:?}"));
    match closed {
        Ok(()) => {
            let epochs = world.log().epochs();
            world.reach("clean close");
            assert!(!world.offline, "closed an offline directory cleanly");
            world.model.durable = world.model.log_end;
            world.model.stored_start = world.model.log_start;
            if world.rng.below(2) == 0 {
                world.disk.crash();
                world.power_was_cut = true;
            } else {
                world.disk.kill_process();
            }
            // The only moment at which there is a clean mark.
            rot_small_file(world);
            rot(world);
            world.reopen();
            let end = world.model.log_end;
            adopt(world, "clean");
            assert_eq!(world.log().log_end_offset(), end, "a clean close lost records");
            assert!(world.dir.as_ref().unwrap().was_clean());
            let report = world.log().recovery_report();
            assert!(!report.unclean);
            assert_eq!(report.scanned_bytes, 0, "a clean open scans nothing");
            if world.choices.capacity_bytes == u64::MAX {
                assert_eq!(report.replayed_batches, 0, "a clean open replays nothing");
            }
            if world.choices.capacity_bytes == u64::MAX {
                let numbers = |epochs: &[EpochEntry]| epochs.iter().map(|entry| entry.epoch).collect::<Vec<_>>();
                // Epochs without a record may be forgotten, none is made up. Records below the log start that share a
                // segment with it tell of their epochs, too, also if these were forgotten.
                let mut before = numbers(&epochs);
                let history = world.model.history.iter();
                before.extend(history.map(|batch| batch.header.partition_leader_epoch));
                let after = numbers(&world.log().epochs());
                assert!(
                    after.iter().all(|epoch| before.contains(epoch)),
                    "{after:?} after {before:?}"
                );
            }
            let log = world.log();
            if log.segment_sizes().iter().map(|(_, bytes)| bytes).sum::<u64>() > 0 {
                verify_files(world);
            }
        }
        Err(_) => {
            world.model.durable = world.model.durable.max(durable);
            world.disk.crash();
            world.power_was_cut = true;
            world.reopen();
            adopt(world, "failed close");
        }
    }
}

/// After a clean close the files on disk must satisfy every check of `log verify`.
fn verify_files(world: &World) {
    let fs = world.disk.shared();
    let options = millrace_log::dump::VerifyOptions { records: true };
    let dir = Path::new(PARTITION_DIR);
    let report = millrace_log::dump::verify_partition(&*fs, dir, &options).unwrap();
    let mut passed = 0;
    let reports = millrace_log::dump::verify(&*fs, dir, &options, &mut |bytes| passed += bytes).unwrap();
    assert_eq!(
        reports,
        std::slice::from_ref(&report),
        "told while it goes on, and at its end"
    );
    assert_eq!(passed, report.bytes);
    assert_eq!(millrace_log::dump::segment_bytes(&*fs, dir).unwrap(), passed);
    // A full disk takes no index, and a flipped bit stays until somebody stumbles over it.
    let excused = world.choices.capacity_bytes != u64::MAX || world.choices.flip_derived_files;
    assert!(report.problems.is_empty() || excused, "{:#?}", report.problems);
}

/// Flips bits in files that can be rebuilt, and garbles the flushed point.
fn damage_derived_files(world: &mut World) {
    if world.choices.flip_derived_files {
        let derived: Vec<(PathBuf, u64)> = world
            .disk
            .list_files()
            .into_iter()
            .filter(|(path, len)| *len > 0 && path.to_string_lossy().ends_with("index"))
            .collect();
        if !derived.is_empty() {
            let (path, len) = &derived[world.rng.below(derived.len() as u64) as usize];
            let (byte, bit) = (world.rng.below(*len), world.rng.below(8) as u8);
            world.disk.flip_bit(path, byte, bit).unwrap();
            world.reach("index damaged");
        }
    }
    if world.choices.lose_flushed_point && world.rng.below(3) == 0 {
        let path = Path::new(DIR).join("flushed-offset-checkpoint");
        // It is missing from a loss until the next checkpoint.
        if let Ok(bytes) = world.disk.contents(&path) {
            let byte = world.rng.below(bytes.len() as u64 - 1);
            world.disk.flip_bit(&path, byte, 0).unwrap();
        }
    }
}
