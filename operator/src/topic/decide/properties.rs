//! From wherever a pass was cut off, the next ones come to rest, and another's topic is never touched.

use millrace_crds::{AdoptionPolicy, DeletionPolicy};
use proptest::prelude::*;

use super::{
    tests::{ID, ID_TEXT, fresh, owner, topic},
    *,
};
use crate::{
    conditions::Status,
    topic::seen::{Found, Reach, Replicas, Rival},
};

/// Applies steps to what is seen, as an obliging cluster would.
fn carry_out(seen: &mut Seen, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Remember {
                memory,
                finalizer,
                recreated,
            } => {
                seen.object.memory = memory;
                seen.object.finalizer = finalizer;
                seen.object.recreate &= !recreated;
            }
            Step::Create(creation) => {
                assert_eq!(seen.topic, None, "a topic is made where there is one");
                seen.topic = Some(Found {
                    id: vec![9; 16],
                    owner: Some(seen.object.owner()),
                    partitions: creation.partitions,
                    replicas: Replicas {
                        fewest: creation.replication_factor,
                        targets: [creation.replication_factor].into(),
                        ..Replicas::default()
                    },
                    config: creation.config,
                    ..Found::default()
                });
            }
            Step::Claim { .. } => topic(seen).owner = Some(seen.object.owner()),
            Step::Disown(_) => topic(seen).owner = None,
            Step::Configure { set, unset, .. } => {
                let config = &mut topic(seen).config;
                config.extend(set);
                config.retain(|key, _| !unset.contains(key));
            }
            Step::Grow(partitions) => {
                assert!(topic(seen).partitions < partitions);
                topic(seen).partitions = partitions;
            }
            Step::Replicate { factor, .. } => topic(seen).replicas.targets = [factor].into(),
            Step::Delete { .. } => {
                let me = seen.object.owner();
                assert_eq!(topic(seen).owner, Some(me), "another's topic is deleted");
                seen.topic = None;
            }
            Step::Release { .. } => seen.object.finalizer = false,
        }
    }
}

fn any_owner() -> impl Strategy<Value = Option<TopicOwner>> {
    prop_oneof![
        Just(None),
        Just(Some(owner("a", "t", "u"))),
        Just(Some(owner("a", "t", "former"))),
        Just(Some(owner("b", "x", "other"))),
    ]
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let object = (
        prop::option::of(prop_oneof![Just(DeletionPolicy::Delete), Just(DeletionPolicy::Retain)]),
        prop::option::of(prop_oneof![
            Just(AdoptionPolicy::IfUnowned),
            Just(AdoptionPolicy::Never)
        ]),
        prop::option::of(1..5_i32),
        prop::option::of(1..4_i32),
        prop::collection::btree_map("[a-c]", "[12]", 0..3),
        any::<[bool; 5]>(),
        prop::collection::btree_set("[a-d]", 0..3),
        prop::option::of(prop_oneof![Just(ID_TEXT), Just("another")]),
    );
    let topic = prop::option::of((
        any_owner(),
        prop_oneof![Just(Rival::There), Just(Rival::Gone), Just(Rival::Unknown)],
        1..5_i32,
        1..4_i32,
        prop::collection::btree_map("[a-d]", "[12]", 0..4),
    ));
    let reach = prop_oneof![
        6 => Just(fresh().reach),
        1 => Just(Reach::NotFound),
        1 => Just(Reach::Refused("No.".into())),
        1 => Just(Reach::Ending("gone".into())),
        1 => Just(Reach::Unreachable("No.".into())),
    ];
    (object, topic, reach).prop_map(|(object, topic, reach)| {
        let mut seen = fresh();
        let (deletion, adoption, partitions, factor, config, flags, managed, id) = object;
        seen.object.spec.deletion_policy = deletion;
        seen.object.spec.adoption_policy = adoption;
        seen.object.spec.partitions = partitions;
        seen.object.spec.replication_factor = factor;
        seen.object.spec.config = config.into_iter().collect();
        [
            seen.object.paused,
            seen.object.recreate,
            seen.object.deleting,
            seen.object.finalizer,
            seen.object.memory.adopted,
        ] = flags;
        seen.object.memory.managed = managed;
        seen.object.memory.topic_id = id.map(str::to_owned);
        seen.topic =
            topic
                .filter(|_| matches!(reach, Reach::Reached(_)))
                .map(|(owner, rival, partitions, replicas, config)| Found {
                    id: ID.into(),
                    owner,
                    rival,
                    partitions,
                    replicas: Replicas {
                        fewest: replicas,
                        targets: [replicas].into(),
                        ..Replicas::default()
                    },
                    config,
                    ..Found::default()
                });
        seen.reach = reach;
        seen
    })
}

proptest! {
    /// From wherever a pass was cut off, a few rounds come to rest, and nothing of another's is touched on the way.
    #[test]
    fn it_comes_to_rest_from_everywhere(mut seen in any_seen(), cut in any::<[u8; 4]>()) {
        let other = seen.topic.clone().filter(|topic| {
            topic.owner.as_ref().is_some_and(|owner| *owner != seen.object.owner())
                && topic.rival != Rival::Gone
                && topic.owner.as_ref().is_some_and(|owner| owner.namespace == "b")
        });
        let was_deleting = seen.object.deleting;
        let mut rounds = 0;
        while let Decision::Act(mut steps) = decide(&seen) {
            // Killed between two steps.
            if let Some(cut) = cut.get(rounds) {
                steps.truncate(1 + usize::from(*cut) % 3);
            }
            carry_out(&mut seen, steps);
            rounds += 1;
            prop_assert!(rounds <= 8, "{seen:?}");
        }
        if let Some(other) = other {
            prop_assert_eq!(seen.topic.as_ref(), Some(&other));
        }
        if was_deleting && matches!(seen.reach, Reach::Reached(_)) {
            prop_assert!(!seen.object.finalizer, "held up: {:?}", seen);
        }
        if let Decision::Report(report, _) = decide(&seen) {
            let synced = report.conditions.iter().find(|one| one.kind == "Synced").map(|one| one.status);
            if synced == Some(Status::True) {
                let topic = seen.topic.clone().unwrap();
                prop_assert_eq!(topic.owner, Some(seen.object.owner()));
                for (key, value) in seen.object.spec.config.iter() {
                    prop_assert_eq!(topic.config.get(key).map(String::as_str), Some(value));
                }
                let asked = seen.object.spec.partitions;
                prop_assert!(asked.is_none_or(|asked| asked == topic.partitions));
                let keeps = seen.object.deletion_policy(seen.object.memory.adopted) == DeletionPolicy::Delete;
                prop_assert_eq!(seen.object.finalizer, keeps);
            }
        }
    }
}
