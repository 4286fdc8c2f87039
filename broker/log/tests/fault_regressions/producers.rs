//! What is known of producers: repeated batches of long ago, and the snapshots that an unclean start relies on.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use millrace_log::checkpoint::flushed;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{AppendError, Appended, LogConfig, LogDir, OpenLogError};
use millrace_proto::batch::{BatchBuilder, Codec};

use super::flushed_point::stored_point;
use super::{Broker, PARTITION, batch, is_duplicate};
use crate::common::{TOPIC_ID, open};

/// Kafka compares the first and the last sequence of a batch with those of a remembered one; so must the search for one
/// that is no longer remembered, or other records are answered with offsets that are not theirs.
#[test]
fn a_batch_of_another_length_is_not_the_stored_one() {
    let broker = Broker::new(LogConfig::default());
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..3 {
        builder.append(1000, None, Some(b"v"), &[]).unwrap();
    }
    builder.set_producer(7, 0, 0);
    broker.append(&builder.build().unwrap()).unwrap();
    for sequence in 3..10 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    let find = |last_sequence| broker.log().find_batch(7, 0, 0, last_sequence, u64::MAX).unwrap();
    assert_eq!(
        find(2).map(|found| (found.base_offset, found.last_offset)),
        Some((0, 2))
    );
    for other in [0, 1, 3, 9] {
        assert_eq!(find(other), None, "last sequence {other}");
    }
}

