//! How the partitions of a state are spread over racks, and how they would be.

use crate::{racks::Spread, state::State, topology::NONE};

impl State<'_> {
    /// By known rack: the partition's replicas there without `skip`; then those elsewhere.
    fn counts(&self, part: u32, skip: u32) -> (Vec<u32>, u32) {
        let known = self.topology.racks.len();
        let mut counts = vec![0; known];
        let mut unknown = 0;
        for slot in self.slots(part) {
            if slot == skip {
                continue;
            }
            let Some(broker) = self.broker(slot) else { continue };
            match counts.get_mut(self.topology.rack[broker]) {
                Some(count) => *count += 1,
                None => unknown += 1,
            }
        }
        (counts, unknown)
    }

    pub fn judge(&self, part: u32) -> Spread {
        let (counts, unknown) = self.counts(part, NONE);
        self.quota(part).judge(&counts, unknown)
    }

    /// How the slot's partition would be spread without the slot.
    pub fn spread_without(&self, slot: u32) -> Spread {
        let part = self.part_of(slot);
        let (counts, unknown) = self.counts(part, slot);
        self.quota(part).judge(&counts, unknown)
    }

    fn counts_with(&self, slot: u32, rack: usize) -> (Vec<u32>, u32) {
        let (mut counts, mut unknown) = self.counts(self.part_of(slot), slot);
        match counts.get_mut(rack) {
            Some(count) => *count += 1,
            None => unknown += 1,
        }
        (counts, unknown)
    }

    /// How the slot's partition would be spread without the slot and with one more replica in `rack`.
    pub fn spread_with(&self, slot: u32, rack: usize) -> Spread {
        let (counts, unknown) = self.counts_with(slot, rack);
        self.quota(self.part_of(slot)).judge(&counts, unknown)
    }

    /// The replicas of known rack that the loss of one rack leaves.
    pub fn survivors(&self, part: u32) -> u32 {
        survivors(&self.counts(part, NONE).0)
    }

    /// The same if the slot were in `rack`.
    pub fn survivors_with(&self, slot: u32, rack: usize) -> u32 {
        survivors(&self.counts_with(slot, rack).0)
    }

    /// By rack, the unknown one last: how the slot's partition would be spread if the slot were there.
    pub fn spread_by_rack(&self, slot: u32) -> Vec<Spread> {
        let part = self.part_of(slot);
        let quota = self.quota(part);
        let (counts, unknown) = self.counts(part, slot);
        let without = quota.judge(&counts, unknown);
        let bounds = quota.bounds(unknown);
        let mut spreads: Vec<Spread> = (0..counts.len())
            .map(|rack| Spread {
                surplus: without.surplus + u32::from(counts[rack] >= bounds.high[rack]),
                deficit: without.deficit - u32::from(counts[rack] < bounds.low[rack]),
            })
            .collect();
        spreads.push(quota.judge(&counts, unknown + 1));
        spreads
    }

    /// How much further from even the slot's partition would be if the slot were in `rack`: negative is better,
    /// more than 0 puts too many replicas into a rack or leaves too few in one.
    pub fn spread_change(&self, slot: u32, rack: usize) -> i64 {
        let part = self.part_of(slot);
        let Some(broker) = self.broker(slot) else { return 0 };
        let topology = self.topology;
        let from = topology.rack[broker];
        if from == rack {
            return 0;
        }
        let now = self.spread(part);
        let quota = self.quota(part);
        if !now.is_even() || !topology.is_known(from) || !topology.is_known(rack) {
            let (counts, unknown) = self.counts(part, slot);
            let full = match counts.get(rack) {
                Some(count) => *count >= quota.bounds(unknown).high[rack],
                None => unknown >= quota.allowed_unknown(),
            };
            // Too many here instead of too many there may count the same, but can be a greater loss.
            if full || self.survivors_with(slot, rack) < self.survivors(part) {
                return 1;
            }
            return i64::from(self.spread_with(slot, rack).sum()) - i64::from(now.sum());
        }
        // An even partition stays so if neither of the two racks leaves its bounds.
        let (mut here, mut there, mut unknown) = (0, 0, 0);
        for other in self.slots(part) {
            let Some(broker) = self.broker(other) else { continue };
            let at = topology.rack[broker];
            here += u32::from(at == from);
            there += u32::from(at == rack);
            unknown += u32::from(!topology.is_known(at));
        }
        let bounds = quota.bounds(unknown);
        i64::from(here <= bounds.low[from] || there >= bounds.high[rack])
    }
}

/// Of replicas by rack, those that the loss of the fullest rack leaves.
fn survivors(counts: &[u32]) -> u32 {
    counts.iter().sum::<u32>() - counts.iter().max().unwrap_or(&0)
}
