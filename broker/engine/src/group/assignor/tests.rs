use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// A question, as owned values.
#[derive(Clone, Debug)]
struct Question {
    /// Of each topic its partitions' racks.
    topics: Vec<Vec<Vec<String>>>,
    /// Of each member its rack and topics.
    members: Vec<(Option<String>, Vec<usize>)>,
}

fn ask(assignor: Assignor, question: &Question, owned: &[Vec<Place>]) -> Vec<Vec<Place>> {
    let names: Vec<String> = (0..question.members.len()).map(|at| format!("m{at:06}")).collect();
    let topics: Vec<Shape<'_>> = question
        .topics
        .iter()
        .map(|racks| Shape {
            partitions: u32::try_from(racks.len()).unwrap(),
            racks,
        })
        .collect();
    let members: Vec<Subscriber<'_>> = question
        .members
        .iter()
        .enumerate()
        .map(|(at, (rack, topics))| Subscriber {
            name: &names[at],
            rack: rack.as_deref(),
            topics: topics.clone(),
            owned: owned.get(at).cloned().unwrap_or_default(),
        })
        .collect();
    assign(assignor, &members, &topics)
}

fn plain(partitions: &[usize], members: usize) -> Question {
    Question {
        topics: partitions.iter().map(|&count| vec![Vec::new(); count]).collect(),
        members: vec![(None, (0..partitions.len()).collect()); members],
    }
}

fn loads(assigned: &[Vec<Place>]) -> Vec<usize> {
    assigned.iter().map(Vec::len).collect()
}

/// How many partitions that somebody had are now somebody else's.
fn moved(before: &[Vec<Place>], after: &[Vec<Place>]) -> usize {
    before
        .iter()
        .enumerate()
        .map(|(member, places)| {
            places
                .iter()
                .filter(|at| !after.get(member).is_some_and(|has| has.contains(at)))
                .count()
        })
        .sum()
}

/// Each partition that has a subscriber is exactly one member's, who subscribes to it.
fn check_complete(question: &Question, assigned: &[Vec<Place>]) -> Result<(), TestCaseError> {
    let mut all: Vec<Place> = assigned.concat();
    all.sort_unstable();
    let expected: Vec<Place> = (0..question.topics.len())
        .filter(|topic| question.members.iter().any(|(_, topics)| topics.contains(topic)))
        .flat_map(|topic| (0..question.topics[topic].len()).map(move |at| (topic, u32::try_from(at).unwrap())))
        .collect();
    prop_assert_eq!(all, expected);
    for ((_, topics), places) in question.members.iter().zip(assigned) {
        prop_assert!(places.iter().all(|(topic, _)| topics.contains(topic)));
    }
    Ok(())
}

/// Who has a partition of a topic has at most one more than any other subscriber of it.
fn check_level(question: &Question, assigned: &[Vec<Place>]) -> Result<(), TestCaseError> {
    for places in assigned {
        for (topic, _) in places {
            for ((_, topics), other) in question.members.iter().zip(assigned) {
                prop_assert!(
                    !topics.contains(topic) || places.len() <= other.len() + 1,
                    "{:?}",
                    loads(assigned)
                );
            }
        }
    }
    Ok(())
}

fn question(same: bool) -> impl Strategy<Value = Question> {
    let rack = || proptest::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
    let racks = proptest::collection::vec(rack(), 0..3);
    let topics = proptest::collection::vec(proptest::collection::vec(racks, 0..12), 1..5);
    topics.prop_flat_map(move |topics| {
        let all: Vec<usize> = (0..topics.len()).collect();
        let least = if same { all.len() } else { 0 };
        let subscription = proptest::sample::subsequence(all.clone(), least..=all.len());
        let members = proptest::collection::vec((proptest::option::of(rack()), subscription), 1..8);
        members.prop_map(move |members| Question {
            topics: topics.clone(),
            members,
        })
    })
}

/// What members have had before, some of it no more valid, some of it twice.
fn owned() -> impl Strategy<Value = Vec<Vec<Place>>> {
    proptest::collection::vec(proptest::collection::vec((0usize..6, 0u32..14), 0..12), 0..8)
}

