//! Offset for time is the first record at or after the time by a scan of all (KIP-33).

use crate::world::{Lie, World};

pub fn check(world: &mut World) {
    let times = [
        0,
        5,
        6,
        world.now_ms - 500,
        world.now_ms - world.rng.below(20_000) as i64,
        world.now_ms + 40_000,
        i64::MAX,
    ];
    let up_to = world.model.log_end - world.rng.below(5) as i64;
    let lie = world.lie;
    let asked = |time: i64| match lie {
        Lie::TimeLookupOneLate => time.saturating_add(1),
        _ => time,
    };
    for time in times {
        let found = world.log().offset_for_timestamp(asked(time), up_to).unwrap();
        let found = found.map(|found| (found.offset, found.timestamp, found.leader_epoch));
        assert_eq!(found, world.model.offset_for_timestamp(time, up_to), "time {time}");
        if found.is_some() {
            world.reach("time found");
        }
    }
}
