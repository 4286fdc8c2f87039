//! How pods go: by the operator's restarts, and by a drain of nodes beside it, both by the disruption budget as
//! Kubernetes judges it, whose controller may look at it late.

use futures::FutureExt as _;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_client::v1;
use serde_json::{Value, json};

use super::World;
use crate::{
    cluster::{
        budget::Budgets,
        restart::{self, Evicted, Hands},
        roll,
        seen::{Pod, Seen},
    },
    render::{Kind, Object},
};

/// So long Kubernetes takes it for granted that a pod goes whose eviction it has let pass (`DeletionTimeout` in
/// `pkg/controller/disruption`).
const COUNTED_FOR: SignedDuration = SignedDuration::from_mins(2);

/// What stands in the way of the operator's evictions, and who takes pods beside it.
#[derive(Default)]
pub(super) struct Trouble {
    /// The controller of budgets looks at them only between two passes, and not at each time.
    pub budgets_lag: bool,
    /// The ConfigMap is refused, as by an admission webhook.
    pub refuses_settings: bool,
    /// No pod of the template is admitted.
    pub refuses_pods: bool,
    /// A webhook refuses what a budget would let go; or an answer that says nothing of budgets does.
    pub refuses_evictions: bool,
    /// The same, once Kubernetes has counted the pod as one that goes.
    pub refuses_counted: bool,
    /// The controller of budgets fails at ours.
    pub budgets_fail: bool,
    /// A pod that counts as one that goes although it does not, until then.
    pub counted: Option<(i32, Timestamp)>,
    /// How often the budget was written.
    pub budget_writes: u32,
    /// A drain of nodes wants this broker's pod, whenever the budget lets it go.
    pub drains: Option<i32>,
    /// Pods that the drain has got.
    pub drained: u32,
    /// So many requests of a restart are carried out before the operator dies.
    pub dies_after: Option<u64>,
    /// How often the slot was acquired: each time it is another one.
    pub acquired: i64,
}

impl World {
    /// Stores an object as the API server does.
    pub(super) fn put(&mut self, object: &Object) {
        let mut value = object.value.clone();
        if object.kind == Kind::DisruptionBudget {
            let live = self.objects.get(&object.kind).cloned().unwrap_or_default();
            let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
            let changed = live["spec"] != value["spec"];
            value["metadata"]["generation"] = json!(generation + i64::from(changed));
            value["status"] = live["status"].clone();
            self.trouble.budget_writes += 1;
        }
        self.objects.insert(object.kind, value);
        if !self.trouble.budgets_lag {
            self.judge_budget();
        }
    }

    /// The budget's numbers: how many must be healthy, and how many are.
    fn healthy(&self) -> Option<(i64, i64)> {
        let budget = self.objects.get(&Kind::DisruptionBudget)?;
        let expected = self.objects.get(&Kind::StatefulSet)?["spec"]["replicas"].as_i64()?;
        let desired = expected - budget["spec"]["maxUnavailable"].as_i64()?;
        let counted = self.trouble.counted.filter(|(_, until)| self.now < *until);
        let goes = |id: i32| counted.is_some_and(|(counted, _)| counted == id);
        let healthy = self.pods.iter().filter(|(id, pod)| pod.is_ready() && !goes(**id));
        Some((desired, i64::try_from(healthy.count()).unwrap()))
    }

    /// What the controller of budgets does.
    pub(super) fn judge_budget(&mut self) {
        let Some((desired, healthy)) = self.healthy() else {
            return;
        };
        let fails = self.trouble.budgets_fail;
        let budget = self.objects.get_mut(&Kind::DisruptionBudget).unwrap();
        if fails {
            let condition = json!({ "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed" });
            budget["status"]["conditions"] = json!([condition]);
            budget["status"]["disruptionsAllowed"] = json!(0);
            return;
        }
        budget["status"] = json!({
            "observedGeneration": budget["metadata"]["generation"],
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": (healthy - desired).max(0),
        });
    }

    /// Whether Kubernetes lets a pod be evicted (`pkg/registry/core/pod/storage/eviction.go`).
    pub(super) fn lets_go(&mut self, id: i32) -> bool {
        let is_ready = self.pods.get(&id).is_some_and(Pod::is_ready);
        let Some((desired, healthy)) = self.healthy() else {
            return true;
        };
        let budget = self.objects.get_mut(&Kind::DisruptionBudget).unwrap();
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if !is_ready && (always || (desired > 0 && healthy >= desired)) {
            return true;
        }
        let (generation, status) = (budget["metadata"]["generation"].clone(), &mut budget["status"]);
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or_default();
        if status["observedGeneration"] != generation || allowed <= 0 {
            return false;
        }
        status["disruptionsAllowed"] = json!(allowed - 1);
        true
    }

    /// A drain of nodes tries again.
    pub(super) fn drain(&mut self) {
        let Some(id) = self.trouble.drains.filter(|id| self.pods.contains_key(id)) else {
            return;
        };
        if self.lets_go(id) {
            self.take(id);
            self.trouble.drained += 1;
            self.trouble.drains = None;
        }
    }

