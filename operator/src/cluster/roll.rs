//! Restarting brokers one by one, for another template: who is next, and what it waits for. Nothing is remembered: a
//! pod that carries another hash is outdated, and who is being restarted has the maintenance slot in the metadata.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_client::v1;

use super::{
    blueprint,
    decide::Step,
    seen::{Pod, Seen, Told},
    wishes::Wishes,
};
use crate::names;

/// After so long without a node somebody has to do something about it.
const UNSCHEDULABLE_FOR: SignedDuration = SignedDuration::from_secs(30);

/// From this on a broker that was started anew ends again and again: the kubelet says so itself while it waits before
/// the second time, but not while the broker runs again.
const LOOPS_AFTER: i32 = 2;
/// One that had run longer than this ended for itself: the kubelet begins to count anew then, too.
const LOOPS_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// So long the kubelet waits at most before it starts a container anew.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// How a roll stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roll {
    /// The hash that pods are to have.
    pub hash: String,
    /// Why there is another template that they are not to have yet.
    pub kept_back: Option<KeptBack>,
    /// Brokers that run something else.
    pub outdated: Vec<i32>,
    /// The broker that is on its way back.
    pub current: Option<i32>,
    /// What it waits for, in words.
    pub waiting: Option<Waiting>,
    /// What is to be done.
    pub step: Option<Step>,
    /// The broker for which we have the maintenance slot, to restart it by this step.
    pub permitted: Option<i32>,
    /// The broker for which we have the slot and that is not to be restarted any more: to be given back.
    pub stale_slot: Option<i32>,
    /// Brokers that do not come back, each with the reason and what to do.
    pub stuck: BTreeMap<i32, Stuck>,
}

/// Why a template is kept back: the StatefulSet does not get it, so that no pod is made from it for whatever reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptBack {
    /// Nobody has approved it; its hash.
    Unapproved(String),
    /// It has settings that no broker could be asked about, and nobody has approved it; its hash.
    Unasked(String),
}

impl KeptBack {
    /// In words.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        match self {
            Self::Unapproved(hash) => wait(
                "approval",
                format!("annotate the Cluster with {}={hash} to begin", names::APPROVE),
            ),
            Self::Unasked(hash) => wait(
                "settings",
                format!(
                    "no broker answers whether it knows the new settings; annotate the Cluster with {}={hash} to use them \
                     all the same",
                    names::APPROVE
                ),
            ),
        }
    }
}

/// Why nothing is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which check it is, for metrics.
    pub gate: &'static str,
    /// In words.
    pub text: String,
}

/// Why a broker does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// For the condition: `BrokerCrashLooping`.
    pub reason: &'static str,
    /// In words, and what to do.
    pub text: String,
}

impl Roll {
    /// The hash of what the spec asks for, also while it is kept back.
    #[must_use]
    pub fn newest(&self) -> &str {
        match &self.kept_back {
            Some(KeptBack::Unapproved(hash) | KeptBack::Unasked(hash)) => hash,
            None => &self.hash,
        }
    }
}

/// Plans.
#[must_use]
pub fn plan(seen: &Seen, wishes: &Wishes, hash: String, kept_back: Option<KeptBack>) -> Roll {
    let mut roll = Roll {
        outdated: outdated(seen, &hash),
        hash,
        kept_back,
        stuck: stuck(seen, wishes),
        ..Roll::default()
    };
    roll.current = current(seen);
    if roll.outdated.is_empty() {
        roll.waiting = roll.kept_back.as_ref().map(KeptBack::waiting);
    } else {
        match next(seen, &roll) {
            Ok(step) => roll.step = Some(step),
            Err(waiting) => roll.waiting = Some(waiting),
        }
    }
    let slot = slot_of(seen);
    let is_candidate =
        |id: &i32| matches!(&roll.step, Some(Step::Restart { candidates, .. }) if candidates.contains(id));
    roll.permitted = slot.filter(is_candidate);
    roll.stale_slot = idle_slot(seen).filter(|id| !is_candidate(id));
    roll
}

/// The broker for which we have the slot and that is there: of who was evicted it ends by itself when the broker is
/// back.
#[must_use]
pub fn idle_slot(seen: &Seen) -> Option<i32> {
    slot_of(seen).filter(|id| seen.is_ready(*id))
}

/// The brokers that run something else. Those that leave are not restarted: they go.
fn outdated(seen: &Seen, hash: &str) -> Vec<i32> {
    if hash.is_empty() {
        // Somebody has changed the template that there is: nobody is made from that on purpose.
        return Vec::new();
    }
    let pods = seen.pods.iter().filter(|(id, _)| **id < seen.cluster.spec.replicas);
    pods.filter(|(_, pod)| pod.hash != hash).map(|(id, _)| *id).collect()
}

