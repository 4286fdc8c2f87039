//! Follows the cluster's metadata: one stream from one broker, which pushes each change.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use millrace_proto::v1;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    client::ClientInner,
    cluster::Cluster,
    error::{Error, Result},
    limits,
};

/// Keeps the client's picture of the cluster up to date until the client is gone. `state` tells
/// whether the last attempt succeeded.
pub async fn follow(client: Weak<ClientInner>, state: watch::Sender<Option<Result<()>>>) {
    let mut attempt = 0usize;
    let mut backoff = limits::MIN_BACKOFF;
    // Addresses in turn at which something else than a broker answered.
    let mut foreign = 0usize;
    loop {
        let Some(inner) = client.upgrade() else { return };
        let addresses = candidates(&inner);
        let address = addresses[attempt % addresses.len()].clone();
        let mut answered = false;
        let patience = patience(inner.connect_timeout, addresses.len(), attempt);
        let mut error = follow_one(inner, &address, patience, &mut answered, &state).await;
        if answered {
            backoff = limits::MIN_BACKOFF;
        } else {
            attempt += 1;
        }
        foreign = if error.is_of_another_server() { foreign + 1 } else { 0 };
        if foreign > 0 && foreign < addresses.len() {
            // One of the others may be a broker's.
            error = Error::connection(&address, error);
        }
        tracing::debug!(%address, %error, "the metadata stream ended");
        if let Some(inner) = client.upgrade() {
            inner.connections.reach.failed(&address, &error);
        }
        state.send_replace(Some(Err(error)));
        // All addresses are tried once before there is a longer wait.
        let wait = if attempt.is_multiple_of(addresses.len()) {
            backoff
        } else {
            limits::MIN_BACKOFF
        };
        let Some(inner) = client.upgrade() else { return };
        wait_or_refresh(inner, wait).await;
        if !answered {
            backoff = (backoff * 2).min(limits::MAX_BACKOFF);
        }
    }
}

/// Holds the client only while waiting: a wait is short, and its task is aborted with the client.
async fn wait_or_refresh(inner: Arc<ClientInner>, wait: Duration) {
    let weak = Arc::downgrade(&inner);
    let refresh = async {
        inner.refresh.notified().await;
        // A refresh does not hammer a broker that just refused.
        tokio::time::sleep(limits::MIN_BACKOFF).await;
    };
    let _ = tokio::time::timeout(wait, refresh).await;
    drop(weak);
}

/// The broker that answered last, the other brokers, then the bootstrap addresses: names may have
/// moved to other machines.
fn candidates(inner: &ClientInner) -> Vec<Arc<str>> {
    let mut addresses = vec![inner.contact.borrow().clone()];
    let cluster = inner.cluster.borrow().clone();
    let known = cluster
        .brokers
        .values()
        .filter(|broker| broker.available)
        .map(|broker| broker.address.clone());
    for address in known.chain(inner.bootstrap.iter().cloned()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// How long one address of `addresses` gets for its first answer: a broker that hangs takes connections and says
/// nothing, and the time to connect must be enough for the others too. In each further round more: all may be slow.
fn patience(connect_timeout: Duration, addresses: usize, attempt: usize) -> Duration {
    if addresses <= 1 {
        return connect_timeout;
    }
    let round = u32::try_from(attempt / addresses).unwrap_or(u32::MAX);
    let share = connect_timeout / u32::try_from(addresses + 1).unwrap_or(u32::MAX);
    share
        .saturating_mul(2u32.saturating_pow(round))
        .clamp(limits::LEAST_PATIENCE.min(connect_timeout), connect_timeout)
}

async fn follow_one(
    inner: Arc<ClientInner>,
    address: &Arc<str>,
    patience: Duration,
    answered: &mut bool,
    state: &watch::Sender<Option<Result<()>>>,
) -> Error {
    let request = v1::MetadataRequest {
        topics: Vec::new(),
        follow: true,
    };
    let stream = async { Ok::<_, Error>(inner.connections.log(address)?.metadata(request).await?.into_inner()) };
    let silent = || Error::connection(address, "no answer in time");
    let deadline = Instant::now() + patience;
    let mut stream = match timeout_at(deadline, stream).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.is_of_another_server() => return error.context(address),
        Ok(Err(error)) => return Error::connection(address, error),
        Err(_) => return silent(),
    };
    // The stream may be silent for days; the client must be able to end meanwhile.
    let client = Arc::downgrade(&inner);
    drop(inner);
    loop {
        let message = if *answered {
            stream.message().await
        } else {
            match timeout_at(deadline, stream.message()).await {
                Ok(message) => message,
                Err(_) => return silent(),
            }
        };
        match message {
            Ok(Some(answer)) => {
                let Some(inner) = client.upgrade() else {
                    return Error::closed("client");
                };
                *answered = true;
                inner.connections.reach.reached(address);
                apply(&inner, Cluster::from_proto(answer), address);
                state.send_replace(Some(Ok(())));
            }
            Ok(None) => return Error::connection(address, "the broker is stopping"),
            Err(status) => return Error::connection(address, Error::from(status)),
        }
    }
}

fn apply(inner: &ClientInner, cluster: Cluster, address: &Arc<str>) {
    inner.contact.send_if_modified(|contact| {
        let changed = contact != address;
        *contact = address.clone();
        changed
    });
    inner.cluster.send_if_modified(|known| {
        if !cluster.replaces(known) {
            return false;
        }
        if !known.cluster_id.is_empty() && known.cluster_id != cluster.cluster_id {
            tracing::warn!(
                known = known.cluster_id,
                now = cluster.cluster_id,
                %address,
                "the broker belongs to another cluster than before"
            );
        }
        *known = Arc::new(cluster);
        true
    });
    let cluster = inner.cluster.borrow().clone();
    inner.connections.retain(|known| {
        cluster.brokers.values().any(|broker| &*broker.address == known)
            || inner.bootstrap.iter().any(|address| &**address == known)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_time_for_every_address() {
        let whole = Duration::from_secs(5);
        assert_eq!(patience(whole, 1, 0), whole, "there is no other");
        let first: Duration = (0..3).map(|attempt| patience(whole, 3, attempt)).sum();
        assert!(first < whole, "{first:?}");
        assert_eq!(patience(whole, 3, 3), 2 * patience(whole, 3, 2), "all may be slow");
        assert_eq!(patience(whole, 3, usize::MAX), whole);
        assert_eq!(patience(whole, 1_000, 0), limits::LEAST_PATIENCE);
        assert_eq!(patience(limits::LEAST_PATIENCE / 5, 3, 0), limits::LEAST_PATIENCE / 5);
    }
}
