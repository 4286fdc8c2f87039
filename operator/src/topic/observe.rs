//! The one place that asks the API server and the brokers how things are.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ApiResource, core::DynamicObject};
use millrace_client::{
    Admin, Error, ErrorReason,
    v1::{self, TopicOwner},
};
use millrace_crds::{Cluster, DeletionPolicy, Topic};
use parking_lot::Mutex;

use super::{
    access::{self, Labels},
    object,
    replicas::replicas,
    seen::{Found, Object, Offer, Reach, Rival},
    shared::Shared,
    silence::Silence,
    terminating::{Definition, definition},
};
use crate::{context::Context, names::ClusterKey, pass::is_not_found};

/// What is asked for many Topics at once is asked so often at most.
const SHARED_FOR: Duration = Duration::from_millis(200);
/// A cluster that does not answer is tried again so soon: each try takes seconds, and many Topics wait for it.
const UNREACHED_FOR: Duration = Duration::from_secs(2);
/// Without the right to see what else goes away with a Topic, so long is waited until that shows.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// Objects that are being deleted are forgotten after so long; they are told anew if they are still there.
const DELETION_KNOWN_FOR: Duration = Duration::from_secs(600);

/// A Cluster object.
#[derive(Clone, Debug)]
enum Looked {
    NotFound,
    /// The operator may not read it.
    Forbidden,
    /// It is of another version.
    Unreadable,
    There(Arc<Cluster>),
}

/// A namespace.
#[derive(Clone, Debug)]
enum Space {
    Forbidden,
    There { labels: Labels, ends: bool },
}

/// Asks.
#[derive(Debug, Default)]
pub struct Observer {
    clusters: Shared<ClusterKey, Looked>,
    spaces: Shared<String, Space>,
    /// By the Cluster's key and uid.
    admins: Shared<(ClusterKey, String), Option<Admin>>,
    silence: Silence,
    /// When each object that is being deleted was first seen so, by its uid.
    deletions: Mutex<HashMap<String, Instant>>,
}

