//! The disruption budget: how many brokers a drain of nodes may take, and when a roll opens it for the one restart that
//! the quorum has permitted. Pure.

use serde_json::Value;

use super::{
    decide::Step,
    scale::Scale,
    seen::{Seen, Told},
    wishes::Wishes,
};
use crate::{
    names::OPENED_FOR_ROLL,
    render::{self, Blueprint, Kind, Object},
};

/// How many brokers a drain of nodes may take: none while the quorum says that none may go. With a pod that is not ready
/// Kubernetes itself refuses to evict another one, and must let that one go. Not asked, not changed: one that was opened
/// for a roll is shut.
#[must_use]
pub fn disruptions(seen: &Seen, wishes: &Wishes, scale: &Scale) -> Option<i32> {
    if wishes.replicas.max(scale.replicas) < 2 {
        return None;
    }
    let live = seen.objects.get(&Kind::DisruptionBudget);
    let live = live.and_then(|budget| budget["spec"]["maxUnavailable"].as_i64());
    let live = live.map_or(1, |live| i32::from(live != 0 && !is_opened(seen)));
    if seen.pods.values().any(|pod| !pod.is_ready()) {
        return Some(1);
    }
    Some(seen.brokers.told().map_or(live, |told| i32::from(may_any_go(told))))
}

/// Whether one broker more may go: no partition and no majority of the voters needs all that are there. An only voter
/// is needed whenever it goes.
fn may_any_go(told: &Told) -> bool {
    let all = told.members.iter().filter(|member| member.is_voter).count();
    let voters = told.voters().into_iter();
    let there = |id: &i32| told.broker(*id).is_some_and(|broker| broker.available);
    let serving = voters.filter(there).count();
    told.endangered() == (0, 0) && told.quorum_leader().is_some() && (all < 2 || serving > all / 2 + 1)
}

/// The budget of a time when the quorum says that none may go at will.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets {
    /// As it is for everybody.
    pub shut: Object,
    /// As it is while the one broker that the quorum has permitted to be restarted is evicted.
    pub opened: Object,
}

impl Budgets {
    /// Those of a budget that lets nobody go; none: it is not what stands in a restart's way.
    #[must_use]
    pub fn of(wanted: &Blueprint) -> Option<Self> {
        let shut = render::disruption_budget(wanted).filter(|_| wanted.disruptions == Some(0))?;
        let mut wanted = wanted.clone();
        open(&mut wanted);
        Some(Self {
            shut,
            opened: render::disruption_budget(&wanted)?,
        })
    }
}

/// As it is for everybody, where one that was opened for a roll has outlived that: nothing is done any more.
#[must_use]
pub fn shut(seen: &Seen, wanted: &Blueprint) -> Option<Object> {
    let mut wanted = wanted.clone();
    // One that there is stays: whether there is to be one is not for a Cluster to say that is held.
    wanted.disruptions = wanted.disruptions.or(Some(0));
    render::disruption_budget(&wanted).filter(|_| is_opened(seen))
}

/// What shuts a budget that was opened for a roll, among the steps of a pass that were not come to: the restart would
/// have, or whatever came instead.
#[must_use]
pub fn left_open<'a>(seen: &Seen, left: &[&'a Step]) -> Option<&'a Object> {
    let mut shuts = left.iter().filter_map(|step| match step {
        Step::Restart { budgets, .. } => budgets.as_ref().map(|budgets| &budgets.shut),
        Step::Apply(object) if object.kind == Kind::DisruptionBudget && !is_open(&object.value) => Some(object),
        _ => None,
    });
    shuts.next().filter(|_| is_opened(seen))
}

/// The budget is to be open for a roll.
pub fn open(wanted: &mut Blueprint) {
    wanted.disruptions = wanted.disruptions.map(|_| 1);
    wanted.opened_for_roll = true;
}

/// Whether the budget was opened for a roll.
#[must_use]
pub fn is_opened(seen: &Seen) -> bool {
    seen.objects.get(&Kind::DisruptionBudget).is_some_and(is_open)
}

fn is_open(budget: &Value) -> bool {
    budget["metadata"]["annotations"][OPENED_FOR_ROLL].is_string()
}

/// Whether the controller of budgets has not looked at the budget since it was changed: until then Kubernetes lets
/// nobody go by it, whatever it says.
fn lags(live: &Value) -> bool {
    let observed = live["status"]["observedGeneration"].as_i64().unwrap_or_default();
    live["metadata"]["generation"].as_i64() > Some(observed)
}

/// Whether the controller of budgets fails at it (`SyncFailed` in k8s.io/api/policy/v1): it lets nobody go until that is
/// mended.
fn fails(live: &Value) -> bool {
    let mut conditions = live["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "DisruptionAllowed" && condition["reason"] == "SyncFailed")
}

/// Whether fewer pods are healthy than there are to be, as Kubernetes counts: for up to two minutes also without one
/// whose eviction it had let pass and something else has refused then. To permit one more lets nobody go by then.
fn lacks_pods(live: &Value) -> bool {
    let status = &live["status"];
    let number = |name: &str| status[name].as_i64();
    number("currentHealthy")
        .zip(number("desiredHealthy"))
        .is_some_and(|(current, desired)| current < desired)
}

/// What is next where the budget has refused the eviction of a broker that the quorum has permitted to be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The budget is opened, and the next pass tries again with the same permission.
    Open,
    /// It is open, and counts soon.
    Wait,
    /// It is something else that stands in the way: the permission is given back, and the budget shut.
    GiveUp,
}

/// What is next after the budget has refused an eviction.
#[must_use]
pub fn after_refusal(seen: &Seen, budgets: Option<&Budgets>) -> Next {
    let live = seen.objects.get(&Kind::DisruptionBudget).unwrap_or(&Value::Null);
    if budgets.is_none() || fails(live) {
        return Next::GiveUp;
    }
    match (is_opened(seen), lags(live)) {
        (true, true) => Next::Wait,
        (false, false) if !lacks_pods(live) => Next::Open,
        // Where its numbers are of another time the next pass knows more.
        _ => Next::GiveUp,
    }
}
