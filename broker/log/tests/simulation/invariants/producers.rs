//! The producer state is what a scan of every batch ever appended yields, also of those that retention deleted
//! (KAFKA-7190); a reload may remember fewer batches, never other ones.

use crate::world::World;

pub fn check(world: &mut World) {
    let found = world.log().producer_state();
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
        assert!(
            model.batches.ends_with(&remembered),
            "producer {id}: {remembered:?} of {:?}",
            model.batches
        );
    }
}
