//! What openraft sends by.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use millrace_proto::internal::v1::{self, InstallSnapshotRequest, SnapshotBegin, install_snapshot_request::Part};
use openraft::{
    RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};

use super::{
    super::types::{RaftSnapshot, TypeConfig, Vote, Voter},
    connection::{Connection, PeerError},
    limits::{BACKOFF_FIRST, BACKOFF_LONGEST, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_IDLE, SNAPSHOT_WITHIN},
    peers::{Lane, Peers},
    wire::{self, Malformed},
};

/// Makes a [`Link`] to each member that openraft wants to talk to.
pub(in super::super) struct Network {
    peers: Arc<Peers>,
    append_within: Duration,
}

impl Network {
    /// Links over `peers`. A follower has `append_within` to bring entries onto its disk; past
    /// that they are sent anew.
    pub(in super::super) fn new(peers: Arc<Peers>, append_within: Duration) -> Self {
        Self { peers, append_within }
    }

    fn link(&self, target: u64, voter: &Voter, lane: Lane) -> Link {
        Link {
            me: self.peers.me().voter_id,
            connection: self.peers.connection(target, voter, lane),
            // Heartbeats are cut by openraft; what has entries waits for a disk.
            append_within: self.append_within,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    /// For entries, and for votes: of these a link asks for one or the other.
    async fn new_client(&mut self, target: u64, voter: &Voter) -> Link {
        self.link(target, voter, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, voter: &Voter) -> Link {
        self.link(target, voter, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, voter: &Voter) -> Link {
        self.link(target, voter, Lane::Snapshot)
    }
}

/// The way to one member for one use.
pub(in super::super) struct Link {
    me: u64,
    connection: Arc<Connection>,
    append_within: Duration,
}

impl Link {
    fn failed(&self, action: RPCTypes, error: PeerError) -> RPCError<TypeConfig> {
        match error {
            // Waits before it tries again.
            error @ (PeerError::Unreachable { .. } | PeerError::Refused { .. }) => {
                Unreachable::from_string(error).into()
            }
            error @ PeerError::Lost { .. } => NetworkError::from_string(error).into(),
            PeerError::Timeout { within, .. } => RPCError::Timeout(Timeout {
                action,
                id: self.me,
                target: self.connection.target(),
                timeout: within,
            }),
        }
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        option: &RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let asked = v1::VoteRequest {
            header: Some(self.connection.header()),
            vote: Some(wire::vote_out(&request.vote)),
            last: request.last_log_id.as_ref().map(wire::log_id_out),
            leadership_transfer: request.leadership_transfer,
            pre_vote,
        };
        let call = self
            .connection
            .call(option.soft_ttl(), |mut client| async move { client.vote(asked).await });
        let response = call.await.map_err(|error| self.failed(RPCTypes::Vote, error))?;
        wire::vote_response_in(response).map_err(nonsense)
    }
}

fn nonsense(error: Malformed) -> RPCError<TypeConfig> {
    NetworkError::from_string(format!("an answer that makes no sense: {error}")).into()
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        // What is on the disk can be encoded: it came from there.
        let entries =
            wire::entries_out(&request.entries).map_err(|error| RPCError::from(Unreachable::from_string(error)))?;
        let message = v1::AppendEntriesRequest {
            header: Some(self.connection.header()),
            vote: Some(wire::vote_out(&request.vote)),
            previous: previous.as_ref().map(wire::log_id_out),
            entries,
            committed: request.leader_commit.as_ref().map(wire::log_id_out),
        };
        let within = option.soft_ttl().max(self.append_within);
        let call = self
            .connection
            .call(within, |mut client| async move { client.append_entries(message).await });
        let response = call
            .await
            .map_err(|error| self.failed(RPCTypes::AppendEntries, error))?;
        wire::append_in(response, previous, last).map_err(nonsense)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, &option, false).await
    }

    /// Without this, openraft takes a peer that can't be reached for one that agrees.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, &option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(last) = snapshot.meta.last_log_id else {
            // Logs begin at the beginning; there is nothing to make up for.
            return Err(Unreachable::from_string("a snapshot of nothing").into());
        };
        let begin = SnapshotBegin {
            header: Some(self.connection.header()),
            vote: Some(wire::vote_out(&vote)),
            last: Some(wire::log_id_out(&last)),
            size_bytes: snapshot.snapshot.len() as u64,
        };
        let taken = Arc::new(AtomicUsize::new(0));
        let total = 1 + snapshot.snapshot.len().div_ceil(SNAPSHOT_CHUNK_BYTES);
        let parts = parts(begin, snapshot.snapshot, Arc::clone(&taken));
        let call = self.connection.call(SNAPSHOT_WITHIN, |mut client| async move {
            client.install_snapshot(stream::iter(parts)).await
        });
        let response = tokio::select! {
            response = call => response.map_err(|error| self.failed(RPCTypes::InstallSnapshot, error))?,
            closed = cancel => return Err(closed.into()),
            () = stalled(&taken, total) => {
                return Err(NetworkError::from_string(format!("the snapshot makes no progress for {SNAPSHOT_IDLE:?}")).into());
            }
        };
        let vote = wire::vote_in(response.vote).map_err(nonsense)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = v1::TransferLeaderRequest {
            header: Some(self.connection.header()),
            vote: Some(wire::vote_out(request.from_leader())),
            successor: *request.to_node_id(),
            last: request.last_log_id().map(wire::log_id_out),
        };
        let call = self.connection.call(option.soft_ttl(), |mut client| async move {
            client.transfer_leader(message).await
        });
        let response = call
            .await
            .map_err(|error| self.failed(RPCTypes::TransferLeader, error))?;
        if response.accepted {
            return Ok(Ok(()));
        }
        Err(Unreachable::from_string("it does not go along").into())
    }

    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(BACKOFF_FIRST), |pause| Some((*pause * 2).min(BACKOFF_LONGEST)));
        Some(Backoff::new(pauses))
    }
}

