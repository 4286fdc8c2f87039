//! How many brokers there are: more at once, fewer only when what they hold is elsewhere. Until its pod is taken away
//! a broker may stay after all.

use std::collections::BTreeSet;

use super::{
    decide::Step,
    seen::{Seen, Told},
    wishes::Wishes,
};
use crate::{record::Record, render::Kind};

/// How scaling stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    /// How many pods there are to be now.
    pub replicas: i32,
    /// Brokers that are on their way out.
    pub leaving: BTreeSet<i32>,
    /// What is to be done before anything is taken away.
    pub before: Vec<Step>,
    /// What is to be done after all that repairs.
    pub after: Vec<Step>,
    /// What a scale-in waits for, if there is one.
    pub waiting: Option<String>,
    /// Brokers that there are to be and that have not come yet.
    pub coming: Vec<i32>,
}

/// Plans.
#[must_use]
pub fn plan(seen: &Seen, wishes: &Wishes, record: &Record) -> Scale {
    let live = seen
        .objects
        .get(&Kind::StatefulSet)
        .and_then(|set| set["spec"]["replicas"].as_i64())
        .and_then(|replicas| i32::try_from(replicas).ok());
    // Who knows of no leader may tell what was once: nothing is taken away by that.
    let told = seen.brokers.told().filter(|told| told.quorum_leader().is_some());
    if record.is_forming() && told.is_none() {
        // The others would begin clusters of their own.
        return Scale {
            replicas: 1,
            coming: vec![0],
            ..Scale::default()
        };
    }
    let mut scale = Scale {
        replicas: replicas(seen, wishes, record, live, told),
        ..Scale::default()
    };
    let Some(told) = told else {
        scale.leaving.clone_from(&record.leaving);
        scale.coming = not_ready(seen, wishes);
        return scale;
    };
    scale.leaving = leaving(seen, told, wishes, record, live.unwrap_or(0).max(scale.replicas));
    scale.coming = not_ready(seen, wishes);
    let back: Vec<i32> = record
        .leaving
        .iter()
        .copied()
        .filter(|id| *id < wishes.replicas && told.broker(*id).is_some_and(|broker| broker.draining))
        .collect();
    if !back.is_empty() {
        // Kept on record until it is done: else they would be drained for ever.
        scale.leaving.extend(&back);
        scale.before.push(Step::CancelDrain(back));
    }
    scale.before.extend(permissions(seen, told, wishes, &scale));
    drain(told, wishes, &mut scale);
    scale.after.extend(remove(seen, told, wishes, record, &scale));
    scale
}

/// How many pods there are to be now.
fn replicas(seen: &Seen, wishes: &Wishes, record: &Record, live: Option<i32>, told: Option<&Told>) -> i32 {
    let wanted = wishes.replicas;
    let Some(told) = told else {
        // Nobody can say who holds what: nothing is taken away. Where the StatefulSet is gone, what was last reported
        // is the best that is known, and one pod too many does no harm.
        let reported = seen.cluster.status.as_ref().and_then(|status| status.replicas);
        let claimed = seen.claims.keys().next_back().map(|last| last + 1);
        return live.or(reported.max(claimed)).unwrap_or(wanted).max(wanted);
    };
    // Whoever still holds something is needed, also if somebody has taken its pod away by hand.
    let holding = told
        .cluster
        .brokers
        .iter()
        .filter(|broker| !is_empty(told, broker.broker_id));
    let needed = holding
        .map(|broker| broker.broker_id + 1)
        .max()
        .unwrap_or(0)
        .max(wanted);
    // Not onto the disk of a broker that was removed: the quorum refuses it for ever. First it goes.
    let ghost = ghosts(seen, told, wishes, record).first().copied();
    let needed = ghost.map_or(needed, |ghost| needed.min(ghost.max(live.unwrap_or(0))));
    match live {
        // One after another, the last first; the next one when nothing is left of the one before.
        Some(live) if live > needed && is_settled(seen, told, wishes, record, live) => live - 1,
        Some(live) if live > needed => live,
        _ => needed,
    }
}

/// Brokers that were removed, and whose claims are still to be deleted.
fn ghosts(seen: &Seen, told: &Told, wishes: &Wishes, record: &Record) -> BTreeSet<i32> {
    if wishes.keeps_claims {
        return BTreeSet::new();
    }
    let left = record.leaving.iter().copied();
    left.filter(|id| told.broker(*id).is_none() && seen.claims.contains_key(id) && !seen.pods.contains_key(id))
        .collect()
}

/// Whether nothing is left of brokers that were taken away.
fn is_settled(seen: &Seen, told: &Told, wishes: &Wishes, record: &Record, live: i32) -> bool {
    let registered = told.cluster.brokers.iter().any(|broker| broker.broker_id >= live);
    let pods = seen.pods.keys().any(|id| *id >= live);
    let claims = !wishes.keeps_claims
        && record
            .leaving
            .iter()
            .any(|id| *id >= live && seen.claims.contains_key(id));
    !registered && !pods && !claims
}

/// Whether a broker holds nothing, is to get nothing, and has no vote.
fn is_empty(told: &Told, id: i32) -> bool {
    let holds = told
        .broker(id)
        .is_some_and(|broker| broker.partitions > 0 || !broker.draining);
    !holds && !told.is_moving(id) && !told.voters().contains(&id)
}

