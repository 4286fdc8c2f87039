//! Base offsets lie outside of a batch's checksum: where gaps may be, one that rose looks like a gap.

use std::path::Path;

use millrace_log::ReadError;

use crate::follower::{Follower, fetched, segment_path};

/// Batches of one record at 10, 20 and so on, all flushed; the stored point tells of the first `told` of them.
fn with_gaps(count: i64, told: i64, segment_bytes: u32) -> Follower {
    let follower = Follower::new(segment_bytes, 1);
    for at in 1..=count {
        follower.follow(&fetched(at * 10, 1, 0));
        if at == told {
            follower.checkpoint();
        }
    }
    follower.log().flush().unwrap();
    assert_eq!(follower.stored_point(), told * 10 + 1);
    follower
}

/// Makes a batch's base offset another one: the `at`th of a segment, in which all are of one size.
fn move_batch(follower: &Follower, segment: i64, at: i64, to: i64) {
    let size = fetched(0, 1, 0).len() * at as usize;
    let moved = |bytes: &mut Vec<u8>| {
        bytes[size..size + 8].copy_from_slice(&to.to_be_bytes());
        Ok(())
    };
    follower.disk.edit(&segment_path(segment), moved).unwrap();
}

/// What is left above the stored flushed point of a log whose batch that began at 50 begins at `to`.
fn left_of(to: i64) -> Vec<i64> {
    let mut follower = with_gaps(8, 2, 1 << 20);
    move_batch(&follower, 0, 4, to);
    follower.kill();
    assert_eq!(follower.log().damage(), []);
    let ends = follower
        .batches()
        .iter()
        .map(|batch| i64::from_be_bytes(batch[..8].try_into().unwrap()))
        .collect();
    follower.verify_files();
    // And it goes on where it ends.
    follower.follow(&fetched(100, 1, 0));
    follower.checkpoint();
    follower.kill();
    assert_eq!(follower.log().log_end_offset(), 101);
    follower.verify_files();
    ends
}

#[test]
fn an_offset_that_rose_above_the_next_one_is_cut_with_what_follows() {
    assert_eq!(left_of(60), [10, 20, 30, 40]);
    assert_eq!(left_of(1_000), [10, 20, 30, 40]);
    // Far beyond where gaps may be.
    assert_eq!(left_of(1 << 40), [10, 20, 30, 40]);
    // Below the end of the batch before it.
    assert_eq!(left_of(25), [10, 20, 30, 40]);
    // Or was it that one which rose? Neither is believed.
    assert_eq!(left_of(35), [10, 20, 30]);
}

/// It can't be noticed, and spoils nothing else: the batches behind it are where they were.
#[test]
fn an_offset_that_rose_within_its_gap_is_believed() {
    assert_eq!(left_of(55), [10, 20, 30, 40, 55, 60, 70, 80]);
}

/// A segment's name says where the batches before it end.
#[test]
fn the_last_offset_of_a_segment_can_not_rise_into_the_next() {
    let mut follower = with_gaps(12, 1, 900);
    let bases = follower.bases();
    assert!(bases.len() > 2, "{bases:?}");
    // The last one of the first segment.
    let last = bases[1] / 10 - 1;
    move_batch(&follower, 0, last, bases[1] + 3);
    follower.kill();
    assert_eq!(follower.log().damage(), []);
    assert_eq!(follower.batches().len() as i64, last);
    assert_eq!(follower.log().log_end_offset(), last * 10 + 1);
    follower.verify_files();
}

/// Below the flushed point nothing is cut, and nothing may reach over it, whatever gaps are allowed above.
#[test]
fn an_offset_below_the_flushed_point_that_rose_is_damage() {
    for to in [60, 85, 1_000] {
        let mut follower = with_gaps(8, 5, 1 << 20);
        move_batch(&follower, 0, 4, to);
        follower.kill();
        let damage = follower.log().damage();
        assert_eq!(
            damage.iter().map(|range| range.from).collect::<Vec<_>>(),
            [41],
            "to {to}"
        );
        let read = follower.log().read(45, 100, true, i64::MAX);
        assert!(matches!(read, Err(ReadError::Corrupt { .. })), "to {to}: {read:?}");
        assert!(follower.log().log_end_offset() >= 51, "to {to}");
    }
}

#[test]
fn a_lost_segment_is_no_gap() {
    for knows_point in [true, false] {
        let mut follower = with_gaps(20, 20, 900);
        let bases = follower.bases();
        follower.log = None;
        follower.dir = None;
        follower.disk.kill_process();
        let fs = follower.disk.shared();
        fs.remove_file(&segment_path(bases[1])).unwrap();
        fs.sync_dir(Path::new(crate::follower::PARTITION)).unwrap();
        if !knows_point {
            follower.lose_flushed_point();
            follower.reopen();
            let damage = follower.log().damage();
            assert_eq!(
                damage.iter().map(|range| (range.from, range.to)).collect::<Vec<_>>(),
                [(bases[1], bases[2])]
            );
        } else {
            // Below the flushed point nothing is looked at before it is read.
            follower.reopen();
        }
        assert_eq!(follower.log().log_end_offset(), 201);
    }
}

#[test]
fn without_the_flushed_point_no_gap_is_cut_or_damage() {
    for told in [1, 4] {
        let mut follower = Follower::new(1 << 20, 1);
        let offsets = [7, 20, 5_000_000, 2_000_000_000];
        for (at, offset) in offsets.iter().enumerate() {
            follower.follow(&fetched(*offset, 2, 0));
            if at + 1 == told {
                follower.checkpoint();
            }
        }
        follower.log().flush().unwrap();
        follower.lose_flushed_point();
        follower.kill();
        assert!(follower.log().recovery_report().flushed_point_unknown);
        assert_eq!(follower.log().recovery_report().truncated_bytes, 0);
        assert_eq!(follower.log().damage(), []);
        assert_eq!(follower.batches(), offsets.map(|offset| fetched(offset, 2, 0)));
        follower.verify_files();
    }
}
