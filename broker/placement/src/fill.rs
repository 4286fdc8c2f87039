//! Placing replicas that must be placed, whatever the reason.

use crate::{
    BlockReason, Blocked, Cluster, Options, PlanError, RackPolicy, choose::mix, racks::Spread, replicas::Replicas,
    state::State, topology::Topology,
};

/// Gives every one of `slots` a broker: the spread over racks comes first, then even loads.
///
/// Each slot first takes the best broker of the moment, the biggest first so that disks and bytes come
/// out even; then racks, then loads are mended by moving these slots among each other's
/// brokers, which costs nothing since they have to be copied anyway. Slots that find no
/// broker stay where they are and are returned.
pub(crate) fn fill(state: &mut State<'_>, mut slots: Vec<u32>, seed: Option<u64>) -> Vec<(u32, BlockReason)> {
    slots.sort_by_key(|slot| (std::cmp::Reverse(state.weight(state.part_of(*slot))), *slot));
    let targets = state.topology.targets();
    let mut blocked = Vec::new();
    for slot in &slots {
        let seed = seed.map_or(0, |seed| mix(seed, u64::from(state.part_of(*slot))));
        match state.choose(*slot, &targets, seed) {
            Ok(broker) => {
                state.put(*slot, Some(broker));
                state.set_movable(*slot);
            }
            Err(reason) => blocked.push((state.part_of(*slot), reason)),
        }
    }
    for slot in slots {
        let part = state.part_of(slot);
        while mend(state, part, &targets, |state, slot| state.is_movable(slot)).is_some() {}
    }
    Replicas::new(state, &targets).even_out();
    blocked
}

/// Moves the one replica of the partition that most improves its spread over racks, of those that `may_go`;
/// none if none improves it. Of equally good ones, a follower on the most loaded broker.
pub(crate) fn mend(
    state: &mut State<'_>,
    part: u32,
    targets: &[usize],
    may_go: impl Fn(&State<'_>, u32) -> bool,
) -> Option<u32> {
    let now = state.spread(part);
    if now.is_even() {
        return None;
    }
    let mut best = None;
    for slot in state.slots(part) {
        let Some(from) = state.broker(slot) else { continue };
        if !may_go(state, slot) {
            continue;
        }
        let Ok(to) = state.choose(slot, targets, 0) else {
            continue;
        };
        let rack = state.topology.rack[to];
        let after = state.spread_with(slot, rack).rank();
        if after >= now.rank() || state.survivors_with(slot, rack) < state.survivors(part) {
            continue;
        }
        let better = best.is_none_or(|(best, best_from, _, best_after)| {
            let leads = |slot| state.leads(slot);
            let heavy = |a: usize, b: usize| state.topology.compare_next(state.loaded(b), state.loaded(a));
            (after, leads(slot))
                .cmp(&(best_after, leads(best)))
                .then_with(|| heavy(from, best_from))
                .is_lt()
        });
        if better {
            best = Some((slot, from, to, after));
        }
    }
    let (slot, _, to, _) = best?;
    state.put(slot, Some(to));
    Some(slot)
}

/// Refuses what can't be where each replica of a partition is to have a rack of its own.
pub(crate) fn check_racks(
    topology: &Topology,
    factors: impl Iterator<Item = usize>,
    options: &Options,
) -> Result<(), PlanError> {
    let racks = topology.usable_racks();
    match factors.max() {
        Some(wanted) if options.racks == RackPolicy::OnePerRack && wanted > racks => {
            Err(PlanError::TooFewRacks { wanted, racks })
        }
        _ => Ok(()),
    }
}

/// How a partition was spread before a plan: what the plan may not make worse.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub part: u32,
    /// The spread and what survives the loss of a rack; none if any spread is better than the one before.
    bound: Option<(Spread, u32)>,
}

impl Before {
    pub fn of(state: &State<'_>, part: u32) -> Self {
        Self {
            part,
            bound: Some((state.spread(part), state.survivors(part))),
        }
    }

    pub fn without_bound(part: u32) -> Self {
        Self { part, bound: None }
    }

    fn allows(self, state: &State<'_>, options: &Options) -> bool {
        let after = state.spread(self.part);
        if options.racks == RackPolicy::OnePerRack && !after.is_even() {
            return false;
        }
        // Evenly spread over the racks that stay is all that can be.
        let survive = |before: u32| after.is_even() || state.survivors(self.part) >= before;
        self.bound
            .is_none_or(|(before, survivors)| after.rank() <= before.rank() && survive(survivors))
    }
}

/// The partitions that would be spread worse than before, or, where each replica is to have its own rack, whose
/// replicas do not.
pub(crate) fn spread_blocks(state: &State<'_>, before: &[Before], options: &Options) -> Vec<(u32, BlockReason)> {
    let bad = before.iter().filter(|before| !before.allows(state, options));
    bad.map(|before| (before.part, BlockReason::RackSpread)).collect()
}

/// An error if any partition is blocked; each is named once.
pub(crate) fn refuse_blocked(cluster: &Cluster, mut blocked: Vec<(u32, BlockReason)>) -> Result<(), PlanError> {
    if blocked.is_empty() {
        return Ok(());
    }
    blocked.sort_by_key(|(part, _)| *part);
    blocked.dedup_by_key(|(part, _)| *part);
    let named = blocked.into_iter().filter_map(|(part, reason)| {
        let partition = cluster.partitions().get(part as usize)?.id;
        Some(Blocked { partition, reason })
    });
    Err(PlanError::Blocked(named.collect()))
}
