//! How long deletes stay.

use std::path::Path;

use millrace_log::CompactionStep;
use millrace_log::producer::ProducerState;
use millrace_proto::batch::BatchHeader;

use crate::broker::{Broker, DAY_MS, PARTITION, config, options};
use crate::rules::{headers, texts};

#[test]
fn a_tombstone_stays_for_the_delete_retention_after_it_was_first_compacted() {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["a=1", "b=1", "c=1"]);
    broker.put(&["a", "d=1"]);
    broker.put(&["b"]);
    broker.roll();
    broker.put(&["e=1"]);
    // However old it is: nobody can have seen that it replaced something.
    broker.now_ms += 10 * DAY_MS;
    broker.compact().unwrap().unwrap();
    assert_eq!(texts(&broker), ["2:c=1", "3:a", "4:d=1", "5:b", "6:e=1"]);
    let horizon = broker.now_ms + DAY_MS;
    let horizons: Vec<_> = headers(&broker).iter().map(BatchHeader::delete_horizon_ms).collect();
    assert_eq!(horizons, [None, Some(horizon), Some(horizon), None]);
    broker.check();
    // Another round changes nothing of that.
    broker.now_ms += DAY_MS - 1;
    broker.roll();
    broker.compact().unwrap().unwrap();
    assert_eq!(texts(&broker), ["2:c=1", "3:a", "4:d=1", "5:b", "6:e=1"]);
    assert_eq!(headers(&broker)[1].delete_horizon_ms(), Some(horizon));
    // Who began to read right before the copy was in place has its time, too.
    let need = |broker: &Broker| broker.log().compaction_need(&broker.bounds(), broker.now_ms).unwrap();
    broker.now_ms += 2;
    assert!(!need(&broker).is_due);
    broker.now_ms += 60_000;
    assert!(need(&broker).is_due, "although nothing is dirty");
    let report = broker.compact().unwrap().unwrap();
    assert_eq!(report.deleted_tombstones, 2);
    assert_eq!(texts(&broker), ["2:c=1", "4:d=1", "6:e=1"]);
    broker.check();
    assert!(!need(&broker).is_due);
    broker.reopen();
    broker.check();
}

#[test]
fn how_long_a_copy_took_is_added_to_the_time_of_its_tombstones() {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["a=1"]);
    broker.put(&["a"]);
    broker.put(&["b=1"]);
    broker.roll();
    broker.put(&["c=1"]);
    let bounds = broker.bounds();
    broker.model.untouched_from = bounds.high_watermark;
    let begun = broker.now_ms;
    let mut round = broker
        .log()
        .begin_compaction(|| bounds, &options(), broker.now_ms)
        .unwrap()
        .unwrap();
    while round.step(1, broker.now_ms).unwrap() == CompactionStep::More {
        broker.now_ms += DAY_MS / 2;
    }
    drop(round);
    let horizon = headers(&broker)
        .iter()
        .find_map(BatchHeader::delete_horizon_ms)
        .unwrap();
    assert!(horizon < begun + 4 * DAY_MS, "set while it was copied");
    broker.roll();
    // Readers could get the deleted record until the copy was in place.
    broker.now_ms = horizon + 1;
    broker.compact().unwrap().unwrap();
    assert!(texts(&broker).contains(&"1:a".to_owned()));
    broker.now_ms = horizon + 10 * DAY_MS;
    broker.compact().unwrap().unwrap();
    assert!(!texts(&broker).contains(&"1:a".to_owned()));
    broker.check();
}

/// Appends what another replica has from this one's end to below `end`.
fn follow(follower: &Broker, leader: &Broker, end: i64) {
    loop {
        let from = follower.log().log_end_offset();
        let fetched = leader.log().read(from, usize::MAX, true, end).unwrap();
        if fetched.bytes.is_empty() {
            return;
        }
        follower
            .log()
            .append_as_follower(&fetched.bytes, 0, follower.now_ms)
            .unwrap();
    }
}

