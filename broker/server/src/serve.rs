//! Starting a broker.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};

use millrace_engine::cluster::ProducerIdBlock;
use millrace_log::{ChangeError, DirIdentity, DirOptions, FormatDirError, LogDir, OpenDirError, OsFileSystem};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    broker::Broker,
    client_port,
    config::BrokerConfig,
    connection,
    controller::{self, Addresses, Applicant, Controller, DiskWatch, InternalServer, OwnLease, internal_routes},
    forward::Forwarder,
    groups::{self, Coordinators},
    http::{self, Health},
    limits,
    memory::MemoryBudget,
    metrics::Metrics,
    partition::{self, Flusher, Partitions},
    quorum::QuorumError,
    replication::Replication,
    rpc::PublishSessions,
    running::{ClusterSide, GrpcServer, HttpServer, RunningBroker},
    shared_ask::SharedAsk,
};

/// Why a broker did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory has never been formatted.
    #[error("{} is not formatted: if it is meant to be new, run once with --format-if-empty (with seeds it joins their cluster, without, or as broker begin.node, it begins a new one); if it should hold data, mount the right volume", .0.display())]
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

/// Formats the data directory for a new cluster: gives it an identity. Refuses one that is not empty.
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

/// Starts a broker; answers when it serves. The data directory must have been formatted.
///
/// # Errors
/// The data directory, the quorum or an address can't be used, or the cluster refuses the broker.
pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
    launch(config, false).await
}

/// As [`start`], but the data directory may be empty: then the broker joins the cluster of its
/// seeds, for as long as it takes, or begins a new one if it has none.
///
/// # Errors
/// As [`start`]; the data directory is neither formatted nor empty.
pub async fn form(config: BrokerConfig) -> Result<RunningBroker, StartError> {
    launch(config, true).await
}

/// The ports of a broker, bound.
struct Listeners {
    client: TcpListener,
    internal: TcpListener,
}

async fn launch(config: BrokerConfig, may_form: bool) -> Result<RunningBroker, StartError> {
    let metrics = Arc::new(Metrics::default());
    let health = Health::new(metrics.clone());
    // Bound first: a taken port is told before any work, and probes are answered during it.
    let listeners = Listeners {
        client: connection::bind(config.listen_client).await?,
        internal: connection::bind(config.listen_internal).await?,
    };
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
    match start_broker(config, may_form, metrics, &http.health, listeners).await {
        Ok((broker, grpc, cluster)) => {
            http.health.ready(broker.clone());
            let (broker_epoch, address) = (broker.broker_epoch, grpc.address);
            tracing::info!(%address, %http_address, broker_epoch, "serving");
            Ok(RunningBroker {
                broker,
                grpc,
                http,
                cluster,
            })
        }
        Err(error) => {
            http.stop().await;
            Err(error)
        }
    }
}

