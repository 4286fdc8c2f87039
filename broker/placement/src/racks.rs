//! How a partition's replicas should be spread over racks, and how far they are from it.
//!
//! The rule is the even distribution of Cruise Control's `RackAwareDistributionGoal`, bounded by
//! the racks' sizes: fill all racks at once, one replica each in turn, where a rack with k brokers takes at most k.
//! It gives each rack a replica before any has two (KIP-36) and needs no special case for fewer racks
//! than replicas.
//!
//! ```text
//! 5 replicas, racks of 3, 1 and 2 brokers     high 2 1 2     low 1 1 1
//!
//!     a  ##.        level 2 is the lowest that has room for 5:
//!     b  #          no rack above it (high), none that has brokers left
//!     c  ##         below level 1 (low)
//! ```

/// The fewest replicas per rack, at most, with which `replicas` find room in racks of these sizes; the
/// biggest rack's size if they find none.
pub(crate) fn level(sizes: &[u32], replicas: u32) -> u32 {
    let biggest = sizes.iter().copied().max().unwrap_or(0);
    (0..biggest)
        .find(|level| sizes.iter().map(|size| u64::from(*size.min(level))).sum::<u64>() >= u64::from(replicas))
        .unwrap_or(biggest)
}

/// How many replicas each rack should have.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub low: Vec<u32>,
    pub high: Vec<u32>,
}

impl Bounds {
    fn new(sizes: &[u32], replicas: u32) -> Self {
        let level = level(sizes, replicas);
        let cut = |level: u32| sizes.iter().map(|size| *size.min(&level)).collect();
        Self {
            low: cut(level.saturating_sub(1)),
            high: cut(level),
        }
    }
}

/// The distance from an even spread: replicas too many in some racks and too few in others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    pub surplus: u32,
    pub deficit: u32,
}

impl Spread {
    /// The replicas that would have to change racks to be evenly spread.
    pub fn excess(self) -> u32 {
        self.surplus.max(self.deficit)
    }

    pub fn sum(self) -> u32 {
        self.surplus + self.deficit
    }

    pub fn is_even(self) -> bool {
        self.sum() == 0
    }

    /// Lower is better: first the moves still needed, then what is wrong.
    pub fn rank(self) -> (u32, u32) {
        (self.excess(), self.sum())
    }
}

/// The rule for partitions of one replication factor.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    /// By the number of replicas whose rack is unknown, up to those that do no harm wherever they are.
    by_unknown: Vec<Bounds>,
}

impl Quota {
    /// For `replicas` replicas on racks of which `sizes` brokers stay.
    pub fn new(sizes: &[u32], replicas: u32) -> Self {
        let known: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        let whole = level(sizes, replicas);
        // Replicas of unknown rack may all be in the fullest rack. They do no harm if that rack is then
        // still at the level, or if the known racks have no room for them.
        let harmless = |unknown: u32| {
            let rest = replicas - unknown;
            (u64::from(replicas) > known && u64::from(rest) >= known) || level(sizes, rest) + unknown <= whole
        };
        let allowed = if known == 0 {
            replicas
        } else {
            (1..=replicas).take_while(|unknown| harmless(*unknown)).count() as u32
        };
        Self {
            by_unknown: (0..=allowed)
                .map(|unknown| Bounds::new(sizes, replicas - unknown))
                .collect(),
        }
    }

    /// How many replicas may be in racks that are not known.
    pub fn allowed_unknown(&self) -> u32 {
        self.by_unknown.len() as u32 - 1
    }

    /// The bounds for a partition that has `unknown` replicas in racks that are not known.
    pub fn bounds(&self, unknown: u32) -> &Bounds {
        &self.by_unknown[unknown.min(self.allowed_unknown()) as usize]
    }

