//! Choosing a broker for a replica that needs one.

use crate::{BlockReason, state::State};

/// Mixes two numbers into one that looks random and never changes (SplitMix64's finaliser).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl State<'_> {
    /// The best broker for the slot: that with which the partition is spread best, then the one with the
    /// fewest replicas, then bytes, then replicas of the same topic. `seed` orders those that are equal.
    ///
    /// # Errors
    /// Every broker that may get replicas has one of the partition, or is too full.
    pub fn choose(&mut self, slot: u32, targets: &[usize], seed: u64) -> Result<usize, BlockReason> {
        let part = self.part_of(slot);
        let topology = self.topology;
        let spreads = self.spread_by_rack(slot);
        self.steps += targets.len() as u64;
        let mut best: Option<usize> = None;
        for broker in targets.iter().copied() {
            let better = best.is_none_or(|best| {
                let spread = |at: usize| spreads[topology.rack[at]].rank();
                let tie = |at: usize| {
                    if seed == 0 {
                        at as u64
                    } else {
                        mix(seed, topology.ids[at] as u64)
                    }
                };
                spread(broker)
                    .cmp(&spread(best))
                    .then_with(|| topology.compare_next(self.loaded(broker), self.loaded(best)))
                    .then_with(|| self.compare_bytes(broker, best))
                    .then_with(|| self.of_topic(slot, broker).cmp(&self.of_topic(slot, best)))
                    .then_with(|| tie(broker).cmp(&tie(best)))
                    .is_lt()
            });
            // Asked last, for most brokers are not better than the best so far.
            if better && !self.holds(part, broker) && self.fits(slot, broker) {
                best = Some(broker);
            }
        }
        best.ok_or_else(|| self.why_blocked(slot, targets))
    }

    fn why_blocked(&self, slot: u32, targets: &[usize]) -> BlockReason {
        let part = self.part_of(slot);
        if targets.iter().any(|broker| !self.holds(part, *broker)) {
            return BlockReason::DiskFull {
                bytes: self.weight(part),
                max_disk_percent: self.max_disk_percent,
            };
        }
        let stays = |broker: &usize| !self.topology.states[*broker].is_leaving();
        BlockReason::TooFewBrokers {
            wanted: self.slots(part).len(),
            usable: self.replicas(part).iter().filter(|broker| stays(broker)).count(),
        }
    }
}
