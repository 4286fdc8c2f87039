//! Who belongs to the quorum, and how that changes while it serves: one member at a time, each
//! change one entry, committed before the next (Ongaro's thesis, section 4.2).
//!
//! Sets of voters that differ by one have majorities that meet, so no joint configuration is
//! needed and none can be left behind by a leader that dies half-way. openraft checks that the
//! leader has committed an entry of its own term first, without which two changes could be
//! decided apart (Ongaro, raft-dev, 2015).

use std::time::Duration;

use openraft::{
    EntryPayload, Precondition, RaftMetrics, ServerState,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    type_config::async_runtime::watch::WatchReceiver,
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{
    addresses::IDENTIFY_WITHIN,
    ask::{Ask, not_leader},
    error::QuorumError,
    handle::{Quorum, stopped, until},
    member_rules::{View, leave_joint, present},
    types::{Membership, StoredMembership, TypeConfig, Voter},
};

/// A member that was heard of within this time counts as there, whatever the election timeout.
const LATELY: Duration = Duration::from_secs(1);

/// A member to add, or a voter to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its number. Never given to another disk, not even after the member was removed.
    pub voter_id: u64,
    /// The id of its log directory.
    pub directory_id: Uuid,
    /// HOST:PORT for other brokers. The name is looked up each time a connection is made.
    pub address: String,
}

/// A change of the members.
#[derive(Clone, Debug)]
pub(super) enum MemberChange {
    /// Add a learner.
    Add(NewMember),
    /// Make a voter of a learner.
    Promote(u64),
    /// Make a learner of a voter.
    Demote(u64),
    /// Remove a voter or learner.
    Remove(u64),
}

impl Quorum {
    /// Adds a member that follows the log and has no vote. The broker must run: it is asked who
    /// it is, so that a wrong address is noticed before it is in the membership. Adding a member
    /// that is one already changes nothing; under another address it is looked for there. Asks the
    /// leader if this member does not lead.
    ///
    /// # Errors
    /// [`QuorumError::Member`] if the id was ever used by another member, or the broker can't be
    /// reached or is another; [`QuorumError::ChangeInProgress`]; as [`Quorum::submit`].
    pub async fn add_learner(
        &self,
        voter_id: u64,
        directory_id: Uuid,
        address: impl Into<String>,
    ) -> Result<(), QuorumError> {
        let member = NewMember {
            voter_id,
            directory_id,
            address: address.into(),
        };
        self.ask(Ask::Change(MemberChange::Add(member))).await.map(|_| ())
    }

    /// Makes a voter of a learner that has caught up. Asks the leader if this member does not
    /// lead. A voter already: nothing changes.
    ///
    /// # Errors
    /// [`QuorumError::NotCaughtUp`]: try again later. [`QuorumError::Member`] if there is no such
    /// member or there are too many voters; [`QuorumError::ChangeInProgress`]; as
    /// [`Quorum::submit`].
    pub async fn promote(&self, voter_id: u64) -> Result<(), QuorumError> {
        self.ask(Ask::Change(MemberChange::Promote(voter_id))).await.map(|_| ())
    }

    /// Takes a voter's vote away; it goes on following the log, and may get the vote again: its
    /// disk knows what it has promised. A leader that is meant hands over. Asks the leader if this
    /// member does not lead. No voter: nothing changes.
    ///
    /// # Errors
    /// As [`Quorum::remove_voter`].
    pub async fn demote(&self, voter_id: u64) -> Result<(), QuorumError> {
        self.ask(Ask::Change(MemberChange::Demote(voter_id))).await.map(|_| ())
    }

    /// Removes a member, voter or learner. A leader that is removed hands over. Asks the leader
    /// if this member does not lead. No member: nothing changes.
    ///
    /// # Errors
    /// [`QuorumError::QuorumAtRisk`]; [`QuorumError::Member`] if it is the only voter;
    /// [`QuorumError::ChangeInProgress`]; as [`Quorum::submit`].
    pub async fn remove_voter(&self, voter_id: u64) -> Result<(), QuorumError> {
        self.ask(Ask::Change(MemberChange::Remove(voter_id))).await.map(|_| ())
    }

