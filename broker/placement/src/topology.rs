//! The brokers by index instead of by name.

use std::cmp::Ordering;

use crate::{Broker, BrokerState, Options};

/// No broker.
pub(crate) const NONE: u32 = u32::MAX;

/// Brokers and racks as indices: brokers by number, racks by name, and one more "rack" at the end for
/// the brokers whose rack is not known.
pub(crate) struct Topology {
    pub ids: Vec<i32>,
    pub states: Vec<BrokerState>,
    pub weights: Vec<u64>,
    /// By broker: its rack; `racks.len()` if unknown.
    pub rack: Vec<usize>,
    pub racks: Vec<String>,
    /// By rack, the unknown one last: its brokers.
    pub members: Vec<Vec<usize>>,
    /// By known rack: its brokers that stay. They, not the active ones alone, say how
    /// replicas should be spread, for a rack does not vanish while its brokers restart.
    pub sizes: Vec<u32>,
    /// By broker: the bytes up to which it may be filled.
    pub limits: Vec<Option<u64>>,
}

impl Topology {
    /// `brokers` are sorted by number, each number once.
    pub fn new(brokers: &[Broker], options: &Options) -> Self {
        let mut racks: Vec<String> = brokers.iter().filter_map(|broker| broker.rack.clone()).collect();
        racks.sort();
        racks.dedup();
        let rack: Vec<usize> = brokers
            .iter()
            .map(|broker| {
                let known = broker.rack.as_ref().and_then(|rack| racks.binary_search(rack).ok());
                known.unwrap_or(racks.len())
            })
            .collect();
        let mut members = vec![Vec::new(); racks.len() + 1];
        let mut sizes = vec![0; racks.len()];
        for (at, broker) in brokers.iter().enumerate() {
            members[rack[at]].push(at);
            if let Some(size) = sizes.get_mut(rack[at]) {
                *size += u32::from(!broker.state.is_leaving());
            }
        }
        let limit = |bytes: u64| {
            let limit = u128::from(bytes) * u128::from(options.max_disk_percent) / 100;
            u64::try_from(limit).unwrap_or(u64::MAX)
        };
        Self {
            ids: brokers.iter().map(|broker| broker.id).collect(),
            states: brokers.iter().map(|broker| broker.state).collect(),
            weights: brokers.iter().map(|broker| u64::from(broker.weight.get())).collect(),
            rack,
            racks,
            members,
            sizes,
            limits: brokers.iter().map(|broker| broker.disk_bytes.map(limit)).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn index(&self, id: i32) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// Whether the broker's rack is known.
    pub fn is_known(&self, rack: usize) -> bool {
        rack < self.racks.len()
    }

    /// The racks with a broker that stays.
    pub fn usable_racks(&self) -> usize {
        self.sizes.iter().filter(|size| **size > 0).count()
    }

    /// The brokers that may get replicas, in order.
    pub fn targets(&self) -> Vec<usize> {
        (0..self.len()).filter(|at| self.states[*at].is_target()).collect()
    }

    /// Orders two brokers by what they would have with one thing more, relative to their weights.
    ///
    /// Evening out these values minimises the sum of squares of load over weight (the divisors
    /// 2 n + 1 of Sainte-Laguë), so it is exact for whole replicas and any weights.
    pub fn compare_next(&self, a: (usize, u64), b: (usize, u64)) -> Ordering {
        ((2 * a.1 + 1) * self.weights[b.0]).cmp(&((2 * b.1 + 1) * self.weights[a.0]))
    }

    /// Whether giving one of `from.1` things to a broker that has `to.1` makes the loads more even.
    pub fn evens_out(&self, from: (usize, u64), to: (usize, u64)) -> bool {
        from.1 > 0 && (2 * from.1 - 1) * self.weights[to.0] > (2 * to.1 + 1) * self.weights[from.0]
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn loads_are_compared_by_weight() {
        let heavy = Broker::new(1).with_weight(NonZeroU16::new(3).unwrap());
        let topology = Topology::new(&[Broker::new(0), heavy], &Options::default());
        // One more makes 2 of 1, or 4 of 3.
        assert_eq!(topology.compare_next((0, 1), (1, 3)), Ordering::Greater);
        assert_eq!(topology.compare_next((1, 3), (0, 1)), Ordering::Less);
        assert_eq!(topology.compare_next((0, 1), (1, 4)), Ordering::Equal);
        // 2² + 3²/3 = 7 is more than 1² + 4²/3 = 6.3, and 1² + 4²/3 no more than 0² + 5²/3 = 8.3.
        assert!(topology.evens_out((0, 2), (1, 3)));
        assert!(!topology.evens_out((0, 1), (1, 4)));
        // As even before as after: nothing is won.
        let equal = Topology::new(&[Broker::new(0), Broker::new(1)], &Options::default());
        assert!(equal.evens_out((0, 2), (1, 0)));
        assert!(!equal.evens_out((0, 1), (1, 0)));
        assert!(!equal.evens_out((0, 0), (1, 0)));
    }
}
