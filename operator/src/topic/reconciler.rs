//! One pass over one Topic: see, decide, act, until nothing is left to do; then report.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Api, Resource as _,
    api::{ApiResource, Patch, PatchParams},
    core::DynamicObject,
    runtime::controller::Action,
};
use millrace_client::Admin;
use millrace_crds::{Topic, TopicStatus};
use parking_lot::Mutex;

use super::{
    act::{self, Done},
    decide::{self, Decision, Next, Step, decide},
    object,
    observe::Observer,
    seen::{Object, Reach, Refusal, Seen},
    status,
};
use crate::{
    conditions::Wanted,
    context::{Context, Told},
    names::{ClusterKey, FIELD_MANAGER},
    pass::{get_opt, is_not_found},
};

/// A pass looks so often at most. The longest way there is (take a name off the record of an owner that is gone, take
/// the topic over, change its settings, partitions and replicas, each refused) takes fewer.
const MAX_ROUNDS: usize = 12;
/// Something is under way.
const SOON: Duration = Duration::from_secs(2);
/// Something must happen elsewhere first.
const LATER: Duration = Duration::from_secs(10);
/// Somebody has changed the object while it was looked at.
const AGAIN: Duration = Duration::from_millis(500);
/// Reasons of `Ready` about which a person should hear.
const ALARMING: [&str; 8] = [
    "AlreadyExists",
    "Conflict",
    "InvalidConfig",
    "InvalidSpec",
    "LimitReached",
    "NotAllowedOrNotFound",
    "Refused",
    "TopicMissing",
];

/// What passes over Topics share.
pub struct Reconciler {
    context: Context,
    observer: Observer,
    /// The cluster of each Topic that was looked at, by namespace and name, so that what happens to a Cluster is known
    /// to concern them. What is not in it is looked at by its own requeue.
    known: Mutex<HashMap<(String, String), ClusterKey>>,
}

