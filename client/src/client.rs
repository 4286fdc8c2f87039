//! The client: a cheap handle to a cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_proto::v1::messaging_client::MessagingClient;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use crate::{
    admin::Admin,
    cluster::{Cluster, Topic},
    connection::{Connections, check_address},
    consumer::ConsumerBuilder,
    error::{Error, Result},
    group::GroupConsumerBuilder,
    limits, metadata,
    producer::ProducerBuilder,
};

/// A connection to a cluster. Cheap to clone; all clones share one connection per broker. The
/// connections end when the last clone, producer and consumer is gone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
}

/// What the clones share.
#[derive(Debug)]
pub(crate) struct ClientInner {
    pub bootstrap: Vec<Arc<str>>,
    pub connections: Connections,
    pub cluster: watch::Sender<Arc<Cluster>>,
    /// The broker that metadata comes from: known to answer.
    pub contact: watch::Sender<Arc<str>>,
    /// Asks the metadata task not to wait before its next attempt.
    pub refresh: Notify,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    /// What was tried again last, and when it had failed.
    retried: Mutex<Option<(Instant, Error)>>,
    task: std::sync::OnceLock<tokio::task::AbortHandle>,
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl ClientInner {
    /// An attempt failed and is tried again: kept for whoever waits meanwhile.
    pub fn note_retry(&self, error: &Error) {
        *self.retried.lock() = Some((Instant::now(), error.clone()));
    }
}

impl Client {
    /// Connects to a cluster through some of its brokers: `"HOST:PORT[,HOST:PORT]"`.
    ///
    /// # Errors
    /// No broker answered within 10 s, or an address is malformed.
    pub async fn connect(bootstrap: impl AsRef<str>) -> Result<Self> {
        Self::builder().bootstrap(bootstrap).build().await
    }

    /// A client with settings of its own.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Settings for a producer.
    #[must_use]
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Settings for a consumer.
    #[must_use]
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Settings for a member of a consumer group: 1 to 255 bytes, no control characters.
    #[must_use]
    pub fn group_consumer(&self, group: impl Into<String>) -> GroupConsumerBuilder {
        GroupConsumerBuilder::new(self.clone(), group.into())
    }

    /// Topics, configurations, the cluster.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The generated stub of the `Messaging` service, for those who want its calls.
    ///
    /// # Errors
    /// Never for a client that was built; the type says so for addresses that a broker gave.
    pub fn messaging(&self) -> Result<MessagingClient<Channel>> {
        self.inner.connections.messaging(&self.contact())
    }

    /// Brokers, topics and leaders as known now. Brokers push changes, so it is milliseconds old.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        self.inner.cluster.borrow().clone()
    }

    /// The last failure of a call or a write of this client that is tried again, and when it came: what to tell
    /// those who wait. It stays here when the next attempt succeeds.
    #[must_use]
    pub fn last_retried(&self) -> Option<(Instant, Error)> {
        self.inner.retried.lock().clone()
    }

    /// A topic as known now; waits up to a second for one that was just created.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        let mut changes = self.inner.cluster.subscribe();
        let found = tokio::time::timeout(
            limits::UNKNOWN_TOPIC_WAIT,
            changes.wait_for(|cluster| cluster.topics.contains_key(name)),
        )
        .await;
        match found {
            Ok(Ok(cluster)) => cluster
                .topics
                .get(name)
                .cloned()
                .ok_or_else(|| Error::unknown_topic(name)),
            Ok(Err(_)) => Err(Error::closed("client")),
            Err(_) => Err(Error::unknown_topic(name)),
        }
    }

    /// The broker to call for what any broker answers.
    pub(crate) fn contact(&self) -> Arc<str> {
        self.inner.contact.borrow().clone()
    }
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    bootstrap: String,
    client_id: String,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            bootstrap: "localhost:9650".to_owned(),
            client_id: concat!("millrace-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: limits::DEFAULT_CONNECT_TIMEOUT,
            request_timeout: limits::DEFAULT_REQUEST_TIMEOUT,
        }
    }
}

impl ClientBuilder {
    /// Some brokers of the cluster, `"HOST:PORT[,HOST:PORT]"`; the others are found through them.
    /// Default `localhost:9650`.
    #[must_use]
    pub fn bootstrap(mut self, bootstrap: impl AsRef<str>) -> Self {
        bootstrap.as_ref().clone_into(&mut self.bootstrap);
        self
    }

    /// What brokers' logs call this client: printable ASCII.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// How long `build` tries to reach a broker. Default 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call without data (admin, look-ups) may take, retries included. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// No broker answered in time, or an address or the client id is malformed.
    pub async fn build(self) -> Result<Client> {
        let bootstrap: Vec<Arc<str>> = self
            .bootstrap
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty())
            .map(Arc::from)
            .collect();
        let Some(first) = bootstrap.first().cloned() else {
            return Err(Error::invalid("There is no bootstrap address: give one as HOST:PORT."));
        };
        for address in &bootstrap {
            check_address(address)
                .map_err(|why| Error::invalid(format!("{address:?} is no address ({why}): write HOST:PORT.")))?;
        }
        let inner = Arc::new(ClientInner {
            connections: Connections::new(self.client_id, self.connect_timeout),
            cluster: watch::Sender::new(Arc::new(Cluster::default())),
            contact: watch::Sender::new(first),
            bootstrap,
            refresh: Notify::new(),
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
            retried: Mutex::default(),
            task: std::sync::OnceLock::new(),
        });
        // Made here once so that a wrong client id is told at once.
        inner.connections.channel(&inner.bootstrap[0])?;
        let (first_answer, ready) = watch::channel(None);
        let task = tokio::spawn(metadata::follow(Arc::downgrade(&inner), first_answer));
        let _ = inner.task.set(task.abort_handle());
        wait_for_metadata(ready, self.connect_timeout, &self.bootstrap).await?;
        Ok(Client { inner })
    }
}

async fn wait_for_metadata(
    mut ready: watch::Receiver<Option<Result<(), Error>>>,
    timeout: Duration,
    bootstrap: &str,
) -> Result<()> {
    let sure = ready.wait_for(|state| match state {
        Some(Ok(())) => true,
        // No wait changes what a port is for.
        Some(Err(error)) => error.is_of_another_server(),
        None => false,
    });
    match tokio::time::timeout(timeout, sure)
        .await
        .map(|state| state.map(|state| state.clone()))
    {
        Ok(Ok(state)) => state.unwrap_or(Ok(())),
        Ok(Err(_)) => Err(Error::closed("client")),
        Err(_) => {
            let cause = match &*ready.borrow() {
                Some(Err(error)) => error.clone(),
                _ => Error::connection(bootstrap, "no answer in time"),
            };
            Err(cause)
        }
    }
}
