//! Restarting one broker, step by step: what is asked of whom, and what becomes of the permission and of the disruption
//! budget where it does not come to it. All that reaches out is behind [`Hands`].

use anyhow::Context as _;
use millrace_client::v1;

use super::{
    budget::{self, Budgets, Next},
    roll,
    seen::Seen,
};
use crate::render::Object;

/// How an eviction was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod goes.
    Done,
    /// The disruption budget forbids it, in the API server's words.
    OverBudget(String),
    /// Something else does, or the pod has changed since it was seen.
    Refused(String),
}

/// What a restart asks of the API server and of the quorum's leader.
pub trait Hands {
    /// What the pass has seen.
    fn seen(&self) -> &Seen;
    /// Whether a pod of this template would be admitted.
    async fn is_admitted(&mut self, hash: &str) -> anyhow::Result<bool>;
    /// Whether a broker may go, by what a majority of the quorum knows at this moment.
    async fn may_restart(&mut self, id: i32) -> anyhow::Result<v1::MayRestartResponse>;
    /// Takes the maintenance slot; or why not, in words.
    async fn acquire(&mut self, id: i32, epoch: i64) -> Result<v1::MaintenanceSlot, String>;
    /// Gives the maintenance slot back.
    async fn release(&mut self, slot: &v1::MaintenanceSlot) -> anyhow::Result<()>;
    /// Evicts a broker's pod, if it still is the one that was seen.
    async fn evict(&mut self, id: i32) -> anyhow::Result<Evicted>;
    /// Whether a broker's pod is not the one any more that was seen, or has been told to end.
    async fn is_going(&mut self, id: i32) -> anyhow::Result<bool>;
    /// Changes the disruption budget, if it still is the one that was seen. `false`: it is not, or is refused.
    async fn change_budget(&mut self, budget: &Object) -> anyhow::Result<bool>;
    /// Tells which check keeps the candidates from being restarted.
    fn hold(&mut self, gate: &'static str, text: String);
}

/// Restarts the first of the candidates that may be. The permission outlives the pass only where the candidate goes, or
/// where it was the disruption budget that forbade that and the next pass finds it open; so does an open budget.
///
/// # Errors
/// Somebody could not be asked.
pub async fn restart(
    hands: &mut impl Hands,
    candidates: &[i32],
    hash: &str,
    budgets: Option<&Budgets>,
) -> anyhow::Result<()> {
    let mut slot = roll::slot(hands.seen()).cloned();
    let had = slot.as_ref().map(|slot| slot.broker_id);
    let tried = attempt(hands, candidates, hash, budgets, &mut slot).await;
    if matches!(tried, Ok(true)) {
        return Ok(());
    }
    let shut = match budgets {
        Some(budgets) if budget::is_opened(hands.seen()) => hands.change_budget(&budgets.shut).await.map(drop),
        _ => Ok(()),
    };
    // What we had for one that is not up is for its way back, on which it may be found wanting once more.
    let is_idle = roll::idle_slot(hands.seen()).is_some();
    let given_back = match slot {
        Some(slot) if is_idle || had != Some(slot.broker_id) => give_back(hands, &slot).await,
        _ => Ok(()),
    };
    tried.map(drop).and(shut).and(given_back)
}

/// Whether the permission that we have then is to be kept.
async fn attempt(
    hands: &mut impl Hands,
    candidates: &[i32],
    hash: &str,
    budgets: Option<&Budgets>,
    slot: &mut Option<v1::MaintenanceSlot>,
) -> anyhow::Result<bool> {
    if !hands.is_admitted(hash).await? {
        return Ok(false);
    }
    let holder = roll::holder(hands.seen());
    let mut reasons = Vec::new();
    for id in candidates.iter().copied() {
        let answer = hands.may_restart(id).await;
        let answer = answer.with_context(|| format!("ask whether broker {id} may go"))?;
        let taken = answer.maintenance.as_ref().is_some_and(|slot| slot.holder != holder);
        if taken || !answer.allowed {
            reasons.push(why_not(id, &answer));
            continue;
        }
        match hands.acquire(id, answer.broker_epoch).await {
            Ok(acquired) => *slot = Some(acquired),
            Err(why) => {
                reasons.push(format!("broker {id}: {why}"));
                continue;
            }
        }
        return match hands.evict(id).await? {
            Evicted::Done => Ok(true),
            Evicted::OverBudget(why) => {
                hands.hold("disruption-budget", format!("broker {id}: {why}"));
                match budget::after_refusal(hands.seen(), budgets) {
                    Next::Open => open(hands, budgets).await,
                    Next::Wait => Ok(true),
                    Next::GiveUp => Ok(false),
                }
            }
            Evicted::Refused(why) => {
                hands.hold("eviction", format!("broker {id}: {why}"));
                Ok(false)
            }
        };
    }
    hands.hold("may-restart", reasons.join("; "));
    Ok(false)
}

async fn open(hands: &mut impl Hands, budgets: Option<&Budgets>) -> anyhow::Result<bool> {
    match budgets {
        Some(budgets) => hands.change_budget(&budgets.opened).await,
        None => Ok(false),
    }
}

/// Gives the maintenance slot back, unless its broker is on its way: then it ends when that is back, or with its time.
///
/// # Errors
/// Somebody could not be asked: it stays, and the next pass asks again.
pub async fn give_back(hands: &mut impl Hands, slot: &v1::MaintenanceSlot) -> anyhow::Result<()> {
    if hands.is_going(slot.broker_id).await? {
        return Ok(());
    }
    hands.release(slot).await.context("give the maintenance slot back")
}

fn why_not(id: i32, answer: &v1::MayRestartResponse) -> String {
    let mut reasons = answer.reasons.clone();
    if let Some(forbidding) = answer.forbidding.as_ref().filter(|list| list.count > 0) {
        let first = forbidding
            .first
            .iter()
            .take(3)
            .map(|each| format!("{}-{}", each.topic, each.partition));
        let first: Vec<String> = first.collect();
        reasons.push(format!(
            "{} partitions need it, as {}",
            forbidding.count,
            first.join(", ")
        ));
    }
    format!("broker {id}: {}", reasons.join(" "))
}
