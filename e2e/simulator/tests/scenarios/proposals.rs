//! In-sync sets: proposals that are lost, late, repeated, or of a controller that is none.

use std::{cell::RefCell, rc::Rc};

use millrace_simulator::{MessageKind, Settings, World};

use crate::{A, B, C, D, cluster_with_records, cluster_with_voters, ends_well, seconds};

/// C is heard of by the controller, and not by the leader, whose proposals of a set without C are held back. With a
/// batch that was sent meanwhile.
fn proposing_a_set_without_c() -> (World, Vec<u64>) {
    let mut world = cluster_with_records();
    world.move_controller(B);
    world.hold(|message| message.kind() == MessageKind::Proposal);
    world.cut_link(C, A);
    let values = world.produce(0);
    world.run_for(seconds(6));
    (world, values)
}

/// The leader proposes a set without C; the proposal is under way for long. Until it is known
/// what became of it C counts: the controller may still elect it (KIP-497).
#[test]
fn a_member_counts_until_its_removal_is_confirmed() {
    let (mut world, values) = proposing_a_set_without_c();
    assert!(
        !world.is_acknowledged(&values),
        "C is still a member for the controller"
    );
    world.release();
    assert!(
        world.run_until(seconds(5), |world| world.is_acknowledged(&values)),
        "{:?}",
        world.violation()
    );
    world.mend_links();
    ends_well(&mut world);
}

/// The same, and the controller does elect C, which is still a member by its record: nothing that was acknowledged
/// is missing there (KIP-497).
#[test]
fn a_member_that_its_leader_wants_out_may_be_elected_all_the_same() {
    let (mut world, values) = proposing_a_set_without_c();
    assert!(world.held() > 0 && !world.is_acknowledged(&values));
    world.kill_process(A);
    assert!(world.run_until(seconds(10), |world| world.leader(0).is_some_and(|leader| leader != A)));
    world.elect(0, C);
    assert!(world.run_until(seconds(10), |world| world.believes_to_lead(C, 0)));
    // The late proposal is of a leader epoch that is over.
    world.release();
    world.mend_links();
    world.start_process(A);
    ends_well(&mut world);
    assert!(world.is_acknowledged(&values));
}

/// The set with C is accepted, and the leader hears neither the answer nor of the metadata. C
/// counts all the same, for the controller may elect it: what C does not have is not acknowledged,
/// and nothing is missing when the others die (KIP-841).
#[test]
fn an_accepted_proposal_whose_answer_is_lost_counts() {
    let settings = Settings {
        brokers: 5,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    let proposals = Rc::new(RefCell::new(0));
    let count = Rc::clone(&proposals);
    world.hold(move |message| {
        *count.borrow_mut() += u32::from(message.kind() == MessageKind::Proposal);
        false
    });
    world.start_process(C);
    assert!(world.run_until(seconds(20), |_| *proposals.borrow() > 0));
    // Answers and metadata come from the controller.
    world.cut_link(D, A);
    assert!(world.run_until(seconds(1), |world| world.is_in_sync(C, 0)));
    world.cut_link(A, C);
    world.cut_link(C, A);
    let values = world.produce(0);
    // For longer than C would be waited for if it were only about to join.
    world.run_for(seconds(4));
    assert_eq!(world.violation(), None);
    assert!(!world.is_acknowledged(&values), "C does not have it");
    assert!(world.log_end(C, 0) < world.log_end(A, 0));
    assert!(world.is_in_sync(C, 0) && world.believes_to_lead(A, 0));
    world.kill_process(A);
    world.kill_process(B);
    assert!(world.run_until(seconds(10), |world| world.leader(0) == Some(C)));
    world.mend_links();
    world.start_process(A);
    world.start_process(B);
    ends_well(&mut world);
    assert!(world.is_acknowledged(&values));
}

/// The proposal that lets B in is delayed; B dies, loses its disk, and registers anew with an
/// empty one, which stays empty. The late proposal names a life of B that is over (KIP-903).
#[test]
fn a_late_proposal_does_not_let_in_a_later_life() {
    let mut world = cluster_with_records();
    world.move_controller(C);
    world.kill_process(B);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)));
    world.hold(|message| message.kind() == MessageKind::Proposal);
    world.start_process(B);
    assert!(world.run_until(seconds(20), |world| world.held() > 0));
    world.replace_disk(B);
    // Its next life hears nothing from its leader.
    world.cut_link(A, B);
    world.start_process(B);
    assert!(world.run_until(seconds(30), |world| world.times("registration refused") > 0));
    assert!(world.run_until(seconds(10), |world| world.log_end(B, 0) == Some(0)
        && world.is_in_service(B)));
    let refused = world.times("proposal refused");
    assert!(world.release() > 0);
    world.run_for(seconds(1));
    assert_eq!(world.violation(), None);
    assert!(world.times("proposal refused") > refused);
    assert!(!world.is_in_sync(B, 0), "{:?}", world.record(0));
    assert_eq!(world.log_end(B, 0), Some(0));
    world.mend_links();
    ends_well(&mut world);
}

