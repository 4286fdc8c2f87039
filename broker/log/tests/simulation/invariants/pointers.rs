//! log start <= durable end <= log end, and they are where the model says (KIP-966's and Kafka's own ordering).

use crate::world::World;

pub fn check(world: &World) {
    let (log, model) = (world.log(), &world.model);
    let (start, durable, end) = (log.log_start_offset(), log.durable_end_offset(), log.log_end_offset());
    assert_eq!((start, end), (model.log_start, model.log_end));
    assert!(durable <= end, "durable {durable} beyond the end {end}");
    assert!(
        durable >= model.durable,
        "durable end went back from {} to {durable}",
        model.durable
    );
    let sizes = log.segment_sizes();
    assert!(
        sizes.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "two segments with one base offset: {sizes:?}"
    );
    assert!(sizes.last().unwrap().0 <= end);
}
