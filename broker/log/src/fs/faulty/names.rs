//! One directory of the faulty disk: its names now, its names on the disk, and the changes in between.

use std::collections::BTreeMap;

use super::plan::FaultPlan;
use super::rng::SplitMix64;
use super::state::Node;

#[derive(Clone)]
enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
pub(super) struct Directory {
    pub current: BTreeMap<String, Node>,
    /// The names that a crash would leave if it lost all that was not synced.
    pub durable: BTreeMap<String, Node>,
    dirty: Vec<Change>,
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Link(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

impl Directory {
    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.dirty.push(change);
    }

    pub(super) fn link(&mut self, name: &str, node: Node) {
        self.change(Change::Link(name.to_owned(), node));
    }

    pub(super) fn unlink(&mut self, name: &str) {
        self.change(Change::Unlink(name.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
    }

    pub(super) fn sync(&mut self) {
        self.dirty.clear();
        self.durable = self.current.clone();
    }

    /// Every node that some crash could bring back.
    pub(super) fn reachable_after_crash(&self) -> impl Iterator<Item = &Node> {
        self.durable
            .values()
            .chain(self.dirty.iter().filter_map(|change| match change {
                Change::Link(_, node) => Some(node),
                _ => None,
            }))
    }

    /// Each unsynced change is kept or lost by itself: POSIX orders nothing between two names.
    pub(super) fn crash(&mut self, rng: &mut SplitMix64, plan: &FaultPlan) {
        for change in std::mem::take(&mut self.dirty) {
            if !plan.lose_all_unsynced && rng.below(2) == 0 {
                apply(&mut self.durable, &change);
            }
        }
        self.current = self.durable.clone();
    }
}
