//! How many groups there are, for the metrics.

use std::sync::Arc;

use millrace_engine::group::{GroupState, Groups};
use parking_lot::Mutex;

use crate::metrics::{Metrics, StateLabel};

const STATES: [(GroupState, &str); 4] = [
    (GroupState::Empty, "empty"),
    (GroupState::Assigning, "assigning"),
    (GroupState::Reconciling, "reconciling"),
    (GroupState::Stable, "stable"),
];

/// What one coordinator has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) groups: [usize; STATES.len()],
    members: usize,
}

/// The last census of one coordinator.
pub(super) type Counted = Arc<Mutex<Census>>;

impl Census {
    /// Counts.
    pub(super) fn of(groups: &Groups) -> Self {
        let mut census = Self::default();
        for (_, group) in groups.iter() {
            let state = group.state();
            for ((of, _), count) in STATES.iter().zip(&mut census.groups) {
                *count += usize::from(*of == state);
            }
            census.members += group.members.len();
        }
        census
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.groups.iter().sum()
    }

    /// Tells what all coordinators have together.
    pub(super) fn tell(all: impl Iterator<Item = Self>, metrics: &Metrics) {
        let sum = all.fold(Self::default(), |mut sum, one| {
            for (total, count) in sum.groups.iter_mut().zip(one.groups) {
                *total += count;
            }
            sum.members += one.members;
            sum
        });
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for ((_, state), count) in STATES.iter().zip(sum.groups) {
            metrics.groups.get_or_create(&StateLabel { state }).set(gauge(count));
        }
        metrics.group_members.set(gauge(sum.members));
    }
}
