//! Topics that are deleted and created again under their name, and settings that say how many must be in sync.

use millrace_simulator::{MessageKind, Settings, World};

use crate::{A, B, C, cluster_with_records, cluster_with_voters, ends_well, ends_well_in, seconds};

/// Deletes the topic and creates it again; the name of its partition from then on.
fn replace_topic(world: &mut World) -> u32 {
    world.delete_topic();
    assert!(world.run_until(seconds(1), |world| world.record(0).is_none()));
    let new = world.create_topic_again();
    assert!(world.run_until(seconds(1), |world| world.record(new).is_some()));
    new
}

/// Who serves a topic deletes what it has of it when it reads of the deletion, and begins with nothing when a
/// topic has the name again.
#[test]
fn a_topic_of_a_deleted_ones_name_begins_empty() {
    let mut world = cluster_with_records();
    let new = replace_topic(&mut world);
    assert!(world.run_until(seconds(5), |world| {
        world.times("log of a deleted topic removed") == 3
    }));
    assert_eq!(world.log_end(A, 0), None);
    assert_eq!(world.committed(new), 0);
    ends_well_in(&mut world, new);
}

/// B is away while the topic is deleted and created again. It does not take what its disk holds for the new
/// topic's, and deletes nothing either: it has not seen the deletion (KAFKA-13127, KAFKA-14616).
#[test]
fn a_broker_that_was_away_sets_aside_what_it_holds_of_a_deleted_topic() {
    let mut world = cluster_with_records();
    world.kill_process(B);
    assert!(world.run_until(seconds(10), |world| !world.is_in_service(B)));
    let new = replace_topic(&mut world);
    assert!(world.produce_and_wait(new), "{:?}", world.violation());
    assert_eq!(world.times("log of a deleted topic removed"), 2);
    // So much that the metadata that B's own disk holds does not show the deletion as news.
    for days in 1..8 {
        world.alter_topic("retention.ms", &(days * 86_400_000_i64).to_string());
        world.run_for(seconds(1) / 10);
    }
    world.start_process(B);
    assert!(
        world.run_until_whole(),
        "{:?} {:?}",
        world.violation(),
        world.record(new)
    );
    assert_eq!(world.times("log of a deleted topic set aside"), 1);
    // It has what the others have, and leads with it.
    world.elect(new, B);
    assert!(world.run_until(seconds(5), |world| world.leader(new) == Some(B)));
    ends_well_in(&mut world, new);
}

/// A's proposal that C is not in sync any more arrives when the topic is deleted, and another one has its name,
/// whose partition has the epochs that the old one had when A proposed.
#[test]
fn a_late_proposal_for_a_deleted_topic_changes_nothing_of_its_namesake() {
    let mut world = cluster_with_records();
    let epochs = |world: &World, partition| {
        let record = world.record(partition).unwrap();
        (record.leader_epoch, record.partition_epoch)
    };
    let old = epochs(&world, 0);
    world.move_controller(B);
    world.cut_link(C, A);
    world.hold(|message| message.kind() == MessageKind::Proposal);
    // It lags as soon as there is something to fetch.
    world.produce(0);
    assert!(world.run_until(seconds(10), |world| world.held() > 0));
    let new = replace_topic(&mut world);
    world.mend_link(C, A);
    world.hold_nothing_more();
    assert!(world.produce_and_wait(new), "{:?}", world.violation());
    world.run_for(seconds(1));
    let record = world.record(new).cloned();
    assert!(world.is_in_sync(C, new), "{record:?}");
    assert_eq!(epochs(&world, new), old);
    assert!(world.release() > 0);
    world.run_for(seconds(1));
    assert_eq!(world.record(new).cloned(), record);
    ends_well_in(&mut world, new);
}

/// A is alone in sync, and nothing is committed: two must be in sync. Then one is enough, A commits, and dies. B,
/// which could have led before, does not have what was committed since (KIP-966).
#[test]
fn who_could_lead_under_a_higher_minimum_does_not_under_a_lower_one() {
    let settings = Settings {
        brokers: 7,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    for at in [C, B] {
        world.pause_process(at, seconds(20));
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    assert_eq!(world.record(0).unwrap().elr, [1]);
    let values = world.produce(0);
    world.run_for(seconds(2));
    assert!(!world.are_committed(0, &values));
    world.alter_topic("min.insync.replicas", "1");
    assert!(
        world.run_until(seconds(10), |world| world.is_acknowledged(&values)),
        "{:?}",
        world.violation()
    );
    assert_eq!(world.record(0).unwrap().elr, [0; 0]);
    world.kill_process(A);
    world.run_for(seconds(25));
    assert_eq!(world.violation(), None);
    assert_eq!(world.leader(0), None, "{:?}", world.record(0));
    world.start_process(A);
    assert!(world.run_until(seconds(10), |world| world.leader(0) == Some(A)));
    ends_well(&mut world);
}

/// One is in sync, and must be. Then two must: A takes nothing before another one has caught up, and what it took
/// before stays.
#[test]
fn a_higher_minimum_holds_from_the_next_record_on() {
    let settings = Settings {
        brokers: 7,
        min_insync: 1,
        ..Settings::calm()
    };
    let mut world = cluster_with_voters(settings);
    for at in [C, B] {
        world.pause_process(at, seconds(10));
        assert!(world.run_until(seconds(10), |world| !world.is_in_sync(at, 0)));
    }
    assert!(world.produce_and_wait(0), "{:?}", world.violation());
    world.alter_topic("min.insync.replicas", "2");
    assert!(world.run_until(seconds(1), |world| {
        world.topic_setting("min.insync.replicas") == Some("2")
    }));
    world.run_for(seconds(1) / 10);
    let (before, values) = (world.committed(0), world.produce(0));
    world.run_for(seconds(2));
    assert_eq!(world.committed(0), before);
    assert!(!world.are_committed(0, &values));
    assert!(
        world.run_until(seconds(20), |world| world.is_acknowledged(&values)),
        "{:?}",
        world.violation()
    );
    ends_well(&mut world);
}