/// The quorum's leader changes while a proposal is under way: whether it was committed or lost,
/// leader and controller agree in the end (KAFKA-14154).
#[test]
fn the_controller_moves_while_a_proposal_is_under_way() {
    let mut world = cluster_with_records();
    world.kill_process(C);
    world.hold(|message| message.kind() == MessageKind::Proposal);
    world.run_for(seconds(4));
    let other = if world.controller() == A { B } else { A };
    world.move_controller(other);
    world.release();
    world.start_process(C);
    ends_well(&mut world);
}

/// A controller that does not know that it is deposed tells success, with the record as it was. The leader goes on to
/// count whom it wants out, and proposes the same to the next one (KAFKA-14154).
#[test]
fn the_success_of_a_deposed_controller_is_not_acted_on() {
    let mut world = cluster_with_records();
    world.move_controller(B);
    world.hold(|message| message.kind() == MessageKind::Proposal);
    world.cut_link(C, A);
    let committed = world.committed(0);
    let batch = world.produce(0);
    assert!(world.run_until(seconds(6), |world| world.held() > 0));
    assert!(world.answer_as_deposed() > 0);
    assert!(
        world.run_until(seconds(6), |world| world.held() > 0),
        "it proposes again"
    );
    assert_eq!(world.violation(), None);
    assert_eq!(
        world.committed(0),
        committed,
        "without C, which is in sync by the record"
    );
    assert!(world.is_in_sync(C, 0) && !world.is_acknowledged(&batch));
    assert!(world.release() > 0);
    assert!(world.run_until(seconds(6), |world| world.is_acknowledged(&batch)));
    world.mend_links();
    ends_well(&mut world);
}

/// Below the required number nothing is committed and nothing acknowledged. Whoever left then is
/// as good as the last one: when that one loses power, the other leads at once, and lacks nothing
/// (KIP-966).
#[test]
fn the_last_replica_standing_commits_nothing_alone() {
    let settings = Settings {
        brokers: 5,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    let committed = world.committed(0);
    world.kill_process(B);
    // A takes this: it has not heard yet that B is out of sync.
    let before = world.produce(0);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)));
    world.run_for(seconds(1) / 10);
    let end = world.log_end(A, 0);
    assert!(end > Some(committed));
    let after = world.produce(0);
    world.run_for(seconds(3));
    assert_eq!(world.violation(), None);
    assert!(!world.is_acknowledged(&before) && !world.is_acknowledged(&after));
    assert_eq!((world.committed(0), world.log_end(A, 0)), (committed, end));
    world.power_off(A);
    world.start_process(B);
    assert!(
        world.run_until(seconds(10), |world| world.leader(0) == Some(B)
            && world.believes_to_lead(B, 0)),
        "{:?}",
        world.record(0)
    );
    assert!(!world.is_up(A));
    world.start_process(A);
    world.start_process(C);
    ends_well(&mut world);
    assert!(world.is_acknowledged(&before) && world.is_acknowledged(&after));
}

