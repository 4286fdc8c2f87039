//! Sequences in order, repeated, lost and wrapped.

use millrace_proto::batch::Attributes;

use super::*;
use crate::producer::snapshot;

fn header(epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset,
        batch_length: 100,
        partition_leader_epoch: 0,
        crc: 0,
        attributes: Attributes::EMPTY,
        last_offset_delta: count - 1,
        base_timestamp: 1000,
        max_timestamp: 1000 + base_offset,
        producer_id: 7,
        producer_epoch: epoch,
        base_sequence,
        record_count: count,
    }
}

fn applied(batches: &[(i16, i32, i32)]) -> ProducerState {
    let mut state = ProducerState::default();
    let mut offset = 0;
    for (epoch, sequence, count) in batches {
        state.apply(&header(*epoch, *sequence, *count, offset), None);
        offset += i64::from(*count);
    }
    state
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let state = ProducerState::default();
    assert_eq!(
        state.check(&header(0, 17, 1, 0), SequenceRule::Contiguous),
        Ok(SequenceCheck::Fresh)
    );
}

#[test]
fn contiguous_next_duplicate_old_and_gap() {
    let batches: Vec<_> = (0..7).map(|at| (3, at * 10, 10)).collect();
    let state = applied(&batches);
    let check = |sequence, count| state.check(&header(3, sequence, count, 99), SequenceRule::Contiguous);
    assert_eq!(check(70, 1), Ok(SequenceCheck::Fresh));
    for sequence in [20, 30, 40, 50, 60] {
        let Ok(SequenceCheck::Duplicate(batch)) = check(sequence, 10) else {
            panic!("{sequence}")
        };
        assert_eq!(batch.base_offset, i64::from(sequence));
        assert_eq!(batch.timestamp, 1000 + i64::from(sequence));
    }
    for sequence in [0, 10, 61] {
        assert!(
            matches!(
                check(sequence, 10),
                Err(SequenceError::Duplicate { last_sequence: 69, .. })
            ),
            "{sequence}"
        );
    }
    assert!(
        matches!(check(60, 9), Err(SequenceError::Duplicate { .. })),
        "another length is not the same batch"
    );
    assert_eq!(
        check(71, 1),
        Err(SequenceError::OutOfOrder {
            producer_id: 7,
            sequence: 71,
            expected: 70
        })
    );
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    let state = applied(&[(0, i32::MAX - 2, 3)]);
    let check = |sequence| state.check(&header(0, sequence, 1, 9), SequenceRule::Contiguous);
    assert_eq!(check(0), Ok(SequenceCheck::Fresh));
    assert!(matches!(check(1), Err(SequenceError::OutOfOrder { expected: 0, .. })));
    assert!(matches!(check(i32::MAX), Err(SequenceError::Duplicate { .. })));
    // A batch that wraps inside.
    let state = applied(&[(0, i32::MAX, 3)]);
    assert_eq!(state.entries()[&7].last_sequence(), 1);
    assert_eq!(
        state.check(&header(0, 2, 1, 9), SequenceRule::Contiguous),
        Ok(SequenceCheck::Fresh)
    );
}

#[test]
fn epochs_fence_and_begin_at_zero() {
    let state = applied(&[(4, 0, 5)]);
    let check = |epoch, sequence, rule| state.check(&header(epoch, sequence, 1, 9), rule);
    assert_eq!(
        check(3, 5, SequenceRule::Contiguous),
        Err(SequenceError::InvalidEpoch {
            producer_id: 7,
            epoch: 3,
            current: 4
        })
    );
    assert_eq!(check(5, 0, SequenceRule::Contiguous), Ok(SequenceCheck::Fresh));
    assert!(matches!(
        check(5, 5, SequenceRule::Contiguous),
        Err(SequenceError::OutOfOrder { expected: 0, .. })
    ));
    assert_eq!(check(5, 900, SequenceRule::Increasing), Ok(SequenceCheck::Fresh));
    let mut state = state;
    state.apply(&header(5, 0, 1, 5), None);
    assert_eq!(
        state.entries()[&7].batches.len(),
        1,
        "batches of an older epoch are no longer compared with"
    );
}

#[test]
fn increasing_allows_gaps_and_answers_repeats() {
    let state = applied(&[(0, 10, 1), (0, 20, 1), (0, 35, 1)]);
    let check = |sequence| state.check(&header(0, sequence, 1, 9), SequenceRule::Increasing);
    assert_eq!(check(36), Ok(SequenceCheck::Fresh));
    assert_eq!(check(1000), Ok(SequenceCheck::Fresh));
    assert!(matches!(check(20), Ok(SequenceCheck::Duplicate(batch)) if batch.base_offset == 1));
    assert!(matches!(
        check(25),
        Err(SequenceError::Duplicate { last_sequence: 35, .. })
    ));
}

