//! Before the operator is uninstalled: its finalizers go, or Topics and the namespaces they are in could never be
//! deleted (strimzi/strimzi-kafka-operator#11901). Topics' data stays.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PartialObjectMeta, Patch, PatchParams},
};
use millrace_crds::Topic;
use serde_json::json;

use crate::{
    lease::{self, Elector},
    names::TOPIC_FINALIZER,
    options::ReleaseOptions,
    pass::{is_not_found, lacks_right},
};

/// Objects that are changed by somebody else meanwhile are tried again so often.
const ATTEMPTS: usize = 5;

/// Takes the finalizers off all Topics.
///
/// # Errors
/// The API server refuses, or somebody puts them back.
pub async fn run(kube: Client, options: &ReleaseOptions) -> anyhow::Result<()> {
    let mut taken_from = None;
    if let Some(name) = options.lease_name.as_deref().filter(|name| !name.is_empty()) {
        let namespace = options.lease_namespace.clone();
        let namespace = namespace.unwrap_or_else(|| kube.default_namespace().to_owned());
        let leases: Api<Lease> = Api::namespaced(kube.clone(), &namespace);
        // The operator that runs would put them back. It stops when its lease is another's.
        let elector = Elector::new(leases, name, "uninstall");
        let taken = elector.seize(Duration::from_secs(60)).await;
        if taken.context("take the operator's lease")? {
            eprintln!("took the lease {namespace}/{name}; waiting until the operator has stopped");
            tokio::time::sleep(lease::DURATION).await;
            taken_from = Some(elector);
        }
    }
    let named = options.namespaces.named();
    let apis: Vec<Api<PartialObjectMeta<Topic>>> = if named.is_empty() {
        vec![Api::all(kube.clone())]
    } else {
        named
            .iter()
            .map(|namespace| Api::namespaced(kube.clone(), namespace))
            .collect()
    };
    let mut released = 0;
    for _ in 0..ATTEMPTS {
        let mut left = 0;
        for api in &apis {
            for topic in held(api, !named.is_empty()).await? {
                left += 1;
                released += usize::from(release(&kube, &topic).await?);
            }
        }
        if left == 0 {
            if let Some(elector) = taken_from {
                // Long enough until the old operator is deleted; a new one that is installed at once need not wait longer.
                let shortened = elector.seize(2 * lease::DURATION).await;
                shortened.context("give the operator's lease back")?;
            }
            eprintln!("released {released} Topics; their data stays");
            return Ok(());
        }
    }
    bail!("Topics get their finalizer {TOPIC_FINALIZER} again: another operator looks after them");
}

/// Topics that have the finalizer. Where the definition is gone there are none, and where the right to look is gone
/// they are left as they are: of namespaces that are named one was deleted, with our role in it, or never had one, so
/// that we put no finalizer there. That must not keep all others from being released.
async fn held(api: &Api<PartialObjectMeta<Topic>>, named: bool) -> anyhow::Result<Vec<PartialObjectMeta<Topic>>> {
    match api.list(&ListParams::default()).await {
        Ok(topics) => Ok(topics
            .into_iter()
            .filter(|topic| topic.finalizers().iter().any(|name| name == TOPIC_FINALIZER))
            .collect()),
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        Err(kube::Error::Api(status)) if named && lacks_right(&status) => {
            eprintln!("left out: {}", status.message);
            Ok(Vec::new())
        }
        Err(error) => Err(error).context("list Topics"),
    }
}

/// `false`: it has changed since it was read, or is gone.
async fn release(kube: &Client, topic: &PartialObjectMeta<Topic>) -> anyhow::Result<bool> {
    let name = topic.name_any();
    let namespace = topic.namespace().unwrap_or_default();
    let others: Vec<&String> = topic
        .finalizers()
        .iter()
        .filter(|name| *name != TOPIC_FINALIZER)
        .collect();
    let patch = json!({
        "metadata": { "resourceVersion": topic.resource_version(), "finalizers": others },
    });
    let api: Api<PartialObjectMeta<Topic>> = Api::namespaced(kube.clone(), &namespace);
    match api
        .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("release Topic {namespace}/{name}")),
    }
}
