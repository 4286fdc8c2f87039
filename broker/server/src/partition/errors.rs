//! From the log's errors to the caller's.

use millrace_engine::{BrokerId, Cluster, partition::ReplicaError};
use millrace_log::{AppendError, ChangeError, Offline, ReadError};
use millrace_proto::v1::ErrorReason;

use super::{Gone, Partition};
use crate::error::{ApiError, WriteOutcome, out_of_range};

/// The batch is damaged or malformed.
pub fn corrupt(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(
        ErrorReason::CorruptBatch,
        format!("The record batch is refused ({error}): send a valid batch of message format 2."),
    )
}

/// The batch is too large.
pub fn too_large(size_bytes: usize, limit: u32) -> ApiError {
    ApiError::new(
        ErrorReason::MessageTooLarge,
        format!("The batch has {size_bytes} bytes and max.message.bytes is {limit}: send less at once, or raise it."),
    )
    .with("size_bytes", size_bytes)
    .with("limit_bytes", limit)
}

/// A record, the `at`-th of `what` from 0, has no key where records are compacted by it.
pub fn without_key(at: usize, what: &str) -> ApiError {
    ApiError::new(
        ErrorReason::InvalidRecord,
        format!(
            "{what} {at} (from 0) has no key, and the topic keeps the last record of each key (cleanup.policy has compact): send a key with each, or set cleanup.policy=delete."
        ),
    )
}

/// The topic has no partition of this number.
pub fn unknown_partition(topic: &str, number: i32, count: usize) -> ApiError {
    ApiError::new(
        ErrorReason::UnknownPartition,
        format!(
            "Topic {topic:?} has partitions 0 to {}; {number} is none of them.",
            count.saturating_sub(1)
        ),
    )
    .with("partitions", count)
}

/// The disk failed.
pub fn offline(offline: &Offline) -> ApiError {
    ApiError::new(
        ErrorReason::StorageFailed,
        format!(
            "The broker's disk failed ({}): replace it and restart the broker.",
            offline.reason
        ),
    )
}

/// The partition is not here any more.
pub fn removed(partition: &Partition) -> ApiError {
    let (topic, number) = (partition.topic(), partition.number());
    match partition.gone.get() {
        Some(Gone::Deleted) => ApiError::new(ErrorReason::UnknownTopic, format!("Topic {topic:?} was deleted.")),
        Some(Gone::MovedAway) => {
            let cluster = partition.replication.cluster();
            let (id, at) = partition.key();
            let known = cluster.topics.get(topic).filter(|known| known.id == id);
            let record = known.and_then(|known| known.partitions.get(at as usize));
            let own = partition.replication.replica_config().id;
            let leader = record.and_then(|record| record.leader).filter(|leader| *leader != own);
            let epoch = record.map_or(-1, |record| record.leader_epoch);
            not_leader(topic, number, leader, epoch, &cluster)
        }
        // The broker stops.
        None => closed(),
    }
}

fn closed() -> ApiError {
    ApiError::new(
        ErrorReason::NotLeader,
        "The partition is not served here any more: fetch metadata again.",
    )
}

/// Another broker leads, or none.
pub fn not_leader(
    topic: &str,
    number: i32,
    leader: Option<BrokerId>,
    leader_epoch: i32,
    cluster: &Cluster,
) -> ApiError {
    match leader {
        Some(leader) => {
            let address = cluster
                .brokers
                .get(&leader)
                .map_or("", |broker| broker.address.as_str());
            ApiError::new(
                ErrorReason::NotLeader,
                format!("Broker {leader} leads partition {number}: fetch metadata and ask there."),
            )
            .with("leader", address)
            .with("leader_id", leader)
            .with("leader_epoch", leader_epoch)
        }
        None => ApiError::new(
            ErrorReason::LeaderNotAvailable,
            format!(
                "Partition {number} of {topic:?} has no leader at the moment: try again. If that lasts, its replicas' brokers are down or could not open it; their logs say why."
            ),
        ),
    }
}

/// What producers hear that wait when their leader stops leading.
pub fn lead_lost(partition: &Partition, leader_epoch: i32) -> ApiError {
    ApiError::new(
        ErrorReason::NotLeader,
        format!(
            "This broker does not lead partition {} any more; the write may still be committed: fetch metadata, and repeat it with the same sequence.",
            partition.number()
        ),
    )
    .with("leader_epoch", leader_epoch)
    .outcome(WriteOutcome::Unknown)
}

/// Why a replica can't serve a client.
pub fn replica(partition: &Partition, error: ReplicaError) -> ApiError {
    match error {
        ReplicaError::Leader(error) => error.into(),
        ReplicaError::NotLeader { leader, leader_epoch } => {
            let cluster = partition.replication.cluster();
            not_leader(partition.topic(), partition.number(), leader, leader_epoch, &cluster)
        }
        ReplicaError::AskLeader { offset } => ApiError::new(
            ErrorReason::OffsetNotAvailable,
            format!("This follower does not have offset {offset} (yet): ask the leader and keep the position."),
        ),
    }
}

