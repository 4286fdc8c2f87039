use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `a` has partitions 0 and 1 since epoch 1, `b` 2 and 3 since epoch 2; both are at epoch 2.
fn two_members() -> (Bench, Known, Known) {
    let mut bench = Bench::new(&[4, 1]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    let mut b = bench.join("b");
    for _ in 0..2 {
        bench.renew("a", &mut a);
        bench.renew("b", &mut b);
    }
    assert_eq!((a.epoch, b.epoch), (2, 2));
    assert_eq!(
        (&a.assignment.assigned, &b.assignment.assigned),
        (&places(0..2), &places(2..4))
    );
    (bench, a, b)
}

#[test]
fn an_offset_is_stored_with_all_that_came_with_it() {
    let (mut bench, a, _) = two_members();
    assert_eq!(bench.position(at(1, 0)), Position::Beginning);
    assert_eq!(bench.position(at(2, 0)), Position::None);
    assert_eq!(bench.commit(Some(("a", a.epoch)), at(1, 0), 10), Ok(()));
    let committed = Position::Committed {
        offset: 10,
        leader_epoch: Some(3),
        metadata: "note".into(),
        committed_at_ms: bench.now.unix_ms,
    };
    assert_eq!(bench.position(at(1, 0)), committed);
}

/// The commit of an epoch before an assignment that did not concern the partition is honest; one
/// of an earlier ownership is not (KAFKA-19779).
#[test]
fn a_commit_is_judged_by_the_epoch_in_which_its_partition_was_assigned() {
    let (mut bench, mut a, mut b) = two_members();
    assert_eq!(bench.commit(Some(("a", 1)), at(1, 0), 10), Ok(()));
    let stale = "StaleAssignment { assigned: 2, given: 1 }".to_owned();
    assert_eq!(bench.commit(Some(("b", 1)), at(1, 2), 10), Err(stale));
    assert_eq!(bench.commit(Some(("b", 2)), at(1, 2), 10), Ok(()));
    assert_eq!(bench.commit(Some(("a", 2)), at(1, 2), 11), Err("NotAssigned".into()));
    assert!(
        bench
            .commit(Some(("a", 3)), at(1, 0), 11)
            .unwrap_err()
            .contains("FencedMemberEpoch")
    );
    assert!(
        bench
            .commit(Some(("x", 2)), at(1, 0), 11)
            .unwrap_err()
            .contains("UnknownMember")
    );

    // While it gives a partition back a member commits what it has done; after that no more.
    bench.pass(INTERVAL);
    let c = bench.join("c");
    bench.renew("b", &mut b);
    bench.renew("a", &mut a);
    let from = if a.assignment.revoking.is_empty() {
        ("b", &mut b)
    } else {
        ("a", &mut a)
    };
    let lost = from.1.assignment.revoking[0];
    assert_eq!(bench.commit(Some((from.0, from.1.epoch)), lost, 20), Ok(()));
    bench.renew(from.0, from.1);
    assert_eq!(
        bench.commit(Some((from.0, from.1.epoch)), lost, 30),
        Err("NotAssigned".into())
    );
    let mut c = c;
    bench.renew("c", &mut c);
    assert_eq!(c.assignment.assigned, [lost]);
    assert_eq!(bench.committed(lost), Some(20));

    // Back at its former owner: what that one sent in its former epoch is of before.
    let before = from.1.epoch;
    bench.leave("c", false).unwrap();
    bench.pass(INTERVAL);
    for _ in 0..2 {
        bench.renew(from.0, from.1);
    }
    assert!(from.1.assignment.assigned.contains(&lost));
    assert!(
        bench
            .commit(Some((from.0, before)), lost, 40)
            .unwrap_err()
            .starts_with("StaleAssignment")
    );
}

#[test]
fn an_offset_goes_back_only_on_purpose() {
    let (mut bench, a, _) = two_members();
    assert_eq!(bench.commit(Some(("a", a.epoch)), at(1, 0), 10), Ok(()));
    let behind = "OffsetBehind { committed: 10 }".to_owned();
    assert_eq!(bench.commit(Some(("a", a.epoch)), at(1, 0), 9), Err(behind));
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    let rewind = Commit {
        group: "g".into(),
        member: Some(("a".into(), a.epoch)),
        rewind: true,
        offsets: vec![offset_of(at(1, 0), 4)],
    };
    bench.ask(Request::Commit(rewind)).unwrap();
    assert_eq!(bench.committed(at(1, 0)), Some(4));
}

#[test]
fn bad_offsets_are_refused_one_by_one() {
    let (mut bench, a, _) = two_members();
    let long = CommitOffset {
        metadata: "x".repeat(MAX_OFFSET_METADATA_BYTES + 1),
        ..offset_of(at(1, 0), 1)
    };
    let offsets = vec![
        offset_of(at(1, 0), -1),
        long,
        offset_of(at(1, 9), 1),
        offset_of(at(7, 0), 1),
        offset_of(at(1, 1), 1),
    ];
    let results = bench.ask(Request::Commit(Commit {
        group: "g".into(),
        member: Some(("a".into(), a.epoch)),
        rewind: false,
        offsets: offsets.clone(),
    }));
    let expected = [
        Err(OffsetRejection::InvalidOffset { offset: -1 }),
        Err(OffsetRejection::MetadataTooLarge {
            length: MAX_OFFSET_METADATA_BYTES + 1,
        }),
        Err(OffsetRejection::UnknownPartition),
        Err(OffsetRejection::UnknownPartition),
        Ok(()),
    ];
    let expected = offsets.iter().map(|offset| offset.at).zip(expected).collect();
    assert_eq!(results, Ok(Answer::Offsets(expected)));
    let many = vec![offset_of(at(1, 0), 1); MAX_PARTITIONS_PER_REQUEST + 1];
    let many = Commit {
        group: "g".into(),
        member: None,
        rewind: false,
        offsets: many,
    };
    assert_eq!(bench.ask(Request::Commit(many)), Err(GroupRejection::TooManyPartitions));
}

#[test]
fn without_members_anybody_commits_and_with_members_nobody_else() {
    let mut bench = Bench::with(
        GroupConfig {
            max_groups: 1,
            ..GroupConfig::default()
        },
        &[4],
    );
    assert_eq!(bench.position(at(1, 0)), Position::None);
    assert!(
        bench
            .commit(None, at(1, 9), 5)
            .unwrap_err()
            .contains("UnknownPartition")
    );
    assert!(
        bench.coordinator.groups().is_empty(),
        "neither a question nor a refused commit makes a group"
    );
    assert_eq!(bench.commit(None, at(1, 0), 5), Ok(()));
    assert_eq!(bench.committed(at(1, 0)), Some(5));
    let other = Commit {
        group: "h".into(),
        member: None,
        rewind: false,
        offsets: vec![offset_of(at(1, 0), 1)],
    };
    assert_eq!(
        bench.ask(Request::Commit(other)),
        Err(GroupRejection::TooManyGroups { max: 1 })
    );
    bench.join("a");
    assert!(bench.commit(None, at(1, 0), 6).unwrap_err().contains("GroupNotEmpty"));
    assert_eq!(bench.committed(at(1, 0)), Some(5));
}

#[test]
fn a_topic_that_is_created_anew_inherits_nothing() {
    let (mut bench, a, _) = two_members();
    bench.commit(Some(("a", a.epoch)), at(1, 0), 10).unwrap();
    let renamed = Topics::new(
        [(
            "t1".to_owned(),
            TopicView {
                id: topic(50),
                partitions: 4,
                racks: Vec::new(),
            },
        )]
        .into(),
    );
    // That a topic is not seen does not mean that it is gone.
    bench.set_topics(renamed.clone().into(), &[]);
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    assert_eq!(bench.position(at(50, 0)), Position::Beginning);
    bench.set_topics(renamed.into(), &[topic(1)]);
    assert_eq!(bench.position(at(1, 0)), Position::None);
    bench.pass(INTERVAL);
    let mut a = a;
    bench.renew("a", &mut a);
    assert_eq!(bench.position(at(50, 0)), Position::Beginning);
}

fn join_at_end(member: &str) -> Heartbeat {
    let mut beat = join(member);
    beat.details = Some(MemberDetails {
        start: Start::End,
        ..details(&["t1"])
    });
    beat
}

#[test]
fn the_end_is_looked_up_once_and_new_partitions_are_read_from_their_beginning() {
    let mut bench = Bench::new(&[2]);
    let ask = |partitions: &[u32]| Effect::ResolveStart {
        group: "g".into(),
        topic: topic(1),
        partitions: partitions.to_vec(),
        start: Start::End,
    };
    let mut a = Known::default();
    a.take(bench.beat(join_at_end("a")).unwrap());
    assert!(bench.take_effects().contains(&ask(&[0, 1])));
    // Not yet known is neither the beginning nor another end; who asks has it looked up again.
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    assert!(bench.take_effects().contains(&ask(&[0])));
    let resolve = |offsets| Event::StartResolved {
        group: "g",
        topic: topic(1),
        offsets,
    };
    bench.step(resolve(&[(0, 100)]));
    assert_eq!(bench.committed(at(1, 0)), Some(100));
    // Another answer, when there are more records by now, and what nobody asked for.
    bench.step(resolve(&[(0, 500), (7, 500), (1, -1)]));
    assert_eq!(bench.committed(at(1, 0)), Some(100));
    assert_eq!(bench.position(at(1, 1)), Position::Pending);
    // Who takes over has it from the records.
    bench.fail_over();
    assert_eq!(bench.committed(at(1, 0)), Some(100));
    // A commit comes first.
    bench.commit(Some(("a", a.epoch)), at(1, 1), 40).unwrap();
    bench.step(resolve(&[(1, 90)]));
    assert_eq!(bench.committed(at(1, 1)), Some(40));
    // Partitions that are added later, to a group without members, too.
    bench.leave("a", false).unwrap();
    bench.set_topics(topics(&[3]), &[]);
    bench.pass(INTERVAL);
    bench.beat(join_at_end("b")).unwrap();
    assert_eq!(bench.position(at(1, 2)), Position::Beginning);
    bench.step(resolve(&[(2, 700)]));
    assert_eq!(bench.position(at(1, 2)), Position::Beginning);
}

#[test]
fn offsets_are_kept_while_they_are_of_use_and_then_for_their_time() {
    let (mut bench, mut a, b) = two_members();
    bench.commit(Some(("a", a.epoch)), at(1, 0), 10).unwrap();
    // Members that commit nothing for a month, and one that stays.
    let keep = |bench: &mut Bench, a: &mut Known, days: u32| {
        for _ in 0..days * 4 {
            bench.to(bench.now.monotonic + DAY / 4);
            bench.step(Event::Tick);
            bench.renew("a", a);
        }
    };
    keep(&mut bench, &mut a, 30);
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    // The other one's sessions are as long as the coordinator slept; it goes now.
    let _ = bench.leave("b", false);
    drop(b);
    bench.leave("a", false).unwrap();
    bench.pass(DAY * 6);
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    bench.fail_over();
    bench.pass(DAY - Duration::from_secs(60));
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    bench.pass(Duration::from_secs(20 * 60));
    assert!(bench.coordinator.groups().is_empty(), "nothing is left of it");
    assert_eq!(compacted(&bench.log).len(), 0);
}

#[test]
fn offsets_of_a_topic_that_no_member_takes_any_more_end_by_themselves() {
    let mut bench = Bench::new(&[1, 1]);
    let mut beat = join("a");
    beat.details = Some(details(&["t1", "t2"]));
    let mut a = Known::default();
    a.take(bench.beat(beat).unwrap());
    bench.commit(Some(("a", 1)), at(1, 0), 10).unwrap();
    bench.commit(Some(("a", 1)), at(2, 0), 10).unwrap();
    bench.to(bench.now.monotonic + DAY * 8);
    let mut beat = a.beat("a");
    beat.details = Some(details(&["t1"]));
    a.take(bench.beat(beat).unwrap());
    // Eight days since the commit; but only now it is of no use.
    bench.step(Event::Tick);
    assert_eq!(bench.committed(at(2, 0)), Some(10));
    bench.to(bench.now.monotonic + DAY * 7);
    bench.renew("a", &mut a);
    bench.step(Event::Tick);
    assert_eq!(bench.position(at(2, 0)), Position::None);
    assert_eq!(bench.committed(at(1, 0)), Some(10));
}

/// The last member's removal is stored in part: that the group is empty, but not since when.
#[test]
fn offsets_of_a_group_whose_end_was_not_noted_are_kept_from_now_on() {
    let mut bench = Bench::new(&[4]);
    bench.commit(None, at(1, 0), 5).unwrap();
    bench.join("a");
    for fact in [
        Fact::Current("a".into(), None),
        Fact::Target("a".into(), None),
        Fact::Member("a".into(), None),
    ] {
        let record = Record {
            group: "g".into(),
            fact,
        };
        bench.log.push(record.encode());
    }
    bench.to(bench.now.monotonic + DAY * 30);
    bench.fail_over();
    bench.pass(DAY * 6);
    assert_eq!(bench.committed(at(1, 0)), Some(5));
    // Who takes over next does not begin anew.
    bench.fail_over();
    bench.pass(DAY - Duration::from_secs(60));
    assert_eq!(bench.committed(at(1, 0)), Some(5));
    bench.pass(Duration::from_secs(20 * 60));
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(compacted(&bench.log).len(), 0);
}

#[test]
fn a_group_without_members_whose_offsets_are_forgotten_is_no_more() {
    let mut bench = Bench::new(&[4]);
    bench.join("a");
    bench.commit(Some(("a", 1)), at(1, 0), 5).unwrap();
    bench.leave("a", false).unwrap();
    bench.ask(reset(vec![(at(1, 0), None)], false)).unwrap();
    assert_eq!(bench.coordinator.groups().len(), 1);
    bench.pass(bench.config.retention_check_interval);
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(compacted(&bench.log).len(), 0);
}

fn reset(offsets: Vec<(TopicPartition, Option<i64>)>, validate_only: bool) -> Request {
    Request::ResetOffsets(ResetOffsets {
        group: "g".into(),
        validate_only,
        expected_version: None,
        offsets,
    })
}

/// What becomes of each partition.
fn outcomes(answer: Result<Answer, GroupRejection>) -> Vec<(TopicPartition, Result<(), OffsetRejection>)> {
    match answer {
        Ok(Answer::Reset { results, .. }) => results,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operator_resets_what_nobody_owns() {
    let (mut bench, a, _) = two_members();
    bench.commit(Some(("a", a.epoch)), at(1, 0), 10).unwrap();
    let owned = OffsetRejection::Owned { member: "a".into() };
    let answer = bench.ask(reset(vec![(at(1, 0), Some(1)), (at(2, 0), Some(7))], false));
    assert_eq!(outcomes(answer), [(at(1, 0), Err(owned)), (at(2, 0), Ok(()))]);
    assert_eq!(
        (bench.committed(at(1, 0)), bench.committed(at(2, 0))),
        (Some(10), Some(7))
    );
    bench.leave("a", false).unwrap();
    bench.leave("b", false).unwrap();
    let ok = |at| [(at, Ok(()))];
    assert_eq!(
        outcomes(bench.ask(reset(vec![(at(1, 0), Some(1))], true))),
        ok(at(1, 0))
    );
    assert_eq!(bench.committed(at(1, 0)), Some(10));
    assert_eq!(
        outcomes(bench.ask(reset(vec![(at(1, 0), Some(1))], false))),
        ok(at(1, 0))
    );
    assert_eq!(bench.committed(at(1, 0)), Some(1));
    assert_eq!(outcomes(bench.ask(reset(vec![(at(1, 0), None)], false))), ok(at(1, 0)));
    assert_eq!(bench.committed(at(1, 0)), None);
    let invalid = OffsetRejection::InvalidOffset { offset: -4 };
    let answer = bench.ask(reset(vec![(at(1, 0), Some(-4)), (at(9, 0), Some(4))], false));
    assert_eq!(
        outcomes(answer),
        [
            (at(1, 0), Err(invalid)),
            (at(9, 0), Err(OffsetRejection::UnknownPartition))
        ]
    );
    assert_eq!(bench.ask(Request::DeleteGroup("g".into())), Ok(Answer::Done));
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(compacted(&bench.log).len(), 0);
}

/// What was planned for a group is not done to what it has become.
#[test]
fn a_reset_of_an_expected_version_is_refused_once_the_group_has_changed() {
    let mut bench = Bench::new(&[1]);
    let plan = |bench: &mut Bench, validate_only, expected_version| {
        bench.ask(Request::ResetOffsets(ResetOffsets {
            group: "g".into(),
            validate_only,
            expected_version,
            offsets: vec![(at(1, 0), Some(3))],
        }))
    };
    let told = |answer| match answer {
        Ok(Answer::Reset { is_new, version, .. }) => (is_new, version),
        other => panic!("{other:?}"),
    };
    let changed = Err(GroupRejection::GroupChanged { group: "g".into() });
    let (is_new, nothing) = told(plan(&mut bench, true, None));
    assert!(is_new);
    assert_eq!(
        told(plan(&mut bench, true, Some(nothing))),
        (true, nothing),
        "a dry run changes nothing"
    );
    let (is_new, first) = told(plan(&mut bench, false, Some(nothing)));
    assert!(is_new && first != nothing);
    assert_eq!(bench.committed(at(1, 0)), Some(3));
    assert_eq!(plan(&mut bench, false, Some(nothing)), changed, "it is there now");
    assert_eq!(told(plan(&mut bench, true, Some(first))), (false, first));
    // The same offset, but somebody has been at work.
    bench.pass(Duration::from_millis(1));
    bench.commit(None, at(1, 0), 3).unwrap();
    assert_eq!(plan(&mut bench, true, Some(first)), changed);
    let (_, second) = told(plan(&mut bench, true, None));
    bench.join("a");
    assert_eq!(plan(&mut bench, false, Some(second)), changed, "a member has come");
    assert_eq!(bench.committed(at(1, 0)), Some(3));
    // The next coordinator has read what this one has stored.
    let (_, third) = told(plan(&mut bench, true, None));
    bench.fail_over();
    assert_eq!(told(plan(&mut bench, true, None)), (false, third));
}

#[test]
fn a_member_is_told_offsets_only_in_an_epoch_that_it_may_have() {
    let (mut bench, mut a, _) = two_members();
    let fetch = |epoch| {
        Request::FetchOffsets(FetchOffsets {
            group: "g".into(),
            member: Some(("a".into(), epoch)),
            partitions: Some(places([0])),
        })
    };
    assert!(bench.ask(fetch(2)).is_ok());
    assert!(bench.ask(fetch(1)).is_ok(), "it may not have heard of the second");
    assert!(matches!(
        bench.ask(fetch(3)),
        Err(GroupRejection::FencedMemberEpoch { .. })
    ));
    bench.leave("b", false).unwrap();
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    let stale = GroupRejection::StaleMemberEpoch {
        member: "a".into(),
        given: 1,
        current: 3,
    };
    assert_eq!(bench.ask(fetch(1)), Err(stale));
}

#[test]
fn lists_are_paged() {
    let mut bench = Bench::new(&[1]);
    for group in ["a", "b", "c"] {
        let mut beat = join("m");
        beat.group = group.into();
        bench.beat(beat).unwrap();
    }
    let list = |after: &str, limit| Request::List {
        after: after.into(),
        limit,
    };
    let of = |bench: &mut Bench, after: &str, limit| match bench.ask(list(after, limit)).unwrap() {
        Answer::Groups { groups, more } => {
            let ids: Vec<String> = groups.iter().map(|listing| listing.group.to_string()).collect();
            (ids.concat(), more)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&mut bench, "", 2), ("ab".into(), true));
    assert_eq!(of(&mut bench, "b", 2), ("c".into(), false));
    assert_eq!(of(&mut bench, "", 0), ("a".into(), true));
}
