//! Where a group begins in topics that come after it has subscribed to them (KAFKA-20742).

use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

fn from_end(member: &str, topics: &[&str], pattern: Option<&str>) -> Heartbeat {
    Heartbeat {
        details: Some(MemberDetails {
            start: Start::End,
            pattern: pattern.map(str::to_owned),
            ..details(topics)
        }),
        ..join(member)
    }
}

/// Topics whose end was asked for since the last call.
fn asked(bench: &mut Bench) -> Vec<TopicPartition> {
    let effects = bench.take_effects().into_iter();
    let places = effects.flat_map(|effect| match effect {
        Effect::ResolveStart { topic, partitions, .. } => partitions
            .into_iter()
            .map(|partition| TopicPartition { topic, partition })
            .collect(),
        _ => Vec::new(),
    });
    places.collect()
}

#[test]
fn a_topic_that_comes_under_a_subscription_is_read_from_its_beginning() {
    let mut bench = Bench::new(&[1]);
    let mut a = Known::default();
    a.take(bench.beat(from_end("a", &["t1", "t2"], None)).unwrap());
    assert_eq!(asked(&mut bench), [at(1, 0)], "what was there begins at its end");
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    // Within the interval, so that it is assigned later.
    bench.set_topics(topics(&[1, 2]), &[]);
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
    // Another member that joins before that is not the first to subscribe.
    bench.take_effects();
    bench.beat(from_end("b", &["t2"], None)).unwrap();
    bench.pass(INTERVAL);
    bench.renew("a", &mut a);
    assert_eq!(bench.position(at(2, 1)), Position::Beginning);
    assert_eq!(asked(&mut bench), []);
    bench.fail_over();
    assert_eq!(bench.position(at(2, 1)), Position::Beginning);
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
}

#[test]
fn a_topic_that_comes_while_nobody_coordinates_is_read_from_its_beginning() {
    let mut bench = Bench::new(&[1]);
    bench.beat(from_end("a", &["t1", "t2"], None)).unwrap();
    bench.topics = topics(&[1, 1]);
    bench.fail_over();
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    // Topics are known last.
    let mut bench = Bench::new(&[1]);
    bench.beat(from_end("a", &["t1", "t2"], None)).unwrap();
    let log = bench.log.clone();
    bench.coordinator = Coordinator::new(bench.config.clone());
    bench.last_sequence = 0;
    for record in &log {
        let (key, value) = (&record.key, record.value.as_deref());
        bench.step(Event::Replayed { key, value });
    }
    bench.step(Event::Loaded);
    bench.set_topics(topics(&[1, 1]), &[]);
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
}

/// Nothing is assigned to the only member, which is fenced: it has subscribed all the same.
#[test]
fn a_topic_that_comes_under_a_fenced_members_subscription_is_read_from_its_beginning() {
    for topics_last in [false, true] {
        let mut bench = Bench::new(&[2]);
        let mut a = Known::default();
        a.take(bench.beat(from_end("a", &["t1", "t2"], None)).unwrap());
        bench.pass(INTERVAL);
        let mut b = bench.join("b");
        while let Ok(answer) = bench.beat(Heartbeat {
            owned: None,
            ..a.beat("a")
        }) {
            a.take(answer);
            bench.renew("b", &mut b);
            bench.pass(Duration::from_secs(1));
        }
        bench.leave("b", false).unwrap();
        let group = bench.coordinator.groups().get("g").unwrap();
        assert_eq!(group.members.get("a").unwrap().current.state, MemberState::Fenced);
        assert_eq!(group.members.len(), 1);
        bench.topics = topics(&[2, 1]);
        if topics_last {
            let log = bench.log.clone();
            bench.coordinator = Coordinator::new(bench.config.clone());
            bench.last_sequence = 0;
            for record in &log {
                let (key, value) = (&record.key, record.value.as_deref());
                bench.step(Event::Replayed { key, value });
            }
            bench.step(Event::Loaded);
            bench.set_topics(topics(&[2, 1]), &[]);
        } else {
            bench.fail_over();
        }
        bench.beat(from_end("c", &["t2"], None)).unwrap();
        assert_eq!(
            bench.position(at(2, 0)),
            Position::Beginning,
            "topics last: {topics_last}"
        );
    }
}