impl Reconciler {
    /// One that knows no object yet.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            observer: Observer::default(),
            known: Mutex::default(),
        }
    }

    /// A Cluster has changed: its Topics, by namespace and name, are to be looked at.
    #[must_use]
    pub fn changed(&self, cluster: &ClusterKey) -> Vec<(String, String)> {
        self.observer.forget(cluster);
        let known = self.known.lock();
        known
            .iter()
            .filter(|(_, of)| *of == cluster)
            .map(|(topic, _)| topic.clone())
            .collect()
    }

    /// A Topic is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.known.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// One pass.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pass(&self, namespace: &str, name: &str) -> anyhow::Result<Action> {
        match self.attempt(namespace, name).await {
            Ok(action) => Ok(action),
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) if status.is_conflict() => Ok(Action::requeue(AGAIN)),
                _ => Err(error),
            },
        }
    }

    async fn attempt(&self, namespace: &str, name: &str) -> anyhow::Result<Action> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.kube.clone(), namespace, &ApiResource::erase::<Topic>(&()));
        let at = (namespace.to_owned(), name.to_owned());
        let Some(mut raw) = get_opt(&api, name).await.context("the Topic can't be fetched")? else {
            self.forget(namespace, name);
            return Ok(Action::await_change());
        };
        let object = match object::read(&raw) {
            Ok(object) => object,
            Err(words) => return self.unreadable(&api, &raw, &words).await,
        };
        self.known.lock().insert(at, object.cluster());
        if !object.deleting && object.status.conditions.is_empty() {
            let first = status::bare(
                &object.status,
                &decide::first_sight(),
                object.generation,
                Timestamp::now(),
            );
            raw = write_status(&api, raw, &first).await?;
        }
        let mut refused: Vec<Refusal> = Vec::new();
        for _ in 0..MAX_ROUNDS {
            // Read anew from what the last step has left, so that no step goes by what is no more.
            let object = match object::read(&raw) {
                Ok(object) => object,
                Err(words) => return self.unreadable(&api, &raw, &words).await,
            };
            let (seen, admin) = self.see(object, &refused).await?;
            match decide(&seen) {
                Decision::Leave => return Ok(Action::await_change()),
                Decision::Wait => return Ok(Action::requeue(SOON)),
                Decision::Report(report, next) => {
                    let wanted = status::status(&seen.object, &report, Timestamp::now());
                    self.alarm(&raw, &seen.object, &report.conditions).await;
                    write_status(&api, raw, &wanted).await?;
                    return Ok(Action::requeue(match next {
                        Next::Soon => SOON,
                        Next::Later => LATER,
                        Next::Settled => self.context.resync(&seen.object.uid),
                    }));
                }
                Decision::Act(steps) => match self.act(&api, raw, &seen.object, admin.as_ref(), steps).await? {
                    None => return Ok(Action::await_change()),
                    Some((now, refusal)) => {
                        raw = now;
                        refused.extend(refusal);
                    }
                },
            }
        }
        // Others change the topic as fast as it is looked at.
        Ok(Action::requeue(SOON))
    }

    async fn see(&self, object: Object, refused: &[Refusal]) -> anyhow::Result<(Seen, Option<Admin>)> {
        let mut seen = Seen {
            object,
            reach: Reach::Settling,
            topic: None,
            refused: refused.to_vec(),
        };
        if seen.object.deleting && (seen.object.paused || !seen.object.finalizer) {
            // Whatever the cluster says, nothing is done there: so nothing there may hold the object up.
            return Ok((seen, None));
        }
        let (reach, admin) = self.observer.reach(&self.context, &seen.object).await?;
        seen.reach = reach;
        if let Some(admin) = &admin {
            match self.observer.topic(&self.context, &seen.object, admin).await? {
                Ok(topic) => seen.topic = topic,
                Err(why) => seen.reach = Reach::Unreachable(why),
            }
        }
        Ok((seen, admin))
    }

    /// Does the steps, up to the first that is refused; answers with the object as it is then, none if it was let go.
    async fn act(
        &self,
        api: &Api<DynamicObject>,
        mut raw: DynamicObject,
        object: &Object,
        admin: Option<&Admin>,
        steps: Vec<Step>,
    ) -> anyhow::Result<Option<(DynamicObject, Option<Refusal>)>> {
        for step in steps {
            let release = match &step {
                Step::Release { kept } => Some(kept.clone()),
                _ => None,
            };
            if let Some(Some(why)) = &release {
                let note = format!("The topic {} stays in the cluster: {why}.", object.topic());
                self.tell(&raw, Told::normal("TopicKept", "Release", note)).await;
            }
            match act::act(api, &raw, object, admin, step).await? {
                Done::Yes(changed, told) => {
                    raw = changed.map_or(raw, |changed| *changed);
                    for told in told {
                        self.tell(&raw, told).await;
                    }
                    if release.is_some() {
                        return Ok(None);
                    }
                }
                Done::Refused(refusal) => return Ok(Some((raw, Some(refusal)))),
                Done::Outdated => return Ok(Some((raw, None))),
            }
        }
        Ok(Some((raw, None)))
    }

    /// The spec is of another version: nothing is known of what is wanted, so nothing is done; but nobody is held up.
    async fn unreadable(&self, api: &Api<DynamicObject>, raw: &DynamicObject, words: &str) -> anyhow::Result<Action> {
        if raw.metadata.deletion_timestamp.is_some() {
            if object::has_finalizer(raw) {
                let note = format!("The topic stays in the cluster: this operator can't read the object ({words}).");
                self.tell(raw, Told::normal("TopicKept", "Release", note)).await;
                act::let_go(api, raw).await?;
            }
            return Ok(Action::await_change());
        }
        let conditions = decide::unreadable(words);
        let wanted = status::bare(
            &object::status(raw),
            &conditions,
            raw.metadata.generation,
            Timestamp::now(),
        );
        write_status(api, raw.clone(), &wanted).await?;
        Ok(Action::requeue(
            self.context.resync(raw.metadata.uid.as_deref().unwrap_or_default()),
        ))
    }

    /// Tells of what is wrong, once.
    async fn alarm(&self, raw: &DynamicObject, object: &Object, wanted: &[Wanted]) {
        let Some(ready) = wanted.iter().find(|condition| condition.kind == "Ready") else {
            return;
        };
        let before = object
            .status
            .conditions
            .iter()
            .find(|condition| condition.type_ == ready.kind);
        if ALARMING.contains(&ready.reason) && before.is_none_or(|before| before.reason != ready.reason) {
            self.tell(raw, Told::warning(ready.reason, "Reconcile", ready.message.clone()))
                .await;
        }
    }

    async fn tell(&self, raw: &DynamicObject, told: Told) {
        self.context.tell(&reference(raw), told).await;
    }
}

fn reference(raw: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(Topic::api_version(&()).into_owned()),
        kind: Some(Topic::kind(&()).into_owned()),
        namespace: raw.metadata.namespace.clone(),
        name: raw.metadata.name.clone(),
        uid: raw.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Makes the status what is wanted; writes nothing if it is that.
async fn write_status(
    api: &Api<DynamicObject>,
    raw: DynamicObject,
    wanted: &TopicStatus,
) -> anyhow::Result<DynamicObject> {
    let Some(patch) = status::patch(&raw.data, wanted, raw.metadata.resource_version.as_deref())? else {
        return Ok(raw);
    };
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = raw.metadata.name.clone().unwrap_or_default();
    match api.patch_status(&name, &params, &Patch::Merge(patch)).await {
        Ok(written) => Ok(written),
        // Deleted meanwhile: nobody reads it.
        Err(error) if is_not_found(&error) => Ok(raw),
        Err(error) => Err(anyhow::Error::from(error).context("the Topic's status can't be written")),
    }
}
