//! Where leader epochs begin stays told by what is left of a log.

use millrace_log::EpochEntry;

use crate::broker::{Broker, config};

/// A replica that copies it goes by the batches alone. If it took a later start for an epoch's, a former leader that
/// comes back would be told that more of its epoch is committed than is.
#[test]
fn a_copy_of_a_compacted_log_knows_where_its_epochs_began() {
    let mut broker = Broker::new(config(), 1);
    for (epoch, values) in [(0, 3), (2, 3), (3, 2), (7, 3)] {
        broker.leader_epoch = epoch;
        for value in 0..values {
            broker.put(&[&format!("k={epoch}.{value}")]);
        }
    }
    broker.roll();
    broker.put(&["k=last"]);
    broker.roll();
    let starts = |of: &Broker| -> Vec<_> {
        let entries = of.log().epochs();
        entries
            .iter()
            .map(|entry: &EpochEntry| (entry.epoch, entry.start_offset))
            .collect()
    };
    let epochs = [(0, 0), (2, 3), (3, 6), (7, 8)];
    assert_eq!(starts(&broker), epochs);
    assert_eq!(broker.compact().unwrap().unwrap().superseded_records, 11);
    let texts: Vec<_> = broker.texts().into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(texts, [11], "one record is left");
    broker.check();
    assert_eq!(starts(&broker), epochs);

    let copy = Broker::new(config(), 2);
    let mut offset = 0;
    loop {
        let data = broker.log().read(offset, usize::MAX, true, i64::MAX).unwrap();
        if data.bytes.is_empty() {
            break;
        }
        copy.log().append_as_follower(&data.bytes, i32::MAX, 0).unwrap();
        offset = data.next_offset;
    }
    // Of the first one it knows no batch: nothing can have come before it.
    assert_eq!(starts(&copy), epochs[1..]);
    assert_eq!(copy.log().end_offset_for_epoch(2), Some((2, 6)));

    // And so does the log itself when its list of epochs is lost.
    broker.lose_files("leader-epoch-checkpoint");
    assert_eq!(starts(&broker), epochs[1..]);
}
