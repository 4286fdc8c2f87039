//! Which types openraft is instantiated with, and short names for what it derives from them.

use std::fmt;

use bytes::Bytes;
use millrace_engine::{Command, Outcome, Rejection};
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

openraft::declare_raft_types!(
    /// The metadata quorum's types. One leader to a term, as in Raft's paper, so that a log id is
    /// (term, index) and the term fits where Kafka's batch header has the leader epoch.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = Voter,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Voter>;
pub(super) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot as it travels: the bytes of its file, checksum and all.
pub(super) type RaftSnapshot = alias::SnapshotOf<TypeConfig, Bytes>;

/// The log id of `term` and `index`.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

/// A member as the membership names it: where it answers and which disk it votes with. The disk
/// is part of a voter's identity, because one that comes back empty could vote twice (KIP-853).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Voter {
    /// HOST:PORT for other brokers.
    pub address: String,
    /// The id of its log directory.
    pub directory_id: Uuid,
    /// What the member has drawn when it first wrote to that directory: a directory that was
    /// emptied and kept its id is another disk all the same. Nil for the voters that the quorum
    /// was begun with.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    pub state_id: Uuid,
}

/// A command on its way into the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&command_name(&self.0))
    }
}

/// The variant's name: the first word of its debug form, without formatting the rest of a
/// command that may be large.
fn command_name(command: &Command) -> String {
    struct FirstWord(String);
    impl fmt::Write for FirstWord {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let end = text.find(|c: char| !c.is_alphanumeric());
            self.0.push_str(&text[..end.unwrap_or(text.len())]);
            if end.is_some() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut word = FirstWord(String::new());
    // An error only says that the word is complete.
    let _ = fmt::Write::write_fmt(&mut word, format_args!("{command:?}"));
    word.0
}

/// What applying an entry answers; `None` for entries that hold no command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response(pub Option<Result<Outcome, Rejection>>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_shows_as_its_commands_name() {
        let command = Command::DeleteTopic {
            name: "x".repeat(1 << 20),
            id: None,
        };
        assert_eq!(Proposal(command).to_string(), "DeleteTopic");
        let command = Command::AllocateProducerIds {
            broker_id: 1,
            broker_epoch: 2,
        };
        assert_eq!(Proposal(command).to_string(), "AllocateProducerIds");
    }
}
