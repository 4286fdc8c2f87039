//! Leaders that die, come back, and do not know that they lead no more.

use millrace_simulator::{MessageKind, Settings, World};

use crate::{A, B, C, D, cluster, cluster_with_records, cluster_with_voters, ends_well, seconds};

/// A follower has a record but has not heard that it is committed. It restarts, and must not cut
/// it: the leader dies before the follower has fetched again, and the follower leads (KIP-101).
#[test]
fn a_follower_that_restarts_keeps_what_lies_above_its_high_watermark() {
    // Nobody else has it.
    let settings = Settings {
        brokers: 5,
        replication: 2,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    world.hold(|message| message.kind() == MessageKind::FetchAnswer);
    let values = world.produce(0);
    world.run_for(seconds(1));
    world.release();
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.to() == Some(B));
    assert!(world.run_until(seconds(3), |world| world.is_acknowledged(&values)));
    let end = world.log_end(B, 0);
    assert!(world.high_watermark(B, 0) < end);
    world.kill_process(B);
    world.start_process(B);
    assert!(world.run_until(seconds(10), |world| world.log_end(B, 0).is_some()
        && world.is_in_service(B)));
    world.run_for(seconds(1) / 2);
    world.kill_process(A);
    assert!(
        world.run_until(seconds(10), |world| world.leader(0) == Some(B)
            && world.believes_to_lead(B, 0)),
        "{:?}",
        world.violation()
    );
    world.run_for(seconds(1));
    assert_eq!(world.violation(), None);
    assert_eq!(world.log_end(B, 0), end);
    world.drop_held();
    world.start_process(A);
    ends_well(&mut world);
}

/// Two brokers lose power; the one that comes back first leads and takes other records at the
/// same offsets. The other must find out and cut (KIP-101).
#[test]
fn two_lose_power_and_the_second_to_return_cuts_its_own_history() {
    let mut world = cluster_with_records();
    // Only A writes it: its followers get no answer.
    world.hold(|message| message.kind() == MessageKind::FetchAnswer);
    world.produce(0);
    world.run_for(seconds(1) / 10);
    let ahead = world.log_end(A, 0);
    assert!(ahead > world.log_end(B, 0));
    world.power_off(A);
    world.power_off(B);
    world.drop_held();
    world.run_for(seconds(2));
    world.start_process(B);
    // With it there is a majority of the quorum again; C has led since, or B does.
    assert!(world.run_until(seconds(10), |world| world.leader(0).is_some_and(|leader| leader != A)));
    assert!(world.run_until(seconds(10), |world| world.is_in_sync(B, 0)));
    world.elect(0, B);
    assert!(world.run_until(seconds(10), |world| world.believes_to_lead(B, 0)));
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    assert!(world.log_end(B, 0) >= ahead, "another record at the same offset");
    world.start_process(A);
    ends_well(&mut world);
    assert!(world.times("logs diverged") > 0);
}

/// A dies, B leads, takes a record that nobody else gets, and dies; another leads. B returns with
/// an epoch of which that one has no record (KIP-279).
#[test]
fn leaders_that_follow_each_other_fast_end_with_equal_logs() {
    let mut world = cluster_with_records();
    world.kill_process(A);
    assert!(world.run_until(seconds(10), |world| world.leader(0) == Some(B)
        && world.believes_to_lead(B, 0)));
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.from() == Some(B));
    let end = world.log_end(B, 0);
    world.produce(0);
    // The producer takes A for the leader at first.
    assert!(world.run_until(seconds(10), |world| world.log_end(B, 0) > end));
    world.run_for(seconds(1) / 10);
    world.power_off(B);
    world.drop_held();
    world.start_process(A);
    world.run_for(seconds(5));
    world.start_process(B);
    ends_well(&mut world);
    assert!(world.times("logs diverged") > 0);
}

/// The leader is killed and is back within 50 ms, its unsynced tail lost, while followers hold
/// more. It must not lead on under its old epoch (KIP-631, the class of KAFKA-10527).
#[test]
fn a_leader_that_is_back_at_once_leads_under_a_new_epoch_or_not_at_all() {
    let mut lost = 0;
    // Whose disk is faster, and what the power takes, is drawn.
    for seed in 0..12 {
        let settings = Settings {
            disk_delay_max: seconds(1) / 50,
            ..Settings::calm()
        };
        let mut world = World::new(seed, Some(settings), true);
        assert!(world.run_until_whole());
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
        world.run_for(seconds(1));
        let epoch = world.record(0).unwrap().leader_epoch;
        let end = world.log_end(B, 0);
        world.produce(0);
        assert!(world.run_until(seconds(1), |world| world.log_end(B, 0) > end));
        world.power_off(A);
        world.run_for(seconds(1) / 20);
        world.start_process(A);
        assert!(world.run_until(seconds(1), |world| world.log_end(A, 0).is_some()));
        lost += u32::from(world.log_end(A, 0) < world.log_end(B, 0));
        world.run_for(seconds(3));
        assert!(world.record(0).unwrap().leader_epoch > epoch);
        ends_well(&mut world);
    }
    assert!(lost > 0, "its tail was on its disk each time");
}

