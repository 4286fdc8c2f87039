//! The handle by which the broker uses its metadata quorum.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::Cluster;
use millrace_log::{FileSystem, LogDir};
use millrace_proto::internal::v1::quorum_server::QuorumServer;
use openraft::{
    Raft, RaftMetrics, RaftNetworkFactory, RaftNetworkV2,
    errors::Fatal,
    type_config::{alias::WatchReceiverOf, async_runtime::watch::WatchReceiver},
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use uuid::Uuid;

use super::{
    addresses::addresses_in,
    config::raft_config,
    entry_log::{EntryLog, check_unused, partition_path},
    error::QuorumError,
    io_thread,
    leadership::LeaderHeard,
    log_store::LogStore,
    network::{Checked, Identity, Network, Peers, QuorumService},
    options::QuorumOptions,
    snapshot_store::SnapshotStore,
    state_file::{self, QuorumState},
    state_machine::{StateMachine, UsedIds},
    types::{LogId, TypeConfig, Voter},
};

/// How long a shutdown waits for the disk to finish what was begun.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);

type MetricsWatch = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// A voter of the metadata quorum. Clones share one voter.
#[derive(Clone)]
pub struct Quorum(Arc<Inner>);

/// A voter that may be gone.
#[derive(Clone)]
pub(super) struct WeakQuorum(Weak<Inner>);

impl WeakQuorum {
    pub(super) fn upgrade(&self) -> Option<Quorum> {
        self.0.upgrade().map(Quorum)
    }
}

struct Inner {
    identity: Identity,
    voter: Voter,
    /// The way to other members; none in a quorum that is cut off by design.
    peers: Option<Arc<Peers>>,
    election_timeout: Duration,
    request_timeout: Duration,
    max_pending: usize,
    raft: Raft<TypeConfig, StateMachine>,
    log_dir: Arc<LogDir>,
    cluster: watch::Receiver<Arc<Cluster>>,
    pending: Semaphore,
    failed: watch::Sender<Option<String>>,
    bootstrapped: AtomicBool,
    stopping: AtomicBool,
    io: Mutex<Option<thread::JoinHandle<()>>>,
    snapshots: Arc<SnapshotStore>,
    /// The index of the last entry that was on the disk when this voter was opened.
    found_last: Option<u64>,
    log: Arc<EntryLog>,
    used_ids: UsedIds,
    leader_heard: LeaderHeard,
    /// Held while the members are changed.
    changing: tokio::sync::Mutex<()>,
    /// Whether it is the only voter and waits for [`Quorum::lead_alone`].
    holds_back: AtomicBool,
    #[cfg(test)]
    followers: Arc<super::network::Followers>,
}

impl Quorum {
    /// Opens a member: reads its vote, its newest snapshot and its log, and begins to take part.
    /// A voter that is the only one stands for election at once, unless
    /// [`QuorumOptions::leads_alone`] is off.
    ///
    /// Needs no other member. Until a leader is known, [`Quorum::cluster`] may be as old as the
    /// newest snapshot; [`Quorum::wait_for_leader`] waits until it is not. Where there is or may
    /// be more than one member, [`Quorum::service`] must be served at [`QuorumOptions::address`].
    ///
    /// A member whose disk is empty does nothing until it is made a member, with an id that was
    /// never used: what it had promised under its old one is forgotten (KIP-853).
    ///
    /// # Errors
    /// [`QuorumError::Damaged`] and [`QuorumError::OtherVoter`] call for a human;
    /// [`QuorumError::Io`], [`QuorumError::Config`].
    pub async fn open(options: QuorumOptions) -> Result<Self, QuorumError> {
        let config = raft_config(&options)?;
        let peers = Peers::new(identity(&options));
        let network = Network::new(Arc::clone(&peers), options.election_timeout * 2);
        Self::open_over(options, config, network, Some(peers)).await
    }

    /// As [`Quorum::open`], over a network that carries what openraft sends and nothing else.
    #[cfg(test)]
    pub(super) async fn open_with_config<N>(
        options: QuorumOptions,
        config: openraft::Config,
        network: N,
    ) -> Result<Self, QuorumError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: RaftNetworkV2<TypeConfig, SnapshotData = Bytes>,
    {
        Self::open_over(options, config, network, None).await
    }

    pub(super) async fn open_over<N>(
        options: QuorumOptions,
        mut config: openraft::Config,
        network: N,
        peers: Option<Arc<Peers>>,
    ) -> Result<Self, QuorumError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: RaftNetworkV2<TypeConfig, SnapshotData = Bytes>,
    {
        let (published, cluster) = watch::channel(Arc::new(Cluster::default()));
        let recovery = options.clone();
        let places = peers.clone();
        let recovered = tokio::task::spawn_blocking(move || {
            let recovered = recover(&recovery, published)?;
            if let Some(peers) = places {
                let (log, applied) = (&recovered.0, recovered.2.applied_end());
                match addresses_in(log, applied) {
                    Ok(logged) => peers.places().set_logged(logged),
                    // Whoever has to apply them will say so.
                    Err(error) => tracing::warn!(%error, "entries of the metadata log can't be read"),
                }
            }
            Ok::<_, QuorumError>(recovered)
        });
        let (log, snapshots, machine) = recovered.await.map_err(|error| QuorumError::Stopped {
            reason: error.to_string(),
        })??;
        if let Some(peers) = &peers {
            peers.places().set_registered(cluster.clone());
        }
        let found_last = log.end().checked_sub(1);
        let used_ids = machine.used_ids();
        let (failed, _) = watch::channel(None);
        let (io, io_thread) = io_thread::start(Arc::clone(&log), failed.clone())
            .map_err(QuorumError::io("start of the metadata log's IO thread"))?;
        let store = LogStore::new(Arc::clone(&log), io);
        let network = Checked::new(network);
        #[cfg(test)]
        let followers = network.followers();
        // Else not before it is known who the voters are.
        config.enable_elect &= options.leads_alone;
        let raft = Raft::new(options.voter_id, Arc::new(config), network, store, machine)
            .await
            .map_err(stopped)?;
        let quorum = Self(Arc::new(Inner {
            identity: identity(&options),
            voter: Voter {
                address: options.address,
                directory_id: options.directory_id,
                // Nil: of a voter that the quorum is begun with.
                state_id: Uuid::nil(),
            },
            peers,
            election_timeout: options.election_timeout,
            request_timeout: options.request_timeout,
            max_pending: options.max_pending,
            pending: Semaphore::new(options.max_pending),
            log_dir: options.log_dir,
            cluster,
            failed,
            bootstrapped: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            io: Mutex::new(Some(io_thread)),
            snapshots,
            found_last,
            raft,
            log,
            used_ids,
            leader_heard: LeaderHeard::default(),
            changing: tokio::sync::Mutex::default(),
            holds_back: AtomicBool::new(false),
            #[cfg(test)]
            followers,
        }));
        tokio::spawn(monitor(Arc::downgrade(&quorum.0), quorum.0.raft.metrics()));
        quorum.begin(options.leads_alone).await?;
        Ok(quorum)
    }

    /// Finds out who the voters are; a voter that is the only one waits for no timeout, if it may lead.
    async fn begin(&self, leads_alone: bool) -> Result<(), QuorumError> {
        let voters = self
            .0
            .raft
            .with_raft_state(|state| state.membership_state.effective().voter_ids().collect::<Vec<u64>>())
            .await
            .map_err(stopped)?;
        self.0.bootstrapped.store(!voters.is_empty(), Ordering::Release);
        let is_alone = voters == [self.voter_id()];
        self.0.holds_back.store(is_alone && !leads_alone, Ordering::Release);
        if is_alone && leads_alone {
            self.0.raft.trigger().elect(false).await.map_err(stopped)?;
        } else if !is_alone && !leads_alone {
            self.0.raft.runtime_config().elect(true);
        }
        Ok(())
    }

    /// Whether this member is the only voter by its own log, and was opened not to lead as such
    /// ([`QuorumOptions::leads_alone`]).
    pub fn holds_back(&self) -> bool {
        self.0.holds_back.load(Ordering::Acquire)
    }

    /// Leads as the only voter, which it held back from.
    ///
    /// # Errors
    /// [`QuorumError::Stopped`].
    pub async fn lead_alone(&self) -> Result<(), QuorumError> {
        self.0.holds_back.store(false, Ordering::Release);
        self.0.raft.runtime_config().elect(true);
        self.0.raft.trigger().elect(false).await.map_err(stopped)
    }

    /// What other members ask of this one, to be served at [`QuorumOptions::address`]. Serve it
    /// from when the quorum is opened until after [`Quorum::shutdown`].
    pub fn service(&self) -> QuorumServer<QuorumService> {
        QuorumService::server(WeakQuorum(Arc::downgrade(&self.0)))
    }

    /// Whether this voter belongs to a quorum.
    pub fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.load(Ordering::Acquire) || !self.status().voters.is_empty()
    }

    /// The metadata as of the last entry applied here.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.0.cluster.borrow())
    }

    /// Tells of each new state. States may be skipped; the last one never is.
    pub fn watch(&self) -> watch::Receiver<Arc<Cluster>> {
        self.0.cluster.clone()
    }

    /// Waits until a leader is known and everything that this voter had on its disk when it was
    /// opened and that turned out to be committed is applied. Returns the leader.
    ///
    /// # Errors
    /// [`QuorumError::Timeout`], [`QuorumError::Stopped`].
    pub async fn wait_for_leader(&self, within: Duration) -> Result<u64, QuorumError> {
        let wait = async {
            let found_last = self.0.found_last;
            let caught_up = |metrics: &RaftMetrics<TypeConfig>| {
                let committed = metrics.cluster_committed;
                let index = committed.map(|id| id.index);
                // What was found on the disk is either committed or was replaced by the leader's
                // own log, which ends where it is committed.
                let settled = index >= found_last || index >= metrics.last_log_index;
                metrics.current_leader.is_some() && committed.is_some() && settled && metrics.last_applied >= committed
            };
            let reached = until(self.0.raft.metrics(), |metrics| {
                metrics.running_state.is_err() || caught_up(metrics)
            });
            let metrics = reached.await.ok_or("its core has ended".to_owned())?;
            metrics.running_state.map_err(|error| error.to_string())?;
            metrics.current_leader.ok_or("its leader is gone".to_owned())
        };
        match tokio::time::timeout(within, wait).await {
            Ok(found) => found.map_err(|reason| QuorumError::Stopped { reason }),
            Err(_) => Err(QuorumError::Timeout {
                what: "metadata quorum leader",
                within,
            }),
        }
    }

    /// Turns from `None` to the reason once storage has failed or the quorum's core has stopped
    /// without being asked to. The process must stop then: this voter no longer knows what it
    /// has promised (KAFKA-14644).
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failed.subscribe()
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.0.raft
    }

    /// Who has lost what it had acknowledged to this member.
    #[cfg(test)]
    pub(super) fn lacking(&self) -> Vec<u64> {
        self.0.followers.lacking()
    }

    /// The index after the last entry that was on the disk when this member was opened.
    #[cfg(test)]
    pub(super) fn found_end(&self) -> u64 {
        self.0.found_last.map_or(0, |last| last + 1)
    }

    #[cfg(test)]
    pub(super) fn log(&self) -> &EntryLog {
        &self.0.log
    }

    pub(super) fn entry_log(&self) -> Arc<EntryLog> {
        Arc::clone(&self.0.log)
    }

    /// This member as one that the quorum is begun with.
    pub(super) fn voter(&self) -> &Voter {
        &self.0.voter
    }

    pub(super) fn set_bootstrapped(&self) {
        self.0.bootstrapped.store(true, Ordering::Release);
    }

    pub(super) fn set_stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Waits for what is being written; after this nothing is.
    pub(super) async fn end_io(&self) {
        let io = self.0.io.lock().take();
        let snapshots = Arc::clone(&self.0.snapshots);
        let ended = tokio::task::spawn_blocking(move || {
            snapshots.close();
            io.map(thread::JoinHandle::join)
        });
        if tokio::time::timeout(SHUTDOWN_WITHIN, ended).await.is_err() {
            tracing::warn!("writes of the metadata quorum do not end");
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The id of the cluster, and of the log directory, that this member was opened with.
    pub fn place(&self) -> (&str, Uuid) {
        (&self.0.identity.cluster_id, self.0.identity.directory_id)
    }

    /// This member's number.
    pub fn voter_id(&self) -> u64 {
        self.0.identity.voter_id
    }

    /// What was drawn when the disk was first written to, and whether the quorum was begun with
    /// it.
    pub(super) fn own_state(&self) -> (Uuid, bool) {
        (self.0.log.state_id(), self.0.log.is_founder())
    }

    pub(super) fn peers(&self) -> Option<&Arc<Peers>> {
        self.0.peers.as_ref()
    }

    pub(super) fn is_networked(&self) -> bool {
        self.0.peers.is_some()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    pub(super) fn log_dir(&self) -> &LogDir {
        &self.0.log_dir
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    pub(super) fn election_timeout(&self) -> Duration {
        self.0.election_timeout
    }

    /// To be told of each sign of life of a leader.
    pub(super) fn leader_heard(&self) -> &LeaderHeard {
        &self.0.leader_heard
    }

    pub(super) fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.0.changing
    }

    pub(super) fn used_ids(&self) -> BTreeSet<u64> {
        self.0.used_ids.lock().clone()
    }

    /// The last entry that is known here to be committed.
    pub(super) fn last_committed(&self) -> Option<LogId> {
        self.0.raft.metrics().borrow_watched().local_committed
    }

    /// Room for one more command.
    pub(super) fn permit(&self) -> Result<SemaphorePermit<'_>, QuorumError> {
        self.0.pending.try_acquire().map_err(|_| QuorumError::Overloaded {
            limit: self.0.max_pending,
        })
    }
}

fn identity(options: &QuorumOptions) -> Identity {
    Identity {
        cluster_id: options.log_dir.identity().cluster_id.clone(),
        voter_id: options.voter_id,
        directory_id: options.directory_id,
    }
}

/// The number under which a data directory takes part in the quorum; `None` if it never did.
///
/// # Errors
/// [`QuorumError::Io`]; [`QuorumError::Damaged`], also if the directory was in use and the number is gone.
pub fn stored_voter_id(fs: &dyn FileSystem, dir: &LogDir) -> Result<Option<u64>, QuorumError> {
    let path = partition_path(dir).join(state_file::FILE_NAME);
    match QuorumState::load(fs, &path)? {
        Some(state) => Ok(Some(state.voter_id())),
        None => check_unused(dir).map(|()| None),
    }
}

type Recovered = (Arc<EntryLog>, Arc<SnapshotStore>, StateMachine);

/// Reads what is on the disk.
pub(super) fn recover(
    options: &QuorumOptions,
    published: watch::Sender<Arc<Cluster>>,
) -> Result<Recovered, QuorumError> {
    let log = Arc::new(EntryLog::open(options)?);
    let joins = |last, newest| log.joins(last, newest);
    let (snapshots, newest) = SnapshotStore::open(Arc::clone(&options.fs), log.dir().to_owned(), joins)?;
    let dir = || log.dir().display().to_string();
    if log.is_new() {
        if newest.is_some() {
            let reason = "there is a snapshot but no quorum-state: this voter could vote twice";
            return Err(QuorumError::damaged(dir(), reason));
        }
        log.store_new_state().map_err(QuorumError::io(dir()))?;
    }
    // The log must follow on the snapshot: a gap is an error, not a reset.
    let last = newest.as_ref().map(|snapshot| snapshot.last);
    if let Some(purged) = log.purged()
        && last.is_none_or(|last| last.index < purged.index)
    {
        let reason = format!("entries up to {} were given up but no snapshot has them", purged.index);
        return Err(QuorumError::damaged(dir(), reason));
    }
    let snapshots = Arc::new(snapshots);
    let machine = StateMachine::new(newest, published, Arc::clone(&snapshots), Arc::clone(&log));
    Ok((log, snapshots, machine))
}

/// Waits until the metrics are as `wanted`; `None` if they end before.
pub(super) async fn until(
    mut metrics: MetricsWatch,
    wanted: impl Fn(&RaftMetrics<TypeConfig>) -> bool,
) -> Option<RaftMetrics<TypeConfig>> {
    loop {
        {
            let present = metrics.borrow_and_update();
            if wanted(&present) {
                return Some(present.clone());
            }
        }
        metrics.changed().await.ok()?;
    }
}

/// Tells of a core that has stopped by itself.
async fn monitor(inner: Weak<Inner>, metrics: MetricsWatch) {
    let ended = until(metrics, |metrics| metrics.running_state.is_err()).await;
    let reason = match ended.map(|metrics| metrics.running_state) {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) | None => "its core has ended".to_owned(),
    };
    if let Some(inner) = inner.upgrade()
        && !inner.stopping.load(Ordering::Acquire)
    {
        tracing::error!(reason, "metadata quorum stopped");
        report(&inner.failed, reason);
    }
}

/// Notes the first failure.
pub(super) fn report(failed: &watch::Sender<Option<String>>, reason: String) {
    failed.send_if_modified(|present| {
        let first = present.is_none();
        if first {
            *present = Some(reason);
        }
        first
    });
}

pub(super) fn stopped(error: Fatal<TypeConfig>) -> QuorumError {
    QuorumError::Stopped {
        reason: error.to_string(),
    }
}
