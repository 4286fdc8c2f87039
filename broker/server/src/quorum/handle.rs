//! The handle by which the broker uses its metadata quorum.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::{Cluster, Command, Outcome, Rejection};
use millrace_log::LogDir;
use openraft::{
    Raft, RaftMetrics, RaftNetworkFactory, ReadPolicy,
    errors::{
        ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
    },
    network::NetSnapshot,
    type_config::{alias::WatchReceiverOf, async_runtime::watch::WatchReceiver},
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{
    config::raft_config,
    entry_log::EntryLog,
    error::QuorumError,
    io_thread,
    log_store::LogStore,
    network::NoPeers,
    options::QuorumOptions,
    record::{self, MAX_ENTRY_BYTES},
    snapshot_store::SnapshotStore,
    state_machine::StateMachine,
    types::{Proposal, TypeConfig, Voter},
};

/// What an entry may hold beside its command: batch header, record framing, term and index.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Room on the disk that a command leaves: for votes, and entries that are on their way already.
const MIN_ROOM_BYTES: u64 = 1 << 20;

/// How long a shutdown waits for the disk to finish what was begun.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);

type MetricsWatch = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// A voter of the metadata quorum. Clones share one voter.
#[derive(Clone)]
pub struct Quorum(Arc<Inner>);

struct Inner {
    voter_id: u64,
    voter: Voter,
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
    #[cfg(test)]
    log: Arc<EntryLog>,
}

/// What a voter knows of its quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// Who leads, as far as this voter knows.
    pub leader: Option<u64>,
    /// The newest term that this voter has heard of.
    pub term: u64,
    /// All voters, in order.
    pub voters: Vec<u64>,
    /// The last entry that this voter has applied.
    pub applied_index: Option<u64>,
}

impl Quorum {
    /// Opens a voter: reads its vote, its newest snapshot and its log, and begins to take part.
    /// A voter that is the only one stands for election at once.
    ///
    /// Needs no other voter. Until a leader is known, [`Quorum::cluster`] may be as old as the
    /// newest snapshot; [`Quorum::wait_for_leader`] waits until it is not.
    ///
    /// # Errors
    /// [`QuorumError::Damaged`] and [`QuorumError::OtherVoter`] call for a human;
    /// [`QuorumError::Io`], [`QuorumError::Config`].
    pub async fn open(options: QuorumOptions) -> Result<Self, QuorumError> {
        Self::open_with(options, NoPeers).await
    }

    /// As [`Quorum::open`], with a way to reach other voters.
    pub(super) async fn open_with<N>(options: QuorumOptions, network: N) -> Result<Self, QuorumError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: NetSnapshot<TypeConfig, SnapshotData = Bytes>,
    {
        let config = raft_config(&options)?;
        Self::open_with_config(options, config, network).await
    }

    pub(super) async fn open_with_config<N>(
        options: QuorumOptions,
        config: openraft::Config,
        network: N,
    ) -> Result<Self, QuorumError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: NetSnapshot<TypeConfig, SnapshotData = Bytes>,
    {
        let (published, cluster) = watch::channel(Arc::new(Cluster::default()));
        let recovery = options.clone();
        let (log, snapshots, machine) = tokio::task::spawn_blocking(move || recover(&recovery, published))
            .await
            .map_err(|error| QuorumError::Stopped {
                reason: error.to_string(),
            })??;
        let found_last = log.end().checked_sub(1);
        let (failed, _) = watch::channel(None);
        let (io, io_thread) = io_thread::start(Arc::clone(&log), failed.clone())
            .map_err(QuorumError::io("start of the metadata log's IO thread"))?;
        let store = LogStore::new(Arc::clone(&log), io);
        let raft = Raft::new(options.voter_id, Arc::new(config), network, store, machine)
            .await
            .map_err(stopped)?;
        let quorum = Self(Arc::new(Inner {
            voter_id: options.voter_id,
            voter: Voter {
                address: options.address,
                directory_id: options.directory_id,
            },
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
            #[cfg(test)]
            log,
        }));
        tokio::spawn(monitor(Arc::downgrade(&quorum.0), quorum.0.raft.metrics()));
        quorum.begin().await?;
        Ok(quorum)
    }

    /// Finds out who the voters are; a voter that is the only one waits for no timeout.
    async fn begin(&self) -> Result<(), QuorumError> {
        let voters = self
            .0
            .raft
            .with_raft_state(|state| state.membership_state.effective().voter_ids().collect::<Vec<u64>>())
            .await
            .map_err(stopped)?;
        self.0.bootstrapped.store(!voters.is_empty(), Ordering::Release);
        if voters == [self.0.voter_id] {
            self.0.raft.trigger().elect(false).await.map_err(stopped)?;
        }
        Ok(())
    }

    /// Makes this voter the first and only one of a new quorum. Returns once that is in its log;
    /// it leads soon after.
    ///
    /// # Errors
    /// [`QuorumError::AlreadyBootstrapped`] if this voter has any entry or vote: two quorums
    /// would result.
    pub async fn bootstrap(&self) -> Result<(), QuorumError> {
        let members = BTreeMap::from([(self.0.voter_id, self.0.voter.clone())]);
        self.bootstrap_with(members).await
    }

