//! The stored flushed point and the files that it speaks of, at steps that change both.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use millrace_log::checkpoint::flushed::{self, FlushedPoint};
use millrace_log::fs::OpenMode;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::producer::ProducerState;
use millrace_log::{AppendError, FollowerAppended, LogConfig, TopicPartition};
use millrace_proto::batch::{BatchBuilder, Codec, stamp_offset_and_epoch};

use super::{Broker, PARTITION, batch};

/// Farther from 0 than the offsets of one segment may be.
const FAR: i64 = i32::MAX as i64 + 10;

/// Up to where records are known to be durable.
pub fn stored_point(broker: &Broker) -> i64 {
    stored(broker).offset
}

fn stored(broker: &Broker) -> FlushedPoint {
    let bytes = broker
        .disk
        .contents(&Path::new("/data").join(flushed::FILE_NAME))
        .unwrap();
    let points = flushed::decode(&bytes).unwrap();
    points.get(&TopicPartition::new("t", 0)).copied().unwrap_or_default()
}

fn segment_path(base_offset: i64) -> PathBuf {
    Path::new(PARTITION).join(format!("{base_offset:020}.log"))
}

fn bases(broker: &Broker) -> Vec<i64> {
    let sizes = broker.log().segment_sizes();
    sizes.into_iter().map(|(base, _)| base).collect()
}

/// A batch of `records` records as a leader stored it at `offset`.
fn fetched(offset: i64, records: usize, value: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(1000, None, Some(&vec![b'v'; value]), &[]).unwrap();
    }
    let mut bytes = builder.build().unwrap().to_vec();
    stamp_offset_and_epoch(&mut bytes, offset, 0);
    bytes.into()
}

impl Broker {
    fn follow(&self, batch: &Bytes) -> Result<FollowerAppended, AppendError> {
        self.log().append_as_follower(batch, 0, 1000)
    }

    fn limit_free_bytes(&self, free: u64) {
        self.disk.set_plan(FaultPlan {
            capacity_bytes: self.disk.used_bytes().saturating_add(free),
            ..FaultPlan::default()
        });
    }

    /// One record, and behind a gap that no segment can span an empty segment, whose batch did not fit the disk.
    fn with_a_place_behind_a_gap() -> Broker {
        let broker = Broker::new(LogConfig::default());
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        broker.limit_free_bytes(2000);
        let refused = broker.follow(&fetched(FAR, 1, 4000));
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
        broker.disk.set_plan(FaultPlan::default());
        assert_eq!((broker.log().log_end_offset(), stored_point(&broker)), (FAR, FAR));
        assert_eq!(bases(&broker), [0, FAR]);
        broker
    }
}

/// The empty segment of which the stored point speaks must outlive the attempt to store a later one.
#[test]
fn a_segment_is_not_removed_before_the_flushed_point_has_left_it() {
    for end in ["kill", "crash"] {
        let mut broker = Broker::with_a_place_behind_a_gap();
        broker.fail_next_sync_of(flushed::FILE_NAME);
        let failed = broker.follow(&fetched(2 * FAR, 1, 10));
        assert!(matches!(failed, Err(AppendError::Offline(_))), "{failed:?}");
        match end {
            "kill" => broker.kill(),
            _ => broker.crash(),
        }
        assert_eq!(broker.log().damage(), [], "after a {end}");
        assert_eq!(broker.log().log_end_offset(), FAR, "after a {end}");
        broker.follow(&fetched(2 * FAR, 1, 10)).unwrap();
        broker.log().flush().unwrap();
        broker.crash();
        assert_eq!(broker.log().damage(), []);
        assert_eq!(broker.log().log_end_offset(), 2 * FAR + 1);
        assert_eq!(bases(&broker), [0, 2 * FAR]);
    }
}

