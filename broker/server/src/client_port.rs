//! The services that clients are served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_proto::v1::{
    FILE_DESCRIPTOR_SET, admin_server::AdminServer, groups_server::GroupsServer, log_server::LogServer,
    messaging_server::MessagingServer,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Layer as _;

use crate::{
    broker::Broker,
    connection,
    handles::SHARES,
    http2, limits,
    memory::MemoryLayer,
    rpc::{
        admin::AdminService,
        framed::ByHand,
        groups::GroupsService,
        log::LogService,
        messaging::MessagingService,
        raw_fetch::{FETCH_PATH, RawLogServer},
        raw_messaging::RawMessagingServer,
    },
};

/// Serves clients until `stop`; then lets calls in flight end.
pub(crate) async fn serve(broker: &Arc<Broker>, listener: TcpListener, stop: CancellationToken) -> JoinHandle<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<MessagingServer<MessagingService>>().await;
    reporter.set_serving::<LogServer<LogService>>().await;
    reporter.set_serving::<AdminServer<AdminService>>().await;
    reporter.set_serving::<GroupsServer<GroupsService>>().await;
    let stopping = broker.stopping.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        for service in [
            "",
            "millrace.v1.Messaging",
            "millrace.v1.Log",
            "millrace.v1.Admin",
            "millrace.v1.Groups",
        ] {
            reporter
                .set_service_status(service, tonic_health::ServingStatus::NotServing)
                .await;
        }
    });
    let open = Arc::new(AtomicUsize::new(0));
    let (counted, metrics) = (open.clone(), broker.metrics.clone());
    let watching = broker.stopping.clone();
    tokio::spawn(async move {
        while !watching.is_cancelled() {
            let open = counted.load(Ordering::Relaxed);
            metrics.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let incoming = connection::accept(
        listener,
        SHARES.clients_of(broker.config.max_connections),
        broker.memory.clone(),
        open,
    );
    let max = limits::MAX_RPC_MESSAGE_BYTES;
    let mut routes = Routes::new(health)
        .add_service(ByHand(RawMessagingServer::new(broker.clone())))
        .add_service(ByHand(RawLogServer::new(LogService::new(broker.clone()))))
        .add_service(AdminServer::new(AdminService(broker.clone())).max_decoding_message_size(max))
        .add_service(GroupsServer::new(GroupsService(broker.clone())).max_decoding_message_size(max));
    // Both versions: grpcurl and older tools ask for the alpha.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "server reflection is not available");
        }
    }
    let memory = MemoryLayer {
        self_admitting: Some(FETCH_PATH),
    };
    tokio::spawn(http2::serve(incoming, memory.layer(routes.prepare()), stop))
}
