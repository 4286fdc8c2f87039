//! The HTTP port: `/livez`, `/readyz` and `/metrics`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use millrace_engine::{BrokerId, Cluster, cluster::FenceReason};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{broker::Broker, handles::SHARES, limits, metrics::Metrics, watched::WatchedListener};

/// What the probes tell.
#[derive(Clone, Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
    state: Arc<RwLock<Phase>>,
    /// Whether all replicas of this broker have been in sync at once since it started. It stays so: a broker that falls
    /// behind later still serves, and one that says it does not would be taken for one that can be restarted.
    caught_up: Arc<AtomicBool>,
}

/// How far the broker is.
#[derive(Clone, Debug)]
enum Phase {
    Starting(String),
    Ready(Arc<Broker>),
    Stopping,
}

impl Health {
    /// A broker that has just begun to start.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let starting = Phase::Starting("opening the log directory".into());
        Self {
            metrics,
            state: Arc::new(RwLock::new(starting)),
            caught_up: Arc::default(),
        }
    }

    /// Tells what the starting broker is doing.
    pub fn starting(&self, what: impl Into<String>) {
        *self.state.write() = Phase::Starting(what.into());
    }

    /// The broker serves.
    pub fn ready(&self, broker: Arc<Broker>) {
        *self.state.write() = Phase::Ready(broker);
    }

    /// The broker stops.
    pub fn stopping(&self) {
        *self.state.write() = Phase::Stopping;
    }

    /// Whether clients should come, and in words why not.
    fn readiness(&self) -> Result<String, String> {
        match &*self.state.read() {
            Phase::Starting(what) => Err(format!("starting: {what}\n")),
            Phase::Stopping => Err("stopping\n".into()),
            Phase::Ready(broker) => {
                if let Some(offline) = broker.dir.offline() {
                    return Err(format!("{offline}\n"));
                }
                if let Some(fenced) = fenced(broker) {
                    return Err(format!("fenced: {fenced}\n"));
                }
                if !broker.quorum.has_leader() {
                    return Err("the metadata quorum has no leader\n".into());
                }
                if !self.caught_up.load(Ordering::Relaxed) {
                    let behind = behind(&broker.quorum.cluster(), broker.config.node_id);
                    if behind > 0 {
                        return Err(format!("catching up: {behind} partitions are not in sync yet\n"));
                    }
                    self.caught_up.store(true, Ordering::Relaxed);
                }
                Ok("ok\n".into())
            }
        }
    }

    fn count_led(&self, cluster: &Cluster, broker: BrokerId) {
        let led = Led::of(cluster, broker);
        self.metrics.led_partitions.set(led.all);
        self.metrics.under_replicated_partitions.set(led.under_replicated);
        self.metrics.under_min_isr_partitions.set(led.under_min_isr);
    }

    fn refresh_gauges(&self) {
        if let Phase::Ready(broker) = &*self.state.read() {
            let status = broker.quorum.status();
            let index = status.applied_index.and_then(|index| i64::try_from(index).ok());
            self.metrics.metadata_applied_index.set(index.unwrap_or(-1));
            self.metrics.metadata_has_leader.set(i64::from(status.leader.is_some()));
            self.metrics.memory.show(&broker.memory);
            self.count_led(&broker.quorum.cluster(), broker.config.node_id);
        }
    }
}

/// What is wrong with partitions that a broker leads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Led {
    all: i64,
    under_replicated: i64,
    under_min_isr: i64,
}

impl Led {
    fn of(cluster: &Cluster, broker: BrokerId) -> Self {
        let mut led = Self::default();
        let partitions = cluster.partitions();
        for (topic, _, partition) in partitions.filter(|(_, _, partition)| partition.leader == Some(broker)) {
            let in_sync = partition.isr.len();
            led.all += 1;
            led.under_replicated += i64::from(in_sync < partition.original().len());
            led.under_min_isr += i64::from(in_sync < partition.required(cluster.min_insync_replicas(topic)));
        }
        led
    }
}

/// Partitions that the broker shall hold and is not in sync with. One without a leader has nobody to catch up with, and
/// one that a move adds is waited for by the move.
fn behind(cluster: &Cluster, broker: BrokerId) -> usize {
    cluster
        .partitions()
        .filter(|(_, _, partition)| {
            partition.leader.is_some() && partition.original().contains(&broker) && !partition.isr.contains(&broker)
        })
        .count()
}

/// Why the broker is out of service, as far as its metadata tells.
fn fenced(broker: &Broker) -> Option<&'static str> {
    let cluster = broker.quorum.cluster();
    let own = cluster.brokers.get(&broker.config.node_id)?;
    if own.epoch > broker.broker_epoch {
        return Some("another process runs as this broker");
    }
    own.fenced.then_some(match own.fence_reason {
        Some(FenceReason::Starting) | None => "it has just registered",
        Some(FenceReason::LeaseExpired) => {
            "the leader of the metadata quorum did not hear of it in time, or its disk took no writes"
        }
        Some(FenceReason::DirectoryFailed) => "its disk failed: restart it, and replace the disk if it fails again",
        Some(FenceReason::Requested) => "an operator asked",
    })
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match health.readiness() {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    health.refresh_gauges();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.render())
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, health: Health, stop: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    let listener = WatchedListener::new(listener, SHARES.http, limits::HTTP_IDLE);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the health and metrics port failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::admin::testing::with_topic;

    fn changed(mut cluster: Cluster, change: impl FnOnce(&mut millrace_engine::Partition)) -> Cluster {
        let topic = cluster.topics.get_mut("t").unwrap();
        change(&mut Arc::make_mut(topic).partitions[0]);
        cluster
    }

    #[test]
    fn a_broker_is_behind_with_what_it_shall_hold_and_is_not_in_sync_with() {
        let cluster = with_topic(&[0, 1, 2], vec![vec![0, 1, 2], vec![2, 0, 1]]);
        assert_eq!(behind(&cluster, 2), 0, "all are in sync");
        let cluster = changed(cluster, |partition| partition.isr = vec![0, 1]);
        assert_eq!(behind(&cluster, 2), 1);
        assert_eq!(behind(&cluster, 1), 0);
        let added = changed(cluster.clone(), |partition| partition.adding = vec![2]);
        assert_eq!(behind(&added, 2), 0, "a move waits for what it adds");
        let headless = changed(cluster, |partition| partition.leader = None);
        assert_eq!(behind(&headless, 2), 0, "there is nobody to catch up with");
    }
}
