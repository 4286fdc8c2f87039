//! What must hold of all voters at any moment, in all their lives.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use millrace_engine::Cluster;
use millrace_log::FaultyFileSystem;
use millrace_proto::batch::crc::crc32c;
use openraft::EntryPayload;

use super::{
    super::{
        super::{entry_log::EntryLog, state_file::QuorumState, types::Entry, types::Voter},
        Node, eventually,
        router::Said,
    },
    traffic::Durable,
    witness::{Counts, Set, Witness, count},
};

/// What was seen of all voters, in all their lives.
pub struct Observer {
    pub seed: u64,
    pub witness: Witness,
    counts: Counts,
    /// The entry of each (term, index), and who had it first.
    entries: BTreeMap<(u64, u64), (Entry, u64)>,
    /// The term of the committed entry at each index.
    chosen: BTreeMap<u64, u64>,
    /// The term of the entry at each index of each voter's log, when it was last looked at.
    logs: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// The checksum of the state after the change at each index, and who had it first.
    states: BTreeMap<u64, (u32, u64)>,
    /// For whom each voter has voted in each term. No number is ever given to a second disk.
    votes: BTreeMap<(u64, u64), u64>,
    /// Who each number stands for.
    numbers: BTreeMap<u64, Voter>,
    /// What those that do not run must have on their disks.
    left: BTreeMap<u64, Left>,
}

/// How a log was when its voter's life ended. Both are indexes after the last entry.
struct Left {
    written: u64,
    /// Of entries that were on the disk and known to be committed.
    kept: u64,
}

impl Observer {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            witness: Witness::new(seed),
            counts: Counts::default(),
            entries: BTreeMap::new(),
            chosen: BTreeMap::new(),
            logs: BTreeMap::new(),
            states: BTreeMap::new(),
            votes: BTreeMap::new(),
            numbers: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    pub fn count(&mut self, what: &'static str, times: usize) {
        count(&mut self.counts, what, times);
    }

    /// How often something was met that a check needs.
    pub fn counts(&self) -> Counts {
        let mut counts = self.witness.counts();
        counts.extend(&self.counts);
        count(&mut counts, "votes", self.votes.len());
        counts
    }

    /// Looks at a voter that runs.
    pub async fn look(&mut self, node: &Node) {
        let seed = self.seed;
        self.states_on_disk(node.gate.take_states());
        let failure = node.quorum.failed().borrow().clone();
        assert_eq!(failure, None, "seed {seed}: voter {} failed by itself", node.id);
        self.is_all_there(node).await;
        self.log(node);
        self.state(node.id, &node.quorum.cluster());
    }

    /// What voters brought onto their disks before anyone heard of it.
    pub fn states_on_disk(&mut self, states: Vec<QuorumState>) {
        for state in states {
            let Some(vote) = state.vote() else { continue };
            let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
            if vote.committed {
                self.witness.leads(term, candidate);
            } else {
                self.votes(state.voter_id(), term, candidate);
            }
        }
    }

    /// What voters have said to each other.
    pub fn said(&mut self, said: impl IntoIterator<Item = Said>) {
        for said in said {
            match said {
                Said::Vote { voter, term, candidate } => self.votes(voter, term, candidate),
                Said::Leads { term, leader } => self.witness.leads(term, leader),
            }
        }
    }

    /// One vote for each voter and term, through all restarts.
    fn votes(&mut self, voter: u64, term: u64, candidate: u64) {
        let known = *self.votes.entry((voter, term)).or_insert(candidate);
        let seed = self.seed;
        assert_eq!(
            known, candidate,
            "seed {seed}: voter {voter} has voted twice in term {term}"
        );
    }

    /// A voter ends a life with this log.
    pub fn ended(&mut self, id: u64, log: &EntryLog) {
        let (_, committed) = self.witness.reached(id);
        let left = Left {
            written: log.end(),
            kept: log.flushed_end().min(committed + 1),
        };
        self.left.insert(id, left);
    }

    /// A voter begins another life.
    pub fn began(&mut self, node: &Node) {
        let Some(Left { written, kept }) = self.left.remove(&node.id) else {
            return;
        };
        let (seed, id, found) = (self.seed, node.id, node.quorum.found_end());
        assert!(
            found >= kept || newest_snapshot(&node.disk) + 1 >= kept,
            "seed {seed}: voter {id} had flushed committed entries below {kept}, it came back with those below {found}"
        );
        self.count("restarts with a lost tail", usize::from(found < written));
    }

    /// Nothing is given up that no snapshot on the disk has, and what is committed is there.
    async fn is_all_there(&mut self, node: &Node) {
        let (seed, id) = (self.seed, node.id);
        let (log, (_, committed)) = (node.quorum.log(), self.witness.reached(id));
        if let Some(purged) = log.purged() {
            let (purged, snapshot) = (purged.index, newest_snapshot(&node.disk));
            assert!(
                purged <= snapshot,
                "seed {seed}: voter {id} gave up entries to {purged}, its snapshot has those to {snapshot}"
            );
            self.count("purged logs", 1);
        }
        // What comes with a snapshot is known to be committed a moment before the snapshot is there.
        eventually(|| committed < log.end().max(1) || committed <= newest_snapshot(&node.disk)).await;
    }

