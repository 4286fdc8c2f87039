use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

#[test]
fn the_first_member_has_all_with_its_first_answer() {
    let mut bench = Bench::new(&[3]);
    let effects = bench.step(Event::Requested {
        id: 7,
        request: Box::new(Request::Heartbeat(join("a"))),
    });
    let record = |fact| {
        Record {
            group: "g".into(),
            fact,
        }
        .encode()
    };
    let epochs = |target_epoch| GroupRecord {
        epoch: 1,
        target_epoch,
        ..GroupRecord::default()
    };
    let described = MemberRecord {
        instance_id: None,
        details: details(&["t1"]),
    };
    let begun = TopicRecord {
        known_partitions: 3,
        start: Start::Beginning,
        unsubscribed_since_ms: None,
    };
    let has = CurrentRecord {
        epoch: 1,
        previous_epoch: 1,
        version: 1,
        assigned: places(0..3).into_iter().map(|at| (at, 1)).collect(),
        ..CurrentRecord::default()
    };
    let append = Effect::Append {
        sequence: 1,
        records: vec![
            record(Fact::Group(Some(epochs(0)))),
            record(Fact::Topic(topic(1), Some(begun))),
            record(Fact::Member("a".into(), Some(described))),
            record(Fact::Target("a".into(), Some(places(0..3)))),
            record(Fact::Group(Some(epochs(1)))),
            record(Fact::Current("a".into(), Some(has))),
        ],
    };
    let wake = Effect::Wake {
        group: "g".into(),
        members: vec!["a".into()],
    };
    let answer = Effect::Answer {
        id: 7,
        answer: Box::new(Ok(Answer::Heartbeat(HeartbeatAnswer {
            epoch: 1,
            version: 1,
            heartbeat_interval: Duration::from_secs(1),
            assignment: Some(Assignment {
                assigned: places(0..3),
                ..Assignment::default()
            }),
        }))),
    };
    assert_eq!(effects, [append, wake, answer]);
}

/// Two members of four partitions: `a` has all and must give two back.
fn two_members() -> (Bench, Known, Known) {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    let b = bench.join("b");
    assert_eq!(b.assignment, Assignment::default());
    bench.renew("a", &mut a);
    assert_eq!(a.epoch, 1);
    assert_eq!(a.assignment.assigned, places(0..2));
    assert_eq!(a.assignment.revoking, places(2..4));
    assert_eq!(a.assignment.revoke_within, Some(REBALANCE));
    (bench, a, b)
}

#[test]
fn a_partition_is_given_on_only_when_it_was_given_back() {
    let (mut bench, mut a, mut b) = two_members();
    assert_eq!(bench.state(), GroupState::Reconciling);
    bench.renew("b", &mut b);
    assert_eq!((b.epoch, &b.assignment.assigned), (2, &vec![]));
    // "No list" and a list with some of it are no release of all.
    let mut beat = a.beat("a");
    beat.owned = None;
    assert_eq!(bench.beat(beat).unwrap().epoch, 1);
    let mut beat = a.beat("a");
    beat.owned = Some(places(0..3));
    bench.take_effects();
    let answer = bench.beat(beat).unwrap();
    a.take(answer);
    assert_eq!(a.assignment.revoking, places([2]));
    let wake = Effect::Wake {
        group: "g".into(),
        members: vec!["b".into()],
    };
    assert!(bench.take_effects().contains(&wake));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places([3]));

    bench.renew("a", &mut a);
    assert_eq!((a.epoch, &a.assignment.assigned), (2, &places(0..2)));
    assert_eq!(a.assignment.revoke_within, None);
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places(2..4));
    assert_eq!(bench.state(), GroupState::Stable);
    // Who knows all is told nothing again, and nothing is written.
    let written = bench.log.len();
    assert_eq!(bench.beat(b.beat("b")).unwrap().assignment, None);
    assert_eq!(bench.log.len(), written);
}

#[test]
fn a_heartbeat_whose_answer_was_lost_is_not_fenced() {
    let (mut bench, a, mut b) = two_members();
    // Two epochs go by without any answer coming through.
    for _ in 0..2 {
        let answer = bench.beat(a.beat("a")).unwrap();
        assert_eq!(answer.epoch, 2);
    }
    bench.renew("b", &mut b);
    bench.pass(INTERVAL);
    let c = bench.join("c");
    assert_eq!((c.epoch, bench.beat(a.beat("a")).unwrap().epoch), (3, 3));
    bench.leave("c", false).unwrap();
    bench.pass(INTERVAL);
    let answer = bench.beat(a.beat("a")).unwrap();
    assert_eq!(answer.epoch, 4);
    let mut known = a;
    known.take(answer);
    bench.renew("a", &mut known);
    assert_eq!((known.epoch, &known.assignment.assigned), (4, &places(0..2)));
}

