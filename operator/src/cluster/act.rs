//! Carrying out what was decided.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod as KubePod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use millrace_client::{Admin, ErrorReason, VoterName};
use serde_json::{Value, json};

use super::{
    blueprint,
    decide::{Step, shrinks},
    observe::api,
    roll::holder,
    scale::named,
    seen::{Pod, Seen},
    wishes::Wishes,
};
use crate::{
    context::{Context, Told},
    names::{FIELD_MANAGER, NUDGED_AT},
    pass::{self, gone_is_fine},
    render::{Kind, Object, template_hash},
};

/// The check before a broker goes for good, or its claim. All others are a roll's.
pub const SCALE_IN: &str = "scale-in";
/// Who restarts a broker has the slot so long at most; it ends by itself when the broker has registered again.
const SLOT_FOR: Duration = Duration::from_secs(600);

/// What came of the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many were carried out.
    pub done: usize,
    /// What was refused: for the condition.
    pub refused: Vec<Refused>,
    /// The check that kept all candidates from being restarted, and what it says.
    pub held: Option<(&'static str, String)>,
    /// A right that the operator lacks, in the API server's words.
    pub forbidden: Option<String>,
    /// An object had changed since it was seen: nothing that goes by it was done.
    pub outran: bool,
}

/// Something that was refused, and that repeating alone will not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the condition: `AdmissionDenied`.
    pub reason: &'static str,
    /// In the words of who refused.
    pub text: String,
}

/// Carries out steps until one fails.
pub struct Actor<'a> {
    context: &'a Context,
    seen: &'a Seen,
    regarding: ObjectReference,
    outcome: Outcome,
}

impl<'a> Actor<'a> {
    /// One for what was seen.
    #[must_use]
    pub fn new(context: &'a Context, seen: &'a Seen, regarding: ObjectReference) -> Self {
        Self {
            context,
            seen,
            regarding,
            outcome: Outcome::default(),
        }
    }

