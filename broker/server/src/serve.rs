//! Starting and stopping a broker.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_engine::{
    Command, Outcome,
    cluster::{ProducerIdBlock, RegisterBroker},
};
use millrace_log::{ChangeError, DirIdentity, DirOptions, FormatDirError, LogDir, OpenDirError, OsFileSystem};
use millrace_proto::v1::{
    FILE_DESCRIPTOR_SET, admin_server::AdminServer, log_server::LogServer, messaging_server::MessagingServer,
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tower::Layer as _;
use uuid::Uuid;

use crate::{
    broker::{Broker, now_ms},
    config::BrokerConfig,
    connection,
    http::{self, Health},
    http2, limits,
    memory::{MemoryBudget, MemoryLayer},
    metrics::Metrics,
    partition::{self, Flusher, Partitions},
    quorum::{Quorum, QuorumError, QuorumOptions},
    replication::Replication,
    rpc::{
        PublishSessions, admin::AdminService, log::LogService, messaging::MessagingService, raw_fetch::RawLogServer,
    },
};

/// Why a broker did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory has never been formatted.
    #[error("{} is not formatted: if it is meant to be new, run once with --format-if-empty; if it should hold data, mount the right volume", .0.display())]
    NotFormatted(PathBuf),
    /// The data directory can't be used.
    #[error(transparent)]
    OpenDir(OpenDirError),
    /// The data directory can't be formatted.
    #[error(transparent)]
    Format(#[from] FormatDirError),
    /// The metadata quorum failed.
    #[error("the metadata quorum: {0}")]
    Quorum(#[from] QuorumError),
    /// The data directory failed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The quorum refuses this broker.
    #[error("the cluster refuses this broker: {0}")]
    Refused(String),
    /// An address can't be listened on, or the system has no more threads.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<OpenDirError> for StartError {
    fn from(error: OpenDirError) -> Self {
        match error {
            OpenDirError::NotFormatted(path) => Self::NotFormatted(path),
            other => Self::OpenDir(other),
        }
    }
}

/// Formats the data directory: gives it an identity. Refuses one that is not empty.
///
/// # Errors
/// As of the log directory.
pub fn format(config: &BrokerConfig) -> Result<(), FormatDirError> {
    let identity = DirIdentity {
        cluster_id: config.cluster_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        node_id: config.node_id,
        directory_id: Uuid::new_v4(),
    };
    LogDir::format(&OsFileSystem::shared(), &config.data_dir, &identity)
}

/// A broker that serves.
#[derive(Debug)]
pub struct RunningBroker {
    broker: Arc<Broker>,
    grpc: GrpcServer,
    http: HttpServer,
}

/// The client port and what serves it.
#[derive(Debug)]
struct GrpcServer {
    address: SocketAddr,
    flusher: Arc<Flusher>,
    /// Ends the server once calls in flight are done.
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The health and metrics port.
#[derive(Debug)]
struct HttpServer {
    health: Health,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl HttpServer {
    async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Starts a broker; answers when it serves.
///
/// # Errors
/// The data directory, the quorum or an address can't be used.
pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
    let metrics = Arc::new(Metrics::default());
    let health = Health::new(metrics.clone());
    // Bound first: a taken port is told before any work, and probes are answered during it.
    let client_listener = connection::bind(config.listen_client).await?;
    let http_listener = connection::bind(config.listen_http).await?;
    let http_address = http_listener.local_addr()?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(http::serve(http_listener, health.clone(), stop.clone()));
    let http = HttpServer {
        health,
        address: http_address,
        stop,
        task,
    };
    match start_broker(config, metrics, &http.health, client_listener).await {
        Ok((broker, grpc)) => {
            http.health.ready(broker.clone());
            let (broker_epoch, address) = (broker.broker_epoch, grpc.address);
            tracing::info!(%address, %http_address, broker_epoch, "serving");
            Ok(RunningBroker { broker, grpc, http })
        }
        Err(error) => {
            http.stop().await;
            Err(error)
        }
    }
}

async fn start_broker(
    config: BrokerConfig,
    metrics: Arc<Metrics>,
    health: &Health,
    listener: TcpListener,
) -> Result<(Arc<Broker>, GrpcServer), StartError> {
    let address = listener.local_addr()?;
    let dir = open_dir(&config, &metrics).await?;
    let advertised = config.advertised_address.clone().unwrap_or_else(|| {
        let advertised = advertise(address);
        if address.ip().is_unspecified() {
            tracing::warn!(
                %advertised,
                "clients are told to come to this address, which only those on this machine reach: set advertised.address for others"
            );
        }
        advertised
    });
    let quorum = open_quorum(&config, &dir, health).await?;
    let broker_epoch = register(&config, &dir, &quorum, &advertised).await?;
    dir.set_broker_epoch(broker_epoch)?;

    let flusher = Flusher::start(limits::FLUSH_THREADS)?;
    let stopping = CancellationToken::new();
    let replication = Replication::start(config.node_id, broker_epoch, quorum.clone(), stopping.clone());
    let broker = Arc::new(Broker {
        partitions: Partitions::new(
            config.node_id,
            dir.clone(),
            config.topic_defaults.clone(),
            flusher.clone(),
            metrics.clone(),
            replication,
        ),
        memory: MemoryBudget::new(config.memory_bytes, config.memory_bytes_per_connection),
        config,
        dir,
        quorum,
        metrics,
        sessions: PublishSessions::default(),
        stopping,
        broker_epoch,
        reconciled: watch::Sender::new(0),
        producer_ids: Mutex::new(ProducerIdBlock { first: 0, count: 0 }),
        sticky: AtomicU32::new(0),
        tasks: TaskTracker::new(),
    });
    recover(&broker, health).await;
    tokio::spawn(partition::run_housekeeping(broker.clone()));
    tokio::spawn(partition::run_interval_flush(broker.clone()));
    tokio::spawn(broker.clone().follow_metadata());

    let stop = CancellationToken::new();
    let task = serve(&broker, listener, stop.clone()).await;
    Ok((
        broker,
        GrpcServer {
            address,
            flusher,
            stop,
            task,
        },
    ))
}

/// Where clients on this machine reach a listener; an unspecified address is this host's
/// loopback.
fn advertise(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

async fn open_dir(config: &BrokerConfig, metrics: &Metrics) -> Result<Arc<LogDir>, StartError> {
    let path = config.data_dir.clone();
    let options = DirOptions {
        reserve_bytes: config.disk_reserve_bytes,
        expected_cluster_id: config.cluster_id.clone(),
        expected_node_id: Some(config.node_id),
        expected_directory_id: None,
    };
    let opened = tokio::task::spawn_blocking(move || LogDir::open(&OsFileSystem::shared(), &path, &options))
        .await
        .map_err(io::Error::other)??;
    let clean = opened.was_clean();
    metrics.clean_start.set(i64::from(clean));
    if opened.stored_broker_epoch().is_none() {
        tracing::info!("the first start of this data directory");
    } else if !clean {
        tracing::warn!("the last stop was not clean: what may not have been flushed is scanned");
    }
    Ok(Arc::new(opened))
}

/// The metadata of a cluster of one: the first start of a formatted directory begins it.
async fn open_quorum(config: &BrokerConfig, dir: &Arc<LogDir>, health: &Health) -> Result<Quorum, StartError> {
    health.starting("reading the metadata log");
    let identity = dir.identity();
    let voter_id = u64::from(config.node_id.unsigned_abs());
    let address = config.listen_client.to_string();
    let fs = OsFileSystem::shared();
    let quorum = Quorum::open(QuorumOptions {
        snapshot_every: limits::METADATA_SNAPSHOT_EVERY,
        ..QuorumOptions::new(voter_id, identity.directory_id, address, fs, dir.clone())
    })
    .await?;
    if !quorum.is_bootstrapped() {
        tracing::info!(cluster_id = identity.cluster_id, "beginning a new cluster");
        quorum.bootstrap().await?;
    }
    health.starting("waiting for the metadata quorum's leader");
    quorum.wait_for_leader(limits::METADATA_WAIT).await?;
    quorum.read_index().await?;
    Ok(quorum)
}

async fn register(config: &BrokerConfig, dir: &LogDir, quorum: &Quorum, advertised: &str) -> Result<i64, StartError> {
    let identity = dir.identity();
    let registration = Command::RegisterBroker(RegisterBroker {
        broker_id: config.node_id,
        incarnation: Uuid::new_v4(),
        cluster_id: identity.cluster_id.clone(),
        directory_id: identity.directory_id,
        address: advertised.to_owned(),
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_ms: now_ms(),
    });
    match quorum.submit(registration).await? {
        Ok(Outcome::Registered { broker_epoch }) => Ok(broker_epoch),
        Ok(other) => Err(StartError::Refused(format!("unexpected answer {other:?}"))),
        Err(rejection) => Err(StartError::Refused(rejection.to_string())),
    }
}

/// Opens all partitions, in parallel, and tells how far it is.
async fn recover(broker: &Arc<Broker>, health: &Health) {
    let begun = std::time::Instant::now();
    let cluster = broker.quorum.cluster();
    let version = cluster.version;
    let working = broker.clone();
    let mut recovery = tokio::task::spawn_blocking(move || {
        working.partitions.set_aside_strays(&cluster);
        working.partitions.reconcile(&cluster);
    });
    loop {
        let (done, all) = broker.partitions.progress();
        let percent = (100 * done).checked_div(all).unwrap_or(0);
        health.starting(format!("recovering, {percent} % ({done} of {all} partitions)"));
        match tokio::time::timeout(Duration::from_millis(100), &mut recovery).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => {
                tracing::error!(%error, "recovery failed");
                break;
            }
            Err(_) => {}
        }
    }
    broker.metrics.recovery_seconds.set(begun.elapsed().as_secs_f64());
    broker.reconciled.send_replace(version);
}

async fn serve(broker: &Arc<Broker>, listener: TcpListener, stop: CancellationToken) -> JoinHandle<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<MessagingServer<MessagingService>>().await;
    reporter.set_serving::<LogServer<LogService>>().await;
    reporter.set_serving::<AdminServer<AdminService>>().await;
    let stopping = broker.stopping.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        for service in ["", "millrace.v1.Messaging", "millrace.v1.Log", "millrace.v1.Admin"] {
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
    let incoming = connection::accept(listener, broker.config.max_connections, broker.memory.clone(), open);
    let max = limits::MAX_RPC_MESSAGE_BYTES;
    let mut routes = Routes::new(health)
        .add_service(MessagingServer::new(MessagingService(broker.clone())).max_decoding_message_size(max))
        .add_service(RawLogServer::new(LogService::new(broker.clone())))
        .add_service(AdminServer::new(AdminService(broker.clone())).max_decoding_message_size(max));
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
    tokio::spawn(http2::serve(incoming, MemoryLayer.layer(routes.prepare()), stop))
}

impl RunningBroker {
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

    /// Resolves with the reason when the broker can't go on and its process must stop.
    pub async fn failed(&self) -> String {
        let mut failed = self.broker.quorum.failed();
        loop {
            if let Some(reason) = failed.borrow_and_update().clone() {
                return reason;
            }
            if failed.changed().await.is_err() {
                return "the metadata quorum has stopped".into();
            }
        }
    }

    /// Stops: takes no more calls, lets those in flight end, flushes, and leaves the mark
    /// of a clean stop.
    ///
    /// # Errors
    /// The mark can't be written; the next start scans unflushed tails.
    pub async fn stop(self) -> io::Result<()> {
        let Self { broker, grpc, http } = self;
        let limit = broker.config.shutdown_timeout;
        http.health.stopping();
        broker.stopping.cancel();
        grpc.stop.cancel();
        broker.tasks.close();
        if tokio::time::timeout(limit, broker.tasks.wait()).await.is_err() {
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