#[test]
fn other_epochs_are_fenced_and_change_nothing() {
    let (mut bench, a, _) = two_members();
    let written = bench.log.len();
    let mut beat = a.beat("a");
    beat.epoch = 2;
    let fenced = GroupRejection::FencedMemberEpoch {
        member: "a".into(),
        given: 2,
        current: 1,
    };
    assert_eq!(bench.beat(beat), Err(fenced));
    let mut beat = a.beat("nobody");
    beat.epoch = 1;
    let unknown = GroupRejection::UnknownMember {
        member: "nobody".into(),
    };
    assert_eq!(bench.beat(beat), Err(unknown));
    assert_eq!(bench.log.len(), written);

    // An epoch that is long past, of a member that has shown later ones.
    let mut a = a;
    bench.renew("a", &mut a);
    bench.renew("a", &mut a);
    bench.leave("b", false).unwrap();
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    assert_eq!(a.epoch, 3);
    let mut beat = a.beat("a");
    beat.epoch = 1;
    let fenced = GroupRejection::FencedMemberEpoch {
        member: "a".into(),
        given: 1,
        current: 3,
    };
    assert_eq!(bench.beat(beat), Err(fenced));
}

/// A copy of a report from before a member got a partition is no report that it gave it back.
#[test]
fn a_late_copy_of_an_old_report_gives_nothing_back() {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    // "I own nothing", before it took what it was given.
    let mut early = a.beat("a");
    early.owned = Some(Vec::new());
    bench.beat(early.clone()).unwrap();
    bench.pass(INTERVAL);
    let mut b = bench.join("b");
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.revoking, places(2..4));
    let answer = bench.beat(early).unwrap();
    assert_eq!(answer.epoch, 1);
    assert!(answer.assignment.is_some_and(|told| told.revoking == places(2..4)));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, []);
}

#[test]
fn who_comes_back_after_two_rebalances_is_told_right() {
    let (mut bench, mut a, mut b) = two_members();
    let old = a.clone();
    bench.renew("a", &mut a);
    bench.renew("b", &mut b);
    // Its session ends, and others get all.
    bench.pass(SESSION - Duration::from_secs(1));
    bench.renew("b", &mut b);
    bench.pass(Duration::from_secs(1));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places(0..4));
    let beat = old.beat("a");
    assert_eq!(
        bench.beat(beat),
        Err(GroupRejection::UnknownMember { member: "a".into() })
    );
    assert!(
        bench
            .commit(Some(("a", old.epoch)), at(1, 0), 5)
            .unwrap_err()
            .contains("UnknownMember")
    );

    // One that says it owns what it was never given is told what is its own.
    let mut beat = b.beat("b");
    beat.owned = Some(vec![at(9, 9)]);
    let answer = bench.beat(beat).unwrap();
    assert_eq!(answer.assignment.unwrap().assigned, places(0..4));
}

#[test]
fn a_join_that_is_repeated_changes_nothing() {
    let (mut bench, mut a, _) = two_members();
    let written = bench.log.len();
    let answer = bench.beat(join("a")).unwrap();
    assert_eq!((answer.epoch, answer.version), (a.epoch, a.version));
    assert_eq!(answer.assignment.unwrap().revoking, places(2..4));
    assert_eq!(bench.log.len(), written);
    bench.renew("a", &mut a);
    assert_eq!(a.epoch, 2);
}

#[test]
fn a_member_that_keeps_what_it_must_give_back_is_fenced_and_its_session_is_waited_for() {
    let (mut bench, mut a, mut b) = two_members();
    // It lives, and works on: twenty seconds in all.
    for _ in 0..20 {
        bench.pass(Duration::from_secs(1));
        let mut beat = a.beat("a");
        beat.owned = None;
        match bench.beat(beat) {
            Ok(answer) => a.take(answer),
            Err(rejection) => {
                assert!(
                    matches!(rejection, GroupRejection::FencedMemberEpoch { .. }),
                    "{rejection:?}"
                );
                break;
            }
        }
        bench.renew("b", &mut b);
        assert_eq!(b.assignment.assigned, []);
    }
    let fenced = bench.coordinator.groups().get("g").unwrap().members.get("a").unwrap();
    assert_eq!(fenced.current.state, MemberState::Fenced);
    // It can't commit, come back under this id or prolong its session; what it has is not free yet.
    assert!(
        bench
            .commit(Some(("a", 1)), at(1, 0), 5)
            .unwrap_err()
            .contains("FencedMemberEpoch")
    );
    assert!(matches!(
        bench.beat(join("a")),
        Err(GroupRejection::FencedMemberEpoch { .. })
    ));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, []);
    bench.pass(SESSION - Duration::from_secs(2));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, []);
    bench.pass(Duration::from_secs(1));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places(0..4));
    assert_eq!(bench.state(), GroupState::Stable);
}

