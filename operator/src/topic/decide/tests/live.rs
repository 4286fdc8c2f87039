//! Objects that are not being deleted.

use millrace_crds::{AdoptionPolicy, DeletionPolicy};

use super::*;

const READY: (&str, &str, &str) = ("Ready", "True", "Ready");
const SYNCED: (&str, &str, &str) = ("Synced", "True", "Synced");

#[test]
fn the_finalizer_comes_before_the_topic() {
    let seen = fresh();
    assert_eq!(steps(&seen), [remember(&seen, |_| {}, true), create(&[])]);
    let mut kept = fresh();
    kept.object.spec.deletion_policy = Some(DeletionPolicy::Retain);
    assert_eq!(steps(&kept), [create(&[])]);
}

#[test]
fn settings_are_known_to_be_ours_before_they_are_set() {
    let mut seen = fresh();
    seen.object.spec.config = settings(&[("retention.ms", "1")]);
    assert_eq!(
        steps(&seen),
        [
            remember(&seen, |memory| memory.managed = keys(&["retention.ms"]), true),
            create(&[("retention.ms", "1")]),
        ]
    );
}

#[test]
fn what_was_made_is_remembered_and_then_ready() {
    let mut seen = settled();
    seen.object.memory.topic_id = None;
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.topic_id = Some(ID_TEXT.into()), true)]
    );
    let seen = settled();
    assert_eq!(conditions(&seen), [READY, SYNCED]);
    let (report, next) = reported(&seen);
    assert_eq!(next, Next::Settled);
    let facts = report.facts.unwrap();
    assert_eq!(facts.id.as_deref(), Some(ID_TEXT));
    assert_eq!((facts.partitions, facts.replication_factor), (Some(3), Some(3)));
    assert_eq!((facts.adopted, facts.owner.as_deref()), (Some(false), Some("a/t")));
}

#[test]
fn a_creation_that_is_refused_is_told_and_not_repeated() {
    for (why, reason, stalled, next) in [
        (Why::InvalidConfig, "InvalidConfig", true, Next::Settled),
        (Why::InvalidSpec, "InvalidSpec", true, Next::Settled),
        (Why::TooFewBrokers, "TooFewBrokers", false, Next::Later),
        (Why::PlacementBlocked, "PlacementBlocked", false, Next::Later),
        (Why::LimitReached, "LimitReached", false, Next::Later),
        (Why::Other, "Refused", false, Next::Later),
        (Why::Later, "ClusterNotReady", false, Next::Soon),
    ] {
        let mut seen = fresh();
        seen.object.finalizer = true;
        refuse(&mut seen, Tried::Create, why);
        let mut expected = vec![("Ready", "False", reason), ("Synced", "False", reason)];
        if stalled {
            expected.push(("Stalled", "True", reason));
        }
        assert_eq!(conditions(&seen), expected);
        assert_eq!(reported(&seen).1, next, "{reason}");
        let changes = why == Why::Later;
        assert_eq!(message(&seen, "Ready") != "The broker says so.", changes, "{reason}");
    }
}

#[test]
fn a_cluster_that_is_not_reached_is_told_and_nothing_else_is_done() {
    for (reach, reason) in [
        (Reach::NotFound, "ClusterNotFound"),
        (Reach::Refused("No.".into()), "NotAllowedOrNotFound"),
        (Reach::Ending("gone".into()), "ClusterNotReady"),
        (Reach::Settling, "ClusterNotReady"),
        (Reach::Unreachable("No.".into()), "ClusterNotReady"),
    ] {
        for mut seen in [fresh(), settled()] {
            seen.topic = None;
            seen.reach = reach.clone();
            assert_eq!(
                conditions(&seen),
                [("Ready", "False", reason), ("Synced", "Unknown", reason)]
            );
            let (report, next) = reported(&seen);
            assert_eq!((report.facts, next), (None, Next::Later), "what was told stays");
        }
    }
}

#[test]
fn the_wish_to_keep_the_topic_needs_no_cluster() {
    let mut seen = settled();
    seen.topic = None;
    seen.reach = Reach::Unreachable("No.".into());
    seen.object.spec.deletion_policy = Some(DeletionPolicy::Retain);
    assert_eq!(steps(&seen), [remember(&seen, |_| {}, false)]);
    // The other way round it waits until the cluster is there.
    let mut seen = fresh();
    seen.reach = Reach::NotFound;
    seen.object.spec.deletion_policy = Some(DeletionPolicy::Delete);
    reported(&seen);
}

