//! The one error of this client.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use millrace_proto::v1::{self, ERROR_DOMAIN, ErrorReason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What calls of this crate answer with.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a failed write may still show up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteOutcome {
    /// Surely not: repeating it can't double it.
    NotWritten,
    /// It may: repeating it may store it twice.
    Unknown,
}

/// What kind of failure it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A broker's answer; the reason is the contract's.
    Server(ErrorReason),
    /// A gRPC status that has no reason of the contract, by its code: another server, a proxy.
    Status(Code),
    /// No broker could be reached, or the connection broke.
    Connection,
    /// Not done within its time.
    TimedOut,
    /// The producer or consumer was closed.
    Closed,
    /// A wrong argument or setting of this client.
    InvalidArgument,
    /// The record is larger than any batch can be.
    RecordTooLarge,
    /// `try_send`: the producer's buffer is full.
    BufferFull,
    /// The log was cut below the consumer's position, for example by an unclean leader election:
    /// records it has seen are gone (KIP-320). Seek to go on.
    Truncated {
        /// The topic.
        topic: Arc<str>,
        /// The partition's number.
        partition: i32,
        /// The consumer's position.
        position: i64,
        /// Where the logs begin to differ: everything from here on was replaced.
        end_offset: i64,
    },
    /// The consumer's position is not in the log. Seek to go on.
    OffsetOutOfRange {
        /// The topic.
        topic: Arc<str>,
        /// The partition's number.
        partition: i32,
        /// The consumer's position.
        position: i64,
        /// The oldest offset that is kept, if the broker said it.
        log_start: Option<i64>,
        /// Records below this are readable, if the broker said it.
        high_watermark: Option<i64>,
    },
    /// Records that came are damaged (length, checksum, compression). Seek behind them to go on.
    CorruptRecords {
        /// The topic.
        topic: Arc<str>,
        /// The partition's number.
        partition: i32,
        /// The first offset that can't be read.
        offset: i64,
    },
}

/// Why a call failed and what to do. Cheap to clone: all records of a batch share one.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    outcome: Option<WriteOutcome>,
    retriable: bool,
    retry_after: Option<Duration>,
    metadata: BTreeMap<String, String>,
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// The broker's reason, if a broker gave one.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        match self.inner.kind {
            ErrorKind::Server(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anything else being changed. A write with
    /// an unknown [outcome](Self::outcome) may be doubled by that.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.inner.retriable
    }

    /// For a failed write: whether it may still show up. `None` for calls that write nothing.
    #[must_use]
    pub fn outcome(&self) -> Option<WriteOutcome> {
        self.inner.outcome
    }

    /// How long to wait before trying again, if the broker said it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// A fact for programs, by the keys that [`ErrorReason`]'s comments name (`"end_offset"`,
    /// `"limit_bytes"`).
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.inner.metadata.get(key).map(String::as_str)
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let retriable = matches!(
            kind,
            ErrorKind::Connection | ErrorKind::TimedOut | ErrorKind::BufferFull
        );
        Self {
            inner: Arc::new(Inner {
                kind,
                message: message.into(),
                outcome: None,
                retriable,
                retry_after: None,
                metadata: BTreeMap::new(),
            }),
        }
    }

    pub(crate) fn server(reason: ErrorReason, message: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Server(reason), message);
        Arc::make_mut(&mut error.inner).retriable = reason.is_retriable();
        error
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("The {what} is closed: build another one."))
    }

    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::server(
            ErrorReason::UnknownTopic,
            format!("There is no topic {topic:?}: create it first, or check the spelling."),
        )
    }

    pub(crate) fn unknown_partition(topic: &str, partition: i32, partitions: usize) -> Self {
        let choice = match partitions {
            0 => "it has none".to_owned(),
            1 => "its only one is 0".to_owned(),
            some => format!("choose one from 0 to {}", some - 1),
        };
        Self::server(
            ErrorReason::UnknownPartition,
            format!("Topic {topic:?} has no partition {partition}: {choice}."),
        )
    }

    /// A call was not answered in its time; `last`: what an attempt before it failed with.
    pub(crate) fn no_answer(last: Option<&Self>) -> Self {
        let last = last.map_or_else(String::new, |error| format!(" (last: {error})"));
        Self::new(
            ErrorKind::TimedOut,
            format!(
                "The broker did not answer in time{last}: check that a majority of the voters runs, then try again."
            ),
        )
    }

    /// Whether a gRPC server answered that does not know the call: a broker's port for other brokers, another
    /// product.
    pub(crate) fn is_of_another_server(&self) -> bool {
        self.inner.kind == ErrorKind::Status(Code::Unimplemented)
    }

    #[must_use]
    pub(crate) fn with_outcome(mut self, outcome: WriteOutcome) -> Self {
        Arc::make_mut(&mut self.inner).outcome = Some(outcome);
        self
    }

    /// Says where it happened, in front of the message.
    #[must_use]
    pub(crate) fn context(mut self, context: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        inner.message = format!("{context}: {}", inner.message);
        self
    }

    pub(crate) fn connection(address: &str, cause: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::Connection,
            format!("Broker {address} can't be reached ({cause}): check that it runs and that the address is right."),
        )
    }

    pub(crate) fn from_item(error: v1::Error) -> Self {
        let reason = ErrorReason::try_from(error.reason).unwrap_or(ErrorReason::Unspecified);
        let code = Code::from_i32(error.code);
        Self::from_parts(
            code,
            reason,
            error.message,
            error.metadata.into_iter().collect(),
            error.retry_delay.and_then(|delay| delay.try_into().ok()),
        )
    }

    fn from_parts(
        code: Code,
        reason: ErrorReason,
        message: String,
        metadata: BTreeMap<String, String>,
        retry_after: Option<Duration>,
    ) -> Self {
        let outcome = match metadata.get("outcome").map(String::as_str) {
            Some("not_written") => Some(WriteOutcome::NotWritten),
            // What is not understood is not known.
            Some(_) => Some(WriteOutcome::Unknown),
            None => None,
        };
        let (kind, retriable) = if reason == ErrorReason::Unspecified {
            // A reason of a newer broker: its code says what to do.
            (
                ErrorKind::Status(code),
                matches!(code, Code::Unavailable | Code::DeadlineExceeded),
            )
        } else {
            (ErrorKind::Server(reason), reason.is_retriable())
        };
        Self {
            inner: Arc::new(Inner {
                kind,
                message,
                outcome,
                retriable,
                retry_after,
                metadata,
            }),
        }
    }
}