/// Why an append failed.
pub fn append(error: AppendError) -> ApiError {
    match error {
        AppendError::Corrupt(error) => corrupt(&error),
        AppendError::Invalid(reason) => corrupt(&reason),
        AppendError::TooLarge { size_bytes, max_bytes } => too_large(size_bytes, max_bytes),
        AppendError::InvalidTimestamp { timestamp, earliest, latest } => ApiError::new(
            ErrorReason::InvalidTimestamp,
            format!("A message's time ({timestamp} ms) is not between {earliest} and {latest}, which the topic's message.timestamp settings allow: check the sender's clock."),
        ),
        AppendError::DuplicateSequence { last_sequence, .. } => ApiError::new(
            ErrorReason::DuplicateSequence,
            "The batch was stored before, too long ago for its offset to be remembered: treat it as written.",
        )
        .with("last_sequence", last_sequence)
        .with("outcome", "written"),
        AppendError::OutOfOrderSequence { sequence, expected, .. } => ApiError::new(
            ErrorReason::OutOfOrderSequence,
            format!("The batch has sequence {sequence} and {expected} comes next: an earlier batch is missing; send that first."),
        )
        .with("expected_sequence", expected),
        AppendError::InvalidProducerEpoch { epoch, current, .. } => ApiError::new(
            ErrorReason::FencedProducer,
            format!("The producer's epoch {epoch} is not {current}: a newer instance has begun, this one must stop."),
        ),
        AppendError::OffsetMismatch { expected, log_end } => ApiError::new(
            ErrorReason::OffsetMismatch,
            format!("The log ends at {log_end}, not at {expected}: read what was appended, then decide again."),
        )
        .with("end_offset", log_end),
        AppendError::DiskFull(full) => ApiError::new(
            ErrorReason::DiskFull,
            format!(
                "The broker's disk is full ({} bytes are free, {} are kept in reserve): shorten retention, delete topics or enlarge the disk.",
                full.available_bytes, full.reserve_bytes
            ),
        )
        .with("available_bytes", full.available_bytes)
        .with("reserve_bytes", full.reserve_bytes),
        AppendError::Offline(failed) => offline(&failed).outcome(WriteOutcome::Unknown),
        AppendError::Closed | AppendError::InvalidLeaderEpoch { .. } => closed(),
        error @ AppendError::OutOfOrderOffset { .. } => ApiError::internal("appending", &error),
    }
}

/// Why a read failed.
pub fn read(partition: &Partition, error: ReadError) -> ApiError {
    match error {
        ReadError::OffsetOutOfRange { offset, log_start, .. } => out_of_range(
            format!("Offset {offset} is below {log_start}, the oldest that is kept."),
            log_start,
            partition.offsets().high_watermark,
        ),
        ReadError::Corrupt { from, to, reason } => damaged(partition, from, to, &reason),
        ReadError::Offline(failed) => offline(&failed),
        ReadError::Closed => removed(partition),
        ReadError::Io(error) => {
            tracing::error!(topic = partition.topic(), partition = partition.number(), %error, "a read failed");
            ApiError::new(
                ErrorReason::StorageFailed,
                "The broker's disk can't be read: its log has the details.",
            )
        }
    }
}

/// Stored records are damaged from `from` on, up to and not including `until` if that is known.
fn damaged(partition: &Partition, from: i64, until: Option<i64>, reason: &str) -> ApiError {
    let message = match until {
        Some(until) => format!(
            "Offsets {from} to {} are damaged on this broker ({reason}): read on at {until}, or restore the partition.",
            until - 1
        ),
        None => format!(
            "Offsets from {from} on are damaged on this broker ({reason}), and it is not known up to where: read on far behind them, or restore the partition."
        ),
    };
    let error = ApiError::new(ErrorReason::DamagedLog, message)
        .with("partition", partition.number())
        .with("offset", from);
    match until {
        Some(until) => error.with("damaged_until", until),
        None => error,
    }
}

/// Why a change of the log failed.
pub fn change(partition: &Partition, error: ChangeError) -> ApiError {
    match error {
        ChangeError::OffsetOutOfRange { offset, log_start, .. } => out_of_range(
            format!("Offset {offset} is outside of the log."),
            log_start,
            partition.offsets().high_watermark,
        ),
        ChangeError::Offline(failed) => offline(&failed),
        ChangeError::Closed => removed(partition),
        ChangeError::Refused(reason) => ApiError::internal("changing a log", &reason),
    }
}
