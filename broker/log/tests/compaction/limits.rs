//! Damage, full disks, cuts and readers in the midst of a round.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_log::fs::OpenMode;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{AppendOptions, CompactionError, CompactionStep, FileSystem, LogConfig};
use millrace_proto::batch::Codec;

use crate::broker::{Broker, DAY_MS, PARTITION, config, options};
use crate::model::{build, record};
use crate::rules::headers;
use crate::stopping::Stopping;

fn log_file(base: i64) -> PathBuf {
    Path::new(PARTITION).join(format!("{base:020}.log"))
}

/// Three sealed segments of four batches with two keys, and an active one.
pub fn three_segments() -> Broker {
    let mut broker = Broker::new(config(), 1);
    for number in 0..12 {
        broker.put(&[&format!("k{}={number}", number % 2)]);
        if number % 4 == 3 {
            broker.roll();
        }
    }
    broker.put(&["active=1"]);
    broker.log().flush().unwrap();
    broker
}

#[test]
fn a_damaged_batch_stops_the_compaction_and_harms_nothing_else() {
    let clean = three_segments();
    let len = clean.log().segment_sizes()[1].1;
    for byte in 0..len {
        let disk = clean.disk.copy();
        let mut broker = clean.fork(disk.clone(), &disk.shared());
        disk.flip_bit(&log_file(4), byte, 2).unwrap();
        // A leader epoch lies outside of the checksum: only its neighbours, if any, contradict it.
        let in_epoch = (12..16).contains(&(byte % (len / 4)));
        match broker.compact() {
            Err(CompactionError::Damaged { .. }) if in_epoch => {}
            Ok(Some(_)) if in_epoch => continue,
            Err(CompactionError::Damaged { segment, offset, .. }) => {
                assert_eq!(segment, 4, "byte {byte}");
                assert!((4..8).contains(&offset), "byte {byte}: {offset}");
            }
            other => panic!("byte {byte}: {other:?}"),
        }
        // Nothing is lost of the rest, and the log goes on.
        let text = |offset: i64| broker.log().read(offset, 1, true, i64::MAX).unwrap().next_offset;
        assert_eq!((text(0), text(11)), (1, 12), "byte {byte}");
        broker.log().flush().unwrap();
        let leftover = disk
            .list_files()
            .into_iter()
            .find(|(path, _)| path.to_string_lossy().ends_with(".cleaned"));
        assert_eq!(leftover, None);
    }
}

#[test]
fn known_damage_stops_it_before_it_begins() {
    let mut broker = three_segments();
    broker.disk.flip_bit(&log_file(4), 70, 2).unwrap();
    broker.log().scrub(0, u64::MAX).unwrap();
    assert!(matches!(
        broker.compact(),
        Err(CompactionError::Damaged {
            segment: 4,
            offset: 4,
            ..
        })
    ));
    // Without the damaged segment it goes on.
    broker.log().advance_log_start(8).unwrap();
    assert_eq!(broker.compact().unwrap().unwrap().superseded_records, 2);
}

#[test]
fn a_full_disk_refuses_a_copy_and_no_more() {
    let clean = three_segments();
    let mut refused = 0;
    for room in (0..2_000).step_by(10) {
        let disk = clean.disk.copy();
        let mut broker = clean.fork(disk.clone(), &disk.shared());
        let used = disk.used_bytes();
        disk.set_plan(FaultPlan {
            capacity_bytes: used + room,
            ..FaultPlan::default()
        });
        match broker.compact() {
            Err(CompactionError::Refused(_)) => {
                refused += 1;
                assert_eq!(broker.log().offline(), None);
            }
            Ok(Some(_)) => {}
            other => panic!("{other:?}"),
        }
        assert!(disk.used_bytes() <= used + 450, "what was begun is removed");
        broker.model.check(broker.log());
        disk.set_plan(FaultPlan::default());
        broker.compact().unwrap();
        broker.check();
        assert_eq!(broker.texts().len(), 3);
        broker.reopen();
        broker.check();
    }
    assert!(refused > 2);
}