#[test]
fn every_order_of_five_in_flight_with_repeats_stores_each_once() {
    // All sequences of 7 sends drawn from 5 batches in flight: what is stored is always 0..n in order, once.
    let total = 5_u32.pow(7);
    for mut code in 0..total {
        let mut state = ProducerState::default();
        let mut stored = Vec::new();
        // The first batch is known to be there, else any start is legal.
        state.apply(&header(0, 0, 1, 0), None);
        stored.push(0);
        for _ in 0..7 {
            let sequence = (code % 5) as i32;
            code /= 5;
            let candidate = header(0, sequence, 1, stored.len() as i64);
            match state.check(&candidate, SequenceRule::Contiguous) {
                Ok(SequenceCheck::Fresh) => {
                    state.apply(&candidate, None);
                    stored.push(sequence);
                }
                Ok(SequenceCheck::Duplicate(batch)) => assert_eq!(stored[batch.base_offset as usize], sequence),
                Err(SequenceError::OutOfOrder { .. }) => assert!(sequence > stored.len() as i32 - 1),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            stored.iter().enumerate().all(|(at, sequence)| at as i32 == *sequence),
            "{stored:?}"
        );
    }
}

#[test]
fn expiry_by_last_use_and_bound_by_least_recent_use() {
    let mut state = ProducerState::default();
    for id in 0..100 {
        let mut batch = header(0, 0, 1, id);
        batch.producer_id = id;
        state.apply(&batch, (id != 99).then_some(1000 + id));
    }
    assert_eq!(state.bound(100), 0);
    assert_eq!(state.bound(50), 55);
    assert!(state.entries().keys().all(|id| *id >= 55));
    assert_eq!(
        state.expire(1000 + 60 + 10, 10),
        6,
        "ids 55 to 60 were used 10 ms ago or earlier"
    );
    assert_eq!(state.entries().len(), 39);
    assert_eq!(state.expire(1000 + 60 + 19, 10), 9);
    assert_eq!(
        state.expire(1000 + 99, 29),
        2,
        "ids 70 and 99: the latter's time counts from the first look, at 1070"
    );
    assert!(!state.entries().contains_key(&99));
}

#[test]
fn below_an_offset_only_what_ends_there_is_known() {
    // Offsets 0-9, 10-19, 20-29, 30-39.
    let state = applied(&[(3, 0, 10), (3, 10, 10), (3, 20, 10), (3, 30, 10)]);
    let last = |offset| {
        let below = state.below(offset);
        below
            .entries()
            .get(&7)
            .map(|entry| (entry.batches.len(), entry.last_sequence()))
    };
    assert_eq!(last(40), Some((4, 39)));
    assert_eq!(last(20), Some((2, 19)));
    assert_eq!(last(15), Some((1, 9)), "the batch that holds the offset is kept");
    assert_eq!(last(5), None, "nothing came before the first");
}

/// Where sequences stood before the first kept batch: what comes next is known, and what came before, but no batch that a
/// retry could be taken for, by either rule.
#[test]
fn where_sequences_stood_is_no_batch() {
    let mut state = ProducerState::default();
    state.stood_before(&header(3, 20, 10, 45), 15);
    let state = snapshot::decode(&snapshot::encode(&state)).unwrap();
    let check = |sequence, count, rule| state.check(&header(3, sequence, count, 99), rule);
    for rule in [SequenceRule::Contiguous, SequenceRule::Increasing] {
        assert_eq!(check(20, 10, rule), Ok(SequenceCheck::Fresh), "{rule:?}");
        assert_eq!(check(20, 1, rule), Ok(SequenceCheck::Fresh), "{rule:?}");
        for sequence in [10, 19] {
            let checked = check(sequence, 1, rule);
            assert!(
                matches!(checked, Err(SequenceError::Duplicate { .. })),
                "{rule:?} {checked:?}"
            );
        }
    }
    let ahead = check(30, 1, SequenceRule::Contiguous);
    assert!(
        matches!(ahead, Err(SequenceError::OutOfOrder { expected: 20, .. })),
        "{ahead:?}"
    );

    let mut next = state.clone();
    next.apply(&header(3, 20, 10, 45), None);
    let known: Vec<_> = next.entries()[&7]
        .batches
        .iter()
        .map(|batch| batch.base_offset)
        .collect();
    assert_eq!(known, [45], "the batch takes its place");
}

#[test]
fn nothing_stood_before_a_first_sequence_or_a_whole_log() {
    let mut state = ProducerState::default();
    state.stood_before(&header(3, 0, 10, 45), 15);
    state.stood_before(&header(3, 20, 10, 45), 0);
    assert_eq!(state, ProducerState::default());
}

#[test]
fn whose_remembered_batches_are_all_late_is_told() {
    let state = applied(&[(3, 0, 10), (3, 10, 10), (3, 20, 10)]);
    assert_eq!(state.remembered_from(0), BTreeSet::from([7]));
    assert_eq!(state.remembered_from(1), BTreeSet::new());
    assert_eq!(ProducerState::default().remembered_from(0), BTreeSet::new());
    let mut position = ProducerState::default();
    position.stood_before(&header(3, 20, 10, 45), 15);
    assert_eq!(
        position.remembered_from(0),
        BTreeSet::new(),
        "there is no batch to look for"
    );
    assert_eq!(position.below(15), position);
}
