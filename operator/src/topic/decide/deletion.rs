//! The object is being deleted. Each way to let it go comes before each wait (cloudnative-pg#10853), and a topic is
//! deleted only if it is this object's, the object asks for it, and nothing but the object goes away.

use millrace_crds::DeletionPolicy;

use super::{
    Decision, Next, Step,
    report::{Report, deleting},
};
use crate::topic::seen::{Reach, Seen, Tried, Why};

pub(super) fn decide(seen: &Seen) -> Decision {
    let object = &seen.object;
    if !object.finalizer {
        return Decision::Leave;
    }
    let keep = |why: &str| {
        Decision::Act(vec![Step::Release {
            kept: Some(why.to_owned()),
        }])
    };
    if object.paused {
        return keep("the Topic is paused");
    }
    if object.deletion_policy(object.memory.adopted) == DeletionPolicy::Retain {
        return retain(seen);
    }
    match &seen.reach {
        Reach::NotFound => return keep("its Cluster is not there"),
        Reach::Refused(_) => return keep("its Cluster is not there, or does not take this Topic"),
        Reach::Ending(why) => return keep(why),
        Reach::Settling => return Decision::Wait,
        Reach::Unreachable(why) => return waits(why, Next::Later),
        Reach::Reached(_) => {}
    }
    let Some(topic) = &seen.topic else {
        return Decision::Act(vec![Step::Release { kept: None }]);
    };
    if topic.owner.as_ref() != Some(&object.owner()) {
        return keep("it is not this Topic's");
    }
    match seen.refusal(Tried::Delete) {
        None => Decision::Act(vec![Step::Delete { id: topic.id.clone() }]),
        Some(refusal) if refusal.why == Why::Later => waits("the cluster can't delete it at the moment", Next::Soon),
        Some(refusal) => waits(
            &format!("the cluster refuses to delete it: {}", refusal.words),
            Next::Later,
        ),
    }
}

/// The topic stays, for whoever takes it over. That can be said only if the cluster answers; if it does not, who takes
/// it over finds that its owner is gone.
fn retain(seen: &Seen) -> Decision {
    let owner = seen.object.owner();
    let release = Step::Release {
        kept: Some("deletionPolicy is Retain".to_owned()),
    };
    let owned = seen
        .topic
        .as_ref()
        .is_some_and(|topic| topic.owner.as_ref() == Some(&owner));
    if owned && seen.refusal(Tried::Claim).is_none() {
        return Decision::Act(vec![Step::Disown(owner), release]);
    }
    Decision::Act(vec![release])
}

fn waits(why: &str, next: Next) -> Decision {
    let report: Report = deleting(why);
    Decision::Report(Box::new(report), next)
}