impl Observer {
    /// The Cluster has changed: what was seen of it before says nothing any more.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.clusters.forget(|key| key == cluster);
        self.admins.forget(|(key, _)| key == cluster);
        self.silence.forget(cluster);
    }

    /// The way to the object's cluster.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn reach(&self, context: &Context, object: &Object) -> anyhow::Result<(Reach, Option<Admin>)> {
        // What can't be undone goes by what is there now.
        let age = if object.deleting { Duration::ZERO } else { SHARED_FOR };
        let key = object.cluster();
        let foreign = key.namespace != object.namespace;
        let labels = if foreign {
            // Asked whatever the Cluster says, so that the answer tells nothing of the Cluster.
            Some(match self.space(context, &object.namespace, age).await? {
                Space::Forbidden => Labels::Forbidden,
                Space::There { labels, .. } => labels,
            })
        } else {
            None
        };
        let looked = if context.options.namespaces.include(&key.namespace) {
            self.cluster(context, &key, age).await?
        } else {
            Looked::NotFound
        };
        let refused = || Reach::Refused(access::refusal(&key, &object.namespace, labels.as_ref()));
        let cluster = match looked {
            _ if foreign && !matches!(looked, Looked::There(_)) => return Ok((refused(), None)),
            Looked::NotFound => return Ok((Reach::NotFound, None)),
            Looked::Forbidden => {
                let message = format!("The operator may not read Cluster {key} (get).");
                return Ok((Reach::Unreachable(message), None));
            }
            Looked::Unreadable => {
                let message = format!("Cluster {key} can't be read by this operator: its status says why.");
                return Ok((Reach::Unreachable(message), None));
            }
            Looked::There(cluster) => cluster,
        };
        let access = cluster.spec.topics.as_ref();
        let known = labels.clone().unwrap_or(Labels::Forbidden);
        if !access::admits(access, &key.namespace, &object.namespace, &known) {
            return Ok((refused(), None));
        }
        if let Some(prefix) = access::prefix(access, &object.namespace)
            && !object.topic().starts_with(&prefix)
        {
            let why = if foreign {
                refused()
            } else {
                Reach::Refused(format!(
                    "Cluster {key} takes only topics whose names begin with {prefix:?}."
                ))
            };
            return Ok((why, None));
        }
        if cluster.metadata.deletion_timestamp.is_some() {
            return Ok((Reach::Ending("its Cluster is being deleted".into()), None));
        }
        if object.deleting
            && object.deletion_policy(object.memory.adopted) == DeletionPolicy::Delete
            && let Some(in_the_way) = self.ending(context, object, &key).await?
        {
            return Ok((in_the_way, None));
        }
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        match self.admin(context, &key, &uid).await {
            Some(admin) => {
                let offer = Offer {
                    defaults: cluster.spec.defaults.clone().unwrap_or_default(),
                    replicas: cluster.spec.replicas,
                };
                Ok((Reach::Reached(offer), Some(admin)))
            }
            None => Ok((Reach::Unreachable(unreached(&key, &cluster)), None)),
        }
    }

    /// What goes away together with a Topic that is being deleted, if that is more than the Topic.
    async fn ending(&self, context: &Context, object: &Object, key: &ClusterKey) -> anyhow::Result<Option<Reach>> {
        let mut sure = true;
        match definition(&context.kube).await? {
            Definition::Stays => {}
            Definition::Goes => {
                let why = "the definition of Topics is being deleted";
                return Ok(Some(Reach::Ending(why.into())));
            }
            Definition::SeemsToStay => sure = false,
        }
        match self.space(context, &key.namespace, Duration::ZERO).await? {
            Space::There { ends: true, .. } => {
                let why = "the namespace of its Cluster is being deleted";
                return Ok(Some(Reach::Ending(why.into())));
            }
            Space::There { .. } => {}
            Space::Forbidden => sure = false,
        }
        // What is being deleted together is marked within a moment, the Cluster too.
        Ok((!sure && self.being_deleted_for(&object.uid) < SETTLES_WITHIN).then_some(Reach::Settling))
    }

    fn being_deleted_for(&self, uid: &str) -> Duration {
        let mut known = self.deletions.lock();
        known.retain(|_, since| since.elapsed() < DELETION_KNOWN_FOR);
        known.entry(uid.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    async fn cluster(&self, context: &Context, key: &ClusterKey, age: Duration) -> anyhow::Result<Looked> {
        let ask = async {
            let api: Api<DynamicObject> = Api::namespaced_with(
                context.kube.clone(),
                &key.namespace,
                &ApiResource::erase::<Cluster>(&()),
            );
            Ok(match api.get(&key.name).await {
                Ok(found) => match found.try_parse::<Cluster>() {
                    Ok(cluster) => Looked::There(Arc::new(cluster)),
                    Err(_) => Looked::Unreadable,
                },
                Err(error) if is_not_found(&error) => Looked::NotFound,
                Err(kube::Error::Api(status)) if status.is_forbidden() => Looked::Forbidden,
                Err(error) => return Err(anyhow::Error::from(error).context(format!("Cluster {key} can't be fetched"))),
            })
        };
        self.clusters.get(key, |_| age, ask).await
    }

    async fn space(&self, context: &Context, name: &str, age: Duration) -> anyhow::Result<Space> {
        let ask = async {
            let api: Api<Namespace> = Api::all(context.kube.clone());
            Ok(match api.get(name).await {
                Ok(found) => Space::There {
                    ends: found.metadata.deletion_timestamp.is_some(),
                    labels: Labels::Known(found.metadata.labels.unwrap_or_default()),
                },
                Err(kube::Error::Api(status)) if status.is_not_found() => Space::There {
                    ends: true,
                    labels: Labels::Known(BTreeMap::new()),
                },
                Err(kube::Error::Api(status)) if status.is_forbidden() => Space::Forbidden,
                Err(error) => {
                    return Err(anyhow::Error::from(error).context(format!("namespace {name} can't be fetched")));
                }
            })
        };
        self.spaces.get(&name.to_owned(), |_| age, ask).await
    }

    async fn admin(&self, context: &Context, key: &ClusterKey, uid: &str) -> Option<Admin> {
        if !self.silence.may_ask(key, Instant::now()) {
            return None;
        }
        let age = |known: &Option<Admin>| if known.is_some() { SHARED_FOR } else { UNREACHED_FOR };
        let ask = async {
            Ok::<_, Infallible>(match context.links.admin(key, uid).await {
                Ok(admin) => Some(admin),
                Err(error) => {
                    tracing::debug!(cluster = %key, %error, "no broker answers");
                    None
                }
            })
        };
        match self.admins.get(&(key.clone(), uid.to_owned()), age, ask).await {
            Ok(admin) => admin,
        }
    }

    /// The topic, and whether its owner is still there; `None` in place of an answer: the brokers don't answer.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn topic(
        &self,
        context: &Context,
        object: &Object,
        admin: &Admin,
    ) -> anyhow::Result<Result<Option<Found>, String>> {
        let key = object.cluster();
        let found = find(admin, object.topic()).await;
        match &found {
            Err(error) if error.is_retriable() => self.silence.failed(&key, Instant::now()),
            _ => self.silence.forget(&key),
        }
        match found {
            Ok(Some(mut found)) => {
                if let Some(owner) = found.owner.as_ref().filter(|owner| is_other(owner, object)) {
                    found.rival = rival(context, object, owner).await?;
                }
                Ok(Ok(Some(found)))
            }
            Ok(None) => Ok(Ok(None)),
            Err(error) => {
                tracing::debug!(cluster = %key, topic = object.topic(), %error, "a topic can't be looked at");
                Ok(Err(format!("The brokers of Cluster {key} don't answer.")))
            }
        }
    }
}

