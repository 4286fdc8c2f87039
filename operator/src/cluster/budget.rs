//! The disruption budget: how many brokers a drain of nodes may take, and when a roll opens it for the one restart that
//! the quorum has permitted. Pure.

use serde_json::Value;

use super::{
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

/// The budget is to be open for a roll.
pub fn open(wanted: &mut Blueprint) {
    wanted.disruptions = wanted.disruptions.map(|_| 1);
    wanted.opened_for_roll = true;
}

/// Whether the budget was opened for a roll.
#[must_use]
pub fn is_opened(seen: &Seen) -> bool {
    let live = seen.objects.get(&Kind::DisruptionBudget);
    live.is_some_and(|live| live["metadata"]["annotations"][OPENED_FOR_ROLL].is_string())
}

/// Whether the controller of budgets has not looked at the budget since it was changed: until then Kubernetes lets
/// nobody go by it, whatever it says.
fn lags(live: &Value) -> bool {
    let observed = live["status"]["observedGeneration"].as_i64().unwrap_or_default();
    live["metadata"]["generation"].as_i64() > Some(observed)
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
    let live = seen.objects.get(&Kind::DisruptionBudget);
    match budgets {
        Some(_) if !is_opened(seen) => Next::Open,
        Some(_) if live.is_some_and(lags) => Next::Wait,
        _ => Next::GiveUp,
    }
}
