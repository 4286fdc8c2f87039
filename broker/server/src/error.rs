//! The one error that calls answer with: a gRPC status with typed details, or the same
//! as a message inside a stream.

use std::{collections::BTreeMap, time::Duration};

use millrace_engine::{
    Rejection,
    config::ConfigError,
    names::{NameError, check_topic_name},
    partition::LeaderError,
};
use millrace_proto::v1::{self, ERROR_DOMAIN, ErrorReason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Why a call failed, and what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: BTreeMap<String, String>,
    retry_delay: Option<Duration>,
    /// Wrong fields and what is wrong with each.
    fields: Vec<(String, String)>,
}

/// Whether a failed write may still show up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Surely not.
    NotWritten,
    /// It may.
    Unknown,
}

impl ApiError {
    /// An error with the gRPC code and retry advice that belong to its reason.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let code = code_of(reason);
        let retry_delay = match code {
            _ if !reason.is_retriable() => None,
            // Here it does not get better; the partition's next leader is found by asking for metadata.
            _ if reason == ErrorReason::StorageFailed => None,
            Code::Unavailable => Some(Duration::from_millis(100)),
            Code::ResourceExhausted => Some(Duration::from_secs(1)),
            _ => None,
        };
        Self {
            code,
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_delay,
            fields: Vec::new(),
        }
    }

    /// A wrong field of the request.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        let mut error =
            Self::new(ErrorReason::InvalidRequest, format!("Field {field}: {problem}.")).with("field", &field);
        error.fields.push((field, problem));
        error
    }

    /// A fault of the broker itself; the details go to its log, not to the caller.
    pub fn internal(what: &str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        Self::new(
            ErrorReason::Internal,
            format!("The broker failed ({what}): its log has the details."),
        )
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says whether the write may still show up.
    #[must_use]
    pub fn outcome(self, outcome: WriteOutcome) -> Self {
        self.with(
            "outcome",
            match outcome {
                WriteOutcome::NotWritten => "not_written",
                WriteOutcome::Unknown => "unknown",
            },
        )
    }

    /// Says that the write may still show up, or that it surely will not, unless that was
    /// said before.
    #[must_use]
    pub fn or_outcome(self, outcome: WriteOutcome) -> Self {
        if self.metadata.contains_key("outcome") {
            self
        } else {
            self.outcome(outcome)
        }
    }

    /// Whether it is sure that nothing was written.
    #[must_use]
    pub fn is_not_written(&self) -> bool {
        self.metadata
            .get("outcome")
            .is_some_and(|outcome| outcome == "not_written")
    }

    /// Names the item of the request that failed, in the message.
    #[must_use]
    pub fn in_context(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// One sentence that says what happened and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The facts for programs.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Wrong fields of the request, and what is wrong with each.
    #[must_use]
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The same error with these.
    #[must_use]
    pub fn with_fields(mut self, fields: Vec<(String, String)>) -> Self {
        self.fields = fields;
        self
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.reason
    }

    /// The same as an item of a stream.
    #[must_use]
    pub fn to_message(&self) -> v1::Error {
        v1::Error {
            code: self.code as i32,
            reason: self.reason.into(),
            message: self.message.clone(),
            metadata: self.metadata.clone().into_iter().collect(),
            retry_delay: self.retry_delay.and_then(|delay| delay.try_into().ok()),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            error.reason.reason_name(),
            ERROR_DOMAIN,
            error.metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(delay) = error.retry_delay {
            details.set_retry_info(Some(delay));
        }
        for (field, problem) in error.fields {
            details.add_bad_request_violation(field, problem);
        }
        Self::with_error_details(error.code, error.message, details)
    }
}

impl millrace_member::Refusal for ApiError {
    fn reason(&self) -> Option<ErrorReason> {
        Some(self.reason)
    }

    fn is_retriable(&self) -> bool {
        self.reason.is_retriable()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_delay
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.reason_name(), self.message)
    }
}

fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::InvalidRequest
        | R::InvalidTopicName
        | R::InvalidConfig
        | R::CorruptBatch
        | R::MessageTooLarge
        | R::InvalidTimestamp
        | R::InvalidResumeToken
        | R::InvalidRecord
        | R::InvalidGroupId
        | R::InvalidTopicPattern => Code::InvalidArgument,
        R::UnknownTopic
        | R::UnknownPartition
        | R::UnknownBroker
        | R::UnknownVoter
        | R::UnknownGroup
        | R::UnknownMember => Code::NotFound,
        R::TopicExists => Code::AlreadyExists,
        R::OffsetMismatch
        | R::FencedLeaderEpoch
        | R::FencedProducer
        | R::OutOfOrderSequence
        | R::DuplicateSequence
        | R::StreamTakenOver
        | R::FencedMember
        | R::StaleMemberEpoch
        | R::FencedInstance
        | R::PartitionNotAssigned
        | R::OffsetBehindCommitted
        | R::SubscriberTooSlow
        | R::GroupChanged => Code::Aborted,
        R::OffsetOutOfRange | R::LogTruncated => Code::OutOfRange,
        R::NotLeader
        | R::LeaderNotAvailable
        | R::UnknownLeaderEpoch
        | R::OffsetNotAvailable
        | R::NotEnoughReplicas
        | R::NotEnoughReplicasAfterAppend
        | R::BrokerNotReady
        | R::StorageFailed
        | R::QuorumUnavailable
        | R::CoordinatorNotAvailable
        | R::NotCoordinator => Code::Unavailable,
        R::TimedOut => Code::DeadlineExceeded,
        R::DiskFull | R::Overloaded | R::LimitReached => Code::ResourceExhausted,
        R::NotEnoughBrokers
        | R::NotSupported
        | R::StillNeeded
        | R::MaintenanceTaken
        | R::NoReassignmentInProgress
        | R::ElectionNotNeeded
        | R::EligibleLeaderNotAvailable
        | R::BrokerState
        | R::PlacementBlocked
        | R::TopicOwned
        | R::GroupNotEmpty
        | R::InstanceInUse => Code::FailedPrecondition,
        R::DamagedLog | R::GroupUnreadable => Code::DataLoss,
        R::Internal | R::Unspecified => Code::Internal,
    }
}

