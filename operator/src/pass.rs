//! What is around each pass over an object: its time, its errors, and when the next one comes.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kube::{
    Api,
    core::{NamespaceResourceScope, Status},
    runtime::{controller::Action, utils::Backoff},
};

use crate::{context::Context, http::Life};

/// After an error the object is looked at again so soon.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A pass that takes longer is given up: an API server or a broker does not answer.
const PASS_WITHIN: Duration = Duration::from_secs(120);

/// Runs one pass over one object.
pub async fn run(
    context: &Context,
    life: &Arc<Life>,
    kind: &'static str,
    namespace: &str,
    name: &str,
    pass: impl Future<Output = anyhow::Result<Action>>,
) -> Action {
    context.metrics.running(kind, namespace, name, Some(since_epoch()));
    let began = Instant::now();
    let result = tokio::time::timeout(PASS_WITHIN, pass).await;
    let failed = !matches!(result, Ok(Ok(_)));
    context.metrics.running(kind, namespace, name, None);
    context.metrics.passed(kind, began.elapsed(), failed, since_epoch());
    match result {
        Ok(Ok(action)) => {
            life.sign();
            action
        }
        Ok(Err(error)) => {
            // The API server has answered, or the error is known: the operator itself lives.
            life.sign();
            tracing::warn!(
                kind,
                namespace,
                name,
                error = in_words(&error),
                "a pass failed and is repeated"
            );
            Action::requeue(RETRY_AFTER)
        }
        Err(_) => {
            tracing::warn!(
                kind,
                namespace,
                name,
                "a pass took longer than {PASS_WITHIN:?} and was given up"
            );
            Action::requeue(RETRY_AFTER)
        }
    }
}

/// Whether the API server refuses because of a right that the operator lacks.
#[must_use]
pub fn is_forbidden(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(kube::Error::Api(status)) if lacks_right(status)))
}

/// Whether an answer says so. Quotas and other admission refuse with the same code, and do not speak of who asks.
#[must_use]
pub fn lacks_right(status: &Status) -> bool {
    status.code == 403 && status.message.contains(" cannot ")
}

/// An error with its causes. Of the API server's answers only what it says: their debug form is a page long.
#[must_use]
pub fn in_words(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            words.push(status.message.clone());
            break;
        }
        words.push(cause.to_string());
    }
    words.join(": ")
}

/// How long a watch that has failed waits before it is begun again: half a second, then twice as long each time, up to
/// five seconds. The runtime's own way goes up to half a minute for all watches together: so long nobody would look
/// after clusters when the API server is back (it was seen to be a minute).
#[derive(Clone, Copy, Debug)]
pub struct WatchBackoff {
    next: Duration,
}

impl WatchBackoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(5);
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.next;
        self.next = (now * 2).min(Self::LONGEST);
        Some(now)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The API of a kind in a namespace, or in all.
#[must_use]
pub fn scoped<K>(kube: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(kube.clone(), namespace),
        None => Api::all(kube.clone()),
    }
}

/// What is not there any more needs no deletion and no change.
///
/// # Errors
/// All others.
pub fn gone_is_fine(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

fn since_epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
