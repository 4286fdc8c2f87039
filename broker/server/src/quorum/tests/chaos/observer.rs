//! What must hold of all voters at any moment, in all their lives.

use std::collections::{BTreeMap, BTreeSet};

use millrace_log::FaultyFileSystem;
use openraft::{EntryPayload, RaftMetrics, ServerState, type_config::async_runtime::watch::WatchReceiver};
use uuid::Uuid;

use super::{
    super::{
        super::{
            snapshot::Snapshot,
            state_file::QuorumState,
            types::{Entry, StoredMembership, TypeConfig, Voter},
        },
        Node, eventually,
    },
    traffic::Durable,
};

type Set = BTreeSet<u64>;

/// What was seen of all voters, in all their lives.
#[derive(Default)]
pub struct Observer {
    pub seed: u64,
    /// The entry of each (term, index).
    pub entries: BTreeMap<(u64, u64), Entry>,
    /// The term of the committed entry at each index.
    chosen: BTreeMap<u64, u64>,
    /// The state after the change at each index.
    states: BTreeMap<u64, String>,
    /// The last entries that each voter had applied and known to be committed, in its present life.
    reached: BTreeMap<u64, (u64, u64)>,
    /// For whom each voter with each disk has voted in each term.
    votes: BTreeMap<(u64, Uuid, u64), u64>,
    /// Who led each term.
    pub leaders: BTreeMap<u64, u64>,
    /// Who each number stands for.
    numbers: BTreeMap<u64, Voter>,
}

impl Observer {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Looks at a voter that runs.
    pub async fn look(&mut self, node: &Node) {
        let seed = self.seed;
        self.votes(node.gate.take_states());
        let failure = node.quorum.failed().borrow().clone();
        assert_eq!(failure, None, "seed {seed}: voter {} failed by itself", node.id);
        self.progress(node).await;
        self.log(node);
        let cluster = node.quorum.cluster();
        let state = serde_json::to_string(&*cluster).unwrap();
        let known = self.states.entry(cluster.version).or_insert_with(|| state.clone());
        assert_eq!(*known, state, "seed {seed}: states after {} differ", cluster.version);
        let metrics = node.quorum.raft().metrics().borrow_watched().clone();
        self.members(node.id, &metrics);
    }

    /// One vote for each voter, disk and term, and one leader for each term, through all restarts.
    pub fn votes(&mut self, states: Vec<QuorumState>) {
        for state in states {
            let Some(vote) = state.vote() else { continue };
            let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
            if vote.committed {
                self.leads(term, candidate);
                continue;
            }
            let key = (state.voter_id(), state.state_id(), term);
            let known = *self.votes.entry(key).or_insert(candidate);
            assert_eq!(known, candidate, "seed {}: {key:?} has voted twice", self.seed);
        }
    }

    fn leads(&mut self, term: u64, leader: u64) {
        let known = *self.leaders.entry(term).or_insert(leader);
        assert_eq!(known, leader, "seed {}: two have led term {term}", self.seed);
    }

    /// A voter begins another life.
    pub fn restarts(&mut self, id: u64) {
        self.reached.remove(&id);
    }

    /// What is applied or committed never falls in a life, and is there; nothing is given up that no
    /// snapshot on the disk has.
    async fn progress(&mut self, node: &Node) {
        let (seed, id) = (self.seed, node.id);
        let log = node.quorum.log();
        let purged = log.purged().map_or(0, |last| last.index);
        let snapshot = newest_snapshot(&node.disk);
        assert!(
            purged <= snapshot,
            "seed {seed}: voter {id} gave up entries to {purged}, its snapshot has those to {snapshot}"
        );
        let status = node.quorum.status();
        let (applied, committed) = (status.applied_index.unwrap_or(0), status.committed_index.unwrap_or(0));
        let (applied_before, committed_before) = self.reached.insert(id, (applied, committed)).unwrap_or_default();
        assert!(applied >= applied_before, "seed {seed}: applied of voter {id} fell");
        assert!(
            committed >= committed_before,
            "seed {seed}: commit of voter {id} fell from {committed_before} to {committed}"
        );
        // What comes with a snapshot is known to be committed a moment before the snapshot is there.
        eventually(|| committed < log.end().max(1) || committed <= newest_snapshot(&node.disk)).await;
    }