/// Two members, so that the second's assignment waits: what is there when it subscribes begins at its
/// end, whenever it is assigned.
#[test]
fn a_topic_that_is_there_begins_at_its_end_also_if_it_is_assigned_later() {
    let mut bench = Bench::new(&[1, 2]);
    bench.beat(from_end("a", &["t1"], None)).unwrap();
    bench.take_effects();
    bench.beat(from_end("b", &["t2"], None)).unwrap();
    assert_eq!(asked(&mut bench), [at(2, 0), at(2, 1)]);
    // A partition that is added before it is assigned is new.
    bench.set_topics(topics(&[1, 3]), &[]);
    bench.pass(INTERVAL);
    bench.beat(from_end("b", &["t2"], None)).unwrap();
    assert_eq!(bench.position(at(2, 1)), Position::Pending);
    assert_eq!(bench.position(at(2, 2)), Position::Beginning);
}

fn resolve(bench: &mut Bench, names: &[&str]) {
    bench.step(Event::PatternResolved {
        group: "g",
        pattern: "t.*",
        topics: names.iter().map(|&name| name.to_owned()).collect(),
    });
}

#[test]
fn a_topic_that_comes_under_a_pattern_is_read_from_its_beginning() {
    let mut bench = Bench::new(&[1]);
    bench.beat(from_end("a", &[], Some("t.*"))).unwrap();
    // It comes before it is known what the pattern matches, and after it was named.
    bench.set_topics(topics(&[1, 1]), &[]);
    resolve(&mut bench, &["t1", "t2"]);
    assert_eq!(asked(&mut bench), [at(1, 0)]);
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
    bench.pass(INTERVAL);
    // Later.
    bench.set_topics(topics(&[1, 1, 1]), &[]);
    resolve(&mut bench, &["t1", "t2", "t3"]);
    assert_eq!(bench.position(at(3, 0)), Position::Beginning);
    // While nobody coordinates.
    bench.topics = topics(&[1, 1, 1, 1]);
    bench.fail_over();
    resolve(&mut bench, &["t1", "t2", "t3", "t4"]);
    assert_eq!(bench.position(at(4, 0)), Position::Beginning);
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    assert_eq!(asked(&mut bench), [at(1, 0), at(1, 0)], "only as it was asked for");
}

/// A coordinator fails before it knows what the pattern matches: what its successor finds was there.
#[test]
fn who_takes_over_before_a_pattern_is_resolved_begins_at_the_end_of_what_it_finds() {
    let mut bench = Bench::new(&[1]);
    bench.beat(from_end("a", &[], Some("t.*"))).unwrap();
    bench.fail_over();
    bench.set_topics(topics(&[1, 1]), &[]);
    resolve(&mut bench, &["t1", "t2"]);
    assert_eq!(bench.position(at(1, 0)), Position::Pending);
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
}

/// A member that names a pattern anew subscribes anew.
#[test]
fn a_pattern_that_is_named_anew_begins_at_the_end_of_what_is_there() {
    let mut bench = Bench::new(&[1]);
    let mut a = Known::default();
    a.take(bench.beat(from_end("a", &["x"], None)).unwrap());
    bench.set_topics(topics(&[1, 1]), &[]);
    bench.pass(INTERVAL);
    let mut beat = a.beat("a");
    beat.details = from_end("a", &[], Some("t.*")).details;
    bench.beat(beat).unwrap();
    resolve(&mut bench, &["t1", "t2"]);
    assert_eq!(bench.position(at(2, 0)), Position::Pending);
}

/// What was noted of a new topic was not written: it is noted again, and no other way.
#[test]
fn what_was_taken_back_is_noted_again() {
    let mut bench = Bench::new(&[1]);
    bench.beat(from_end("a", &["t1", "t2"], None)).unwrap();
    bench.topics = topics(&[1, 1]);
    let new = bench.topics.clone();
    bench.step_uncommitted(Event::TopicsChanged {
        topics: new,
        deleted: &[],
    });
    let sequence = bench.last_sequence;
    bench.step(Event::Refused { sequence });
    assert_eq!(bench.position(at(2, 0)), Position::None);
    bench.pass(INTERVAL * 2);
    assert_eq!(bench.position(at(2, 0)), Position::Beginning);
}

#[test]
fn a_subscription_does_not_change_before_topics_are_known() {
    let mut bench = Bench::new(&[1, 1]);
    let a = bench.join("a");
    let log = bench.log.clone();
    bench.coordinator = Coordinator::new(bench.config.clone());
    bench.last_sequence = 0;
    for record in &log {
        let (key, value) = (&record.key, record.value.as_deref());
        bench.step(Event::Replayed { key, value });
    }
    bench.step(Event::Loaded);
    let mut beat = a.beat("a");
    beat.details = from_end("a", &["t1", "t2"], None).details;
    assert_eq!(bench.beat(beat.clone()), Err(GroupRejection::Loading));
    bench.beat(a.beat("a")).unwrap();
    bench.set_topics(topics(&[1, 1]), &[]);
    bench.beat(beat).unwrap();
    assert_eq!(bench.position(at(2, 0)), Position::Pending);
}