#[test]
fn the_deletion_policy_decides_about_the_finalizer() {
    for (policy, adopted, finalizer) in [
        (None, false, true),
        (None, true, false),
        (Some(DeletionPolicy::Delete), true, true),
        (Some(DeletionPolicy::Retain), false, false),
    ] {
        for has in [false, true] {
            let mut seen = settled();
            seen.object.spec.deletion_policy = policy;
            seen.object.memory.adopted = adopted;
            seen.object.finalizer = has;
            if has == finalizer {
                reported(&seen);
            } else {
                assert_eq!(
                    steps(&seen),
                    [remember(&seen, |_| {}, finalizer)],
                    "{policy:?} {adopted}"
                );
            }
        }
    }
}

#[test]
fn a_topic_that_nobody_owns_is_taken_over_and_kept_at_the_end() {
    let mut seen = fresh();
    seen.topic = settled().topic;
    topic(&mut seen).owner = None;
    let claim = Step::Claim {
        id: ID.into(),
        adopt: true,
    };
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.adopted = true, false), claim.clone()]
    );
    seen.object.spec.deletion_policy = Some(DeletionPolicy::Delete);
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.adopted = true, true), claim]
    );
    seen.object.spec.adoption_policy = Some(AdoptionPolicy::Never);
    assert_eq!(
        conditions(&seen),
        [
            ("Ready", "False", "AlreadyExists"),
            ("Synced", "False", "AlreadyExists"),
            ("Stalled", "True", "AlreadyExists")
        ]
    );
}

#[test]
fn one_that_was_managed_before_is_taken_back_whatever_the_policy_of_adoption() {
    let mut seen = settled();
    topic(&mut seen).owner = None;
    seen.object.spec.adoption_policy = Some(AdoptionPolicy::Never);
    let claim = Step::Claim {
        id: ID.into(),
        adopt: true,
    };
    assert_eq!(steps(&seen), [claim], "and it is no adoption");
    // One that was made anew behind our back is not that one.
    topic(&mut seen).id = vec![8; 16];
    assert_eq!(steps(&seen), [remember(&seen, |_| {}, false)]);
    seen.object.finalizer = false;
    assert_eq!(conditions(&seen)[0], ("Ready", "False", "AlreadyExists"));
}

#[test]
fn an_object_that_took_the_place_of_the_owner_inherits() {
    let mut seen = fresh();
    seen.topic = settled().topic;
    topic(&mut seen).owner = Some(owner("a", "t", "former"));
    seen.object.spec.adoption_policy = Some(AdoptionPolicy::Never);
    let claim = Step::Claim {
        id: ID.into(),
        adopt: false,
    };
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.adopted = true, false), claim]
    );
}

#[test]
fn another_s_topic_is_left_alone() {
    for (namespace, name, rival) in [
        ("a", "other", Rival::There),
        ("b", "t", Rival::There),
        ("b", "t", Rival::Unknown),
    ] {
        let mut seen = fresh();
        seen.object.spec.partitions = Some(99);
        seen.object.spec.config = settings(&[("retention.ms", "1")]);
        seen.object.spec.deletion_policy = Some(DeletionPolicy::Delete);
        seen.topic = settled().topic;
        topic(&mut seen).owner = Some(owner(namespace, name, "x"));
        topic(&mut seen).rival = rival;
        assert_eq!(
            conditions(&seen),
            [
                ("Ready", "False", "Conflict"),
                ("Synced", "False", "Conflict"),
                ("Stalled", "True", "Conflict")
            ]
        );
        let said = message(&seen, "Ready");
        assert!(said.contains(&format!("Topic {namespace}/{name}")), "{said}");
        assert_eq!(said.contains("can't look"), rival == Rival::Unknown, "{said}");
        let (report, next) = reported(&seen);
        let facts = report.facts.unwrap();
        assert_eq!(facts.owner, Some(format!("{namespace}/{name}")));
        assert_eq!(
            (facts.id, facts.partitions),
            (None, None),
            "nothing else of another's topic"
        );
        assert_eq!(next, Next::Later);
        // It does not stand in the way of its own deletion either.
        seen.object.finalizer = true;
        assert_eq!(steps(&seen), [remember(&seen, |_| {}, false)]);
    }
}