/// Whichever of its steps finds the disk full: a place behind a gap is taken or it is not, and the log goes on.
#[test]
fn a_disk_too_full_for_a_place_behind_a_gap_leaves_the_log_as_it_was() {
    let (mut appended, mut refused) = (0, 0);
    for free in 0..300 {
        let mut broker = Broker::with_seed(LogConfig::default(), free);
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        broker.limit_free_bytes(free);
        let mut expected = match broker.follow(&fetched(FAR, 1, 10)) {
            Ok(_) => FAR + 1,
            Err(AppendError::DiskFull(_)) => broker.log().log_end_offset(),
            Err(error) => panic!("{free} bytes are free: {error}"),
        };
        broker.disk.set_plan(FaultPlan::default());
        if expected == 1 {
            assert_eq!(bases(&broker).first(), Some(&0));
            broker.follow(&fetched(1, 1, 10)).unwrap();
            expected = 2;
            refused += 1;
        } else {
            appended += 1;
        }
        // What is not synced survives or not, as the seed has it.
        let flushed = free % 2 == 0;
        if flushed {
            broker.log().flush().unwrap();
        }
        broker.crash_by_chance();
        let end = broker.log().log_end_offset();
        assert_eq!(broker.log().damage(), [], "{free} bytes were free");
        assert!(
            end == expected || !flushed && end < expected,
            "{free} bytes were free: {end}"
        );
        broker.follow(&fetched(2 * FAR, 1, 10)).unwrap();
    }
    assert!(
        appended > 0 && refused > 20,
        "{appended} times appended, {refused} times refused"
    );
}

/// Both write the leader epochs, and recovery finds those before a gap only there.
#[test]
fn a_flush_and_an_append_behind_a_gap_may_write_the_epochs_at_once() {
    const APPENDS: i32 = 500;
    let mut broker = Broker::new(LogConfig::default());
    let log = broker.log().clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                log.flush().unwrap();
            }
        });
        let appended: Vec<_> = (1..=APPENDS)
            .map(|epoch| {
                let mut next = fetched(i64::from(epoch) * FAR, 1, 10).to_vec();
                stamp_offset_and_epoch(&mut next, i64::from(epoch) * FAR, epoch);
                log.append_as_follower(&next.into(), epoch, 1000)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        appended
            .into_iter()
            .for_each(|appended| assert!(appended.is_ok(), "{appended:?}"));
    });
    drop(log);
    broker.crash();
    let found: Vec<i32> = broker.log().epochs().iter().map(|entry| entry.epoch).collect();
    let all: Vec<i32> = (1..=APPENDS).collect();
    // The last one's record need not have survived.
    assert_eq!(found[..all.len() - 1], all[..all.len() - 1]);
}

/// A crash right after the point was stored leaves the segment that was replaced beside the new one.
#[test]
fn an_empty_segment_that_was_being_replaced_is_removed() {
    let mut broker = Broker::with_a_place_behind_a_gap();
    let fs = broker.disk.shared();
    fs.open(&segment_path(1), OpenMode::CreateNew).unwrap();
    fs.sync_dir(Path::new(PARTITION)).unwrap();
    broker.crash();
    assert_eq!(broker.log().damage(), []);
    assert_eq!(broker.log().log_end_offset(), FAR);
    assert_eq!(bases(&broker), [0, FAR]);
    assert!(!fs.exists(&segment_path(1)).unwrap());
    assert!(fs.exists(&segment_path(0)).unwrap());
}

/// A flush on a full disk may leave the leader epochs unwritten, and then the flushed point may not move; a truncation
/// that writes them, or leaves none, must let it go again.
#[test]
fn a_truncation_lets_the_flushed_point_move_again() {
    for fully in [false, true] {
        let mut broker = Broker::new(LogConfig::default());
        for _ in 0..3 {
            broker.append(&batch(1000, 10, None)).unwrap();
        }
        broker.limit_free_bytes(0);
        broker.log().flush().unwrap();
        broker.disk.set_plan(FaultPlan::default());
        broker.dir().write_checkpoints().unwrap();
        assert_eq!(stored_point(&broker), 0, "the epochs could not be stored");
        let end = if fully {
            broker
                .log()
                .truncate_fully_and_start_at(10, ProducerState::default())
                .unwrap();
            10
        } else {
            broker.log().truncate_to(2).unwrap()
        };
        broker.dir().write_checkpoints().unwrap();
        assert_eq!(stored_point(&broker), end, "fully: {fully}");
        broker.close();
        let report = broker.log().recovery_report();
        assert_eq!((report.scanned_bytes, report.unclean), (0, false));
        assert_eq!(broker.log().log_end_offset(), end);
    }
}