#[test]
fn a_silent_member_is_removed_after_its_session_and_no_sooner() {
    let (mut bench, mut a, mut b) = two_members();
    bench.renew("a", &mut a);
    bench.renew("b", &mut b);
    bench.pass(SESSION - Duration::from_millis(1));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places(2..4));
    bench.take_effects();
    bench.pass(Duration::from_millis(1));
    let wake = Effect::Wake {
        group: "g".into(),
        members: vec!["b".into()],
    };
    assert!(bench.take_effects().contains(&wake));
    bench.renew("b", &mut b);
    assert_eq!(b.assignment.assigned, places(0..4));
}

/// The coordinator itself stood still: heartbeats may lie in its queue.
#[test]
fn nobody_is_fenced_for_a_pause_of_the_coordinator() {
    let (mut bench, mut a, _) = two_members();
    bench.to(bench.now.monotonic + SESSION * 2);
    bench.step(Event::Tick);
    bench.renew("a", &mut a);
    assert_eq!(bench.coordinator.groups().get("g").unwrap().members.len(), 2);
    bench.pass(SESSION * 3);
    assert!(bench.coordinator.groups().is_empty());
}

#[test]
fn members_of_other_topics_and_patterns_get_theirs() {
    let mut bench = Bench::new(&[2, 2, 2]);
    let mut beat = join("a");
    beat.details = Some(MemberDetails {
        pattern: Some("t[23]".into()),
        ..details(&["t1"])
    });
    bench.take_effects();
    let mut a = Known::default();
    a.take(bench.beat(beat).unwrap());
    let ask = Effect::ResolvePattern {
        group: "g".into(),
        pattern: "t[23]".into(),
    };
    assert!(bench.take_effects().contains(&ask));
    assert_eq!(a.assignment.assigned, places(0..2));
    bench.pass(INTERVAL);
    let resolved = |topics: &[&str]| Event::PatternResolved {
        group: "g",
        pattern: "t[23]",
        topics: topics.iter().map(|&name| name.to_owned()).collect(),
    };
    bench.step(resolved(&["t3"]));
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, [at(1, 0), at(1, 1), at(3, 0), at(3, 1)]);
    // The same again, or of a pattern that nobody has, is nothing new.
    let written = bench.log.len();
    bench.step(resolved(&["t3"]));
    bench.step(Event::PatternResolved {
        group: "g",
        pattern: "x",
        topics: vec!["t1".into()],
    });
    assert_eq!(bench.log.len(), written);
    // A new topic: the pattern is asked for again.
    bench.take_effects();
    bench.set_topics(topics(&[2, 2, 2, 5]), &[]);
    assert!(bench.take_effects().contains(&ask));
    // And it is stored: who takes over moves nothing.
    bench.fail_over();
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, [at(1, 0), at(1, 1), at(3, 0), at(3, 1)]);
    // A member that does not name it any more.
    bench.pass(INTERVAL);
    let mut beat = a.beat("a");
    beat.details = Some(details(&["t2"]));
    a.take(bench.beat(beat).unwrap());
    assert_eq!(a.assignment.assigned, []);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, [at(2, 0), at(2, 1)]);
    assert!(bench.coordinator.groups().get("g").unwrap().patterns.is_empty());
}

#[test]
fn new_partitions_and_topics_that_go_change_the_assignment() {
    let mut bench = Bench::new(&[2]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    bench.set_topics(topics(&[3]), &[]);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, places(0..3));
    bench.pass(INTERVAL);
    bench.set_topics(topics(&[]), &[topic(1)]);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.revoking, places(0..3));
    bench.renew("a", &mut a);
    assert_eq!((a.assignment.assigned.len(), bench.state()), (0, GroupState::Stable));
}

#[test]
fn topics_that_nobody_has_told_of_are_not_topics_that_are_gone() {
    let mut bench = Bench::new(&[4]);
    let mut a = bench.join("a");
    let records = bench.log.clone();
    bench.coordinator = Coordinator::new(bench.config.clone());
    bench.last_sequence = 0;
    for record in &records {
        let value = record.value.as_deref();
        bench.step(Event::Replayed {
            key: &record.key,
            value,
        });
    }
    bench.step(Event::Loaded);
    // Who has an epoch goes on with what it has; who has none is not told 0 but to try again.
    let written = bench.log.len();
    assert_eq!(bench.beat(join("b")), Err(GroupRejection::Loading));
    bench.renew("a", &mut a);
    assert_eq!((a.epoch, a.assignment.assigned.len()), (1, 4));
    assert_eq!(bench.log.len(), written);
    bench.set_topics(topics(&[4]), &[]);
    assert_eq!(bench.join("b").epoch, 2);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.revoking.len(), 2);
}