/// A message that is longer than any may be.
pub fn oversized(length: usize, limit: usize) -> ApiError {
    ApiError::new(
        ErrorReason::MessageTooLarge,
        format!("The request has {length} bytes and may have {limit}: send less at once."),
    )
    .with("size_bytes", length)
    .with("limit_bytes", limit)
    .outcome(WriteOutcome::NotWritten)
}

/// The broker is about to stop and ends a stream.
pub fn broker_stopping() -> ApiError {
    ApiError::new(
        ErrorReason::BrokerNotReady,
        "The broker is stopping: go on at another one, or here once it is back.",
    )
}

/// "text" as a sentence: a capital in front, a full stop behind.
pub(crate) fn sentence(text: impl ToString) -> String {
    let text = text.to_string();
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return text };
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    // A setting's name is written as it is.
    let is_name = text
        .split_once(' ')
        .is_some_and(|(word, _)| word.contains(['.', '_']) && !word.ends_with('.'));
    if is_name {
        return format!("{text}{stop}");
    }
    format!("{}{}{stop}", first.to_uppercase(), characters.as_str())
}

impl From<LeaderError> for ApiError {
    fn from(error: LeaderError) -> Self {
        let message = sentence(error);
        match error {
            LeaderError::FencedLeaderEpoch { current, .. } => {
                Self::new(ErrorReason::FencedLeaderEpoch, message).with("leader_epoch", current)
            }
            LeaderError::UnknownLeaderEpoch { current, .. } => {
                Self::new(ErrorReason::UnknownLeaderEpoch, message).with("leader_epoch", current)
            }
            LeaderError::NotEnoughReplicas { .. } => {
                Self::new(ErrorReason::NotEnoughReplicas, message).outcome(WriteOutcome::NotWritten)
            }
            LeaderError::OffsetNotAvailable => Self::new(ErrorReason::OffsetNotAvailable, message),
            LeaderError::OffsetOutOfRange {
                log_start,
                high_watermark,
                ..
            } => out_of_range(message, log_start, high_watermark),
        }
    }
}