/// The messages of a snapshot; `taken` counts those that were sent. They are slices of `bytes`.
fn parts(
    begin: SnapshotBegin,
    bytes: Bytes,
    taken: Arc<AtomicUsize>,
) -> impl Iterator<Item = InstallSnapshotRequest> + Send {
    let chunks = (0..bytes.len()).step_by(SNAPSHOT_CHUNK_BYTES).map(move |start| {
        let end = bytes.len().min(start + SNAPSHOT_CHUNK_BYTES);
        Part::Chunk(bytes.slice(start..end))
    });
    std::iter::once(Part::Begin(begin)).chain(chunks).map(move |part| {
        taken.fetch_add(1, Ordering::Relaxed);
        InstallSnapshotRequest { part: Some(part) }
    })
}

/// Returns once nothing was taken for too long, before all of `total` was. After that the receiver
/// needs time for its disk, which only [`SNAPSHOT_WITHIN`] ends.
async fn stalled(taken: &AtomicUsize, total: usize) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(SNAPSHOT_IDLE).await;
        let now = taken.load(Ordering::Relaxed);
        if now == total {
            return std::future::pending().await;
        }
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_cut_into_chunks_that_make_it_up() {
        for size in [
            0,
            1,
            SNAPSHOT_CHUNK_BYTES,
            SNAPSHOT_CHUNK_BYTES + 1,
            3 * SNAPSHOT_CHUNK_BYTES,
        ] {
            let bytes = Bytes::from((0..size).map(|at| at as u8).collect::<Vec<u8>>());
            let taken = Arc::new(AtomicUsize::new(0));
            let mut whole = Vec::new();
            for (at, request) in parts(SnapshotBegin::default(), bytes.clone(), Arc::clone(&taken)).enumerate() {
                match request.part.unwrap() {
                    Part::Begin(_) => assert_eq!(at, 0),
                    Part::Chunk(chunk) => {
                        assert!(at > 0 && !chunk.is_empty() && chunk.len() <= SNAPSHOT_CHUNK_BYTES);
                        whole.extend_from_slice(&chunk);
                    }
                }
            }
            assert_eq!(whole, bytes);
            assert_eq!(taken.load(Ordering::Relaxed), 1 + size.div_ceil(SNAPSHOT_CHUNK_BYTES));
        }
    }
}
