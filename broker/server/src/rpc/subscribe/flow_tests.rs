//! What a subscriber is sent, and what of it is committed.

use std::time::{Duration, Instant};

use millrace_proto::v1::ErrorReason;

use super::*;
use crate::rpc::{read::Encoded, subscribe::messages::Marks};

const TIMEOUT: Duration = Duration::from_secs(60);

fn id(partition: i32) -> PartitionId {
    (bytes::Bytes::from_static(&[7; 16]), partition)
}

fn credit(messages: u32, processed_through: u64) -> v1::SubscribeCredit {
    v1::SubscribeCredit {
        messages,
        bytes: 0,
        processed_through,
    }
}

/// Messages of 10 bytes of content, encoded as eight bytes each: their offset.
fn ready(lane: u64, offsets: std::ops::Range<i64>) -> Ready {
    let next = offsets.end;
    let (mut marks, mut bytes) = (Marks::default(), Vec::new());
    for offset in offsets {
        bytes.extend(offset.to_be_bytes());
        marks.push(Encoded {
            offset,
            content: 10,
            end: bytes.len(),
        });
    }
    Ready {
        lane,
        messages: marks.take(bytes.into()),
        epochs: Epochs::default(),
        next,
        high_watermark: 100,
        log_start: 0,
    }
}

struct Test {
    flow: Flow,
    begin: Instant,
}

impl Test {
    fn new(manual: bool, first: v1::SubscribeCredit) -> Self {
        let begin = Instant::now();
        let flow = Flow::new(manual, TIMEOUT, &first, begin).unwrap();
        Self { flow, begin }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.begin + Duration::from_secs(seconds)
    }

    /// Has a partition from `offset` on, which is read.
    fn reads(&mut self, partition: i32, offset: i64) -> u64 {
        self.flow.add(id(partition), "t".into(), offset, self.begin);
        self.flow.begin(&id(partition)).unwrap().0
    }

    /// Sends what is ready; its delivery and offsets, and how much is left.
    fn sends(&mut self, ready: &mut Ready) -> Option<(u64, Vec<i64>)> {
        let sent = self.flow.cut(ready, self.begin)?;
        Some((
            sent.delivery_id,
            sent.messages
                .chunks(8)
                .map(|offset| i64::from_be_bytes(offset.try_into().unwrap()))
                .collect(),
        ))
    }

    fn gives(&self, seconds: u64) -> (Vec<PartitionId>, Vec<PartitionId>) {
        let given = self.flow.given(self.at(seconds));
        (given.back, given.late)
    }
}

#[test]
fn without_credit_nothing_is_sent_and_with_some_as_much_as_it_allows() {
    let mut test = Test::new(false, credit(0, 0));
    let lane = test.reads(0, 0);
    assert!(!test.flow.wants_messages());
    let mut ready = ready(lane, 0..5);
    assert_eq!(test.sends(&mut ready), None);
    test.flow.credit(&credit(2, 0)).unwrap();
    assert_eq!(test.sends(&mut ready), Some((1, vec![0, 1])));
    assert!(!test.flow.wants_messages());
    test.flow.credit(&credit(9, 0)).unwrap();
    assert_eq!(test.sends(&mut ready), Some((2, vec![2, 3, 4])));
    assert_eq!(test.flow.next(&id(0)), Some(5));
}

#[test]
fn a_credit_in_bytes_goes_beyond_by_one_message_at_most() {
    let bytes = |bytes| v1::SubscribeCredit {
        bytes,
        ..credit(100, 0)
    };
    let mut test = Test::new(false, bytes(15));
    let lane = test.reads(0, 0);
    let mut ready = ready(lane, 0..5);
    assert_eq!(test.sends(&mut ready), Some((1, vec![0, 1])));
    assert!(!test.flow.wants_messages());
    test.flow.credit(&credit(100, 0)).unwrap();
    assert!(!test.flow.wants_messages(), "bytes are counted");
    test.flow.credit(&bytes(1)).unwrap();
    assert_eq!(test.sends(&mut ready), Some((2, vec![2])));
    // Whose first credit has no bytes is not held to them.
    let mut test = Test::new(false, credit(1, 0));
    test.flow.credit(&bytes(1)).unwrap();
    assert_eq!(test.flow.bytes, None);
}

