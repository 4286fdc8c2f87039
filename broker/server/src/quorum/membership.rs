//! How a membership is stored. Our own form, so that what is on disks does not depend on how a
//! version of openraft spells its fields.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::{LogId, Membership, StoredMembership, Voter, log_id};

/// A membership: one set of voters, or two while one follows the other (joint consensus).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MembershipRecord {
    /// Sets of voter ids.
    voters: Vec<BTreeSet<u64>>,
    /// All members by id; one that is in no set of voters only learns.
    members: BTreeMap<u64, Voter>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, voter)| (*id, voter.clone())).collect(),
        }
    }
}

impl MembershipRecord {
    /// The membership that this record describes.
    ///
    /// # Errors
    /// In words, if no valid membership is like this: an empty set of voters, or a voter that is
    /// no member.
    pub(super) fn decode(self) -> Result<Membership, String> {
        if self.voters.is_empty() && self.members.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(self.voters, self.members).map_err(|error| error.to_string())
    }
}

/// A membership together with the entry that it came with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredMembershipRecord {
    /// The entry; none before the first membership.
    log_id: Option<LogIdRecord>,
    /// The membership.
    membership: MembershipRecord,
}

impl From<&StoredMembership> for StoredMembershipRecord {
    fn from(stored: &StoredMembership) -> Self {
        Self {
            log_id: stored.log_id().as_ref().map(LogIdRecord::from),
            membership: stored.membership().into(),
        }
    }
}

impl StoredMembershipRecord {
    /// As [`MembershipRecord::decode`].
    pub(super) fn decode(self) -> Result<StoredMembership, String> {
        Ok(StoredMembership::new(
            self.log_id.map(LogId::from),
            self.membership.decode()?,
        ))
    }
}

/// An entry's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogIdRecord {
    /// The term in which it was proposed.
    pub(super) term: u64,
    /// Its place in the log.
    pub(super) index: u64,
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        log_id(record.term, record.index)
    }
}