impl millrace_member::Refusal for Error {
    fn reason(&self) -> Option<ErrorReason> {
        Self::reason(self)
    }

    fn is_retriable(&self) -> bool {
        Self::is_retriable(self)
    }

    fn retry_after(&self) -> Option<Duration> {
        Self::retry_after(self)
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        Self::metadata(self, key)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        if let Some(info) = details.error_info()
            && info.domain == ERROR_DOMAIN
        {
            let reason = ErrorReason::from_reason_name(&info.reason).unwrap_or(ErrorReason::Unspecified);
            let metadata = info.metadata.clone().into_iter().collect();
            let retry_after = details.retry_info().and_then(|info| info.retry_delay);
            return Self::from_parts(
                status.code(),
                reason,
                status.message().to_owned(),
                metadata,
                retry_after,
            );
        }
        match status.code() {
            // What tonic and h2 say when the connection breaks; `Unknown` is tonic's word for most
            // transport errors, and no broker of this contract says it.
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal => Self::new(
                ErrorKind::Connection,
                format!(
                    "The connection to the broker broke ({}): it is retried where that is safe.",
                    message_of(&status)
                ),
            ),
            Code::DeadlineExceeded => Self::no_answer(None),
            code => Self::new(
                ErrorKind::Status(code),
                format!(
                    "The server answered {code:?} ({}): check that the address is a Millrace broker's client port (default 9650; 9651 is for brokers among themselves).",
                    status.message()
                ),
            ),
        }
    }
}

/// The status's own words and the innermost cause, which names what the system said.
fn message_of(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let innermost = cause.to_string();
    if innermost.contains(status.message()) || status.message().is_empty() {
        innermost
    } else if cause.source().is_none() && std::ptr::addr_eq(cause, status) {
        status.message().to_owned()
    } else {
        format!("{}: {innermost}", status.message())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("outcome", &self.inner.outcome)
            .field("metadata", &self.inner.metadata)
            .finish()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_with_details_becomes_a_reason_with_facts_and_advice() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "OFFSET_MISMATCH",
            ERROR_DOMAIN,
            [
                ("end_offset".to_owned(), "7".to_owned()),
                ("outcome".to_owned(), "not_written".to_owned()),
            ],
        );
        details.set_retry_info(Some(Duration::from_millis(100)));
        let error = Error::from(Status::with_error_details(Code::Aborted, "Read again.", details));
        assert_eq!(error.reason(), Some(ErrorReason::OffsetMismatch));
        assert_eq!(error.outcome(), Some(WriteOutcome::NotWritten));
        assert_eq!(error.metadata("end_offset"), Some("7"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(100)));
        assert!(!error.is_retriable());
        assert_eq!(error.to_string(), "Read again.");
    }

    #[test]
    fn an_item_error_is_the_same() {
        let error = Error::from_item(v1::Error {
            code: Code::Unavailable as i32,
            reason: ErrorReason::NotEnoughReplicasAfterAppend.into(),
            message: "Wait.".into(),
            metadata: [("outcome".to_owned(), "unknown".to_owned())].into_iter().collect(),
            retry_delay: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        });
        assert_eq!(
            error.kind(),
            &ErrorKind::Server(ErrorReason::NotEnoughReplicasAfterAppend)
        );
        assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
        assert!(error.is_retriable());
    }

    #[test]
    fn reasons_and_outcomes_of_newer_brokers_are_judged_by_their_code() {
        let newer = |code: Code| {
            Error::from_item(v1::Error {
                code: code as i32,
                reason: 9_999,
                metadata: [("outcome".to_owned(), "maybe".to_owned())].into_iter().collect(),
                ..Default::default()
            })
        };
        assert!(newer(Code::Unavailable).is_retriable());
        assert!(!newer(Code::InvalidArgument).is_retriable());
        assert_eq!(newer(Code::Unavailable).outcome(), Some(WriteOutcome::Unknown));
    }

    #[test]
    fn a_plain_status_is_a_broken_connection_or_another_server() {
        assert_eq!(
            Error::from(Status::unknown("transport error")).kind(),
            &ErrorKind::Connection
        );
        assert_eq!(
            Error::from(Status::unimplemented("no")).kind(),
            &ErrorKind::Status(Code::Unimplemented)
        );
        let foreign = Status::with_error_details(
            Code::NotFound,
            "x",
            ErrorDetails::with_error_info(
                "UNKNOWN_TOPIC",
                "elsewhere.example",
                std::collections::HashMap::<String, String>::new(),
            ),
        );
        assert_eq!(Error::from(foreign).kind(), &ErrorKind::Status(Code::NotFound));
    }
}
