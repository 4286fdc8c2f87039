//! Replicas of a compacted topic, each of which compacts its own log.

use millrace_simulator::{CompactionSettings, MessageKind, Settings, World};

use crate::{A, B, C, ends_well, seconds};

/// As many batches are under way at a time.
const PRODUCERS: usize = 8;

/// Three brokers, all in sync, with a compacted topic of one key and segments of a few batches.
fn compacted_cluster() -> World {
    let settings = Settings {
        producers: PRODUCERS,
        segment_bytes: 300,
        compaction: Some(CompactionSettings {
            keys: 1,
            ..CompactionSettings::calm()
        }),
        ..Settings::calm()
    };
    let mut world = World::new(1, Some(settings), true);
    assert!(world.run_until_whole(), "{:?}", world.violation());
    assert_eq!(world.leader(0), Some(A));
    for _ in 0..10 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(2));
    assert!(world.times("records replaced by later ones") >= 3, "on each replica");
    world
}

/// A has committed records of a key and a later one, in sealed segments, which nobody else has: it goes on compacting, and
/// B leads without that record. No replica may lack the key (KAFKA-13194).
#[test]
fn a_record_that_may_be_cut_replaces_none() {
    let mut world = compacted_cluster();
    world.hold(|message| message.kind() == MessageKind::Fetch && message.to() == Some(A));
    let committed = world.committed(0);
    for producer in 0..PRODUCERS {
        world.produce_by(producer, 0);
    }
    world.run_for(seconds(1));
    assert_eq!(world.committed(0), committed);
    let written = world.log_end(A, 0).unwrap() - committed;
    assert!(written >= 8, "{written} are written, in several segments");
    assert_eq!(world.violation(), None);
    world.kill_process(A);
    world.drop_held();
    world.hold_nothing_more();
    assert!(world.run_until(seconds(10), |world| world.leader(0).is_some_and(|leader| leader != A)));
    world.start_process(A);
    ends_well(&mut world);
}

/// C was away while the others compacted: it gets a log with gaps, within and between batches, and leads with it.
#[test]
fn who_was_away_copies_a_log_with_gaps_and_leads_with_it() {
    let mut world = compacted_cluster();
    world.kill_process(C);
    let rounds = world.times("round of compaction");
    for _ in 0..10 {
        assert!(world.produce_and_wait(0), "{:?}", world.violation());
    }
    world.run_for(seconds(2));
    assert!(world.times("round of compaction") > rounds);
    assert_eq!(world.times("gap copied"), 0);
    world.start_process(C);
    assert!(world.run_until_whole(), "{:?}", world.violation());
    assert!(world.times("gap copied") > 0);
    world.power_off(A);
    world.power_off(B);
    world.run_for(seconds(3));
    world.start_process(A);
    world.start_process(B);
    ends_well(&mut world);
}