    /// Carries out all steps. One that fails stops none but those that go by its object: what mends a broker must not
    /// wait for a vote that the broker cannot get.
    ///
    /// # Errors
    /// The first that may well succeed the next time; what was refused is in the outcome.
    pub async fn run(mut self, steps: &[Step]) -> (Outcome, anyhow::Result<()>) {
        let mut result = Ok(());
        for step in steps {
            if let Err(error) = self.step(step).await {
                let is_object = matches!(step, Step::Apply(_));
                if pass::is_forbidden(&error) {
                    self.outcome.forbidden.get_or_insert_with(|| pass::in_words(&error));
                }
                tracing::info!(cluster = %self.seen.key, error = pass::in_words(&error), "a step failed");
                result = result.and(Err(error));
                if is_object {
                    break;
                }
            }
            if self.outcome.outran {
                break;
            }
            // The settings and the record come before all that goes by them.
            if !self.outcome.refused.is_empty() && is_config_map(step) {
                break;
            }
        }
        (self.outcome, result)
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Apply(_) | Step::Resize(_) if shrinks(self.seen, step) && !self.may_shrink().await? => Ok(()),
            Step::Apply(object) => self.apply(object).await,
            Step::DeleteBudget => self.delete_budget().await,
            Step::Resize(replicas) => self.resize(*replicas).await,
            Step::Nudge(count) => self.nudge(*count).await,
            Step::PermitNumber(id) => self.permit_number(*id).await,
            Step::AlterTopicDefaults { set, unset } => self.alter_topic_defaults(set, unset).await,
            Step::AddVoter(id) => self.add_voter(*id).await,
            Step::RemoveVoter(id) => self.remove_voter(*id).await,
            Step::RemoveLostVoter(voter_id) => self.remove_lost_voter(*voter_id).await,
            Step::Drain(ids) => self.drain(ids).await,
            Step::CancelDrain(ids) => self.cancel_drain(ids).await,
            Step::Rebalance { onto, record } => self.rebalance(onto, record).await,
            Step::RemoveBroker(id) => self.remove_broker(*id).await,
            Step::DeleteClaim(id) => self.delete_claim(*id).await,
            Step::Restart { candidates, hash } => self.restart(candidates, hash).await,
            Step::Replace { broker, hash } => self.replace(*broker, hash).await,
        }
    }

    async fn admin(&self) -> anyhow::Result<Admin> {
        let uid = self.seen.cluster.metadata.uid.as_deref().unwrap_or_default();
        let admin = self.context.links.admin(&self.seen.key, uid).await;
        admin.context("reach the brokers")
    }

    fn moving_admin(&self, admin: Admin) -> Admin {
        admin.throttle(Wishes::of(&self.seen.cluster).move_bytes_per_second)
    }

    async fn tell(&mut self, told: Told) {
        self.outcome.done += 1;
        self.context.tell(&self.regarding, told).await;
    }

    /// A broker's pod, also one that is gone: events of two brokers are two events by it.
    fn broker(&self, id: i32) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.seen.key.pod(id)),
            namespace: Some(self.seen.key.namespace.clone()),
            uid: self.seen.pods.get(&id).map(|pod| pod.uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn refuse(&mut self, reason: &'static str, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(cluster = %self.seen.key, reason, text, "refused");
        self.outcome.refused.push(Refused { reason, text });
    }

    async fn apply(&mut self, object: &Object) -> anyhow::Result<()> {
        let key = &self.seen.key;
        let name = object.kind.name(key);
        let (_, _, kind, _) = object.kind.api();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let mut wanted = object.value.clone();
        if let Some(live) = self.seen.objects.get(&object.kind) {
            // Only over what was seen: an operator that was held up must not undo what another has done since.
            for field in ["uid", "resourceVersion"] {
                wanted["metadata"][field] = live["metadata"][field].clone();
            }
        }
        let applied = api(self.context, key, object.kind)
            .patch(&name, &params, &Patch::Apply(&wanted))
            .await;
        match applied {
            Ok(_) => {
                let new = !self.seen.objects.contains_key(&object.kind);
                tracing::info!(cluster = %key, kind, name, new, "applied");
                if new {
                    self.tell(Told::normal("Created", "Create", format!("made {kind} {name}")))
                        .await;
                } else {
                    self.outcome.done += 1;
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.outcome.outran = true;
                Ok(())
            }
            Err(kube::Error::Api(status)) if is_refusal(status.code) && !pass::lacks_right(&status) => {
                self.refuse("AdmissionDenied", format!("{kind} {name}: {}", status.message));
                let replicas = |set: &Value| set["spec"]["replicas"].as_i64();
                let live = self.seen.objects.get(&object.kind).and_then(replicas);
                let wanted = replicas(&object.value).and_then(|wanted| i32::try_from(wanted).ok());
                match wanted {
                    // What was refused may be the pods' template alone: that must not keep brokers from coming or going.
                    Some(wanted) if live.is_some_and(|live| live != i64::from(wanted)) => self.resize(wanted).await,
                    _ => Ok(()),
                }
            }
            Err(error) => Err(error).with_context(|| format!("apply {kind} {name}")),
        }
    }

    async fn delete_budget(&mut self) -> anyhow::Result<()> {
        let Some(live) = self.seen.objects.get(&Kind::DisruptionBudget) else {
            return Ok(());
        };
        let kind = Kind::DisruptionBudget;
        let name = kind.name(&self.seen.key);
        let deleted = api(self.context, &self.seen.key, kind).delete(&name, &only(live)).await;
        gone_is_fine(deleted.map(drop)).context("delete the disruption budget")?;
        self.outcome.done += 1;
        Ok(())
    }

    /// Whether the last broker holds nothing, by what a majority of the quorum knows at this moment: what was seen
    /// before was told by one broker, of a moment ago.
    async fn may_shrink(&mut self) -> anyhow::Result<bool> {
        if blueprint::record(self.seen).cluster_id.is_none() {
            // There is no cluster yet that anybody could hold anything of, and nobody to ask.
            return Ok(true);
        }
        let set = self.seen.objects.get(&Kind::StatefulSet);
        let replicas = set.and_then(|set| set["spec"]["replicas"].as_i64());
        let last = replicas.and_then(|replicas| i32::try_from(replicas - 1).ok());
        let Some(last) = last else {
            return Ok(false);
        };
        self.holds_nothing(last).await
    }

    /// Whether a broker holds no replica and no vote, or is not known at all.
    async fn holds_nothing(&mut self, id: i32) -> anyhow::Result<bool> {
        match self.admin().await?.may_remove_broker(id).await {
            Ok(()) => Ok(true),
            Err(error) => match error.reason() {
                Some(ErrorReason::UnknownBroker) => Ok(true),
                Some(ErrorReason::StillNeeded | ErrorReason::BrokerState | ErrorReason::MaintenanceTaken) => {
                    self.hold(SCALE_IN, format!("broker {id} cannot go yet: {error}"));
                    Ok(false)
                }
                _ => Err(error).with_context(|| format!("ask whether broker {id} holds anything")),
            },
        }
    }

    /// Another number of pods, if the StatefulSet still is what was seen.
    async fn resize(&mut self, replicas: i32) -> anyhow::Result<()> {
        let live = self.seen.objects.get(&Kind::StatefulSet);
        let version = live.map(|live| live["metadata"]["resourceVersion"].clone());
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": replicas } });
        match self.merge_into_set(&patch).await {
            Ok(()) => self.outcome.done += 1,
            Err(kube::Error::Api(status)) if status.code == 409 => self.outcome.outran = true,
            Err(error) => return Err(error).context("change the number of pods"),
        }
        Ok(())
    }

    async fn nudge(&mut self, count: u32) -> anyhow::Result<()> {
        let touched = format!("{} {count}", self.seen.now);
        let patch = json!({ "metadata": { "annotations": { NUDGED_AT: touched } } });
        self.merge_into_set(&patch).await.context("touch the StatefulSet")
    }

    async fn merge_into_set(&self, patch: &Value) -> kube::Result<()> {
        let key = &self.seen.key;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let set = api(self.context, key, Kind::StatefulSet);
        let patched = set.patch(&key.brokers(), &params, &Patch::Merge(patch)).await;
        gone_is_fine(patched.map(drop))
    }

    async fn permit_number(&mut self, id: i32) -> anyhow::Result<()> {
        let permitted = self.admin().await?.permit_removed_broker(id).await;
        match permitted {
            Ok(_) => {
                let note = format!("broker {id} was removed before and may come again, empty");
                let told = Told::normal("BrokerNumberPermitted", "ScaleOut", note).about(self.broker(id));
                self.tell(told).await;
                Ok(())
            }
            // It was never there, or is by now.
            Err(error)
                if matches!(
                    error.reason(),
                    Some(ErrorReason::UnknownBroker | ErrorReason::BrokerState)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("permit the number of broker {id}")),
        }
    }

    async fn alter_topic_defaults(&mut self, set: &[(String, String)], unset: &[String]) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let set = set.iter().map(|(name, value)| (name.clone(), value.clone()));
        match admin.alter_topic_defaults(set, unset.iter().cloned()).await {
            Ok(()) => {
                let note = "the defaults of topics are as the Cluster says";
                self.tell(Told::normal("TopicDefaultsChanged", "Configure", note)).await;
                Ok(())
            }
            Err(error) if error.reason() == Some(ErrorReason::InvalidConfig) => {
                self.refuse("InvalidConfig", format!("config: topic.default: {error}"));
                Ok(())
            }
            Err(error) => Err(error).context("change the defaults of topics"),
        }
    }

    async fn add_voter(&mut self, id: i32) -> anyhow::Result<()> {
        self.admin()
            .await?
            .add_voter(id)
            .await
            .with_context(|| format!("give broker {id} a vote"))?;
        let note = format!("broker {id} votes on the metadata");
        let told = Told::normal("VoterAdded", "ChangeQuorum", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }

    async fn remove_voter(&mut self, id: i32) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let removed = admin.remove_voter(VoterName::Broker(id)).await;
        removed.with_context(|| format!("take the vote of broker {id} away"))?;
        let note = format!("broker {id} does not vote on the metadata any more");
        let told = Told::normal("VoterRemoved", "ChangeQuorum", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }

    async fn remove_lost_voter(&mut self, voter_id: i64) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let removed = admin.remove_voter(VoterName::Id(voter_id)).await;
        removed.with_context(|| format!("take the vote of the lost voter {voter_id} away"))?;
        let note = format!("voter {voter_id} is gone: its disk was replaced");
        self.tell(Told::normal("VoterRemoved", "ChangeQuorum", note)).await;
        Ok(())
    }

    async fn drain(&mut self, ids: &[i32]) -> anyhow::Result<()> {
        let admin = self.moving_admin(self.admin().await?);
        match admin.drain_brokers(ids.iter().copied()).await {
            Ok(moves) => {
                let note = format!(
                    "emptying {}: {} replicas of {} partitions are moved",
                    named(ids),
                    moves.replicas_to_copy,
                    moves.partitions
                );
                self.tell(Told::normal("Draining", "ScaleIn", note)).await;
                Ok(())
            }
            Err(error) if is_no_place(&error) => {
                let text = format!("cannot empty {}: {error} Set replicas back, or make room.", named(ids));
                self.refuse("ScaleInBlocked", text);
                Ok(())
            }
            Err(error) => Err(error).context("drain brokers"),
        }
    }

    async fn cancel_drain(&mut self, ids: &[i32]) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        admin
            .cancel_drain(ids.iter().copied())
            .await
            .context("end the drain of brokers")?;
        let note = format!("may stay after all: {}", named(ids));
        self.tell(Told::normal("DrainCancelled", "ScaleIn", note)).await;
        Ok(())
    }

    async fn rebalance(&mut self, onto: &[i32], record: &Object) -> anyhow::Result<()> {
        let admin = self.moving_admin(self.admin().await?);
        match admin.rebalance(onto.iter().copied()).await {
            Ok(moves) => {
                let note = format!(
                    "a share for {}: {} replicas of {} partitions are moved",
                    named(onto),
                    moves.replicas_to_copy,
                    moves.partitions
                );
                self.tell(Told::normal("Rebalancing", "ScaleOut", note)).await;
                self.apply(record).await
            }
            Err(error) if is_no_place(&error) => {
                let text = format!("cannot give {} a share: {error}", named(onto));
                self.refuse("RebalanceBlocked", text);
                Ok(())
            }
            Err(error) => Err(error).context("give new brokers their share"),
        }
    }

    async fn remove_broker(&mut self, id: i32) -> anyhow::Result<()> {
        match self.admin().await?.remove_broker(id, false).await {
            Ok(()) => {
                let note = format!("broker {id} is gone; it held nothing");
                let told = Told::normal("BrokerRemoved", "ScaleIn", note).about(self.broker(id));
                self.tell(told).await;
                Ok(())
            }
            Err(error) if error.reason() == Some(ErrorReason::UnknownBroker) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove broker {id}")),
        }
    }

    async fn delete_claim(&mut self, id: i32) -> anyhow::Result<()> {
        let Some(claim) = self.seen.claims.get(&id) else {
            return Ok(());
        };
        if !self.holds_nothing(id).await? {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.kube.clone(), &self.seen.key.namespace);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(claim.uid.clone()),
            resource_version: Some(claim.resource_version.clone()),
        });
        let deleted = claims.delete(&claim.name, &params).await;
        gone_is_fine(deleted.map(drop)).with_context(|| format!("delete claim {}", claim.name))?;
        let note = format!("deleted claim {}: all that broker {id} held is on others", claim.name);
        let told = Told::normal("ClaimDeleted", "ScaleIn", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }

    /// Restarts the first of the candidates that may be.
    async fn restart(&mut self, candidates: &[i32], hash: &str) -> anyhow::Result<()> {
        if !self.canary(hash).await? {
            return Ok(());
        }
        let admin = self.admin().await?;
        let holder = holder(self.seen);
        self.release_stale(&admin, &holder, candidates).await?;
        let mut reasons = Vec::new();
        for id in candidates {
            let answer = admin
                .may_restart(*id)
                .await
                .with_context(|| format!("ask whether broker {id} may go"))?;
            let other = answer.maintenance.as_ref().is_some_and(|slot| slot.holder != holder);
            if other || !answer.allowed {
                reasons.push(why_not(*id, &answer));
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
            if self.evict(*id, pod, "RollingBroker").await? {
                self.context.metrics.restarted("Roll");
            } else if self.outcome.held.is_some() {
                admin
                    .release_maintenance(&holder, *id)
                    .await
                    .context("give the maintenance slot back")?;
            }
            return Ok(());
        }
        self.hold("may-restart", reasons.join("; "));
        Ok(())
    }

    fn hold(&mut self, gate: &'static str, text: String) {
        self.context.metrics.blocked(gate);
        self.outcome.held = Some((gate, text));
    }

    /// A slot that an operator before this one has taken and not used.
    async fn release_stale(&self, admin: &Admin, holder: &str, candidates: &[i32]) -> anyhow::Result<()> {
        let slot = self
            .seen
            .brokers
            .told()
            .and_then(|told| told.cluster.maintenance.clone());
        if let Some(slot) = slot.filter(|slot| slot.holder == holder && !candidates.contains(&slot.broker_id)) {
            admin
                .release_maintenance(holder, slot.broker_id)
                .await
                .context("give an old maintenance slot back")?;
        }
        Ok(())
    }

    /// Evicts a pod whose broker does not run.
    async fn replace(&mut self, id: i32, hash: &str) -> anyhow::Result<()> {
        if !self.canary(hash).await? {
            return Ok(());
        }
        if let Some(pod) = self.seen.pods.get(&id)
            && self.evict(id, pod, "ReplacingPod").await?
        {
            self.context.metrics.restarted("Stuck");
        }
        Ok(())
    }

    /// Whether the API server would take a pod of the template: quotas, pod security and other admission are asked
    /// before a pod that runs is given up (strimzi/strimzi-kafka-operator#8116). And whether the StatefulSet has the
    /// template at all: pods that are evicted before would come back as they were, again and again.
    async fn canary(&mut self, hash: &str) -> anyhow::Result<bool> {
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
            Err(kube::Error::Api(status)) if is_refusal(status.code) => {
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
    async fn evict(&mut self, id: i32, pod: &Pod, reason: &'static str) -> anyhow::Result<bool> {
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

fn why_not(id: i32, answer: &millrace_client::v1::MayRestartResponse) -> String {
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

fn is_config_map(step: &Step) -> bool {
    matches!(step, Step::Apply(object) if object.kind == Kind::ConfigMap)
}

/// What repeating will not change: the request itself is not taken.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 422)
}

/// Whether a broker's replicas have nowhere to go.
fn is_no_place(error: &millrace_client::Error) -> bool {
    matches!(
        error.reason(),
        Some(ErrorReason::NotEnoughBrokers | ErrorReason::PlacementBlocked)
    )
}

/// Only the object that was seen.
fn only(live: &Value) -> DeleteParams {
    let text = |name: &str| live["metadata"][name].as_str().map(str::to_owned);
    DeleteParams::background().preconditions(Preconditions {
        uid: text("uid"),
        resource_version: text("resourceVersion"),
    })
}
