//! A broker that serves, and its stop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    broker::Broker,
    controller::{self, InternalServer},
    http::Health,
    partition::Flusher,
};

/// A broker that serves.
#[derive(Debug)]
pub struct RunningBroker {
    pub(crate) broker: Arc<Broker>,
    pub(crate) grpc: GrpcServer,
    pub(crate) http: HttpServer,
    pub(crate) cluster: ClusterSide,
}

/// The client port and what serves it.
#[derive(Debug)]
pub(crate) struct GrpcServer {
    pub(crate) address: SocketAddr,
    pub(crate) flusher: Arc<Flusher>,
    /// Ends the server once calls in flight are done.
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

/// The health and metrics port.
#[derive(Debug)]
pub(crate) struct HttpServer {
    pub(crate) health: Health,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

/// What is there for other brokers. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct ClusterSide {
    pub(crate) internal: InternalServer,
    /// Ends the controller.
    pub(crate) controller: DropGuard,
}

impl HttpServer {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl RunningBroker {
    /// What its calls share.
    #[cfg(test)]
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.grpc.address
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http.address
    }

    /// Where other brokers connect.
    #[must_use]
    pub fn internal_address(&self) -> SocketAddr {
        self.cluster.internal.address()
    }

    /// Resolves with the reason when the broker can't go on and its process must stop.
    pub async fn failed(&self) -> String {
        let mut quorum = self.broker.quorum.failed();
        let mut ended = self.broker.ended.subscribe();
        let reason = tokio::select! {
            reason = quorum.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
            reason = ended.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
        };
        reason.unwrap_or_else(|| "the metadata quorum has stopped".into())
    }

    /// Stops: has other brokers take over, takes no more calls, lets those in flight end, flushes,
    /// and leaves the mark of a clean stop.
    ///
    /// # Errors
    /// The mark can't be written; the next start scans unflushed tails.
    pub async fn stop(self) -> io::Result<()> {
        let Self {
            broker,
            grpc,
            http,
            cluster,
        } = self;
        let by = Instant::now() + broker.config.shutdown_timeout;
        http.health.stopping();
        controller::leave(&broker, by).await;
        broker.stopping.cancel();
        grpc.stop.cancel();
        if !controller::end_calls(&broker, by).await {
            tracing::warn!("calls in flight did not end in time; their connections are closed");
        }
        let mut server = grpc.task;
        // Connections that only idle end soon; those that do not are closed.
        if tokio::time::timeout(Duration::from_millis(500), &mut server)
            .await
            .is_err()
        {
            server.abort();
        }
        let flusher = grpc.flusher;
        broker.quorum.shutdown().await;
        let ClusterSide { internal, controller } = cluster;
        drop(controller);
        internal.stop().await;
        let (dir, epoch) = (broker.dir.clone(), broker.broker_epoch);
        let closed = tokio::task::spawn_blocking(move || {
            flusher.stop();
            dir.close_clean(epoch)
        })
        .await
        .map_err(io::Error::other)?;
        http.stop().await;
        closed.map_err(|error| io::Error::other(error.to_string()))?;
        tracing::info!("stopped");
        Ok(())
    }
}
