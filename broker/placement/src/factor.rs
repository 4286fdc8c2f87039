//! Giving topics another replication factor.

use std::{cmp::Ordering, collections::BTreeMap};

use uuid::Uuid;

use crate::{
    BrokerState, Cluster, Options, Plan, PlanError,
    fill::{Before, check_racks, fill, refuse_blocked, spread_blocks},
    paths::{Bins, balance},
    shares::planned,
    state::State,
    topology::Topology,
};

/// Gives every partition of the topics in `factors` as many replicas as it says.
///
/// New replicas come last in the list, so that no leader changes; they go where the partition is spread best over
/// racks, then where loads come out even. Replicas that go leave the rest spread best; of equal
/// ones those on leaving and fenced brokers go first, the leader and the preferred leader last, and
/// then those on the brokers with most. Replicas on gone brokers go before all others.
/// Partitions that have the right number already stay as they are.
///
/// # Errors
/// [`PlanError::NoReplicas`] for a factor of zero, [`PlanError::UnknownTopic`], [`PlanError::TooFewBrokers`] for a factor
/// above the number of brokers whatever their state, [`PlanError::Blocked`] with every
/// partition for which there are too few active brokers or none with room. Where each replica is to have its own
/// rack: [`PlanError::TooFewRacks`], or [`PlanError::Blocked`] if only some brokers' states or disks prevent it.
pub fn change_replication_factor(
    cluster: &Cluster,
    factors: &BTreeMap<Uuid, usize>,
    options: &Options,
) -> Result<Plan, PlanError> {
    if factors.values().any(|factor| *factor == 0) {
        return Err(PlanError::NoReplicas);
    }
    let partitions = cluster.partitions();
    let has_topic = |topic: &Uuid| partitions.binary_search_by(|probe| probe.id.topic.cmp(topic)).is_ok();
    if let Some(topic) = factors.keys().find(|topic| !has_topic(topic)) {
        return Err(PlanError::UnknownTopic { topic: *topic });
    }
    let topology = Topology::new(cluster.brokers(), options);
    // Before room is made for so many.
    if let Some(wanted) = factors.values().copied().find(|factor| *factor > topology.len()) {
        let usable = topology.targets().len();
        return Err(PlanError::TooFewBrokers { wanted, usable });
    }
    check_racks(&topology, factors.values().copied(), options)?;
    let factor = |at: usize| {
        let partition = &partitions[at];
        let stays = partition.replicas.len();
        factors.get(&partition.id.topic).copied().unwrap_or(stays)
    };
    let mut state = State::of(cluster, &topology, options, |partition| {
        let stays = partition.replicas.len();
        factors.get(&partition.id.topic).copied().unwrap_or(stays)
    });
    let (mut changed, mut missing, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for (part, partition) in (0u32..).zip(partitions) {
        let (has, wanted) = (partition.replicas.len(), factor(part as usize));
        if has == wanted {
            continue;
        }
        changed.push(Before::without_bound(part));
        missing.extend(state.slots(part).skip(has));
        for _ in wanted..has {
            if let Some(slot) = first_to_go(&state, part) {
                state.put(slot, None);
                dropped.push(slot);
            }
        }
    }
    let mut drops = Drops::new(&mut state, dropped);
    let steps = balance(&mut drops);
    state.steps += steps;
    let mut blocked = fill(&mut state, missing, None);
    blocked.extend(spread_blocks(&state, &changed, options));
    refuse_blocked(cluster, blocked)?;
    Ok(planned(cluster, &state, options))
}

/// Why a replica goes rather than another, whatever their racks and loads; the lowest goes first.
fn worth(state: &State<'_>, slot: u32) -> (bool, u8, bool, bool) {
    let home = state.home(slot);
    let broker = home.map(|at| state.topology.states[at]);
    let class = match broker {
        Some(BrokerState::Gone | BrokerState::Draining) => 0,
        Some(BrokerState::Fenced) => 1,
        _ => 2,
    };
    let part = state.part_of(slot);
    let leads = home.is_some() && home == state.leader(part);
    (
        broker != Some(BrokerState::Gone),
        class,
        leads,
        slot == state.slots(part).start,
    )
}

fn first_to_go(state: &State<'_>, part: u32) -> Option<u32> {
    let here = state.slots(part).filter_map(|slot| Some((slot, state.broker(slot)?)));
    here.min_by(|(a, at_a), (b, at_b)| {
        let rank = |slot: u32| {
            let (stays, class, leads, first) = worth(state, slot);
            (stays, state.spread_without(slot).rank(), class, leads, first)
        };
        rank(*a)
            .cmp(&rank(*b))
            .then_with(|| state.topology.compare_next(state.loaded(*at_b), state.loaded(*at_a)))
            .then(b.cmp(a))
    })
    .map(|(slot, _)| slot)
}

/// Dropped replicas as things to even out: one more of them at a broker is one replica less there.
struct Drops<'s, 't> {
    state: &'s mut State<'t>,
    /// By drop: the slot that is empty for it.
    slots: Vec<u32>,
    on: Vec<Vec<u32>>,
}

impl<'s, 't> Drops<'s, 't> {
    fn new(state: &'s mut State<'t>, slots: Vec<u32>) -> Self {
        let mut on = vec![Vec::new(); state.topology.len()];
        for (drop, slot) in (0u32..).zip(&slots) {
            if let Some(home) = state.home(*slot) {
                on[home].push(drop);
            }
        }
        Self { state, slots, on }
    }

    /// The slot of the drop's partition that is still on the broker.
    fn kept_on(&self, drop: u32, broker: usize) -> Option<u32> {
        let part = self.state.part_of(self.slots[drop as usize]);
        self.state
            .slots(part)
            .find(|slot| self.state.broker(*slot) == Some(broker))
    }
}

impl Bins for Drops<'_, '_> {
    fn brokers(&self) -> usize {
        self.state.topology.len()
    }

    fn items(&self, broker: usize) -> &[u32] {
        &self.on[broker]
    }

    fn takes(&self, _broker: usize) -> bool {
        true
    }

    fn heavier(&self, a: usize, b: usize) -> Ordering {
        let state = &self.state;
        state.topology.compare_next(state.loaded(b), state.loaded(a))
    }

    fn lighter(&self, a: usize, b: usize) -> Ordering {
        self.heavier(a, b)
    }

    fn wanted(&self, from: usize, to: usize) -> bool {
        let state = &self.state;
        state.topology.evens_out(state.loaded(to), state.loaded(from))
    }

    fn can_shift(&self, drop: u32, to: usize) -> bool {
        let slot = self.slots[drop as usize];
        let (Some(other), Some(home)) = (self.kept_on(drop, to), self.state.home(slot)) else {
            return false;
        };
        let state = &self.state;
        let now = state.spread(state.part_of(slot)).rank();
        worth(state, slot) == worth(state, other) && state.spread_with(other, state.topology.rack[home]).rank() <= now
    }

    fn reach(&self, drop: u32, seen: &[bool], found: &mut Vec<usize>) {
        let part = self.state.part_of(self.slots[drop as usize]);
        let brokers = self.state.slots(part).filter_map(|slot| self.state.broker(slot));
        found.extend(brokers.filter(|broker| !seen[*broker] && self.can_shift(drop, *broker)));
    }

    fn best(&self, from: usize, to: usize) -> Option<u32> {
        self.on[from].iter().copied().find(|drop| self.can_shift(*drop, to))
    }

    fn shift(&mut self, drop: u32, to: usize) {
        let slot = self.slots[drop as usize];
        let (Some(other), Some(home)) = (self.kept_on(drop, to), self.state.home(slot)) else {
            return;
        };
        self.state.put(other, None);
        self.state.put(slot, Some(home));
        self.slots[drop as usize] = other;
        if let Ok(place) = self.on[home].binary_search(&drop) {
            self.on[home].remove(place);
        }
        if let Err(place) = self.on[to].binary_search(&drop) {
            self.on[to].insert(place, drop);
        }
    }
}
