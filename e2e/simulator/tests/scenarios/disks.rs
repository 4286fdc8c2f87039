//! Disks that are lost, exchanged, or older than they should be.

use millrace_simulator::{MessageKind, Settings, World};

use crate::{A, B, C, cluster, cluster_with_records, cluster_with_voters, ends_well, seconds};

/// B comes back with an empty disk under its old number. It is refused until the operator permits
/// it, and in no in-sync set before it has everything (KIP-858, KIP-966).
#[test]
fn an_empty_disk_under_a_known_number_is_refused_and_refilled() {
    let mut world = cluster_with_records();
    world.replace_disk(B);
    world.start_process(B);
    assert!(world.run_until(seconds(20), |world| world.times("registration refused") > 0));
    assert!(
        world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)),
        "its lease ends"
    );
    world.kill_process(A);
    world.run_for(seconds(5));
    world.start_process(A);
    ends_well(&mut world);
}

/// B and C come back with each other's disks: no registration is accepted, and nothing is lost
/// when the disks are put right (KIP-858).
#[test]
fn exchanged_disks_are_refused() {
    let mut world = cluster_with_records();
    world.exchange_disks(B, C);
    for _ in 0..6 {
        world.start_process(B);
        world.start_process(C);
        world.run_for(seconds(1));
        assert_eq!(world.violation(), None);
    }
    assert!(!world.is_in_sync(B, 0) || !world.is_up(B));
    world.put_disks_right(B, C);
    ends_well(&mut world);
}

