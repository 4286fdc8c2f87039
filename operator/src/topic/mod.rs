//! Topics: what a Topic object says is made so in its cluster, as long as the object owns the topic there.
//!
//! A pass sees ([`observe`]), decides ([`decide`], pure) and acts ([`act`]) in turns until nothing is left to do, then
//! reports ([`status`]). Who owns a topic stands in the cluster's own metadata; what an object has done stands in its
//! annotations ([`memory`]). Nothing else is remembered, and the status decides nothing.

pub mod access;
pub mod act;
pub mod decide;
pub mod memory;
pub mod object;
pub mod observe;
pub mod reconciler;
pub mod replicas;
pub mod seen;
pub mod shared;
pub mod silence;
pub mod status;
pub mod terminating;
pub mod watch;

use std::{convert::Infallible, sync::Arc};

use futures::StreamExt as _;
use kube::runtime::controller::{self, Controller};
use tokio_util::sync::CancellationToken;

use self::reconciler::Reconciler;
use crate::{context::Context, http::Life, metrics::Reconciled, pass};

/// So many Topics are looked at at once. Most of a pass is waiting, and the metadata quorum commits what comes together
/// in one go.
const AT_ONCE: u16 = 64;

/// Reconciles until it is told to end.
pub async fn run(context: Context, life: Arc<Life>, namespace: Option<String>, ending: CancellationToken) {
    let api = pass::scoped(&context.kube, namespace.as_deref());
    let reconciler = Arc::new(Reconciler::new(context.clone()));
    let (store, topics) = watch::topics(api, reconciler.clone());
    let known = store.clone();
    life.expect(move || known.len());
    let clusters = watch::clusters(&context.kube, namespace.as_deref(), reconciler.clone());
    Controller::for_stream(topics, store)
        .with_config(controller::Config::default().concurrency(AT_ONCE))
        .reconcile_on(clusters)
        .trigger_backoff(pass::WatchBackoff::default())
        .graceful_shutdown_on(ending.cancelled_owned())
        .run(
            move |topic: Arc<watch::Seed>, reconciler: Arc<Reconciler>| {
                let (context, life) = (context.clone(), life.clone());
                async move {
                    let namespace = topic.metadata.namespace.as_deref().unwrap_or_default();
                    let name = topic.metadata.name.as_deref().unwrap_or_default();
                    let one = reconciler.pass(namespace, name);
                    Ok::<_, Infallible>(pass::run(&context, &life, Reconciled::Topic, namespace, name, one).await)
                }
            },
            |_, never, _| match *never {},
            reconciler,
        )
        .for_each(|passed| {
            if let Err(error) = passed {
                // A Topic that is gone, or a watch that is begun again.
                tracing::debug!(%error, "no pass");
            }
            std::future::ready(())
        })
        .await;
}