/// A log that begins where another one does knows of producers what that one knows, also of what is deleted there: its
/// replica may lead next, and be sent a batch again that only deleted records told of. Nor does a crash take it away.
#[test]
fn a_log_that_begins_anew_knows_what_its_leader_knows() {
    let leader = Broker::new(LogConfig::default());
    for sequence in 0..6 {
        leader.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    for _ in 0..3 {
        leader.append(&records(3, None)).unwrap();
    }
    // Within a batch, of a segment whose first batches are not deleted yet.
    leader.log().advance_log_start(10).unwrap();
    let (start, producers) = leader.log().producers_at_start(leader.log().log_end_offset()).unwrap();
    assert_eq!((start, producers.entries().len()), (10, 1));

    for end in ["none", "crash", "kill", "close"] {
        let mut follower = Broker::new(LogConfig::default());
        follower.append(&batch(1000, 10, None)).unwrap();
        follower
            .log()
            .truncate_fully_and_start_at(start, producers.clone())
            .unwrap();
        follower.end(end);
        assert_eq!(last_sequence(&follower), Some(5), "{end}");
        let kept = leader.log().read(start, 1 << 20, true, i64::MAX).unwrap();
        follower.log().append_as_follower(&kept.bytes, 0, 1000).unwrap();
        follower.log().flush().unwrap();
        follower.end(end);
        let retry = follower.append(&batch(1000, 10, Some(5)));
        assert!(is_duplicate(retry.clone()), "stored twice after {end}: {retry:?}");
        follower.append(&batch(1000, 10, Some(6))).unwrap();
    }
}

/// Of more batches than are remembered none is committed, and all before them are deleted. If all of them are cut, what is
/// sent again must neither be stored a second time nor pass for stored when it is not.
#[test]
fn a_log_that_begins_anew_knows_where_sequences_stood_before_what_may_be_cut() {
    for end in ["none", "close"] {
        let mut leader = Broker::new(LogConfig::default());
        for sequence in 0..12 {
            leader.append(&batch(1000, 10, Some(sequence))).unwrap();
        }
        // A snapshot holds one batch of each producer.
        leader.end(end);
        leader.log().advance_log_start(2).unwrap();
        let (start, producers) = leader.log().producers_at_start(2).unwrap();
        let follower = Broker::new(LogConfig::default());
        follower.log().truncate_fully_and_start_at(start, producers).unwrap();
        let kept = leader.log().read(start, 1 << 20, true, i64::MAX).unwrap();
        follower.log().append_as_follower(&kept.bytes, 0, 1000).unwrap();
        follower.log().flush().unwrap();
        follower.log().truncate_to(2).unwrap();
        assert_eq!(last_sequence(&follower), Some(1), "{end}");
        // Nor is it lost on the next one that begins anew.
        let (start, producers) = follower.log().producers_at_start(2).unwrap();
        let next = Broker::new(LogConfig::default());
        next.log().truncate_fully_and_start_at(start, producers).unwrap();
        assert_eq!(last_sequence(&next), Some(1), "{end}");
        let again = follower.append(&batch(1000, 10, Some(1)));
        assert!(
            matches!(again, Err(AppendError::DuplicateSequence { .. })),
            "its offset is not known: {again:?}"
        );
        let ahead = follower.append(&batch(1000, 10, Some(3)));
        assert!(
            matches!(ahead, Err(AppendError::OutOfOrderSequence { .. })),
            "{ahead:?}"
        );
        follower.append(&batch(1000, 10, Some(2))).unwrap();
    }
}

/// What is committed is cut nowhere: kept batches tell, and nothing is invented that a retry could be taken for.
#[test]
fn a_retry_of_what_is_kept_gets_its_own_offsets() {
    let mut leader = Broker::new(LogConfig::default());
    for sequence in 0..3 {
        leader.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    leader.end("close");
    leader.log().advance_log_start(1).unwrap();
    for committed in [1, 2, 3] {
        let (start, producers) = leader.log().producers_at_start(committed).unwrap();
        let follower = Broker::new(LogConfig::default());
        follower.log().truncate_fully_and_start_at(start, producers).unwrap();
        let kept = leader.log().read(start, 1 << 20, true, i64::MAX).unwrap();
        follower.log().append_as_follower(&kept.bytes, 0, 1000).unwrap();
        let retry = follower.append(&batch(1000, 10, Some(1))).unwrap();
        assert!(
            matches!(retry, Appended::Duplicate { base_offset: 1, .. }),
            "committed {committed}: {retry:?}"
        );
    }
}

/// A log may begin within a batch. What was stored of producers as of there knows nothing of that batch.
#[test]
fn a_log_that_begins_within_a_batch_knows_its_producer() {
    let leader = Broker::new(LogConfig::default());
    leader.append(&batch(1000, 10, None)).unwrap();
    leader.append(&records(3, Some(0))).unwrap();
    leader.log().advance_log_start(2).unwrap();
    let (start, producers) = leader.log().producers_at_start(leader.log().log_end_offset()).unwrap();
    assert_eq!((start, producers.entries().len()), (2, 0));

    for end in ["crash", "kill", "close"] {
        let mut follower = Broker::new(LogConfig::default());
        follower
            .log()
            .truncate_fully_and_start_at(start, producers.clone())
            .unwrap();
        // Leaves a snapshot of what it knows: nothing.
        follower.end("close");
        let kept = leader.log().read(start, 1 << 20, true, i64::MAX).unwrap();
        follower.log().append_as_follower(&kept.bytes, 0, 1000).unwrap();
        follower.log().flush().unwrap();
        follower.end(end);
        assert_eq!(last_sequence(&follower), Some(2), "{end}");
    }
}

/// The batch that holds the log start is cut: nothing readable is left, but what was deleted is not forgotten.
#[test]
fn a_log_that_is_cut_to_its_start_knows_the_producers_below() {
    for end in ["none", "crash", "kill", "close"] {
        let mut broker = Broker::new(LogConfig::default());
        broker.append(&batch(1000, 10, Some(0))).unwrap();
        broker.append(&records(3, None)).unwrap();
        broker.log().flush().unwrap();
        broker.log().advance_log_start(2).unwrap();
        assert_eq!(broker.log().truncate_to(2).unwrap(), 2);
        broker.end(end);
        assert_eq!(broker.log().log_start_offset(), 2);
        assert_eq!(last_sequence(&broker), Some(0), "{end}");
    }
}

/// A batch of several records, of producer 7 if a sequence is given.
fn records(count: usize, sequence: Option<i32>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..count {
        builder.append(1000, None, Some(b"v"), &[]).unwrap();
    }
    if let Some(sequence) = sequence {
        builder.set_producer(7, 0, sequence);
    }
    builder.build().unwrap()
}

pub fn last_sequence(broker: &Broker) -> Option<i32> {
    let producers = broker.log().producers();
    let found = producers.iter().find(|known| known.producer_id == 7);
    found.map(|known| known.last_sequence)
}

pub fn snapshot_path(offset: i64) -> PathBuf {
    Path::new(PARTITION).join(format!("{offset:020}.snapshot"))
}

impl Broker {
    /// Ends the process in one of four ways, and begins the next one.
    fn end(&mut self, how: &str) {
        match how {
            "crash" => self.crash(),
            "kill" => self.kill(),
            "close" => self.close(),
            _ => {}
        }
    }

    /// Opens the log on a disk that can neither sync nor read one of its files.
    fn open_without(&mut self, path: &Path) -> Result<LogDir, OpenLogError> {
        self.log = None;
        self.dir = None;
        self.disk.kill_process();
        self.disk.set_plan(FaultPlan {
            sync_error_per_million: 1_000_000,
            read_error_per_million: 1_000_000,
            only_paths_with: path.display().to_string(),
            ..FaultPlan::default()
        });
        let dir = open(&self.disk.shared());
        let opened = dir.open_log("t", 0, TOPIC_ID, self.config.clone());
        self.disk.set_plan(FaultPlan::default());
        opened.map(|_| dir)
    }
}

/// Each segment has a snapshot: a start that syncs and reads all of them costs the more the longer a log is kept.
#[test]
fn an_unclean_start_leaves_snapshots_below_the_flushed_point_alone() {
    let mut broker = Broker::new(LogConfig::default());
    for sequence in 0..6 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
        if sequence < 5 {
            assert!(broker.log().roll().unwrap());
        }
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    assert_eq!(stored_point(&broker), 6);
    // At the flushed point itself, and younger than the flush that led there.
    assert!(broker.log().roll().unwrap());
    for offset in 1..=6 {
        assert!(broker.disk.contents(&snapshot_path(offset)).is_ok(), "{offset}");
    }
    for offset in 1..6 {
        let opened = broker.open_without(&snapshot_path(offset));
        assert!(opened.is_ok(), "{offset}: {:?}", opened.err());
    }
    assert!(
        broker.open_without(&snapshot_path(6)).is_err(),
        "what no flush covered is settled"
    );
    // Where nothing is known all are.
    let fs = broker.disk.shared();
    fs.remove_file(&Path::new("/data").join(flushed::FILE_NAME)).unwrap();
    fs.sync_dir(Path::new("/data")).unwrap();
    assert!(broker.open_without(&snapshot_path(1)).is_err());
    broker.kill();
    assert!(is_duplicate(broker.append(&batch(1000, 10, Some(5)))));
}

/// Retention makes a snapshot below the flushed point, and deletes the records that it replaces. One that never reached
/// the disk must not be taken for a durable one after the process was killed (KAFKA-7190).
#[test]
fn a_snapshot_below_the_flushed_point_has_its_name_only_when_it_is_durable() {
    let mut broker = Broker::new(LogConfig::default());
    for sequence in 0..3 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    assert!(broker.log().roll().unwrap());
    broker.append(&batch(1000, 10, None)).unwrap();
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    assert_eq!(stored_point(&broker), 4);
    // As if a full disk had prevented it when the segment was begun.
    let fs = broker.disk.shared();
    fs.remove_file(&snapshot_path(3)).unwrap();
    fs.sync_dir(Path::new(PARTITION)).unwrap();
    broker.fail_next_sync_of(".snapshot");
    broker.log().advance_log_start(3).unwrap_err();
    broker.kill();
    let report = broker.log().advance_log_start(3).unwrap();
    assert_eq!(report.deleted.len(), 1);
    broker.crash();
    assert_eq!(broker.log().log_start_offset(), 3);
    let repeated = broker.append(&batch(1000, 10, Some(2)));
    assert!(is_duplicate(repeated.clone()), "stored twice: {repeated:?}");
}