/// Whether a call to another broker was not even sent, for want of a connection.
pub fn is_connect_error(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// OFFSET_OUT_OF_RANGE with the bounds that hold.
pub fn out_of_range(message: String, log_start: i64, high_watermark: i64) -> ApiError {
    ApiError::new(ErrorReason::OffsetOutOfRange, message)
        .with("log_start", log_start)
        .with("high_watermark", high_watermark)
}

/// LOG_TRUNCATED, as the record before `offset` is not the one that was read: the logs part at `end_offset` at the latest.
pub fn log_truncated(offset: i64, end_offset: i64) -> ApiError {
    // The epoch that was asked for may be gone, and the one before it may end beyond the offset.
    let end_offset = end_offset.min(offset - 1).max(0);
    ApiError::new(
        ErrorReason::LogTruncated,
        format!(
            "The log was cut to offset {end_offset} since what is before offset {offset} was read: that is gone, at least in part. Say where to go on, as by setting the group's offset anew."
        ),
    )
    .with("offset", offset)
    .with("end_offset", end_offset)
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::new(ErrorReason::InvalidTopicName, sentence(error))
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let message = sentence(&error);
        Self::new(ErrorReason::InvalidConfig, message).with("key", error.key())
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let message = sentence(&rejection);
        match rejection {
            Rejection::UnknownTopic { name } => unknown_topic(&name),
            Rejection::OtherTopicId { .. } => Self::new(ErrorReason::UnknownTopic, message),
            Rejection::TopicExists { .. } => Self::new(ErrorReason::TopicExists, message),
            Rejection::TopicOwned { owner, .. } => Self::new(ErrorReason::TopicOwned, message).with("owner", owner),
            Rejection::TopicNotOwned { .. } => Self::new(ErrorReason::TopicOwned, message),
            Rejection::NotAnOwnersCommand { .. } => Self::new(ErrorReason::InvalidRequest, message),
            Rejection::InvalidOwner { field, reason } => Self::field(format!("owner.{field}"), reason),
            Rejection::InvalidTopicName { .. } => Self::new(ErrorReason::InvalidTopicName, message),
            Rejection::InvalidConfig { key, .. } => Self::new(ErrorReason::InvalidConfig, message).with("key", key),
            Rejection::InvalidPartitionCount { reason } | Rejection::InvalidAssignment { reason } => {
                Self::field("partitions", reason)
            }
            Rejection::TooManyPartitions { limit } => {
                Self::new(ErrorReason::LimitReached, message).with("limit", limit)
            }
            Rejection::PartitionsChanged { .. } => Self::new(ErrorReason::QuorumUnavailable, message),
            Rejection::UnknownBroker { .. } => Self::new(ErrorReason::UnknownBroker, message),
            Rejection::StaleBrokerEpoch { .. }
            | Rejection::OtherCluster { .. }
            | Rejection::DirectoryOfOtherBroker { .. }
            | Rejection::OtherDirectory { .. } => Self::new(ErrorReason::BrokerNotReady, message),
            Rejection::ProducerIdsExhausted => Self::new(ErrorReason::LimitReached, message),
            Rejection::TooManyChanges => Self::new(ErrorReason::InvalidRequest, message),
            Rejection::Registration(_) | Rejection::Unfence(_) => Self::new(ErrorReason::BrokerNotReady, message),
            Rejection::Move(refused) => refused.into(),
            Rejection::Broker(error) => error.into(),
            Rejection::Maintenance(error) => error.into(),
            Rejection::Voter(error) => error.into(),
        }
    }
}

/// UNKNOWN_TOPIC for a name that is not found, or INVALID_TOPIC_NAME if no topic can have it.
pub fn unknown_topic(name: &str) -> ApiError {
    if let Err(error) = check_topic_name(name) {
        return error.into();
    }
    let shown = name;
    ApiError::new(
        ErrorReason::UnknownTopic,
        format!("There is no topic {shown:?}: create it first, or check the spelling."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_reason_facts_fields_and_advice() {
        let status = Status::from(ApiError::field("topic", "must not be empty"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_REQUEST", ERROR_DOMAIN)
        );
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "topic");
        let busy = Status::from(ApiError::new(ErrorReason::Overloaded, "Slow down."));
        assert!(busy.get_error_details().retry_info().unwrap().retry_delay.is_some());
    }

    #[test]
    fn every_reason_has_a_code_that_is_neither_ok_nor_unknown() {
        for number in 1..=200 {
            let Ok(reason) = ErrorReason::try_from(number) else {
                continue;
            };
            assert!(!matches!(code_of(reason), Code::Ok | Code::Unknown), "{reason:?}");
        }
    }

    /// Clients that do not know a reason go by its code.
    #[test]
    fn what_codes_and_advice_say_of_coming_again_is_what_reasons_say() {
        let all = (0..=200).filter_map(|number| ErrorReason::try_from(number).ok());
        for reason in all {
            let by_code = matches!(code_of(reason), Code::Unavailable | Code::DeadlineExceeded);
            let advised = ApiError::new(reason, "Wait.").retry_delay.is_some();
            assert!(reason.is_retriable() || !(by_code || advised), "{reason:?}");
        }
        let advised = |reason| ApiError::new(reason, "Wait.").retry_delay.is_some();
        assert!(advised(ErrorReason::DiskFull) && advised(ErrorReason::NotLeader));
        assert!(!advised(ErrorReason::LimitReached) && !advised(ErrorReason::StorageFailed));
    }

    #[test]
    fn sentences_begin_with_a_capital_and_end() {
        assert_eq!(sentence("there is none"), "There is none.");
        assert_eq!(sentence("A?"), "A?");
        assert_eq!(sentence("retention.ms can't be 7d"), "retention.ms can't be 7d.");
        assert_eq!(sentence(""), "");
    }
}
