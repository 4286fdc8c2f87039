//! Single rules, one after the other; all together run in the model.

use super::*;

pub(super) const ME: Identity = Identity {
    producer_id: 1,
    producer_epoch: 0,
};

pub(super) fn refused(reason: ErrorReason, outcome: WriteOutcome) -> Answer {
    Answer::Failed(Error::server(reason, "x").with_outcome(outcome))
}

pub(super) fn not_written(reason: ErrorReason) -> Answer {
    refused(reason, WriteOutcome::NotWritten)
}

pub(super) fn stored(base_offset: i64) -> Answer {
    Answer::Stored {
        base_offset,
        log_append_time: None,
    }
}

struct Fixture {
    sequencer: Sequencer<u32>,
    now: Instant,
}

impl Fixture {
    fn new(rules: Rules) -> Self {
        Self {
            sequencer: Sequencer::new(rules, rules.idempotent.then_some(ME)),
            now: Instant::now(),
        }
    }

    fn idempotent(batches: u32) -> Self {
        let mut fixture = Self::new(Rules {
            idempotent: true,
            max_in_flight: 5,
        });
        fixture.push(batches);
        fixture
    }

    fn push(&mut self, batches: u32) {
        for batch in 0..batches {
            self.sequencer.push(batch, 10, self.now + Duration::from_secs(60));
        }
    }

    /// Sends all that may be sent: (id, sequence).
    fn send(&mut self) -> Vec<(BatchId, i32)> {
        let mut sent = Vec::new();
        while let Some(order) = self.sequencer.next_to_send(self.now) {
            sent.push((order.id, order.producer.map_or(-1, |(_, sequence)| sequence)));
        }
        sent
    }

    fn answer(&mut self, id: BatchId, answer: Answer) -> Vec<Done<u32>> {
        self.sequencer.answer(self.now, id, answer)
    }

    /// The first batch is stored, so that several may be in flight.
    fn establish(&mut self) {
        assert_eq!(self.send(), [(0, 0)], "one only until the broker knows the producer");
        assert_eq!(self.answer(0, stored(0)).len(), 1);
    }

    fn later(&mut self) {
        self.now += limits::MAX_BACKOFF;
    }
}

#[test]
fn at_most_five_are_in_flight_in_sequence() {
    let mut fixture = Fixture::idempotent(10);
    fixture.establish();
    assert_eq!(fixture.send(), [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50)]);
    fixture.answer(3, stored(30));
    assert_eq!(fixture.send(), [(6, 60)]);
}

#[test]
fn a_refused_batch_is_sent_again_first_and_only_when_nothing_is_in_flight() {
    let mut fixture = Fixture::idempotent(4);
    fixture.establish();
    fixture.send();
    assert!(fixture.answer(1, not_written(ErrorReason::NotLeader)).is_empty());
    fixture.later();
    assert!(fixture.send().is_empty(), "2 and 3 are in flight");
    fixture.answer(2, not_written(ErrorReason::OutOfOrderSequence));
    fixture.answer(3, not_written(ErrorReason::OutOfOrderSequence));
    assert_eq!(fixture.send(), [(1, 10), (2, 20), (3, 30)], "with their sequences");
}

#[test]
fn backoff_holds_and_is_no_longer_than_its_bound() {
    let mut fixture = Fixture::idempotent(1);
    for _ in 0..20 {
        assert_eq!(fixture.send().len(), 1);
        fixture.answer(0, not_written(ErrorReason::LeaderNotAvailable));
        assert!(fixture.send().is_empty());
        fixture.later();
    }
}

#[test]
fn what_is_refused_for_good_leaves_no_gap() {
    let mut fixture = Fixture::idempotent(4);
    fixture.establish();
    fixture.send();
    let done = fixture.answer(1, not_written(ErrorReason::MessageTooLarge));
    assert!(
        matches!(&done[..], [Done::Failed { batch: 1, error }] if error.outcome() == Some(WriteOutcome::NotWritten))
    );
    fixture.answer(2, not_written(ErrorReason::OutOfOrderSequence));
    fixture.answer(3, not_written(ErrorReason::OutOfOrderSequence));
    assert_eq!(fixture.send(), [(2, 10), (3, 20)], "numbered anew under the same id");
    assert!(!fixture.sequencer.needs_identity());
}

#[test]
fn behind_a_refused_batch_a_lost_one_gets_a_new_id_and_is_not_given_up() {
    let mut fixture = Fixture::idempotent(3);
    fixture.establish();
    fixture.send();
    fixture.answer(1, not_written(ErrorReason::MessageTooLarge));
    assert!(
        fixture
            .answer(2, refused(ErrorReason::TimedOut, WriteOutcome::Unknown))
            .is_empty()
    );
    assert!(
        fixture.sequencer.needs_identity(),
        "an old attempt could fit the old sequence"
    );
    fixture.sequencer.set_identity(Identity {
        producer_id: 2,
        producer_epoch: 0,
    });
    fixture.later();
    assert_eq!(fixture.send(), [(2, 0)]);
}

