//! What all calls of one broker share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use millrace_engine::{
    Cluster, Command, Outcome, Topic,
    cluster::{ProducerIdBlock, ReportOfflineReplicas},
    names::check_topic_name,
    partition::FetchBound,
};
use millrace_log::LogDir;
use millrace_proto::v1::ErrorReason;
use tokio::sync::{Mutex, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::BrokerConfig,
    controller::{self, Controller, DiskWatch, OwnLease},
    error::{ApiError, unknown_topic},
    forward::Forwarder,
    groups::Coordinators,
    limits,
    memory::MemoryBudget,
    metrics::Metrics,
    partition::{Partition, Partitions},
    quorum::{Quorum, QuorumError},
    rpc::PublishSessions,
    shared_ask::SharedAsk,
};

/// One broker.
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) dir: Arc<LogDir>,
    pub(crate) quorum: Quorum,
    pub(crate) controller: Arc<Controller>,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) partitions: Partitions,
    /// The way to partitions that other brokers lead.
    pub(crate) forward: Arc<Forwarder>,
    /// The groups that this broker coordinates.
    pub(crate) groups: Coordinators,
    /// For how long nobody else leads what this broker leads.
    pub(crate) lease: OwnLease,
    pub(crate) memory: MemoryBudget,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sessions: PublishSessions,
    /// Cancelled when the broker begins to stop.
    pub(crate) stopping: CancellationToken,
    /// Why this life is over, once it is: the process must end.
    pub(crate) ended: watch::Sender<Option<String>>,
    pub(crate) broker_epoch: i64,
    /// Up to where all others in service have applied the metadata, as the quorum's leader told
    /// last.
    pub(crate) applied_by_others: AtomicU64,
    /// Questions to the quorum whether this broker knows all metadata.
    pub(crate) confirmed: SharedAsk,
    /// The metadata version that the partitions are at.
    pub(crate) reconciled: watch::Sender<u64>,
    pub(crate) producer_ids: Mutex<ProducerIdBlock>,
    pub(crate) sticky: AtomicU32,
    pub(crate) tasks: TaskTracker,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("config", &self.config)
            .field("broker_epoch", &self.broker_epoch)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// The broker's clock, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        now_ms()
    }

    /// The cluster's id.
    pub(crate) fn cluster_id(&self) -> String {
        self.quorum.cluster().cluster_id.clone()
    }

    /// This life is over: another process has begun a newer one.
    pub(crate) fn superseded(&self, newer: i64) {
        self.end(format!(
            "broker {} has begun a newer life (epoch {newer}, this is {}): another process runs as this broker, on this disk or a copy of it",
            self.config.node_id, self.broker_epoch
        ));
    }

    /// The cluster has removed this broker, and will tell it nothing more.
    pub(crate) fn removed(&self) {
        self.end(controller::was_removed(self.config.node_id));
    }

    /// This life is over; the first reason stays.
    pub(crate) fn end(&self, reason: impl Into<String>) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                let reason = reason.into();
                tracing::error!(reason, "this process can't go on");
                *ended = Some(reason);
            }
            first
        });
    }

    /// A number that changes with each call, to spread messages without a key.
    pub(crate) fn next_sticky(&self) -> u32 {
        self.sticky.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a call's task; a stopping broker waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Has a command applied by the metadata quorum.
    pub(crate) async fn submit(&self, command: Command) -> Result<Outcome, ApiError> {
        let submitted = self.quorum.submit(command);
        match tokio::time::timeout(limits::METADATA_WAIT, submitted).await {
            Ok(Ok(applied)) => Ok(applied?),
            Ok(Err(error)) => Err(quorum_error(&error)),
            Err(_) => Err(ApiError::new(
                ErrorReason::QuorumUnavailable,
                "The metadata quorum did not answer in time; the change may still be made: look, then repeat it.",
            )),
        }
    }

    /// Up to which metadata index this broker's partitions are as the metadata says; 0 while they
    /// are being opened. What is only known may not have reached the partitions: a broker that is
    /// counted on must have carried it out.
    pub(crate) fn carried_out(&self) -> u64 {
        *self.reconciled.borrow()
    }

    /// Waits until this broker's partitions are as its metadata says now.
    pub(crate) async fn wait_until_current(&self) -> Result<(), ApiError> {
        let version = self.quorum.cluster().version;
        let mut reconciled = self.reconciled.subscribe();
        let waited = tokio::time::timeout(
            limits::METADATA_WAIT,
            reconciled.wait_for(|reached| *reached >= version),
        )
        .await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApiError::new(
                ErrorReason::BrokerNotReady,
                "The change is made, and this broker has not carried it out yet: look again in a while.",
            )),
        }
    }

    /// As [`Partition::check_fetch`], but calls an offset too high only once a majority of the
    /// quorum has confirmed that this broker knows all metadata. A leader that was replaced and has
    /// not heard of it lacks what its successor has acknowledged; a reader that believed it would
    /// start over (KIP-207, KIP-320).
    pub(crate) async fn check_fetch(
        &self,
        partition: &Partition,
        offset: i64,
        epoch: Option<i32>,
    ) -> Result<FetchBound, ApiError> {
        let checked = partition.check_fetch(offset, epoch);
        match &checked {
            Err(error) if error.reason() == ErrorReason::OffsetOutOfRange && offset > partition.offsets().log_start => {
            }
            _ => return checked,
        }
        if self.has_all_metadata().await && self.wait_until_current().await.is_ok() {
            return partition.check_fetch(offset, epoch);
        }
        Err(ApiError::new(
            ErrorReason::OffsetNotAvailable,
            format!("Offset {offset} is not here, and this broker can't tell now whether it still leads: try again."),
        ))
    }

    /// Whether this broker has, within a moment, all metadata that was acknowledged anywhere before.
    pub(crate) async fn has_all_metadata(&self) -> bool {
        self.confirm_metadata().await.is_ok()
    }

    /// The same, and what is in the way.
    async fn confirm_metadata(&self) -> Result<(), String> {
        let question = async {
            match tokio::time::timeout(limits::METADATA_CONFIRMED_WITHIN, self.quorum.read_index()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("it did not answer in time".into()),
            }
        };
        self.confirmed.ask(question).await
    }

    /// The topic of this name, and the metadata that has it. One that is not found is called unknown only
    /// once a majority of the quorum has confirmed that this broker knows all metadata: it may have been
    /// created at another a moment ago. Calls that find nothing share that question.
    ///
    /// # Errors
    /// There is none, or no topic can have this name; or the quorum can't tell, which is worth another try.
    pub(crate) async fn topic(&self, name: &str) -> Result<(Arc<Cluster>, Arc<Topic>), ApiError> {
        if let Some(found) = self.known_topic(name) {
            return Ok(found);
        }
        check_topic_name(name)?;
        self.confirm_metadata().await.map_err(|problem| {
            ApiError::new(
                ErrorReason::QuorumUnavailable,
                format!("This broker knows no topic {name:?}, and can't ask the metadata quorum now whether there is one ({problem}): try again."),
            )
        })?;
        let found = self.known_topic(name).ok_or_else(|| unknown_topic(name))?;
        // Its partitions are a moment behind. If they take longer, they say so themselves.
        let _ = tokio::time::timeout(limits::METADATA_CONFIRMED_WITHIN, self.wait_until_current()).await;
        Ok(found)
    }

    fn known_topic(&self, name: &str) -> Option<(Arc<Cluster>, Arc<Topic>)> {
        let cluster = self.quorum.cluster();
        let topic = cluster.topics.get(name)?.clone();
        Some((cluster, topic))
    }

    /// A producer id that nobody had before.
    pub(crate) async fn next_producer_id(&self) -> Result<i64, ApiError> {
        let mut block = self.producer_ids.lock().await;
        if block.count == 0 {
            let command = Command::AllocateProducerIds {
                broker_id: self.config.node_id,
                broker_epoch: self.broker_epoch,
            };
            match self.submit(command).await? {
                Outcome::ProducerIds(allocated) => *block = allocated,
                other => {
                    return Err(ApiError::internal(
                        "allocating producer ids",
                        &format!("the quorum answered {other:?}"),
                    ));
                }
            }
        }
        let id = block.first;
        *block = ProducerIdBlock {
            first: block.first + 1,
            count: block.count - 1,
        };
        Ok(id)
    }

    /// Has others lead what can't be opened here, or is damaged.
    pub(crate) async fn report_offline_replicas(&self) {
        let partitions = self.partitions.offline_replicas(&self.quorum.cluster());
        if partitions.is_empty() {
            return;
        }
        let report = Command::ReportOfflineReplicas(ReportOfflineReplicas {
            broker_id: self.config.node_id,
            broker_epoch: self.broker_epoch,
            partitions,
        });
        // Told again with the next attempt to open them.
        let submitted = tokio::time::timeout(limits::UNOPENED_AGAIN, self.quorum.submit(report));
        match submitted.await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(rejection))) => tracing::warn!(%rejection, "the controller does not hear of offline replicas"),
            Ok(Err(error)) => tracing::warn!(%error, "the controller does not hear of offline replicas"),
            Err(_) => tracing::warn!("the controller does not hear of offline replicas in time"),
        }
    }

    /// Keeps the partitions as the metadata says, until the broker stops.
    pub(crate) async fn follow_metadata(self: Arc<Self>) {
        let mut changes = self.quorum.watch();
        loop {
            let cluster: Arc<Cluster> = changes.borrow_and_update().clone();
            let version = cluster.version;
            let broker = self.clone();
            let done = tokio::task::spawn_blocking(move || broker.partitions.reconcile(&cluster)).await;
            let failed = done.is_err();
            match done {
                Ok(()) => {
                    self.reconciled.send_replace(version);
                }
                // What was not carried out must not be told of as if it was.
                Err(error) => tracing::error!(%error, "partitions can't be brought up to date; trying again"),
            }
            // A full disk, say, may have room by then.
            let again = async {
                self.report_offline_replicas().await;
                tokio::time::sleep(limits::UNOPENED_AGAIN).await;
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = again, if failed || self.partitions.unopened() > 0 => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }
}

/// The clock, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

/// A failure of the metadata quorum as the caller's error.
pub(crate) fn quorum_error(error: &QuorumError) -> ApiError {
    ApiError::new(
        ErrorReason::QuorumUnavailable,
        format!("The metadata quorum can't make the change now ({error}): try again."),
    )
}
