//! The in-sync set: what the controller has committed, what the leader has proposed, and what it
//! proposes next (KIP-497, KIP-841, KIP-903, KIP-966).
//!
//! A proposal's content is fixed when it is made and sent again as it is (KAFKA-15353: one that
//! was rebuilt for a retry came out empty). At most one is under way. Until it is known what
//! became of it, both outcomes hold: its members count for the high watermark, and so do those
//! of the committed set.
//!
//! An answer that this copy was not applied is no proof that none will be: the network may have
//! repeated it, or a first try may be under way whose answer was lost, and the member that was
//! fenced is eligible again when that one arrives. Kafka rolls back here; random runs that repeat
//! and delay proposals then lose committed records. So its members stay counted until the
//! partition epoch has moved past it, which the leader asks for at once.
//!
//! ```text
//!           the set should differ               no answer: the same bytes again
//!   [none] -----------------------> [in flight] ---------------------------------+
//!      ^                             |    |  ^                                   |
//!      |   applied, or metadata of   |    |  +-----------------------------------+
//!      |   a later partition epoch   |    | other refusal: the same bytes again, later
//!      +-----------------------------+    +---> [in flight]
//!      |                             |
//!      |                             | this copy was not applied
//!      |   applied (supersedes)      v
//!      +------------------------ [doubtful]
//! ```

use std::time::Duration;

use super::{leader::Leader, log_state::LogPositions, progress::Progress, watermark::Clock};
use crate::cluster::{BrokerId, CommittedFloor, IsrChange, IsrMember, Partition, PartitionRef};

/// A leader asks the controller for another in-sync set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Which proposal the answer is for; rises within the life of the replica.
    pub id: u64,
    /// Who asks.
    pub leader: BrokerId,
    /// In which life.
    pub broker_epoch: i64,
    /// The epoch in which it leads.
    pub leader_epoch: i32,
    /// The version of the partition's record that it changes: of no effect on any other.
    pub partition_epoch: i32,
    /// The new set, each member with the life in which it was found in sync (KIP-903). The
    /// leader is one of them. With it, the partition is not recovering any more (KIP-704).
    pub isr: Vec<(BrokerId, i64)>,
    /// All below is committed.
    pub floor: CommittedFloor,
    /// The set is the committed one, and the partition epoch must rise nevertheless: so that a
    /// copy of an earlier proposal that is still under way comes to nothing.
    pub supersedes: bool,
    /// Replicas outside of the new set whose disks lost what they had acknowledged
    /// (`Alarm::ReplicaLostData`): they must not be eligible to lead either.
    pub lost: Vec<BrokerId>,
}

impl Proposal {
    /// The proposal as a change for the controller, with nothing left out.
    #[must_use]
    pub fn change(&self, partition: PartitionRef) -> IsrChange {
        let member = |&(broker_id, broker_epoch): &(BrokerId, i64)| IsrMember {
            broker_id,
            broker_epoch,
        };
        IsrChange {
            partition,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: self.isr.iter().map(member).collect(),
            recovering: false,
            high_watermark: self.floor.offset,
            lost: self.lost.clone(),
            supersedes: self.supersedes,
        }
    }
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalAnswer<'a> {
    /// The controller's record of the partition after it, or after an equal earlier one.
    Applied {
        /// The record.
        partition: &'a Partition,
        /// How many replicas must be in sync, as the controller counted when it applied it
        /// (`cluster::Altered`): the number and the set must be of one moment, or the watermark could move on a set from
        /// which the controller still counts an eligible leader outside.
        required: usize,
    },
    /// It was refused, or nothing is known.
    Failed(ProposalError),
}

/// Why a proposal was not applied, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProposalError {
    /// A member is fenced, shutting down or of another life (INELIGIBLE_REPLICA).
    IneligibleReplica,
    /// The controller did not look at it (OPERATION_NOT_ATTEMPTED).
    OperationNotAttempted,
    /// The leader epoch is old.
    FencedLeaderEpoch,
    /// The sender does not lead.
    NotLeader,
    /// The partition epoch is old (INVALID_UPDATE_VERSION): perhaps because it was applied before.
    InvalidUpdateVersion,
    /// The sender has registered anew since.
    StaleBrokerEpoch,
    /// The set breaks a rule.
    InvalidRequest,
    /// The controller does not know the partition.
    UnknownPartition,
    /// That was not the controller, or one that is behind (KAFKA-14154).
    NotController,
    /// No answer came: it may have been applied, or be applied later.
    Unknown,
}

