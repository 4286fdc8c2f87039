//! What all reconcilers share.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

use crate::{events::Events, links::Links, metrics::Metrics, options::RunOptions};

/// The longest note of an event: the API server drops longer ones without a word (1 KiB).
const MAX_NOTE: usize = 1000;

/// What all reconcilers share.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub kube: kube::Client,
    /// How the operator was started.
    pub options: Arc<RunOptions>,
    /// The clusters' brokers.
    pub links: Arc<Links>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where events go.
    pub events: Arc<Events>,
}

/// An event to tell, of the Cluster or Topic that is reconciled.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word in CamelCase; the list is in the README.
    pub reason: &'static str,
    /// What was being done, one word.
    pub action: &'static str,
    /// A sentence.
    pub note: String,
    /// The other object that it is about, such as the pod that was evicted.
    pub related: Option<ObjectReference>,
}

impl Told {
    /// Something was done.
    pub fn normal(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            action,
            note: note.into(),
            related: None,
        }
    }

    /// Something is wrong.
    pub fn warning(reason: &'static str, action: &'static str, note: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::normal(reason, action, note)
        }
    }

    /// About another object, too.
    #[must_use]
    pub fn about(mut self, related: ObjectReference) -> Self {
        self.related = Some(related);
        self
    }
}

impl Context {
    /// How often each object is looked at without a reason, up to a tenth more, so that they don't come all at once.
    #[must_use]
    pub fn resync(&self, uid: &str) -> Duration {
        let seconds = self.options.resync_seconds;
        let spread = uid
            .bytes()
            .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Duration::from_secs(seconds) + Duration::from_millis(spread % (seconds * 100).max(1))
    }

    /// Tells an event. That it could not be told is logged and nothing more: it changes nothing.
    pub async fn tell(&self, regarding: &ObjectReference, told: Told) {
        let mut note = told.note;
        if note.len() > MAX_NOTE {
            let end = (0..=MAX_NOTE).rev().find(|end| note.is_char_boundary(*end));
            note.truncate(end.unwrap_or_default());
        }
        let event = Event {
            type_: if told.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: told.reason.to_owned(),
            note: Some(note),
            action: told.action.to_owned(),
            secondary: told.related,
        };
        if let Err(error) = self.events.publish(&event, regarding).await {
            tracing::warn!(%error, reason = event.reason, "an event could not be told");
        }
    }
}
