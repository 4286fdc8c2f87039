//! Another broker takes over, with whatever the log holds.

use super::{super::*, support::*};

#[test]
fn nothing_is_served_before_all_is_read() {
    let mut bench = Bench::new(&[4]);
    bench.commit(None, at(1, 0), 5).unwrap();
    let log = bench.log.clone();
    bench.coordinator = Coordinator::new(bench.config.clone());
    let loading = Err(GroupRejection::Loading);
    let fetch = Request::FetchOffsets(FetchOffsets {
        group: "g".into(),
        member: None,
        partitions: Some(vec![at(1, 0)]),
    });
    let ask = |bench: &mut Bench| {
        let effects = bench.step_uncommitted(Event::Requested {
            id: 9,
            request: Box::new(fetch.clone()),
        });
        answer_to(&effects, 9).unwrap()
    };
    assert_eq!(ask(&mut bench), loading);
    for record in &log {
        let value = record.value.as_deref();
        bench.step_uncommitted(Event::Replayed {
            key: &record.key,
            value,
        });
    }
    assert_eq!(ask(&mut bench), loading);
    // A log that can't be read to its end is not an empty one.
    let mut failed = bench.clone();
    failed.step_uncommitted(Event::LoadFailed { reason: "time-out" });
    let stopped = GroupRejection::CoordinatorFailed {
        reason: "time-out".into(),
    };
    assert_eq!(ask(&mut failed), Err(stopped.clone()));
    failed.step_uncommitted(Event::Loaded);
    assert_eq!(ask(&mut failed), Err(stopped));
    bench.step_uncommitted(Event::Loaded);
    assert!(
        matches!(ask(&mut bench), Ok(Answer::Fetched(found)) if matches!(found[0].1, Position::Committed { offset: 5, .. }))
    );
}

#[test]
fn a_record_that_cannot_be_read_stops_its_group_and_is_not_written_over() {
    let mut bench = Bench::new(&[4]);
    bench.commit(None, at(1, 0), 5).unwrap();
    let mut other = join("a");
    other.group = "h".into();
    bench.beat(other.clone()).unwrap();
    // A later version's record of group "g".
    bench.log.push(StoredRecord {
        key: vec![1, 99, 0, 0, 0, 1, b'g'],
        value: Some(vec![1, 2, 3]),
    });
    bench.fail_over();
    let reason = "a later version has written its record type 99: upgrade this broker".to_owned();
    let stopped = Effect::GroupStopped {
        group: "g".into(),
        reason: reason.clone(),
    };
    assert!(bench.take_effects().contains(&stopped));
    let unreadable = GroupRejection::GroupUnreadable {
        group: "g".into(),
        reason,
    };
    let written = bench.log.len();
    assert_eq!(bench.beat(join("a")), Err(unreadable.clone()));
    assert_eq!(bench.ask(Request::DeleteGroup("g".into())), Err(unreadable.clone()));
    assert_eq!(bench.ask(Request::Describe("g".into())), Err(unreadable));
    bench.pass(bench.config.offset_retention * 2);
    assert!(
        !bench.log[written..].iter().any(|record| record.key[6] == b'g'),
        "its offset is kept"
    );
    // The others go on; the list has both.
    bench.beat(other).unwrap();
    let listed = bench.ask(Request::List {
        after: String::new(),
        limit: 10,
    });
    let Ok(Answer::Groups { groups, .. }) = listed else {
        panic!("{listed:?}")
    };
    let listed: Vec<(&str, Option<GroupState>)> = groups.iter().map(|of| (&*of.group, of.state)).collect();
    assert_eq!(listed, [("g", None), ("h", Some(GroupState::Stable))]);

    // A key of a later version may be about any group.
    bench.log.push(StoredRecord {
        key: vec![2, 0],
        value: None,
    });
    bench.take_effects();
    bench.fail_over();
    assert!(matches!(bench.take_effects()[..], [Effect::CoordinatorStopped { .. }]));
    assert!(matches!(
        bench.beat(join("a")),
        Err(GroupRejection::CoordinatorFailed { .. })
    ));
}

