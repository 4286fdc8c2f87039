//! Log start and flushed point as stored never go back, except by a truncation, and the flushed point never lies
//! beyond what is durable.

use std::path::Path;

use millrace_log::TopicPartition;
use millrace_log::checkpoint::{flushed, start_offsets};

use crate::world::{DIR, TOPIC, World};

pub fn check(world: &mut World) {
    let name = TopicPartition::new(TOPIC, 0);
    let read = |file: &str| world.disk.contents(&Path::new(DIR).join(file)).ok();
    let start = read(start_offsets::FILE_NAME).map_or(0, |bytes| {
        start_offsets::decode(&bytes).unwrap().get(&name).copied().unwrap_or(0)
    });
    // A garbled one is what some seeds want.
    let flushed = read(flushed::FILE_NAME)
        .and_then(|bytes| flushed::decode(&bytes).ok())
        .and_then(|points| points.get(&name).copied())
        .map_or(0, |point| point.offset);
    let durable = world.log().durable_end_offset();
    assert!(flushed <= durable, "stored {flushed}, durable {durable}");
    let step = &world.trace[world.step_start..];
    let truncated = step
        .iter()
        .any(|line| line.contains("truncate") || line.contains("reopened"));
    if !truncated {
        assert!(
            start >= world.stored.0,
            "stored log start {start} after {}",
            world.stored.0
        );
        assert!(
            flushed >= world.stored.1,
            "stored flushed point {flushed} after {}",
            world.stored.1
        );
    }
    world.stored = (start, flushed);
}