/// What an error proves about the proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// This copy of it was not applied (KIP-841's code rolls back on these only).
    NotApplied,
    /// It won't be applied now, but may have been before: only metadata will tell.
    Refused,
    /// Nothing: send it again.
    Nothing,
}

impl ProposalError {
    /// What it proves.
    #[must_use]
    pub fn proof(self) -> Proof {
        match self {
            Self::IneligibleReplica | Self::OperationNotAttempted => Proof::NotApplied,
            Self::FencedLeaderEpoch
            | Self::NotLeader
            | Self::InvalidUpdateVersion
            | Self::StaleBrokerEpoch
            | Self::InvalidRequest
            | Self::UnknownPartition => Proof::Refused,
            Self::NotController | Self::Unknown => Proof::Nothing,
        }
    }
}

/// How a proposal's time-outs are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProposalTiming {
    pub timeout: Duration,
    pub backoff: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    proposal: Proposal,
    /// When the same bytes are sent again.
    resend_at: Duration,
}

/// The in-sync set of a partition that this broker leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InSync {
    /// As the controller last told it.
    pub committed: Vec<BrokerId>,
    /// Who may lead beside the committed set (KIP-966).
    eligible: Vec<BrokerId>,
    pub partition_epoch: i32,
    pub recovering: bool,
    pub floor: CommittedFloor,
    pending: Option<Pending>,
    /// Members of proposals that were not applied, of which another copy may be under way.
    doubtful: Vec<BrokerId>,
    /// No new proposal before.
    not_before: Duration,
}

impl InSync {
    pub(super) fn new(committed: Vec<BrokerId>) -> Self {
        Self {
            committed,
            eligible: Vec::new(),
            partition_epoch: -1,
            recovering: false,
            floor: CommittedFloor::default(),
            pending: None,
            doubtful: Vec::new(),
            not_before: Duration::ZERO,
        }
    }

    /// Takes over the controller's record. What was proposed against an earlier version of it is
    /// decided by now, one way or the other.
    pub(super) fn adopt(&mut self, partition: &Partition) {
        if partition.partition_epoch > self.partition_epoch {
            self.pending = None;
            self.doubtful.clear();
        }
        self.committed.clone_from(&partition.isr);
        self.eligible.clone_from(&partition.elr);
        self.partition_epoch = partition.partition_epoch;
        self.recovering = partition.recovering;
        // After an unclean election what was committed before is no bound any more.
        self.floor = if partition.recovering {
            CommittedFloor::default()
        } else {
            partition.floor
        };
    }

    pub(super) fn may_be_in_sync(&self, id: BrokerId) -> bool {
        self.committed.contains(&id)
            || self
                .pending
                .as_ref()
                .is_some_and(|pending| pending.proposal.isr.iter().any(|member| member.0 == id))
            || self.doubtful.contains(&id)
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When something is due here.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.pending {
            Some(pending) => Some(pending.resend_at),
            None => Some(self.not_before).filter(|at| *at > Duration::ZERO),
        }
    }
}

impl Leader {
    /// Whether a follower may join the in-sync set: its disk holds all that is committed and all
    /// that was in the log when this epoch began (KAFKA-7128: the high watermark of a new leader
    /// lags), told in this epoch and in the life that the metadata knows (KIP-903), and it is
    /// neither fenced nor shutting down (KIP-841, KAFKA-13916). And it does not lag: while the
    /// watermark stands, one with a hanging disk would join and leave for ever.
    pub(super) fn may_join(&self, follower: &Progress, clock: Clock, log: LogPositions) -> bool {
        follower.eligible
            && !follower.lost_data
            && follower
                .durable_end
                .is_some_and(|end| end >= self.high_watermark && end >= self.epoch_start)
            && follower.caught_up(clock.now, log.end, clock.lag_max)
    }