    fn take(&mut self, id: i32) {
        self.pods.remove(&id);
        if self.leader == id {
            let mut brokers = self.brokers.iter();
            let next = brokers.find(|(other, broker)| broker.votes && **other != id);
            self.leader = next.map_or(id, |(other, _)| *other);
        }
    }

    /// A restart as it is carried out, until the operator dies.
    pub(super) fn restart(&mut self, candidates: &[i32], hash: &str, budgets: Option<&Budgets>) {
        let seen = self.seen();
        let mut hands = Toy { world: self, seen };
        // Nothing here waits; that it fails tells no more than what there is afterwards.
        let _ = restart::restart(&mut hands, candidates, hash, budgets)
            .now_or_never()
            .unwrap();
        self.trouble.dies_after = None;
    }

    /// Gives the slot back as it is carried out.
    pub(super) fn release_slot(&mut self, id: i32) {
        let seen = self.seen();
        let slot = roll::slot(&seen).cloned().unwrap();
        assert_eq!(slot.broker_id, id);
        let mut hands = Toy { world: self, seen };
        restart::give_back(&mut hands, &slot).now_or_never().unwrap().unwrap();
    }
}

struct Toy<'a> {
    world: &'a mut World,
    seen: Seen,
}

impl Toy<'_> {
    /// Nothing more is carried out after the operator has died.
    fn live(&mut self) -> anyhow::Result<()> {
        match &mut self.world.trouble.dies_after {
            Some(0) => anyhow::bail!("the operator has died"),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn may_go(&self, id: i32) -> bool {
        let world = &self.world;
        let away = world.brokers.keys().any(|other| *other != id && !world.serves(*other));
        let other = world.slot.as_ref().is_some_and(|(slot, _)| *slot != id);
        !away && !other && !world.needed.contains(&id)
    }
}

impl Hands for Toy<'_> {
    fn seen(&self) -> &Seen {
        &self.seen
    }

    async fn is_admitted(&mut self, hash: &str) -> anyhow::Result<bool> {
        self.live()?;
        Ok(!self.world.trouble.refuses_pods && self.world.live_hash() == hash)
    }

    /// As the quorum's leader answers: only if all others are in sync.
    async fn may_restart(&mut self, id: i32) -> anyhow::Result<v1::MayRestartResponse> {
        self.live()?;
        Ok(v1::MayRestartResponse {
            allowed: self.may_go(id),
            maintenance: self.world.maintenance(),
            ..v1::MayRestartResponse::default()
        })
    }

    async fn acquire(&mut self, id: i32, _: i64) -> Result<v1::MaintenanceSlot, String> {
        self.live().map_err(|error| error.to_string())?;
        if !self.may_go(id) {
            return Err("it is needed".to_owned());
        }
        self.world.slot = Some((id, self.world.pods[&id].uid.clone()));
        self.world.trouble.acquired += 1;
        Ok(self.world.maintenance().unwrap())
    }

    async fn release(&mut self, slot: &v1::MaintenanceSlot) -> anyhow::Result<()> {
        self.live()?;
        assert_eq!(self.world.maintenance().as_ref(), Some(slot));
        self.world.slot = None;
        Ok(())
    }

    async fn evict(&mut self, id: i32) -> anyhow::Result<Evicted> {
        self.live()?;
        if self.world.trouble.refuses_evictions {
            return Ok(Evicted::Refused("a webhook refuses".to_owned()));
        }
        if !self.world.lets_go(id) {
            return Ok(Evicted::OverBudget("it would violate the budget".to_owned()));
        }
        if self.world.trouble.refuses_counted {
            let until = self.world.now.checked_add(COUNTED_FOR).unwrap();
            self.world.trouble.counted = Some((id, until));
            return Ok(Evicted::Refused("a webhook refuses".to_owned()));
        }
        let mut others = self.world.pods.iter().filter(|(other, _)| **other != id);
        let is_unsafe = others.any(|(_, pod)| !pod.is_ready());
        self.world.unsafe_evictions += u32::from(is_unsafe);
        self.world.restarts += 1;
        self.world.take(id);
        Ok(Evicted::Done)
    }

    async fn is_going(&mut self, id: i32) -> anyhow::Result<bool> {
        self.live()?;
        let uid = |pods: &std::collections::BTreeMap<i32, Pod>| pods.get(&id).map(|pod| pod.uid.clone());
        Ok(uid(&self.world.pods).is_none() || uid(&self.world.pods) != uid(&self.seen.pods))
    }

    async fn change_budget(&mut self, budget: &Object) -> anyhow::Result<bool> {
        self.live()?;
        let kind = Kind::DisruptionBudget;
        let generation = |value: Option<&Value>| value.map(|value| value["metadata"]["generation"].clone());
        if generation(self.world.objects.get(&kind)) != generation(self.seen.objects.get(&kind)) {
            return Ok(false);
        }
        self.world.put(budget);
        Ok(true)
    }

    fn hold(&mut self, _: &'static str, _: String) {}
}
