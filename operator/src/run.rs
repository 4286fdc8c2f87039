//! The process: from its start to its end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, runtime::events::Reporter};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster,
    context::Context,
    events::Events,
    http::{self, Life},
    lease::Elector,
    links::Links,
    metrics::Metrics,
    names::FIELD_MANAGER,
    options::RunOptions,
    topic,
};

/// Passes that are under way may take so long to end when the process is stopped.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A client of the API server, by the pod's account or the user's kubeconfig.
///
/// # Errors
/// There is neither.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no API server is known: run in a pod with an account, or set KUBECONFIG")?;
    // What is refused for now (429: a disruption budget) is decided on, not repeated.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Reconciles until the process is told to stop.
///
/// # Errors
/// It cannot begin, or has lost its lease: then it must not go on, and is started anew by Kubernetes.
pub async fn run(options: RunOptions) -> anyhow::Result<()> {
    let kube = connect().await?;
    let metrics = Arc::new(Metrics::default());
    let life = Arc::new(Life::new(
        3 * Duration::from_secs(options.resync_seconds) + Duration::from_secs(120),
    ));
    http::serve(options.http, metrics.clone(), life.clone()).await?;

    let identity = identity(&options);
    let namespace = options.lease_namespace.clone();
    let namespace = namespace.unwrap_or_else(|| kube.default_namespace().to_owned());
    let leases: Api<Lease> = Api::namespaced(kube.clone(), &namespace);
    let mut elector = Elector::new(leases, &options.lease_name, &identity);
    let stop = stopped()?;
    tokio::pin!(stop);

    let acquired = if options.leader_elect {
        tracing::info!(lease = options.lease_name, namespace, identity, "waiting for the lease");
        tokio::select! {
            acquired = elector.acquire() => Some(acquired),
            () = &mut stop => return Ok(()),
        }
    } else {
        None
    };
    tracing::info!(version = crate::options::VERSION, identity, "reconciling");
    metrics.leads(true);
    life.sign();
    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: Some(identity),
    };
    let context = Context {
        kube: kube.clone(),
        options: Arc::new(options),
        links: Arc::new(Links::default()),
        metrics: metrics.clone(),
        events: Arc::new(Events::new(kube, reporter)),
    };
    let ending = CancellationToken::new();
    let mut controllers = tokio::spawn(controllers(context, life, ending.clone()));
    let lost = async {
        match acquired {
            Some(acquired) => elector.keep(acquired).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = &mut stop => {}
        reason = lost => {
            controllers.abort();
            bail!("{reason}: the work ends here");
        }
        ended = &mut controllers => {
            bail!("the controllers have ended: {ended:?}");
        }
    }
    tracing::info!("stopping");
    ending.cancel();
    if tokio::time::timeout(END_WITHIN, &mut controllers).await.is_err() {
        controllers.abort();
    }
    if acquired.is_some() {
        elector.release().await;
    }
    Ok(())
}

async fn controllers(context: Context, life: Arc<Life>, ending: CancellationToken) {
    let named = context.options.namespaces.named();
    let scopes: Vec<Option<String>> = if named.is_empty() {
        vec![None]
    } else {
        named.into_iter().map(Some).collect()
    };
    let mut all: Vec<BoxFuture<'static, ()>> = Vec::new();
    for scope in scopes {
        let (context, life, ending) = (context.clone(), life.clone(), ending.clone());
        all.push(cluster::run(context.clone(), life.clone(), scope.clone(), ending.clone()).boxed());
        all.push(topic::run(context, life, scope, ending).boxed());
    }
    join_all(all).await;
}

fn identity(options: &RunOptions) -> String {
    let named = options.identity.clone().filter(|name| !name.is_empty());
    named.unwrap_or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}-{}", host.trim(), std::process::id())
    })
}

/// Ends when the process is told to stop.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
