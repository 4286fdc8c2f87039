//! Copies of requests that come when their sender has gone on.

use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

fn subscription(bench: &Bench, member: &str) -> Vec<String> {
    let group = bench.coordinator.groups().get("g").unwrap();
    let record = group.members.get(member).unwrap().record.as_ref().unwrap();
    record.details.topics.clone()
}

fn naming(mut beat: Heartbeat, topics: &[&str]) -> Heartbeat {
    beat.details = Some(details(topics));
    beat
}

#[test]
fn a_late_copy_of_old_details_sets_nothing_back() {
    let mut bench = Bench::new(&[2, 2]);
    let mut a = bench.join("a");
    let early = naming(a.beat("a"), &["t1"]);
    bench.pass(INTERVAL);
    let first = naming(a.beat("a"), &["t1", "t2"]);
    let answer = bench.beat(first.clone()).unwrap();
    assert!(answer.version > a.version, "news make another version");
    a.take(answer);
    assert_eq!(a.assignment.assigned.len(), 4);
    // Twice within an interval, so that no epoch tells which is the older one.
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    bench.beat(naming(a.beat("a"), &["t1", "t2", "t8"])).unwrap();
    let epoch = a.epoch;
    bench.renew("a", &mut a);
    let second = naming(a.beat("a"), &["t1", "t2", "t7"]);
    let answer = bench.beat(second.clone()).unwrap();
    assert!(answer.version > a.version, "also if the assignment is as it was");
    a.take(answer);
    let third = naming(a.beat("a"), &["t1", "t2", "t9"]);
    a.take(bench.beat(third).unwrap());
    assert_eq!((second.epoch, a.epoch), (epoch + 1, epoch + 1));
    let written = bench.log.len();
    for late in [second, join("a")] {
        let answer = bench.beat(late).unwrap();
        assert_eq!(answer.version, a.version);
        assert_eq!(subscription(&bench, "a"), ["t1", "t2", "t9"]);
    }
    for late in [early, first] {
        assert!(matches!(
            bench.beat(late),
            Err(GroupRejection::FencedMemberEpoch { .. })
        ));
        assert_eq!(subscription(&bench, "a"), ["t1", "t2", "t9"]);
    }
    assert_eq!(bench.log.len(), written);
    // Repeated until the answer's version is the heartbeat's.
    let again = naming(a.beat("a"), &["t1", "t2", "t9"]);
    assert_eq!(bench.beat(again).unwrap().version, a.version);
    assert_eq!(bench.log.len(), written);
}

/// The answer that tells a new version is lost: details that come at the former one are told to be
/// repeated, by the version of their answer.
#[test]
fn details_at_a_former_version_are_taken_when_they_are_repeated() {
    let mut bench = Bench::new(&[2, 2]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    bench.join("b");
    // Its answer is lost: `a` is to give one back.
    bench.beat(a.beat("a")).unwrap();
    let sent = a.version;
    let answer = bench.beat(naming(a.beat("a"), &["t2"])).unwrap();
    a.take(answer);
    assert_ne!(a.version, sent);
    assert_eq!(subscription(&bench, "a"), ["t1"]);
    bench.renew("a", &mut a);
    bench.pass(INTERVAL);
    bench.beat(naming(a.beat("a"), &["t2"])).unwrap();
    assert_eq!(subscription(&bench, "a"), ["t2"]);
}

#[test]
fn a_late_join_of_one_that_has_left_joins_nobody() {
    let mut bench = Bench::new(&[2]);
    bench.join("a");
    bench.join("b");
    bench.leave("a", false).unwrap();
    let written = bench.log.len();
    let unknown = |member: &str| GroupRejection::UnknownMember { member: member.into() };
    assert_eq!(bench.beat(join("a")), Err(unknown("a")));
    assert_eq!(bench.log.len(), written);
    // Of another group it is another member; and who is gone by its session is gone, too.
    let mut other = join("a");
    other.group = "h".into();
    bench.beat(other).unwrap();
    bench.pass(SESSION);
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(bench.beat(join("b")), Err(unknown("b")));
    bench.pass(bench.config.max_session_timeout - SESSION);
    assert_eq!(bench.join("a").assignment.assigned.len(), 2);
}

/// The process that a restarted one took over from.
#[test]
fn a_late_join_of_a_former_process_does_not_take_the_instance_back() {
    let mut bench = Bench::new(&[2]);
    let static_join = |member: &str| Heartbeat {
        instance: Some("i".into()),
        ..join(member)
    };
    bench.beat(static_join("a1")).unwrap();
    bench.leave("a1", true).unwrap();
    bench.beat(static_join("a2")).unwrap();
    let fenced = GroupRejection::FencedInstanceId { instance: "i".into() };
    assert_eq!(bench.beat(static_join("a1")), Err(fenced.clone()));
    bench.leave("a2", true).unwrap();
    assert_eq!(bench.beat(static_join("a1")), Err(fenced));
    bench.beat(static_join("a3")).unwrap();
}

#[test]
fn an_end_that_was_not_written_is_none() {
    let mut bench = Bench::new(&[2]);
    let mut a = bench.join("a");
    bench.step_uncommitted(Event::Requested {
        id: 99,
        request: Box::new(Request::Leave(Leave {
            group: "g".into(),
            member: "a".into(),
            temporary: false,
        })),
    });
    let sequence = bench.last_sequence;
    bench.step(Event::Refused { sequence });
    assert_eq!(bench.beat(join("a")).unwrap().epoch, a.epoch);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned.len(), 2);
    // A join that was not written is no end, nor is a leave with it: it is sent again.
    bench.step_uncommitted(Event::Requested {
        id: 100,
        request: Box::new(Request::Heartbeat(join("b"))),
    });
    let sequence = bench.last_sequence;
    bench.step_uncommitted(Event::Requested {
        id: 101,
        request: Box::new(Request::Leave(Leave {
            group: "g".into(),
            member: "b".into(),
            temporary: false,
        })),
    });
    assert_eq!(bench.last_sequence, sequence + 1);
    bench.step(Event::Refused { sequence });
    bench.pass(INTERVAL);
    bench.join("b");
}

#[test]
fn those_who_have_ended_are_remembered_up_to_a_bound() {
    let mut bench = Bench::new(&[1]);
    bench.checked = false;
    for number in 0..=MAX_ENDED_MEMBERS {
        let member = format!("m{number}");
        bench.join(&member);
        bench.leave(&member, false).unwrap();
        bench.effects.clear();
        bench.log.clear();
    }
    assert_eq!(bench.coordinator.ended_members(), MAX_ENDED_MEMBERS);
    // The oldest was forgotten.
    assert!(bench.beat(join("m1")).is_err());
    assert!(bench.beat(join("m0")).is_ok());
    // All are, after their time, with the next one.
    bench.pass(bench.config.max_session_timeout + SESSION);
    bench.join("x");
    bench.leave("x", false).unwrap();
    assert_eq!(bench.coordinator.ended_members(), 1);
}