/// A follower's empty log that begins within the leader's first batch takes it whole. Until it is durable the flushed
/// point must not lie above its base.
#[test]
fn a_log_that_begins_lower_than_it_did_lost_nothing() {
    for end in ["crash", "checkpoint, crash", "flush, checkpoint, crash"] {
        let mut broker = Broker::new(LogConfig::default());
        broker
            .log()
            .truncate_fully_and_start_at(10, ProducerState::default())
            .unwrap();
        broker.dir().write_checkpoints().unwrap();
        assert_eq!(stored_point(&broker), 10);
        broker.follow(&fetched(8, 4, 10)).unwrap();
        let log = broker.log();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (10, 12));
        assert_eq!(bases(&broker), [8]);
        if end.contains("flush") {
            broker.log().flush().unwrap();
        }
        if end.contains("checkpoint") {
            broker.dir().write_checkpoints().unwrap();
        }
        let flushed = end.contains("flush");
        assert_eq!(stored_point(&broker), if flushed { 12 } else { 8 }, "{end}");
        broker.crash();
        let log = broker.log();
        assert!(!log.recovery_report().flushed_point_unknown, "{end}");
        assert_eq!(log.damage(), [], "{end}");
        assert_eq!(log.log_end_offset(), if flushed { 12 } else { 8 }, "{end}");
    }
}

/// A batch that is refused must not have moved anything, or only what a second attempt, a flush and a crash can take.
#[test]
fn a_refused_batch_leaves_an_empty_log_where_it_was() {
    let mut broker = Broker::new(LogConfig::default());
    broker
        .log()
        .truncate_fully_and_start_at(10, ProducerState::default())
        .unwrap();
    let ends = |broker: &Broker| (broker.log().log_start_offset(), broker.log().log_end_offset());
    let mut newer = fetched(8, 4, 10).to_vec();
    stamp_offset_and_epoch(&mut newer, 8, 5);
    let refused = broker.follow(&newer.into());
    assert!(
        matches!(refused, Err(AppendError::InvalidLeaderEpoch { .. })),
        "{refused:?}"
    );
    assert_eq!((ends(&broker), bases(&broker)), ((10, 10), vec![10]));

    broker.limit_free_bytes(2000);
    let large = fetched(8, 4, 1000);
    for _ in 0..2 {
        let refused = broker.follow(&large);
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
        assert_eq!(ends(&broker), (10, 10));
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        assert_eq!(stored_point(&broker), 8, "recovery lets the log end there");
    }
    broker.disk.set_plan(FaultPlan::default());
    broker.follow(&large).unwrap();
    assert_eq!(ends(&broker), (10, 12));
    broker.dir().write_checkpoints().unwrap();
    broker.crash();
    assert_eq!(broker.log().damage(), []);
    assert_eq!(broker.log().log_end_offset(), 8);
    broker.follow(&large).unwrap();
    assert_eq!(broker.log().log_end_offset(), 12);
}

/// A batch behind a gap looks as one whose base offset has flipped, which lies outside of its CRC. What was reported
/// durable must stay although the stored point does not tell of it yet.
#[test]
fn a_flushed_batch_behind_a_gap_survives_a_crash() {
    for gap in [1, 100, FAR] {
        let mut broker = Broker::new(LogConfig::default());
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        // One gap before the first, one between the two.
        let second = 1 + gap + 2 + gap;
        let mut both = fetched(1 + gap, 2, 10).to_vec();
        both.extend_from_slice(&fetched(second, 1, 10));
        broker.follow(&both.into()).unwrap();
        broker.log().flush().unwrap();
        broker.crash();
        assert_eq!(broker.log().damage(), [], "gap of {gap}");
        assert_eq!(broker.log().log_end_offset(), second + 1, "gap of {gap}");
        // Only a gap that no segment can span begins one.
        let expected = if gap == FAR { vec![0, 1 + gap, second] } else { vec![0] };
        assert_eq!(bases(&broker), expected);
        for (from, base_offset) in [(1, 1 + gap), (2 + gap, 1 + gap), (3 + gap, second)] {
            let data = broker.log().read(from, 1, true, i64::MAX).unwrap();
            assert_eq!(data.base_offset, base_offset, "from {from}, gap of {gap}");
        }
    }
}

/// Until the indexes are stored as well, all that was appended since is walked by each recovery.
#[test]
fn a_checkpoint_that_the_full_disk_cut_short_is_made_up_for() {
    let broker = Broker::new(LogConfig::default());
    let large = batch(1000, 1_000_000, None);
    for _ in 0..34 {
        broker.append(&large).unwrap();
    }
    broker.log().flush().unwrap();
    // Room for the snapshot of no producers, and not for the index entries.
    broker.limit_free_bytes(10);
    assert!(broker.dir().write_checkpoints().is_err());
    assert!(broker.disk.counts().disk_full > 0);
    broker.disk.set_plan(FaultPlan::default());
    broker.dir().write_checkpoints().unwrap();
    let point = FlushedPoint {
        offset: 34,
        indexed: 34,
    };
    assert_eq!(stored(&broker), point);
}
