//! The operations, drawn at random; each one is done to the log and to the model.

use bytes::Bytes;
use millrace_log::{AppendError, AppendOptions, Appended, ChangeError, FlushError};
use millrace_proto::batch::{
    BatchBuilder, BatchView, Codec, DecodeLimits, TimestampType, stamp_log_append_time, stamp_offset_and_epoch,
};

use crate::faults;
use crate::model::ModelBatch;
use crate::world::{Lie, World};

pub fn step(world: &mut World, step: usize) {
    world.now_ms += world.rng.below(200) as i64;
    world.disk.set_clock_ms(world.now_ms);
    world.step_start = world.trace.len();
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
    match world.rng.below(100) {
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
        _ => conditional(world),
    }
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

/// A batch of one to five records with a random codec; with a producer if (id, epoch, sequence) is given.
fn build(world: &mut World, producer: Option<(i64, i16, i32)>) -> Bytes {
    let rng = &mut world.rng;
    let codec = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][rng.below(5) as usize];
    let mut builder = BatchBuilder::new(codec);
    for _ in 0..=rng.below(4) {
        let time = match rng.below(20) {
            0 => 5,
            1 => world.now_ms + 50_000,
            _ => world.now_ms - rng.below(300) as i64,
        };
        let value = vec![b'a' + rng.below(26) as u8; rng.below(120) as usize];
        builder.append(time, None, Some(&value), &[]).unwrap();
    }
    if let Some((id, epoch, sequence)) = producer {
        builder.set_producer(id, epoch, sequence);
    }
    builder.build().unwrap()
}

/// The batch as the leader must store it.
fn stored(world: &World, batch: &Bytes, base_offset: i64, epoch: i32) -> ModelBatch {
    let mut bytes = batch.to_vec();
    if world.config.timestamp_type == TimestampType::LogAppendTime {
        stamp_log_append_time(&mut bytes, world.now_ms);
    }
    stamp_offset_and_epoch(&mut bytes, base_offset, epoch);
    as_model(Bytes::from(bytes))
}

fn as_model(bytes: Bytes) -> ModelBatch {
    let view = BatchView::parse(&bytes).unwrap();
    view.verify_crc().unwrap();
    let header = *view.header();
    let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
    let records = view
        .records(&DecodeLimits::default())
        .unwrap()
        .iter()
        .map(|record| record.unwrap())
        .map(|record| {
            (
                record.offset,
                if stamped {
                    header.max_timestamp
                } else {
                    record.timestamp
                },
            )
        })
        .collect();
    ModelBatch {
        header,
        records,
        bytes: bytes.clone(),
    }
}

