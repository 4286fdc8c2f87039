//! Appends as a leader and as a follower, and clients' retries.

use bytes::Bytes;
use millrace_log::{AppendError, AppendOptions, Appended, ReadError};
use millrace_proto::batch::{
    BatchBuilder, BatchView, Codec, DecodeLimits, TimestampType, stamp_log_append_time, stamp_offset_and_epoch,
};

use crate::model::ModelBatch;
use crate::world::{Lie, World};

/// A batch of one to five records with a random codec; with a producer if (id, epoch, sequence) is given.
pub fn build(world: &mut World, producer: Option<(i64, i16, i32)>) -> Bytes {
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
pub fn retry(world: &mut World) {
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
                header.last_sequence(),
                u64::MAX,
            );
            let found = match found {
                Err(ReadError::Io(_)) => return,
                found => found.unwrap(),
            };
            let deleted = original < world.log().segment_sizes()[0].0;
            assert_eq!(found.map(|found| found.base_offset), (!deleted).then_some(original));
        }
        // The record's time is too old or new for the settings by now.
        Err(AppendError::InvalidTimestamp { .. }) => {}
        other => panic!("a retry was stored twice or refused: {other:?}"),
    }
}

/// Appends as a follower: one to three batches, perhaps behind gaps.
pub fn follow(world: &mut World) {
    let mut next = world.model.log_end;
    if world.rng.below(5) == 0 {
        next += [1, 100, i64::from(i32::MAX) + 1][world.rng.below(3) as usize];
    }
    let mut bytes = Vec::new();
    let mut batches = Vec::new();
    for _ in 0..=world.rng.below(3) {
        world.leader_epoch += i32::from(world.rng.below(4) == 0);
        let mut batch = build(world, None).to_vec();
        if !batches.is_empty() && world.rng.below(4) == 0 {
            next += [1, 100][world.rng.below(2) as usize];
        }
        stamp_offset_and_epoch(&mut batch, next, world.leader_epoch);
        let batch = as_model(Bytes::from(batch));
        next = batch.header.next_offset();
        bytes.extend_from_slice(&batch.bytes);
        batches.push(batch);
    }
    // So far that a segment has to begin there.
    let gap = batches[0].header.last_offset() - world.model.log_end > i64::from(i32::MAX);
    if batches[0].header.base_offset > world.model.log_end {
        world.reach("gap");
    }
    let result = world
        .log()
        .append_as_follower(&Bytes::from(bytes), world.leader_epoch, world.now_ms);
    world.note(format!("follow: {result:?}"));
    match result {
        Ok(appended) => {
            world.reach("follower");
            if gap {
                world.model.began_behind_gap(batches[0].header.base_offset);
            }
            assert_eq!(appended.log_end, next);
            batches.into_iter().for_each(|batch| world.model.append(batch));
        }
        Err(AppendError::DiskFull(_)) => {
            // A run of batches before the full one may be in the log.
            world.reach("disk full");
            let end = world.log().log_end_offset();
            // Behind a gap perhaps only the place was taken: an empty segment.
            if gap && end >= batches[0].header.base_offset {
                world.model.began_behind_gap(batches[0].header.base_offset);
                world.model.log_end = batches[0].header.base_offset;
            }
            for batch in batches {
                if batch.header.next_offset() <= end {
                    world.model.append(batch);
                }
            }
            assert_eq!(world.model.log_end, end);
        }
        Err(AppendError::Offline(_)) => {
            if gap {
                // Nor is it known whether the place before the gap is still there.
                world.model.gap_bases.push(batches[0].header.base_offset);
            }
            batches.into_iter().for_each(|batch| world.model.append(batch));
            world.offline = true;
        }
        Err(error) => panic!("{error}"),
    }
}

/// Appends only if the log ends where the caller thinks.
pub fn conditional(world: &mut World) {
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
