//! The operations, drawn at random; each one is done to the log and to the model.

use std::collections::BTreeMap;

use millrace_log::producer::{ProducerEntry, ProducerState, RememberedBatch};
use millrace_log::{AppendError, AppendOptions, ChangeError, FlushError, Log};

use crate::appends::{append, build, conditional, follow, retry};
use crate::faults;
use crate::model::ModelProducer;
use crate::rot::{rot, rot_small_file};
use crate::world::{Lie, TOPIC, World};

pub fn step(world: &mut World, step: usize) {
    world.now_ms += world.rng.below(200) as i64;
    world.disk.set_clock_ms(world.now_ms);
    world.lowered_to = i64::MAX;
    world.power_was_cut = false;
    world.note(format!("step {step}"));
    if world.offline {
        world.reach("offline");
        check_nothing_succeeds(world);
        if world.rng.below(2) == 0 {
            faults::crash(world)
        } else {
            faults::kill(world)
        }
        return;
    }
    if world.rng.below(100) < world.choices.crash_percent {
        if world.rng.below(3) == 0 {
            faults::kill(world)
        } else {
            faults::crash(world)
        }
        return;
    }
    world.let_reads_fail(true);
    match world.rng.below(106) {
        0..35 => append(world),
        35..45 => retry(world),
        45..52 => follow(world),
        52..65 => flush(world),
        65..69 => roll(world),
        69..76 => truncate(world),
        76..77 => truncate_fully(world),
        77..83 => retention(world),
        83..87 => delete_records(world),
        87..93 => checkpoint(world),
        93..96 => assign_epoch(world),
        96..97 => faults::close_clean(world),
        97..100 => conditional(world),
        100..103 => rot(world),
        _ => rot_small_file(world),
    }
    world.let_reads_fail(false);
}

/// After a failed write or fsync no success may be reported (Rebello et al., ATC'20).
fn check_nothing_succeeds(world: &mut World) {
    let log = world.log().clone();
    let batch = build(world, None);
    let appended = log.append_as_leader(&batch, i32::MAX, world.now_ms, &AppendOptions::default());
    assert!(matches!(appended, Err(AppendError::Offline(_))), "{appended:?}");
    assert!(matches!(log.flush(), Err(FlushError::Offline(_))));
    assert!(matches!(log.truncate_to(0), Err(ChangeError::Offline(_))));
    assert!(world.dir.as_ref().unwrap().write_checkpoints().is_err());
}

pub fn flush(world: &mut World) {
    if world.lie == Lie::FlushNotMade {
        world.model.durable = world.model.log_end;
        return;
    }
    let result = world.log().flush();
    world.note(format!("flush: {result:?}"));
    match result {
        Ok(durable) => {
            assert_eq!(
                durable, world.model.log_end,
                "a flush covers all that was appended before"
            );
            world.model.durable = durable;
        }
        Err(FlushError::Offline(_)) => world.offline = true,
        Err(error) => panic!("{error}"),
    }
}

