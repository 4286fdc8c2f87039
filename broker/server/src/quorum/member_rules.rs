//! The rules by which members change: pure, of what the leader knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{Instant as _, RaftMetrics};

use super::{
    error::QuorumError,
    members::NewMember,
    network::MAX_ADDRESS_BYTES,
    types::{Membership, TypeConfig, Voter},
};

/// The most voters. Each command waits for a majority, and five outlive any two.
pub const MAX_VOTERS: usize = 9;

/// A learner that lacks no more entries than this may become a voter: they are sent in one
/// request.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// The members as the leader sees them.
pub(super) struct View {
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, Voter>,
    /// How many entries each member lacks, where that is known.
    lag: BTreeMap<u64, u64>,
    /// Who was heard of lately, the leader included.
    present: BTreeSet<u64>,
}

impl View {
    pub(super) fn new(metrics: &RaftMetrics<TypeConfig>, lately: Duration) -> Self {
        let membership = metrics.membership_config.membership();
        Self {
            voters: membership.voter_ids().collect(),
            nodes: membership.nodes().map(|(id, voter)| (*id, voter.clone())).collect(),
            lag: lags(metrics),
            present: present(metrics, lately),
        }
    }

    /// Whether the member is there already.
    pub(super) fn check_new(&self, member: &NewMember, used_ids: &BTreeSet<u64>) -> Result<bool, QuorumError> {
        let refuse = |reason: &str| {
            let voter_id = member.voter_id;
            let reason = reason.into();
            Err(QuorumError::Member { voter_id, reason })
        };
        if member.address.is_empty() || member.address.len() > MAX_ADDRESS_BYTES {
            return refuse("its address must have 1 to 1,024 bytes");
        }
        match self.nodes.get(&member.voter_id) {
            // Its address may have changed since.
            Some(known) if known.directory_id == member.directory_id => Ok(true),
            Some(_) => refuse("there is another member with this id: ids are never used again"),
            None if used_ids.contains(&member.voter_id) => {
                refuse("there was a member with this id: ids are never used again")
            }
            None => Ok(false),
        }
    }

    pub(super) fn with_learner(self, id: u64, voter: Voter) -> Result<Membership, QuorumError> {
        let Self { voters, mut nodes, .. } = self;
        nodes.insert(id, voter);
        membership(voters, nodes)
    }

    /// `None` if it is a voter already.
    pub(super) fn with_voter(self, id: u64) -> Result<Option<Membership>, QuorumError> {
        let refuse = |reason: String| Err(QuorumError::Member { voter_id: id, reason });
        if !self.nodes.contains_key(&id) {
            return refuse("it is no member: add it as a learner first".into());
        }
        if self.voters.contains(&id) {
            return Ok(None);
        }
        if self.voters.len() >= MAX_VOTERS {
            return refuse(format!("there are {MAX_VOTERS} voters already, the most there may be"));
        }
        // Unknown is not caught up.
        let lag_entries = self.lag.get(&id).copied().unwrap_or(u64::MAX);
        if lag_entries > CAUGHT_UP_ENTRIES || !self.present.contains(&id) {
            return Err(QuorumError::NotCaughtUp {
                voter_id: id,
                lag_entries,
            });
        }
        let Self { mut voters, nodes, .. } = self;
        voters.insert(id);
        membership(voters, nodes).map(Some)
    }

    /// `None` if it is no member.
    pub(super) fn without(self, id: u64) -> Result<Option<Membership>, QuorumError> {
        let Self {
            mut voters,
            mut nodes,
            present,
            ..
        } = self;
        if nodes.remove(&id).is_none() {
            return Ok(None);
        }
        if voters.remove(&id) {
            check_left(&voters, &present, id)?;
        }
        membership(voters, nodes).map(Some)
    }

    /// The member stays and follows the log. `None` if it has no vote.
    pub(super) fn without_vote(self, id: u64) -> Result<Option<Membership>, QuorumError> {
        let Self {
            mut voters,
            nodes,
            present,
            ..
        } = self;
        if !voters.remove(&id) {
            return Ok(None);
        }
        check_left(&voters, &present, id)?;
        membership(voters, nodes).map(Some)
    }
}