    /// Changes the members as their leader. Returns the entry of the change, 0 for none.
    pub(super) async fn change_here(&self, change: &MemberChange, deadline: Instant) -> Result<u64, QuorumError> {
        if !self.raft().is_leader() {
            let leader = self.raft().current_leader().await;
            return Err(QuorumError::NotLeader { leader });
        }
        let _one_at_a_time = self.changing().try_lock().map_err(|_| QuorumError::ChangeInProgress)?;
        let mut metrics = self.settled(deadline).await?;
        if let Some(uniform) = leave_joint(&metrics, self.lately()) {
            self.append_membership(&metrics, uniform, deadline).await?;
            metrics = self.settled(deadline).await?;
        }
        if matches!(change, MemberChange::Demote(_) | MemberChange::Remove(_)) {
            self.hear_voters(deadline).await;
            metrics = self.settled(deadline).await?;
        }
        let used_ids = self.used_ids();
        let view = View::new(&metrics, self.lately());
        let next = match change {
            MemberChange::Add(member) => {
                if view.check_new(member, &used_ids)? {
                    self.told_of_address(member.directory_id, &member.address);
                    return Ok(0);
                }
                let voter = self.identify(member).await?;
                view.with_learner(member.voter_id, voter)?
            }
            MemberChange::Promote(id) => match view.with_voter(*id)? {
                Some(next) => next,
                None => return Ok(0),
            },
            MemberChange::Demote(id) => match view.without_vote(*id)? {
                // openraft lets a leader without a vote lead on, as long as it is a member. So
                // another takes over first and makes the change.
                Some(_) if *id == self.voter_id() => {
                    self.hand_over().await;
                    let leader = self.raft().current_leader().await;
                    return Err(QuorumError::NotLeader { leader });
                }
                Some(next) => next,
                None => return Ok(0),
            },
            MemberChange::Remove(id) => match view.without(*id)? {
                Some(next) => next,
                None => return Ok(0),
            },
        };
        self.append_membership(&metrics, next, deadline).await
    }

    /// Waits until all voters were heard of, for an election timeout at most. A leader that has
    /// just begun has heard of nobody, which says nothing of who is there.
    async fn hear_voters(&self, deadline: Instant) {
        let lately = self.lately();
        let are_all_there = |metrics: &RaftMetrics<TypeConfig>| {
            let present = present(metrics, lately);
            metrics.membership_config.voter_ids().all(|id| present.contains(&id))
        };
        let heard = until(self.raft().metrics(), |metrics| {
            metrics.running_state.is_err() || metrics.state != ServerState::Leader || are_all_there(metrics)
        });
        let wait = deadline.min(Instant::now() + self.election_timeout());
        if timeout_at(wait, heard).await.is_err() {
            tracing::debug!("some voters were not heard of");
        }
    }

    /// What the leader knows once it has committed an entry of its own term, and the membership.
    async fn settled(&self, deadline: Instant) -> Result<RaftMetrics<TypeConfig>, QuorumError> {
        let reached = until(self.raft().metrics(), |metrics| {
            metrics.running_state.is_err() || metrics.state != ServerState::Leader || is_settled(metrics)
        });
        let metrics = match timeout_at(deadline, reached).await {
            Ok(Some(metrics)) => metrics,
            Ok(None) => {
                return Err(QuorumError::Stopped {
                    reason: "its core has ended".into(),
                });
            }
            // The last change may be under way still.
            Err(_) => return Err(QuorumError::ChangeInProgress),
        };
        if let Err(error) = metrics.running_state {
            return Err(stopped(error));
        }
        if metrics.state != ServerState::Leader {
            let leader = metrics.current_leader;
            return Err(QuorumError::NotLeader { leader });
        }
        Ok(metrics)
    }

