//! The other end: what members are asked by others.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millrace_proto::internal::v1::{
    self, ChangeMemberRequest, ChangeMemberResponse, Header, IdentifyRequest, IdentifyResponse, InstallSnapshotRequest,
    InstallSnapshotResponse, ReadIndexRequest, ReadIndexResponse, Refusal, SnapshotBegin, SubmitRequest,
    SubmitResponse, TransferLeaderResponse, change_member_request::Change, install_snapshot_request::Part,
    quorum_server, read_index_response, submit_response,
};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    super::{
        ask::{Answer, Ask},
        error::QuorumError,
        handle::{Quorum, WeakQuorum},
        members::{MemberChange, NewMember},
        snapshot::Snapshot,
        types::{LogId, RaftSnapshot, Vote},
    },
    failure::failure_out,
    header::refuse,
    limits::{
        MAX_ADDRESS_BYTES, MAX_MESSAGE_BYTES, MAX_REQUESTS, MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_CHUNK_BYTES,
        SNAPSHOT_IDLE, SNAPSHOT_WITHIN,
    },
    wire::{self, Malformed},
};

/// How many chunks of snapshots were received by all members of this process.
#[cfg(test)]
pub(in super::super) static CHUNKS_RECEIVED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// A member as other members see it. Clones are one.
#[derive(Clone)]
pub struct QuorumService {
    /// A server that lingers keeps nothing open.
    quorum: WeakQuorum,
    requests: Arc<Semaphore>,
    /// One snapshot at a time is held in memory.
    snapshots: Arc<Semaphore>,
}