/// The voters that are left without `id` must be able to decide.
fn check_left(voters: &BTreeSet<u64>, present: &BTreeSet<u64>, id: u64) -> Result<(), QuorumError> {
    if voters.is_empty() {
        let reason = "it is the only voter: add another first".into();
        return Err(QuorumError::Member { voter_id: id, reason });
    }
    let there = voters.intersection(present).count();
    if there <= voters.len() / 2 {
        return Err(QuorumError::QuorumAtRisk {
            voter_id: id,
            present: there,
            voters: voters.len(),
        });
    }
    Ok(())
}

fn membership(voters: BTreeSet<u64>, nodes: BTreeMap<u64, Voter>) -> Result<Membership, QuorumError> {
    Membership::new(vec![voters], nodes).map_err(|error| QuorumError::Config(error.to_string()))
}

/// A way out of a joint membership, which this version does not make but may find: on to the new
/// voters, or back to the old ones if of the new no majority is there. `None` if it is not joint.
pub(super) fn leave_joint(metrics: &RaftMetrics<TypeConfig>, lately: Duration) -> Option<Membership> {
    let joint = metrics.membership_config.membership();
    let [old, .., new] = joint.get_joint_config().as_slice() else {
        return None;
    };
    let present = present(metrics, lately);
    let has_majority = |voters: &BTreeSet<u64>| voters.intersection(&present).count() > voters.len() / 2;
    let chosen = if !has_majority(new) && has_majority(old) {
        old
    } else {
        new
    };
    let nodes: BTreeMap<u64, Voter> = joint.nodes().map(|(id, voter)| (*id, voter.clone())).collect();
    tracing::warn!(voters = ?chosen, "ending a change of voters that was left half-way");
    Membership::new(vec![chosen.clone()], nodes).ok()
}