#[test]
fn a_record_that_is_left_over_is_taken_off_first() {
    let mut seen = fresh();
    seen.topic = settled().topic;
    topic(&mut seen).owner = Some(owner("b", "x", "gone"));
    topic(&mut seen).rival = Rival::Gone;
    assert_eq!(
        steps(&seen),
        [
            remember(&seen, |memory| memory.adopted = true, false),
            Step::Disown(owner("b", "x", "gone")),
            Step::Claim {
                id: ID.into(),
                adopt: true
            },
        ]
    );
    seen.object.spec.adoption_policy = Some(AdoptionPolicy::Never);
    assert_eq!(conditions(&seen)[0], ("Ready", "False", "AlreadyExists"));
}

#[test]
fn a_topic_that_is_gone_is_made_anew_only_by_permission() {
    let mut seen = settled();
    seen.topic = None;
    assert_eq!(
        conditions(&seen),
        [
            ("Ready", "False", "TopicMissing"),
            ("Synced", "False", "TopicMissing"),
            ("Stalled", "True", "TopicMissing")
        ]
    );
    seen.object.recreate = true;
    assert_eq!(
        steps(&seen),
        [create(&[])],
        "the former id stays known until the new one is"
    );
    let mut made = settled();
    made.object.recreate = true;
    topic(&mut made).id = vec![8; 16];
    assert_eq!(
        steps(&made),
        [Step::Remember {
            memory: Memory {
                topic_id: Some("08080808-0808-0808-0808-080808080808".into()),
                ..Memory::default()
            },
            finalizer: true,
            recreated: true,
        }]
    );
}

#[test]
fn a_topic_made_anew_after_an_adoption_is_this_object_s_own() {
    let mut seen = settled();
    seen.topic = None;
    seen.object.memory.adopted = true;
    seen.object.finalizer = false;
    seen.object.recreate = true;
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.adopted = false, true), create(&[])]
    );
}

#[test]
fn only_what_differs_is_set_and_only_what_was_ours_is_unset() {
    let mut seen = settled();
    seen.object.spec.config = settings(&[("a", "1"), ("b", "2")]);
    seen.object.memory.managed = keys(&["a", "old", "unset.already"]);
    topic(&mut seen).config = strings(&[("a", "1"), ("old", "x"), ("foreign", "y")]);
    assert_eq!(
        steps(&seen),
        [
            remember(&seen, |memory| memory.managed = keys(&["a", "b", "old"]), true),
            Step::Configure {
                set: strings(&[("b", "2")]),
                unset: keys(&["old"]),
                drift: Vec::new(),
            },
        ]
    );
    // Afterwards it is forgotten, so that somebody else may set it.
    seen.object.memory.managed = keys(&["a", "b", "old"]);
    topic(&mut seen).config = strings(&[("a", "1"), ("b", "2"), ("foreign", "y")]);
    assert_eq!(
        steps(&seen),
        [remember(&seen, |memory| memory.managed = keys(&["a", "b"]), true)]
    );
    seen.object.memory.managed = keys(&["a", "b"]);
    topic(&mut seen).config = strings(&[("a", "1"), ("b", "2"), ("old", "z")]);
    assert_eq!(conditions(&seen), [READY, SYNCED]);
    let facts = reported(&seen).0.facts.unwrap();
    assert_eq!(facts.config, settings(&[("a", "1"), ("b", "2")]));
}

#[test]
fn what_somebody_else_has_changed_is_told_as_such() {
    let mut seen = settled();
    seen.object.spec.config = settings(&[("a", "1"), ("b", "2")]);
    seen.object.spec.replication_factor = Some(2);
    seen.object.memory.managed = keys(&["a", "b"]);
    topic(&mut seen).config = strings(&[("a", "9")]);
    let drift = |key: &str, found: Option<&str>, wanted: &str| Drift {
        key: key.into(),
        found: found.map(str::to_owned),
        wanted: wanted.into(),
    };
    let expected = |told: bool| {
        [
            Step::Configure {
                set: strings(&[("a", "1"), ("b", "2")]),
                unset: keys(&[]),
                drift: if told {
                    vec![drift("a", Some("9"), "1"), drift("b", None, "2")]
                } else {
                    Vec::new()
                },
            },
            Step::Replicate {
                factor: 2,
                drift: told.then(|| drift("replicationFactor", Some("3"), "2")),
            },
        ]
    };
    assert_eq!(steps(&seen), expected(false));
    synced_before(&mut seen);
    assert_eq!(steps(&seen), expected(true));
    // A newer spec is what makes the difference then.
    seen.object.generation = Some(2);
    assert_eq!(steps(&seen), expected(false));
}

