//! The producer state is what a scan of every batch ever appended yields, also of those that retention deleted
//! (KAFKA-7190); a reload may remember fewer batches, never other ones.

use crate::world::World;

pub fn check(world: &mut World) {
    let found = world.log().producer_state();
    if world.choices.capacity_bytes < u64::MAX {
        // A disk too full for a snapshot may cost what only deleted records told.
        world.model.producers.retain(|id, _| found.entries().contains_key(id));
    }
    let ids: Vec<i64> = found.entries().keys().copied().collect();
    assert_eq!(ids, world.model.producers.keys().copied().collect::<Vec<_>>());
    for (id, entry) in found.entries() {
        let model = &world.model.producers[id];
        assert_eq!(entry.epoch, model.epoch, "producer {id}");
        assert!(!entry.batches.is_empty() && entry.batches.len() <= 5);
        let remembered: Vec<_> = entry
            .batches
            .iter()
            .map(|batch| (batch.base_sequence, batch.last_sequence, batch.base_offset))
            .collect();
        if world.choices.capacity_bytes < u64::MAX {
            assert_eq!(remembered.last(), model.batches.last(), "producer {id}");
            continue;
        }
        assert!(
            model.batches.ends_with(&remembered),
            "producer {id}: {remembered:?} of {:?}",
            model.batches
        );
    }
}
