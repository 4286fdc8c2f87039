//! Offsets rise strictly, epochs never fall, every byte read was written and has a right CRC: reading from the log
//! start gives exactly the model's batches, from wherever a read begins and whatever its size.

use millrace_log::ReadError;
use millrace_proto::batch::batches;

use crate::world::World;

pub fn check(world: &mut World) {
    let log = world.log().clone();
    let end = world.model.log_end;
    let max_bytes = [1, 200, 1000, 1 << 20][world.rng.below(4) as usize];
    let mut offset = world.model.log_start;
    let mut expected = world.model.visible().iter();
    let mut epoch = -1;
    while offset < end {
        let data = log.read(offset, max_bytes, true, i64::MAX).unwrap();
        if data.bytes.is_empty() {
            // A gap at the very end: nothing behind `offset`.
            assert!(expected.next().is_none(), "nothing at {offset} below {end}");
            break;
        }
        let mut next = offset;
        for batch in batches(&data.bytes) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            let header = batch.header();
            assert!(header.last_offset() >= next && header.partition_leader_epoch >= epoch);
            (next, epoch) = (header.next_offset(), header.partition_leader_epoch);
            let model = expected.next().expect("a batch that was never written, or came back");
            assert!(
                batch.bytes() == &model.bytes[..],
                "batch {} differs from what was appended",
                header.base_offset
            );
        }
        assert_eq!(data.next_offset, next);
        offset = next;
    }
    assert!(expected.next().is_none(), "records are missing");

    // Anywhere else: the batch that holds the offset comes first, and nothing at or above the bound.
    if end > world.model.log_start {
        let span = (end - world.model.log_start) as u64;
        let at = world.model.log_start + world.rng.below(span) as i64;
        let bound = at + world.rng.below(10) as i64;
        let data = log.read(at, max_bytes, true, bound).unwrap();
        let first = world
            .model
            .history
            .iter()
            .find(|batch| batch.header.last_offset() >= at);
        match first.filter(|batch| batch.header.last_offset() < bound) {
            Some(first) => {
                assert!(data.bytes.starts_with(&first.bytes));
                assert!(data.next_offset <= bound);
            }
            None => assert!(data.bytes.is_empty(), "read {at} below {bound}"),
        }
    }
    let out_of_range = |result| matches!(result, Err(ReadError::OffsetOutOfRange { .. }));
    assert!(out_of_range(log.read(end + 1, 100, true, i64::MAX)));
    assert!(out_of_range(log.read(world.model.log_start - 1, 100, true, i64::MAX)));
}
