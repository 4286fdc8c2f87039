//! Why the metadata quorum could not do something.

use std::{io, time::Duration};

use uuid::Uuid;

/// Why the metadata quorum could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuorumError {
    /// The disk refused an operation.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// What the file system said.
        source: io::Error,
    },
    /// What is on the disk can't be trusted: this voter must not vote before it is repaired or
    /// replaced by one with a new id.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which file or log.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk belongs to another voter.
    #[error(
        "the disk holds the vote of voter {found} (directory {found_directory}), this is voter {expected} (directory {expected_directory}): mount the right volume"
    )]
    OtherVoter {
        /// Whose vote it is.
        found: u64,
        /// Its directory id.
        found_directory: Uuid,
        /// This voter.
        expected: u64,
        /// This voter's directory id.
        expected_directory: Uuid,
    },
    /// A setting that can't be used.
    #[error("quorum configuration: {0}")]
    Config(String),
    /// There is a quorum already, or there are traces of one.
    #[error("the metadata quorum exists already: it is bootstrapped only once")]
    AlreadyBootstrapped,
    /// This voter does not lead.
    #[error("this broker does not lead the metadata quorum{}", match .leader {
        Some(leader) => format!("; voter {leader} does"),
        None => "; no leader is known".to_owned(),
    })]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<u64>,
    },
    /// This voter leads but has not heard from a majority for an election timeout.
    #[error("the metadata quorum's leader hears from no majority of voters")]
    NoMajority,
    /// So many commands wait already.
    #[error("{limit} metadata commands are waiting: try again later")]
    Overloaded {
        /// The most that may wait.
        limit: usize,
    },
    /// The command is larger than an entry may be.
    #[error("the metadata command has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size, in bytes.
        size: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// There is no room for more metadata.
    #[error("the disk of the metadata log is full: {available_bytes} bytes are left")]
    DiskFull {
        /// What is left, in bytes.
        available_bytes: u64,
    },
    /// The command may or may not be applied; whoever repeats it must be able to tell.
    #[error("it is not known whether the metadata command will be applied: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// No answer in time; nothing was changed.
    #[error("no {what} within {within:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// Another change of the members is under way; nothing was changed.
    #[error("the members of the metadata quorum are being changed: try again when that is done")]
    ChangeInProgress,
    /// The member lacks too much to become a voter: a majority that needs it would stand still.
    #[error(
        "member {voter_id} lacks {lag_entries} entries of the metadata log, or was not heard of lately: make it a voter once it has caught up"
    )]
    NotCaughtUp {
        /// Which member.
        voter_id: u64,
        /// How many entries it lacks, as far as is known.
        lag_entries: u64,
    },
    /// The change makes no sense for this member; nothing was changed.
    #[error("member {voter_id} of the metadata quorum: {reason}")]
    Member {
        /// Which member.
        voter_id: u64,
        /// Why.
        reason: String,
    },
    /// So few of the voters that would be left are there that they could decide nothing.
    #[error(
        "without voter {voter_id} only {present} of {voters} voters would be there, which is no majority: bring the others back first"
    )]
    QuorumAtRisk {
        /// Who was to go.
        voter_id: u64,
        /// How many of those left were heard of lately.
        present: usize,
        /// How many would be left.
        voters: usize,
    },
    /// The quorum's storage or its core has stopped: the process must stop too.
    #[error("the metadata quorum has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl QuorumError {
    /// An [`QuorumError::Io`] to use with `map_err`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what: what.into(),
            source,
        }
    }

    /// A [`QuorumError::Damaged`].
    pub(super) fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
