//! What can happen to a replica.

use super::{
    epochs::EpochEnd,
    fetch::{FetchRefusal, FetchRequest},
    isr::ProposalAnswer,
    metadata::PartitionView,
};
use crate::cluster::BrokerId;

/// Something happened. What an event says of the log must be the log's state at that moment: the
/// caller holds the partition's lock over the change and the step.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The metadata has a later version, or the topic's settings changed.
    MetadataChanged(&'a PartitionView),
    /// Records were written: a producer's at the leader, or those of `Effect::Append`.
    Appended {
        /// The log's end after them.
        log_end: i64,
    },
    /// The disk now holds the log up to here.
    Flushed {
        /// As the flush policy lets it count.
        durable_end: i64,
        /// `Replica::generation` as it was when the flush began: after a cut, what was flushed
        /// before says nothing of the records that took its place.
        generation: u64,
    },
    /// The oldest records were deleted.
    LogStartMoved {
        /// The oldest offset now.
        log_start: i64,
    },
    /// `Effect::Truncate` or `Effect::TruncateFully` is done, durably.
    Truncated {
        /// The oldest offset now.
        log_start: i64,
        /// The log's end now; lower than asked for if that was within a batch.
        log_end: i64,
    },
    /// The log did not do what the last effect asked for, and changed nothing.
    LogRefused {
        /// Whether the batches that the leader sent were damaged; else the log was not able to,
        /// for want of space perhaps.
        damaged: bool,
    },
    /// Stored records were found to be damaged from this offset on.
    DamageFound {
        /// The first one.
        from: i64,
    },
    /// The log's directory has failed: a write, a cut or a flush of it went wrong. Nothing that
    /// it says later is believed before the process starts anew.
    DirectoryFailed,
    /// A follower asks for records.
    ReplicaFetch(FetchRequest),
    /// A follower tells what its disk holds, without asking for records.
    ReplicaAcknowledged(FetchRequest),
    /// The controller answered a proposal, or the call failed.
    ProposalAnswered {
        /// Which.
        id: u64,
        /// What became of it.
        answer: ProposalAnswer<'a>,
    },
    /// The leader answered a fetch, or the call failed.
    FetchAnswered(FetchReply<'a>),
    /// Time has passed; due at `Replica::next_deadline`.
    Tick,
}

/// What came of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchReply<'a> {
    /// Who answered.
    pub from: BrokerId,
    /// The leader epoch of the request.
    pub leader_epoch: i32,
    /// The number of the request.
    pub sequence: u64,
    /// The answer.
    pub outcome: FetchOutcome<'a>,
}

/// A leader's answer as its follower sees it.
#[derive(Clone, Copy, Debug)]
pub enum FetchOutcome<'a> {
    /// Batches, perhaps none.
    Records {
        /// In the order in which they were sent.
        batches: &'a [FetchedBatch],
        /// The leader's high watermark.
        high_watermark: i64,
        /// The leader's log start.
        log_start: i64,
    },
    /// The logs differ.
    Diverged(EpochEnd),
    /// The leader refused.
    Refused(FetchRefusal),
    /// There was no answer.
    Failed,
}

/// The header of a fetched batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchedBatch {
    /// Offset of its first record.
    pub base_offset: i64,
    /// The offset after its last record.
    pub next_offset: i64,
    /// The leader epoch in which it was appended.
    pub leader_epoch: i32,
}