/// Delayed allocation and quotas may tell only at the sync. A copy is nobody's only one; what was appended may be.
#[test]
fn a_sync_that_finds_no_room_refuses_a_copy_and_is_fatal_to_what_was_appended() {
    let mut broker = three_segments();
    let full = |paths: &str| FaultPlan {
        syncs_find_no_room: true,
        only_paths_with: paths.into(),
        ..FaultPlan::default()
    };
    broker.disk.set_plan(full(".cleaned"));
    let refused = broker.compact();
    assert!(matches!(refused, Err(CompactionError::Refused(_))), "{refused:?}");
    assert_eq!(broker.log().offline(), None);
    let copy = |(path, _): &(PathBuf, u64)| path.to_string_lossy().ends_with(".cleaned");
    assert!(!broker.disk.list_files().iter().any(copy), "what was begun is removed");
    broker.check();
    broker.disk.set_plan(FaultPlan::default());
    broker.compact().unwrap().unwrap();
    broker.check();

    broker.put(&["k0=late"]);
    broker.disk.set_plan(full(".log"));
    assert!(broker.log().flush().is_err());
    assert!(broker.log().offline().is_some());
}

#[test]
fn a_copy_leaves_the_reserve_to_others() {
    let mut broker = three_segments();
    let free = broker.disk.available_bytes(Path::new(PARTITION)).unwrap();
    broker.dir.as_ref().unwrap().set_reserve_bytes(free - 10);
    let refused = broker.compact().unwrap_err();
    assert!(
        matches!(&refused, CompactionError::Refused(text) if text.contains("in reserve")),
        "{refused}"
    );
    broker.check();
    broker.dir.as_ref().unwrap().set_reserve_bytes(free / 2);
    broker.compact().unwrap().unwrap();
    broker.check();
}

#[test]
fn a_cut_in_the_midst_of_a_round_ends_it_and_lowers_what_is_compacted() {
    for steps in 0.. {
        let mut broker = three_segments();
        broker.put(&["k0=late"]);
        broker.roll();
        broker.compact_first(8);
        let bounds = broker.bounds();
        broker.model.untouched_from = bounds.high_watermark;
        let mut round = broker
            .log()
            .begin_compaction(|| bounds, &options(), 0)
            .unwrap()
            .unwrap();
        let mut is_done = false;
        for _ in 0..steps {
            is_done |= round.step(1, 0).unwrap() != CompactionStep::More;
        }
        // Leaves records of before the round, which the round may have replaced by others that are cut: so cuts are made
        // above the bounds only, here at them.
        broker.put(&["k1=cut"]);
        broker.log().truncate_to(14).unwrap();
        broker.model.cut_to(14);
        let step = round.step(u64::MAX, 0).unwrap();
        if !is_done {
            let CompactionStep::Done(report) = step else {
                panic!("a cut ends a round")
            };
            assert_eq!(report.cleaned_offset, None);
        }
        drop(round);
        broker.check();
        let need = broker.log().compaction_need(&broker.bounds(), 0).unwrap();
        assert_eq!(need.first_dirty_offset, if is_done { 14 } else { 8 });
        // A cut of what is compacted makes it dirty again: what is written there is none of it.
        broker.log().truncate_to(6).unwrap();
        assert!(broker.log().log_end_offset() <= 6);
        let end = broker.log().log_end_offset();
        let first_dirty = |broker: &Broker| {
            broker
                .log()
                .compaction_need(&broker.bounds(), 0)
                .unwrap()
                .first_dirty_offset
        };
        assert_eq!(first_dirty(&broker), end);
        broker.disk.crash();
        broker.reopen();
        assert_eq!(first_dirty(&broker), end);
        if is_done {
            assert!(steps > 10);
            return;
        }
    }
}

impl Broker {
    /// A round of which the high watermark ends all.
    fn compact_first(&mut self, high_watermark: i64) {
        let mut bounds = self.bounds();
        bounds.high_watermark = high_watermark;
        let mut round = self.log().begin_compaction(|| bounds, &options(), 0).unwrap().unwrap();
        while round.step(u64::MAX, 0).unwrap() == CompactionStep::More {}
    }
}

