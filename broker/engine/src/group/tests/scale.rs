//! Many members, many groups.

use std::time::Duration;

use super::{super::*, support::*};

/// How many assignments were computed since the last call.
fn assignments(bench: &mut Bench, epoch: &mut i32) -> usize {
    let target = |record: &StoredRecord| match Record::decode(&record.key, record.value.as_deref()).unwrap().fact {
        Fact::Group(Some(record)) => Some(record.target_epoch),
        _ => None,
    };
    let appended = bench.take_effects().into_iter().flat_map(|effect| match effect {
        Effect::Append { records, .. } => records,
        _ => Vec::new(),
    });
    let mut computed = 0;
    for record in appended {
        if let Some(target) = target(&record).filter(|target| target > epoch) {
            *epoch = target;
            computed += 1;
        }
    }
    computed
}

#[test]
fn a_storm_of_joins_is_one_assignment_in_each_interval() {
    const MEMBERS: usize = 300;
    let mut bench = Bench::new(&[600]);
    let mut epoch = 0;
    let mut known: Vec<(String, Known)> = Vec::new();
    for member in 0..MEMBERS {
        let name = format!("m{member:04}");
        let joined = bench.join(&name);
        known.push((name, joined));
        bench.pass(Duration::from_millis(1));
    }
    // 300 ms: the first at once, then one in each 100 ms.
    assert_eq!(assignments(&mut bench, &mut epoch), 4);
    bench.pass(Duration::from_millis(100));
    for _ in 0..3 {
        for (name, known) in &mut known {
            bench.renew(name, known);
        }
    }
    assert_eq!(bench.state(), GroupState::Stable);
    assert!(known.iter().all(|(_, known)| known.assignment.assigned.len() == 2));
    assert!(assignments(&mut bench, &mut epoch) <= 1);
    // All sessions end at the same time.
    bench.pass(SESSION);
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(bench.coordinator.timers(), 1);
}

#[test]
fn a_rolling_restart_of_static_members_moves_nothing() {
    const MEMBERS: usize = 50;
    let mut bench = Bench::new(&[100]);
    let joining = |member: usize, life: usize| Heartbeat {
        instance: Some(format!("pod-{member:02}")),
        ..join(&format!("m{member:02}-{life}"))
    };
    let mut known = vec![Known::default(); MEMBERS];
    for (member, known) in known.iter_mut().enumerate() {
        known.take(bench.beat(joining(member, 0)).unwrap());
    }
    bench.pass(Duration::from_millis(100));
    for _ in 0..3 {
        for (member, known) in known.iter_mut().enumerate() {
            bench.renew(&format!("m{member:02}-0"), known);
        }
    }
    assert_eq!(bench.state(), GroupState::Stable);
    let epoch = bench.coordinator.groups().get("g").unwrap().record.clone();
    for (member, before) in known.iter().enumerate() {
        bench.leave(&format!("m{member:02}-0"), true).unwrap();
        bench.pass(Duration::from_millis(50));
        let mut after = Known::default();
        after.take(bench.beat(joining(member, 1)).unwrap());
        assert_eq!(after.assignment, before.assignment);
        assert_eq!(bench.state(), GroupState::Stable);
    }
    assert_eq!(bench.coordinator.groups().get("g").unwrap().record, epoch);
}

#[test]
fn bogus_groups_leave_nothing_and_are_bounded() {
    let mut bench = Bench::with(
        GroupConfig {
            max_groups: 100,
            ..GroupConfig::default()
        },
        &[1],
    );
    bench.checked = false;
    for number in 0..100_000 {
        let group: GroupId = format!("bogus-{number}").into();
        let fetch = FetchOffsets {
            group: group.clone(),
            member: None,
            partitions: Some(vec![at(1, 0)]),
        };
        assert_eq!(
            bench.ask(Request::FetchOffsets(fetch)),
            Ok(Answer::Fetched(vec![(at(1, 0), Position::None)]))
        );
        let mut beat = join("m");
        beat.group = group;
        let joined = bench.beat(beat);
        assert_eq!(joined.is_ok(), number < 100, "{joined:?}");
        bench.effects.clear();
    }
    assert_eq!(bench.coordinator.groups().len(), 100);
    bench.pass(SESSION);
    assert!(bench.coordinator.groups().is_empty());
    assert_eq!(bench.coordinator.timers(), 1);
    assert_eq!(compacted(&bench.log).len(), 0);
}

/// Each asks for its own pattern: all for all would grow with the square of them.
#[test]
fn a_join_asks_only_for_its_own_pattern() {
    let mut bench = Bench::new(&[1]);
    for (member, pattern) in [("a", Some("a.*")), ("b", Some("b.*")), ("c", None)] {
        let mut beat = join(member);
        beat.details.as_mut().unwrap().pattern = pattern.map(str::to_owned);
        bench.take_effects();
        bench.beat(beat).unwrap();
        let asked: Vec<String> = bench
            .take_effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::ResolvePattern { pattern, .. } => Some(pattern),
                _ => None,
            })
            .collect();
        assert_eq!(asked, pattern.map(str::to_owned).into_iter().collect::<Vec<_>>());
    }
}

/// A step whose cost grew with members times partitions would take minutes here.
#[test]
fn a_large_group_is_assigned_in_one_short_step() {
    const MEMBERS: usize = 1_000;
    let mut bench = Bench::new(&[100; 100]);
    bench.checked = false;
    let names: Vec<String> = (1..=100).map(|topic| format!("t{topic}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for member in 0..MEMBERS {
        let mut beat = join(&format!("m{member:04}"));
        beat.details = Some(details(&names));
        bench.beat(beat).unwrap();
    }
    let due = bench.coordinator.next_deadline().unwrap();
    bench.to(due);
    let begun = std::time::Instant::now();
    bench.step(Event::Tick);
    println!("{MEMBERS} members, 10,000 partitions: {:?}", begun.elapsed());
    let group = bench.coordinator.groups().get("g").unwrap();
    assert!(group.members.values().all(|member| member.target.len() == 10));
}
