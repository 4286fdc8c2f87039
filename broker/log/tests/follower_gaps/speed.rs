//! Gaps cost next to nothing: no segment, no fsync of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::follower::{Follower, fetched};
use crate::stopping::Stopping;

#[test]
fn a_gap_before_each_batch_begins_no_segment_and_costs_no_sync() {
    const APPENDS: i64 = 500;
    for step in [2, 1_000, 4_000_000] {
        let mut follower = Follower::new(10_000, 1);
        let (fs, left) = Stopping::around(follower.disk.shared());
        follower.open_through(&fs);
        let others = Arc::new(AtomicU64::new(0));
        let counted = others.clone();
        // Changes beside those that a log without gaps needs as well.
        left.after_each(move |path| {
            let name = path.to_string_lossy();
            let needed = [".log", "index", ".snapshot"].iter().any(|end| name.ends_with(end));
            counted.fetch_add(u64::from(!needed), Ordering::SeqCst);
        });
        for at in 1..=APPENDS {
            follower.follow(&fetched(at * step, 1, 0));
        }
        let segments = follower.bases().len() as u64;
        assert!((9..=12).contains(&segments), "{segments} segments, by size");
        let others = others.load(Ordering::SeqCst);
        // Each time a bound is stored that takes a few changes: a write, two syncs and a renaming.
        assert!(others <= 50, "{others} other changes with steps of {step}");
        assert_eq!(follower.log().log_end_offset(), APPENDS * step + 1);
        assert_eq!(follower.batches().len() as i64, APPENDS);
    }
}

#[test]
fn batches_behind_gaps_are_written_in_one_go() {
    let mut follower = Follower::new(1 << 20, 1);
    let (fs, left) = Stopping::around(follower.disk.shared());
    follower.open_through(&fs);
    follower.follow(&fetched(5, 1, 0));
    let mut many = Vec::new();
    for at in 1..100 {
        many.extend_from_slice(&fetched(at * 10, 1, 0));
    }
    let before = left.made();
    follower.follow(&many.into());
    assert!(left.made() - before <= 3, "{} changes", left.made() - before);
    assert_eq!(follower.bases(), [0]);
    assert_eq!(follower.batches().len(), 100);
}
