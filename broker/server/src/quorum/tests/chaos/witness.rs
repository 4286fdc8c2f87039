//! What voters tell of themselves each time that it changes: who leads, what is applied and committed, who votes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use openraft::{RaftMetrics, ServerState, type_config::async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::super::{
    super::types::{StoredMembership, TypeConfig},
    Node,
};

pub type Set = BTreeSet<u64>;

/// How often something was met that a check needs.
pub type Counts = BTreeMap<&'static str, u64>;

/// Counts what was met `times` times.
pub fn count(counts: &mut Counts, what: &'static str, times: usize) {
    if times > 0 {
        *counts.entry(what).or_default() += times as u64;
    }
}

/// What is known of all voters; clones share it.
#[derive(Clone)]
pub struct Witness(Arc<Mutex<Seen>>);

struct Seen {
    seed: u64,
    counts: Counts,
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// The last entries that each voter had applied and known to be committed, in its last life.
    reached: BTreeMap<u64, (u64, u64)>,
    /// Which sets of voters followed on which.
    changes: BTreeSet<(Set, Set)>,
}

impl Witness {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            seed,
            counts: Counts::default(),
            leaders: BTreeMap::new(),
            reached: BTreeMap::new(),
            changes: BTreeSet::new(),
        })))
    }

    /// Looks at a voter that has just begun a life, until that ends.
    pub fn follow(&self, node: &Node) -> JoinHandle<()> {
        let (id, witness) = (node.id, self.clone());
        let mut metrics = node.quorum.raft().metrics();
        witness.0.lock().reached.remove(&id);
        tokio::spawn(async move {
            loop {
                let present = metrics.borrow_and_update().clone();
                if present.running_state.is_err() {
                    return;
                }
                witness.0.lock().look(id, &present);
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        })
    }

    /// What a voter had applied and known to be committed when it last told; zeros if it never did.
    pub fn reached(&self, id: u64) -> (u64, u64) {
        self.0.lock().reached.get(&id).copied().unwrap_or_default()
    }

    /// Whoever leads a term is the only one.
    pub fn leads(&self, term: u64, leader: u64) {
        self.0.lock().leads(term, leader);
    }

    /// Whoever decides by one set of voters meets those who decide by the next.
    pub fn follows(&self, before: &Set, after: &Set) {
        self.0.lock().follows(before, after);
    }

    /// What was met, with how many terms were led.
    pub fn counts(&self) -> Counts {
        let seen = self.0.lock();
        let mut counts = seen.counts.clone();
        count(&mut counts, "terms led", seen.leaders.len());
        count(&mut counts, "changes of voters", seen.changes.len());
        counts
    }
}

impl Seen {
    fn look(&mut self, id: u64, metrics: &RaftMetrics<TypeConfig>) {
        self.progress(id, metrics);
        if metrics.state != ServerState::Leader {
            return;
        }
        self.leads(metrics.current_term, id);
        let committed = metrics.local_committed.as_ref();
        // Else it does not know yet what before its term is committed.
        if committed.is_some_and(|last| last.leader_id.term == metrics.current_term) {
            let (before, after) = (&metrics.committed_membership_config, &metrics.membership_config);
            self.follows(&voters(before), &voters(after));
        }
    }

    /// What is applied or committed never falls in a life.
    fn progress(&mut self, id: u64, metrics: &RaftMetrics<TypeConfig>) {
        let seed = self.seed;
        let applied = metrics.last_applied.map_or(0, |last| last.index);
        let committed = metrics.local_committed.map_or(0, |last| last.index);
        let known = self.reached.insert(id, (applied, committed));
        let (applied_before, committed_before) = known.unwrap_or_default();
        assert!(
            applied >= applied_before,
            "seed {seed}: applied of voter {id} fell from {applied_before} to {applied}"
        );
        assert!(
            committed >= committed_before,
            "seed {seed}: commit of voter {id} fell from {committed_before} to {committed}"
        );
        let rose = known.is_some() && committed > committed_before;
        count(&mut self.counts, "commits that rose", usize::from(rose));
    }

    fn leads(&mut self, term: u64, leader: u64) {
        let known = *self.leaders.entry(term).or_insert(leader);
        assert_eq!(known, leader, "seed {}: two have led term {term}", self.seed);
    }

    fn follows(&mut self, before: &Set, after: &Set) {
        assert!(
            do_majorities_meet(before, after),
            "seed {}: no majority of {before:?} need meet one of {after:?}",
            self.seed
        );
        if before != after && !before.is_empty() {
            self.changes.insert((before.clone(), after.clone()));
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