#[test]
fn only_what_is_said_to_be_processed_is_committed() {
    let mut test = Test::new(false, credit(100, 0));
    let (first, second) = (test.reads(0, 10), test.reads(1, 20));
    test.sends(&mut ready(first, 10..12));
    test.sends(&mut ready(second, 20..23));
    test.sends(&mut ready(first, 12..15));
    assert_eq!(test.flow.to_commit(), []);
    test.flow.credit(&credit(50, 0)).unwrap();
    assert_eq!(test.flow.to_commit(), [], "credit alone says nothing");
    test.flow.credit(&credit(0, 2)).unwrap();
    assert_eq!(test.flow.to_commit(), [(id(0), 12), (id(1), 23)]);
    test.flow.committed(&id(0), 12);
    assert_eq!(test.flow.to_commit(), [(id(1), 23)]);
    test.flow.credit(&credit(0, 3)).unwrap();
    assert_eq!(test.flow.to_commit(), [(id(0), 15), (id(1), 23)]);
    // What the subscriber has committed itself is not put back.
    test.flow.committed(&id(0), 99);
    assert_eq!(test.flow.to_commit(), [(id(1), 23)]);
}

#[test]
fn a_delivery_that_was_not_sent_is_not_processed_and_no_credit_is_without_bound() {
    let mut test = Test::new(false, credit(1, 0));
    let refused = |flow: &mut Flow, credit| flow.credit(&credit).unwrap_err().reason();
    assert_eq!(refused(&mut test.flow, credit(0, 1)), ErrorReason::InvalidRequest);
    assert_eq!(
        refused(&mut test.flow, credit(u32::MAX, 0)),
        ErrorReason::InvalidRequest
    );
    let bytes = |bytes| v1::SubscribeCredit { bytes, ..credit(1, 0) };
    assert!(Flow::new(false, TIMEOUT, &bytes(u64::MAX), test.begin).is_err());
    let mut counted = Test::new(false, bytes(1));
    assert_eq!(refused(&mut counted.flow, bytes(u64::MAX)), ErrorReason::InvalidRequest);
    // A refused one changes nothing.
    assert_eq!((counted.flow.messages, counted.flow.bytes), (1, Some(1)));
}

#[test]
fn nothing_comes_of_a_reading_that_has_ended_and_the_next_goes_on_behind_what_was_sent() {
    let mut test = Test::new(false, credit(2, 0));
    let lane = test.reads(0, 0);
    let mut left = ready(lane, 0..5);
    test.sends(&mut left);
    assert!(test.flow.pause(&id(0), true) && !test.flow.pause(&id(0), true));
    test.flow.credit(&credit(100, 0)).unwrap();
    assert_eq!(test.sends(&mut left), None);
    assert!(left.messages.is_empty());
    assert_eq!(test.flow.begin(&id(0)), None, "it is paused");
    assert!(test.flow.pause(&id(0), false));
    let (again, next) = test.flow.begin(&id(0)).unwrap();
    assert_eq!(next, 2);
    assert_eq!(test.sends(&mut ready(lane, 2..5)), None);
    assert_eq!(test.sends(&mut ready(again, 2..5)), Some((2, vec![2, 3, 4])));
    // What was sent by the reading before counts as well.
    test.flow.credit(&credit(0, 1)).unwrap();
    assert_eq!(test.flow.to_commit(), [(id(0), 2)]);
}

#[test]
fn what_is_of_another_holding_of_the_partition_counts_for_nothing() {
    let mut test = Test::new(false, credit(100, 0));
    let lane = test.reads(0, 0);
    test.sends(&mut ready(lane, 0..5));
    test.flow.remove(&id(0));
    test.reads(0, 2);
    test.flow.credit(&credit(0, 1)).unwrap();
    assert_eq!(test.flow.to_commit(), []);
}

#[test]
fn what_is_revoked_is_given_back_once_it_is_processed_and_committed() {
    let mut test = Test::new(false, credit(100, 0));
    let lane = test.reads(0, 0);
    test.reads(1, 0);
    test.sends(&mut ready(lane, 0..5));
    let until = test.at(30);
    test.flow.revoke(&id(0), until, false);
    test.flow.revoke(&id(1), until, false);
    assert_eq!(test.gives(0), (vec![id(1)], vec![]), "nothing came of it");
    test.flow.remove(&id(1));
    assert_eq!(test.sends(&mut ready(lane, 5..9)), None);
    test.flow.credit(&credit(0, 1)).unwrap();
    assert!(test.flow.is_commit_urgent());
    assert_eq!(test.gives(0), (vec![], vec![]), "not before the commit");
    test.flow.committed(&id(0), 5);
    assert_eq!(test.gives(0), (vec![id(0)], vec![]));
}

