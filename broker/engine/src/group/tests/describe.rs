//! What people are told of a group.

use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

fn described(bench: &mut Bench) -> GroupDescription {
    match bench.ask(Request::Describe("g".into())) {
        Ok(Answer::Group(group)) => *group,
        other => panic!("{other:?}"),
    }
}

fn reason(bench: &mut Bench) -> String {
    described(bench).last_rebalance.expect("a reason").reason
}

#[test]
fn the_last_reason_of_a_rebalance_is_told() {
    let mut bench = Bench::new(&[2]);
    let mut a = bench.join("a");
    let told = described(&mut bench);
    let expected = Rebalance {
        epoch: 1,
        reason: "member \"a\" joined".to_owned(),
        at_ms: EPOCH_MS,
    };
    assert_eq!(told.last_rebalance, Some(expected));
    let member = &told.members[0];
    assert_eq!(
        (&*member.details.client_id, &*member.details.client_host),
        ("app", "host")
    );
    bench.pass(INTERVAL);
    bench.set_topics(topics(&[4]), &[]);
    assert_eq!(reason(&mut bench), "topic t1 has 4 partitions now");
    bench.pass(INTERVAL);
    let mut beat = a.beat("a");
    beat.details = Some(details(&["t1", "t2", "t3"]));
    a.take(bench.beat(beat).unwrap());
    assert_eq!(reason(&mut bench), "member \"a\" changed its subscription");
    bench.set_topics(topics(&[4, 1, 1]), &[]);
    assert_eq!(
        reason(&mut bench),
        "topic t2 has come, with 1 partitions; so have 1 other topics"
    );
    bench.set_topics(topics(&[4, 1]), &[topic(3)]);
    assert_eq!(reason(&mut bench), "topic t3 is gone");
    bench.pass(INTERVAL);
    bench.join("b");
    bench.leave("b", false).unwrap();
    assert_eq!(reason(&mut bench), "member \"b\" left");
    bench.renew("a", &mut a);
    bench.commit(Some(("a", a.epoch)), at(1, 0), 1).unwrap();
    bench.pass(SESSION);
    assert_eq!(reason(&mut bench), "member \"a\"'s session ended");
    assert_eq!(described(&mut bench).state, GroupState::Empty);
    // Not stored.
    bench.fail_over();
    assert_eq!(described(&mut bench).last_rebalance, None);
}

#[test]
fn one_that_keeps_partitions_is_named() {
    let mut bench = Bench::new(&[2]);
    let mut a = bench.join("a");
    bench.pass(INTERVAL);
    let mut b = bench.join("b");
    bench.renew("a", &mut a);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(1));
        let mut beat = a.beat("a");
        beat.owned = None;
        let _ = bench.beat(beat);
        bench.renew("b", &mut b);
    }
    assert_eq!(reason(&mut bench), "member \"a\" did not give partitions back in time");
}

#[test]
fn a_reason_is_short() {
    let mut bench = Bench::new(&[2]);
    bench.join(&"\u{1}".repeat(255));
    assert_eq!(reason(&mut bench).chars().count(), 300);
}

fn page(bench: &mut Bench, after: &str, limit: usize) -> (Vec<String>, bool) {
    let request = Request::DescribePage {
        group: "g".into(),
        after: after.into(),
        limit,
    };
    match bench.ask(request).unwrap() {
        Answer::Group(group) => {
            assert_eq!(
                group.member_count,
                bench.coordinator.groups().get("g").unwrap().members.len()
            );
            let ids = group.members.iter().map(|member| member.member.to_string());
            (ids.collect(), group.more)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_are_told_page_by_page() {
    let mut bench = Bench::new(&[1]);
    for member in ["a", "b", "c"] {
        bench.join(member);
    }
    let ids = |of: &[&str]| of.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    assert_eq!(page(&mut bench, "", 2), (ids(&["a", "b"]), true));
    assert_eq!(page(&mut bench, "b", 2), (ids(&["c"]), false));
    assert_eq!(page(&mut bench, "", 3), (ids(&["a", "b", "c"]), false));
    assert_eq!(page(&mut bench, "c", 3), (ids(&[]), false));
    assert_eq!(page(&mut bench, "", 0), (ids(&["a"]), true));
    assert!(!described(&mut bench).more);
}

/// Members that name a thousand topics each: a page ends when it is large, and goes on.
#[test]
fn a_page_of_large_members_is_short() {
    let mut bench = Bench::new(&[1]);
    bench.checked = false;
    let names: Vec<String> = (0..MAX_SUBSCRIBED_TOPICS)
        .map(|number| format!("{number:0>249}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for member in 0..30 {
        let mut beat = join(&format!("m{member:02}"));
        beat.details = Some(details(&names));
        bench.beat(beat).unwrap();
    }
    let (mut seen, mut after, mut pages) = (0, String::new(), 0);
    loop {
        let (ids, more) = page(&mut bench, &after, MAX_DESCRIBED_MEMBERS);
        assert!(ids.len() * MAX_SUBSCRIBED_TOPICS * 249 <= MAX_ANSWER_BYTES);
        seen += ids.len();
        pages += 1;
        if !more {
            break;
        }
        after = ids.last().unwrap().clone();
    }
    assert_eq!(seen, 30);
    assert!(pages >= 4, "{pages}");
}
