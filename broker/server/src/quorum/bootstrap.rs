//! How a quorum begins: once, with voters that are named.

use std::collections::{BTreeMap, BTreeSet};

use openraft::errors::{InitializeError, RaftError};
use uuid::Uuid;

use super::{
    error::QuorumError,
    handle::{Quorum, stopped},
    member_rules::MAX_VOTERS,
    members::NewMember,
    network::MAX_ADDRESS_BYTES,
    types::Voter,
};

impl Quorum {
    /// Makes this voter the first and only one of a new quorum. Returns once that is in its log;
    /// it leads soon after.
    ///
    /// # Errors
    /// [`QuorumError::AlreadyBootstrapped`] if this voter has any entry or vote: two quorums
    /// would result.
    pub async fn bootstrap(&self) -> Result<(), QuorumError> {
        self.initialize(BTreeMap::from([(self.voter_id(), self.voter().clone())]))
            .await
    }

    /// Makes this voter one of the first of a new quorum. To be called on each of `voters`, with
    /// the same list: a majority of them begins, and the others join. Must never be called for a
    /// quorum that was begun before, on a disk that lost it.
    ///
    /// # Errors
    /// [`QuorumError::AlreadyBootstrapped`] as [`Quorum::bootstrap`]; [`QuorumError::Config`] if
    /// the list has too many voters, names one twice, or not this one as it was opened.
    pub async fn bootstrap_with(&self, voters: &[NewMember]) -> Result<(), QuorumError> {
        let refuse = |reason: String| Err(QuorumError::Config(reason));
        if voters.len() > MAX_VOTERS {
            return refuse(format!("{} voters are more than {MAX_VOTERS}", voters.len()));
        }
        let mut members = BTreeMap::new();
        let (mut addresses, mut directories) = (BTreeSet::new(), BTreeSet::new());
        for member in voters {
            let id = member.voter_id;
            let voter = Voter {
                address: member.address.clone(),
                directory_id: member.directory_id,
                state_id: Uuid::nil(),
            };
            if member.address.is_empty() || member.address.len() > MAX_ADDRESS_BYTES {
                return refuse(format!("voter {id} has no address that can be used"));
            }
            let new = addresses.insert(&member.address) && directories.insert(member.directory_id);
            if !new || members.insert(id, voter).is_some() {
                return refuse(format!("voter {id} shares its id, address or directory with another"));
            }
        }
        if members.get(&self.voter_id()) != Some(self.voter()) {
            return refuse(format!("voter {} is not listed as it was opened", self.voter_id()));
        }
        self.initialize(members).await
    }

    pub(super) async fn initialize(&self, members: BTreeMap<u64, Voter>) -> Result<(), QuorumError> {
        if self.raft().is_initialized().await.map_err(stopped)? {
            return Err(QuorumError::AlreadyBootstrapped);
        }
        let log = self.entry_log();
        tokio::task::spawn_blocking(move || log.become_founder())
            .await
            .map_err(|error| QuorumError::Stopped {
                reason: error.to_string(),
            })?
            .map_err(QuorumError::io("quorum-state"))?;
        match self.raft().initialize(members).await {
            Ok(()) => {
                self.set_bootstrapped();
                Ok(())
            }
            // It had no state, and may take part since it is noted as a founder: another one was
            // faster, and has its vote already, or has sent it the log.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                self.set_bootstrapped();
                Ok(())
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(QuorumError::Config(error.to_string()))
            }
            Err(RaftError::Fatal(error)) => Err(stopped(error)),
        }
    }
}