/// The broker that is being restarted: the slot's, or one whose pod goes or comes.
fn current(seen: &Seen) -> Option<i32> {
    slot_of(seen).or_else(|| seen.pods.iter().find(|(_, pod)| pod.terminating).map(|(id, _)| *id))
}

/// The broker for which we have the maintenance slot: it is about to be restarted, or on its way back.
fn slot_of(seen: &Seen) -> Option<i32> {
    slot(seen).map(|slot| slot.broker_id)
}

/// The maintenance slot, if we have it.
#[must_use]
pub fn slot(seen: &Seen) -> Option<&v1::MaintenanceSlot> {
    let slot = seen.brokers.told()?.cluster.maintenance.as_ref()?;
    (slot.holder == holder(seen)).then_some(slot)
}

/// What the slot is asked for with: whichever operator goes on, it is the same for a Cluster.
#[must_use]
pub fn holder(seen: &Seen) -> String {
    let uid = seen.cluster.metadata.uid.as_deref().unwrap_or_default();
    format!("{} {uid}", names::MANAGED_BY)
}

fn wait(gate: &'static str, text: impl Into<String>) -> Waiting {
    Waiting {
        gate,
        text: text.into(),
    }
}

/// What to do next, or what stands in its way.
fn next(seen: &Seen, roll: &Roll) -> Result<Step, Waiting> {
    if let Some((id, _)) = seen.pods.iter().find(|(_, pod)| pod.terminating) {
        return Err(wait("terminating", format!("broker {id} stops")));
    }
    // Its claim goes when its pod does, and the volume, with all that the broker holds: nobody asked for that who
    // changed a setting.
    let (keeps, loses): (Vec<i32>, Vec<i32>) = roll.outdated.iter().partition(|id| !loses_claim(seen, **id));
    let pod = |id: &i32| seen.pods.get(id).cloned().unwrap_or_default();
    let unready: Vec<i32> = (0..seen.cluster.spec.replicas)
        .filter(|id| !seen.is_ready(*id))
        .collect();
    let (outdated_unready, others): (Vec<i32>, Vec<i32>) = unready.into_iter().partition(|id| keeps.contains(id));
    // Where there is no cluster yet nothing is to be lost.
    let begun = blueprint::record(seen).cluster_id.is_some();
    if !begun && let Some(id) = outdated_unready.first() {
        return Ok(Step::Replace {
            broker: *id,
            hash: roll.hash.clone(),
        });
    }
    // What does not run takes nothing away when it goes: nobody need be asked, and nobody may be there to ask. A pod
    // that is stuck must never keep a newer template from taking its place (kubernetes/kubernetes#67250). But while one
    // that has the newest template does not run, it may be that template that is wrong. One that runs and is not ready may
    // wait for those that are stuck: without them it has no majority.
    let stopped = keeps.iter().find(|id| !pod(id).running && !pod(id).is_ready());
    if let Some(id) = stopped.filter(|_| others.iter().all(|id| pod(id).running)) {
        return Ok(Step::Replace {
            broker: *id,
            hash: roll.hash.clone(),
        });
    }
    let Some(told) = seen.brokers.told() else {
        return Err(wait(
            "unreachable",
            "the brokers do not answer, and only they know who may be restarted",
        ));
    };
    if told.quorum_leader().is_none() {
        return Err(wait("quorum", "the metadata quorum has no leader"));
    }
    let restart = |candidates| Step::Restart {
        candidates,
        hash: roll.hash.clone(),
        budgets: None,
    };
    if !outdated_unready.is_empty() && others.is_empty() {
        // First those that are not well: a restart may be what mends them. The quorum knows which may go.
        return Ok(restart(outdated_unready));
    }
    if let Some(id) = others.iter().find(|id| loses.contains(id)) {
        return Err(wait("claim", claim_goes(&[*id])));
    }
    if let Some(id) = others.first() {
        return Err(match seen.pods.get(id) {
            // A pod without a node could lose its place to one that is restarted (strimzi/proposals, pull 236).
            Some(pod) if !pod.scheduled => wait("unscheduled", format!("broker {id} has no node yet")),
            Some(pod) => wait("unready", format!("broker {id} {}", doing(pod))),
            None => wait("missing", format!("the pod of broker {id} is not there yet")),
        });
    }
    if keeps.is_empty() {
        return Err(wait("claim", claim_goes(&loses)));
    }
    Ok(restart(order(told, &keeps)))
}

/// Whether a broker's claim is deleted, and only there because its pod still uses it.
fn loses_claim(seen: &Seen, id: i32) -> bool {
    seen.claims.get(&id).is_some_and(|claim| claim.terminating)
}