    /// How far from even `counts` replicas in each rack and `unknown` elsewhere are.
    pub fn judge(&self, counts: &[u32], unknown: u32) -> Spread {
        let bounds = self.bounds(unknown);
        let mut spread = Spread {
            surplus: unknown.saturating_sub(self.allowed_unknown()),
            deficit: 0,
        };
        for ((count, low), high) in counts.iter().zip(&bounds.low).zip(&bounds.high) {
            spread.surplus += count.saturating_sub(*high);
            spread.deficit += low.saturating_sub(*count);
        }
        spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn excess(sizes: &[u32], counts: &[u32], unknown: u32) -> u32 {
        let replicas = counts.iter().sum::<u32>() + unknown;
        Quota::new(sizes, replicas).judge(counts, unknown).excess()
    }

    #[test]
    fn examples() {
        assert_eq!(excess(&[2, 2, 2], &[1, 1, 1], 0), 0);
        assert_eq!(excess(&[2, 2, 2], &[2, 1, 0], 0), 1);
        assert_eq!(excess(&[3, 3, 3], &[3, 0, 0], 0), 2);
        // Two racks can't do better than 2 and 1.
        assert_eq!(excess(&[3, 3], &[2, 1], 0), 0);
        assert_eq!(excess(&[3, 3], &[3, 0], 0), 1);
        // The third rack must not stay empty only because two in each of the others are within the level.
        assert_eq!(excess(&[2, 2, 2], &[2, 2, 0], 0), 1);
        assert_eq!(excess(&[2, 2, 2], &[2, 1, 1], 0), 0);
        // A rack of one broker takes one.
        assert_eq!(excess(&[3, 1, 1], &[3, 1, 1], 0), 0);
        assert_eq!(excess(&[3, 1, 1], &[2, 1, 0], 0), 1);
        // One rack, or none known: any place is as good.
        assert_eq!(excess(&[5], &[3], 0), 0);
        assert_eq!(excess(&[], &[], 3), 0);
        assert_eq!(excess(&[5], &[1], 2), 0);
    }

    #[test]
    fn an_unknown_rack_counts_as_the_fullest_one() {
        // It may be a or b: one more in a known third rack would be sure.
        assert_eq!(excess(&[2, 2, 2], &[1, 1, 0], 1), 1);
        // With two racks, 2 and 1 is even, and that is the worst it can be.
        assert_eq!(excess(&[2, 2], &[1, 1], 1), 0);
        assert_eq!(excess(&[2, 2], &[1, 0], 2), 1);
        // The known racks have no room for all.
        assert_eq!(excess(&[1, 1], &[1, 1], 2), 0);
        assert_eq!(excess(&[1, 1], &[1, 0], 3), 1);
    }

    proptest! {
        /// The excess is exactly the number of replicas that must change racks, and there is always one
        /// that makes it smaller.
        #[test]
        fn one_replacement_lowers_an_excess_by_one(
            sizes in prop::collection::vec(1u32..4, 1..5),
            picks in prop::collection::vec(0usize..4, 1..7),
        ) {
            let mut counts = vec![0u32; sizes.len()];
            for pick in picks {
                let rack = pick % sizes.len();
                if counts[rack] < sizes[rack] {
                    counts[rack] += 1;
                }
            }
            let total: u32 = counts.iter().sum();
            prop_assume!(total > 0);
            let quota = Quota::new(&sizes, total);
            let before = quota.judge(&counts, 0).excess();
            let mut best = before;
            for from in 0..sizes.len() {
                for to in 0..sizes.len() {
                    if from != to && counts[from] > 0 && counts[to] < sizes[to] {
                        let mut changed = counts.clone();
                        changed[from] -= 1;
                        changed[to] += 1;
                        let after = quota.judge(&changed, 0).excess();
                        prop_assert!(after.abs_diff(before) <= 1);
                        best = best.min(after);
                    }
                }
            }
            prop_assert_eq!(best, before.saturating_sub(1));
            let even = |a: usize, b: usize| counts[a] <= counts[b] + 1 || counts[b] == sizes[b];
            let is_even = (0..sizes.len()).all(|a| (0..sizes.len()).all(|b| even(a, b)));
            prop_assert_eq!(before == 0, is_even);
        }
    }
}