    /// Whether a member must leave: it lags for longer than is allowed, lost data, or is fenced
    /// or shutting down.
    fn must_leave(&self, follower: &Progress, clock: Clock, log: LogPositions) -> bool {
        !follower.eligible || follower.lost_data || !follower.caught_up(clock.now, log.end, clock.lag_max)
    }

    /// Makes a proposal if the set should be another one and none is under way.
    pub(super) fn propose(
        &mut self,
        clock: Clock,
        log: LogPositions,
        timing: ProposalTiming,
        next_id: &mut u64,
    ) -> Option<Proposal> {
        if self.isr.pending.is_some() || clock.now < self.isr.not_before {
            return None;
        }
        let mut isr = vec![(self.id, self.broker_epoch)];
        let mut changed = false;
        let mut lost = Vec::new();
        for follower in &self.followers {
            let was_in = self.isr.committed.contains(&follower.id);
            let is_in = if was_in {
                !self.must_leave(follower, clock, log)
            } else {
                self.may_join(follower, clock, log)
            };
            changed |= is_in != was_in;
            if is_in {
                isr.push((follower.id, follower.broker_epoch));
            } else if follower.lost_data {
                changed |= self.isr.eligible.contains(&follower.id);
                lost.push(follower.id);
            }
        }
        let supersedes = !changed && !self.isr.recovering && !self.isr.doubtful.is_empty();
        if !changed && !self.isr.recovering && !supersedes {
            self.isr.not_before = Duration::ZERO;
            return None;
        }
        let known = self.isr.floor;
        let floor = if self.high_watermark > known.offset {
            CommittedFloor {
                offset: self.high_watermark,
                leader_epoch: self.leader_epoch,
            }
        } else {
            known
        };
        *next_id += 1;
        let proposal = Proposal {
            id: *next_id,
            leader: self.id,
            broker_epoch: self.broker_epoch,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.isr.partition_epoch,
            isr,
            floor,
            supersedes,
            lost,
        };
        self.isr.pending = Some(Pending {
            proposal: proposal.clone(),
            resend_at: clock.now.saturating_add(timing.timeout),
        });
        Some(proposal)
    }

    /// The same proposal again, if it is due.
    pub(super) fn resend(&mut self, now: Duration, timing: ProposalTiming) -> Option<Proposal> {
        let pending = self.isr.pending.as_mut().filter(|pending| now >= pending.resend_at)?;
        pending.resend_at = now.saturating_add(timing.timeout);
        Some(pending.proposal.clone())
    }

    /// Notes a proposal's answer; whether it was one for the proposal under way. An answer
    /// `Applied` is for the caller to adopt.
    pub(super) fn proposal_failed(
        &mut self,
        now: Duration,
        id: u64,
        error: ProposalError,
        timing: ProposalTiming,
    ) -> bool {
        let Some(pending) = self.isr.pending.as_mut().filter(|pending| pending.proposal.id == id) else {
            return false;
        };
        match error.proof() {
            Proof::Nothing => pending.resend_at = now.saturating_add(timing.backoff),
            // Kept as it is until metadata arrives. Sent again in the end, lest a refusal by a
            // controller that was behind stays the last word; a copy is harmless.
            Proof::Refused => pending.resend_at = now.saturating_add(timing.timeout),
            Proof::NotApplied => {
                // This copy came to nothing; another one may still be under way, and be applied
                // when its members are eligible again.
                for (member, _) in &pending.proposal.isr {
                    if !self.isr.doubtful.contains(member) {
                        self.isr.doubtful.push(*member);
                    }
                }
                self.isr.pending = None;
                self.isr.not_before = now.saturating_add(timing.backoff);
            }
        }
        true
    }

    /// Whether the answer `Applied` can be true: the record is not older than what the leader
    /// knew when it asked (KAFKA-14154: a controller that had been deposed answered with its old
    /// record): each proposal that is applied raises the partition epoch.
    pub(super) fn believes(&self, id: u64, partition: &Partition) -> bool {
        let Some(pending) = self.isr.pending.as_ref().filter(|pending| pending.proposal.id == id) else {
            return false;
        };
        partition.leader == Some(self.id)
            && partition.leader_epoch == self.leader_epoch
            && partition.partition_epoch > pending.proposal.partition_epoch
    }
}