/// Notes a change that the disk may refuse. Returns what it gave, if it was made.
fn changed<T: std::fmt::Debug>(world: &mut World, what: &str, result: Result<T, ChangeError>) -> Option<T> {
    world.note(format!("{what}: {result:?}"));
    match result {
        Ok(value) => Some(value),
        Err(ChangeError::Refused(reason)) => {
            assert!(
                world.choices.capacity_bytes < u64::MAX || reason.contains("injected I/O error: read"),
                "{what} was refused without a full disk: {reason}"
            );
            None
        }
        Err(ChangeError::Offline(_)) => {
            world.offline = true;
            None
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

fn roll(world: &mut World) {
    let result = if world.rng.below(2) == 0 {
        world.log().roll()
    } else {
        world.log().roll_if_due(world.now_ms)
    };
    if changed(world, "roll", result) == Some(true) {
        world.reach("rolled");
    }
}

fn truncate(world: &mut World) {
    let (start, end) = (world.model.log_start, world.model.log_end);
    // Mostly near the end.
    let span = (end - start + 2).min(if world.rng.below(3) == 0 { i64::MAX } else { 12 });
    let offset = end + 1 - world.rng.below(span as u64) as i64;
    let sealed = world
        .log()
        .segment_sizes()
        .last()
        .is_some_and(|(base, _)| *base > offset);
    if world.lie == Lie::TruncationNotMade {
        world.model.truncate(offset.max(start));
        return;
    }
    let begins_there = has_segment_at(world.log(), start);
    let kept = world.model.producers_below(offset.max(start));
    let result = world.log().truncate_to(offset.max(start));
    match changed(world, &format!("truncate to {offset}"), result) {
        Some(new_end) => {
            let began_anew = !begins_there && world.log().segment_sizes() == [(start, 0)];
            if new_end == start && began_anew {
                // Nothing readable was left.
                world.model.empty(start, kept);
            }
            assert_eq!(new_end, world.model.truncate(offset.max(start)));
            world.lowered_to = if began_anew { 0 } else { new_end };
            world.reach("truncated");
            if sealed {
                world.reach("truncated sealed");
            }
        }
        // Part of it may have happened.
        None if world.offline => {
            let lowest = world.model.clone().truncate(offset.max(start));
            world.model.maybe_emptied_to = Some((start, kept));
            world.lowered_to = 0;
            world.model.durable = world.model.durable.min(lowest);
        }
        // The durable end may have been lowered; a flush raises it again.
        None => {
            world.lowered_to = world.log().durable_end_offset();
            world.model.durable = world.model.durable.min(world.log().durable_end_offset());
        }
    }
}

/// Whether cutting to `offset` leaves an empty segment there without the log beginning anew.
pub fn has_segment_at(log: &Log, offset: i64) -> bool {
    log.segment_sizes().iter().any(|(base, _)| *base == offset)
}

/// What a log that another broker holds tells of producers below an offset.
fn told_by_another(world: &mut World, offset: i64) -> BTreeMap<i64, ModelProducer> {
    let mut known = BTreeMap::new();
    for id in 0..3 {
        let records = 1 + world.rng.below(5) as i32;
        let base_offset = offset - i64::from(records) - world.rng.below(3) as i64;
        if base_offset >= 0 && world.rng.below(2) == 0 {
            let base_sequence = world.rng.below(20) as i32;
            let epoch = world.rng.below(3) as i16;
            let batches = vec![(base_sequence, base_sequence + records - 1, base_offset)];
            known.insert(id, ModelProducer { epoch, batches });
        }
    }
    known
}

fn entry_of(known: &ModelProducer) -> ProducerEntry {
    let batches = known
        .batches
        .iter()
        .map(|(base_sequence, last_sequence, base_offset)| RememberedBatch {
            base_sequence: *base_sequence,
            last_sequence: *last_sequence,
            base_offset: *base_offset,
            last_offset: base_offset + i64::from(last_sequence - base_sequence),
            timestamp: 7,
        });
    ProducerEntry {
        epoch: known.epoch,
        batches: batches.collect(),
        last_timestamp: 7,
        last_used_ms: None,
        coordinator_epoch: -1,
        transaction_first_offset: -1,
    }
}

fn truncate_fully(world: &mut World) {
    let offset = world.model.log_start + world.rng.below(40) as i64;
    world.lowered_to = 0;
    let known = told_by_another(world, offset);
    let producers = known.iter().map(|(id, known)| (*id, entry_of(known)));
    let producers = ProducerState::from_entries(producers.collect());
    let result = world.log().truncate_fully_and_start_at(offset, producers);
    match changed(world, &format!("truncate fully at {offset}"), result) {
        Some(()) => {
            if !known.is_empty() {
                world.reach("begun with producers");
            }
            world.model.empty(offset, known);
            world.reach("truncated fully");
        }
        None if world.offline => world.model.maybe_emptied_to = Some((offset, known)),
        None => {}
    }
}

fn retention(world: &mut World) {
    // Anything up to the log end may be the high watermark.
    let model = &world.model;
    let high_watermark = model.log_end - world.rng.below((model.log_end - model.log_start + 1).min(20) as u64) as i64;
    // Nor is what is not durable old, whatever is committed elsewhere.
    let bound = high_watermark.min(world.log().durable_end_offset());
    let told = match world.lie {
        Lie::RetentionAboveHighWatermark => model.log_end,
        _ => high_watermark,
    };
    let result = world.log().apply_retention(world.now_ms, told);
    let end_before = world.model.log_end;
    let report = changed(world, &format!("retention below {high_watermark}"), result);
    // On a full disk a segment below the new start may stay until a snapshot tells of its producers.
    if let Some(report) = report
        && (!report.deleted.is_empty() || report.log_start > world.model.log_start)
    {
        world.reach("retention");
        assert!(
            report.deleted.iter().all(|deleted| deleted.end_offset <= bound),
            "{:?} at or above {bound}",
            report.deleted
        );
        assert!(report.log_start <= bound.max(world.model.log_start));
        assert_eq!(
            world.log().log_end_offset(),
            end_before,
            "retention never takes the active segment"
        );
        moved_start(world);
    } else if world.offline {
        world.model.start_may_reach = high_watermark.max(world.model.log_start);
    }
}

fn delete_records(world: &mut World) {
    let model = &world.model;
    let offset = model.log_start + world.rng.below((model.log_end - model.log_start + 1).min(30) as u64) as i64;
    let result = world.log().advance_log_start(offset);
    if let Some(report) = changed(world, &format!("delete records below {offset}"), result) {
        assert_eq!(report.log_start, offset.max(world.model.log_start));
        world.reach("delete records");
        moved_start(world);
    } else if world.offline {
        world.model.start_may_reach = offset.max(world.model.log_start);
    }
    world.model.durable = world.model.durable.max(world.log().durable_end_offset());
}

/// The log start is stored, or, on a full disk, the files themselves tell where the log begins.
fn moved_start(world: &mut World) {
    let start = world.log().log_start_offset();
    world.model.log_start = start;
    let full = world.choices.capacity_bytes < u64::MAX;
    world.model.stored_start = if full {
        world.log().segment_sizes()[0].0.min(start)
    } else {
        start
    };
}

fn checkpoint(world: &mut World) {
    let result = world.dir.as_ref().unwrap().write_checkpoints();
    if changed(world, "checkpoint", result).is_some() {
        world.model.stored_start = world.model.log_start;
        // Leader epochs that did not fit a full disk hold it back.
        if world.choices.capacity_bytes == u64::MAX {
            let recorded = world.dir.as_ref().unwrap().recorded_flushed(TOPIC, 0);
            assert_eq!(
                recorded,
                Some(world.log().durable_end_offset()),
                "a checkpoint has passed over a log that had changed"
            );
            world.reach("checkpoint of all that is durable");
        }
    }
    // A checkpoint flushes when much was appended.
    world.model.durable = world.model.durable.max(world.log().durable_end_offset());
}

fn assign_epoch(world: &mut World) {
    world.leader_epoch += 1 + world.rng.below(2) as i32;
    if world.lie == Lie::EpochNotNoted {
        world.model.epochs.assign(world.leader_epoch, world.model.log_end);
        return;
    }
    let result = world.log().assign_epoch(world.leader_epoch);
    if changed(world, "assign epoch", result) == Some(true) {
        let end = world.model.log_end;
        world.model.epochs.assign(world.leader_epoch, end);
    }
}