#[test]
fn the_assignor_that_most_ask_for_is_taken() {
    let mut bench = Bench::new(&[4, 4]);
    for (member, assignor) in [
        ("a", Some(Assignor::Range)),
        ("b", None),
        ("c", Some(Assignor::Uniform)),
    ] {
        let mut beat = join(member);
        beat.details = Some(MemberDetails {
            assignor,
            ..details(&["t1", "t2"])
        });
        bench.beat(beat).unwrap();
        bench.pass(INTERVAL);
    }
    let assignor = |bench: &Bench| {
        bench
            .coordinator
            .groups()
            .get("g")
            .unwrap()
            .record
            .as_ref()
            .unwrap()
            .assignor
    };
    assert_eq!(assignor(&bench), Assignor::Uniform);
    bench.leave("c", false).unwrap();
    bench.pass(INTERVAL);
    assert_eq!(assignor(&bench), Assignor::Range);
}

#[test]
fn bad_requests_have_typed_errors_and_leave_nothing() {
    let mut bench = Bench::with(
        GroupConfig {
            max_members: 1,
            max_groups: 1,
            ..GroupConfig::default()
        },
        &[1],
    );
    type Wrong = Box<dyn Fn(&mut Heartbeat)>;
    let of = |change: fn(&mut MemberDetails)| -> Wrong { Box::new(move |beat| change(beat.details.as_mut().unwrap())) };
    let wrong: Vec<(&str, Wrong)> = vec![
        ("member_id", Box::new(|beat| beat.member = "".into())),
        ("member_id", Box::new(|beat| beat.member = "x".repeat(256).into())),
        ("instance_id", Box::new(|beat| beat.instance = Some(String::new()))),
        ("member_epoch", Box::new(|beat| beat.epoch = -1)),
        ("details", Box::new(|beat| beat.details = None)),
        ("topics", of(|details| details.topics.clear())),
        ("topics", of(|details| details.topics = vec!["a/b".into()])),
        ("topics", of(|details| details.topics = vec!["a".into(); 1_001])),
        ("topic_pattern", of(|details| details.pattern = Some(String::new()))),
        (
            "rebalance_timeout",
            of(|details| details.rebalance_timeout = Duration::MAX),
        ),
        (
            "reconnect_timeout",
            of(|details| details.reconnect_timeout = SESSION + Duration::from_millis(1)),
        ),
        // As of a message whose field was left unset.
        (
            "rebalance_timeout",
            of(|details| details.rebalance_timeout = Duration::ZERO),
        ),
        (
            "owned",
            Box::new(|beat| beat.owned = Some(places(0..MAX_OWNED_PARTITIONS as u32 + 1))),
        ),
        ("rack", of(|details| details.rack = Some("x".repeat(256)))),
    ];
    for (expected, change) in wrong {
        let mut beat = join("a");
        change(&mut beat);
        let refused = bench.beat(beat);
        assert!(
            matches!(&refused, Err(GroupRejection::InvalidRequest { field, .. }) if *field == expected),
            "{expected}: {refused:?}"
        );
    }
    let mut beat = join("a");
    beat.details.as_mut().unwrap().session_timeout = Duration::from_millis(1);
    assert!(matches!(
        bench.beat(beat),
        Err(GroupRejection::InvalidSessionTimeout { min_ms: 1_000, .. })
    ));
    for group in ["", "a\nb", &"x".repeat(256)] {
        let mut beat = join("a");
        beat.group = group.into();
        assert!(matches!(bench.beat(beat), Err(GroupRejection::InvalidGroupId { .. })));
    }
    assert_eq!(
        bench.leave("a", false),
        Err(GroupRejection::UnknownMember { member: "a".into() })
    );
    assert_eq!(
        bench.ask(Request::Describe("g".into())),
        Err(GroupRejection::GroupNotFound { group: "g".into() })
    );
    assert!(bench.coordinator.groups().is_empty() && bench.log.is_empty());

    let a = bench.join("a");
    let full = GroupRejection::GroupMaxSizeReached {
        group: "g".into(),
        max: 1,
    };
    assert_eq!(bench.beat(join("b")), Err(full));
    let mut beat = join("a");
    beat.group = "h".into();
    assert_eq!(bench.beat(beat), Err(GroupRejection::TooManyGroups { max: 1 }));
    assert!(matches!(
        bench.leave("a", true),
        Err(GroupRejection::InvalidRequest { field: "temporary", .. })
    ));
    let mut beat = a.beat("a");
    beat.instance = Some("i".into());
    assert!(matches!(
        bench.beat(beat),
        Err(GroupRejection::InvalidRequest {
            field: "instance_id",
            ..
        })
    ));
    let busy = GroupRejection::GroupNotEmpty {
        group: "g".into(),
        members: 1,
    };
    assert_eq!(bench.ask(Request::DeleteGroup("g".into())), Err(busy));
}
