//! Log start and flushed point as stored never go back, except by a truncation, and the flushed point never lies
//! beyond what is durable. A power cut may take away a newer value that was not synced, never one that was.

use std::path::Path;

use millrace_log::TopicPartition;
use millrace_log::checkpoint::{flushed, start_offsets};

use crate::world::{DIR, TOPIC, World};

pub fn check(world: &mut World) {
    let in_dir = |name: &str| Path::new(DIR).join(name);
    let (starts, points) = (in_dir(start_offsets::FILE_NAME), in_dir(flushed::FILE_NAME));
    let disk = &world.disk;
    let now = values(disk.contents(&starts).ok(), disk.contents(&points).ok());
    let durable = values(disk.durable_contents(&starts).ok(), disk.durable_contents(&points).ok());
    let durable_end = world.log().durable_end_offset();
    assert!(now.1 <= durable_end, "stored {}, durable {durable_end}", now.1);
    let before = if world.power_was_cut {
        world.stored_durably
    } else {
        world.stored
    };
    assert!(now.0 >= before.0, "stored log start {} after {}", now.0, before.0);
    let lowest = before.1.min(world.lowered_to);
    assert!(now.1 >= lowest, "stored flushed point {} after {lowest}", now.1);
    world.stored = now;
    world.stored_durably = durable;
}

/// Log start and flushed point; a missing or garbled file, which some seeds want, says 0.
fn values(starts: Option<Vec<u8>>, points: Option<Vec<u8>>) -> (i64, i64) {
    let name = TopicPartition::new(TOPIC, 0);
    let start = starts.map_or(0, |bytes| {
        start_offsets::decode(&bytes).unwrap().get(&name).copied().unwrap_or(0)
    });
    let flushed = points
        .and_then(|bytes| flushed::decode(&bytes).ok())
        .and_then(|points| points.get(&name).copied())
        .map_or(0, |point| point.offset);
    (start, flushed)
}