    /// No log id names two entries, no index has two that are committed, and none that is committed is replaced.
    fn log(&mut self, node: &Node) {
        let (seed, id) = (self.seed, node.id);
        let (applied, _) = self.witness.reached(id);
        // A log that is being given up or cut at this moment is looked at the next time.
        let Ok(entries) = node.quorum.log().read(0..u64::MAX, usize::MAX) else {
            return;
        };
        // What a snapshot has may stand in the log otherwise for a moment, until it is given up.
        let from_log = node.quorum.log().snapshot_end()..=applied;
        let mut terms = BTreeMap::new();
        let mut voters: Option<Set> = None;
        for entry in entries {
            let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
            terms.insert(index, term);
            if let EntryPayload::Membership(membership) = &entry.payload {
                for (number, voter) in membership.nodes() {
                    self.number(*number, voter);
                }
                let next = membership.voter_ids().collect();
                if let Some(before) = voters.replace(next) {
                    self.witness.follows(&before, voters.as_ref().unwrap());
                }
            }
            if from_log.contains(&index) {
                let chosen = *self.chosen.entry(index).or_insert(term);
                assert_eq!(chosen, term, "seed {seed}: two entries are committed at {index}");
            }
            let (known, first) = self.entries.entry((term, index)).or_insert_with(|| (entry.clone(), id));
            assert_eq!(*known, entry, "seed {seed}: ({term}, {index}) names two entries");
            let compared = usize::from(*first != id);
            self.count("entries compared", compared);
        }
        self.replaced(id, &terms);
        self.logs.insert(id, terms);
    }

    fn replaced(&mut self, id: u64, terms: &BTreeMap<u64, u64>) {
        let before = self.logs.remove(&id).unwrap_or_default();
        for (index, term) in before {
            if terms.get(&index).is_none_or(|now| *now == term) {
                continue;
            }
            let seed = self.seed;
            let chosen = self.chosen.get(&index);
            assert_ne!(
                chosen,
                Some(&term),
                "seed {seed}: voter {id} replaced its entry {index}, which is committed"
            );
            self.count("entries replaced", 1);
        }
    }

    /// No number is given to two.
    fn number(&mut self, id: u64, voter: &Voter) {
        let known = self.numbers.entry(id).or_insert_with(|| voter.clone());
        assert_eq!(known, voter, "seed {}: number {id} was given twice", self.seed);
    }

    /// Who has applied as much has the same state.
    fn state(&mut self, id: u64, cluster: &Cluster) {
        let (seed, version) = (self.seed, cluster.version);
        let state = crc32c(&serde_json::to_vec(cluster).unwrap());
        let (known, first) = *self.states.entry(version).or_insert((state, id));
        assert_eq!(
            known, state,
            "seed {seed}: states of {first} and {id} after entry {version} differ"
        );
        self.count("states compared", usize::from(first != id));
    }

    /// What was acknowledged was on the disks of a majority when that was said.
    pub fn acknowledged(&mut self, acknowledged: &[Durable]) {
        for Durable { index, disks, sets } in acknowledged {
            let has = |set: &Set| set.intersection(disks).count() > set.len() / 2;
            assert!(
                sets.iter().any(has),
                "seed {}: entry {index} was acknowledged with {disks:?} of {sets:?}",
                self.seed
            );
        }
        self.count("acknowledged entries", acknowledged.len());
    }
}

/// The last entry in the newest snapshot that a power cut would leave; 0 if there is none.
fn newest_snapshot(disk: &FaultyFileSystem) -> u64 {
    for _ in 0..200 {
        let mut files: Vec<PathBuf> = disk.list_files().into_iter().map(|(path, _)| path).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        // The newest may not be durable yet.
        let durable = |path: &PathBuf| disk.durable_contents(path).is_ok_and(|bytes| is_whole(&bytes));
        if let Some(path) = files.iter().rev().find(|path| durable(path)) {
            return last_in(path);
        }
        if files.is_empty() {
            return 0;
        }
        // They may have been pruned since they were listed: then there is a newer one.
        std::thread::sleep(Duration::from_micros(100));
    }
    0
}

/// The last entry in a snapshot, by its name.
fn last_in(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split_once('-').unwrap().0.parse().unwrap()
}

/// By the checksum at the end of a snapshot: to decode each one would take most of a run.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(split) = bytes.len().checked_sub("\ncrc32c 01234567\n".len()) else {
        return false;
    };
    let (contents, trailer) = bytes.split_at(split);
    trailer == format!("\ncrc32c {:08x}\n", crc32c(contents)).as_bytes()
}