/// No answer comes to a proposal, and meanwhile what it was made from changes. Each repetition is
/// the same proposal: one that was made anew for a retry has come out empty (KAFKA-15353).
#[test]
fn a_repeated_proposal_is_the_same_however_things_have_changed() {
    let mut world = cluster_with_records();
    world.move_controller(B);
    let held = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&held);
    world.hold(move |message| {
        let is_proposal = message.kind() == MessageKind::Proposal;
        if is_proposal {
            seen.borrow_mut().push(format!("{message:?}"));
        }
        is_proposal
    });
    world.cut_link(C, A);
    world.produce(0);
    assert!(world.run_until(seconds(6), |_| held.borrow().len() == 1));
    // C is in sync again by all that its leader hears, and B is not any more.
    world.mend_links();
    world.cut_link(B, A);
    world.produce(0);
    world.run_for(seconds(6));
    {
        let copies = held.borrow();
        assert!(copies.len() > 2, "{copies:?}");
        assert!(copies.iter().all(|copy| *copy == copies[0]), "{copies:#?}");
    }
    world.mend_links();
    assert!(world.release() > 2);
    ends_well(&mut world);
}

/// C is taken from the partition's replicas and added again, and the leader hears of both at once.
/// What C had told before is of a replica that is gone: it counts for nothing (KAFKA-9672).
#[test]
fn a_replica_that_was_removed_and_added_counts_for_nothing_at_first() {
    let mut world = cluster_with_records();
    world.move_controller(B);
    let epoch = world.record(0).unwrap().leader_epoch;
    world.hold(|message| message.kind() == MessageKind::Fetch && message.from() == Some(C));
    // A does not hear of the metadata, for less than its lease.
    world.cut_link(A, B);
    world.move_partition(0, &[A, B]);
    world.move_partition(0, &[A, B, C]);
    assert!(world.run_until(seconds(1) / 10, |world| {
        world.record(0).is_some_and(|record| record.adding.len() == 1)
    }));
    world.mend_links();
    world.run_for(seconds(1) / 10);
    let record = world.record(0).unwrap().clone();
    assert!(record.leader_epoch > epoch, "{record:?}");
    assert_eq!((world.leader(0), record.isr.len()), (Some(A), 2));
    // Committed without C, which is not let in for what it once had.
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    world.run_for(seconds(3));
    assert!(!world.is_in_sync(C, 0), "{:?}", world.record(0));
    world.drop_held();
    ends_well(&mut world);
}

/// The controller refuses to let in C, which it does not hear of, and another copy of the proposal
/// is under way for long. When that arrives, C is in service again, in the same life, and lacks
/// records: the leader has seen to it that the copy comes to nothing.
#[test]
fn a_late_copy_of_a_refused_proposal_comes_to_nothing() {
    let mut world = cluster_with_records();
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    world.move_controller(B);
    let held = Rc::new(RefCell::new(0));
    let count = Rc::clone(&held);
    world.hold(move |message| {
        let is_proposal = message.kind() == MessageKind::Proposal;
        *count.borrow_mut() += u32::from(is_proposal);
        is_proposal
    });
    world.start_process(C);
    assert!(world.run_until(seconds(5), |_| *held.borrow() > 0));
    world.cut_link(C, B);
    world.run_for(seconds(2));
    world.hold_nothing_more();
    assert!(world.run_until(seconds(3), |world| world.times("superseding proposal") > 0));
    world.cut_link(C, A);
    world.cut_link(A, C);
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    // In service, and without the last records.
    world.mend_link(C, B);
    world.run_for(seconds(1));
    assert!(world.log_end(C, 0) < world.log_end(A, 0));
    assert!(world.release() > 0);
    world.run_for(seconds(1) / 10);
    assert!(!world.is_in_sync(C, 0), "{:?}", world.record(0));
    world.mend_links();
    ends_well(&mut world);
}
