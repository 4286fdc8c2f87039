//! What the client's order of batches needs to know of an error: the same questions as the
//! client's own error answers, without its transport.

use std::{fmt, time::Duration};

use millrace_proto::v1::ErrorReason;

/// Whether a failed write may still show up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    NotWritten,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Server(ErrorReason),
    TimedOut,
    #[allow(dead_code, reason = "the tests of the client's own file make one")]
    Connection,
}

#[derive(Clone, Debug)]
pub(crate) struct Error {
    kind: ErrorKind,
    message: String,
    outcome: Option<WriteOutcome>,
    retriable: bool,
    /// How long to wait, as a fact of the error.
    retry_after_ms: Option<String>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            outcome: None,
            retriable: matches!(kind, ErrorKind::TimedOut | ErrorKind::Connection),
            retry_after_ms: None,
        }
    }

    pub(crate) fn server(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            retriable: reason.is_retriable(),
            ..Self::new(ErrorKind::Server(reason), message)
        }
    }

    pub(crate) fn reason(&self) -> Option<ErrorReason> {
        match self.kind {
            ErrorKind::Server(reason) => Some(reason),
            ErrorKind::TimedOut | ErrorKind::Connection => None,
        }
    }

    pub(crate) fn outcome(&self) -> Option<WriteOutcome> {
        self.outcome
    }

    pub(crate) fn is_retriable(&self) -> bool {
        self.retriable
    }

    #[allow(clippy::unused_self, reason = "the client's error can carry one")]
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        None
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.retry_after_ms.as_deref().filter(|_| key == "retry_after_ms")
    }

    pub(crate) fn with_retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms.to_string());
        self
    }

    pub(crate) fn with_outcome(mut self, outcome: WriteOutcome) -> Self {
        self.outcome = Some(outcome);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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