#[test]
fn what_is_not_given_back_in_time_is_lost() {
    let mut test = Test::new(false, credit(100, 0));
    let lane = test.reads(0, 0);
    test.sends(&mut ready(lane, 0..5));
    test.flow.revoke(&id(0), test.at(30), false);
    assert_eq!(test.gives(29), (vec![], vec![]));
    assert_eq!(test.flow.wake_at(), Some(test.at(30)));
    assert_eq!(test.gives(30), (vec![], vec![id(0)]));
    // Said to be done with, it is given back with what is processed.
    test.flow.release(&id(0));
    assert_eq!(test.gives(29), (vec![id(0)], vec![]));
}

#[test]
fn in_manual_mode_only_commits_and_releases_count() {
    let mut test = Test::new(true, credit(100, 0));
    let lane = test.reads(0, 0);
    test.sends(&mut ready(lane, 0..5));
    test.flow.credit(&credit(0, 1)).unwrap();
    assert_eq!(test.flow.to_commit(), []);
    test.flow.revoke(&id(0), test.at(30), false);
    assert_eq!(test.gives(0), (vec![], vec![]));
    test.flow.committed(&id(0), 4);
    assert_eq!(test.gives(0), (vec![], vec![]));
    test.flow.committed(&id(0), 5);
    assert_eq!(test.gives(0), (vec![id(0)], vec![]));
}

#[test]
fn of_what_a_former_stream_sent_the_subscriber_says_when_it_is_done() {
    for manual in [false, true] {
        let mut test = Test::new(manual, credit(100, 0));
        test.flow.add(id(0), "t".into(), 7, test.begin);
        test.flow.revoke(&id(0), test.at(30), true);
        assert_eq!(test.gives(0), (vec![], vec![]));
        assert!(test.flow.is_revoking(&id(0)));
        test.flow.release(&id(0));
        assert_eq!(test.gives(0), (vec![id(0)], vec![]));
    }
}

#[test]
fn gaps_move_the_position_and_are_no_delivery() {
    let mut test = Test::new(false, credit(100, 0));
    let lane = test.reads(0, 0);
    let mut gap = Ready {
        next: 8,
        ..ready(lane, 0..0)
    };
    assert_eq!(test.sends(&mut gap), None);
    assert_eq!(test.flow.next(&id(0)), Some(8));
    assert_eq!(test.sends(&mut ready(lane, 8..9)), Some((1, vec![8])));
}

#[test]
fn a_subscriber_is_slow_only_while_something_is_its_turn() {
    let mut test = Test::new(false, credit(100, 0));
    assert_eq!(test.flow.too_slow_at(), None, "it has no partition");
    let lane = test.reads(0, 0);
    assert_eq!(test.flow.too_slow_at(), None, "it waits for messages");
    let sent = |test: &mut Test, seconds, offsets| {
        let at = test.at(seconds);
        test.flow.cut(&mut ready(lane, offsets), at).unwrap();
    };
    sent(&mut test, 500, 0..1);
    assert_eq!(
        test.flow.too_slow_at(),
        Some(test.at(560)),
        "from when it got something"
    );
    sent(&mut test, 510, 1..2);
    assert_eq!(
        test.flow.too_slow_at(),
        Some(test.at(560)),
        "more of it gives no more time"
    );
    test.flow.works(test.at(520));
    assert_eq!(test.flow.too_slow_at(), Some(test.at(580)));
    test.flow.credit(&credit(0, 2)).unwrap();
    assert_eq!(test.flow.too_slow_at(), None);
    // Without credit, or while it does not take what it is sent, it is its turn.
    test.flow.set_blocked(true, test.at(600));
    assert_eq!(test.flow.too_slow_at(), Some(test.at(660)));
    test.flow.set_blocked(false, test.at(610));
    assert_eq!(test.flow.too_slow_at(), None);
    let mut test = Test::new(true, credit(0, 0));
    test.reads(0, 0);
    assert_eq!(test.flow.too_slow_at(), Some(test.at(60)));
}

#[test]
fn unprocessed_deliveries_are_bounded() {
    let mut test = Test::new(false, credit(1_000_000, 0));
    let lane = test.reads(0, 0);
    let most = i64::try_from(limits::MAX_UNPROCESSED_DELIVERIES).unwrap();
    for offset in 0..most {
        assert!(test.flow.wants_messages());
        test.sends(&mut ready(lane, offset..offset + 1));
    }
    assert!(!test.flow.wants_messages());
    test.flow.credit(&credit(0, 1)).unwrap();
    assert!(test.flow.wants_messages());
}

