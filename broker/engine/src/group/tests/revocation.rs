//! How long a member may keep what it must give back, and how much of it there is.

use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

/// The time of a revocation does not run while an earlier one is carried out.
#[test]
fn a_further_revocation_has_its_whole_time() {
    let mut bench = Bench::new(&[6]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    let mut b = bench.join("b");
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.revoking.len(), 3);
    // It takes nearly all of its time.
    for _ in 0..19 {
        bench.pass(Duration::from_secs(1));
        let mut beat = a.beat("a");
        beat.owned = None;
        a.take(bench.beat(beat).unwrap());
        bench.renew("b", &mut b);
    }
    assert_eq!(a.assignment.revoking.len(), 3);
    bench.join("c");
    // The report that gives back the former is answered with the next.
    bench.renew("a", &mut a);
    assert_eq!((a.assignment.assigned.len(), a.assignment.revoking.len()), (2, 1));
    assert_eq!(a.assignment.revoke_within, Some(REBALANCE));
    bench.pass(Duration::from_secs(2));
    bench.renew("a", &mut a);
    assert_eq!((a.epoch, a.assignment.revoking.len()), (3, 0));
}

/// A part of what one still must give back begins no time anew.
#[test]
fn giving_back_a_part_prolongs_nothing() {
    let mut bench = Bench::new(&[6]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    bench.join("b");
    bench.renew("a", &mut a);
    bench.pass(Duration::from_secs(4));
    let mut beat = a.beat("a");
    beat.owned = Some(places(0..5));
    a.take(bench.beat(beat).unwrap());
    assert_eq!(a.assignment.revoking, places([3, 4]));
    assert_eq!(a.assignment.revoke_within, Some(REBALANCE - Duration::from_secs(4)));
}

/// A member that keeps more partitions than a request names otherwise.
#[test]
fn a_member_reports_however_many_it_owns() {
    let mut bench = Bench::new(&[8_000; 3]);
    bench.checked = false;
    let of_all = |member: &str| Heartbeat {
        details: Some(details(&["t1", "t2", "t3"])),
        ..join(member)
    };
    let mut a = Known::default();
    a.take(bench.beat(of_all("a")).unwrap());
    bench.pass(INTERVAL);
    bench.beat(of_all("b")).unwrap();
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.revoking.len(), 12_000);
    assert!(a.assignment.assigned.len() > MAX_PARTITIONS_PER_REQUEST);
    bench.renew("a", &mut a);
    assert_eq!((a.epoch, a.assignment.revoking.len()), (2, 0));
    assert_eq!(a.assignment.assigned.len(), 12_000);
}
