//! Objects that are being deleted.

use millrace_crds::DeletionPolicy;

use super::*;

/// [`settled`], and somebody has deleted the object.
fn deleted() -> Seen {
    let mut seen = settled();
    seen.object.deleting = true;
    seen
}

#[track_caller]
fn is_kept(seen: &Seen) {
    match &steps(seen)[..] {
        [Step::Release { kept: Some(_) }] => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deleted_object_takes_its_topic_with_it_and_goes_when_that_is_gone() {
    let mut seen = deleted();
    assert_eq!(steps(&seen), [Step::Delete { id: ID.into() }]);
    seen.topic = None;
    assert_eq!(steps(&seen), [Step::Release { kept: None }]);
    seen.object.finalizer = false;
    assert_eq!(decide(&seen), Decision::Leave);
}

#[test]
fn nothing_but_the_cluster_s_silence_holds_a_deleted_object_up() {
    for reach in [
        Reach::NotFound,
        Reach::Refused("No.".into()),
        Reach::Ending("the definition of Topics is being deleted".into()),
    ] {
        let mut seen = deleted();
        seen.reach = reach;
        is_kept(&seen);
        seen.topic = None;
        is_kept(&seen);
    }
    let mut unreachable = deleted();
    unreachable.topic = None;
    unreachable.reach = Reach::Unreachable("None answers".into());
    assert_eq!(
        conditions(&unreachable),
        [
            ("Ready", "False", "Deleting"),
            ("Synced", "Unknown", "Deleting"),
            ("Reconciling", "True", "Deleting")
        ]
    );
    assert!(
        message(&unreachable, "Ready").contains("deletionPolicy: Retain"),
        "what to do is said"
    );
    unreachable.reach = Reach::Settling;
    assert_eq!(decide(&unreachable), Decision::Wait);
    unreachable.object.paused = true;
    is_kept(&unreachable);
}

#[test]
fn another_s_topic_is_never_deleted() {
    for other in [
        None,
        Some(owner("a", "other", "u")),
        Some(owner("a", "t", "former")),
        Some(owner("b", "t", "u")),
    ] {
        for rival in [Rival::There, Rival::Gone, Rival::Unknown] {
            let mut seen = deleted();
            topic(&mut seen).owner = other.clone();
            topic(&mut seen).rival = rival;
            is_kept(&seen);
        }
    }
}

#[test]
fn a_kept_topic_is_left_to_others() {
    let mut seen = deleted();
    seen.object.spec.deletion_policy = Some(DeletionPolicy::Retain);
    let release = || Step::Release {
        kept: Some("deletionPolicy is Retain".into()),
    };
    assert_eq!(steps(&seen), [Step::Disown(owner("a", "t", "u")), release()]);
    refuse(&mut seen, Tried::Claim, Why::Later);
    assert_eq!(
        steps(&seen),
        [release()],
        "a cluster that does not answer holds nobody up"
    );
    topic(&mut seen).owner = None;
    assert_eq!(steps(&seen), [release()]);
    seen.topic = None;
    seen.reach = Reach::Unreachable("No.".into());
    assert_eq!(steps(&seen), [release()]);
}

#[test]
fn a_deletion_that_is_refused_is_told() {
    let mut seen = deleted();
    refuse(&mut seen, Tried::Delete, Why::Later);
    assert_eq!(conditions(&seen)[0], ("Ready", "False", "Deleting"));
    assert_eq!(reported(&seen).1, Next::Soon);
    seen.refused.clear();
    refuse(&mut seen, Tried::Delete, Why::Other);
    assert!(message(&seen, "Ready").contains("The broker says so."));
    assert_eq!(reported(&seen).1, Next::Later);
}