/// What is told of claims that go with their pods.
#[must_use]
pub fn claim_goes(brokers: &[i32]) -> String {
    format!(
        "the claim of {} was deleted and goes with the pod, and what the broker holds goes with the volume: to keep that, \
         set the volume's persistentVolumeReclaimPolicy to Retain; then delete the pod",
        super::scale::named(brokers)
    )
}

/// What a broker does that has a node and is not ready.
fn doing(pod: &Pod) -> &'static str {
    match pod.last_end {
        _ if pod.running => "catches up",
        Some(_) => "has ended and is started again",
        None => "starts",
    }
}

/// Followers of the metadata first, then voters, its leader last: each handing over is done once (Strimzi's
/// `KafkaRoller` defers the active controller likewise).
fn order(told: &Told, outdated: &[i32]) -> Vec<i32> {
    let voters = told.voters();
    let mut order = outdated.to_vec();
    order.sort_by_key(|id| (told.quorum_leader() == Some(*id), voters.contains(id), *id));
    if order.len() > 1 {
        order.retain(|id| told.quorum_leader() != Some(*id));
    }
    order
}

/// Whether the Cluster's user lets pods be made from a template.
#[must_use]
pub fn is_approved(seen: &Seen, hash: &str) -> bool {
    let annotations = seen.cluster.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(names::APPROVE))
        .is_some_and(|approved| approved == hash)
}

/// Brokers that will not come by themselves.
fn stuck(seen: &Seen, wishes: &Wishes) -> BTreeMap<i32, Stuck> {
    seen.pods
        .iter()
        .filter(|(_, pod)| !pod.is_ready() && !pod.terminating)
        .filter_map(|(id, pod)| Some((*id, why_stuck(seen, wishes, *id, pod)?)))
        .collect()
}

fn why_stuck(seen: &Seen, wishes: &Wishes, id: i32, pod: &Pod) -> Option<Stuck> {
    let stuck = |reason, text: String| Some(Stuck { reason, text });
    let since = |time: Option<Timestamp>| time.map(|time| seen.now.duration_since(time));
    // For a moment that is how each pod begins that waits for its volume.
    let unschedulable = pod.unschedulable.as_ref();
    if let Some(words) = unschedulable.filter(|_| since(pod.created) > Some(UNSCHEDULABLE_FOR)) {
        return stuck(
            "Unschedulable",
            format!("broker {id} finds no node: {words} Add nodes, lower spec.replicas, or change podTemplate.spec."),
        );
    }
    if let Some((reason, message)) = &pod.waiting {
        match reason.as_str() {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                return stuck(
                    "ImagePullFailed",
                    format!("broker {id} has no image: {message} Mend spec.image or spec.version."),
                );
            }
            "CrashLoopBackOff" | "RunContainerError" | "CreateContainerConfigError" | "CreateContainerError" => {
                return Some(looping(id, pod.last_end.as_ref().unwrap_or(message)));
            }
            _ => {}
        }
    }
    if let Some(said) = pod.last_end.as_ref().filter(|_| is_looping(seen.now, pod)) {
        return Some(looping(id, said));
    }
    // One that has been there for long may have become unready a moment ago.
    let deadline = SignedDuration::from_secs(wishes.rollout_deadline_seconds.into());
    if since(pod.unready_since.or(pod.created)) > Some(deadline) {
        return stuck("BrokerNotReady", late(seen, wishes, id, pod));
    }
    None
}

fn looping(id: i32, said: &str) -> Stuck {
    Stuck {
        reason: "BrokerCrashLooping",
        text: format!("broker {id} ends again and again: {}", said.trim()),
    }
}

/// Whether a broker ends again and again, told also while it runs in between: of one that comes back after a good while
/// nobody knows better than that it catches up, however often it was started in the life of its pod.
fn is_looping(now: Timestamp, pod: &Pod) -> bool {
    let ended = pod.last_ended.map(|ended| now.duration_since(ended));
    let recently = ended.is_some_and(|ended| ended < LONGEST_PAUSE + LOOPS_WITHIN);
    let soon = pod.last_run.is_none_or(|run| run < LOOPS_WITHIN);
    pod.restarts >= LOOPS_AFTER && recently && soon
}

/// What to look at where a broker takes too long.
fn late(seen: &Seen, wishes: &Wishes, id: i32, pod: &Pod) -> String {
    let (seconds, namespace, name) = (wishes.rollout_deadline_seconds, &seen.key.namespace, &pod.name);
    if pod.running {
        return format!("broker {id} is not ready after {seconds} s: see `kubectl logs -n {namespace} {name}`");
    }
    let waiting = pod.waiting.as_ref().filter(|(reason, _)| !reason.is_empty());
    let waiting = waiting.map(|(reason, _)| format!(" ({reason})")).unwrap_or_default();
    format!("broker {id} does not run after {seconds} s{waiting}: see `kubectl describe pod -n {namespace} {name}`")
}

#[cfg(test)]
mod tests;