/// C's word that it has what A took is under way for long. Meanwhile B leads, and C cuts it; then A
/// leads again, without having heard of B. What C told under the earlier epoch must not count, for
/// C does not have it any more (the first model of KIP-320 in hachikuji/kafka-specification).
#[test]
fn a_fetch_of_an_earlier_epoch_does_not_count() {
    let settings = Settings {
        brokers: 5,
        lag_max: seconds(30),
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    let common = world.committed(0);
    // Only C gets what A takes, and A hears of no metadata.
    world.cut_link(A, B);
    world.cut_link(D, A);
    world.hold(move |message| {
        message.from() == Some(C) && message.to() == Some(A) && message.fetch_offset() > Some(common)
    });
    let values = world.produce(0);
    // The fetch behind it, and that it is on the disk.
    assert!(world.run_until(seconds(1), |world| world.held() == 2));
    assert!(world.log_end(C, 0) > Some(common));
    world.elect(0, B);
    assert!(world.run_until(seconds(1), |world| world.believes_to_lead(B, 0)
        && world.log_end(C, 0) == Some(common)));
    assert!(world.believes_to_lead(A, 0) && world.log_end(A, 0) > Some(common));
    // Of C it hears nothing new.
    world.hold(|message| message.from() == Some(C) && message.to() == Some(A) && message.kind() == MessageKind::Fetch);
    world.mend_link(A, B);
    world.elect(0, A);
    assert!(world.run_until(seconds(1), |world| world.leader(0) == Some(A)));
    world.run_for(seconds(1) / 20);
    world.mend_links();
    assert!(world.run_until(seconds(5), |world| world.log_end(B, 0) == world.log_end(A, 0)));
    world.run_for(seconds(1) / 10);
    assert!(world.held() > 2);
    assert!(world.release_first() && world.release_first());
    world.run_for(seconds(1) / 2);
    assert_eq!(world.violation(), None);
    assert_eq!((world.leader(0), world.log_end(C, 0)), (Some(A), Some(common)));
    assert_eq!(world.high_watermark(A, 0), Some(common), "C lacks the rest");
    world.drop_held();
    ends_well(&mut world);
    assert!(world.is_acknowledged(&values));
}

/// A fetch answer is under way for longer than the follower waits. The follower asks again, of the
/// same leader in the same epoch, and has the records when the first answer comes: that is neither
/// appended nor taken for the leader's mistake (KAFKA-13207).
#[test]
fn an_answer_that_waited_too_long_is_not_appended() {
    let mut world = cluster_with_records();
    let (epoch, end) = (world.record(0).unwrap().leader_epoch, world.log_end(C, 0));
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.to() == Some(C));
    let values = world.produce(0);
    assert!(world.run_until(seconds(1), |world| world.held() > 0 && world.log_end(A, 0) > end));
    world.run_for(seconds(1));
    assert_eq!(world.log_end(C, 0), end);
    world.hold_nothing_more();
    assert!(world.run_until(seconds(5), |world| world.log_end(C, 0) == world.log_end(A, 0)));
    world.run_for(seconds(1) / 10);
    let end = world.log_end(C, 0);
    assert!(world.release() > 0);
    world.run_for(seconds(1));
    assert_eq!(world.violation(), None);
    assert_eq!((world.log_end(C, 0), world.leader(0)), (end, Some(A)));
    assert_eq!(world.record(0).unwrap().leader_epoch, epoch);
    ends_well(&mut world);
    assert!(world.is_acknowledged(&values));
}

/// A broker that stops in order leaves the in-sync set, and nobody waits for it (KAFKA-15021).
#[test]
fn an_orderly_stop_does_not_hold_the_high_watermark() {
    let mut world = cluster_with_records();
    world.shut_down(C);
    assert!(
        world.run_until(seconds(10), |world| world.times("clean shutdown") == 1),
        "{:?}",
        world.record(0)
    );
    let values = world.produce(0);
    assert!(
        world.run_until(seconds(1), |world| world.is_acknowledged(&values)),
        "nobody waits for it"
    );
    ends_well(&mut world);
}

/// The power of all machines goes at one instant under load: all that was acknowledged is there.
#[test]
fn the_power_of_all_goes_under_load() {
    for batches in 1..12 {
        let mut world = cluster();
        for _ in 0..batches {
            world.produce(0);
        }
        world.run_for(seconds(1) / 400 * batches);
        for at in [A, B, C] {
            world.power_off(at);
        }
        for at in [C, B, A] {
            world.start_process(at);
        }
        ends_well(&mut world);
    }
}