#[test]
fn a_horizon_that_another_replica_has_set_counts_from_the_first_round_of_this_one() {
    let mut leader = Broker::new(config(), 1);
    let mut follower = Broker::new(config(), 2);
    leader.put(&["a=1"]);
    leader.put(&["b=1"]);
    leader.put(&["a"]);
    leader.put(&["c=1"]);
    leader.roll();
    leader.put(&["d=1"]);
    follow(&follower, &leader, 2);
    leader.compact().unwrap().unwrap();
    follow(&follower, &leader, i64::MAX);
    follower.roll();
    follower.model = leader.model.clone();
    let horizon = leader.now_ms + DAY_MS;
    assert_eq!(texts(&follower), ["0:a=1", "1:b=1", "2:a", "3:c=1", "4:d=1"]);
    assert_eq!(headers(&follower)[2].delete_horizon_ms(), Some(horizon));
    // The horizon is long past, but until now readers of this replica could get the deleted record.
    follower.now_ms = horizon + 10 * DAY_MS;
    let first = follower.compact().unwrap().unwrap();
    assert_eq!((first.superseded_records, first.deleted_tombstones), (1, 0));
    assert_eq!(texts(&follower), ["1:b=1", "2:a", "3:c=1", "4:d=1"]);
    let anew = follower.now_ms + DAY_MS;
    assert_eq!(headers(&follower)[1].delete_horizon_ms(), Some(anew));
    follower.check();
    follower.now_ms = anew + 60_000;
    let second = follower.compact().unwrap().unwrap();
    assert_eq!(second.deleted_tombstones, 1);
    assert_eq!(texts(&follower), ["1:b=1", "3:c=1", "4:d=1"]);
    follower.check();
}

/// Records 0 to 6, of which the tombstones 3 and 5 are gone; the log goes on to 8.
fn without_its_tombstones() -> Broker {
    let mut broker = Broker::new(config(), 1);
    broker.put(&["a=1", "b=1", "c=1"]);
    broker.put(&["a", "d=1"]);
    broker.put(&["b"]);
    broker.roll();
    broker.put(&["e=1"]);
    broker.compact().unwrap().unwrap();
    let gone = |broker: &Broker| broker.log().tombstones_gone_below().unwrap();
    assert_eq!((gone(&broker), broker.log().cleaned_offset().unwrap()), (0, 6));
    broker.now_ms += 2 * DAY_MS;
    broker.compact().unwrap().unwrap();
    assert_eq!(texts(&broker), ["2:c=1", "4:d=1", "6:e=1"]);
    broker.put(&["f=1"]);
    broker.log().flush().unwrap();
    assert_eq!(gone(&broker), 6);
    broker
}

#[test]
fn below_which_offset_tombstones_are_gone_is_told_for_good() {
    let mut broker = without_its_tombstones();
    let told = |broker: &Broker| {
        let log = broker.log();
        (log.tombstones_gone_below().unwrap(), log.cleaned_offset().unwrap())
    };
    broker.disk.crash();
    broker.reopen();
    assert_eq!(told(&broker), (6, 6));
    // Whatever is to be looked at anew, they do not come back.
    broker.log().reset_compaction().unwrap();
    broker.reopen();
    assert_eq!(told(&broker), (6, 0));
    // Nor is a later round over them without any that goes a reason to forget it.
    broker.roll();
    broker.compact().unwrap().unwrap();
    assert_eq!(told(&broker), (6, 8));
}

#[test]
fn a_log_that_is_cut_tells_no_more_than_it_goes() {
    // Below 6 lie records that made others go: without them nothing is left that can be told of.
    for (to, end, expected) in [
        (8, 8, (6, 6)),
        (7, 7, (6, 6)),
        (6, 6, (6, 6)),
        (5, 0, (0, 0)),
        (3, 0, (0, 0)),
    ] {
        let mut broker = without_its_tombstones();
        assert_eq!(broker.log().truncate_to(to).unwrap(), end);
        for when in ["at once", "after a crash"] {
            let log = broker.log();
            let told = (log.tombstones_gone_below().unwrap(), log.cleaned_offset().unwrap());
            assert_eq!(told, expected, "cut to {to}, {when}");
            broker.disk.crash();
            broker.reopen();
        }
    }
}

/// What comes then is another replica's, or was never there.
#[test]
fn an_emptied_log_knows_nothing_of_what_was_compacted() {
    for start in [0, 7, 100] {
        let mut broker = without_its_tombstones();
        let log = broker.log();
        log.truncate_fully_and_start_at(start, ProducerState::default())
            .unwrap();
        for when in ["at once", "after a crash"] {
            let log = broker.log();
            let need = log.compaction_need(&broker.bounds(), broker.now_ms).unwrap();
            let told = (log.tombstones_gone_below().unwrap(), log.cleaned_offset().unwrap());
            assert_eq!((told, need.first_dirty_offset), ((0, 0), start), "{when}");
            broker.disk.crash();
            broker.reopen();
        }
    }
}

#[test]
fn where_it_is_not_known_all_tombstones_may_be_gone() {
    let mut broker = without_its_tombstones();
    let path = Path::new(PARTITION).join("cleaned-offset");
    broker.disk.flip_bit(&path, 20, 1).unwrap();
    broker.reopen();
    assert_eq!(broker.log().tombstones_gone_below().unwrap(), 8);
    assert_eq!(broker.log().cleaned_offset().unwrap(), 0);
}
