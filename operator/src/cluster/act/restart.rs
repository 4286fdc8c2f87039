//! Pods that are taken away to be made anew.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::{
    Api,
    api::{ListParams, PostParams},
    core::Status,
};
use millrace_client::{ErrorReason, v1};
use serde_json::{Value, json};

use super::{Actor, is_refusal, objects::Applied};
use crate::{
    cluster::{
        budget::Budgets,
        observe::api,
        restart::{self, Evicted, Hands},
        roll,
        seen::{Pod, Seen},
    },
    context::Told,
    metrics::Restart,
    names::FIELD_MANAGER,
    pass,
    render::{Kind, Object, template_hash},
};

/// Who restarts a broker has the slot so long at most; it ends by itself when the broker has registered again.
const SLOT_FOR: Duration = Duration::from_secs(600);
/// The cause that the API server names where a disruption budget refuses (`policy/v1`'s `DisruptionBudgetCause`).
const OVER_BUDGET: &str = "DisruptionBudget";

impl Actor<'_> {
    pub(super) async fn restart(
        &mut self,
        candidates: &[i32],
        hash: &str,
        budgets: Option<&Budgets>,
    ) -> anyhow::Result<()> {
        restart::restart(self, candidates, hash, budgets).await
    }

    pub(super) fn hold(&mut self, gate: &'static str, text: String) {
        self.context.metrics.blocked(gate);
        self.outcome.held = Some((gate, text));
    }

    /// Gives the maintenance slot back that we have for a broker that is not to be restarted any more.
    pub(super) async fn release_slot(&mut self, id: i32) -> anyhow::Result<()> {
        match roll::slot(self.seen).filter(|slot| slot.broker_id == id) {
            Some(slot) => restart::give_back(self, slot).await,
            None => Ok(()),
        }
    }

    /// Evicts a pod whose broker does not run.
    pub(super) async fn replace(&mut self, id: i32, hash: &str) -> anyhow::Result<()> {
        if !self.canary(hash).await? {
            return Ok(());
        }
        let Some(pod) = self.seen.pods.get(&id) else {
            return Ok(());
        };
        match self.evict_pod(id, pod, "ReplacingPod").await? {
            Evicted::Done => self.context.metrics.restarted(Restart::Stuck),
            Evicted::OverBudget(why) => self.hold("disruption-budget", format!("broker {id}: {why}")),
            Evicted::Refused(why) => self.hold("eviction", format!("broker {id}: {why}")),
        }
        Ok(())
    }

    /// Whether the API server would take a pod of the template: quotas, pod security and other admission are asked
    /// before a pod that runs is given up (strimzi/strimzi-kafka-operator#8116). And whether the StatefulSet has the
    /// template at all: pods that are evicted before would come back as they were, again and again.
    pub(super) async fn canary(&mut self, hash: &str) -> anyhow::Result<bool> {
        let key = &self.seen.key;
        let set = api(self.context, key, Kind::StatefulSet).get(&key.brokers()).await;
        let set = serde_json::to_value(set.context("read the StatefulSet")?)?;
        if template_hash(&set["spec"]["template"]) != hash {
            self.hold(
                "template",
                "the StatefulSet does not have the new template yet".to_owned(),
            );
            return Ok(false);
        }
        let Some(pod) = canary(&set, key.pod(0).as_str()) else {
            return Ok(true);
        };
        let pods: Api<KubePod> = Api::namespaced(self.context.kube.clone(), &key.namespace);
        let params = PostParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        match pods.create(&params, &serde_json::from_value(pod)?).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if is_refusal(&status) => {
                let text = format!(
                    "no pod of the new template would be admitted, so none is given up: {}",
                    status.message
                );
                self.refuse("AdmissionDenied", text);
                Ok(false)
            }
            Err(error) => Err(error).context("try whether the new pod would be admitted"),
        }
    }

    /// Evicts a pod, if it still is the one that was seen.
    async fn evict_pod(&mut self, id: i32, pod: &Pod, reason: &'static str) -> anyhow::Result<Evicted> {
        let namespace = &self.seen.key.namespace;
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": pod.name, "namespace": namespace },
            // In the background: deleting in the foreground can take the pod's network away before its broker has
            // stopped (strimzi/strimzi-kafka-operator#12212).
            "deleteOptions": {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Background",
                "preconditions": { "uid": pod.uid, "resourceVersion": pod.resource_version },
            },
        });
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{}/eviction", pod.name))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&eviction)?)?;
        match self.context.kube.request::<Value>(request).await {
            Ok(_) => {
                tracing::info!(cluster = %self.seen.key, pod = pod.name, reason, "evicted");
                let note = format!("restarting broker {id} ({})", pod.name);
                let told = Told::normal(reason, "Roll", note).about(self.broker(id));
                self.tell(told).await;
                Ok(Evicted::Done)
            }
            // It has changed since it was seen, a budget forbids it, or the API server or an admission webhook has
            // another reason.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 429) => {
                let forbidden = over_budget(&status).map(Evicted::OverBudget);
                Ok(forbidden.unwrap_or(Evicted::Refused(status.message)))
            }
            Err(error) => Err(error).with_context(|| format!("evict {}", pod.name)),
        }
    }
}

