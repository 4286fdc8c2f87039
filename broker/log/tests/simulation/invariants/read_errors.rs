//! A read that the disk refuses is an error: never an empty answer, never taken for damage.

use millrace_log::ReadError;
use millrace_log::fs::faulty::FaultPlan;

use crate::world::World;

pub fn check(world: &mut World) {
    if world.choices.read_error_per_million == 0 || world.rng.below(8) != 0 {
        return;
    }
    let log = world.log().clone();
    world.disk.set_plan(FaultPlan {
        read_error_per_million: 300_000,
        ..world.disk.plan()
    });
    let mut failed = 0;
    for batch in world.model.visible() {
        let offset = batch.header.base_offset.max(world.model.log_start);
        match log.read(offset, 1, true, i64::MAX) {
            Ok(data) => assert!(data.bytes == batch.bytes, "read at {offset}"),
            Err(ReadError::Io(_)) => failed += 1,
            Err(error) => panic!("a failed read at {offset} is not: {error}"),
        }
        let time = batch.header.max_timestamp;
        match log.offset_for_timestamp(time, i64::MAX) {
            Ok(found) => {
                let found = found.map(|found| (found.offset, found.timestamp, found.leader_epoch));
                assert_eq!(found, world.model.offset_for_timestamp(time, i64::MAX), "time {time}");
            }
            Err(ReadError::Io(_)) => failed += 1,
            Err(error) => panic!("a failed read for time {time} is not: {error}"),
        }
    }
    match log.scrub(0, u64::MAX) {
        Ok(report) => assert_eq!(report.damage, [], "a failed read was taken for damage"),
        Err(ReadError::Io(_)) => failed += 1,
        Err(error) => panic!("a failed read is not: {error}"),
    }
    world.turn_faults_on();
    if failed > 0 {
        world.reach("read error");
    }
}
