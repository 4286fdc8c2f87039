//! Applies committed entries to the metadata and publishes each new state.

use std::{collections::BTreeSet, io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use millrace_engine::Cluster;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    entry_log::EntryLog,
    snapshot::Snapshot,
    snapshot_store::SnapshotStore,
    types::{LogId, Membership, RaftSnapshot, Response, SnapshotMeta, StoredMembership, TypeConfig},
};

/// The ids of all members that there ever were, as of the last entry applied.
pub(super) type UsedIds = Arc<Mutex<BTreeSet<u64>>>;

/// The metadata in memory: `snapshot ≤ applied`.
pub(super) struct StateMachine {
    applied: Option<LogId>,
    membership: StoredMembership,
    used_ids: UsedIds,
    published: watch::Sender<Arc<Cluster>>,
    snapshots: Arc<SnapshotStore>,
    log: Arc<EntryLog>,
}

impl StateMachine {
    /// The state as of `snapshot`; entries after it are applied once they are known to be
    /// committed. New states go to `published`.
    pub(super) fn new(
        snapshot: Option<Snapshot>,
        published: watch::Sender<Arc<Cluster>>,
        snapshots: Arc<SnapshotStore>,
        log: Arc<EntryLog>,
    ) -> Self {
        let mut machine = Self {
            applied: None,
            membership: StoredMembership::default(),
            used_ids: UsedIds::default(),
            published,
            snapshots,
            log,
        };
        if let Some(snapshot) = snapshot {
            machine.replace(snapshot);
        }
        machine
    }

    /// The ids of all members that there ever were.
    pub(super) fn used_ids(&self) -> UsedIds {
        Arc::clone(&self.used_ids)
    }

    /// The last membership that is applied.
    pub(super) fn membership(&self) -> &Membership {
        self.membership.membership()
    }

    /// The index of the next entry to apply.
    pub(super) fn applied_end(&self) -> u64 {
        self.applied.map_or(0, |last| last.index + 1)
    }

    /// Makes the entry after `last` the next to apply. For openraft's suite, which leaves gaps.
    #[cfg(test)]
    pub(super) fn pretend_applied(&mut self, last: LogId) {
        self.applied = Some(last);
    }

    /// Replaces the state in one step.
    fn replace(&mut self, snapshot: Snapshot) {
        self.log.set_snapshot(snapshot.last.index);
        self.applied = Some(snapshot.last);
        self.membership = snapshot.membership;
        *self.used_ids.lock() = snapshot.used_ids;
        self.published.send_replace(snapshot.cluster);
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut cluster = Cluster::clone(&self.published.borrow());
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let expected = self.applied.map_or(0, |last| last.index + 1);
            let index = entry.log_id.index;
            // A gap is an error, never skipped: this state would differ from all others' for
            // good. (Before the first entry nothing is known of where the log begins.)
            if self.applied.is_some() && index != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {index} was to be applied where {expected} is next"),
                ));
            }
            let response = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(proposal) => Some(cluster.apply(index, &proposal.0)),
                EntryPayload::Membership(membership) => {
                    self.used_ids.lock().extend(membership.nodes().map(|(id, _)| *id));
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
            };
            self.applied = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, Response(response))));
        }
        // Published before anyone is answered, so that who was answered sees the change.
        self.published.send_replace(Arc::new(cluster));
        for (responder, response) in answers {
            responder.send(response);
        }
        Ok(())
    }

    /// A snapshot that is not needed at once waits until the disk has room: a failed write would
    /// end this voter, while a longer log does no harm.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if force || self.snapshots.has_room() {
            Some(self.get_snapshot_builder().await)
        } else {
            tracing::warn!("metadata snapshot put off: the disk is full");
            None
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let snapshot = self.applied.map(|last| Snapshot {
            last,
            membership: self.membership.clone(),
            used_ids: self.used_ids.lock().clone(),
            cluster: Arc::clone(&self.published.borrow()),
        });
        SnapshotBuilder {
            snapshot,
            snapshots: Arc::clone(&self.snapshots),
            log: Arc::clone(&self.log),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let snapshot = Snapshot::decode(&bytes).map_err(|error| invalid(error.to_string()))?;
        if snapshot.meta() != *meta {
            return Err(invalid(format!(
                "the snapshot ends at {}, not as announced",
                snapshot.last
            )));
        }
        let snapshots = Arc::clone(&self.snapshots);
        let stored = snapshot.clone();
        blocking(move || snapshots.store(&stored)).await?;
        self.replace(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let snapshots = Arc::clone(&self.snapshots);
        let newest = blocking(move || snapshots.newest()).await?;
        Ok(newest.map(|(meta, snapshot)| RaftSnapshot { meta, snapshot }))
    }
}

/// Writes a snapshot of the state at the time of its making; the state moves on meanwhile.
pub(super) struct SnapshotBuilder {
    snapshot: Option<Snapshot>,
    snapshots: Arc<SnapshotStore>,
    log: Arc<EntryLog>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let Some(snapshot) = self.snapshot.clone() else {
            // The snapshot of nothing. It is not stored: it would make up for no log.
            return Ok(RaftSnapshot {
                meta: SnapshotMeta::default(),
                snapshot: Bytes::new(),
            });
        };
        let meta = snapshot.meta();
        let snapshots = Arc::clone(&self.snapshots);
        let last = snapshot.last;
        let bytes = blocking(move || snapshots.store(&snapshot)).await?;
        self.log.set_snapshot(last.index);
        Ok(RaftSnapshot { meta, snapshot: bytes })
    }
}

/// Runs disk work where it delays no other task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
