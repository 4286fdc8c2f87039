//! What is not committed is told to nobody, and what was not written never was.

use std::time::Duration;

use super::{super::*, support::*};

/// Steps whose appends are not committed by themselves.
fn ask(bench: &mut Bench, id: u64, request: Request) -> Vec<Effect> {
    let request = Box::new(request);
    bench.step_uncommitted(Event::Requested { id, request })
}

fn commit_of(offset: i64) -> Request {
    Request::Commit(Commit {
        group: "g".into(),
        member: None,
        rewind: false,
        offsets: vec![offset_of(at(1, 0), offset)],
    })
}

fn answers(effects: &[Effect]) -> Vec<u64> {
    let id = |effect: &Effect| match effect {
        Effect::Answer { id, .. } => Some(*id),
        _ => None,
    };
    effects.iter().filter_map(id).collect()
}

#[test]
fn an_answer_waits_for_all_that_it_may_tell_of() {
    let mut bench = Bench::new(&[4]);
    assert_eq!(answers(&ask(&mut bench, 1, commit_of(5))), [0u64; 0]);
    assert_eq!(answers(&ask(&mut bench, 2, commit_of(6))), [0u64; 0]);
    // A question sees what is not committed yet; so it waits.
    let fetch = Request::FetchOffsets(FetchOffsets {
        group: "g".into(),
        member: None,
        partitions: None,
    });
    assert_eq!(answers(&ask(&mut bench, 3, fetch.clone())), [0u64; 0]);
    assert_eq!(answers(&bench.step_uncommitted(Event::Committed { sequence: 1 })), [1]);
    assert_eq!(
        answers(&bench.step_uncommitted(Event::Committed { sequence: 1 })),
        [0u64; 0]
    );
    assert_eq!(
        answers(&bench.step_uncommitted(Event::Committed { sequence: 2 })),
        [2, 3]
    );
    assert_eq!(answers(&ask(&mut bench, 4, fetch)), [4]);
}

#[test]
fn what_was_refused_never_was_and_what_came_after_neither() {
    let mut bench = Bench::new(&[4]);
    ask(&mut bench, 1, commit_of(5));
    bench.step_uncommitted(Event::Committed { sequence: 1 });
    let before = bench.coordinator.groups().clone();
    ask(&mut bench, 2, commit_of(6));
    let middle = bench.coordinator.groups().clone();
    ask(&mut bench, 3, Request::Heartbeat(join("a")));
    ask(&mut bench, 4, Request::Describe("g".into()));
    let effects = bench.step_uncommitted(Event::Refused { sequence: 3 });
    let refused = |id| Effect::Answer {
        id,
        answer: Box::new(Err(GroupRejection::NotStored)),
    };
    assert_eq!(effects, [refused(3), refused(4)]);
    assert_eq!(*bench.coordinator.groups(), middle);
    assert_eq!(bench.step_uncommitted(Event::Refused { sequence: 2 }), [refused(2)]);
    assert_eq!(*bench.coordinator.groups(), before);
    // What is committed stays, whatever is said.
    assert_eq!(bench.step_uncommitted(Event::Refused { sequence: 1 }), []);
    assert_eq!(*bench.coordinator.groups(), before);
    // And it goes on; nobody waits for what was refused.
    assert_eq!(answers(&ask(&mut bench, 5, Request::Describe("g".into()))), [5]);
    assert_eq!(answers(&ask(&mut bench, 6, commit_of(7))), [0u64; 0]);
    assert_eq!(answers(&bench.step_uncommitted(Event::Committed { sequence: 4 })), [6]);
    assert_eq!(bench.committed(at(1, 0)), Some(7));
}

/// A removal that was taken back: the member is there again, and is watched again.
#[test]
fn timers_come_back_with_what_was_taken_back() {
    let mut bench = Bench::new(&[4]);
    bench.join("a");
    bench.to(bench.now.monotonic + SESSION);
    bench.step_uncommitted(Event::Tick);
    assert!(bench.coordinator.groups().is_empty());
    let sequence = bench.last_sequence;
    bench.step_uncommitted(Event::Refused { sequence });
    assert_eq!(bench.coordinator.groups().len(), 1);
    bench.pass(SESSION - Duration::from_millis(1));
    assert_eq!(bench.coordinator.groups().len(), 1);
    bench.pass(Duration::from_millis(1));
    assert!(bench.coordinator.groups().is_empty());
}

