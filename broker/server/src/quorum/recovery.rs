//! How a quorum begins anew by an operator's word, when most voters' disks are lost for good: offline, on the data
//! directory of one survivor, which becomes the only voter. (etcd has `--force-new-cluster`; Kafka has no such thing.)
//!
//! The survivor's log gets one more entry, the new membership; the others that are left stay members without a vote.
//! If it is the survivor whose log goes furthest (the highest term of a last entry, then the highest index), it has all
//! that any survivor has applied: that was committed, so whoever led the term of its last entry had it, and it has what
//! that leader had up to there (Raft, section 5.4). So the others follow it as they follow any leader, and no survivor
//! has acted on metadata that is gone. What only the lost ones knew is gone.
//!
//! Those taken for lost can't take part any more with what they knew: the survivor draws another state id, so that it
//! refuses whoever knows it as it was, and its term lies far beyond all that they may have used; the others refuse who
//! was removed ([`Quorum::has_removed`](super::Quorum)).

use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use millrace_engine::{BrokerId, Cluster};
use millrace_log::{DirOptions, FileSystem, LogDir, OpenDirError, OsFileSystem};
use openraft::EntryPayload;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    entry_log::EntryLog,
    error::QuorumError,
    handle,
    options::QuorumOptions,
    types::{Entry, LogId, Membership, Vote, log_id},
};

/// How far the new term lies beyond the last one that the survivor knows: the lost ones can't have got there.
const TERMS_AHEAD: u64 = 1_000_000;

/// Why a quorum can't begin anew.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The data directory can't be used.
    #[error(transparent)]
    OpenDir(#[from] OpenDirError),
    /// The metadata log can't be used.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// It must not be, or makes no sense: why, and what to do.
    #[error("{0}")]
    Refused(String),
}

/// A member and its broker; none for one that never registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedMember {
    /// Its number in the quorum.
    pub voter_id: u64,
    /// Its broker.
    pub broker_id: Option<BrokerId>,
}

/// What a survivor has, and what would become of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stake {
    /// The cluster.
    pub cluster_id: String,
    /// The survivor.
    pub survivor: NamedMember,
    /// The term of its last entry.
    pub last_term: u64,
    /// The index of its last entry.
    pub last_index: u64,
    /// How many topics it knows.
    pub topics: usize,
    /// Who votes so far.
    pub voters: Vec<NamedMember>,
    /// Who would be removed.
    pub lost: Vec<NamedMember>,
    /// Who would follow on, without a vote at first.
    pub followers: Vec<NamedMember>,
}

/// Makes the broker with this data directory, which must not run, the only voter of its quorum; `lost` are the brokers
/// whose disks are lost for good. Without `accept_data_loss` nothing is changed, and only what is at stake is returned.
///
/// # Errors
/// [`RecoveryError`]; [`RecoveryError::Refused`] also while the voters that are not lost can decide.
pub fn recover(data_dir: &Path, lost: &BTreeSet<BrokerId>, accept_data_loss: bool) -> Result<Stake, RecoveryError> {
    let members_of = |cluster: &Cluster| {
        let registered = cluster.voters.registered.iter();
        let lost = registered.filter(|(_, identity)| lost.contains(&identity.broker_id));
        lost.map(|(voter_id, _)| *voter_id).collect()
    };
    recover_on(&OsFileSystem::shared(), data_dir, members_of, accept_data_loss)
}

/// As [`recover`], on any file system; `lost` names the members.
pub(super) fn recover_on(
    fs: &Arc<dyn FileSystem>,
    data_dir: &Path,
    lost: impl FnOnce(&Cluster) -> BTreeSet<u64>,
    accept_data_loss: bool,
) -> Result<Stake, RecoveryError> {
    let dir = Arc::new(LogDir::open(fs, data_dir, &DirOptions::default())?);
    let done = recover_in(fs, &dir, lost, accept_data_loss);
    // It is left as it was found.
    if dir.was_clean()
        && let Some(epoch) = dir.stored_broker_epoch()
    {
        let closed = dir.close_clean(epoch);
        closed.map_err(|error| RecoveryError::Refused(error.to_string()))?;
    }
    done
}