/// Records that contradict each other: two owners.
#[test]
fn a_group_that_cannot_be_is_stopped() {
    let mut bench = Bench::new(&[4]);
    bench.checked = false;
    bench.join("a");
    for record in bench.log.clone() {
        let Ok(mut record) = Record::decode(&record.key, record.value.as_deref()) else {
            continue;
        };
        match &mut record.fact {
            Fact::Member(id, _) | Fact::Current(id, _) => *id = "b".into(),
            _ => continue,
        }
        bench.log.push(record.encode());
    }
    bench.fail_over();
    assert!(
        matches!(&bench.take_effects()[..], [.., Effect::GroupStopped { reason, .. }] if reason.contains("both own"))
    );
}

#[test]
fn who_takes_over_gives_everybody_the_whole_time_and_moves_nothing() {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    bench.pass(bench.config.assignment_interval);
    let mut b = bench.join("b");
    bench.renew("a", &mut a);
    let before = bench.coordinator.groups().clone();
    let written = bench.log.len();
    bench.pass(SESSION / 2);
    bench.fail_over();
    assert_eq!(*bench.coordinator.groups(), before);
    assert_eq!(bench.log.len(), written);
    assert_eq!(bench.coordinator.next_deadline(), Some(bench.now.monotonic + SESSION));
    // What was being given back still is.
    let answer = bench.beat(b.beat("b")).unwrap();
    b.take(answer);
    assert_eq!(b.assignment.assigned, []);
    bench.renew("a", &mut a);
    bench.renew("b", &mut b);
    assert_eq!(bench.state(), GroupState::Stable);
    // Topics that changed while nobody was there.
    bench.topics = topics(&[6]);
    bench.fail_over();
    bench.renew("a", &mut a);
    bench.renew("b", &mut b);
    assert_eq!(a.assignment.assigned.len() + b.assignment.assigned.len(), 6);
}

/// Its records say that it joined, and not what it got: it joins again, and there are no topics yet.
#[test]
fn who_has_no_epoch_yet_is_told_none_before_topics_are_known() {
    let mut bench = Bench::new(&[4]);
    bench.join("a");
    bench.log.truncate(3);
    bench.coordinator = Coordinator::new(bench.config.clone());
    bench.last_sequence = 0;
    for record in bench.log.clone() {
        let value = record.value.as_deref();
        bench.step(Event::Replayed {
            key: &record.key,
            value,
        });
    }
    bench.step(Event::Loaded);
    assert_eq!(bench.coordinator.groups().get("g").unwrap().members.len(), 1);
    assert_eq!(bench.beat(join("a")), Err(GroupRejection::Loading));
    bench.set_topics(topics(&[4]), &[]);
    let a = bench.join("a");
    assert_eq!((a.epoch, a.assignment.assigned.len()), (1, 4));
}

/// What is said of its loading when that is over is of no meaning.
#[test]
fn a_coordinator_that_serves_does_not_fail_to_load() {
    let mut bench = Bench::new(&[4]);
    bench.join("a");
    assert_eq!(bench.step(Event::LoadFailed { reason: "late" }), []);
    assert_eq!(bench.state(), GroupState::Stable);
    bench.step(Event::Resigned);
    bench.step(Event::LoadFailed { reason: "late" });
    assert_eq!(
        bench.ask(Request::Describe("g".into())),
        Err(GroupRejection::NotCoordinator { outcome_unknown: false })
    );
}

#[test]
fn tombstones_of_what_is_not_there_do_nothing() {
    let mut groups = Groups::default();
    let facts = [
        Fact::Group(None),
        Fact::Member("a".into(), None),
        Fact::Target("a".into(), None),
        Fact::Current("a".into(), None),
        Fact::Offset(at(1, 0), None),
        Fact::Topic(topic(1), None),
        Fact::Pattern("p".into(), None),
    ];
    for fact in facts {
        let record = Record {
            group: "g".into(),
            fact,
        };
        assert_eq!(groups.apply(record.clone()), record);
    }
    assert_eq!(groups, Groups::default());
}