/// B's disk is restored from an image of an earlier life, with the mark of its clean stop. All that
/// was known to be committed is on it, and more was committed since: it is not trusted, and does
/// not lead when the others are dead (KIP-966).
#[test]
fn an_image_of_an_earlier_life_is_not_trusted() {
    // Four more vote: a disk that has lost data does not.
    let settings = Settings {
        brokers: 7,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    world.shut_down(B);
    assert!(world.run_until(seconds(10), |world| !world.is_up(B)));
    assert_eq!(world.times("clean shutdown"), 1);
    world.save_disk(B);
    let image_end = world.log_end(A, 0);
    assert!(world.run_until_whole());
    for _ in 0..3 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    // B is the last one in sync, and dies last.
    for at in [C, A] {
        world.kill_process(at);
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    assert_eq!(world.leader(0), Some(B));
    assert!(Some(world.record(0).unwrap().floor.offset) <= image_end);
    world.restore_saved_disk(B);
    world.start_process(B);
    assert!(world.run_until(seconds(10), |world| world.log_end(B, 0) == image_end
        && world.is_in_service(B)));
    world.run_for(seconds(5));
    assert_eq!(world.violation(), None);
    assert_eq!(world.leader(0), None, "{:?}", world.record(0));
    world.start_process(C);
    world.start_process(A);
    ends_well(&mut world);
}

/// One broker loses its unsynced tail; on its return it and the next one to fail must not decide
/// on a leader without the records.
#[test]
fn a_lost_tail_does_not_decide_an_election() {
    let mut world = cluster_with_records();
    for round in 0..6 {
        let lossy = [B, C, A][round % 3];
        world.produce(0);
        world.run_for(seconds(1) / 300);
        world.power_off(lossy);
        world.run_for(seconds(1) / 10);
        world.start_process(lossy);
        world.kill_process([C, A, B][round % 3]);
        world.run_for(seconds(4));
        world.start_process([C, A, B][round % 3]);
        assert!(world.run_until_whole(), "{:?} {:?}", world.violation(), world.record(0));
    }
    ends_well(&mut world);
}

/// One machine loses power while another stands still: a minority each time, one history.
#[test]
fn a_power_cut_while_another_stands_still_gives_one_history() {
    let mut world = cluster_with_records();
    for round in 0..4 {
        world.produce(0);
        world.pause_process([B, C][round % 2], seconds(5));
        world.run_for(seconds(1) / 200);
        let leader = world.leader(0).unwrap_or(A);
        world.power_off(leader);
        world.run_for(seconds(3));
        world.start_process(leader);
        assert!(world.run_until_whole(), "{:?} {:?}", world.violation(), world.record(0));
    }
    ends_well(&mut world);
}

/// A registration of a process that is dead by now is delayed past the registration of the next
/// one. It ends no life, and its old report of the disk costs the replica nothing (KIP-631).
#[test]
fn a_late_registration_of_a_dead_process_is_refused() {
    let mut world = cluster_with_records();
    let served = world.broker_epoch(B);
    world.kill_process(B);
    world.start_process(B);
    world.hold(|message| message.kind() == MessageKind::Control && message.from() == Some(B));
    world.run_for(seconds(1));
    world.kill_process(B);
    assert_ne!(world.controller(), B);
    world.start_process(B);
    world.hold_nothing_more();
    assert!(world.run_until(seconds(1), |world| world.broker_epoch(B) != served));
    let epoch = world.broker_epoch(B);
    assert!(world.release() > 0);
    world.run_for(seconds(1));
    assert!(world.times("registration of a dead process") > 0);
    assert_eq!(world.broker_epoch(B), epoch, "a dead process began a life");
    ends_well(&mut world);
}

/// The registration of a process that died before it heard of it is applied while the next one
/// starts: that one reads of it and registers at the second try.
#[test]
fn a_life_that_died_unheard_of_delays_no_restart() {
    let mut world = cluster_with_records();
    let served = world.broker_epoch(B);
    world.kill_process(B);
    world.start_process(B);
    world.hold(|message| message.kind() == MessageKind::Control && message.from() == Some(B));
    world.run_for(seconds(1));
    world.kill_process(B);
    world.start_process(B);
    // The first one's registration arrives first, and the second one has not read of it.
    assert!(world.release() > 0);
    assert!(world.run_until(
        seconds(1),
        |world| world.times("registered again after an unknown life") > 0
    ));
    let unheard_of = world.broker_epoch(B);
    assert_ne!(unheard_of, served);
    // Not by a time-out: by reading of it and asking again.
    assert!(world.run_until(seconds(1) / 20, |world| world.broker_epoch(B) != unheard_of));
    ends_well(&mut world);
}

/// B's disk is restored from an image of its present life, which no epoch on the disk can tell
/// from the disk itself; then only B is there. It ends below what the controller knows to be
/// committed, and does not lead.
#[test]
fn an_image_of_the_present_life_is_found_out_by_what_is_known_to_be_committed() {
    // Four more vote: a disk that has lost data does not.
    let settings = Settings {
        brokers: 7,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    assert!(world.produce_and_wait(0));
    world.save_disk(B);
    let life = world.broker_epoch(B);
    for _ in 0..5 {
        assert!(world.produce_and_wait(0));
    }
    // Leaders tell what is committed whenever they change the set.
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    world.start_process(C);
    assert!(world.run_until(seconds(10), |world| world.is_in_sync(C, 0)));
    let floor = world.record(0).unwrap().floor.offset;
    assert!(floor > 6, "{floor}");
    // B is the last one in sync, and dies last.
    for at in [A, C] {
        world.kill_process(at);
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    assert_eq!((world.leader(0), world.broker_epoch(B)), (Some(B), life));
    world.restore_saved_disk(B);
    world.start_process(B);
    assert!(world.run_until(seconds(10), |world| world.times("log below the floor") > 0));
    world.run_for(seconds(5));
    assert_eq!(world.leader(0), None, "{:?}", world.record(0));
    world.start_process(C);
    world.start_process(A);
    ends_well(&mut world);
}

/// A follower's disk loses the end of its log while its process goes on: it asks for less than it
/// has acknowledged. It is neither in sync nor eligible to lead from then on, however far it comes,
/// until it registers anew.
#[test]
fn a_follower_that_has_less_than_it_acknowledged_is_nobodys_hope() {
    // Four more vote: a disk that has lost data does not.
    let settings = Settings {
        brokers: 7,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    world.lose_tail(B, 0, 2);
    assert!(
        world.run_until(seconds(5), |world| !world.is_in_sync(B, 0)),
        "{:?}",
        world.violation()
    );
    let record = world.record(0).unwrap().clone();
    assert_eq!(
        (&record.isr[..], &record.elr[..], &record.last_known_elr[..]),
        (&[0][..], &[][..], &[1][..])
    );
    world.run_for(seconds(3));
    assert_eq!(world.log_end(B, 0), world.log_end(A, 0));
    assert!(!world.is_in_sync(B, 0));
    // The only one that has all.
    world.kill_process(A);
    world.start_process(C);
    world.run_for(seconds(5));
    assert_eq!(world.leader(0), None);
    world.start_process(A);
    assert!(world.run_until(seconds(5), |world| world.leader(0) == Some(A)));
    world.kill_process(B);
    world.start_process(B);
    ends_well(&mut world);
}

/// A bit of what B has acknowledged flips while it is down. It comes into no in-sync set before it
/// has fetched the record again (Alagappan et al., FAST'18).
#[test]
fn a_damaged_replica_is_refilled_before_it_counts() {
    let mut world = cluster_with_records();
    // Until the disk has noted that it holds all.
    world.run_for(seconds(10));
    let end = world.log_end(B, 0);
    world.kill_process(B);
    world.damage_last_record(B, 0);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)));
    world.start_process(B);
    assert!(world.run_until(seconds(10), |world| world.is_in_sync(B, 0)));
    assert!(world.times("damage found") > 0);
    assert!(world.log_end(B, 0) >= end);
    world.kill_process(A);
    world.kill_process(C);
    world.run_for(seconds(2));
    world.start_process(A);
    world.start_process(C);
    ends_well(&mut world);
}

/// B dies as the last one in sync, and what it comes back with is damaged. It does not lead: A, which
/// left before it and is eligible, has all that was committed (KIP-966).
#[test]
fn a_damaged_replica_is_not_chosen_to_lead() {
    // Four more vote.
    let settings = Settings {
        brokers: 7,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    for _ in 0..3 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(10));
    for at in [C, A, B] {
        world.kill_process(at);
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    world.damage_last_record(B, 0);
    world.start_process(B);
    assert!(world.run_until(seconds(10), |world| world.times("log below the floor") > 0));
    world.run_for(seconds(5));
    assert_eq!(world.leader(0), None, "{:?}", world.record(0));
    world.start_process(A);
    assert!(world.run_until(seconds(10), |world| world.leader(0) == Some(A)));
    assert!(world.run_until(seconds(10), |world| world.is_in_sync(B, 0)));
    assert!(world.times("damage found") > 0);
    world.start_process(C);
    ends_well(&mut world);
}

/// A leader meets damage while it serves. Another one leads from then on, and the first is in sync again
/// without a restart: before, its followers that needed the record got no further.
#[test]
fn a_leader_that_finds_damage_is_replaced_and_refilled() {
    let mut world = cluster_with_records();
    world.run_for(seconds(10));
    let leader = world.leader(0).expect("somebody leads");
    let end = world.log_end(leader, 0);
    // A disk that has lost something has no vote here.
    world.move_controller((leader + 1) % 3);
    world.find_damage_in_last_record(leader, 0);
    assert_eq!(world.leader(0), Some(leader), "it goes on until then");
    assert!(world.run_until(seconds(10), |world| {
        world.leader(0).is_some_and(|other| other != leader)
    }));
    assert!(world.run_until(seconds(10), |world| world.is_in_sync(leader, 0)));
    assert_eq!(world.times("damage found"), 1);
    assert!(world.log_end(leader, 0) >= end);
    ends_well(&mut world);
}

/// C needs a record of which a bit has flipped on the leader's disk. It gets no wrong byte, and the leader meets the
/// damage with C's fetch: B leads, and both fetch from it (Alagappan et al., FAST'18).
#[test]
fn a_follower_that_needs_a_rotten_record_gets_it_from_another() {
    let mut world = cluster();
    world.kill_process(C);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(C, 0)));
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    // Until the disk has noted that it holds all.
    world.run_for(seconds(3));
    assert!(world.flip_bit(A, 0, 2));
    world.start_process(C);
    assert!(world.run_until(seconds(20), |world| world.times("damage met by a read") > 0));
    assert!(
        world.run_until(seconds(10), |world| world.leader(0) == Some(B)),
        "{:?}",
        world.record(0)
    );
    ends_well(&mut world);
    assert_eq!(world.times("damage found"), 1);
}