fn recover_in(
    fs: &Arc<dyn FileSystem>,
    dir: &Arc<LogDir>,
    lost: impl FnOnce(&Cluster) -> BTreeSet<u64>,
    accept_data_loss: bool,
) -> Result<Stake, RecoveryError> {
    let io = |error: io::Error| QuorumError::io("metadata log")(error);
    let Some(own) = handle::stored_voter_id(&**fs, dir)? else {
        return refuse("this directory never took part in a metadata quorum");
    };
    let directory_id = dir.identity().directory_id;
    let options = QuorumOptions::new(own, directory_id, "", Arc::clone(fs), Arc::clone(dir));
    let (published, snapshot) = watch::channel(Arc::new(Cluster::default()));
    let (log, _, machine) = handle::recover(&options, published)?;
    let mut found = Found {
        cluster: Cluster::clone(&snapshot.borrow()),
        membership: machine.membership().clone(),
    };
    found.read(&log, machine.applied_end()).map_err(io)?;
    let last = log.last().map_err(io)?;
    let Some(last) = last else {
        return refuse("this directory never took part in a metadata quorum");
    };
    let lost = lost(&found.cluster);
    check(&found.membership, own, &lost).map_err(RecoveryError::Refused)?;
    let stake = found.stake(dir.identity().cluster_id.clone(), own, last, &lost);
    if accept_data_loss {
        begin_anew(&log, &found.membership, (own, last), &lost)?;
    }
    Ok(stake)
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, RecoveryError> {
    Err(RecoveryError::Refused(reason.into()))
}

/// The metadata as of the last entry of a log, whether or not that was committed.
struct Found {
    cluster: Cluster,
    membership: Membership,
}

impl Found {
    /// Adds the entries from `next` on.
    fn read(&mut self, log: &EntryLog, next: u64) -> io::Result<()> {
        log.each_from(next, |entry| match entry.payload {
            // A rejected one stands in the log as well.
            EntryPayload::Normal(proposal) => drop(self.cluster.apply(entry.log_id.index, &proposal.0)),
            EntryPayload::Membership(membership) => self.membership = membership,
            EntryPayload::Blank => {}
        })
    }

    fn named(&self, voter_id: u64) -> NamedMember {
        let registered = self.cluster.voters.registered.get(&voter_id);
        NamedMember {
            voter_id,
            broker_id: registered.map(|identity| identity.broker_id),
        }
    }

    fn stake(&self, cluster_id: String, own: u64, last: LogId, lost: &BTreeSet<u64>) -> Stake {
        let members: BTreeSet<u64> = self.membership.nodes().map(|(id, _)| *id).collect();
        let named = |ids: &mut dyn Iterator<Item = u64>| ids.map(|id| self.named(id)).collect::<Vec<_>>();
        Stake {
            cluster_id,
            survivor: self.named(own),
            last_term: last.leader_id.term,
            last_index: last.index,
            topics: self.cluster.topics.len(),
            voters: named(&mut self.membership.voter_ids()),
            lost: named(&mut members.intersection(lost).copied()),
            followers: named(&mut members.difference(lost).copied().filter(|id| *id != own)),
        }
    }
}

/// Whether a survivor may begin anew; in words why not.
fn check(membership: &Membership, own: u64, lost: &BTreeSet<u64>) -> Result<(), String> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    if lost.contains(&own) {
        return Err("this is the directory of a broker that is named as lost".into());
    }
    if membership.get_node(&own).is_none() {
        return Err("this broker is no member of the metadata quorum by its own log: take another survivor".into());
    }
    if membership.get_joint_config().len() > 1 {
        return Err("a change of the voters was left half-way: its two sets can't be told apart here".into());
    }
    let left = voters.difference(lost).count();
    if left > voters.len() / 2 {
        return Err(format!(
            "{left} of {} voters are not lost, which is a majority: start their brokers, the metadata is there",
            voters.len()
        ));
    }
    Ok(())
}

/// First the state that answers to nobody who knew the old one, then the entry: a crash between them leaves a voter that
/// can do nothing, and this can be done again.
fn begin_anew(
    log: &EntryLog,
    membership: &Membership,
    (own, last): (u64, LogId),
    lost: &BTreeSet<u64>,
) -> Result<(), RecoveryError> {
    let io = |error: io::Error| QuorumError::io("metadata log")(error);
    let known = log
        .vote()
        .map_or(0, |vote| vote.leader_id.term)
        .max(last.leader_id.term);
    let term = known + TERMS_AHEAD;
    if i32::try_from(term).is_err() {
        return refuse("the terms of this log are used up");
    }
    let state_id = log.begin_anew(&Vote::new(term, own)).map_err(io)?;
    let entry = Entry {
        log_id: log_id(term, last.index + 1),
        payload: EntryPayload::Membership(without(membership, own, state_id, lost)?),
    };
    log.append(&[entry]).and_then(|()| log.flush()).map_err(io)?;
    Ok(())
}

fn without(membership: &Membership, own: u64, state_id: Uuid, lost: &BTreeSet<u64>) -> Result<Membership, QuorumError> {
    let left = membership.nodes().filter(|(id, _)| !lost.contains(id));
    let nodes = left.map(|(id, voter)| {
        let mut voter = voter.clone();
        if *id == own {
            voter.state_id = state_id;
        }
        (*id, voter)
    });
    let nodes: std::collections::BTreeMap<_, _> = nodes.collect();
    Membership::new(vec![BTreeSet::from([own])], nodes).map_err(|error| QuorumError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::types::Voter, *};

    fn membership(voters: &[u64], learners: &[u64]) -> Membership {
        let nodes: BTreeMap<u64, Voter> = voters
            .iter()
            .chain(learners)
            .map(|id| (*id, Voter::default()))
            .collect();
        Membership::new(vec![voters.iter().copied().collect()], nodes).unwrap()
    }

    #[test]
    fn only_a_lost_majority_is_given_up() {
        let judged = |own, lost: &[u64]| check(&membership(&[1, 2, 3], &[4]), own, &lost.iter().copied().collect());
        judged(1, &[2, 3]).unwrap();
        judged(4, &[1, 2]).unwrap();
        judged(4, &[1, 2, 3]).unwrap();
        for (own, lost, why) in [
            (1, &[2][..], "is a majority"),
            (1, &[], "is a majority"),
            (1, &[2, 4], "is a majority"),
            (1, &[1, 2], "named as lost"),
            (9, &[1, 2], "no member"),
        ] {
            let reason = judged(own, lost).unwrap_err();
            assert!(reason.contains(why), "{own} {lost:?}: {reason}");
        }
    }

    #[test]
    fn who_is_left_stays_a_member_and_the_survivor_is_another() {
        let next = without(
            &membership(&[1, 2, 3], &[4]),
            1,
            Uuid::from_u128(7),
            &BTreeSet::from([2]),
        )
        .unwrap();
        assert_eq!(next.get_joint_config(), &[BTreeSet::from([1])]);
        let members: Vec<(u64, Uuid)> = next.nodes().map(|(id, voter)| (*id, voter.state_id)).collect();
        assert_eq!(members, [(1, Uuid::from_u128(7)), (3, Uuid::nil()), (4, Uuid::nil())]);
    }
}
