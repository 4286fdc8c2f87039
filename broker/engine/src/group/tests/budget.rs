//! How much memory there is for all, and what goes on when it is used up.

use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

fn limited(max_state_bytes: usize, partitions: &[u32]) -> Bench {
    let config = GroupConfig {
        max_state_bytes,
        ..GroupConfig::default()
    };
    let mut bench = Bench::with(config, partitions);
    bench.checked = false;
    bench
}

fn commit_to(group: &str, places: &[TopicPartition], offset: i64, text: &str) -> Request {
    let offset = |at: &TopicPartition| CommitOffset {
        metadata: text.to_owned(),
        ..offset_of(*at, offset)
    };
    Request::Commit(Commit {
        group: group.into(),
        member: None,
        rewind: false,
        offsets: places.iter().map(offset).collect(),
    })
}

fn results(answer: Result<Answer, GroupRejection>) -> Vec<Result<(), OffsetRejection>> {
    match answer.unwrap() {
        Answer::Offsets(results) | Answer::Reset { results, .. } => {
            results.into_iter().map(|(_, result)| result).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Whatever unknown names are asked with, and however often.
#[test]
fn a_hundred_thousand_bogus_groups_take_a_bounded_memory() {
    const MAX: usize = 256 * 1_024;
    let mut bench = limited(MAX, &[1]);
    let mut let_in = [0; 3];
    for number in 0..100_000 {
        let group: GroupId = format!("bogus-{number}").into();
        assert_eq!(
            bench.ask(Request::Describe(group.clone())),
            Err(GroupRejection::GroupNotFound {
                group: group.to_string()
            })
        );
        let request = match number % 3 {
            0 => Request::Heartbeat(Heartbeat {
                group: group.clone(),
                ..join("m")
            }),
            1 => commit_to(&group, &[at(1, 0)], 5, ""),
            _ => Request::ResetOffsets(ResetOffsets {
                group: group.clone(),
                validate_only: false,
                expected_version: None,
                offsets: vec![(at(1, 0), Some(5))],
            }),
        };
        match bench.ask(request) {
            Ok(_) => let_in[number % 3] += 1,
            Err(rejection) => assert_eq!(rejection, GroupRejection::CoordinatorFull { max_bytes: MAX }),
        }
        bench.effects.clear();
        let groups = bench.coordinator.groups();
        assert!(groups.bytes() <= MAX);
        assert!(groups.len() <= 250);
        assert!(bench.coordinator.hints.len() <= groups.len() && bench.coordinator.timers() <= groups.len() + 1);
    }
    assert!(let_in.iter().all(|count| *count > 10), "{let_in:?}");
    // The members' sessions end, the offsets expire: all is free again.
    bench.pass(bench.config.offset_retention + bench.config.retention_check_interval);
    assert_eq!(bench.coordinator.groups().bytes(), 0);
    assert_eq!(bench.coordinator.timers(), 1);
    assert_eq!(compacted(&bench.log).len(), 0);
}

#[test]
fn what_is_there_goes_on_when_there_is_no_room() {
    let mut bench = limited(20_000, &[20, 64, 4]);
    let mut a = bench.join("a");
    bench.ask(commit_to("other", &places(0..12), 5, "")).unwrap();
    let mut groups = 0;
    loop {
        match bench.ask(commit_to(&format!("group-{groups}"), &[at(1, 0)], 5, "")) {
            Ok(_) => groups += 1,
            Err(rejection) => {
                assert_eq!(rejection, GroupRejection::CoordinatorFull { max_bytes: 20_000 });
                break;
            }
        }
    }
    // No new group or member, no larger subscription; for offsets there is some room left.
    let full = Err(GroupRejection::CoordinatorFull { max_bytes: 20_000 });
    assert_eq!(bench.beat(join("b")), full);
    let mut larger = a.beat("a");
    larger.details = Some(details(&["t1", "t3"]));
    assert_eq!(bench.beat(larger.clone()), full);
    let mut longer = a.beat("a");
    longer.details = Some(MemberDetails {
        client_id: "x".repeat(250),
        client_host: "x".repeat(250),
        pattern: Some("x".repeat(1_000)),
        ..details(&["t1"])
    });
    assert_eq!(bench.beat(longer), full);
    bench.renew("a", &mut a);
    assert_eq!(bench.commit(Some(("a", a.epoch)), at(1, 0), 5), Ok(()));
    let mut refused = 0;
    for partition in 0..64 {
        let other = commit_to("other", &[at(2, partition)], 5, "");
        refused += usize::from(results(bench.ask(other)) == [Err(OffsetRejection::CoordinatorFull)]);
    }
    assert!(refused > 0);
    // Those that are there are renewed, with a text about as long as before; a reset, too.
    let again = bench.ask(commit_to("other", &places(0..12), 6, &"x".repeat(60)));
    assert_eq!(results(again), vec![Ok(()); 12]);
    let long = bench.ask(commit_to("other", &[at(1, 0)], 7, &"x".repeat(4_000)));
    assert_eq!(results(long), [Err(OffsetRejection::CoordinatorFull)]);
    assert_eq!(bench.commit(Some(("a", a.epoch)), at(1, 0), 6), Ok(()));
    // A member that subscribes to less, and says as much of itself as before.
    let mut other = a.beat("a");
    other.details = Some(MemberDetails {
        client_id: "ppa".into(),
        ..details(&["t1"])
    });
    a.take(bench.beat(other).unwrap());
    // Who deletes makes room.
    for number in 0..groups {
        bench
            .ask(Request::DeleteGroup(format!("group-{number}").into()))
            .unwrap();
    }
    larger.version = a.version;
    bench.beat(larger).unwrap();
}

/// A restart needs no more than there was.
#[test]
fn a_static_member_restarts_when_there_is_no_room() {
    let mut bench = limited(16_000, &[4]);
    let of = |member: &str, instance: &str| Heartbeat {
        instance: Some(instance.into()),
        ..join(member)
    };
    bench.beat(of("a1", "a")).unwrap();
    let mut full = false;
    for number in 0..100 {
        let name = format!("m{number}");
        full |= matches!(
            bench.beat(of(&name, &name)),
            Err(GroupRejection::CoordinatorFull { .. })
        );
    }
    assert!(full);
    bench.leave("a1", true).unwrap();
    bench.beat(of("a2", "a")).unwrap();
}

/// Subscriptions that are small and whose assignments are large count with their assignments, also
/// before those are computed.
#[test]
fn assignments_count_before_they_are_computed() {
    let mut bench = limited(1_000_000, &[1, 1_000]);
    let of_group = |number: usize, topics: &[&str]| Heartbeat {
        group: format!("g{number}").into(),
        details: Some(details(topics)),
        ..join("m")
    };
    let mut known = vec![Known::default(); 100];
    for (number, known) in known.iter_mut().enumerate() {
        known.take(bench.beat(of_group(number, &["t1"])).unwrap());
    }
    let before = bench.coordinator.groups().bytes();
    let mut let_in = 0;
    for (number, known) in known.iter().enumerate() {
        let beat = Heartbeat {
            epoch: known.epoch,
            version: known.version,
            ..of_group(number, &["t1", "t2"])
        };
        let_in += usize::from(bench.beat(beat).is_ok());
    }
    assert!((1..4).contains(&let_in), "{let_in}");
    bench.pass(INTERVAL);
    let after = bench.coordinator.groups().bytes();
    assert!(
        after > before + let_in * 200_000 && after < 1_000_000,
        "{before} to {after}"
    );
    assert_eq!(bench.coordinator.reserved_bytes, 0);
    bench.pass(SESSION);
    assert_eq!(bench.coordinator.groups().bytes(), 0);
}

#[test]
fn a_pattern_that_matches_more_than_there_is_room_for_is_left_out() {
    let mut bench = limited(100_000, &[1, 1_000]);
    let mut beat = join("a");
    beat.details.as_mut().unwrap().pattern = Some("t.*".into());
    let mut a = Known::default();
    a.take(bench.beat(beat).unwrap());
    let resolved = || Event::PatternResolved {
        group: "g",
        pattern: "t.*",
        topics: vec!["t1".into(), "t2".into()],
    };
    bench.step(resolved());
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned, places([0]));
    let Ok(Answer::Group(told)) = bench.ask(Request::Describe("g".into())) else {
        panic!("it is there")
    };
    assert!(told.last_rebalance.unwrap().reason.contains("no room"));
    // With room it is taken when it is told again.
    bench.config.max_state_bytes = 1_000_000;
    bench.fail_over();
    bench.step(resolved());
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    assert_eq!(a.assignment.assigned.len(), 1_001);
}

/// A record that no append takes would be refused for ever, and all with it.
#[test]
fn a_pattern_that_matches_more_than_a_record_holds_is_left_out() {
    let mut bench = Bench::new(&[1]);
    let mut beat = join("a");
    beat.details.as_mut().unwrap().pattern = Some("t.*".into());
    bench.beat(beat).unwrap();
    let mut names: Vec<String> = (0..4_000).map(|number| format!("t{number:0>200}")).collect();
    let mut resolve = |bench: &mut Bench| {
        bench.step(Event::PatternResolved {
            group: "g",
            pattern: "t.*",
            topics: names.clone(),
        });
        names.truncate(3_800);
        bench.coordinator.groups().get("g").unwrap().patterns.len()
    };
    assert_eq!(resolve(&mut bench), 0);
    let Ok(Answer::Group(told)) = bench.ask(Request::Describe("g".into())) else {
        panic!("it is there")
    };
    assert!(
        told.last_rebalance
            .unwrap()
            .reason
            .contains("more topics than can be stored")
    );
    assert_eq!(resolve(&mut bench), 1);
    let largest = bench.log.iter().map(StoredRecord::size).max().unwrap();
    assert!(
        (MAX_APPEND_BYTES - 10_000..=MAX_APPEND_BYTES).contains(&largest),
        "{largest}"
    );
}

/// The count is that of what is there, whichever way it came there.
#[test]
fn bytes_are_the_same_when_they_are_replayed() {
    let mut bench = Bench::new(&[8, 8]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    bench.join("b");
    bench.renew("a", &mut a);
    bench.commit(Some(("a", 1)), at(1, 0), 5).unwrap();
    bench.ask(commit_to("h", &places(0..4), 5, "text")).unwrap();
    let bytes = bench.coordinator.groups().bytes();
    assert!(bytes > 4_000);
    assert_eq!(replayed(&bench.log).bytes(), bytes);
    let kept: Vec<StoredRecord> = compacted(&bench.log)
        .into_iter()
        .map(|(key, value)| StoredRecord {
            key,
            value: Some(value),
        })
        .collect();
    assert_eq!(replayed(&kept).bytes(), bytes);
    bench.leave("a", false).unwrap();
    bench.leave("b", false).unwrap();
    for group in ["g", "h"] {
        bench.ask(Request::DeleteGroup(group.into())).unwrap();
    }
    assert_eq!(bench.coordinator.groups().bytes(), 0);
}

fn offsets(bench: &mut Bench, after: Option<TopicPartition>, limit: usize) -> (Vec<TopicPartition>, bool) {
    let request = Request::OffsetPage {
        group: "g".into(),
        after,
        limit,
    };
    match bench.ask(request).unwrap() {
        Answer::OffsetPage { positions, more } => (positions.into_iter().map(|(at, _)| at).collect(), more),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_are_told_page_by_page() {
    let mut bench = Bench::new(&[3]);
    bench.ask(commit_to("g", &places(0..3), 5, "")).unwrap();
    assert_eq!(offsets(&mut bench, None, 2), (places(0..2), true));
    assert_eq!(offsets(&mut bench, Some(at(1, 1)), 2), (places(2..3), false));
    assert_eq!(offsets(&mut bench, None, 0), (places(0..1), true));
    let unknown = Request::OffsetPage {
        group: "h".into(),
        after: None,
        limit: 1,
    };
    assert_eq!(
        bench.ask(unknown),
        Err(GroupRejection::GroupNotFound { group: "h".into() })
    );
}

#[test]
fn an_answer_with_long_texts_is_paged_or_refused() {
    let mut bench = Bench::new(&[2_000]);
    bench.checked = false;
    let all = places(0..2_000);
    bench
        .ask(commit_to("g", &all, 5, &"x".repeat(MAX_OFFSET_METADATA_BYTES)))
        .unwrap();
    let fetch = |partitions| {
        Request::FetchOffsets(FetchOffsets {
            group: "g".into(),
            member: None,
            partitions,
        })
    };
    assert_eq!(bench.ask(fetch(None)), Err(GroupRejection::TooManyPartitions));
    assert_eq!(bench.ask(fetch(Some(all))), Err(GroupRejection::TooManyPartitions));
    assert!(bench.ask(fetch(Some(places(0..400)))).is_ok());
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = offsets(&mut bench, after, usize::MAX);
        assert!(page.len() * MAX_OFFSET_METADATA_BYTES <= MAX_ANSWER_BYTES);
        after = page.last().copied();
        seen.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(seen, places(0..2_000));
}

#[test]
fn all_offsets_at_once_are_as_many_as_a_request_names() {
    let mut bench = Bench::new(&[8_000, 8_000]);
    bench.checked = false;
    let all: Vec<TopicPartition> = (0..8_000)
        .flat_map(|partition| [at(1, partition), at(2, partition)])
        .collect();
    for places in all.chunks(8_000) {
        bench.ask(commit_to("g", places, 5, "")).unwrap();
    }
    let fetch = Request::FetchOffsets(FetchOffsets {
        group: "g".into(),
        member: None,
        partitions: None,
    });
    assert_eq!(bench.ask(fetch), Err(GroupRejection::TooManyPartitions));
}

/// The log does not advance: what waits has its bound in bytes, too.
#[test]
fn large_answers_wait_only_up_to_their_bytes() {
    let mut bench = Bench::new(&[400]);
    bench.checked = false;
    bench
        .ask(commit_to(
            "g",
            &places(0..400),
            5,
            &"x".repeat(MAX_OFFSET_METADATA_BYTES),
        ))
        .unwrap();
    let request = |request: Request| Box::new(request);
    bench.step_uncommitted(Event::Requested {
        id: 1_000,
        request: request(commit_to("g", &places(0..1), 6, "")),
    });
    let sequence = bench.last_sequence;
    let fetch = Request::FetchOffsets(FetchOffsets {
        group: "g".into(),
        member: None,
        partitions: None,
    });
    let ask = |bench: &mut Bench, id| {
        let effects = bench.step_uncommitted(Event::Requested {
            id,
            request: Box::new(fetch.clone()),
        });
        answer_to(&effects, id)
    };
    let waiting = (2_000..3_000).take_while(|id| ask(&mut bench, *id).is_none()).count();
    let each = 400 * MAX_OFFSET_METADATA_BYTES;
    assert!(waiting <= MAX_WAITING_BYTES / each + 1 && waiting > 20, "{waiting}");
    assert_eq!(ask(&mut bench, 3_000), Some(Err(GroupRejection::Overloaded)));
    // All are answered once it does, and there is room again.
    let answered = bench.step_uncommitted(Event::Committed { sequence }).len();
    assert_eq!(answered, waiting + 1);
    assert!(matches!(ask(&mut bench, 3_001), Some(Ok(_))));
}

/// One that leads more partitions of groups than others needs no more memory for it.
#[test]
fn the_coordinators_of_a_broker_share_one_budget() {
    const MAX: usize = 256 * 1_024;
    let mut benches: Vec<Bench> = (0..4).map(|_| limited(MAX, &[1])).collect();
    let sum = |benches: &[Bench]| -> usize { benches.iter().map(|bench| bench.coordinator.state_bytes()).sum() };
    let join_one = |benches: &mut [Bench], at: usize, number: usize| {
        let elsewhere = sum(benches) - benches[at].coordinator.state_bytes();
        benches[at].coordinator.set_bytes_elsewhere(elsewhere);
        let beat = Heartbeat {
            group: format!("g{number}").into(),
            ..join("m")
        };
        benches[at].ask(Request::Heartbeat(beat))
    };
    let mut refused = 0;
    for number in 0..1_000 {
        match join_one(&mut benches, number % 4, number) {
            Ok(_) => {}
            Err(rejection) => {
                assert_eq!(rejection, GroupRejection::CoordinatorFull { max_bytes: MAX });
                refused += 1;
            }
        }
        assert!(sum(&benches) <= MAX, "{number}");
    }
    assert!(refused > 500 && benches.iter().all(|bench| bench.coordinator.groups().len() > 10));
    // Another broker leads one of them now.
    benches.pop();
    assert!(join_one(&mut benches, 0, 1_000).is_ok());
}
