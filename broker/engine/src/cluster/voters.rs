//! Ids of the metadata quorum's voters (KIP-853): given out by the log, bound to a disk, never
//! used twice. A laggard or a replay may hold an old configuration in which an id that came back
//! is a majority alone; one that came back empty could vote twice in a term (KAFKA-12181).

use super::{
    apply::Applied,
    limits::MAX_VOTERS,
    outcome::Outcome,
    refusal::VoterError,
    rejection::Rejection,
    state::{Cluster, VoterIdentity},
};

impl Cluster {
    /// The id of a broker's disk as a voter: the one that it has, else one above all that ever
    /// were. The voter that began the quorum keeps the id that it has.
    pub(super) fn register_voter(
        &mut self,
        identity: VoterIdentity,
        highest_in_use: u64,
        bootstrap_id: Option<u64>,
    ) -> Result<Applied, Rejection> {
        let VoterIdentity {
            broker_id,
            directory_id,
        } = identity;
        let broker = self
            .brokers
            .get(&broker_id)
            .ok_or(Rejection::UnknownBroker { id: broker_id })?;
        if broker.directory_id != directory_id {
            return Err(VoterError::OtherDirectory {
                broker_id,
                directory_id,
            }
            .into());
        }
        let known = self.voters.registered.iter().find(|(_, known)| **known == identity);
        if let Some((voter_id, _)) = known {
            return Ok(Applied::unchanged(Outcome::Voter { voter_id: *voter_id }));
        }
        if self.voters.registered.len() >= MAX_VOTERS {
            return Err(VoterError::TooMany.into());
        }
        let above = highest_in_use.checked_add(1).ok_or(VoterError::Exhausted)?;
        let voter_id = bootstrap_id
            .filter(|_| self.voters.next == 0)
            .unwrap_or(self.voters.next.max(above));
        self.voters.next = voter_id.checked_add(1).ok_or(VoterError::Exhausted)?;
        self.voters.registered.insert(voter_id, identity);
        Ok(Applied::changed(Outcome::Voter { voter_id }))
    }

    /// Whether a member may become a voter without an operator's word.
    pub(super) fn withhold_vote(&mut self, voter_id: u64, withheld: bool) -> Result<Applied, Rejection> {
        if !self.voters.registered.contains_key(&voter_id) {
            return Err(VoterError::Unknown { voter_id }.into());
        }
        let changes = if withheld {
            self.voters.withheld.insert(voter_id)
        } else {
            self.voters.withheld.remove(&voter_id)
        };
        Ok(if changes {
            Applied::changed(Outcome::Done)
        } else {
            Applied::unchanged(Outcome::Done)
        })
    }

    /// Forgets a voter; its id stays used.
    pub(super) fn remove_voter(&mut self, voter_id: u64) -> Result<Applied, Rejection> {
        self.voters.withheld.remove(&voter_id);
        if self.voters.registered.remove(&voter_id).is_some() {
            Ok(Applied::changed(Outcome::Done))
        } else if voter_id < self.voters.next {
            // Asked again after the answer was lost.
            Ok(Applied::unchanged(Outcome::Done))
        } else {
            Err(VoterError::Unknown { voter_id }.into())
        }
    }
}
