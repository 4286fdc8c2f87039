//! The cluster's objects: made, changed, and their number of pods.

use anyhow::Context as _;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use millrace_client::ErrorReason;
use serde_json::{Value, json};

use super::{Actor, SCALE_IN, is_refusal};
use crate::{
    cluster::{blueprint, decide::Step, observe::api},
    context::Told,
    names::{FIELD_MANAGER, NUDGED_AT},
    pass::gone_is_fine,
    render::{Kind, Object, template_hash},
};

/// What came of an object that was to be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// It is as it is to be.
    Done,
    /// It had changed since it was seen.
    Outran,
    /// It was not taken, which is told by then.
    Refused,
}

impl Actor<'_> {
    pub(super) async fn apply(&mut self, object: &Object) -> anyhow::Result<()> {
        match self.apply_over_seen(object).await? {
            Applied::Done => {}
            Applied::Outran => self.outcome.outran = true,
            Applied::Refused => {
                let replicas = |set: &Value| set["spec"]["replicas"].as_i64();
                let live = self.seen.objects.get(&object.kind).and_then(replicas);
                let wanted = replicas(&object.value).and_then(|wanted| i32::try_from(wanted).ok());
                // What was refused may be the pods' template alone: that must not keep brokers from coming or going.
                if let Some(wanted) = wanted.filter(|wanted| live.is_some_and(|live| live != i64::from(*wanted))) {
                    return self.resize(wanted).await;
                }
            }
        }
        Ok(())
    }

    /// Makes or changes an object, over what was seen of it and nothing else.
    pub(super) async fn apply_over_seen(&mut self, object: &Object) -> anyhow::Result<Applied> {
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
                Ok(Applied::Done)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Applied::Outran),
            Err(kube::Error::Api(status)) if is_refusal(&status) => {
                self.refuse("AdmissionDenied", format!("{kind} {name}: {}", status.message));
                Ok(Applied::Refused)
            }
            Err(error) => Err(error).with_context(|| format!("apply {kind} {name}")),
        }
    }

    pub(super) async fn delete_budget(&mut self) -> anyhow::Result<()> {
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

    /// Takes the last pod away, if its broker holds nothing. If it does, the pods' template is not to wait for that.
    pub(super) async fn shrink(&mut self, step: &Step) -> anyhow::Result<()> {
        if self.may_shrink().await? {
            self.shrunk = true;
            return match step {
                Step::Apply(object) => self.apply(object).await,
                Step::Resize(replicas) => self.resize(*replicas).await,
                _ => Ok(()),
            };
        }
        let live = self.seen.objects.get(&Kind::StatefulSet);
        let (Step::Apply(object), Some(live)) = (step, live) else {
            return Ok(());
        };
        let hash = |set: &Value| template_hash(&set["spec"]["template"]).to_owned();
        if hash(live) == hash(&object.value) {
            return Ok(());
        }
        let mut as_many = object.clone();
        as_many.value["spec"]["replicas"] = live["spec"]["replicas"].clone();
        self.apply(&as_many).await
    }

    /// Whether the last broker holds nothing, by what a majority of the quorum knows at this moment: what was seen
    /// before was told by one broker, of a moment ago.
    pub(super) async fn may_shrink(&mut self) -> anyhow::Result<bool> {
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
    pub(super) async fn holds_nothing(&mut self, id: i32) -> anyhow::Result<bool> {
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
    pub(super) async fn resize(&mut self, replicas: i32) -> anyhow::Result<()> {
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

    pub(super) async fn nudge(&mut self, count: u32) -> anyhow::Result<()> {
        let touched = format!("{} {count}", self.seen.now);
        let patch = json!({ "metadata": { "annotations": { NUDGED_AT: touched } } });
        self.merge_into_set(&patch).await.context("touch the StatefulSet")
    }

    pub(super) async fn merge_into_set(&self, patch: &Value) -> kube::Result<()> {
        let key = &self.seen.key;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let set = api(self.context, key, Kind::StatefulSet);
        let patched = set.patch(&key.brokers(), &params, &Patch::Merge(patch)).await;
        gone_is_fine(patched.map(drop))
    }
}

/// Only the object that was seen.
fn only(live: &Value) -> DeleteParams {
    let text = |name: &str| live["metadata"][name].as_str().map(str::to_owned);
    DeleteParams::background().preconditions(Preconditions {
        uid: text("uid"),
        resource_version: text("resourceVersion"),
    })
}
