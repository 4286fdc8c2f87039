//! Whether a follower still has what it has acknowledged.
//!
//! openraft does not look: that `allow_log_reversion` is off is a `debug_assert!`. In a release build a follower whose
//! disk went back to an older image is sent the same request again and again without a pause, and what it had
//! acknowledged counts on; the next leader then fills it up as one that is merely behind. So such a conflict is kept
//! from openraft: the follower is taken for one that can't be reached, gets nothing more from this leader, and an
//! error in the log says what to do.
//!
//! An acknowledgement says that entries are on the follower's disk. As answers may overtake each other, only what was
//! acknowledged before a request was sent must be there when it arrives.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use parking_lot::Mutex;

use super::{
    super::types::{LogId, TypeConfig, Vote, Voter},
    limits::LOSS_TOLD_EVERY,
};

/// What followers have acknowledged to this member as their leader.
#[derive(Debug, Default)]
pub(in super::super) struct Followers(Mutex<BTreeMap<u64, Acknowledged>>);

#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    /// To the leader of this term.
    term: u64,
    /// The highest entry.
    last: Option<LogId>,
    /// When it was last told that entries are missing.
    told: Option<Instant>,
}

impl Followers {
    /// The highest entry that `target` has acknowledged to the leader of `term`.
    fn acknowledged(&self, target: u64, term: u64) -> Option<LogId> {
        let followers = self.0.lock();
        let known = followers.get(&target).filter(|known| known.term == term);
        known.and_then(|known| known.last)
    }

    /// Notes that `target` has acknowledged the entries up to `last` to the leader of `term`.
    fn note(&self, target: u64, term: u64, last: Option<LogId>) {
        let mut followers = self.0.lock();
        let known = followers.entry(target).or_default();
        if known.term < term {
            *known = Acknowledged {
                term,
                ..Acknowledged::default()
            };
        }
        if known.term == term {
            known.last = known.last.max(last);
        }
    }

    /// Whether it is to be told, or told again, that `target` lacks entries.
    fn is_due(&self, target: u64, every: Duration) -> bool {
        let mut followers = self.0.lock();
        let told = &mut followers.entry(target).or_default().told;
        let is_due = told.is_none_or(|told| told.elapsed() >= every);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }

    /// Who lacks what it had acknowledged to this member in the last term that it led.
    #[cfg(test)]
    pub(in super::super) fn lacking(&self) -> Vec<u64> {
        let followers = self.0.lock();
        let lacking = followers.iter().filter(|(_, known)| known.told.is_some());
        lacking.map(|(id, _)| *id).collect()
    }
}

/// A network that notices it when a follower has lost what it had acknowledged.
pub(in super::super) struct Checked<N> {
    inner: N,
    followers: Arc<Followers>,
}

impl<N> Checked<N> {
    /// Nothing is acknowledged yet.
    pub(in super::super) fn new(inner: N) -> Self {
        Self {
            inner,
            followers: Arc::default(),
        }
    }

    /// What is noted.
    #[cfg(test)]
    pub(in super::super) fn followers(&self) -> Arc<Followers> {
        Arc::clone(&self.followers)
    }

    fn link<L>(&self, target: u64, inner: L) -> CheckedLink<L> {
        CheckedLink {
            target,
            inner,
            followers: Arc::clone(&self.followers),
        }
    }
}

impl<N> RaftNetworkFactory<TypeConfig> for Checked<N>
where
    N: RaftNetworkFactory<TypeConfig>,
    N::Network: RaftNetworkV2<TypeConfig>,
{
    type Network = CheckedLink<N::Network>;

    async fn new_client(&mut self, target: u64, voter: &Voter) -> Self::Network {
        let inner = self.inner.new_client(target, voter).await;
        self.link(target, inner)
    }

    async fn new_heartbeat_client(&mut self, target: u64, voter: &Voter) -> Self::Network {
        let inner = self.inner.new_heartbeat_client(target, voter).await;
        self.link(target, inner)
    }

    async fn new_snapshot_client(&mut self, target: u64, voter: &Voter) -> Self::Network {
        let inner = self.inner.new_snapshot_client(target, voter).await;
        self.link(target, inner)
    }
}