proptest! {
    #[test]
    fn all_is_shared_out_and_level(question in prop_oneof![question(true), question(false)], owned in owned()) {
        let assigned = ask(Assignor::Uniform, &question, &owned);
        check_complete(&question, &assigned)?;
        check_level(&question, &assigned)?;
        // The same question, and one that asks again, have the same answer.
        prop_assert_eq!(&ask(Assignor::Uniform, &question, &owned), &assigned);
        prop_assert_eq!(&ask(Assignor::Uniform, &question, &assigned), &assigned);
    }

    #[test]
    fn range_shares_out_all(question in prop_oneof![question(true), question(false)]) {
        let assigned = ask(Assignor::Range, &question, &[]);
        check_complete(&question, &assigned)?;
        let mut bare = question.clone();
        bare.members.iter_mut().for_each(|member| member.0 = None);
        let plain = ask(Assignor::Range, &bare, &[]);
        for topic in 0..question.topics.len() {
            // Of each topic nobody has more or less for the sake of racks.
            let numbers = |assigned: &[Vec<Place>]| {
                let mut numbers: Vec<usize> =
                    assigned.iter().map(|places| places.iter().filter(|(of, _)| *of == topic).count()).collect();
                numbers.sort_unstable();
                numbers
            };
            prop_assert_eq!(numbers(&assigned), numbers(&plain));
            // Topics that are alike meet.
            for other in 0..topic {
                let subscribed = |topic| question.members.iter().map(move |(_, topics)| topics.contains(&topic));
                if question.topics[topic].len() == question.topics[other].len() && subscribed(topic).eq(subscribed(other)) {
                    for places in &assigned {
                        for (_, at) in places.iter().filter(|(of, _)| *of == topic) {
                            prop_assert!(places.contains(&(other, *at)));
                        }
                    }
                }
            }
        }
        // Without racks: runs of neighbours, in the order of names.
        for places in &plain {
            for pair in places.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                prop_assert_eq!(pair[0].1 + 1, pair[1].1);
            }
        }
    }

    /// Members of equal subscription: exactly as many moves as the numbers need.
    #[test]
    fn no_move_is_in_vain(question in question(true), joins in 0usize..3, leaves in 0usize..3) {
        let before = ask(Assignor::Uniform, &question, &[]);
        let mut after = question.clone();
        let keep = question.members.len().saturating_sub(leaves).max(1);
        after.members.truncate(keep);
        after.members.extend((0..joins).map(|_| question.members[0].clone()));
        let owned = &before[..keep];
        let assigned = ask(Assignor::Uniform, &after, owned);
        let total: usize = question.topics.iter().map(Vec::len).sum();
        let (quota, extra) = (total / after.members.len(), total % after.members.len());
        let mut has: Vec<usize> = loads(owned);
        has.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
        let needed: usize = has.iter().enumerate().map(|(at, &count)| count.saturating_sub(quota + usize::from(at < extra))).sum();
        prop_assert_eq!(moved(owned, &assigned), needed);
    }
}

#[test]
fn a_second_member_gets_half_and_a_lost_ones_share_is_spread() {
    let one = ask(Assignor::Uniform, &plain(&[4], 1), &[]);
    assert_eq!(loads(&one), [4]);
    let two = ask(Assignor::Uniform, &plain(&[4], 2), &one);
    assert_eq!(loads(&two), [2, 2]);
    assert_eq!(moved(&one, &two), 2);
    let three = ask(Assignor::Uniform, &plain(&[7], 3), &[]);
    assert_eq!(loads(&three), [3, 2, 2]);
    let back = ask(Assignor::Uniform, &plain(&[7], 2), &three[1..]);
    assert_eq!(moved(&three[1..], &back), 0);
}