impl Hands for Actor<'_> {
    fn seen(&self) -> &Seen {
        self.seen
    }

    async fn is_admitted(&mut self, hash: &str) -> anyhow::Result<bool> {
        self.canary(hash).await
    }

    async fn may_restart(&mut self, id: i32) -> anyhow::Result<v1::MayRestartResponse> {
        Ok(self.admin().await?.may_restart(id).await?)
    }

    async fn acquire(&mut self, id: i32, epoch: i64) -> Result<v1::MaintenanceSlot, String> {
        let admin = self.admin().await.map_err(|error| pass::in_words(&error))?;
        let holder = roll::holder(self.seen);
        let acquired = admin
            .acquire_maintenance(&holder, id, Some(epoch), Some(SLOT_FOR))
            .await;
        let slot = acquired.map_err(|error| error.to_string())?.slot;
        slot.ok_or_else(|| "the answer has no maintenance slot".to_owned())
    }

    async fn release(&mut self, slot: &v1::MaintenanceSlot) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        match admin.release_maintenance_slot(slot).await {
            // Another operator has gone on in our name: what it has asked for is its own.
            Err(error) if error.reason() == Some(ErrorReason::MaintenanceTaken) => Ok(()),
            released => Ok(released?),
        }
    }

    async fn evict(&mut self, id: i32) -> anyhow::Result<Evicted> {
        let Some(pod) = self.seen.pods.get(&id) else {
            return Ok(Evicted::Refused("its pod is not there".to_owned()));
        };
        let evicted = self.evict_pod(id, pod, "RollingBroker").await?;
        if evicted == Evicted::Done {
            self.context.metrics.restarted(Restart::Roll);
        }
        Ok(evicted)
    }

    async fn is_going(&mut self, id: i32) -> anyhow::Result<bool> {
        let pods: Api<KubePod> = Api::namespaced(self.context.kube.clone(), &self.seen.key.namespace);
        // Its rights let the operator list pods.
        let named = ListParams::default().fields(&format!("metadata.name={}", self.seen.key.pod(id)));
        let found = pods.list(&named).await;
        let pod = found
            .with_context(|| format!("read the pod of broker {id}"))?
            .items
            .pop();
        let seen = self.seen.pods.get(&id).map(|pod| pod.uid.as_str());
        Ok(pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some() || pod.metadata.uid.as_deref() != seen))
    }

    async fn change_budget(&mut self, budget: &Object) -> anyhow::Result<bool> {
        let applied = self.apply_over_seen(budget).await?;
        // The eviction itself has changed it: the next pass is to come soon.
        self.outcome.outran |= applied == Applied::Outran;
        Ok(applied == Applied::Done)
    }

    fn hold(&mut self, gate: &'static str, text: String) {
        Self::hold(self, gate, text);
    }
}

/// What the API server says of the disruption budget that refuses an eviction, if one does: it answers others with the
/// same code. The message alone does not say how many pods are there and how many there are to be.
fn over_budget(status: &Status) -> Option<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut budgets = causes
        .filter(|cause| status.code == 429 && cause.reason == OVER_BUDGET)
        .peekable();
    budgets.peek()?;
    let mut words = vec![status.message.as_str()];
    words.extend(budgets.map(|cause| cause.message.as_str()));
    Some(words.join(" ").trim().to_owned())
}

/// A pod as the StatefulSet would make it, under a name that no pod has.
fn canary(set: &Value, like: &str) -> Option<Value> {
    let mut template = set["spec"]["template"].clone();
    let prefix = like.rsplit_once('-')?.0;
    template["apiVersion"] = json!("v1");
    template["kind"] = json!("Pod");
    template["metadata"]["name"] = json!(format!("{prefix}-canary"));
    template["metadata"]["namespace"] = set["metadata"]["namespace"].clone();
    let volume = json!({ "name": "data", "persistentVolumeClaim": { "claimName": format!("data-{like}") } });
    template["spec"]["volumes"].as_array_mut()?.push(volume);
    Some(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_refuses_is_told_from_all_else() {
        let refused = |causes: Value| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "TooManyRequests", "code": 429,
                "message": "Cannot evict pod as it would violate the pod's disruption budget.",
                "details": { "retryAfterSeconds": 10, "causes": causes },
            });
            over_budget(&serde_json::from_value(status).unwrap())
        };
        let message = "The disruption budget orders-broker needs 3 healthy pods and has 3 currently";
        let words = format!("Cannot evict pod as it would violate the pod's disruption budget. {message}");
        assert_eq!(
            refused(json!([{ "reason": "DisruptionBudget", "message": message }])),
            Some(words)
        );
        assert_eq!(refused(json!([])), None);
        let other = Status::failure("too many requests", "").with_code(429);
        assert_eq!(over_budget(&other), None);
    }
}
