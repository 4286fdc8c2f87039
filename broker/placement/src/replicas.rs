//! Replicas as things to even out: where each may go without harm, and which is the best to move.

use std::cmp::Ordering;

use crate::{
    ByteGoal,
    paths::{Bins, balance},
    shares::Shares,
    state::State,
};

/// The movable replicas of a state.
///
/// A replica may go to a target, or back to where it was, as long as its partition has none there, is not
/// spread worse over racks than now, and the disk has room.
pub(crate) struct Replicas<'s, 't> {
    state: &'s mut State<'t>,
    /// By broker: whether it may get replicas; by rack: those that may.
    is_target: Vec<bool>,
    targets: Vec<Vec<usize>>,
    /// The brokers' fair shares, where moving costs something; none where replicas have to
    /// be placed anyway.
    shares: Option<&'s Shares>,
    bytes: ByteGoal,
}

impl<'s, 't> Replicas<'s, 't> {
    /// Replicas that may go to `targets`.
    pub fn new(state: &'s mut State<'t>, targets: &[usize]) -> Self {
        let topology = state.topology;
        let mut is_target = vec![false; topology.len()];
        let mut by_rack = vec![Vec::new(); topology.members.len()];
        for broker in targets {
            is_target[*broker] = true;
            by_rack[topology.rack[*broker]].push(*broker);
        }
        Self {
            state,
            is_target,
            targets: by_rack,
            shares: None,
            bytes: ByteGoal::Share,
        }
    }

    /// The same, but only for brokers that are too far from their `shares`.
    pub fn within(mut self, shares: &'s Shares, bytes: ByteGoal) -> Self {
        self.shares = Some(shares);
        self.bytes = bytes;
        self
    }

    /// Evens out the number of replicas per broker, relative to weight.
    pub fn even_out(mut self) {
        self.state.steps += balance(&mut self);
    }

    /// Whether the replica was on the broker at the start and may come back: a path on which one replica stays
    /// home in place of another can be the only one.
    fn is_home(&self, slot: u32, broker: usize) -> bool {
        self.state.is_home(slot, broker) && self.state.topology.states[broker].is_target()
    }

    fn may_be_on(&self, slot: u32, broker: usize) -> bool {
        (self.is_target[broker] || self.is_home(slot, broker))
            && !self.state.holds(self.state.part_of(slot), broker)
            && self.state.fits(slot, broker)
    }

    /// The bytes that a replica going from the one to the other should have.
    fn wanted_bytes(&self, from: usize, to: usize) -> u64 {
        match self.shares {
            Some(shares) => shares.bytes_of_next(to, self.state.loaded(to).1, self.state.bytes(to)),
            None => self.state.bytes(from).saturating_sub(self.state.bytes(to)) / 2,
        }
    }
}

impl Bins for Replicas<'_, '_> {
    fn brokers(&self) -> usize {
        self.state.topology.len()
    }

    fn items(&self, broker: usize) -> &[u32] {
        self.state.movable_on(broker)
    }

    fn takes(&self, broker: usize) -> bool {
        self.is_target[broker]
    }

    fn heavier(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (self.state.loaded(a), self.state.loaded(b));
        match (a.1.checked_sub(1), b.1.checked_sub(1)) {
            (Some(fewer_a), Some(fewer_b)) => self.state.topology.compare_next((a.0, fewer_a), (b.0, fewer_b)),
            _ => a.1.cmp(&b.1),
        }
    }

    fn lighter(&self, a: usize, b: usize) -> Ordering {
        let topology = self.state.topology;
        topology
            .compare_next(self.state.loaded(a), self.state.loaded(b))
            .then_with(|| self.state.compare_bytes(a, b))
    }

    fn wanted(&self, from: usize, to: usize) -> bool {
        let state = &self.state;
        state.topology.states[to].is_target()
            && state.topology.evens_out(state.loaded(from), state.loaded(to))
            && self
                .shares
                .is_none_or(|shares| shares.are_off(state.loaded(from), state.loaded(to)))
    }

    fn can_shift(&self, slot: u32, to: usize) -> bool {
        self.may_be_on(slot, to) && self.state.spread_change(slot, self.state.topology.rack[to]) <= 0
    }

    fn reach(&self, slot: u32, seen: &[bool], found: &mut Vec<usize>) {
        for (rack, targets) in self.targets.iter().enumerate() {
            let mut spread_well = None;
            for broker in targets.iter().copied() {
                if seen[broker] || !self.may_be_on(slot, broker) {
                    continue;
                }
                // Asked once for the rack, and only if some broker of it could take the replica.
                if !*spread_well.get_or_insert_with(|| self.state.spread_change(slot, rack) <= 0) {
                    break;
                }
                found.push(broker);
            }
        }
        if let Some(home) = self.state.home(slot)
            && !seen[home]
            && self.can_shift(slot, home)
        {
            found.push(home);
        }
    }

    /// By the spread over racks, the bytes, the replicas of the same topic, whether the replica's broker leads the
    /// partition (so that leaders stay where they are if others can go), the order.
    fn best(&self, from: usize, to: usize) -> Option<u32> {
        let state = &self.state;
        let rack = state.topology.rack[to];
        let wanted = self.wanted_bytes(from, to);
        let mut best = None;
        let able = self.items(from).iter().copied();
        for slot in able.filter(|slot| self.may_be_on(*slot, to)) {
            let spread = state.spread_change(slot, rack);
            if spread > 0 {
                continue;
            }
            let bytes = state.weight(state.part_of(slot));
            let bytes = match self.bytes {
                ByteGoal::Cheapest => bytes,
                // Sizes within an eighth of what is wanted are equally good, so that the rest counts too.
                ByteGoal::Share => bytes.abs_diff(wanted) / (wanted / 8).max(1),
            };
            if best.as_ref().is_some_and(|(best, _)| (spread, bytes) > *best) {
                continue;
            }
            let topics = i64::from(state.of_topic(slot, to)) - i64::from(state.of_topic(slot, from));
            let rank = ((spread, bytes), (topics, state.leads(slot), slot));
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
        }
        best.map(|(_, (_, _, slot))| slot)
    }

    fn shift(&mut self, slot: u32, to: usize) {
        self.state.put(slot, Some(to));
    }
}