    pub(super) async fn bootstrap_with(&self, members: BTreeMap<u64, Voter>) -> Result<(), QuorumError> {
        match self.0.raft.initialize(members).await {
            Ok(()) => {
                self.0.bootstrapped.store(true, Ordering::Release);
                Ok(())
            }
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(QuorumError::AlreadyBootstrapped),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(QuorumError::Config(error.to_string()))
            }
            Err(RaftError::Fatal(error)) => Err(stopped(error)),
        }
    }

    /// Whether this voter belongs to a quorum.
    pub fn is_bootstrapped(&self) -> bool {
        self.0.bootstrapped.load(Ordering::Acquire) || !self.status().voters.is_empty()
    }

    /// Has a command ordered by the quorum and applied. The inner result is the command's own;
    /// [`Quorum::cluster`] shows its effect when this returns.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`], [`QuorumError::NoMajority`], [`QuorumError::Overloaded`],
    /// [`QuorumError::TooLarge`] and [`QuorumError::DiskFull`]: nothing was done. [`QuorumError::OutcomeUnknown`]: it may be
    /// applied later, or never. [`QuorumError::Stopped`].
    pub async fn submit(&self, command: Command) -> Result<Result<Outcome, Rejection>, QuorumError> {
        let Ok(_permit) = self.0.pending.try_acquire() else {
            return Err(QuorumError::Overloaded {
                limit: self.0.max_pending,
            });
        };
        let size = record::command_bytes(&command).map_err(|error| QuorumError::Config(error.to_string()))?;
        let limit = MAX_ENTRY_BYTES - ENTRY_OVERHEAD_BYTES;
        if size > limit {
            return Err(QuorumError::TooLarge { size, limit });
        }
        // An entry that can't be written ends this voter; better not to begin.
        let available = self.0.log_dir.available_bytes();
        if let Ok(available_bytes) = available
            && available_bytes < MIN_ROOM_BYTES + size as u64
        {
            return Err(QuorumError::DiskFull { available_bytes });
        }
        let within = self.0.request_timeout;
        let write = self.0.raft.client_write(Proposal(command));
        let response = match tokio::time::timeout(within, write).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(write_error(error)),
            Err(_) => {
                let reason = format!("no majority confirmed it within {within:?}");
                return Err(QuorumError::OutcomeUnknown { reason });
            }
        };
        response.data.0.ok_or_else(|| QuorumError::Stopped {
            reason: format!("entry {} lost its command", response.log_id.index),
        })
    }

    /// The metadata as of the last entry applied here.
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.0.cluster.borrow())
    }

    /// Tells of each new state. States may be skipped; the last one never is.
    pub fn watch(&self) -> watch::Receiver<Arc<Cluster>> {
        self.0.cluster.clone()
    }

    /// What this voter knows of its quorum.
    pub fn status(&self) -> QuorumStatus {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        QuorumStatus {
            leader: metrics.current_leader,
            term: metrics.current_term,
            voters: metrics.membership_config.voter_ids().collect(),
            applied_index: metrics.last_applied.as_ref().map(|last| last.index),
        }
    }

    /// Returns once [`Quorum::cluster`] shows everything that was acknowledged anywhere before
    /// this call (ReadIndex, Raft's thesis section 6.4): a majority confirms the leader anew. No
    /// clock is trusted.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`], [`QuorumError::NoMajority`], [`QuorumError::Timeout`],
    /// [`QuorumError::Stopped`].
    pub async fn read_index(&self) -> Result<(), QuorumError> {
        let within = self.0.request_timeout;
        let read = self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(within, read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(error)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(error)))) => Err(not_leader(&error)),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(QuorumError::NoMajority),
            Err(_) => Err(QuorumError::Timeout {
                what: "majority",
                within,
            }),
        }
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

    /// Stops taking part. What was acknowledged is on the disk; when this returns, nothing more
    /// is written, so that the log directory can be closed.
    pub async fn shutdown(&self) {
        self.0.stopping.store(true, Ordering::Release);
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "metadata quorum ended badly");
        }
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

    /// Turns from `None` to the reason once storage has failed or the quorum's core has stopped
    /// without being asked to. The process must stop then: this voter no longer knows what it
    /// has promised (KAFKA-14644).
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failed.subscribe()
    }

    #[cfg(test)]
    pub(super) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.0.raft
    }

    #[cfg(test)]
    pub(super) fn log(&self) -> &EntryLog {
        &self.0.log
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
async fn until(
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
async fn monitor(inner: std::sync::Weak<Inner>, metrics: MetricsWatch) {
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

fn stopped(error: Fatal<TypeConfig>) -> QuorumError {
    QuorumError::Stopped {
        reason: error.to_string(),
    }
}

fn not_leader(error: &ForwardToLeader<TypeConfig>) -> QuorumError {
    match error.reason {
        ForwardReason::LeaseExpired => QuorumError::NoMajority,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => QuorumError::NotLeader {
            leader: error.leader_id,
        },
    }
}

fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> QuorumError {
    match error {
        RaftError::Fatal(error) => stopped(error),
        RaftError::APIError(ClientWriteError::ForwardToLeader(error)) => not_leader(&error),
        // The entry was in this leader's log; a later leader may still commit it.
        RaftError::APIError(error) => QuorumError::OutcomeUnknown {
            reason: error.to_string(),
        },
    }
}
