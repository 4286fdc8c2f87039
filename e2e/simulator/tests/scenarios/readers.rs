//! What consumers and producers are told by leaders that are new, or that are leaders no more.

use std::{cell::RefCell, rc::Rc};

use millrace_simulator::{MessageKind, Settings, World};

use crate::{A, B, C, ends_well, seconds};

/// The leader stands still for a minute, another leads; it goes on with its old timers and with
/// batches that clients had sent to it, and does not hear of the other for a while. To one who is
/// content with its own log it says that the record is stored. That one is lost, and no consumer
/// gets it.
#[test]
fn a_paused_leader_commits_nothing_when_it_goes_on() {
    let settings = Settings {
        producers: 2,
        leader_acks: 1,
        consumers: 1,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    assert_eq!(world.leader(0), Some(A));
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    let kept = world.produce_by(1, 0);
    world.run_for(seconds(1));
    assert!(world.are_committed(0, &kept));
    assert_eq!(world.times("batch stored at its leader"), 1);
    world.pause_process(A, seconds(60));
    let retried = world.produce(0);
    world.run_for(seconds(20));
    assert!(world.leader(0).is_some_and(|leader| leader != A));
    assert!(world.believes_to_lead(A, 0), "it has heard of nothing");
    assert!(world.is_acknowledged(&retried));
    world.run_for(seconds(38));
    let end = world.log_end(A, 0);
    let lost = world.produce_by(1, 0);
    world.cut_off(A);
    world.run_for(seconds(6));
    assert_eq!(world.violation(), None);
    assert_eq!(world.times("batch stored at its leader"), 2);
    assert!(world.log_end(A, 0) > end);
    assert!(world.believes_to_lead(A, 0), "it has heard of nothing");
    world.mend_links();
    assert!(world.run_until(seconds(5), |world| !world.believes_to_lead(A, 0)));
    ends_well(&mut world);
    assert!(world.times("log cut") > 0);
    assert!(!world.are_committed(0, &lost));
}

/// A consumer's position is ahead of what a new leader knows to be committed: it is told neither to
/// start over nor that the log ends there (KIP-207). The observer looks at every read.
#[test]
fn a_consumer_ahead_of_a_new_leader_keeps_its_position() {
    let settings = Settings {
        consumers: 1,
        lag_max: seconds(30),
        ..Settings::calm()
    };
    let mut world = World::new(3, Some(settings), true);
    assert!(world.run_until_whole());
    world.move_controller(C);
    for _ in 0..3 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(1));
    // Both followers get records, and do not hear that they are committed.
    let end = world.log_end(A, 0);
    let values = world.produce(0);
    assert!(world.run_until(seconds(1), |world| world.log_end(B, 0) > end
        && world.log_end(C, 0) > end));
    world.hold(|message| message.kind() == MessageKind::FetchAnswer);
    assert!(world.run_until(seconds(1), |world| world.is_acknowledged(&values)));
    let committed = world.committed(0);
    assert!(world.run_until(seconds(10), |world| world.position(0, 0) == committed));
    world.kill_process(A);
    world.drop_held();
    // B leads, and hears nothing of C for as long as the consumer asks.
    let reads = Rc::new(RefCell::new(0));
    let count = Rc::clone(&reads);
    world.hold(move |message| {
        *count.borrow_mut() += u32::from(message.kind() == MessageKind::Read && message.to() == Some(B));
        message.kind() == MessageKind::Fetch && message.from() == Some(C)
    });
    assert!(world.run_until(seconds(10), |world| world.believes_to_lead(B, 0)));
    let asked = *reads.borrow();
    assert!(world.run_until(seconds(20), |_| *reads.borrow() > asked + 4));
    world.run_for(seconds(1) / 10);
    assert_eq!(world.violation(), None);
    assert!(world.high_watermark(B, 0) < Some(committed));
    assert_eq!(world.log_end(B, 0), Some(committed));
    world.drop_held();
    world.start_process(A);
    ends_well(&mut world);
    assert!(world.position(0, 0) >= committed);
}

/// A leader that was left alone comes back as a follower with a tail of its own. What it hears of
/// the new leader's high watermark it must not apply to that tail before it has cut it
/// (KAFKA-14704). A consumer reads at leader and followers, and the observer looks at each read.
#[test]
fn a_follower_shows_nothing_of_a_tail_that_it_has_to_cut() {
    let settings = Settings {
        consumers: 1,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    assert!(world.produce_and_wait(0));
    world.run_for(seconds(1));
    let common = world.committed(0);
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.from() == Some(A));
    for _ in 0..3 {
        world.produce(0);
    }
    world.run_for(seconds(1) / 10);
    assert!(world.log_end(A, 0) > Some(common));
    world.kill_process(A);
    world.drop_held();
    assert!(world.run_until(seconds(10), |world| world.leader(0).is_some_and(|leader| leader != A)));
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.start_process(A);
    assert!(world.run_until(seconds(10), |world| world.times("logs diverged") > 0));
    assert!(world.run_until(seconds(1), |world| {
        assert!(world.times("log cut") > 0 || world.high_watermark(A, 0) <= Some(common));
        world.times("log cut") > 0
    }));
    ends_well(&mut world);
}
