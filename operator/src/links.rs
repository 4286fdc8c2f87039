//! Connections to clusters: one client for each, made when it is first needed and kept.

use std::{
    collections::HashMap,
    fmt::{self, Debug, Formatter},
    sync::Arc,
    time::Duration,
};

use millrace_client::{Admin, Client};
use parking_lot::Mutex;

use crate::names::{CLIENT_PORT, ClusterKey};

/// How long a first connection may take: a pass waits for it, and there are others to look after.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// So many brokers are tried by their own names, beside the Service that stands for those that are ready: enough to
/// find one where none is ready, as when the metadata quorum is gone.
const BROKERS_TRIED: i32 = 5;

/// Where a cluster's brokers are found: `HOST:PORT`, separated by commas.
type Resolve = Box<dyn Fn(&ClusterKey) -> String + Send + Sync>;

/// Connections by cluster.
pub struct Links {
    links: Mutex<HashMap<ClusterKey, Link>>,
    resolve: Resolve,
}

impl Default for Links {
    fn default() -> Self {
        Self::resolving(bootstrap)
    }
}

impl Debug for Links {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Links")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Link {
    /// The Cluster object: another one of the same name is another cluster.
    uid: String,
    /// Held while somebody connects, so that nobody else does.
    client: Arc<tokio::sync::Mutex<Option<Client>>>,
}

impl Links {
    /// Connections to brokers that are elsewhere than in pods, as in tests.
    pub fn resolving(resolve: impl Fn(&ClusterKey) -> String + Send + Sync + 'static) -> Self {
        Self {
            links: Mutex::default(),
            resolve: Box::new(resolve),
        }
    }

    /// The admin of a cluster.
    ///
    /// # Errors
    /// No broker answered in time.
    pub async fn admin(&self, key: &ClusterKey, uid: &str) -> Result<Admin, millrace_client::Error> {
        Ok(self.client(key, uid).await?.admin())
    }

    /// A client of a cluster.
    ///
    /// # Errors
    /// No broker answered in time.
    pub async fn client(&self, key: &ClusterKey, uid: &str) -> Result<Client, millrace_client::Error> {
        let slot = {
            let mut links = self.links.lock();
            let link = links.entry(key.clone()).or_default();
            if link.uid != uid {
                *link = Link {
                    uid: uid.to_owned(),
                    client: Arc::default(),
                };
            }
            link.client.clone()
        };
        let mut client = slot.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = Client::builder()
            .bootstrap((self.resolve)(key))
            .client_id(concat!("millrace-operator/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_WITHIN)
            .request_timeout(CALL_WITHIN)
            .build()
            .await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// The client of a cluster, if there is one already.
    #[must_use]
    pub fn connected(&self, key: &ClusterKey) -> Option<Client> {
        let slot = self.links.lock().get(key)?.client.clone();
        slot.try_lock().ok()?.clone()
    }

    /// Clusters that are not known any more, among those that somebody looks after, are gone: so are their connections.
    pub fn retain(&self, known: impl Fn(&ClusterKey) -> bool) {
        self.links.lock().retain(|key, _| known(key));
    }

    /// The Cluster is gone: so is the connection.
    pub fn forget(&self, key: &ClusterKey) {
        self.links.lock().remove(key);
    }
}

fn bootstrap(key: &ClusterKey) -> String {
    let by_name = (0..BROKERS_TRIED).map(|ordinal| key.broker_address(ordinal));
    let mut all = vec![format!(
        "{}.{}.svc:{CLIENT_PORT}",
        key.bootstrap_service(),
        key.namespace
    )];
    all.extend(by_name);
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_comes_first() {
        let addresses = bootstrap(&ClusterKey::new("platform", "orders"));
        assert!(
            addresses.starts_with(
                "orders-bootstrap.platform.svc:9650,orders-broker-0.orders-broker.platform.svc:9650,orders-broker-1."
            ),
            "{addresses}"
        );
    }
}
