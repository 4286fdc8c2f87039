//! What random runs over the faulty disk, and reviews of what they showed, found: one named test each.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod flushed_point;
mod producers;
mod refused_tail;
mod replay;
mod writeback;

use std::path::Path;

use bytes::Bytes;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{AppendError, AppendOptions, Appended, FaultyFileSystem, Log, LogConfig, LogDir};
use millrace_proto::batch::{BatchBuilder, Codec, stamp_offset_and_epoch};
use uuid::Uuid;

use common::{TOPIC_ID, open};

const PARTITION: &str = "/data/t-0";

struct Broker {
    disk: FaultyFileSystem,
    config: LogConfig,
    dir: Option<LogDir>,
    log: Option<Log>,
}

impl Broker {
    fn new(config: LogConfig) -> Broker {
        Broker::with_seed(config, 3)
    }

    fn with_seed(config: LogConfig, seed: u64) -> Broker {
        let disk = FaultyFileSystem::new(seed);
        let dir = open(&common::format(&disk));
        let log = dir.create_log("t", 0, TOPIC_ID, config.clone()).unwrap();
        log.flush().unwrap();
        Broker {
            disk,
            config,
            dir: Some(dir),
            log: Some(log),
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn dir(&self) -> &LogDir {
        self.dir.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.log = None;
        self.dir = None;
        self.disk.set_plan(FaultPlan {
            capacity_bytes: self.disk.plan().capacity_bytes,
            ..FaultPlan::default()
        });
        let dir = open(&self.disk.shared());
        self.log = Some(dir.open_log("t", 0, TOPIC_ID, self.config.clone()).unwrap());
        self.dir = Some(dir);
    }

    /// The power goes, and nothing that was not synced is left.
    fn crash(&mut self) {
        self.disk.set_plan(FaultPlan {
            lose_all_unsynced: true,
            ..self.disk.plan()
        });
        self.disk.crash();
        self.reopen();
    }

    /// The power goes, and of what was not synced the seed says what is left.
    fn crash_by_chance(&mut self) {
        self.disk.crash();
        self.reopen();
    }

    fn kill(&mut self) {
        self.disk.kill_process();
        self.reopen();
    }

    fn close(&mut self) {
        // Only logs that are still held are closed.
        self.dir().close_clean(5).unwrap();
        self.disk.kill_process();
        self.reopen();
    }

    fn fail_next_sync_of(&self, path: &str) {
        self.disk.set_plan(FaultPlan {
            fail_next_syncs: 1,
            only_paths_with: path.into(),
            ..self.disk.plan()
        });
    }

    fn append(&self, batch: &Bytes) -> Result<Appended, AppendError> {
        self.log().append_as_leader(batch, 0, 1000, &AppendOptions::default())
    }
}

/// A batch of one record, of producer 7 if a sequence is given.
fn batch(time: i64, value: usize, sequence: Option<i32>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(time, None, Some(&vec![b'v'; value]), &[]).unwrap();
    if let Some(sequence) = sequence {
        builder.set_producer(7, 0, sequence);
    }
    builder.build().unwrap()
}

fn is_duplicate(appended: Result<Appended, AppendError>) -> bool {
    matches!(
        appended,
        Ok(Appended::Duplicate { .. }) | Err(AppendError::DuplicateSequence { .. })
    )
}

/// A log of eight batches of producer 7 on a disk that has no room left, its only segment sealed, without a snapshot.
fn full_before_the_snapshot() -> Broker {
    let broker = Broker::new(LogConfig::default());
    for sequence in 0..8 {
        broker.append(&batch(1000, 60, Some(sequence))).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    broker.disk.set_plan(FaultPlan {
        capacity_bytes: broker.disk.used_bytes(),
        ..FaultPlan::default()
    });
    // A file needs no room for its name, but none is left for a snapshot.
    assert!(broker.log().roll().unwrap());
    broker
}

/// Retention on a full disk must keep what only the deleted records told of their producers (KAFKA-7190): as long as no
/// snapshot fits they stay, though nobody can read them any more.
#[test]
fn deletion_of_the_whole_log_on_a_full_disk_keeps_its_producers() {
    let mut broker = full_before_the_snapshot();
    let end = broker.log().log_end_offset();
    let report = broker.log().advance_log_start(end).unwrap();
    assert_eq!((report.deleted.len(), report.log_start), (0, end));
    assert!(broker.log().apply_retention(1000, end).unwrap().deleted.is_empty());
    // Somebody else made room.
    broker.disk.set_plan(FaultPlan::default());
    let report = broker.log().apply_retention(1000, end).unwrap();
    assert_eq!(report.deleted.len(), 1);
    for end in ["kill", "crash"] {
        match end {
            "kill" => broker.kill(),
            _ => broker.crash(),
        }
        let last = broker.append(&batch(1000, 60, Some(7)));
        assert!(is_duplicate(last.clone()), "stored twice after a {end}: {last:?}");
    }
}

/// Where there is nothing to keep, no room is needed to keep it.
#[test]
fn a_log_without_producers_is_deleted_on_a_full_disk() {
    let mut broker = Broker::new(LogConfig::default());
    for _ in 0..8 {
        broker.append(&batch(1000, 60, None)).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    broker.disk.set_plan(FaultPlan {
        capacity_bytes: broker.disk.used_bytes(),
        ..FaultPlan::default()
    });
    let report = broker.log().advance_log_start(8).unwrap();
    assert_eq!((report.deleted.len(), report.log_start), (1, 8));
    broker.append(&batch(1000, 60, Some(3))).unwrap();
    broker.log().flush().unwrap();
    broker.crash();
    assert_eq!((broker.log().log_start_offset(), broker.log().log_end_offset()), (8, 9));
    assert!(is_duplicate(broker.append(&batch(1000, 60, Some(3)))));
}

/// Whatever becomes of the snapshot for which a deletion made room, the records that it is made from are there until it
/// is durable (KAFKA-7190).
#[test]
fn a_deletion_on_a_full_disk_that_fails_forgets_no_producer() {
    let mut broker = full_before_the_snapshot();
    broker.fail_next_sync_of(".snapshot");
    let end = broker.log().log_end_offset();
    let _ = broker.log().advance_log_start(end);
    broker.crash();
    let last = broker.append(&batch(1000, 60, Some(7)));
    assert!(is_duplicate(last.clone()), "stored twice: {last:?}");
}

/// Segments that a snapshot tells of make the room for that of the others.
#[test]
fn a_deletion_on_a_full_disk_begins_with_what_a_snapshot_tells_of() {
    let mut broker = Broker::new(LogConfig::default());
    for sequence in 0..8 {
        broker.append(&batch(1000, 60, Some(sequence))).unwrap();
    }
    assert!(broker.log().roll().unwrap());
    for sequence in 8..10 {
        broker.append(&batch(1000, 60, Some(sequence))).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    broker.disk.set_plan(FaultPlan {
        capacity_bytes: broker.disk.used_bytes(),
        ..FaultPlan::default()
    });
    assert!(broker.log().roll().unwrap());
    let report = broker.log().advance_log_start(10).unwrap();
    assert_eq!(report.deleted.len(), 2);
    broker.crash();
    assert_eq!(broker.log().log_start_offset(), 10);
    let last = broker.append(&batch(1000, 60, Some(9)));
    assert!(is_duplicate(last.clone()), "stored twice: {last:?}");
}

/// A segment that was begun after the log start was stored makes the one before it deletable; its snapshot may not
/// have survived.
#[test]
fn a_segment_below_the_log_start_stays_until_its_producers_are_in_a_snapshot() {
    let mut broker = Broker::new(LogConfig::default());
    for sequence in 0..3 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    broker.append(&batch(1000, 10, None)).unwrap();
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    // Not the whole log: nothing is rolled, no snapshot made.
    broker.log().advance_log_start(3).unwrap();
    broker.log().truncate_to(3).unwrap();
    assert!(broker.log().roll().unwrap());
    // The segment's name may become durable, and what the snapshot holds may not.
    broker.disk.shared().sync_dir(Path::new(PARTITION)).unwrap();
    broker.crash();
    assert_eq!(broker.log().log_start_offset(), 3);
    assert!(is_duplicate(broker.append(&batch(1000, 10, Some(2)))));
}

/// A rename whose directory could not be synced is seen after a kill; once it counted it must not be taken back by the
/// next power cut.
#[test]
fn a_log_start_that_only_the_cache_had_does_not_go_back() {
    let mut broker = Broker::new(LogConfig::default());
    for _ in 0..4 {
        broker.append(&batch(1000, 10, None)).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    // The file's own fsync first; then that of the directory, which is not a path with this text.
    broker.disk.set_plan(FaultPlan {
        sync_error_per_million: 1_000_000,
        only_paths_with: "/data".into(),
        ..FaultPlan::default()
    });
    let start = |broker: &Broker| broker.log().log_start_offset();
    assert!(broker.log().advance_log_start(2).is_err());
    broker.kill();
    let seen = start(&broker);
    broker.crash();
    assert!(start(&broker) >= seen, "{} after {seen}", start(&broker));
    // The same with the directory's fsync alone.
    broker.dir().write_checkpoints().unwrap();
    let before = start(&broker);
    let synced = broker.disk.shared();
    let file = Path::new("/data/log-start-offset-checkpoint");
    let moved = millrace_log::checkpoint::start_offsets::encode(
        &[(millrace_log::TopicPartition::new("t", 0), before + 1)].into(),
    );
    let temporary = millrace_log::fs::temporary_path(file);
    let handle = synced
        .open(&temporary, millrace_log::fs::OpenMode::CreateOrTruncate)
        .unwrap();
    handle
        .write_all_vectored_at(&[std::io::IoSlice::new(&moved)], 0)
        .unwrap();
    handle.sync_all().unwrap();
    synced.rename(&temporary, file).unwrap();
    broker.kill();
    assert_eq!(start(&broker), before + 1);
    broker.crash();
    assert_eq!(start(&broker), before + 1, "the log start went back");
}

/// A clean close stores that the indexes are durable up to the log end: entries that it added must stay in the files.
#[test]
fn times_are_found_after_a_clean_close_a_roll_and_a_kill() {
    let mut broker = Broker::new(LogConfig {
        index_interval_bytes: 300,
        ..LogConfig::default()
    });
    // The last one is too near to the indexed one before it to have an entry of its own.
    for time in [1000, 2000, 2500, 9000] {
        broker.append(&batch(time, 200, None)).unwrap();
    }
    broker.close();
    assert!(broker.log().roll().unwrap());
    broker.append(&batch(3000, 10, None)).unwrap();
    broker.kill();
    let found = broker.log().offset_for_timestamp(5000, i64::MAX).unwrap();
    assert_eq!(found.map(|found| found.offset), Some(3));
}

/// Half of a removal of both index files may survive a crash: without a time index the times are not known, whatever
/// the offset index says.
#[test]
fn a_lost_time_index_is_not_taken_for_records_without_times() {
    let mut broker = Broker::new(LogConfig {
        index_interval_bytes: 100,
        ..LogConfig::default()
    });
    for time in [9000, 2000, 3000] {
        broker.append(&batch(time, 200, None)).unwrap();
    }
    broker.close();
    let fs = broker.disk.shared();
    fs.remove_file(&Path::new(PARTITION).join("00000000000000000000.timeindex"))
        .unwrap();
    fs.sync_dir(Path::new(PARTITION)).unwrap();
    broker.crash();
    let found = broker.log().offset_for_timestamp(5000, i64::MAX).unwrap();
    assert_eq!(found.map(|found| found.offset), Some(0));
}

/// A follower's append to one segment is all or nothing: the first batches of a write that did not fit are whole on the
/// disk, and their erasure must not be lost.
#[test]
fn batches_of_a_refused_append_do_not_come_back() {
    let mut bytes = Vec::new();
    for offset in 1..3 {
        let mut next = batch(1000, 100, None).to_vec();
        stamp_offset_and_epoch(&mut next, offset, 0);
        bytes.extend_from_slice(&next);
    }
    let bytes = Bytes::from(bytes);
    // Which of the unsynced changes a power cut keeps is the seed's choice.
    for seed in 0..20 {
        let mut broker = Broker::with_seed(LogConfig::default(), seed);
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        broker.disk.set_plan(FaultPlan {
            capacity_bytes: broker.disk.used_bytes() + bytes.len() as u64 - 10,
            ..FaultPlan::default()
        });
        let refused = broker.log().append_as_follower(&bytes, 0, 1000);
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
        broker.crash_by_chance();
        assert_eq!(broker.log().log_end_offset(), 1, "seed {seed}");
    }
}

/// What did fit before a segment for which there was no room is the leader's, and the follower goes on behind it.
#[test]
fn a_follower_whose_disk_is_full_half_way_goes_on_where_its_log_ends() {
    let fetched = |offset: i64| {
        let mut next = batch(1000, 100, None).to_vec();
        stamp_offset_and_epoch(&mut next, offset, 0);
        next
    };
    for seed in 0..20 {
        // A batch for each segment.
        let config = LogConfig {
            segment_bytes: 200,
            ..LogConfig::default()
        };
        let mut broker = Broker::with_seed(config, seed);
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        let all: Vec<u8> = (1..4).flat_map(fetched).collect();
        let room = broker.disk.used_bytes() + 2 * fetched(1).len() as u64;
        broker.disk.set_plan(FaultPlan {
            capacity_bytes: room,
            ..FaultPlan::default()
        });
        let refused = broker.log().append_as_follower(&all.into(), 0, 1000);
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
        let end = broker.log().log_end_offset();
        assert!((2..4).contains(&end), "the log ends at {end}");
        broker.log().flush().unwrap();
        broker.crash_by_chance();
        assert_eq!((broker.log().log_end_offset(), broker.log().damage()), (end, vec![]));
        broker.disk.set_plan(FaultPlan::default());
        let rest: Vec<u8> = (end..4).flat_map(fetched).collect();
        broker.log().append_as_follower(&rest.into(), 0, 1000).unwrap();
        let read = broker.log().read(1, usize::MAX, true, i64::MAX).unwrap();
        assert_eq!(read.bytes, fetched(1), "as the leader has it");
        assert_eq!(broker.log().log_end_offset(), 4);
    }
}

/// While the flushed points are lost, none may be stored for some partitions only: of the others it would say that
/// nothing was flushed, and a torn tail be made of any damage.
#[test]
fn a_lost_flushed_point_stays_unknown_until_the_partition_was_opened() {
    let mut broker = Broker::new(LogConfig::default());
    let other = broker
        .dir()
        .create_log("other", 0, Uuid::from_u128(8), LogConfig::default())
        .unwrap();
    for _ in 0..3 {
        other
            .append_as_leader(&batch(1000, 50, None), 0, 1000, &AppendOptions::default())
            .unwrap();
    }
    other.flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    drop(other);
    let checkpoint = Path::new("/data/flushed-offset-checkpoint");
    broker.disk.flip_bit(checkpoint, 2, 0).unwrap();
    broker.crash();
    broker.append(&batch(1000, 10, None)).unwrap();
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    // The last batch is damaged, and nothing follows it in its segment.
    let segment = Path::new("/data/other-0/00000000000000000000.log");
    let len = broker.disk.contents(segment).unwrap().len() as u64;
    broker.disk.flip_bit(segment, 100, 0).unwrap();
    broker.crash();
    let other = broker
        .dir()
        .open_log("other", 0, Uuid::from_u128(8), LogConfig::default())
        .unwrap();
    let report = other.recovery_report();
    assert!(
        report.flushed_point_unknown,
        "a checkpoint without the partition was believed"
    );
    assert_eq!((report.truncated_bytes, report.damage.len()), (0, 1));
    assert_eq!(broker.disk.contents(segment).unwrap().len() as u64, len);
    // Now both were opened, and what they hold is known again.
    broker.dir().write_checkpoints().unwrap();
    drop(other);
    broker.crash();
    assert!(!broker.log().recovery_report().flushed_point_unknown);
}

/// What a deleted partition had flushed must not be missed in a new one of its name.
#[test]
fn a_partition_that_is_made_again_has_lost_nothing() {
    let mut broker = Broker::new(LogConfig::default());
    for _ in 0..3 {
        broker.append(&batch(1000, 10, None)).unwrap();
    }
    broker.log().flush().unwrap();
    broker.log().advance_log_start(2).unwrap();
    broker.dir().write_checkpoints().unwrap();
    broker.log = None;
    broker.dir().delete_log("t", 0).unwrap();
    let log = broker.dir().create_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
    log.flush().unwrap();
    drop(log);
    broker.crash();
    assert_eq!(broker.log().damage(), []);
    assert_eq!((broker.log().log_start_offset(), broker.log().log_end_offset()), (0, 0));
}

/// What an fsync once covered is the same in the cache and on the disk; what came later, and whose fsync failed, must
/// be looked for on the disk.
#[test]
fn recovery_reads_what_is_not_known_to_be_flushed_from_the_disk() {
    let mut broker = Broker::new(LogConfig::default());
    for _ in 0..3 {
        broker.append(&batch(1000, 10, None)).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    broker.append(&batch(1000, 10, None)).unwrap();
    broker.fail_next_sync_of(".log");
    assert!(broker.log().flush().is_err());
    broker.kill();
    assert_eq!(
        (broker.log().log_end_offset(), broker.log().durable_end_offset()),
        (3, 3),
        "the cache still shows a record that the disk never got"
    );
    broker.append(&batch(1000, 10, None)).unwrap();
    broker.log().flush().unwrap();
    broker.crash();
    assert_eq!(broker.log().log_end_offset(), 4);
}

/// A checkpoint costs nothing where nothing has changed.
#[test]
fn checkpoints_are_written_only_if_something_has_changed() {
    let broker = Broker::new(LogConfig::default());
    broker.append(&batch(1000, 10, None)).unwrap();
    assert_eq!(broker.dir().unrecorded_bytes(), 0, "nothing was flushed");
    broker.log().flush().unwrap();
    assert_eq!(broker.dir().unrecorded_bytes(), broker.log().size_bytes());
    broker.dir().write_checkpoints().unwrap();
    assert_eq!(broker.dir().unrecorded_bytes(), 0);
    // A disk that takes no write any more is not noticed as long as there is nothing to write.
    broker.disk.set_plan(FaultPlan {
        write_error_per_million: 1_000_000,
        sync_error_per_million: 1_000_000,
        ..FaultPlan::default()
    });
    broker.dir().write_checkpoints().unwrap();
    assert!(broker.log().advance_log_start(1).is_err());
}