/// The high watermark of a new leader lags behind what is committed. A follower that has reached
/// it lacks committed records as long as it has not reached where the leader's epoch began: it
/// must not be let in (KAFKA-7128).
#[test]
fn who_has_only_a_new_leaders_watermark_is_not_in_sync() {
    // Two more vote: A and B are down for a while.
    let settings = Settings {
        brokers: 5,
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole());
    for _ in 0..3 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(1));
    world.kill_process(B);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)));
    // C gets records, and does not hear that they are committed.
    let end = world.log_end(C, 0);
    let values = world.produce(0);
    assert!(world.run_until(seconds(1), |world| world.log_end(C, 0) > end));
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.to() == Some(C));
    assert!(world.run_until(seconds(1), |world| world.is_acknowledged(&values)));
    assert!(world.high_watermark(C, 0) < world.log_end(C, 0));
    world.kill_process(A);
    world.drop_held();
    assert!(world.run_until(seconds(10), |world| world.believes_to_lead(C, 0)));
    // B asks, and gets nothing yet.
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.to() == Some(B));
    world.start_process(B);
    world.run_for(seconds(3));
    assert!(
        world.log_end(B, 0) >= world.high_watermark(C, 0),
        "the watermark alone says nothing"
    );
    assert!(!world.is_in_sync(B, 0));
    world.drop_held();
    world.start_process(A);
    ends_well(&mut world);
    assert!(world.is_acknowledged(&values));
}

/// A follower's log ends below where the leader's begins, and has records that the leader never
/// had: there is no common part to look for. It begins anew, and is not told to cut for ever
/// (KAFKA-12996).
#[test]
fn a_log_that_diverged_below_the_leaders_start_begins_anew() {
    let mut world = cluster_with_records();
    world.hold(|message| message.kind() == MessageKind::FetchAnswer && message.from() == Some(A));
    world.produce(0);
    world.run_for(seconds(1) / 10);
    let end = world.log_end(A, 0);
    world.kill_process(A);
    world.drop_held();
    assert!(world.run_until(seconds(10), |world| world.leader(0).is_some_and(|leader| leader != A)));
    for _ in 0..5 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    let (leader, committed) = (world.leader(0).unwrap(), world.committed(0));
    assert!(Some(committed) > end);
    world.delete_records(leader, 0, committed);
    world.start_process(A);
    assert!(world.run_until(seconds(10), |world| world.times("log begun anew") > 0));
    ends_well(&mut world);
    assert_eq!(world.times("log cut"), 0);
}

/// All records are deleted while a producer has not heard that its last batch was stored. Nothing is left to compare
/// logs by, yet the followers, which were equal just before, still know the producer: its retry to the next leader is
/// no new batch.
#[test]
fn who_was_in_sync_still_knows_the_producers_of_deleted_records() {
    for leads_anew in [false, true] {
        let mut world = cluster_with_records();
        world.hold(|message| message.kind() == MessageKind::ProduceAnswer);
        let values = world.produce(0);
        assert!(world.run_until(seconds(5), |world| world.are_committed(0, &values)));
        // Nor does it ask again before all is deleted.
        world.hold(|message| matches!(message.kind(), MessageKind::Produce | MessageKind::ProduceAnswer));
        if leads_anew {
            // Another epoch, in which nothing was written: the last records are of the one before.
            world.elect(0, B);
            assert!(world.run_until(seconds(10), |world| world.believes_to_lead(B, 0)));
        }
        let (leader, committed) = (world.leader(0).unwrap(), world.committed(0));
        assert!(world.run_until(seconds(5), |world| {
            (0..3).all(|at| world.log_end(at, 0) == Some(committed))
        }));
        world.run_for(seconds(2));
        world.delete_records(leader, 0, committed);
        world.run_for(seconds(2));
        assert_eq!(world.times("log begun anew"), 0, "another epoch: {leads_anew}");
        world.kill_process(leader);
        world.drop_held();
        assert!(world.run_until(seconds(12), |world| world.times("duplicate recognised") > 0));
        world.start_process(leader);
        ends_well(&mut world);
    }
}

/// A replica has to begin anew where records are deleted that a producer has no answer for: its broker has a new disk.
/// No kept record tells of that producer, yet its retry is no new batch once that broker leads.
#[test]
fn who_begins_anew_knows_the_producers_of_deleted_records() {
    let mut world = cluster_with_records();
    world.hold(|message| message.kind() == MessageKind::ProduceAnswer);
    let values = world.produce(0);
    assert!(world.run_until(seconds(5), |world| world.are_committed(0, &values)));
    world.hold(|message| matches!(message.kind(), MessageKind::Produce | MessageKind::ProduceAnswer));
    let (leader, committed) = (world.leader(0).unwrap(), world.committed(0));
    world.run_for(seconds(2));
    world.delete_records(leader, 0, committed);
    world.run_for(seconds(1));
    world.replace_disk(B);
    assert!(world.run_until(seconds(10), |world| !world.is_in_sync(B, 0)));
    world.permit_disk(B);
    world.start_process(B);
    assert!(
        world.run_until(seconds(30), |world| world.is_in_sync(B, 0)
            && world.log_end(B, 0) == Some(committed)),
        "{:?}",
        world.violation()
    );
    assert!(world.times("log begun anew") > 0);
    world.elect(0, B);
    assert!(world.run_until(seconds(10), |world| world.believes_to_lead(B, 0)));
    world.drop_held();
    assert!(world.run_until(seconds(12), |world| world.times("duplicate recognised") > 0));
    ends_well(&mut world);
}
