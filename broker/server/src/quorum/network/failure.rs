//! A [`QuorumError`] as it travels from the leader back to who asked.

use std::time::Duration;

use millrace_proto::internal::v1::{Failure, failure::Kind};

use super::super::error::QuorumError;

/// What is told of an error.
pub(in super::super) fn failure_out(error: &QuorumError) -> Failure {
    let mut failure = Failure {
        message: error.to_string(),
        ..Failure::default()
    };
    let kind = match error {
        QuorumError::NotLeader { leader } => {
            failure.leader = *leader;
            Kind::NotLeader
        }
        QuorumError::NoMajority => Kind::NoMajority,
        QuorumError::Overloaded { limit } => {
            failure.limit = *limit as u64;
            Kind::Overloaded
        }
        QuorumError::TooLarge { size, limit } => {
            (failure.value, failure.limit) = (*size as u64, *limit as u64);
            Kind::TooLarge
        }
        QuorumError::DiskFull { available_bytes } => {
            failure.value = *available_bytes;
            Kind::DiskFull
        }
        QuorumError::OutcomeUnknown { reason } => {
            failure.message.clone_from(reason);
            Kind::OutcomeUnknown
        }
        QuorumError::Timeout { .. } => Kind::Timeout,
        QuorumError::ChangeInProgress => Kind::ChangeInProgress,
        QuorumError::NotCaughtUp { voter_id, lag_entries } => {
            (failure.member, failure.value) = (*voter_id, *lag_entries);
            Kind::NotCaughtUp
        }
        QuorumError::Member { voter_id, reason } => {
            failure.member = *voter_id;
            failure.message.clone_from(reason);
            Kind::Member
        }
        QuorumError::QuorumAtRisk {
            voter_id,
            present,
            voters,
        } => {
            failure.member = *voter_id;
            (failure.value, failure.limit) = (*present as u64, *voters as u64);
            Kind::QuorumAtRisk
        }
        QuorumError::Config(reason) => {
            failure.message.clone_from(reason);
            Kind::Invalid
        }
        QuorumError::Stopped { reason } => {
            failure.message.clone_from(reason);
            Kind::Stopped
        }
        QuorumError::Io { .. }
        | QuorumError::Damaged { .. }
        | QuorumError::OtherVoter { .. }
        | QuorumError::AlreadyBootstrapped => Kind::Stopped,
    };
    failure.set_kind(kind);
    failure
}

/// The error that was told of. Whatever is not known to mean that nothing was done leaves the
/// outcome unknown. `within` is how long was waited.
pub(in super::super) fn failure_in(failure: Failure, within: Duration) -> QuorumError {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    match failure.kind() {
        Kind::NotLeader => QuorumError::NotLeader { leader: failure.leader },
        Kind::NoMajority => QuorumError::NoMajority,
        Kind::Overloaded => QuorumError::Overloaded {
            limit: size(failure.limit),
        },
        Kind::TooLarge => QuorumError::TooLarge {
            size: size(failure.value),
            limit: size(failure.limit),
        },
        Kind::DiskFull => QuorumError::DiskFull {
            available_bytes: failure.value,
        },
        Kind::Timeout => QuorumError::Timeout {
            what: "majority",
            within,
        },
        Kind::ChangeInProgress => QuorumError::ChangeInProgress,
        Kind::NotCaughtUp => QuorumError::NotCaughtUp {
            voter_id: failure.member,
            lag_entries: failure.value,
        },
        Kind::Member => QuorumError::Member {
            voter_id: failure.member,
            reason: failure.message,
        },
        Kind::QuorumAtRisk => QuorumError::QuorumAtRisk {
            voter_id: failure.member,
            present: size(failure.value),
            voters: size(failure.limit),
        },
        Kind::Invalid => QuorumError::Config(failure.message),
        // The leader's core may have stopped after the entry was in its log.
        Kind::Stopped | Kind::OutcomeUnknown | Kind::Unspecified => QuorumError::OutcomeUnknown {
            reason: failure.message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(3);

    #[test]
    fn errors_come_back_as_they_were() {
        for error in [
            QuorumError::NotLeader { leader: Some(2) },
            QuorumError::NotLeader { leader: None },
            QuorumError::NoMajority,
            QuorumError::Overloaded { limit: 3 },
            QuorumError::TooLarge { size: 9, limit: 3 },
            QuorumError::DiskFull { available_bytes: 3 },
            QuorumError::OutcomeUnknown { reason: "r".into() },
            QuorumError::Timeout {
                what: "majority",
                within: WITHIN,
            },
            QuorumError::ChangeInProgress,
            QuorumError::NotCaughtUp {
                voter_id: 4,
                lag_entries: 9,
            },
            QuorumError::Member {
                voter_id: 4,
                reason: "r".into(),
            },
            QuorumError::QuorumAtRisk {
                voter_id: 4,
                present: 1,
                voters: 2,
            },
            QuorumError::Config("r".into()),
        ] {
            let text = format!("{error:?}");
            assert_eq!(format!("{:?}", failure_in(failure_out(&error), WITHIN)), text);
        }
    }

    #[test]
    fn what_is_not_understood_leaves_the_outcome_unknown() {
        let stopped = failure_out(&QuorumError::Stopped { reason: "r".into() });
        let newer = Failure {
            kind: 99,
            ..Failure::default()
        };
        for failure in [stopped, newer, Failure::default()] {
            let error = failure_in(failure, WITHIN);
            assert!(matches!(error, QuorumError::OutcomeUnknown { .. }), "{error}");
        }
    }
}
