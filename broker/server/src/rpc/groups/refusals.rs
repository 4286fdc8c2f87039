//! From the rules' refusals to the caller's errors.

use std::time::Duration;

use millrace_engine::group::{GroupRejection, OffsetRejection};
use millrace_proto::v1::ErrorReason;

use crate::error::{ApiError, WriteOutcome, sentence};

impl From<GroupRejection> for ApiError {
    fn from(rejection: GroupRejection) -> Self {
        use GroupRejection as R;
        let message = sentence(&rejection);
        let of = |reason| Self::new(reason, message.clone());
        match rejection {
            R::Loading => of(ErrorReason::CoordinatorNotAvailable).outcome(WriteOutcome::NotWritten),
            R::NotCoordinator { outcome_unknown } => of(ErrorReason::NotCoordinator).outcome(match outcome_unknown {
                true => WriteOutcome::Unknown,
                false => WriteOutcome::NotWritten,
            }),
            R::CoordinatorFailed { .. } | R::GroupUnreadable { .. } => of(ErrorReason::GroupUnreadable),
            R::NotStored => of(ErrorReason::CoordinatorNotAvailable).outcome(WriteOutcome::NotWritten),
            R::Overloaded => of(ErrorReason::Overloaded).outcome(WriteOutcome::NotWritten),
            R::InvalidGroupId { .. } => of(ErrorReason::InvalidGroupId).with("field", "group"),
            R::InvalidRequest { field, reason } => Self::field(public_field(field), reason),
            R::InvalidSessionTimeout { min_ms, max_ms } => Self::field(
                "settings.session_timeout",
                format!("must be from {min_ms} ms to {max_ms} ms"),
            ),
            R::GroupNotFound { .. } => of(ErrorReason::UnknownGroup),
            R::GroupNotEmpty { members, .. } => of(ErrorReason::GroupNotEmpty).with("members", members),
            R::GroupChanged { .. } => of(ErrorReason::GroupChanged),
            R::GroupMaxSizeReached { max, .. } | R::TooManyGroups { max } => {
                of(ErrorReason::LimitReached).with("limit", max)
            }
            R::CoordinatorFull { max_bytes } => of(ErrorReason::LimitReached).with("limit_bytes", max_bytes),
            R::UnknownMember { .. } | R::MemberLeft { .. } => of(ErrorReason::UnknownMember),
            R::FencedMemberEpoch { current, .. } => of(ErrorReason::FencedMember).with("member_epoch", current),
            R::StaleMemberEpoch { current, .. } => of(ErrorReason::StaleMemberEpoch).with("member_epoch", current),
            R::UnreleasedInstanceId { retry_after_ms, .. } => {
                of(ErrorReason::InstanceInUse).with("retry_after_ms", retry_after_ms)
            }
            R::TakenOver { .. } => of(ErrorReason::StreamTakenOver),
            R::FencedInstanceId { .. } => of(ErrorReason::FencedInstance),
            R::TooManyPartitions => Self::field("topics", message),
        }
    }
}

/// As the contract calls what the rules name.
fn public_field(field: &str) -> String {
    match field {
        "details" => "settings".to_owned(),
        "client_id" | "client_host" | "rack" | "topics" | "topic_pattern" | "rebalance_timeout"
        | "reconnect_timeout" => format!("settings.{field}"),
        other => other.to_owned(),
    }
}

impl From<OffsetRejection> for ApiError {
    fn from(rejection: OffsetRejection) -> Self {
        use OffsetRejection as R;
        let message = sentence(&rejection);
        let error = match rejection {
            R::UnknownPartition => Self::new(ErrorReason::UnknownPartition, message),
            R::NotAssigned | R::StaleAssignment { .. } => Self::new(ErrorReason::PartitionNotAssigned, message),
            R::OffsetBehind { committed } => {
                Self::new(ErrorReason::OffsetBehindCommitted, message).with("committed_offset", committed)
            }
            R::InvalidOffset { .. } => Self::field("offset", message),
            R::MetadataTooLarge { .. } => Self::field("metadata", message),
            R::CoordinatorFull => Self::new(ErrorReason::LimitReached, message),
            R::Owned { .. } => Self::new(ErrorReason::GroupNotEmpty, message),
        };
        error.outcome(WriteOutcome::NotWritten)
    }
}

/// There is no coordinator at the moment.
pub fn no_coordinator(problem: &str) -> ApiError {
    ApiError::new(
        ErrorReason::CoordinatorNotAvailable,
        format!("The group's coordinator is not available ({problem}): try again."),
    )
}

/// How long a default means where a message leaves a time out.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(5);
/// See [`SESSION_TIMEOUT`].
pub const RECONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// See [`SESSION_TIMEOUT`].
pub const REBALANCE_TIMEOUT: Duration = Duration::from_secs(45);
