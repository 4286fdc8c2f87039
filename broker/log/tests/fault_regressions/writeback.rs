//! What the kernel says of a failed writeback, and to whom.

use std::path::Path;

use millrace_log::LogConfig;

use super::{Broker, PARTITION, batch};

/// Only the handles that were open at a failed writeback report it (Rebello et al., USENIX ATC'20): a sealed segment
/// that nobody reads must keep its own until it was synced.
#[test]
fn a_failed_writeback_of_an_idle_sealed_segment_is_not_missed() {
    let sealed = &Path::new(PARTITION).join("00000000000000000000.log");
    let mut broker = Broker::new(LogConfig::default());
    broker.append(&batch(1000, 10, None)).unwrap();
    assert!(broker.log().roll().unwrap());
    for _ in 0..3 {
        broker.log().roll_if_due(1000).unwrap();
    }
    broker.disk.fail_writeback(sealed).unwrap();
    let flushed = broker.log().flush();
    assert!(flushed.is_err(), "{flushed:?} although the disk never got the records");
    broker.kill();
    assert_eq!(broker.log().log_end_offset(), 0);

    // Once it is synced the handle is given back.
    broker.append(&batch(1000, 10, None)).unwrap();
    assert!(broker.log().roll().unwrap());
    broker.log().flush().unwrap();
    for _ in 0..3 {
        broker.log().roll_if_due(1000).unwrap();
    }
    assert_eq!(broker.disk.open_handles(sealed).unwrap(), 0);
}