#[test]
fn partitions_are_added_and_never_fought_about() {
    let mut seen = settled();
    seen.object.spec.partitions = Some(5);
    assert_eq!(steps(&seen), [Step::Grow(5)]);
    topic(&mut seen).partitions = 5;
    assert_eq!(conditions(&seen), [READY, SYNCED]);
    topic(&mut seen).partitions = 6;
    assert_eq!(
        conditions(&seen),
        [READY, ("Synced", "False", "MorePartitionsThanSpec")]
    );
}

#[test]
fn replicas_are_changed_in_the_background() {
    let mut seen = settled();
    seen.object.spec.replication_factor = Some(2);
    assert_eq!(steps(&seen), [Step::Replicate { factor: 2, drift: None }]);
    topic(&mut seen).replicas = Replicas {
        fewest: 1,
        targets: [2].into(),
        changing: 3,
        bytes_remaining: 640,
    };
    assert_eq!(
        conditions(&seen),
        [
            READY,
            ("Synced", "False", "MovingReplicas"),
            ("Reconciling", "True", "MovingReplicas")
        ]
    );
    let (report, next) = reported(&seen);
    let facts = report.facts.unwrap();
    let change = facts.replica_change.unwrap();
    assert_eq!(
        (change.target, change.moves_remaining, change.bytes_remaining),
        (2, 3, 640)
    );
    assert_eq!((facts.replication_factor, next), (Some(1), Next::Soon));
    // A new wish takes the place of the one that is under way.
    seen.object.spec.replication_factor = Some(3);
    assert_eq!(steps(&seen), [Step::Replicate { factor: 3, drift: None }]);
}

#[test]
fn a_change_that_is_refused_leaves_the_topic_ready_and_does_not_hold_up_the_others() {
    for (what, why, reason, stalled, next) in [
        (Tried::Config, Why::InvalidConfig, "InvalidConfig", true, Next::Settled),
        (Tried::Replicas, Why::TooFewBrokers, "TooFewBrokers", false, Next::Later),
        (Tried::Partitions, Why::LimitReached, "LimitReached", false, Next::Later),
        (Tried::Config, Why::Later, "ClusterNotReady", false, Next::Soon),
    ] {
        let mut seen = settled();
        seen.object.spec.config = settings(&[("a", "1")]);
        seen.object.memory.managed = keys(&["a"]);
        seen.object.spec.partitions = Some(4);
        seen.object.spec.replication_factor = Some(4);
        refuse(&mut seen, what, why);
        assert_eq!(steps(&seen).len(), 2, "the other two are tried");
        for other in [Tried::Config, Tried::Partitions, Tried::Replicas] {
            if other != what {
                match other {
                    Tried::Config => topic(&mut seen).config = strings(&[("a", "1")]),
                    Tried::Partitions => topic(&mut seen).partitions = 4,
                    _ => topic(&mut seen).replicas.targets = [4].into(),
                }
            }
        }
        let mut expected = vec![READY, ("Synced", "False", reason)];
        if stalled {
            expected.push(("Stalled", "True", reason));
        }
        assert_eq!(conditions(&seen), expected);
        assert_eq!(reported(&seen).1, next);
    }
}

#[test]
fn without_leaders_it_is_not_ready() {
    let mut seen = settled();
    topic(&mut seen).leaderless = 2;
    assert_eq!(conditions(&seen), [("Ready", "False", "WaitingForLeaders"), SYNCED]);
    assert_eq!(
        message(&seen, "Ready"),
        "2 of 3 partitions have no leader: they can be neither written nor read."
    );
    assert_eq!(reported(&seen).1, Next::Soon);
}

#[test]
fn paused_nothing_is_changed() {
    let mut absent = fresh();
    absent.object.paused = true;
    assert_eq!(
        conditions(&absent),
        [("Ready", "False", "Paused"), ("Synced", "Unknown", "Paused")]
    );
    let mut there = settled();
    there.object.paused = true;
    there.object.finalizer = false;
    there.object.spec.partitions = Some(9);
    there.object.spec.config = settings(&[("a", "1")]);
    assert_eq!(conditions(&there), [READY, ("Synced", "Unknown", "Paused")]);
    let mut claimable = settled();
    claimable.object.paused = true;
    topic(&mut claimable).owner = None;
    assert_eq!(conditions(&claimable)[0], ("Ready", "False", "Paused"));
}