#[test]
fn what_is_not_known_to_be_compacted_is_dirty() {
    let mut broker = three_segments();
    broker.put(&["k0", "k1=1"]);
    broker.roll();
    broker.compact().unwrap().unwrap();
    let first_dirty = |broker: &Broker| {
        broker
            .log()
            .compaction_need(&broker.bounds(), broker.now_ms)
            .unwrap()
            .first_dirty_offset
    };
    assert_eq!(first_dirty(&broker), 15);
    broker
        .disk
        .flip_bit(&Path::new(PARTITION).join("cleaned-offset"), 20, 1)
        .unwrap();
    broker
        .disk
        .flip_bit(Path::new("/data/flushed-offset-checkpoint"), 3, 0)
        .unwrap();
    broker.disk.kill_process();
    broker.reopen();
    // Nor is a gap damage where nothing tells of gaps.
    assert_eq!(broker.log().damage(), []);
    assert_eq!(first_dirty(&broker), 0);
    broker.check();
    // How long the copy took in which the horizon was set is not known, either.
    broker.now_ms += DAY_MS + 100_000;
    broker.compact().unwrap().unwrap();
    assert!(broker.texts().contains(&(13, "k0".to_owned())));
    broker.now_ms += 2 * DAY_MS - 1;
    assert_eq!(broker.compact().unwrap(), None);
    broker.now_ms += 1;
    broker.compact().unwrap().unwrap();
    assert!(!broker.texts().contains(&(13, "k0".to_owned())));
    broker.check();
}

/// The flushed point is lost, and the end of the log with it, in a way that no checksum tells of. What is written there
/// next was never compacted, whatever was there before.
#[test]
fn a_log_that_lost_its_end_is_compacted_no_farther_than_it_goes() {
    for is_full in [false, true] {
        let mut broker = three_segments();
        broker.compact().unwrap().unwrap();
        let last = *headers(&broker).iter().find(|header| header.base_offset == 11).unwrap();
        let len = broker.log().segment_sizes()[0].1;
        broker.disk.kill_process();
        let fs = broker.disk.shared();
        fs.remove_file(&log_file(12)).unwrap();
        fs.sync_dir(Path::new(PARTITION)).unwrap();
        let file = fs.open(&log_file(0), OpenMode::ReadWrite).unwrap();
        file.set_len(len - last.size_in_bytes() as u64).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let flushed = Path::new("/data/flushed-offset-checkpoint");
        broker.disk.flip_bit(flushed, 3, 0).unwrap();
        if is_full {
            broker.disk.set_plan(FaultPlan {
                capacity_bytes: 0,
                ..FaultPlan::default()
            });
        }
        broker.open_through(&fs);
        // A full disk has no room to tell where it ends, but all may be taken for dirty.
        let expected = if is_full { 0 } else { 11 };
        let first_dirty = |broker: &Broker| {
            let need = broker.log().compaction_need(&broker.bounds(), broker.now_ms).unwrap();
            need.first_dirty_offset
        };
        assert_eq!((broker.log().log_end_offset(), first_dirty(&broker)), (11, expected));
        broker.disk.crash();
        broker.reopen();
        assert_eq!((broker.log().log_end_offset(), first_dirty(&broker)), (11, expected));
        assert_eq!(broker.log().damage(), []);
        broker.put(&["k0=late"]);
        broker.roll();
        broker.compact().unwrap().unwrap();
        assert_eq!(broker.texts(), [(11, "k0=late".to_owned())]);
    }
}

