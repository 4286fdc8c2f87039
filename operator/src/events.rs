//! Where events go. kube's recorder joins what it tells of one object for one reason, and keeps the words of the first: a
//! Cluster that stalls for something else would be told to stall for what it did before. So only what has the same words
//! is joined here, as the API's own recorder does (`k8s.io/client-go/tools/record`).

use std::{
    collections::HashMap,
    fmt::{self, Debug, Formatter},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder, Reporter};
use parking_lot::Mutex;

/// After so long without them, the same words are a new event.
const JOINED_FOR: Duration = Duration::from_mins(6);
/// So many different words are remembered at most; with more all are new.
const MAX_WORDS: usize = 1000;

/// Tells events.
pub struct Events {
    client: kube::Client,
    reporter: Reporter,
    /// A recorder for all that is told in the same words, and when that was last.
    recorders: Mutex<HashMap<String, (Instant, Recorder)>>,
}

impl Debug for Events {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Tells them in this name.
    #[must_use]
    pub fn new(client: kube::Client, reporter: Reporter) -> Self {
        Self {
            client,
            reporter,
            recorders: Mutex::default(),
        }
    }

    /// Tells one.
    ///
    /// # Errors
    /// The API server does not take it.
    pub async fn publish(&self, event: &Event, regarding: &ObjectReference) -> kube::Result<()> {
        let words = event.note.clone().unwrap_or_default();
        self.recorder(words).publish(event, regarding).await
    }

    fn recorder(&self, words: String) -> Recorder {
        let now = Instant::now();
        let mut recorders = self.recorders.lock();
        recorders.retain(|_, (last, _)| now.duration_since(*last) < JOINED_FOR);
        if recorders.len() >= MAX_WORDS {
            recorders.clear();
        }
        let new = || (now, Recorder::new(self.client.clone(), self.reporter.clone()));
        let (last, recorder) = recorders.entry(words).or_insert_with(new);
        *last = now;
        recorder.clone()
    }
}