/// How many entries each member lacks, as the leader knows; empty elsewhere.
pub(super) fn lags(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<u64, u64> {
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let end = next(metrics.last_log_index);
    let mut lags = BTreeMap::new();
    for (id, matched) in metrics.replication.iter().flatten() {
        let has = next(matched.as_ref().map(|matched| matched.index));
        lags.insert(*id, end.saturating_sub(has));
    }
    lags
}

/// When each member was last heard of, as the leader knows; empty elsewhere.
pub(super) fn last_heard(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<u64, Duration> {
    let heard = metrics.heartbeat.iter().flatten();
    heard
        .filter_map(|(id, at)| at.as_ref().map(|at| (*id, at.elapsed())))
        .collect()
}

/// Who was heard of within `lately`, and the leader itself.
pub(super) fn present(metrics: &RaftMetrics<TypeConfig>, lately: Duration) -> BTreeSet<u64> {
    let heard = last_heard(metrics).into_iter();
    heard
        .filter(|(_, ago)| *ago <= lately)
        .map(|(id, _)| id)
        .chain([metrics.id])
        .collect()
}

#[cfg(test)]
mod tests {
    use openraft::type_config::TypeConfigExt as _;
    use uuid::Uuid;

    use super::*;

    fn view(voters: &[u64], learners: &[u64], present: &[u64]) -> View {
        let voter = |id: u64| {
            (
                id,
                Voter {
                    address: format!("h{id}:1"),
                    directory_id: Uuid::from_u128(u128::from(id)),
                    state_id: Uuid::nil(),
                },
            )
        };
        View {
            voters: voters.iter().copied().collect(),
            nodes: voters.iter().chain(learners).map(|id| voter(*id)).collect(),
            lag: learners.iter().map(|id| (*id, id * 100)).collect(),
            present: present.iter().copied().collect(),
        }
    }

    fn new(id: u64, directory: u128) -> NewMember {
        NewMember {
            voter_id: id,
            directory_id: Uuid::from_u128(directory),
            address: format!("h{id}:1"),
        }
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, QuorumError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn ids_are_used_once() {
        let used = BTreeSet::from([1, 2, 5]);
        let check = |member| view(&[1], &[2], &[1]).check_new(&member, &used);
        assert!(check(new(2, 2)).unwrap(), "it is there already");
        let elsewhere = NewMember {
            address: "h9:1".into(),
            ..new(2, 2)
        };
        assert!(check(elsewhere).unwrap(), "an address may change");
        assert!(!check(new(3, 3)).unwrap());
        assert!(refused(check(new(2, 9))).contains("another member"));
        assert!(refused(check(new(5, 5))).contains("there was"));
        let nowhere = NewMember {
            address: String::new(),
            ..new(3, 3)
        };
        assert!(refused(check(nowhere)).contains("address"));
    }

    #[test]
    fn only_who_has_caught_up_and_is_there_gets_a_vote() {
        let promote = |id, present: &[u64]| view(&[1], &[2, 3], present).with_voter(id);
        let next = promote(2, &[1, 2]).unwrap().unwrap();
        assert_eq!(next.get_joint_config(), &[BTreeSet::from([1, 2])]);
        assert!(promote(1, &[1]).unwrap().is_none());
        for (id, present) in [(2, &[1][..]), (3, &[1, 3][..])] {
            let error = promote(id, present).unwrap_err();
            assert!(
                matches!(error, QuorumError::NotCaughtUp { voter_id, .. } if voter_id == id),
                "{error}"
            );
        }
        assert!(refused(promote(4, &[1])).contains("no member"));
        let all: Vec<u64> = (1..=MAX_VOTERS as u64).collect();
        let full = View {
            lag: BTreeMap::from([(20, 0)]),
            ..view(&all, &[20], &[20])
        };
        assert!(refused(full.with_voter(20)).contains("the most"));
    }

    #[test]
    fn what_is_left_can_decide() {
        let remove = |voters: &[u64], id, present: &[u64]| view(voters, &[9], present).without(id);
        let next = remove(&[1, 2, 3], 3, &[1, 2]).unwrap().unwrap();
        assert_eq!(next.get_joint_config(), &[BTreeSet::from([1, 2])]);
        assert!(next.get_node(&3).is_none());
        let error = remove(&[1, 2, 3], 2, &[1, 2]).unwrap_err();
        let expected = QuorumError::QuorumAtRisk {
            voter_id: 2,
            present: 1,
            voters: 2,
        };
        assert_eq!(error.to_string(), expected.to_string());
        assert!(remove(&[1], 8, &[1]).unwrap().is_none());
        assert!(refused(remove(&[1], 1, &[1])).contains("only voter"));
        // A learner counts for nothing.
        let next = remove(&[1, 2, 3], 9, &[1]).unwrap().unwrap();
        assert_eq!(next.get_joint_config(), &[BTreeSet::from([1, 2, 3])]);
    }

    #[test]
    fn who_loses_its_vote_stays_a_member() {
        let demote = |voters: &[u64], id, present: &[u64]| view(voters, &[9], present).without_vote(id);
        let next = demote(&[1, 2, 3], 3, &[1, 2]).unwrap().unwrap();
        assert_eq!(next.get_joint_config(), &[BTreeSet::from([1, 2])]);
        assert!(next.get_node(&3).is_some());
        assert!(demote(&[1, 2, 3], 9, &[1]).unwrap().is_none(), "it has no vote");
        assert!(demote(&[1], 8, &[1]).unwrap().is_none(), "it is no member");
        assert!(refused(demote(&[1], 1, &[1])).contains("only voter"));
        assert!(matches!(
            demote(&[1, 2, 3], 2, &[1, 2]),
            Err(QuorumError::QuorumAtRisk { voter_id: 2, .. })
        ));
    }

    #[test]
    fn a_change_left_half_way_is_ended() {
        let joint = |present: &[u64]| {
            let mut metrics = RaftMetrics::<TypeConfig>::new_initial(1);
            let nodes = view(&[1, 2, 3, 4], &[], &[]).nodes;
            let sets = vec![BTreeSet::from([1, 2]), BTreeSet::from([3, 4])];
            let joint = Membership::new(sets, nodes).unwrap();
            metrics.membership_config = std::sync::Arc::new(super::super::types::StoredMembership::new(None, joint));
            let now = TypeConfig::now();
            let seen = |id: &u64| (*id, Some(openraft::metrics::SerdeInstant::new(now)));
            metrics.heartbeat = Some(present.iter().map(seen).collect());
            leave_joint(&metrics, Duration::from_secs(60)).map(|next| next.get_joint_config().clone())
        };
        assert_eq!(joint(&[2, 3, 4]), Some(vec![BTreeSet::from([3, 4])]));
        assert_eq!(joint(&[2, 3]), Some(vec![BTreeSet::from([1, 2])]));
        let mut uniform = RaftMetrics::<TypeConfig>::new_initial(1);
        uniform.membership_config = std::sync::Arc::default();
        assert!(leave_joint(&uniform, Duration::from_secs(60)).is_none());
    }
}
