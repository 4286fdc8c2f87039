//! `quorum-state`: what a voter must not forget besides its log.
//!
//! ```text
//!   {"version":1,"voterId":1,"directoryId":"...","stateId":"...","founder":false,
//!    "vote":{...},"purged":{"term":3,"index":41}}\n
//!   crc32c 0a1b2c3d\n
//! ```
//!
//! One line of JSON and the CRC-32C of that line without its line feed. Replaced atomically;
//! on the disk before anyone hears of the vote in it.

use std::{io, path::Path};

use millrace_log::fs::{FileSystem, read_whole, write_atomic};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    error::QuorumError,
    membership::LogIdRecord,
    types::{LogId, Vote},
};
use crate::checksummed;

/// The file's name, as in Kafka (KIP-595).
pub(super) const FILE_NAME: &str = "quorum-state";
const VERSION: u32 = 1;
/// The file has some 300 bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QuorumState {
    version: u32,
    /// Whose vote this is.
    voter_id: u64,
    /// The disk that it votes with.
    directory_id: Uuid,
    /// Drawn with this file. Nil in files from before there was more than one voter.
    #[serde(default)]
    state_id: Uuid,
    /// Whether the quorum was begun with this voter on this disk. True in older files.
    #[serde(default = "yes")]
    founder: bool,
    vote: Option<VoteRecord>,
    purged: Option<LogIdRecord>,
}

/// For whom this voter has voted, or whom it follows, in the newest term that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VoteRecord {
    term: u64,
    voted_for: u64,
    /// Whether a majority has granted it.
    committed: bool,
}

fn yes() -> bool {
    true
}

impl QuorumState {
    /// The state of a voter that has never voted.
    pub(super) fn new(voter_id: u64, directory_id: Uuid) -> Self {
        Self {
            version: VERSION,
            voter_id,
            directory_id,
            state_id: Uuid::new_v4(),
            founder: false,
            vote: None,
            purged: None,
        }
    }

    /// What was drawn when this state was first made.
    pub(super) fn state_id(&self) -> Uuid {
        self.state_id
    }

    /// Whether the quorum was begun with this state.
    pub(super) fn is_founder(&self) -> bool {
        self.founder
    }

    /// The same as a voter that the quorum is begun with.
    pub(super) fn as_founder(&self) -> Self {
        Self {
            founder: true,
            ..self.clone()
        }
    }

    /// The state of a voter that nobody knows who knew this one, and that has voted so.
    pub(super) fn begun_anew(&self, vote: &Vote) -> Self {
        Self {
            state_id: Uuid::new_v4(),
            founder: false,
            ..self.with_vote(vote)
        }
    }

    /// The vote; none if this voter never voted.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote.map(|vote| {
            if vote.committed {
                Vote::new_committed(vote.term, vote.voted_for)
            } else {
                Vote::new(vote.term, vote.voted_for)
            }
        })
    }

    /// The same with another vote.
    pub(super) fn with_vote(&self, vote: &Vote) -> Self {
        let vote = VoteRecord {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        Self {
            vote: Some(vote),
            ..self.clone()
        }
    }

    /// The last entry that was given up behind a snapshot.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged.map(LogId::from)
    }

    /// The same with entries up to `last` given up.
    pub(super) fn with_purged(&self, last: &LogId) -> Self {
        Self {
            purged: Some(last.into()),
            ..self.clone()
        }
    }

    /// Refuses a state that another voter, or this voter with another disk, has written: it
    /// could vote twice in a term.
    pub(super) fn check_owner(&self, voter_id: u64, directory_id: Uuid) -> Result<(), QuorumError> {
        if self.voter_id == voter_id && self.directory_id == directory_id {
            return Ok(());
        }
        Err(QuorumError::OtherVoter {
            found: self.voter_id,
            found_directory: self.directory_id,
            expected: voter_id,
            expected_directory: directory_id,
        })
    }

    /// Who votes by this file.
    pub(super) fn voter_id(&self) -> u64 {
        self.voter_id
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`QuorumError::Io`], or [`QuorumError::Damaged`]: a forgotten vote is never "no vote".
    pub(super) fn load(fs: &dyn FileSystem, path: &Path) -> Result<Option<Self>, QuorumError> {
        let what = path.display().to_string();
        let bytes = match read_whole(fs, path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(QuorumError::Io { what, source }),
        };
        Self::decode(&bytes)
            .map(Some)
            .map_err(|reason| QuorumError::damaged(what, reason))
    }

    /// Replaces the file; on return it is on the disk.
    pub(super) fn store(&self, fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
        write_atomic(fs, path, &self.encode()?)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        checksummed::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = checksummed::decode(bytes)?;
        if state.version != VERSION {
            return Err(format!("version {} is not {VERSION}", state.version));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::batch::crc::crc32c;

    use super::{super::types::log_id, *};

    #[test]
    fn a_state_comes_back_and_any_flipped_bit_is_noticed() {
        let state = QuorumState::new(3, Uuid::from_u128(9))
            .with_vote(&Vote::new_committed(7, 2))
            .with_purged(&log_id(6, 41));
        let bytes = state.encode().unwrap();
        let decoded = QuorumState::decode(&bytes).unwrap();
        assert_eq!(decoded, state);
        assert_eq!(decoded.vote(), Some(Vote::new_committed(7, 2)));
        assert_eq!(decoded.purged(), Some(log_id(6, 41)));
        checksummed::assert_notices_damage::<QuorumState>(&bytes);
    }

    /// Files from before there was more than one voter.
    #[test]
    fn an_older_file_is_a_founders() {
        let json = r#"{"version":1,"voterId":3,"directoryId":"00000000-0000-0000-0000-000000000009","vote":null,"purged":null}"#;
        let file = format!("{json}\ncrc32c {:08x}\n", crc32c(json.as_bytes()));
        let state = QuorumState::decode(file.as_bytes()).unwrap();
        assert!(state.is_founder() && state.state_id().is_nil());
        let new = QuorumState::new(3, Uuid::from_u128(9));
        assert!(!new.is_founder() && !new.state_id().is_nil());
        let begun = QuorumState::decode(&new.as_founder().encode().unwrap()).unwrap();
        assert!(begun.is_founder() && begun.state_id() == new.state_id());
    }

    #[test]
    fn a_voter_does_not_take_over_anothers_vote() {
        let state = QuorumState::new(3, Uuid::from_u128(9));
        state.check_owner(3, Uuid::from_u128(9)).unwrap();
        for (voter, disk) in [(4, 9), (3, 8)] {
            let error = state.check_owner(voter, Uuid::from_u128(disk)).unwrap_err();
            assert!(matches!(error, QuorumError::OtherVoter { found: 3, .. }), "{error}");
        }
    }
}