#[test]
fn segments_that_retention_takes_in_the_midst_of_a_round_are_passed_over() {
    for steps in 0.. {
        let mut broker = Broker::new(
            LogConfig {
                segment_bytes: 700,
                ..config()
            },
            1,
        );
        for number in 0..24 {
            broker.put(&[&format!("k{}={number}", number % 5)]);
            if number % 3 == 2 {
                broker.roll();
            }
        }
        broker.model.untouched_from = 24;
        let mut round = broker
            .log()
            .begin_compaction(|| broker.bounds(), &options(), 0)
            .unwrap()
            .unwrap();
        let mut is_done = false;
        for _ in 0..steps {
            is_done |= round.step(1, 0).unwrap() != CompactionStep::More;
        }
        broker.log().advance_log_start(7).unwrap();
        broker.model.log_start = 7;
        let report = loop {
            if let CompactionStep::Done(report) = round.step(1, 0).unwrap() {
                break report;
            }
        };
        drop(round);
        assert_eq!(report.cleaned_offset, Some(24));
        broker.check();
        assert_eq!(broker.texts().len(), 5);
        broker.reopen();
        broker.check();
        if is_done {
            return;
        }
    }
}

#[test]
fn who_reads_an_old_segment_finishes_with_it() {
    let mut broker = three_segments();
    let before = broker.log().read(0, usize::MAX, true, i64::MAX).unwrap();
    broker.compact().unwrap().unwrap();
    // The bytes are a window on a file that has no name any more.
    let entries = crate::model::entries(&before.bytes, 0);
    assert_eq!(entries.len(), 4);
    broker.check();
}

#[test]
fn reads_and_appends_work_after_each_change_of_the_disk() {
    let mut broker = three_segments();
    let disk = broker.disk.copy();
    let (fs, left) = Stopping::around(disk.shared());
    let mut fork = broker.fork(disk, &fs);
    // With an index that is in use, and one that nobody has looked at yet.
    fork.log().read(3, 1, true, i64::MAX).unwrap();
    let log = fork.log().clone();
    let appended = Arc::new(AtomicU64::new(0));
    let (count, batch) = (
        appended.clone(),
        build(&[record("late", Some("1"))], 1, Codec::None, None),
    );
    left.after_each(move |_| {
        for offset in 0..log.log_end_offset() {
            let found = crate::model::read(&log, offset, i64::MAX);
            let state = crate::model::state(&found);
            assert!(
                offset > 10 || (state[&b"k0"[..]] == b"10" && state[&b"k1"[..]] == b"11"),
                "from {offset}"
            );
            assert!(offset > 12 || state[&b"active"[..]] == b"1", "from {offset}");
        }
        let first = log.offset_for_timestamp(1_000_000, i64::MAX).unwrap().unwrap();
        assert!(first.offset <= 10, "{first:?}");
        // Whatever the compaction holds, it is nothing that this waits for.
        log.append_as_leader(&batch, 0, 1, &AppendOptions::default()).unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    });
    let report = fork.compact().unwrap().unwrap();
    assert_eq!((report.superseded_records, report.segments_after), (10, 1));
    assert!(appended.load(Ordering::Relaxed) > 10);
    for _ in 0..appended.load(Ordering::Relaxed) {
        fork.model
            .append(&build(&[record("late", Some("1"))], 1, Codec::None, None));
    }
    fork.check();
    broker.compact().unwrap().unwrap();
}

#[test]
fn readers_and_appends_go_on_while_segments_are_replaced() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let broker = std::cell::RefCell::new(three_segments());
    let log = broker.borrow().log().clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !stop.load(Ordering::Relaxed) || rounds == 0 {
                        let end = log.log_end_offset();
                        let found = crate::model::read(&log, 0, end);
                        let state = crate::model::state(&found);
                        assert!(state.contains_key(&b"k0"[..]) && state.contains_key(&b"k1"[..]));
                        assert_eq!(
                            log.offset_for_timestamp(0, i64::MAX).unwrap().unwrap().timestamp,
                            1_000_000
                        );
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let mut broker = broker.borrow_mut();
        for number in 0..60 {
            broker.put(&[&format!("k{}={number}", number % 2), "x=1"]);
            broker.put(&["y=1", "y=2"]);
            broker.roll();
            broker.compact_with(&options(), 100).unwrap().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        broker.check();
    });
}
