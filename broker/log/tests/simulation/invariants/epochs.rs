//! The epoch cache is what a scan of the batches yields, plus epochs that were assigned and wrote nothing (KAFKA-7415).

use millrace_log::{EpochCache, EpochEntry};

use crate::world::World;

pub fn check(world: &mut World) {
    let log = world.log().clone();
    if world.model.log_start == world.model.log_end {
        // Without records nothing tells which epochs must be known.
        world.model.epochs = EpochCache::from_entries(log.epochs());
        return;
    }
    // Whether the epochs below the log start are forgotten depends on whether it could be stored.
    let from_start = |entries: &[EpochEntry]| {
        let mut cache = EpochCache::from_entries(entries.to_vec());
        cache.advance_start(world.model.log_start);
        // An epoch that began before a gap begins, after a crash, with its first batch behind the gap.
        let batches = world.model.visible();
        let first_batch = |start: i64| {
            let at = batches.partition_point(|batch| batch.header.base_offset < start);
            batches.get(at).map_or(start, |batch| batch.header.base_offset)
        };
        let starts = cache
            .entries()
            .iter()
            .map(|entry| (entry.epoch, first_batch(entry.start_offset)));
        // Of several that begin at one batch only the last one has records.
        starts
            .map(|(epoch, start)| (start, epoch))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(from_start(&log.epochs()), from_start(world.model.epochs.entries()));
    for batch in world.model.visible() {
        let header = &batch.header;
        let (epoch, end) = log
            .end_offset_for_epoch(header.partition_leader_epoch)
            .expect("an epoch of the log");
        assert_eq!(epoch, header.partition_leader_epoch);
        assert!(end > header.base_offset.max(world.model.log_start) || end >= header.next_offset());
    }
}
