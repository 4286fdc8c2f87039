//! Cuts of a log that is compacted, or just being so.

use millrace_log::CompactionStep;
use millrace_proto::batch::Codec;

use crate::broker::{Broker, config, options};
use crate::limits::three_segments;
use crate::model::{build, record};
use crate::rules::headers;

/// The high watermark of before a cut says nothing of what was appended after it.
#[test]
fn bounds_are_asked_when_a_cut_ends_the_round() {
    let broker = three_segments();
    let before = broker.bounds();
    let cut_first = || {
        broker.log().truncate_to(6).unwrap();
        before
    };
    let mut round = broker
        .log()
        .begin_compaction(cut_first, &options(), 0)
        .unwrap()
        .unwrap();
    let CompactionStep::Done(report) = round.step(u64::MAX, 0).unwrap() else {
        panic!("the cut ends the round")
    };
    assert_eq!((report.cleaned_offset, report.segments_after), (None, 0));
}

/// After an unclean election the new leader may lack the records because of which this replica has taken out others, which
/// are the last of their keys there: what is left is no prefix of the leader's log.
#[test]
fn a_cut_below_what_made_records_go_begins_the_log_anew() {
    for steps in 0.. {
        let broker = three_segments();
        let mut round = broker
            .log()
            .begin_compaction(|| broker.bounds(), &options(), 0)
            .unwrap()
            .unwrap();
        let mut is_done = false;
        for _ in 0..steps {
            is_done |= round.step(1, 0).unwrap() != CompactionStep::More;
        }
        drop(round);
        let is_changed = headers(&broker).len() < 13;
        let disk = broker.disk.copy();
        let mut fork = broker.fork(disk.clone(), &disk.shared());
        // The round ended before the active segment, at 12: there nothing is missing.
        assert_eq!(fork.log().truncate_to(12).unwrap(), 12);
        let end = if is_changed { 0 } else { 11 };
        assert_eq!(fork.log().truncate_to(11).unwrap(), end, "after {steps} steps");
        fork.disk.crash();
        fork.reopen();
        assert_eq!((fork.log().log_start_offset(), fork.log().log_end_offset()), (0, end));
        if is_done {
            assert!(is_changed && steps > 10);
            return;
        }
    }
}

/// A batch that holds the log start goes with the rest, and was not stored for whoever sends it again.
#[test]
fn a_log_that_begins_anew_knows_the_producers_below_its_start() {
    let mut broker = Broker::new(config(), 1);
    for (sequence, keys) in [(0, ["a", "b"]), (2, ["c", "d"]), (4, ["a", "e"]), (6, ["a", "e"])] {
        let records = keys.map(|key| record(key, Some("1")));
        broker.append(&build(&records, 1, Codec::None, Some((7, 0, sequence))));
        if sequence != 2 {
            broker.roll();
        }
    }
    broker.put(&["active=1"]);
    broker.log().flush().unwrap();
    broker.log().advance_log_start(3).unwrap();
    broker.model.log_start = 3;
    broker.compact().unwrap().unwrap();
    assert_eq!(broker.log().truncate_to(7).unwrap(), 3);
    for when in ["at once", "after a crash"] {
        let known = broker.log().producers();
        assert_eq!(
            (known.len(), known[0].last_sequence, known[0].last_offset),
            (1, 1, 1),
            "{when}"
        );
        broker.disk.crash();
        broker.reopen();
    }
}
