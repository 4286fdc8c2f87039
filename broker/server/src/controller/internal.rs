//! The listener for other brokers.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak},
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use super::{Controller, rpc::ClusterService};
use crate::{
    broker::Broker, forward::ForwardService, handles::SHARES, limits, quorum::Quorum, replication::ReplicationService,
    rpc::groups::GroupsForward, watched::WatchedListener,
};

/// All that is served to other brokers.
pub(crate) fn internal_routes(
    quorum: &Quorum,
    controller: &Arc<Controller>,
    hosted: Arc<OnceLock<Weak<Broker>>>,
) -> Routes {
    Routes::new(quorum.service())
        .add_service(ClusterService::server(controller))
        .add_service(ForwardService::server(hosted.clone()))
        .add_service(GroupsForward::server(hosted.clone()))
        .add_service(ReplicationService::server(hosted))
}

/// The internal listener and what serves it. Dropped, it takes no more connections.
#[derive(Debug)]
pub(crate) struct InternalServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl InternalServer {
    /// Serves `routes` until it is stopped.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn start(listener: TcpListener, routes: Routes) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let incoming = WatchedListener::new(listener, SHARES.internal, limits::INTERNAL_IDLE).incoming();
        let server = Server::builder()
            .max_concurrent_streams(limits::INTERNAL_STREAMS_PER_CONNECTION)
            .http2_max_pending_accept_reset_streams(Some(limits::INTERNAL_RESET_STREAMS))
            .initial_stream_window_size(limits::INTERNAL_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::INTERNAL_CONNECTION_WINDOW_BYTES)
            .max_frame_size(limits::HTTP2_FRAME_BYTES)
            .http2_keepalive_interval(Some(limits::INTERNAL_PING_EVERY))
            .http2_keepalive_timeout(Some(limits::INTERNAL_PING_WITHIN))
            .add_routes(routes);
        let task = tokio::spawn(async move {
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the internal listener failed");
            }
        });
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and lets calls in flight end, for a moment.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(limits::INTERNAL_STOP_WAIT, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

impl Drop for InternalServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
