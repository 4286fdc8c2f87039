//! How members come and go while everything happens.

use std::time::Duration;

use openraft::type_config::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use super::{
    super::{
        super::{
            Quorum, QuorumError,
            member_rules::View,
            members::{NewMember, is_settled},
            types::Voter,
        },
        Node, directory_id,
    },
    world::World,
};

impl World {
    /// The change of members that is due, or any. Whether it comes about is up to the quorum.
    pub async fn change_members(&mut self) {
        let turn = self.any();
        let Some((leader, _)) = self.traffic.lives.leader(turn) else {
            return;
        };
        let status = leader.status();
        if let Some(lost) = self.lost {
            // It may not have become a member yet.
            let was_member = leader.used_ids().contains(&lost);
            if leader.remove_voter(lost).await.is_ok() {
                self.lost = None;
                if was_member {
                    self.removed.push(lost);
                    self.count("removals");
                }
            }
            return;
        }
        let members = [status.voters.as_slice(), status.learners.as_slice()].concat();
        let new = self.voters.nodes.keys().find(|id| !members.contains(*id)).copied();
        if let Some(new) = new {
            self.refuse_used(&leader, new).await;
            if add(&leader, new, &self.voters.nodes[&new]).await.is_ok() {
                self.count("additions");
            }
        } else if let Some(learner) = status.learners.first() {
            if leader.promote(*learner).await.is_ok() {
                self.count("promotions");
            }
        } else if leader.demote(turn).await.is_ok() {
            self.count("demotions");
        }
    }

    /// No new disk gets the number of one that was removed.
    async fn refuse_used(&mut self, leader: &Quorum, new: u64) {
        for number in self.removed.clone() {
            let added = add(leader, number, &self.voters.nodes[&new]).await;
            match added {
                Ok(_) => panic!("seed {}: number {number} was given to {new}", self.observer.seed),
                Err(QuorumError::Member { .. }) => self.count("numbers refused again"),
                Err(_) => {}
            }
        }
    }
}

/// Adds a member as the leader does. Over this network it can't be asked who it is.
async fn add(leader: &Quorum, number: u64, new: &Node) -> Result<u64, QuorumError> {
    let metrics = leader.raft().metrics().borrow_watched().clone();
    if !is_settled(&metrics) {
        return Err(QuorumError::ChangeInProgress);
    }
    let member = NewMember {
        voter_id: number,
        directory_id: directory_id(new.id),
        address: format!("voter-{}:9653", new.id),
    };
    let view = View::new(&metrics, Duration::ZERO);
    if view.check_new(&member, &leader.used_ids())? {
        return Ok(0);
    }
    let voter = Voter {
        address: member.address,
        directory_id: member.directory_id,
        state_id: new.quorum.log().state_id(),
    };
    let deadline = Instant::now() + leader.request_timeout();
    leader
        .append_membership(&metrics, view.with_learner(number, voter)?, deadline)
        .await
}