#[test]
fn range_gives_runs_that_meet() {
    let assigned = ask(Assignor::Range, &plain(&[5, 5], 2), &[]);
    assert_eq!(assigned[0], [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    assert_eq!(assigned[1], [(0, 3), (0, 4), (1, 3), (1, 4)]);
}

#[test]
fn range_prefers_a_members_own_rack_and_stays_level() {
    let racks = |names: &str| -> Vec<Vec<String>> { names.chars().map(|name| vec![name.to_string()]).collect() };
    let members = |names: &[&str], topics: usize| -> Vec<(Option<String>, Vec<usize>)> {
        let member = |name: &&str| ((!name.is_empty()).then(|| (*name).to_owned()), (0..topics).collect());
        names.iter().map(member).collect()
    };
    let of = |topics: &[&str], names: &[&str]| {
        let question = Question {
            topics: topics.iter().map(|names| racks(names)).collect(),
            members: members(names, topics.len()),
        };
        ask(Assignor::Range, &question, &[])
    };
    assert_eq!(of(&["abab"], &["b", "a"]), [vec![(0, 1), (0, 3)], vec![(0, 0), (0, 2)]]);
    // All replicas are near one: it has no more than its share, the first ones.
    assert_eq!(of(&["aaaa"], &["b", "a"]), [vec![(0, 2), (0, 3)], vec![(0, 0), (0, 1)]]);
    // The one more is for who is near.
    assert_eq!(of(&["aaa"], &["b", "a"]), [vec![(0, 2)], vec![(0, 0), (0, 1)]]);
    // Racks that nobody is in, or that are not known.
    assert_eq!(of(&["cccc"], &["b", "a"]), of(&["abab"], &["", ""]));
    // Topics that are alike meet, by partitions that are near in both.
    assert_eq!(
        of(&["abab", "aabb"], &["b", "a"]),
        [
            vec![(0, 1), (0, 3), (1, 1), (1, 3)],
            vec![(0, 0), (0, 2), (1, 0), (1, 2)]
        ]
    );
    assert_eq!(of(&["aabb", "abab"], &["b", "a"]), of(&["abab", "aabb"], &["b", "a"]));
}

#[test]
fn a_members_own_rack_is_preferred() {
    let rack = |name: &str| vec![name.to_owned()];
    let question = Question {
        topics: vec![vec![rack("a"), rack("b"), rack("b"), rack("a")]],
        members: vec![(Some("b".into()), vec![0]), (Some("a".into()), vec![0])],
    };
    let assigned = ask(Assignor::Uniform, &question, &[]);
    assert_eq!(assigned, [vec![(0, 1), (0, 2)], vec![(0, 0), (0, 3)]]);
    // One that has to give some keeps what is near.
    let alone = vec![vec![(0, 0), (0, 1), (0, 2), (0, 3)]];
    assert_eq!(ask(Assignor::Uniform, &question, &alone), assigned);
    // Members of different topics.
    let mut mixed = question;
    mixed.topics.push(Vec::new());
    mixed.members[0].1.push(1);
    assert_eq!(ask(Assignor::Uniform, &mixed, &[]), assigned);
}

/// As above.
#[test]
fn range_of_many_members_and_partitions_costs_little() {
    const MEMBERS: usize = 1_000;
    let mut question = plain(&[10_000], MEMBERS);
    for (at, racks) in question.topics[0].iter_mut().enumerate() {
        racks.extend([format!("r{}", at % 3), format!("r{}", (at + 1) % 3)]);
    }
    for (at, (rack, _)) in question.members.iter_mut().enumerate() {
        *rack = Some(format!("r{}", at % 4));
    }
    let begun = Instant::now();
    let assigned = ask(Assignor::Range, &question, &[]);
    println!("range of {MEMBERS} members: {:?}", begun.elapsed());
    check_complete(&question, &assigned).unwrap();
    assert!(loads(&assigned).iter().all(|&load| load == 10));
}

/// A cost that grows with members times partitions would take minutes here, not a second.
#[test]
fn many_members_and_partitions_cost_little() {
    for (members, mixed) in [(1_000, false), (1_000, true), (10_000, false)] {
        let mut question = plain(&[100; 100], members);
        if mixed {
            for (at, member) in question.members.iter_mut().enumerate() {
                member.1.retain(|topic| topic % 10 != at % 10);
            }
        }
        let begun = Instant::now();
        let before = ask(Assignor::Uniform, &question, &[]);
        let first = begun.elapsed();
        question.members.push(question.members[0].clone());
        let begun = Instant::now();
        let after = ask(Assignor::Uniform, &question, &before);
        println!(
            "{members} members, mixed {mixed}: {first:?}, one more: {:?}",
            begun.elapsed()
        );
        check_complete(&question, &after).unwrap();
        assert!(moved(&before, &after) <= 10_000 / members + 1);
        assert!(loads(&after).iter().all(|&load| load <= 10_000 / members + 2));
    }
}
