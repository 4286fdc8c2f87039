//! What a member knows of its quorum.

use std::time::Duration;

use openraft::{RaftMetrics, ServerState, type_config::async_runtime::watch::WatchReceiver};
use uuid::Uuid;

use super::{
    handle::Quorum,
    member_rules::{lags, last_heard},
    types::TypeConfig,
};

/// What a voter knows of its quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// Who leads now, as far as this voter knows: `None` too if there was no sign of it for long,
    /// or this voter leads in name and no majority answers.
    pub leader: Option<u64>,
    /// How long ago there was a sign of a leader: of one that leads others, or of a majority to
    /// this voter if it leads; `None`: never since it was opened.
    pub leader_heard: Option<Duration>,
    /// The newest term that this voter has heard of.
    pub term: u64,
    /// All voters, in order.
    pub voters: Vec<u64>,
    /// All members that have no vote, in order.
    pub learners: Vec<u64>,
    /// All members, in order of their ids.
    pub members: Vec<MemberStatus>,
    /// The last entry that is known here to be committed.
    pub committed_index: Option<u64>,
    /// The last entry that this voter has applied.
    pub applied_index: Option<u64>,
}

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderAddress {
    /// It is this member.
    Here,
    /// HOST:PORT for other brokers.
    At(String),
}

/// A member as another sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its number.
    pub voter_id: u64,
    /// The id of its log directory.
    pub directory_id: Uuid,
    /// HOST:PORT for other brokers: where it is looked for first.
    pub address: String,
    /// Whether it has a vote.
    pub is_voter: bool,
    /// How many entries its log lacks; only the leader knows.
    pub lag_entries: Option<u64>,
    /// How long ago it last answered; only the leader knows. Zero for the leader itself.
    pub last_heard: Option<Duration>,
}

impl Quorum {
    /// The term in which this member leads, as far as it knows; `None` if it does not.
    pub fn leads_in_term(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    /// How long ago a majority last confirmed that this member leads; `None` if it does not lead, or has yet to apply
    /// what was decided before it did: [`Quorum::cluster`] may then lack what binds it already.
    pub fn leads_since_confirmed(&self) -> Option<Duration> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.as_ref();
        let of_own_term = applied.is_some_and(|last| last.leader_id.term == metrics.current_term);
        if metrics.state != ServerState::Leader || !of_own_term {
            return None;
        }
        self.leadership(&metrics).heard
    }

    /// Whom to ask what only the leader can answer: who led last. It may be gone;
    /// [`Quorum::has_leader`] tells.
    pub fn leader_address(&self) -> Option<LeaderAddress> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        if id == metrics.id {
            return Some(LeaderAddress::Here);
        }
        let voter = metrics.membership_config.get_node(&id)?;
        Some(LeaderAddress::At(self.place_of(id, voter)))
    }

    /// What this voter knows of its quorum.
    pub fn status(&self) -> QuorumStatus {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let leadership = self.leadership(&metrics);
        QuorumStatus {
            leader: leadership.leader,
            leader_heard: leadership.heard,
            term: metrics.current_term,
            voters: metrics.membership_config.voter_ids().collect(),
            learners: metrics.membership_config.membership().learner_ids().collect(),
            members: self.members(&metrics),
            committed_index: metrics.local_committed.as_ref().map(|committed| committed.index),
            applied_index: metrics.last_applied.as_ref().map(|last| last.index),
        }
    }

    fn members(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberStatus> {
        let (lags, heard) = (lags(metrics), last_heard(metrics));
        let leads = metrics.current_leader == Some(metrics.id);
        let is_voter = |id: u64| metrics.membership_config.voter_ids().any(|voter| voter == id);
        let mut members: Vec<MemberStatus> = metrics
            .membership_config
            .nodes()
            .map(|(id, voter)| {
                let is_leader = leads && *id == metrics.id;
                MemberStatus {
                    voter_id: *id,
                    directory_id: voter.directory_id,
                    address: self.place_of(*id, voter),
                    is_voter: is_voter(*id),
                    lag_entries: if is_leader { Some(0) } else { lags.get(id).copied() },
                    last_heard: if is_leader {
                        Some(Duration::ZERO)
                    } else {
                        heard.get(id).copied()
                    },
                }
            })
            .collect();
        members.sort_unstable_by_key(|member| member.voter_id);
        members
    }
}
