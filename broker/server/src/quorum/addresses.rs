//! Where members look for each other, beyond the addresses that they were added with.

use std::{collections::HashMap, io, time::Duration};

use millrace_engine::Command;
use openraft::{EntryPayload, type_config::async_runtime::watch::WatchReceiver};
use uuid::Uuid;

use super::{
    ask::Ask,
    entry_log::EntryLog,
    handle::Quorum,
    members::{MemberChange, NewMember},
    network::MAX_ADDRESS_BYTES,
    types::Voter,
};

/// How long a broker may take to say who it is.
pub(super) const IDENTIFY_WITHIN: Duration = Duration::from_secs(3);

impl Quorum {
    /// A member says where it answers; for one that nobody finds, and that so has no leader to register with. It is
    /// asked there who it is, and looked for there from then on; so it is by the leader, who is told too. Returns at
    /// once. Does nothing if no member has this directory.
    pub fn told_of_address(&self, directory_id: Uuid, address: &str) {
        let Some(places) = self.peers().map(|peers| peers.places()) else {
            return;
        };
        let Some((voter_id, voter)) = self.member_with(directory_id) else {
            return;
        };
        let fits = !address.is_empty() && address.len() <= MAX_ADDRESS_BYTES;
        let is_registered = places.registered(&voter).as_deref() == Some(address);
        if !fits || is_registered || voter_id == self.voter_id() || !places.begin_to_ask(voter_id) {
            return;
        }
        let (quorum, address) = (self.clone(), address.to_owned());
        tokio::spawn(async move {
            quorum.look_there(voter_id, &voter, address).await;
            if let Some(peers) = quorum.peers() {
                peers.places().answered(voter_id);
            }
        });
    }

    /// The addresses at which members may be, of all of them.
    pub fn member_addresses(&self) -> Vec<String> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.nodes();
        members.flat_map(|(id, voter)| self.places_of(*id, voter)).collect()
    }

    /// The address at which a member is looked for first.
    pub(super) fn place_of(&self, id: u64, voter: &Voter) -> String {
        let mut places = self.places_of(id, voter);
        places.swap_remove(0)
    }

    fn places_of(&self, id: u64, voter: &Voter) -> Vec<String> {
        match self.peers() {
            // Others may look for this one elsewhere; it knows best.
            _ if id == self.voter_id() => vec![self.voter().address.clone()],
            Some(peers) => peers.places().of(id, voter),
            None => vec![voter.address.clone()],
        }
    }

    fn member_with(&self, directory_id: Uuid) -> Option<(u64, Voter)> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut members = metrics.membership_config.nodes();
        let found = members.find(|(_, voter)| voter.directory_id == directory_id);
        found.map(|(id, voter)| (*id, voter.clone()))
    }

    async fn look_there(&self, voter_id: u64, voter: &Voter, address: String) {
        let Some(peers) = self.peers() else { return };
        if self.place_of(voter_id, voter) != address {
            let there = Voter {
                address: address.clone(),
                ..voter.clone()
            };
            match peers.exactly(voter_id, &there).identify(IDENTIFY_WITHIN).await {
                // The disk that the quorum was begun with is named by nothing, and knows it itself.
                Ok(state_id) if voter.state_id.is_nil() || voter.state_id == state_id => {}
                Ok(_) => return tracing::warn!(voter_id, address, "a member has lost what it had on its disk"),
                Err(error) => return tracing::info!(voter_id, address, %error, "a member is not where it says"),
            }
            let before = &voter.address;
            tracing::info!(
                voter_id,
                address,
                before,
                "a member of the metadata quorum has another address"
            );
            peers.places().tell(voter_id, voter, address.clone());
        }
        if self.raft().is_leader() {
            return;
        }
        let member = NewMember {
            voter_id,
            directory_id: voter.directory_id,
            address,
        };
        if let Err(error) = self.ask(Ask::Change(MemberChange::Add(member))).await {
            tracing::debug!(voter_id, %error, "the leader can't be told of a member's address");
        }
    }
}

/// The internal addresses that brokers register with in the entries from `first` on, by their directories.
///
/// # Errors
/// The log can't be read.
pub(super) fn addresses_in(log: &EntryLog, first: u64) -> io::Result<HashMap<Uuid, String>> {
    let mut addresses = HashMap::new();
    log.each_from(first, |entry| {
        if let EntryPayload::Normal(proposal) = entry.payload
            && let Command::StartBroker(start) = proposal.0
            && !start.internal_address.is_empty()
        {
            addresses.insert(start.registration.directory_id, start.internal_address);
        }
    })?;
    Ok(addresses)
}