    /// No log id names two entries, and no index has two that are committed.
    fn log(&mut self, node: &Node) {
        let seed = self.seed;
        let committed = self.reached.get(&node.id).map_or(0, |(_, committed)| *committed);
        // A log that is being given up or cut at this moment is looked at the next time.
        let Ok(entries) = node.quorum.log().read(0..u64::MAX, usize::MAX) else {
            return;
        };
        for entry in entries {
            let id = (entry.log_id.leader_id.term, entry.log_id.index);
            if let EntryPayload::Membership(membership) = &entry.payload {
                for (number, voter) in membership.nodes() {
                    self.number(*number, voter);
                }
            }
            if id.1 <= committed {
                let chosen = *self.chosen.entry(id.1).or_insert(id.0);
                assert_eq!(chosen, id.0, "seed {seed}: two entries are committed at {}", id.1);
            }
            let known = self.entries.entry(id).or_insert_with(|| entry.clone());
            assert_eq!(*known, entry, "seed {seed}: {id:?} names two entries");
        }
    }

    /// No number is given to two.
    fn number(&mut self, id: u64, voter: &Voter) {
        let known = self.numbers.entry(id).or_insert_with(|| voter.clone());
        assert_eq!(known, voter, "seed {}: number {id} was given twice", self.seed);
    }

    /// One leader for each term; and whoever leads goes from one set of voters to the next only where
    /// any majorities of the two meet.
    fn members(&mut self, id: u64, metrics: &RaftMetrics<TypeConfig>) {
        if metrics.state != ServerState::Leader {
            return;
        }
        self.leads(metrics.current_term, id);
        let committed = metrics.local_committed.as_ref();
        // Else it does not know yet what before its term is committed.
        if committed.is_some_and(|last| last.leader_id.term == metrics.current_term) {
            let (before, after) = (
                voters(&metrics.committed_membership_config),
                voters(&metrics.membership_config),
            );
            assert!(
                do_majorities_meet(&before, &after),
                "seed {}: no majority of {before:?} need meet one of {after:?}",
                self.seed
            );
        }
    }

    /// What was acknowledged was on the disks of a majority when that was said: of the voters that are
    /// committed, or of those that follow on them.
    pub fn acknowledged(&self, acknowledged: &[Durable]) {
        for Durable { index, disks, sets } in acknowledged {
            let has = |set: &Set| set.intersection(disks).count() > set.len() / 2;
            assert!(
                sets.iter().any(has),
                "seed {}: entry {index} was acknowledged with {disks:?} of {sets:?}",
                self.seed
            );
        }
    }
}

/// The voters of a membership; here none is ever joint.
pub fn voters(membership: &StoredMembership) -> Set {
    membership.voter_ids().collect()
}

/// Whether each majority of one set meets each of the other: two that do not would take half of each from where the
/// other is not, and share what both then lack.
fn do_majorities_meet(one: &Set, other: &Set) -> bool {
    let lacks = |set: &Set, than: &Set| (set.len() / 2 + 1).saturating_sub(set.difference(than).count());
    lacks(one, other) + lacks(other, one) > one.intersection(other).count()
}

/// The last entry in the newest snapshot that a power cut would leave; 0 if there is none.
fn newest_snapshot(disk: &FaultyFileSystem) -> u64 {
    loop {
        let mut files: Vec<_> = disk.list_files().into_iter().map(|(path, _)| path).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        // The newest may not be durable yet.
        for path in files.iter().rev() {
            if let Ok(bytes) = disk.durable_contents(path) {
                return Snapshot::decode(&bytes).unwrap().last.index;
            }
        }
        if files.len() < 2 {
            return 0;
        }
        // They were pruned since they were listed: there is a newer one.
        std::thread::yield_now();
    }
}

#[test]
fn majorities_meet_where_sets_differ_by_one() {
    let set = |ids: &[u64]| ids.iter().copied().collect::<Set>();
    for (one, other, meet) in [
        (&[1, 2, 3][..], &[1, 2, 3][..], true),
        (&[1, 2, 3], &[1, 2], true),
        (&[1, 2, 3], &[1, 2, 3, 4], true),
        (&[1], &[1, 2], true),
        (&[1, 2, 3], &[1, 2, 4], false),
        (&[1, 2, 3, 4, 5], &[1, 2, 3], false),
        (&[1], &[2], false),
        (&[], &[1], true),
    ] {
        let (one, other) = (set(one), set(other));
        assert_eq!(do_majorities_meet(&one, &other), meet, "{one:?} {other:?}");
        assert_eq!(do_majorities_meet(&other, &one), meet, "{other:?} {one:?}");
    }
}
