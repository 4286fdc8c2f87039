//! What an append that a full disk refused leaves behind the last batch.

use std::path::Path;

use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{AppendError, LogConfig};

use super::{Broker, PARTITION, batch};

/// The flushed point is stored, a full disk takes part of a batch, its erasure is not synced, and the segment is sealed:
/// a crash may bring the part back, in a segment that nobody looks at, as it lies below the flushed point. Whoever walks it to its end would take that for damage.
#[test]
fn part_of_a_refused_batch_does_not_come_back_in_a_sealed_segment() {
    let sealed = &Path::new(PARTITION).join("00000000000000000000.log");
    let mut came_back = 0;
    for seed in 0..200 {
        let mut broker = Broker::with_seed(LogConfig::default(), seed);
        broker.append(&batch(1000, 10, None)).unwrap();
        broker.log().flush().unwrap();
        broker.dir().write_checkpoints().unwrap();
        let size = broker.disk.contents(sealed).unwrap().len();
        broker.disk.set_plan(FaultPlan {
            capacity_bytes: broker.disk.used_bytes() + 40,
            ..FaultPlan::default()
        });
        let refused = broker.append(&batch(1000, 10, None));
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
        broker.disk.set_plan(FaultPlan::default());
        assert!(broker.log().roll().unwrap());
        broker.disk.crash();
        came_back += usize::from(broker.disk.contents(sealed).unwrap().len() > size);
        broker.reopen();
        assert_eq!(broker.log().log_end_offset(), 1);
        assert_eq!(broker.disk.contents(sealed).unwrap().len(), size, "seed {seed}");
    }
    assert!(came_back > 10, "{came_back}");
}