    /// Writes a membership that was derived from the one in `seen`, unless that has changed.
    pub(super) async fn append_membership(
        &self,
        seen: &RaftMetrics<TypeConfig>,
        next: Membership,
        deadline: Instant,
    ) -> Result<u64, QuorumError> {
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: *seen.membership_config.log_id(),
        };
        let same_leader = Precondition::CommittedLeaderId {
            committed_leader_id: seen.current_term.into(),
        };
        let write = self
            .raft()
            .append_membership(next, EntryPayload::Blank, [unchanged, same_leader]);
        match timeout_at(deadline, write).await {
            Ok(Ok(response)) => Ok(response.log_id.index),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(error)),
            Ok(Err(RaftError::APIError(error))) => Err(change_error(error)),
            Err(_) => Err(QuorumError::OutcomeUnknown {
                reason: format!(
                    "no majority confirmed the change of members within {:?}",
                    self.request_timeout()
                ),
            }),
        }
    }

    /// Asks a broker who it is.
    async fn identify(&self, member: &NewMember) -> Result<Voter, QuorumError> {
        let voter_id = member.voter_id;
        let refuse = |reason: String| QuorumError::Member { voter_id, reason };
        let mut voter = Voter {
            address: member.address.clone(),
            directory_id: member.directory_id,
            state_id: Uuid::nil(),
        };
        let peers = self
            .peers()
            .ok_or_else(|| refuse("this broker has no way to others".into()))?;
        let connection = peers.exactly(voter_id, &voter);
        let identified = connection.identify(IDENTIFY_WITHIN).await;
        voter.state_id = identified.map_err(|error| refuse(error.to_string()))?;
        Ok(voter)
    }

    /// Whether this was a member once and is none any more, by what is committed here. Not of one that this member
    /// still follows: a leader that is removed ends what it began.
    pub(super) fn has_removed(&self, id: u64) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let follows = metrics.vote.committed && metrics.vote.leader_id.voted_for == id;
        let is_member = |membership: &StoredMembership| membership.nodes().any(|(member, _)| *member == id);
        let sets = [&metrics.committed_membership_config, &metrics.membership_config];
        !follows && !sets.into_iter().any(|set| is_member(set)) && self.used_ids().contains(&id)
    }

    /// How old a sign of life may be for a member to count as there.
    fn lately(&self) -> Duration {
        (self.election_timeout() * 2).max(LATELY)
    }
}

/// Whether the membership is committed, and an entry of the leader's own term. It must be applied too: what is applied
/// tells which ids were used before.
pub(super) fn is_settled(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let own_term = metrics
        .local_committed
        .is_some_and(|committed| committed.leader_id.term == metrics.current_term);
    let last = metrics.membership_config.log_id();
    own_term && last == metrics.committed_membership_config.log_id() && metrics.last_applied >= *last
}

fn change_error(error: ClientWriteError<TypeConfig>) -> QuorumError {
    match error {
        ClientWriteError::ForwardToLeader(error) => not_leader(&error),
        ClientWriteError::PreconditionFailed(_)
        | ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        ) => QuorumError::ChangeInProgress,
        ClientWriteError::ChangeMembershipError(error) => QuorumError::Config(error.to_string()),
        error => QuorumError::OutcomeUnknown {
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::types::log_id, *};

    #[test]
    fn the_ids_that_were_used_are_known_before_another_is_given() {
        let mut metrics = RaftMetrics::<TypeConfig>::new_initial(1);
        let membership = |index| Arc::new(StoredMembership::new(Some(log_id(1, index)), Membership::default()));
        metrics.current_term = 2;
        metrics.membership_config = membership(5);
        metrics.committed_membership_config = membership(5);
        metrics.local_committed = Some(log_id(2, 7));
        for (applied, settled) in [(log_id(1, 4), false), (log_id(1, 5), true), (log_id(2, 6), true)] {
            metrics.last_applied = Some(applied);
            assert_eq!(is_settled(&metrics), settled, "{applied}");
        }
        metrics.membership_config = membership(6);
        assert!(!is_settled(&metrics), "the last change is not committed");
    }
}