/// Of a group that was never stored nothing is kept: neither a timer nor that it was assigned just
/// now, for which its next first member would wait.
#[test]
fn a_refused_group_leaves_nothing() {
    let mut bench = Bench::new(&[4]);
    ask(&mut bench, 1, Request::Heartbeat(join("a")));
    let sequence = bench.last_sequence;
    bench.step_uncommitted(Event::Refused { sequence });
    assert!(bench.coordinator.groups().is_empty());
    assert!(bench.coordinator.hints.is_empty(), "{:?}", bench.coordinator.hints);
    assert_eq!(bench.coordinator.timers(), 1, "that of the retention is left");
    let a = bench.join("a");
    assert_eq!((a.epoch, a.assignment.assigned), (1, places(0..4)));
}

/// That topics have changed is told once; what followed from it was refused.
#[test]
fn what_called_for_a_refused_append_is_not_forgotten() {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    bench.pass(bench.config.assignment_interval);
    bench.topics = topics(&[6]);
    let topics = bench.topics.clone();
    bench.step_uncommitted(Event::TopicsChanged { topics, deleted: &[] });
    let sequence = bench.last_sequence;
    bench.step_uncommitted(Event::Refused { sequence });
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned.len(), 4);
    bench.pass(bench.config.assignment_interval);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned.len(), 6);
}

#[test]
fn who_resigns_says_that_it_does_not_know() {
    let mut bench = Bench::new(&[4]);
    ask(&mut bench, 1, commit_of(5));
    let unknown = Effect::Answer {
        id: 1,
        answer: Box::new(Err(GroupRejection::NotCoordinator { outcome_unknown: true })),
    };
    assert_eq!(bench.step_uncommitted(Event::Resigned), [unknown]);
    assert_eq!(bench.step_uncommitted(Event::Committed { sequence: 1 }), []);
    let refused = Err(GroupRejection::NotCoordinator { outcome_unknown: false });
    let effects = ask(&mut bench, 2, commit_of(6));
    assert_eq!(answer_to(&effects, 2), Some(refused));
    assert_eq!(bench.coordinator.next_deadline(), None);
}

#[test]
fn a_log_that_does_not_advance_fills_no_memory() {
    let mut bench = Bench::new(&[4]);
    ask(&mut bench, 0, commit_of(5));
    for id in 1..MAX_WAITING_ANSWERS as u64 {
        assert_eq!(ask(&mut bench, id, Request::Describe("g".into())), []);
    }
    let effects = ask(&mut bench, 0, Request::Describe("g".into()));
    assert_eq!(answer_to(&effects, 0), Some(Err(GroupRejection::Overloaded)));
}

/// An assignment that is larger than a batch is cut, and each part leaves a valid state.
#[test]
fn a_large_step_is_cut_into_batches_that_each_leave_a_valid_state() {
    let mut bench = Bench::new(&[10_000; 10]);
    let names: Vec<String> = (1..=10).map(|topic| format!("t{topic}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut beat = join("a");
    beat.details = Some(details(&names));
    let effects = bench.step(Event::Requested {
        id: 1,
        request: Box::new(Request::Heartbeat(beat)),
    });
    let appends: Vec<&Vec<StoredRecord>> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Append { records, .. } => Some(records),
            _ => None,
        })
        .collect();
    assert!(appends.len() > 1, "{}", appends.len());
    for cut in 0..=appends.len() {
        let log: Vec<StoredRecord> = appends[..cut]
            .iter()
            .flat_map(|records| records.iter().cloned())
            .collect();
        for (_, group) in replayed(&log).iter() {
            assert_eq!(group.validate(), Ok(()));
        }
    }
}
