//! What is known of producers: repeated batches of long ago.

use millrace_log::LogConfig;
use millrace_proto::batch::{BatchBuilder, Codec};

use super::{Broker, batch};

/// Kafka compares the first and the last sequence of a batch with those of a remembered one; so must the search for one
/// that is no longer remembered, or other records are answered with offsets that are not theirs.
#[test]
fn a_batch_of_another_length_is_not_the_stored_one() {
    let broker = Broker::new(LogConfig::default());
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..3 {
        builder.append(1000, None, Some(b"v"), &[]).unwrap();
    }
    builder.set_producer(7, 0, 0);
    broker.append(&builder.build().unwrap()).unwrap();
    for sequence in 3..10 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    let find = |last_sequence| broker.log().find_batch(7, 0, 0, last_sequence, u64::MAX).unwrap();
    assert_eq!(
        find(2).map(|found| (found.base_offset, found.last_offset)),
        Some((0, 2))
    );
    for other in [0, 1, 3, 9] {
        assert_eq!(find(other), None, "last sequence {other}");
    }
}
