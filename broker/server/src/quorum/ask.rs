//! What only the leader can do, asked of any member: done here by a leader, handed on by others.

use std::{sync::Arc, time::Duration};

use millrace_engine::{Command, Outcome, Rejection};
use openraft::{
    RaftMetrics, ReadPolicy,
    errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError},
    type_config::async_runtime::watch::WatchReceiver,
};
use tokio::time::{Instant, timeout_at};

use super::{
    error::QuorumError,
    handle::{Quorum, stopped, until},
    members::MemberChange,
    network::{Connection, PeerError},
    record::{self, MAX_ENTRY_BYTES},
    types::{Proposal, TypeConfig, Voter},
};

/// What an entry may hold beside its command: batch header, record framing, term and index.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Room on the disk that a command leaves: for votes, and entries that are on their way already.
const MIN_ROOM_BYTES: u64 = 1 << 20;

/// Pauses before the next attempt where no leader was found: the first, and the longest. An
/// election takes some hundred milliseconds.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Apply a command; how large it is in the log, in bytes.
    Submit(Box<Command>, usize),
    /// Which entry a read must wait for.
    ReadIndex,
    /// Change the members.
    Change(MemberChange),
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The entry that it came with, or that is to be waited for.
    pub(super) index: u64,
    /// The command's own answer.
    pub(super) result: Option<Result<Outcome, Rejection>>,
}

impl Ask {
    /// To apply a command.
    ///
    /// # Errors
    /// [`QuorumError::TooLarge`].
    pub(super) fn submit(command: Command) -> Result<Self, QuorumError> {
        let size = record::command_bytes(&command).map_err(|error| QuorumError::Config(error.to_string()))?;
        let limit = MAX_ENTRY_BYTES - ENTRY_OVERHEAD_BYTES;
        if size > limit {
            return Err(QuorumError::TooLarge { size, limit });
        }
        Ok(Self::Submit(Box::new(command), size))
    }

    /// What an attempt means that did not come to an answer.
    fn failed(&self, error: PeerError, leader: u64) -> QuorumError {
        match (self, error) {
            // Nothing was done; whoever it is, it is not the leader that it was.
            (_, PeerError::Unreachable { .. } | PeerError::Refused { .. }) => {
                QuorumError::NotLeader { leader: Some(leader) }
            }
            // Asking twice does no harm.
            (Self::ReadIndex, _) => QuorumError::NotLeader { leader: Some(leader) },
            (_, error) => QuorumError::OutcomeUnknown {
                reason: error.to_string(),
            },
        }
    }
}

fn result_of(answer: Answer) -> Result<Result<Outcome, Rejection>, QuorumError> {
    answer.result.ok_or_else(|| QuorumError::Stopped {
        reason: format!("entry {} lost its command", answer.index),
    })
}

impl Quorum {
    /// Has a command ordered by the quorum and applied, by the leader if this member does not
    /// lead. The inner result is the command's own; [`Quorum::cluster`] shows its effect when
    /// this returns (on a member that is further behind than the request timeout: later).
    ///
    /// While there is no leader, as during an election, it is looked for until the request
    /// timeout has passed.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`], [`QuorumError::NoMajority`], [`QuorumError::Overloaded`],
    /// [`QuorumError::TooLarge`] and [`QuorumError::DiskFull`]: nothing was done.
    /// [`QuorumError::OutcomeUnknown`]: it may be applied later, or never; also when only the
    /// leader's answer was lost. [`QuorumError::Stopped`].
    pub async fn submit(&self, command: Command) -> Result<Result<Outcome, Rejection>, QuorumError> {
        result_of(self.ask(Ask::submit(command)?).await?)
    }

    /// Has a command applied as [`Quorum::submit`] does, but only while this member leads: what it has decided as the
    /// leader does not bind the next one.
    ///
    /// # Errors
    /// As of [`Quorum::submit`].
    pub async fn submit_as_leader(&self, command: Command) -> Result<Result<Outcome, Rejection>, QuorumError> {
        let answer = self.answer(Ask::submit(command)?).await?;
        result_of(answer)
    }

    /// Returns once [`Quorum::cluster`] shows everything that was acknowledged anywhere before
    /// this call (ReadIndex, Raft's thesis section 6.4): a majority confirms the leader anew. No
    /// clock is trusted.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`], [`QuorumError::NoMajority`], [`QuorumError::Timeout`],
    /// [`QuorumError::Stopped`].
    pub async fn read_index(&self) -> Result<(), QuorumError> {
        self.ask(Ask::ReadIndex).await.map(|_| ())
    }