/// Why a cluster was not reached, in words that stay the same while it is so.
fn unreached(key: &ClusterKey, cluster: &Cluster) -> String {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
        Some(ready) if ready.status != "True" => {
            format!(
                "Cluster {key} is not ready ({}), and none of its brokers answers.",
                ready.reason
            )
        }
        _ => format!("None of the brokers of Cluster {key} answers."),
    }
}

fn is_other(owner: &TopicOwner, object: &Object) -> bool {
    (&owner.namespace, &owner.name) != (&object.namespace, &object.name)
}

async fn find(admin: &Admin, name: &str) -> Result<Option<Found>, Error> {
    let described = match admin.describe_topic(name).await {
        Ok(described) => described,
        Err(error) => {
            return match error.reason() {
                Some(ErrorReason::UnknownTopic | ErrorReason::InvalidTopicName) => Ok(None),
                _ => Err(error),
            };
        }
    };
    let moving = described
        .partitions
        .iter()
        .any(|partition| !partition.adding_replicas.is_empty());
    let moves = if moving {
        match admin.list_reassignments(Some(name)).await {
            Ok(moves) => moves,
            // It has just gone: the next look shows it.
            Err(error) if error.reason() == Some(ErrorReason::UnknownTopic) => Vec::new(),
            Err(error) => return Err(error),
        }
    } else {
        Vec::new()
    };
    Ok(Some(found(described, &moves)))
}

fn found(described: v1::DescribeTopicResponse, moves: &[v1::Reassignment]) -> Found {
    let leaderless = described
        .partitions
        .iter()
        .filter(|partition| partition.leader_id.is_none());
    let leaderless = i32::try_from(leaderless.count()).unwrap_or(i32::MAX);
    let replicas = replicas(&described.partitions, moves);
    let topic = described.topic.unwrap_or_default();
    Found {
        id: topic.topic_id.to_vec(),
        owner: topic.owner,
        rival: Rival::There,
        partitions: topic.partitions,
        leaderless,
        replicas,
        config: described
            .configs
            .into_iter()
            .map(|entry| (entry.name, entry.value))
            .collect(),
    }
}

/// Whether the owner that the cluster has on record is still there. An object that was deleted with Retain can't say
/// goodbye: it has no finalizer.
async fn rival(context: &Context, object: &Object, owner: &TopicOwner) -> anyhow::Result<Rival> {
    if !context.options.namespaces.include(&owner.namespace) {
        return Ok(Rival::Unknown);
    }
    let api: Api<DynamicObject> = Api::namespaced_with(
        context.kube.clone(),
        &owner.namespace,
        &ApiResource::erase::<Topic>(&()),
    );
    let other = match api.get(&owner.name).await {
        Ok(other) => other,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Rival::Gone),
        Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(Rival::Unknown),
        Err(error) => return Err(error.into()),
    };
    if other.metadata.uid.as_ref() == Some(&owner.uid) {
        return Ok(Rival::There);
    }
    // Another object took its name: it inherits, if it is about the same topic.
    let elsewhere =
        object::read(&other).is_ok_and(|other| (other.cluster(), other.topic()) != (object.cluster(), object.topic()));
    Ok(if elsewhere { Rival::Gone } else { Rival::There })
}