#[test]
fn a_forgetful_broker_fails_what_is_in_doubt_and_only_that() {
    let mut fixture = Fixture::idempotent(4);
    fixture.establish();
    fixture.send();
    for id in 1..4 {
        fixture.answer(id, refused(ErrorReason::TimedOut, WriteOutcome::Unknown));
    }
    fixture.later();
    assert_eq!(fixture.send(), [(1, 10), (2, 20), (3, 30)]);
    assert!(
        fixture
            .answer(1, not_written(ErrorReason::OutOfOrderSequence))
            .is_empty(),
        "2 and 3 are in flight"
    );
    assert!(
        !fixture.sequencer.needs_identity(),
        "not while something is in doubt (KAFKA-14034)"
    );
    fixture.answer(2, stored(20));
    let done = fixture.answer(3, not_written(ErrorReason::OutOfOrderSequence));
    assert_eq!(done.len(), 2);
    assert!(
        done.iter()
            .all(|done| matches!(done, Done::Failed { error, .. } if error.outcome() == Some(WriteOutcome::Unknown)))
    );
    fixture.push(1);
    assert!(fixture.sequencer.needs_identity());
}

#[test]
fn duplicates_are_successes() {
    let mut fixture = Fixture::idempotent(1);
    fixture.send();
    fixture.answer(0, refused(ErrorReason::TimedOut, WriteOutcome::Unknown));
    fixture.later();
    fixture.send();
    let done = fixture.answer(0, refused(ErrorReason::DuplicateSequence, WriteOutcome::Unknown));
    assert!(matches!(done[..], [Done::Stored { base_offset: -1, .. }]));
}

#[test]
fn deadlines_tell_whether_the_batch_was_ever_sent() {
    let mut fixture = Fixture::idempotent(3);
    fixture.establish();
    assert_eq!(
        fixture.sequencer.next_to_send(fixture.now).map(|order| order.id),
        Some(1)
    );
    fixture.now += Duration::from_secs(60);
    let outcomes: Vec<_> = fixture
        .sequencer
        .expire(fixture.now)
        .iter()
        .map(|done| match done {
            Done::Failed { error, .. } => error.outcome(),
            Done::Stored { .. } => None,
        })
        .collect();
    assert_eq!(outcomes, [Some(WriteOutcome::Unknown), Some(WriteOutcome::NotWritten)]);
    assert!(!fixture.sequencer.is_empty(), "the answer is still waited for");
    fixture.push(1);
    assert!(fixture.send().is_empty());
    assert!(fixture.answer(1, stored(10)).is_empty());
    assert!(fixture.sequencer.needs_identity());
}

#[test]
fn without_idempotence_only_what_was_surely_not_written_is_repeated() {
    let mut fixture = Fixture::new(Rules {
        idempotent: false,
        max_in_flight: 1,
    });
    fixture.push(2);
    fixture.send();
    assert!(fixture.answer(0, not_written(ErrorReason::NotLeader)).is_empty());
    fixture.later();
    assert_eq!(fixture.send(), [(0, -1)]);
    let done = fixture.answer(0, refused(ErrorReason::TimedOut, WriteOutcome::Unknown));
    assert!(matches!(&done[..], [Done::Failed { batch: 0, error }] if error.outcome() == Some(WriteOutcome::Unknown)));
    assert_eq!(fixture.send(), [(1, -1)]);
}

#[test]
fn a_full_disk_is_told_at_once() {
    let mut fixture = Fixture::idempotent(1);
    fixture.send();
    assert_eq!(fixture.answer(0, not_written(ErrorReason::DiskFull)).len(), 1);
}

/// It would be sent again and again, until its delivery timeout.
#[test]
fn a_front_that_cannot_follow_is_given_up_also_while_there_is_a_gap_behind_it() {
    let mut fixture = Fixture::idempotent(4);
    fixture.establish();
    fixture.send();
    fixture.answer(1, refused(ErrorReason::TimedOut, WriteOutcome::Unknown));
    assert_eq!(fixture.answer(2, not_written(ErrorReason::DiskFull)).len(), 1);
    fixture.answer(3, refused(ErrorReason::TimedOut, WriteOutcome::Unknown));
    fixture.later();
    assert_eq!(fixture.send(), [(1, 10), (3, 30)]);
    // The broker's memory of this producer is not ours.
    fixture.answer(1, not_written(ErrorReason::OutOfOrderSequence));
    let done = fixture.answer(3, not_written(ErrorReason::OutOfOrderSequence));
    let unknown =
        |done: &Done<u32>| matches!(done, Done::Failed { error, .. } if error.outcome() == Some(WriteOutcome::Unknown));
    assert!(done.len() == 2 && done.iter().all(unknown), "{done:?}");
}

#[test]
fn predictions_hold_while_nothing_fails() {
    let mut fixture = Fixture::idempotent(3);
    assert_eq!(fixture.sequencer.predicted(), Some((ME, 30)));
    fixture.establish();
    fixture.send();
    assert_eq!(fixture.sequencer.predicted(), Some((ME, 30)));
}

#[test]
fn sequences_wrap() {
    assert!(precedes(i32::MAX, 0));
    assert!(precedes(i32::MAX - 5, 3));
    assert!(!precedes(0, i32::MAX));
    assert!(!precedes(7, 7));
}
