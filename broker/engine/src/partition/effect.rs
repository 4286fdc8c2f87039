//! What a replica wants done.

use super::{
    fetch::{FetchRequest, FetchVerdict},
    isr::Proposal,
};
use crate::cluster::{BrokerId, CommittedFloor};

/// Something to do. Effects of one step are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// This broker leads the partition from now on.
    BecameLeader {
        /// In this epoch.
        leader_epoch: i32,
        /// All below must be committed before the log's end may be told to anybody.
        epoch_start: i64,
    },
    /// Note in the log's epoch table that the epoch begins at the log's end, before anything is
    /// appended or answered (KAFKA-7415). From then on the log must refuse appends of lower
    /// epochs. With it an idle partition needs no record of the new epoch: its followers'
    /// fetches in this epoch bring the high watermark up to the epoch's start.
    AssignEpoch {
        /// The epoch.
        leader_epoch: i32,
        /// The log's end.
        start_offset: i64,
    },
    /// This broker follows from now on; the log must refuse appends by producers.
    BecameFollower {
        /// Whom; `None`: there is no leader.
        leader: Option<BrokerId>,
        /// In which epoch.
        leader_epoch: i32,
    },
    /// This broker does not serve the partition.
    GoOffline(OfflineReason),
    /// All below is committed: answer who waits for it, wake readers. Rises, except after
    /// `Alarm::CutBelowHighWatermark`.
    HighWatermark(i64),
    /// Answer all producers that wait for a high watermark.
    FailWaiters(WaiterFailure),
    /// Force the log to the disk without waiting for more.
    Flush,
    /// Ask the controller for another in-sync set. Sent again with the same id, it is the same.
    ProposeIsr(Proposal),
    /// Answer a follower.
    AnswerFetch {
        /// Whom.
        replica: BrokerId,
        /// Which request.
        sequence: u64,
        /// What to answer.
        verdict: FetchVerdict,
    },
    /// Ask the leader for records.
    Fetch {
        /// The leader.
        to: BrokerId,
        /// The request.
        request: FetchRequest,
    },
    /// Tell the leader what this disk holds, while a fetch waits at the leader.
    Acknowledge {
        /// The leader.
        to: BrokerId,
        /// The request.
        request: FetchRequest,
    },
    /// Append the batches of the answer that this step was given. Answered by
    /// `Event::Appended` or `Event::LogRefused`.
    Append {
        /// The log's end after them.
        next_offset: i64,
        /// No batch has a later epoch.
        leader_epoch: i32,
    },
    /// Cut the log, durably, and forget the epochs that begin at or after the cut, also if no
    /// record goes (KAFKA-10706). Answered by `Event::Truncated` or `Event::LogRefused`.
    Truncate {
        /// The first offset that goes; at most the log's end.
        to: i64,
    },
    /// Remove all records and begin at another offset. Answered like `Truncate`.
    TruncateFully {
        /// The log's new start and end.
        start: i64,
    },
    /// Delete what the leader has deleted. Answered by `Event::LogStartMoved`, at any time.
    AdvanceLogStart {
        /// The oldest offset to keep.
        to: i64,
    },
    /// Somebody should look at it.
    Alarm(Alarm),
}

/// Why a replica is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OfflineReason {
    /// No metadata of this process's life has told of it yet.
    AwaitingMetadata,
    /// The partition has no replica here (any more). No order to delete its data.
    NotAReplica,
    /// This broker has registered anew: this process must stop.
    Superseded,
    /// The log's directory failed.
    DirectoryFailed,
    /// A leader asked to cut what is known to be committed: this log is better than the
    /// leader's. Ends with the next leader epoch.
    CommittedAtRisk,
    /// Called to lead with a log that ends below what is known to be committed: an older image
    /// of the volume, or lost data. Ends with the next leader epoch.
    BelowFloor,
    /// Called to lead with damage in the log, although other replicas have the records. Ends with
    /// the next leader epoch.
    Damaged,
}

/// What to tell producers that wait. In each case the outcome is unknown: their records may
/// still be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaiterFailure {
    /// This broker does not lead any more.
    NotLeader,
    /// The partition went offline here.
    Offline,
}

/// Something that should not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A follower came back with less than it had acknowledged in this life: its disk lost data.
    /// It is not counted until it registers anew.
    ReplicaLostData {
        /// The follower.
        replica: BrokerId,
        /// What its disk had held.
        acknowledged: i64,
        /// What it asks for now.
        offset: i64,
    },
    /// A leader wanted committed records cut here.
    CutBelowFloor {
        /// Who.
        leader: BrokerId,
        /// Where the cut would have been.
        to: i64,
        /// What is known to be committed.
        floor: CommittedFloor,
    },
    /// Records that were readable are cut: an unclean election has dropped them.
    CutBelowHighWatermark {
        /// Where.
        to: i64,
        /// What had been readable.
        high_watermark: i64,
    },
    /// This replica was called to lead and lacks committed records.
    LogBelowFloor {
        /// Its end.
        log_end: i64,
        /// What is known to be committed.
        floor: CommittedFloor,
    },
    /// Records that this disk held are damaged or missing. Where a leader has them, all from there
    /// on is cut and fetched again (Alagappan et al., FAST'18).
    DamagedReplica {
        /// The first damaged offset.
        from: i64,
        /// The log's end.
        log_end: i64,
    },
    /// A leader's batches were damaged twice in a row: its copy is suspect.
    SuspectLeader {
        /// Who.
        leader: BrokerId,
        /// The offset that can't be fetched.
        offset: i64,
    },
    /// A leader's answer breaks the protocol.
    InvalidAnswer {
        /// Who.
        leader: BrokerId,
        /// How.
        problem: &'static str,
    },
    /// Metadata says what can't be true beside what is known of the same leader epoch.
    ContradictoryMetadata {
        /// The epoch.
        leader_epoch: i32,
    },
}