#[test]
fn a_commit_has_no_more_than_a_request_may_and_what_is_given_back_first() {
    let most = limits::MAX_PARTITIONS_PER_REQUEST;
    let last = i32::try_from(most).unwrap();
    let mut test = Test::new(false, credit(0, 0));
    for partition in 0..=last {
        let lane = test.reads(partition, 0);
        test.flow.credit(&credit(1, 0)).unwrap();
        let (delivery, _) = test.sends(&mut ready(lane, 0..1)).unwrap();
        test.flow.credit(&credit(0, delivery)).unwrap();
    }
    assert!(!test.flow.to_commit().contains(&(id(last), 1)));
    test.flow.revoke(&id(last), test.at(30), false);
    let due = test.flow.to_commit();
    assert_eq!((due.len(), &due[0]), (most, &(id(last), 1)));
}

/// The same of batches: each with where it ends, and its leader epoch.
fn ready_of(lane: u64, begin: i64, batches: &[(i64, i32)]) -> Ready {
    let mut at = begin;
    let mut epochs = Epochs::default();
    for (end, epoch) in batches {
        epochs.add(at, *end, *epoch);
        at = *end;
    }
    Ready {
        epochs,
        ..ready(lane, begin..at)
    }
}

#[test]
fn what_is_committed_has_the_epoch_of_its_last_message() {
    let mut test = Test::new(false, credit(3, 0));
    let lane = test.reads(0, 10);
    let mut all = ready_of(lane, 10, &[(12, 1), (15, 1), (16, 4), (18, 5)]);
    let due = |flow: &Flow| {
        let (of, offset) = flow.to_commit().pop()?;
        Some((offset, flow.leader_epoch(&of, offset)))
    };
    // Parts end where the credit does: in the midst of a batch, and behind several.
    test.sends(&mut all).unwrap();
    test.flow.credit(&credit(3, 1)).unwrap();
    assert_eq!(due(&test.flow), Some((13, Some(1))));
    test.sends(&mut all).unwrap();
    test.flow.credit(&credit(9, 2)).unwrap();
    assert_eq!(due(&test.flow), Some((16, Some(4))));
    test.sends(&mut all).unwrap();
    test.sends(&mut ready_of(lane, 18, &[(20, 5), (21, 7)])).unwrap();
    test.flow.credit(&credit(0, 3)).unwrap();
    assert_eq!(due(&test.flow), Some((18, Some(5))));
    // Also of what the subscriber commits itself, which need not be where a part ends.
    let epochs = [13, 14, 15, 16, 17, 20, 21, 22].map(|offset| test.flow.leader_epoch(&id(0), offset));
    let (no, is) = (None, Some);
    assert_eq!(epochs, [is(1), is(1), is(1), is(4), is(5), is(5), is(7), no]);
    test.flow.committed(&id(0), 18);
    test.flow.credit(&credit(0, 4)).unwrap();
    assert_eq!(due(&test.flow), Some((21, Some(7))));
    assert_eq!(
        test.flow.leader_epoch(&id(0), 15),
        None,
        "what is committed is not committed again"
    );
    assert_eq!(test.flow.leader_epoch(&id(1), 15), None);
}

#[test]
fn reading_goes_on_with_the_epoch_of_the_last_message_that_was_sent() {
    let mut test = Test::new(false, credit(3, 0));
    let at = |offset, leader_epoch| Some(Position { offset, leader_epoch });
    // From what is committed.
    let committed = Position {
        offset: 10,
        leader_epoch: Some(2),
    };
    test.flow.add(id(0), "t".into(), committed, test.begin);
    assert_eq!(test.flow.position(&id(0)), at(10, Some(2)));
    let (lane, _) = test.flow.begin(&id(0)).unwrap();
    let mut left = ready_of(lane, 10, &[(12, 2), (16, 3)]);
    test.sends(&mut left).unwrap();
    test.flow.stop(&id(0));
    assert_eq!(test.flow.position(&id(0)), at(13, Some(3)));
    // The next reading begins in the midst of the batch.
    let (again, _) = test.flow.begin(&id(0)).unwrap();
    test.flow.credit(&credit(9, 1)).unwrap();
    let mut rest = Ready {
        epochs: Epochs::default(),
        ..ready(again, 13..16)
    };
    rest.epochs.add(12, 16, 3);
    rest.epochs.add(16, 17, 6);
    rest.next = 17;
    test.sends(&mut rest).unwrap();
    assert_eq!(
        test.flow.position(&id(0)),
        at(17, Some(6)),
        "behind a batch without messages"
    );
    assert_eq!(test.flow.leader_epoch(&id(0), 13), Some(3));
    assert_eq!(test.flow.leader_epoch(&id(0), 16), Some(3));
    assert_eq!(test.flow.to_commit(), [(id(0), 13)]);
    // Nothing is known of what another stream has sent.
    test.flow.add(id(1), "t".into(), 7, test.begin);
    assert_eq!(test.flow.position(&id(1)), at(7, None));
}
