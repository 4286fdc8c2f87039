//! Pods that are taken away to be made anew.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::{Api, api::PostParams};
use millrace_client::v1;
use serde_json::{Value, json};

use super::{Actor, is_refusal};
use crate::{
    cluster::{observe::api, roll::holder, seen::Pod},
    context::Told,
    metrics::Restart,
    names::FIELD_MANAGER,
    render::{Kind, template_hash},
};

/// Who restarts a broker has the slot so long at most; it ends by itself when the broker has registered again.
const SLOT_FOR: Duration = Duration::from_secs(600);

impl Actor<'_> {
    /// Restarts the first of the candidates that may be.
    pub(super) async fn restart(&mut self, candidates: &[i32], hash: &str) -> anyhow::Result<()> {
        if !self.canary(hash).await? {
            return Ok(());
        }
        let admin = self.admin().await?;
        let holder = holder(self.seen);
        let mut reasons = Vec::new();
        for id in candidates {
            let answer = admin
                .may_restart(*id)
                .await
                .with_context(|| format!("ask whether broker {id} may go"))?;
            let slot = answer.maintenance.as_ref();
            if slot.is_some_and(|slot| slot.holder != holder) || !answer.allowed {
                reasons.push(why_not(*id, &answer));
                if slot.is_some_and(|slot| slot.holder == holder && slot.broker_id == *id) {
                    // The disruption budget goes by who has it.
                    self.release_slot(*id).await?;
                }
                continue;
            }
            let epoch = Some(answer.broker_epoch);
            match admin.acquire_maintenance(&holder, *id, epoch, Some(SLOT_FOR)).await {
                Ok(_) => {}
                Err(error) => {
                    reasons.push(format!("broker {id}: {error}"));
                    continue;
                }
            }
            let Some(pod) = self.seen.pods.get(id) else {
                continue;
            };
            // Where the disruption budget forbids it the slot stays: by that the next pass knows that it must give way.
            if self.evict(*id, pod, "RollingBroker").await? {
                self.context.metrics.restarted(Restart::Roll);
            }
            return Ok(());
        }
        self.hold("may-restart", reasons.join("; "));
        Ok(())
    }

    pub(super) fn hold(&mut self, gate: &'static str, text: String) {
        self.context.metrics.blocked(gate);
        self.outcome.held = Some((gate, text));
    }

    /// Gives the maintenance slot back that we have for a broker.
    pub(super) async fn release_slot(&self, id: i32) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let released = admin.release_maintenance(&holder(self.seen), id).await;
        released.map(drop).context("give the maintenance slot back")
    }

    /// Evicts a pod whose broker does not run.
    pub(super) async fn replace(&mut self, id: i32, hash: &str) -> anyhow::Result<()> {
        if !self.canary(hash).await? {
            return Ok(());
        }
        if let Some(pod) = self.seen.pods.get(&id)
            && self.evict(id, pod, "ReplacingPod").await?
        {
            self.context.metrics.restarted(Restart::Stuck);
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

    /// Evicts a pod, if it still is the one that was seen. `false`: a disruption budget forbids it, or it has changed.
    pub(super) async fn evict(&mut self, id: i32, pod: &Pod, reason: &'static str) -> anyhow::Result<bool> {
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
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 429 => {
                self.hold("disruption-budget", format!("broker {id}: {}", status.message));
                Ok(false)
            }
            // It has changed since it was seen, perhaps by an eviction of our own whose answer was lost: the slot stays,
            // and ends when the broker comes back, or with its time.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("evict {}", pod.name)),
        }
    }
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
