//! Members whose connection is gone.

use std::time::Duration;

use super::{super::*, support::*};

fn lose(bench: &mut Bench, group: &str, member: &str) {
    assert_eq!(bench.step(Event::ConnectionLost { group, member }), []);
}

fn members(bench: &Bench) -> usize {
    bench
        .coordinator
        .groups()
        .get("g")
        .map_or(0, |group| group.members.len())
}

#[test]
fn a_member_without_connection_has_its_reconnect_time() {
    let mut bench = Bench::new(&[4]);
    let (mut a, _) = (bench.join("a"), bench.join("b"));
    lose(&mut bench, "g", "b");
    bench.pass(RECONNECT - Duration::from_millis(1));
    assert_eq!(members(&bench), 2);
    bench.pass(Duration::from_millis(1));
    assert_eq!(members(&bench), 1);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, places(0..4));
}

#[test]
fn a_member_that_connects_again_has_its_whole_session() {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    lose(&mut bench, "g", "a");
    bench.pass(RECONNECT / 2);
    bench.renew("a", &mut a);
    bench.pass(SESSION - Duration::from_millis(1));
    assert_eq!(members(&bench), 1);
    bench.pass(Duration::from_millis(1));
    assert_eq!(members(&bench), 0);
}

/// A connection that is lost again and again, or late in a session, prolongs nothing.
#[test]
fn a_lost_connection_never_prolongs_a_session() {
    let mut bench = Bench::new(&[4]);
    bench.join("a");
    bench.pass(SESSION - RECONNECT / 2);
    lose(&mut bench, "g", "a");
    bench.pass(RECONNECT / 2);
    assert_eq!(members(&bench), 0);
    bench.join("b");
    lose(&mut bench, "g", "b");
    bench.pass(RECONNECT / 2);
    lose(&mut bench, "g", "b");
    bench.pass(RECONNECT / 2);
    assert_eq!(members(&bench), 0);
}

#[test]
fn who_is_not_a_member_or_has_left_for_a_restart_loses_nothing() {
    let mut bench = Bench::new(&[4]);
    let timers = bench.coordinator.timers();
    lose(&mut bench, "g", "a");
    assert_eq!(
        bench.coordinator.timers(),
        timers,
        "nothing is kept of who was never there"
    );
    let mut beat = join("a");
    beat.instance = Some("i".into());
    bench.beat(beat).unwrap();
    lose(&mut bench, "g", "b");
    lose(&mut bench, "h", "a");
    bench.leave("a", true).unwrap();
    lose(&mut bench, "g", "a");
    bench.pass(SESSION - Duration::from_millis(1));
    assert_eq!(members(&bench), 1, "its place is kept for a session time");
    bench.pass(Duration::from_millis(1));
    assert_eq!(members(&bench), 0);
}

/// It may use what it has until its session ends, and does not know that it is fenced.
#[test]
fn who_is_fenced_keeps_what_it_has_until_its_session_ends() {
    let mut bench = Bench::new(&[4]);
    let (mut a, mut b) = (bench.join("a"), bench.join("b"));
    bench.pass(Duration::from_millis(100));
    bench.renew("b", &mut b);
    let keeps = |known: &Known| Heartbeat {
        owned: Some(places(0..4)),
        ..known.beat("a")
    };
    let beat = keeps(&a);
    a.take(bench.beat(beat).unwrap());
    assert!(!a.assignment.revoking.is_empty());
    let until = bench.now.monotonic + REBALANCE;
    while bench.now.monotonic < until {
        bench.pass(Duration::from_secs(1));
        bench.renew("b", &mut b);
        if bench.now.monotonic < until {
            let beat = keeps(&a);
            a.take(bench.beat(beat).unwrap());
        }
    }
    let fenced = |bench: &Bench| {
        bench.coordinator.groups().get("g").unwrap().members[&MemberId::from("a")]
            .current
            .state
            == MemberState::Fenced
    };
    assert!(fenced(&bench));
    lose(&mut bench, "g", "a");
    bench.pass(RECONNECT);
    bench.renew("b", &mut b);
    assert!(fenced(&bench), "it is there still");
}
