//! Topics whose records are acknowledged before they are on disks: what is lost with a machine's memory, and what is
//! not (KIP-966).

use millrace_simulator::{FlushPolicy, Settings, World};

use crate::{A, B, C, cluster_with_voters, ends_well, seconds, seeded_cluster_with_voters};

/// Whatever of the three replicas' brokers dies, a majority votes.
fn settings() -> Settings {
    Settings {
        brokers: 7,
        flush: FlushPolicy::Os,
        ..Settings::calm()
    }
}

/// B and C hang until they are in sync no more, and A leads alone.
fn leave_alone_in_sync(world: &mut World) {
    for at in [C, B] {
        world.pause_process(at, seconds(30));
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    assert_eq!(world.leader(0), Some(A), "{:?}", world.record(0));
}

/// A was the last one in sync; its machine loses power and is back at once.
fn lose_power_and_return(world: &mut World) {
    let life = world.broker_epoch(A);
    world.power_off(A);
    world.start_process(A);
    assert!(
        world.run_until(seconds(10), |world| world.is_in_service(A)
            && world.broker_epoch(A) != life),
        "{:?}",
        world.violation()
    );
    assert!(world.run_until(seconds(1), |world| world.log_end(A, 0).is_some()));
}

/// A, alone in sync, loses power after `change`, and with it what was only in its memory: another leads.
fn does_not_lead_after_a_power_cut(change: impl Fn(&mut World)) {
    let mut lost = 0;
    // What the power takes is drawn.
    for seed in 1..7 {
        let mut world = seeded_cluster_with_voters(seed, settings());
        leave_alone_in_sync(&mut world);
        change(&mut world);
        lose_power_and_return(&mut world);
        lost += u32::from(world.log_end(A, 0) < Some(world.committed(0)));
        world.run_for(seconds(3));
        assert_eq!(world.violation(), None);
        assert_eq!(world.leader(0), None, "{:?}", world.record(0));
        assert!(world.run_until(seconds(40), |world| world.leader(0).is_some_and(|leader| leader != A)));
        ends_well(&mut world);
    }
    assert!(lost > 0, "its tail was on its disk each time");
}

/// A, the last one in sync, loses what was only in its memory. It does not lead when it is back:
/// B and C, which hung, have all of it.
#[test]
fn the_last_one_in_sync_does_not_lead_with_what_a_power_cut_left_of_its_log() {
    does_not_lead_after_a_power_cut(|_| ());
}

/// Two of three lose power at once: the third leads, and they fetch again what they have lost.
#[test]
fn two_power_cuts_at_once_lose_nothing_while_the_third_lives() {
    for survivor in [A, B, C] {
        let mut world = cluster_with_voters(settings());
        let others: Vec<usize> = [A, B, C].into_iter().filter(|at| *at != survivor).collect();
        for at in &others {
            world.power_off(*at);
        }
        for at in &others {
            world.start_process(*at);
        }
        assert!(world.run_until(seconds(10), |world| world.leader(0) == Some(survivor)));
        ends_well(&mut world);
    }
}

/// All three lose power at once: nobody may say what was acknowledged. None of them leads before
/// somebody chooses it.
#[test]
fn nobody_leads_after_a_power_cut_of_all() {
    for flush in [FlushPolicy::Os, FlushPolicy::Interval] {
        let mut world = cluster_with_voters(Settings { flush, ..settings() });
        for at in [A, B, C] {
            world.power_off(at);
        }
        for at in [A, B, C] {
            world.start_process(at);
        }
        assert!(world.run_until(seconds(10), |world| [A, B, C].iter().all(|at| world.is_in_service(*at))));
        world.run_for(seconds(5));
        assert_eq!(world.violation(), None);
        assert!(world.is_nobodys(0), "{flush:?} {:?}", world.record(0));
        assert_eq!(
            world.record(0).unwrap().last_known_elr.len(),
            2,
            "as many as must be in sync"
        );
    }
}

/// The topic is to wait for disks from now on, and A has not heard of it when its machine loses
/// power. What it acknowledged before was only in its memory: the new setting proves nothing of it.
#[test]
fn a_change_to_flushing_first_makes_no_disk_trusted_that_was_written_to_before() {
    does_not_lead_after_a_power_cut(|world| {
        world.alter_topic("flush", "ack");
        assert!(world.run_until(seconds(1), |world| world.topic_setting("flush") == Some("ack")));
    });
}

/// A has been restarted since the topic waits for disks: after a power cut it leads with what it has, which
/// is all that was acknowledged.
#[test]
fn a_disk_is_trusted_once_its_broker_was_restarted_after_the_change_to_flushing_first() {
    let mut world = cluster_with_voters(settings());
    world.alter_topic("flush", "ack");
    assert!(world.run_until(seconds(1), |world| world.topic_setting("flush") == Some("ack")));
    world.shut_down(A);
    assert!(world.run_until(seconds(10), |world| !world.is_up(A)));
    assert!(world.run_until_whole());
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    world.elect(0, A);
    assert!(world.run_until(seconds(5), |world| world.leader(0) == Some(A)));
    leave_alone_in_sync(&mut world);
    lose_power_and_return(&mut world);
    assert!(
        world.run_until(seconds(3), |world| world.leader(0) == Some(A)),
        "{:?} {:?}",
        world.violation(),
        world.record(0)
    );
    world.run_for(seconds(30));
    ends_well(&mut world);
}