/// On record until nothing is left of them: also their claims. Those of the pods that there are, too, whose brokers may
/// never have run: the last of them goes with the pass that first sees that it is not wanted any more.
fn leaving(seen: &Seen, told: &Told, wishes: &Wishes, record: &Record, pods: i32) -> BTreeSet<i32> {
    let registered = told.cluster.brokers.iter().map(|broker| broker.broker_id);
    let with_claims = record.leaving.iter().copied();
    let with_claims = with_claims.filter(|id| !wishes.keeps_claims && seen.claims.contains_key(id));
    registered
        .chain(0..pods)
        .chain(with_claims)
        .filter(|id| *id >= wishes.replicas)
        // Also if their numbers are wanted again meanwhile.
        .chain(ghosts(seen, told, wishes, record))
        .collect()
}

fn not_ready(seen: &Seen, wishes: &Wishes) -> Vec<i32> {
    (0..wishes.replicas).filter(|id| !seen.is_ready(*id)).collect()
}

/// Numbers that were used by brokers which were removed, and that are to be used again. A broker that is refused ends
/// within a second or two, and waits ever longer before it is started again: it need not run when it is seen.
fn permissions(seen: &Seen, told: &Told, wishes: &Wishes, scale: &Scale) -> Vec<Step> {
    (0..wishes.replicas.min(scale.replicas))
        .filter(|id| told.broker(*id).is_none())
        .filter(|id| {
            let pod = seen.pods.get(id);
            pod.is_some_and(|pod| (pod.running || pod.last_end.is_some()) && !pod.is_ready())
        })
        .map(Step::PermitNumber)
        .collect()
}

/// All that leave are drained at once: one after another they would hand replicas to the next one that leaves.
fn drain(told: &Told, wishes: &Wishes, scale: &mut Scale) {
    let leaving: Vec<&_> = told
        .cluster
        .brokers
        .iter()
        .filter(|broker| broker.broker_id >= wishes.replicas)
        .collect();
    let ids: Vec<i32> = leaving.iter().map(|broker| broker.broker_id).collect();
    let stuck = |id: i32, partitions: i32| partitions > 0 && !told.is_moving(id);
    if leaving
        .iter()
        .any(|broker| !broker.draining || stuck(broker.broker_id, broker.partitions))
    {
        scale.after.push(Step::Drain(ids.clone()));
    }
    let left: i32 = leaving.iter().map(|broker| broker.partitions).sum();
    if !ids.is_empty() {
        let who = named(&ids);
        scale.waiting = Some(match left {
            0 => format!("empty, and being taken away: {who}"),
            left => format!("{left} replicas are still on {who}"),
        });
    }
}

/// Brokers whose pods are gone for good.
fn remove(seen: &Seen, told: &Told, wishes: &Wishes, record: &Record, scale: &Scale) -> Option<Step> {
    let gone = |id: i32| id >= scale.replicas && !seen.pods.contains_key(&id);
    let mut registered: Vec<&_> = told
        .cluster
        .brokers
        .iter()
        .filter(|broker| gone(broker.broker_id) && broker.broker_id >= wishes.replicas)
        .collect();
    registered.sort_by_key(|broker| std::cmp::Reverse(broker.broker_id));
    if let Some(broker) = registered.first() {
        let removable = !broker.available && is_empty(told, broker.broker_id);
        return removable.then_some(Step::RemoveBroker(broker.broker_id));
    }
    if wishes.keeps_claims {
        return None;
    }
    // Only of brokers that this operator has drained: a claim that is left from something else is not touched.
    let ghosts = ghosts(seen, told, wishes, record);
    let claim = |id: &&i32| gone(**id) && seen.claims.get(*id).is_some_and(|claim| !claim.terminating);
    ghosts.iter().rev().find(claim).map(|id| Step::DeleteClaim(*id))
}

/// `broker 1`, `brokers 0, 1 and 2`.
#[must_use]
pub fn named(ids: &[i32]) -> String {
    let all: Vec<String> = ids.iter().map(ToString::to_string).collect();
    match all.split_last() {
        Some((last, [])) => format!("broker {last}"),
        Some((last, rest)) => format!("brokers {} and {last}", rest.join(", ")),
        None => "no broker".into(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::cluster::seen::Pod;

    #[test]
    fn a_number_is_permitted_as_soon_as_its_broker_has_run() {
        let spec = json!({ "replicas": 1, "storage": { "size": "1Gi" } });
        let mut seen = Seen::bare(Timestamp::UNIX_EPOCH, &spec);
        let wishes = Wishes::of(&seen.cluster);
        let scale = Scale {
            replicas: 1,
            ..Scale::default()
        };
        let mut permitted = |pod: Option<Pod>| {
            seen.pods = pod.map(|pod| (0, pod)).into_iter().collect();
            permissions(&seen, &Told::default(), &wishes, &scale) == [Step::PermitNumber(0)]
        };
        assert!(!permitted(None));
        assert!(
            !permitted(Some(Pod::default())),
            "it may yet be one that was never removed"
        );
        let running = Pod {
            running: true,
            ..Pod::default()
        };
        assert!(permitted(Some(running)));
        let refused = Pod {
            last_end: Some("this number was removed".into()),
            waiting: Some(("CrashLoopBackOff".into(), String::new())),
            ..Pod::default()
        };
        assert!(permitted(Some(refused)));
    }
}