async fn start_broker(
    config: BrokerConfig,
    may_form: bool,
    metrics: Arc<Metrics>,
    health: &Health,
    listeners: Listeners,
) -> Result<(Arc<Broker>, GrpcServer, ClusterSide), StartError> {
    let address = listeners.client.local_addr()?;
    let addresses = Addresses::new(&config, address, listeners.internal.local_addr()?);
    let applicant = Applicant {
        config: &config,
        addresses: &addresses,
        incarnation: Uuid::new_v4(),
    };
    let (dir, begins) = match open_dir(&config, &metrics).await {
        Err(StartError::NotFormatted(_)) => {
            let begins = controller::prepare_directory(&config, &applicant, may_form, health).await?;
            (open_dir(&config, &metrics).await?, begins)
        }
        opened => (opened?, false),
    };
    let (quorum, seat) = controller::open_quorum(&config, &applicant, &dir, begins, health).await?;
    let controller = Controller::new(quorum.clone(), &config);
    let end_controller = CancellationToken::new();
    // Followers are served once there are partitions.
    let hosted = Arc::new(OnceLock::new());
    tokio::spawn(controller.clone().run(end_controller.clone()));
    let cluster = ClusterSide {
        internal: InternalServer::start(
            listeners.internal,
            internal_routes(&quorum, &controller, hosted.clone()),
        )?,
        controller: end_controller.drop_guard(),
    };
    controller::begin_or_enter(&quorum, seat, &config, &applicant, health).await?;
    let broker_epoch = controller::register(&quorum, &applicant, &dir, health).await?;
    // The disk knows of this life before a partition is touched in it.
    dir.set_broker_epoch(broker_epoch)?;
    controller::settle_metadata(&quorum, &config, &dir, health).await?;

    let flusher = Flusher::start(limits::FLUSH_THREADS)?;
    let stopping = CancellationToken::new();
    let replication = Replication::start(config.node_id, broker_epoch, quorum.clone(), stopping.clone());
    let broker = Arc::new(Broker {
        partitions: Partitions::new(
            config.node_id,
            dir.clone(),
            flusher.clone(),
            metrics.clone(),
            replication,
        ),
        groups: Coordinators::default(),
        lease: OwnLease::new(config.session_timeout),
        forward: Forwarder::new(config.node_id, quorum.clone()),
        memory: MemoryBudget::new(config.memory_bytes, config.memory_bytes_per_connection),
        config: config.clone(),
        dir: dir.clone(),
        quorum,
        controller,
        disk: DiskWatch::new(),
        metrics,
        sessions: PublishSessions::default(),
        stopping,
        ended: watch::Sender::new(None),
        broker_epoch,
        applied_by_others: AtomicU64::new(0),
        confirmed: SharedAsk::default(),
        reconciled: watch::Sender::new(0),
        producer_ids: Mutex::new(ProducerIdBlock { first: 0, count: 0 }),
        sticky: AtomicU32::new(0),
        tasks: TaskTracker::new(),
    });
    let _ = hosted.set(Arc::downgrade(&broker));
    // A life that is registered must be heard of, however long its logs take to open.
    tokio::spawn(broker.disk.clone().run(dir, broker.stopping.clone()));
    tokio::spawn(controller::run_heartbeats(broker.clone()));
    wait_for_own_life(&broker, health).await?;
    recover(&broker, health).await;
    tokio::spawn(partition::run_housekeeping(broker.clone()));
    tokio::spawn(partition::run_compaction(broker.clone()));
    tokio::spawn(partition::run_interval_flush(broker.clone()));
    tokio::spawn(broker.clone().follow_metadata());
    tokio::spawn(groups::run(broker.clone()));
    if let Err(problem) = controller::wait_for_service(&broker, health).await {
        broker.stopping.cancel();
        return Err(StartError::Refused(problem));
    }
    tokio::spawn(controller::keep_in_service(broker.clone()));
    if broker.wait_until_current().await.is_err() {
        tracing::warn!("partitions are not yet as the metadata says");
    }

    let stop = CancellationToken::new();
    let task = client_port::serve(&broker, listeners.client, stop.clone()).await;
    let grpc = GrpcServer {
        address,
        flusher,
        stop,
        task,
    };
    Ok((broker, grpc, cluster))
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

/// Waits until the metadata here shows this life. It does by then, unless it was slow to come: the registration was
/// answered by another broker. Older metadata may lack topics of which this disk holds partitions.
async fn wait_for_own_life(broker: &Broker, health: &Health) -> Result<(), StartError> {
    health.starting("reading the metadata");
    let mut metadata = broker.quorum.watch();
    let shown = metadata.wait_for(|cluster| cluster.version >= broker.broker_epoch.unsigned_abs());
    match shown.await {
        Ok(_) => Ok(()),
        Err(_) => Err(StartError::Refused("the metadata quorum has stopped".into())),
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
                // Some partitions were not looked at: not to be taken for none.
                tracing::error!(%error, "recovery failed: this broker stays out of service; restart it, and report this");
                health.starting("recovery failed: see the log".to_owned());
                broker.stopping.cancelled().await;
                return;
            }
            Err(_) => {}
        }
    }
    broker.metrics.recovery_seconds.set(begun.elapsed().as_secs_f64());
    broker.reconciled.send_replace(version);
}
