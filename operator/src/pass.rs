//! What is around each pass over an object: its time, its errors, and when the next one comes.

use std::{
    fmt::Debug,
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kube::{
    Api,
    core::{NamespaceResourceScope, Status},
    runtime::{controller::Action, utils::Backoff},
};

use serde::de::DeserializeOwned;

use crate::{context::Context, http::Life, metrics::Reconciled};

/// After an error the object is looked at again so soon.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A pass that takes longer is given up: an API server or a broker does not answer.
const PASS_WITHIN: Duration = Duration::from_secs(120);

/// Runs one pass over one object.
pub async fn run(
    context: &Context,
    life: &Arc<Life>,
    kind: Reconciled,
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
                ?kind,
                namespace,
                name,
                error = in_words(&error),
                "a pass failed and is repeated"
            );
            Action::requeue(RETRY_AFTER)
        }
        Err(_) => {
            tracing::warn!(
                ?kind,
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

/// Whether an answer says so, in the words of the API server's authorizers. Quotas and other admission refuse with the same code, and do not speak of who asks.
#[must_use]
pub fn lacks_right(status: &Status) -> bool {
    status.code == 403 && status.message.contains("is forbidden: User \"")
}

/// What a condition says of a right that is lacking, in the API server's words, and what to do.
#[must_use]
pub fn lacking(words: &str) -> String {
    let words = words.trim_end_matches('.');
    format!("the operator lacks a right: {words}. Install the chart's roles for this namespace.")
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

/// Whether the API server says that something is not there: the object, or its whole kind. Of a kind whose definition is
/// gone it says so in plain text, which is no [`Status`] with a reason: only the code tells.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An object of one of our own kinds, whose definition may be deleted while we look.
///
/// # Errors
/// All but that it is not there.
pub async fn get_opt<K>(api: &Api<K>, name: &str) -> kube::Result<Option<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.get(name).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is not there any more needs no deletion and no change.
///
/// # Errors
/// All others.
pub fn gone_is_fine(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other,
    }
}

fn since_epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, message: &str, reason: &str) -> kube::Error {
        let status = Status::failure(message, reason).with_code(code);
        kube::Error::Api(Box::new(status))
    }

    /// As the client makes it of an answer in plain text: once the definition of a kind is gone.
    #[test]
    fn a_kind_that_is_gone_is_not_found_either() {
        assert!(is_not_found(&answer(
            404,
            "404 page not found",
            "Failed to parse error data"
        )));
        assert!(is_not_found(&answer(404, "clusters \"orders\" not found", "NotFound")));
        assert!(!is_not_found(&answer(503, "404 page not found", "")));
    }

    #[test]
    fn a_quota_is_no_lack_of_rights() {
        let lacks = "pods is forbidden: User \"operator\" cannot list resource \"pods\" in API group \"\"";
        assert!(is_forbidden(&answer(403, lacks, "Forbidden").into()));
        let quota = "pods \"orders-broker-0\" is forbidden: exceeded quota: small";
        assert!(!is_forbidden(&answer(403, quota, "Forbidden").into()));
    }

    #[test]
    fn a_watch_that_fails_is_soon_begun_again() {
        let mut backoff = WatchBackoff::default();
        let waits: Vec<Duration> = backoff.by_ref().take(6).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000].map(Duration::from_millis));
        backoff.reset();
        assert_eq!(backoff.next(), Some(Duration::from_millis(500)));
    }
}
