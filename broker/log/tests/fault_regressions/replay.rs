//! The producer state is made from a snapshot and the headers behind it: what can't be read on the way must neither pass
//! for nothing nor hide what follows.

use std::path::Path;

use bytes::Bytes;
use millrace_log::fs::OpenMode;
use millrace_log::{Appended, LogConfig};

use super::producers::{last_sequence, snapshot_path};
use super::{Broker, PARTITION, batch, is_duplicate};

/// Six batches of producer 7 in a sealed segment without a snapshot, as after a full disk, and three of nobody behind it;
/// all below the flushed point. And the size of one batch of the former.
fn sealed_without_snapshot() -> (Broker, u64) {
    let mut broker = Broker::new(LogConfig::default());
    for sequence in 0..6 {
        broker.append(&batch(1000, 10, Some(sequence))).unwrap();
    }
    assert!(broker.log().roll().unwrap());
    for _ in 0..3 {
        broker.append(&batch(1000, 10, None)).unwrap();
    }
    broker.log().flush().unwrap();
    broker.dir().write_checkpoints().unwrap();
    let fs = broker.disk.shared();
    fs.remove_file(&snapshot_path(6)).unwrap();
    fs.sync_dir(Path::new(PARTITION)).unwrap();
    broker.kill();
    assert_eq!(last_sequence(&broker), Some(5));
    assert!(broker.log().damage().is_empty());
    let sizes = broker.log().segment_sizes();
    let size = sizes[0].1 / 6;
    (broker, size)
}

/// The log's first segment.
fn first_segment() -> std::path::PathBuf {
    Path::new(PARTITION).join(format!("{:020}.log", 0))
}

/// A bit of a batch's magic, its length and its base offset, so that the header can't be read, leads astray, or is contradicted
/// by the next one.
const BITS: [(u64, u8); 4] = [(16, 0), (11, 3), (4, 6), (7, 0)];

fn damaged_offsets(broker: &Broker) -> Vec<(i64, i64)> {
    let damage = broker.log().damage();
    damage.iter().map(|range| (range.from, range.to)).collect()
}

/// With half of a producer's batches a retry would be stored a second time.
#[test]
fn a_start_knows_of_producers_what_lies_behind_damage() {
    for (byte, bit) in BITS {
        let (mut broker, size) = sealed_without_snapshot();
        broker.disk.flip_bit(&first_segment(), 2 * size + byte, bit).unwrap();
        broker.kill();
        assert_eq!(last_sequence(&broker), Some(5), "byte {byte}");
        assert_eq!(damaged_offsets(&broker), [(2, 3)], "byte {byte}");
        assert_eq!(broker.log().recovery_report().damage, broker.log().damage());
        let retry: Bytes = batch(1000, 10, Some(5));
        assert!(is_duplicate(broker.append(&retry)), "byte {byte}: stored twice");
        let next = broker.append(&batch(1000, 10, Some(6)));
        assert!(matches!(next, Ok(Appended::New { base_offset: 9, .. })), "{next:?}");
    }
}

/// The same where a cut makes the state anew in a running process.
#[test]
fn a_cut_knows_of_producers_what_lies_behind_damage() {
    for (byte, bit) in BITS {
        let (broker, size) = sealed_without_snapshot();
        broker.disk.flip_bit(&first_segment(), 2 * size + byte, bit).unwrap();
        assert_eq!(broker.log().truncate_to(8).unwrap(), 8);
        assert_eq!(last_sequence(&broker), Some(5), "byte {byte}");
        assert_eq!(damaged_offsets(&broker), [(2, 3)], "byte {byte}");
    }
}

/// A segment that ends too early has lost what told of its last batches.
#[test]
fn a_segment_that_lost_its_end_is_damaged() {
    let (mut broker, size) = sealed_without_snapshot();
    let fs = broker.disk.shared();
    let file = fs.open(&first_segment(), OpenMode::ReadWrite).unwrap();
    file.set_len(4 * size).unwrap();
    file.sync_all().unwrap();
    drop(file);
    broker.kill();
    assert_eq!(damaged_offsets(&broker), [(4, 6)]);
    assert_eq!(last_sequence(&broker), Some(3));
}