impl QuorumService {
    /// The service of `quorum`, to be added to the internal listener's router.
    pub(in super::super) fn server(quorum: WeakQuorum) -> quorum_server::QuorumServer<Self> {
        let service = Self {
            quorum,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            snapshots: Arc::new(Semaphore::new(1)),
        };
        quorum_server::QuorumServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn quorum(&self) -> Result<Quorum, Status> {
        self.quorum.upgrade().ok_or_else(stopping)
    }

    /// Who sent a request that is meant for this member with this disk, and the member.
    fn check(&self, header: Option<Header>) -> Result<(u64, Quorum), Status> {
        let header = header.ok_or_else(|| invalid(Malformed("there is no header".into())))?;
        let quorum = self.quorum()?;
        let (state_id, founder) = quorum.own_state();
        quorum.identity().check(&header, state_id, founder)?;
        if quorum.is_stopping() {
            return Err(stopping());
        }
        Ok((header.from, quorum))
    }

    /// As [`Self::check`], for what leaders and candidates ask. Who was removed is neither any more.
    fn check_peer(&self, header: Option<Header>) -> Result<(u64, Quorum), Status> {
        let (from, quorum) = self.check(header)?;
        if quorum.has_removed(from) {
            let message = format!("Member {from} was removed from the metadata quorum.");
            return Err(refuse(Refusal::WrongMember, message));
        }
        Ok((from, quorum))
    }

    fn permit(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.requests
            .try_acquire()
            .map_err(|_| refuse(Refusal::Busy, "Too many requests of the quorum wait."))
    }

    /// The bytes of a snapshot, as announced.
    async fn receive(
        &self,
        begin: &SnapshotBegin,
        parts: &mut Streaming<InstallSnapshotRequest>,
        deadline: Instant,
    ) -> Result<Bytes, Status> {
        // Memory is taken as bytes come, not as they are announced.
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < begin.size_bytes {
            let chunk = match next_part(parts, deadline).await? {
                Some(Part::Chunk(chunk)) if !chunk.is_empty() && chunk.len() <= MAX_SNAPSHOT_CHUNK_BYTES => chunk,
                Some(_) => return Err(invalid(Malformed("no chunk of a size that is taken".into()))),
                None => return Err(invalid(Malformed("the snapshot is cut short".into()))),
            };
            if (bytes.len() + chunk.len()) as u64 > begin.size_bytes {
                return Err(invalid(Malformed("the snapshot is longer than announced".into())));
            }
            bytes.extend_from_slice(&chunk);
            #[cfg(test)]
            CHUNKS_RECEIVED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(bytes.freeze())
    }
}

/// Whether openraft may be given this snapshot: it panics on one that contradicts its log.
fn fits(quorum: &Quorum, last: LogId, vote: &Vote) -> Result<(), Status> {
    if last.leader_id.term > vote.leader_id.term {
        return Err(invalid(Malformed("the snapshot is newer than the leadership".into())));
    }
    match quorum.last_committed() {
        Some(committed) if last > committed && last.index <= committed.index => Err(invalid(Malformed(format!(
            "{last} contradicts {committed}, which is committed"
        )))),
        _ => Ok(()),
    }
}

fn stopping() -> Status {
    refuse(Refusal::Stopping, "This broker is shutting down.")
}

fn invalid(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// The next part of a snapshot; none at the end.
async fn next_part(parts: &mut Streaming<InstallSnapshotRequest>, deadline: Instant) -> Result<Option<Part>, Status> {
    let until = deadline.min(Instant::now() + SNAPSHOT_IDLE);
    let message = timeout_at(until, parts.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot makes no progress"))??;
    Ok(message.and_then(|message| message.part))
}

#[tonic::async_trait]
impl quorum_server::Quorum for QuorumService {
    async fn append_entries(
        &self,
        request: Request<v1::AppendEntriesRequest>,
    ) -> Result<Response<v1::AppendEntriesResponse>, Status> {
        let _permit = self.permit()?;
        let request = request.into_inner();
        let (from, quorum) = self.check_peer(request.header)?;
        let vote = wire::leadership_in(request.vote, from).map_err(invalid)?;
        let term = vote.leader_id.term;
        quorum.leader_heard().note(term, from);
        let id = |id: Option<v1::LogId>| match id.map(wire::log_id_in).transpose() {
            Ok(Some(id)) if id.leader_id.term > term => Err(Malformed(format!("{id} is newer than the leadership"))),
            other => other,
        };
        let prev_log_id = id(request.previous).map_err(invalid)?;
        let entries = wire::entries_in(&request.entries, prev_log_id, term).map_err(invalid)?;
        let append = AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit: id(request.committed).map_err(invalid)?,
        };
        let response = quorum.raft().append_entries(append).await.map_err(stopped)?;
        Ok(Response::new(wire::append_out(response)))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        let _permit = self.permit()?;
        let mut request = request.into_inner();
        let (from, quorum) = self.check_peer(request.header.take())?;
        let pre_vote = request.pre_vote;
        let asked = wire::vote_request_in(request, from).map_err(invalid)?;
        let raft = quorum.raft();
        let response = if pre_vote {
            raft.pre_vote(asked).await
        } else {
            raft.vote(asked).await
        };
        Ok(Response::new(wire::vote_response_out(&response.map_err(stopped)?)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        let deadline = Instant::now() + SNAPSHOT_WITHIN;
        let mut parts = request.into_inner();
        let Some(Part::Begin(mut begin)) = next_part(&mut parts, deadline).await? else {
            return Err(invalid(Malformed("a snapshot begins with its description".into())));
        };
        let (from, quorum) = self.check_peer(begin.header.take())?;
        let vote = wire::leadership_in(begin.vote, from).map_err(invalid)?;
        let last = begin.last.ok_or_else(|| Malformed("there is no last entry".into()));
        let last = last.and_then(wire::log_id_in).map_err(invalid)?;
        if begin.size_bytes > MAX_SNAPSHOT_BYTES {
            return Err(invalid(Malformed("the snapshot is larger than one may be".into())));
        }
        fits(&quorum, last, &vote)?;
        quorum.leader_heard().note(vote.leader_id.term, from);
        let _permit = self
            .snapshots
            .try_acquire()
            .map_err(|_| refuse(Refusal::Busy, "Another snapshot is being received."))?;
        let bytes = self.receive(&begin, &mut parts, deadline).await?;
        // Storage that fails ends this member, so what is damaged must not get there.
        let whole = bytes.clone();
        let decoded = tokio::task::spawn_blocking(move || Snapshot::decode(&whole).map(|snapshot| snapshot.meta()));
        let meta = decoded
            .await
            .map_err(stopped)?
            .map_err(|error| invalid(Malformed(error.to_string())))?;
        if meta.last_log_id != Some(last) {
            return Err(invalid(Malformed("the snapshot does not end where announced".into())));
        }
        // More may have been committed while it travelled.
        fits(&quorum, last, &vote)?;
        let snapshot = RaftSnapshot { meta, snapshot: bytes };
        let response = quorum.raft().install_full_snapshot(vote, snapshot).await;
        Ok(Response::new(InstallSnapshotResponse {
            vote: Some(wire::vote_out(&response.map_err(stopped)?.vote)),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let _permit = self.permit()?;
        let request = request.into_inner();
        let (from, quorum) = self.check(request.header)?;
        let vote = wire::leadership_in(request.vote, from).map_err(invalid)?;
        let last = request.last.map(wire::log_id_in).transpose().map_err(invalid)?;
        let transfer = TransferLeaderRequest::new(vote, request.successor, last);
        let accepted = quorum.raft().handle_transfer_leader(transfer).await;
        Ok(Response::new(TransferLeaderResponse {
            accepted: accepted.map_err(stopped)?.is_ok(),
        }))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let request = request.into_inner();
        let (_, quorum) = self.check(request.header)?;
        let answer = match Ask::submit_encoded(request.command) {
            Ok(ask) => quorum.answer(ask).await,
            Err(error) => Err(error),
        };
        let result = match answer {
            Ok(answer) => submit_response::Result::Applied(applied(answer)?),
            Err(error) => submit_response::Result::Failure(failure_out(&error)),
        };
        Ok(Response::new(SubmitResponse { result: Some(result) }))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        let (_, quorum) = self.check(request.into_inner().header)?;
        let result = match quorum.answer(Ask::ReadIndex).await {
            Ok(answer) => read_index_response::Result::Index(answer.index),
            Err(error) => read_index_response::Result::Failure(failure_out(&error)),
        };
        Ok(Response::new(ReadIndexResponse { result: Some(result) }))
    }

    async fn change_member(
        &self,
        request: Request<ChangeMemberRequest>,
    ) -> Result<Response<ChangeMemberResponse>, Status> {
        let request = request.into_inner();
        let (_, quorum) = self.check(request.header)?;
        let change = match request.change {
            Some(Change::AddLearner(added)) if added.address.len() <= MAX_ADDRESS_BYTES => {
                MemberChange::Add(NewMember {
                    voter_id: added.voter_id,
                    directory_id: wire::uuid_in(&added.directory_id).map_err(invalid)?,
                    address: added.address,
                })
            }
            Some(Change::Promote(id)) => MemberChange::Promote(id),
            Some(Change::Demote(id)) => MemberChange::Demote(id),
            Some(Change::Remove(id)) => MemberChange::Remove(id),
            Some(Change::AddLearner(_)) | None => {
                return Err(invalid(Malformed("no change that can be made".into())));
            }
        };
        Ok(Response::new(match quorum.answer(Ask::Change(change)).await {
            Ok(answer) => ChangeMemberResponse {
                failure: None,
                index: answer.index,
            },
            Err(error) => ChangeMemberResponse {
                failure: Some(failure_out(&error)),
                index: 0,
            },
        }))
    }

    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyResponse>, Status> {
        let header = request.into_inner().header;
        let header = header.ok_or_else(|| invalid(Malformed("there is no header".into())))?;
        let quorum = self.quorum()?;
        quorum.identity().check_name(&header)?;
        let (state_id, _) = quorum.own_state();
        Ok(Response::new(IdentifyResponse {
            state_id: wire::uuid_out(state_id),
            has_quorum: quorum.is_bootstrapped(),
        }))
    }
}

fn applied(answer: Answer) -> Result<submit_response::Applied, Status> {
    use submit_response::applied::Answer as Encoded;
    // The entry is applied: whoever asked must not take this for a refusal.
    let encoded = match &answer.result {
        Some(Ok(outcome)) => serde_json::to_vec(outcome).map(|json| Encoded::Outcome(json.into())),
        Some(Err(rejection)) => serde_json::to_vec(rejection).map(|json| Encoded::Rejection(json.into())),
        None => return Err(Status::internal("the entry lost its command")),
    };
    let encoded = encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(submit_response::Applied {
        index: answer.index,
        answer: Some(encoded),
    })
}

impl Ask {
    /// The command of a member that does not lead.
    fn submit_encoded(command: Bytes) -> Result<Self, QuorumError> {
        let parsed = serde_json::from_slice(&command);
        let command = parsed.map_err(|error| QuorumError::Config(format!("the command can't be read: {error}")))?;
        Ask::submit(command)
    }
}