/// Sends a batch that must be accepted unless the disk says no.
fn send(world: &mut World, batch: Bytes, options: &AppendOptions) {
    let (end, epoch) = (world.model.log_end, world.leader_epoch);
    let expected = stored(world, &batch, end, epoch);
    let result = world.log().append_as_leader(&batch, epoch, world.now_ms, options);
    world.note(format!("append in epoch {epoch}: {result:?}"));
    match result {
        Ok(Appended::New {
            base_offset,
            last_offset,
            append_time_ms,
        }) => {
            assert_eq!((base_offset, last_offset), (end, expected.header.last_offset()));
            let stamped = world.config.timestamp_type == TimestampType::LogAppendTime;
            assert_eq!(append_time_ms, if stamped { world.now_ms } else { -1 });
            world.model.append(expected);
        }
        Ok(Appended::Duplicate { .. }) => panic!("a fresh batch was called a duplicate"),
        Err(AppendError::DiskFull(_)) => world.reach("disk full"),
        Err(AppendError::Offline(_)) => {
            // It may be there after all; nobody was told.
            world.model.append(expected);
            world.offline = true;
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn append(world: &mut World) {
    if world.rng.below(4) == 0 {
        world.leader_epoch += 1;
    }
    let producer = match world.rng.below(3) {
        0 => None,
        _ => {
            let id = world.rng.below(3) as i64;
            Some(match world.model.producers.get(&id) {
                None => (id, 0, [0, 10, i32::MAX - 2][world.rng.below(3) as usize]),
                Some(known) if world.rng.below(10) == 0 => (id, known.epoch + 1, 0),
                Some(known) => {
                    let last = known.batches.last().unwrap().1;
                    (id, known.epoch, if last == i32::MAX { 0 } else { last + 1 })
                }
            })
        }
    };
    let batch = build(world, producer);
    send(world, batch, &AppendOptions::default());
}

/// Sends a stored batch again, as a client does that got no answer.
fn retry(world: &mut World) {
    let candidates: Vec<(Bytes, i64)> = world
        .model
        .history
        .iter()
        .filter(|batch| {
            world
                .model
                .producers
                .get(&batch.header.producer_id)
                .is_some_and(|known| {
                    known.epoch == batch.header.producer_epoch
                        && known.batches.iter().any(|known| known.2 == batch.header.base_offset)
                })
        })
        .map(|batch| (batch.bytes.clone(), batch.header.base_offset))
        .collect();
    if candidates.is_empty() {
        return append(world);
    }
    let recent = candidates.len().saturating_sub(8);
    let at = recent + world.rng.below((candidates.len() - recent) as u64) as usize;
    let (batch, original) = candidates[at].clone();
    let mut header = *BatchView::parse(&batch).unwrap().header();
    let is_last = world.model.producers[&header.producer_id].batches.last().unwrap().2 == original;
    // Clients send create time; the stored copy may carry the append time, which a leader overwrites anyway.
    let mut bytes = batch.to_vec();
    if world.lie == Lie::RetryWithoutProducer {
        header.producer_id = -1;
        header.base_sequence = -1;
        header.producer_epoch = -1;
        bytes[..61].copy_from_slice(&header.encode());
        let crc = millrace_proto::batch::crc::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    let result = world.log().append_as_leader(
        &Bytes::from(bytes),
        world.leader_epoch,
        world.now_ms,
        &AppendOptions::default(),
    );
    world.note(format!("retry of {original}: {result:?}"));
    match result {
        Ok(Appended::Duplicate {
            base_offset,
            last_offset,
            timestamp,
        }) => {
            world.reach("duplicate");
            assert_eq!((base_offset, last_offset), (original, header.last_offset()));
            assert_eq!(timestamp, header.max_timestamp);
        }
        Err(AppendError::DuplicateSequence { .. }) => {
            world.reach("duplicate sequence");
            assert!(!is_last, "the last batch of a producer is always remembered");
            let found = world.log().find_batch(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                u64::MAX,
            );
            let found = found.unwrap();
            let deleted = original < world.log().segment_sizes()[0].0;
            assert_eq!(found.map(|found| found.base_offset), (!deleted).then_some(original));
        }
        // The record's time is too old or new for the settings by now.
        Err(AppendError::InvalidTimestamp { .. }) => {}
        other => panic!("a retry was stored twice or refused: {other:?}"),
    }
}

/// Appends as a follower: one to three batches, perhaps behind a gap.
fn follow(world: &mut World) {
    let mut next = world.model.log_end;
    if world.rng.below(5) == 0 {
        next += [1, 100, i64::from(i32::MAX) + 1][world.rng.below(3) as usize];
    }
    let mut bytes = Vec::new();
    let mut batches = Vec::new();
    for _ in 0..=world.rng.below(3) {
        world.leader_epoch += i32::from(world.rng.below(4) == 0);
        let mut batch = build(world, None).to_vec();
        stamp_offset_and_epoch(&mut batch, next, world.leader_epoch);
        let batch = as_model(Bytes::from(batch));
        next = batch.header.next_offset();
        bytes.extend_from_slice(&batch.bytes);
        batches.push(batch);
    }
    let far = batches[0].header.base_offset > world.model.log_end + i64::from(i32::MAX);
    let result = world
        .log()
        .append_as_follower(&Bytes::from(bytes), world.leader_epoch, world.now_ms);
    world.note(format!("follow: {result:?}"));
    match result {
        Ok(appended) => {
            world.reach("follower");
            if far {
                world.model.far_bases.push(batches[0].header.base_offset);
            }
            assert_eq!(appended.log_end, next);
            batches.into_iter().for_each(|batch| world.model.append(batch));
        }
        Err(AppendError::DiskFull(_)) => {
            // A run of batches before the full one may be in the log.
            world.reach("disk full");
            let end = world.log().log_end_offset();
            for batch in batches {
                if batch.header.next_offset() <= end {
                    world.model.append(batch);
                }
            }
            if world.model.log_end != end {
                // Only the place was taken: an empty segment behind the gap.
                assert!(world.model.log_end < end);
                world.model.far_bases.push(end);
                world.model.log_end = end;
            }
        }
        Err(AppendError::Offline(_)) => {
            batches.into_iter().for_each(|batch| world.model.append(batch));
            world.offline = true;
        }
        Err(error) => panic!("{error}"),
    }
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
        Err(ChangeError::Refused(_)) => {
            assert!(
                world.choices.capacity_bytes < u64::MAX,
                "{what} was refused without a full disk"
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
    let result = world.log().truncate_to(offset.max(start));
    match changed(world, &format!("truncate to {offset}"), result) {
        Some(new_end) => {
            let began_anew = world.log().segment_sizes() == [(start, 0)] && world.log().producers().is_empty();
            if new_end == start && began_anew {
                // Nothing readable was left: the log began anew, without producers.
                world.model.empty(start);
            }
            assert_eq!(new_end, world.model.truncate(offset.max(start)));
            world.reach("truncated");
            if sealed {
                world.reach("truncated sealed");
            }
        }
        // Part of it may have happened.
        None if world.offline => {
            let lowest = world.model.clone().truncate(offset.max(start));
            world.model.maybe_emptied_to = Some(start);
            world.model.durable = world.model.durable.min(lowest);
        }
        // The durable end may have been lowered; a flush raises it again.
        None => world.model.durable = world.model.durable.min(world.log().durable_end_offset()),
    }
}

fn truncate_fully(world: &mut World) {
    let offset = world.model.log_start + world.rng.below(40) as i64;
    let result = world.log().truncate_fully_and_start_at(offset);
    match changed(world, &format!("truncate fully at {offset}"), result) {
        Some(()) => {
            world.model.empty(offset);
            world.reach("truncated fully");
        }
        None if world.offline => world.model.maybe_emptied_to = Some(offset),
        None => {}
    }
}

fn retention(world: &mut World) {
    // Anything up to the log end may be the high watermark.
    let model = &world.model;
    let high_watermark = model.log_end - world.rng.below((model.log_end - model.log_start + 1).min(20) as u64) as i64;
    let result = world.log().apply_retention(world.now_ms, high_watermark);
    let end_before = world.model.log_end;
    let report = changed(world, &format!("retention below {high_watermark}"), result);
    if let Some(report) = report
        && !report.deleted.is_empty()
    {
        world.reach("retention");
        assert!(
            report
                .deleted
                .iter()
                .all(|deleted| deleted.end_offset <= high_watermark)
        );
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

/// Appends only if the log ends where the caller thinks.
fn conditional(world: &mut World) {
    let wrong = world.rng.below(2) == 0;
    let batch = build(world, None);
    let end = world.model.log_end;
    if !wrong {
        return send(
            world,
            batch,
            &AppendOptions {
                expected_offset: Some(end),
                ..AppendOptions::default()
            },
        );
    }
    let options = AppendOptions {
        expected_offset: Some(end + 1),
        ..AppendOptions::default()
    };
    let result = world
        .log()
        .append_as_leader(&batch, world.leader_epoch, world.now_ms, &options);
    assert_eq!(
        result,
        Err(AppendError::OffsetMismatch {
            expected: end + 1,
            log_end: end
        })
    );
    world.reach("offset mismatch");
}