/// The way to one member.
pub(in super::super) struct CheckedLink<L> {
    target: u64,
    inner: L,
    followers: Arc<Followers>,
}

impl<L> CheckedLink<L> {
    /// The follower has not got `missing` any more.
    fn lost(&self, acknowledged: LogId, missing: LogId) -> RPCError<TypeConfig> {
        let member = self.target;
        if self.followers.is_due(member, LOSS_TOLD_EVERY) {
            tracing::error!(
                member, %acknowledged, %missing,
                "a member of the metadata quorum has lost entries that it had acknowledged: its disk is an older image \
                 of itself. It gets nothing more from this leader. Stop its broker and mount the newest disk; if that \
                 is lost, take the vote away (`millrace quorum remove`) and permit an empty disk (`millrace broker \
                 replace-disk`)"
            );
        }
        Unreachable::from_string(format!(
            "member {member} had acknowledged entries up to {acknowledged} and lacks {missing}"
        ))
        .into()
    }
}

impl<L: RaftNetworkV2<TypeConfig>> RaftNetworkV2<TypeConfig> for CheckedLink<L> {
    type SnapshotData = L::SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let term = request.vote.leader_id.term;
        let before = self.followers.acknowledged(self.target, term);
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let response = self.inner.append_entries(request, option).await?;
        match &response {
            AppendEntriesResponse::Success => self.followers.note(self.target, term, last),
            AppendEntriesResponse::PartialSuccess(stored) => self.followers.note(self.target, term, *stored),
            AppendEntriesResponse::Conflict => {
                if let (Some(acknowledged), Some(missing)) = (before, previous)
                    && missing <= acknowledged
                {
                    return Err(self.lost(acknowledged, missing));
                }
            }
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(response)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.inner.vote(request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.inner.pre_vote(request, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let last = snapshot.meta.last_log_id;
        let response = self.inner.full_snapshot(vote, snapshot, cancel, option).await?;
        if response.vote == vote {
            self.followers.note(self.target, vote.leader_id.term, last);
        }
        Ok(response)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.inner.transfer_leader(request, option).await
    }

    fn backoff(&self) -> Option<Backoff> {
        self.inner.backoff()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::types::log_id, *};

    #[test]
    fn what_counts_is_what_was_acknowledged_in_this_term() {
        let followers = Followers::default();
        assert_eq!(followers.acknowledged(2, 3), None);
        followers.note(2, 3, None);
        followers.note(2, 3, Some(log_id(3, 7)));
        // A late answer.
        followers.note(2, 3, Some(log_id(2, 5)));
        assert_eq!(followers.acknowledged(2, 3), Some(log_id(3, 7)));
        assert_eq!(followers.acknowledged(3, 3), None, "another member");
        followers.note(2, 4, Some(log_id(2, 5)));
        assert_eq!(
            followers.acknowledged(2, 4),
            Some(log_id(2, 5)),
            "what it has may have been cut since"
        );
        followers.note(2, 3, Some(log_id(3, 9)));
        assert_eq!(
            followers.acknowledged(2, 4),
            Some(log_id(2, 5)),
            "an answer to the term before"
        );
        assert_eq!(followers.acknowledged(2, 3), None);
    }

    #[test]
    fn a_loss_is_told_once_in_a_while_and_in_each_term() {
        let followers = Followers::default();
        followers.note(2, 3, Some(log_id(3, 7)));
        assert!(followers.lacking().is_empty());
        assert!(followers.is_due(2, LOSS_TOLD_EVERY));
        assert!(!followers.is_due(2, LOSS_TOLD_EVERY));
        assert!(followers.is_due(2, Duration::ZERO));
        assert_eq!(followers.lacking(), [2]);
        followers.note(2, 4, Some(log_id(3, 7)));
        assert!(followers.lacking().is_empty(), "the next leader begins anew");
    }
}