    /// Asks whoever leads, this member included.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, QuorumError> {
        let _permit = self.permit()?;
        let deadline = Instant::now() + self.request_timeout();
        let mut pause = PAUSE_FIRST;
        loop {
            let leader = match self.here(&ask, deadline).await {
                Err(QuorumError::NotLeader { leader }) => leader,
                done => return done,
            };
            if let Some((leader, connection)) = self.way_to(leader) {
                match self.there(&ask, leader, &connection, deadline).await {
                    Err(QuorumError::NotLeader { .. }) => (),
                    done => return done,
                }
            }
            let next = Instant::now() + pause;
            if !self.is_networked() || !self.is_bootstrapped() || self.is_stopping() || next >= deadline {
                // Who was tried and is silent is not named as the one to ask.
                let leader = self.present_leader();
                return Err(QuorumError::NotLeader { leader });
            }
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    /// Answers another member, if this one leads.
    pub(super) async fn answer(&self, ask: Ask) -> Result<Answer, QuorumError> {
        let _permit = self.permit()?;
        self.here(&ask, Instant::now() + self.request_timeout()).await
    }

    /// The connection to `leader`, unless that is this member or none.
    fn way_to(&self, leader: Option<u64>) -> Option<(u64, Arc<Connection>)> {
        let leader = leader.filter(|leader| *leader != self.voter_id())?;
        let voter = self.member(leader)?;
        Some((leader, self.peers()?.to_leader(leader, &voter)))
    }

    fn member(&self, id: u64) -> Option<Voter> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&id).cloned()
    }

    /// Does it as the leader.
    async fn here(&self, ask: &Ask, deadline: Instant) -> Result<Answer, QuorumError> {
        match ask {
            Ask::Submit(command, size) => self.submit_here(command, *size, deadline).await,
            Ask::ReadIndex => {
                let index = self.read_index_here(deadline).await?;
                self.applied(index, deadline).await?;
                Ok(Answer { index, result: None })
            }
            Ask::Change(change) => {
                let index = self.change_here(change, deadline).await?;
                Ok(Answer { index, result: None })
            }
        }
    }

    async fn submit_here(&self, command: &Command, size: usize, deadline: Instant) -> Result<Answer, QuorumError> {
        // An entry that can't be written ends this voter; better not to begin.
        if let Ok(available_bytes) = self.log_dir().available_bytes()
            && available_bytes < MIN_ROOM_BYTES + size as u64
            && self.raft().is_leader()
        {
            return Err(QuorumError::DiskFull { available_bytes });
        }
        let write = self.raft().client_write(Proposal(command.clone()));
        match timeout_at(deadline, write).await {
            Ok(Ok(response)) => Ok(Answer {
                index: response.log_id.index,
                result: response.data.0,
            }),
            Ok(Err(error)) => Err(write_error(error)),
            Err(_) => {
                let reason = format!("no majority confirmed it within {:?}", self.request_timeout());
                Err(QuorumError::OutcomeUnknown { reason })
            }
        }
    }

    async fn read_index_here(&self, deadline: Instant) -> Result<u64, QuorumError> {
        let read = self.raft().get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout_at(deadline, read).await {
            Ok(Ok(read)) => Ok(read.read_log_id().index()),
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(error)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(error)))) => Err(not_leader(&error)),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(QuorumError::NoMajority),
            Err(_) => Err(self.timed_out("majority")),
        }
    }

    /// Returns once entry `index` is applied here.
    async fn applied(&self, index: u64, deadline: Instant) -> Result<(), QuorumError> {
        let has = |metrics: &RaftMetrics<TypeConfig>| metrics.last_applied.is_some_and(|last| last.index >= index);
        let reached = until(self.raft().metrics(), |metrics| {
            metrics.running_state.is_err() || has(metrics)
        });
        match timeout_at(deadline, reached).await {
            Ok(Some(metrics)) => metrics.running_state.map_err(stopped),
            Ok(None) => Err(QuorumError::Stopped {
                reason: "its core has ended".into(),
            }),
            Err(_) => Err(self.timed_out("metadata up to the leader's")),
        }
    }

    fn timed_out(&self, what: &'static str) -> QuorumError {
        QuorumError::Timeout {
            what,
            within: self.request_timeout(),
        }
    }

    /// Has `leader` do it.
    async fn there(
        &self,
        ask: &Ask,
        leader: u64,
        connection: &Arc<Connection>,
        deadline: Instant,
    ) -> Result<Answer, QuorumError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let asked = match ask {
            Ask::Submit(command, _) => connection.submit(command, within).await,
            Ask::ReadIndex => connection.read_index(within).await,
            Ask::Change(change) => connection.change_member(change, within).await,
        };
        let answer = asked.map_err(|error| ask.failed(error, leader))??;
        match (self.applied(answer.index, deadline).await, ask) {
            // It is done, seen here or not.
            (Ok(()), _) | (Err(_), Ask::Submit(..) | Ask::Change(_)) => Ok(answer),
            (Err(error), Ask::ReadIndex) => Err(error),
        }
    }
}

pub(super) fn not_leader(error: &ForwardToLeader<TypeConfig>) -> QuorumError {
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
