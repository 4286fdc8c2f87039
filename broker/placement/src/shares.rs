//! Each broker's fair share of replicas, as far as racks allow.

use std::collections::BTreeMap;

use crate::{Cluster, Notice, Options, Plan, TopicPartition, racks::Quota, state::State, topology::Topology};

/// Rounding of sums of fractions must not turn a whole number into the next one.
const ROUNDING: f64 = 1e-6;

/// A rack's brokers may have this many percent more replicas than the average broker before it is
/// worth a notice.
const UNEVEN_PERCENT: f64 = 25.0;

/// The replicas each active broker should have: the same for all relative to weight, except where a rack
/// is so small or so big that spreading over racks forces more or fewer onto it.
pub(crate) struct Shares {
    replicas: Vec<f64>,
    /// Bytes per replica on average.
    bytes_each: f64,
    tolerance: f64,
}

impl Shares {
    pub fn new(cluster: &Cluster, topology: &Topology, state: &State<'_>, options: &Options) -> Self {
        let active = |at: usize| topology.states[at].is_target();
        let racks = topology.racks.len();
        // What every rack must and can take of all partitions, less what brokers hold that take no part.
        let (mut least, mut most) = (vec![0.0; racks + 1], vec![0.0; racks + 1]);
        for (factor, partitions) in factors(cluster) {
            let quota = Quota::new(&topology.sizes, factor as u32);
            let partitions = partitions as f64;
            let even = quota.bounds(0);
            let unknown = quota.allowed_unknown();
            for rack in 0..racks {
                least[rack] += partitions * f64::from(quota.bounds(unknown).low[rack]);
                most[rack] += partitions * f64::from(even.high[rack]);
            }
            most[racks] += partitions * f64::from(unknown.min(topology.members[racks].len() as u32));
        }
        let (mut total, mut bytes) = (0.0, 0.0);
        let mut weights = vec![0.0; racks + 1];
        for broker in 0..topology.len() {
            let (rack, load) = (topology.rack[broker], state.load(broker) as f64);
            if active(broker) {
                total += load;
                bytes += state.bytes(broker) as f64;
                weights[rack] += topology.weights[broker] as f64;
            } else {
                least[rack] -= load;
                most[rack] -= load;
            }
        }
        let per_weight = level_out(total, &weights, &least, &most);
        let replicas = (0..topology.len())
            .map(|at| {
                let share = per_weight[topology.rack[at]] * topology.weights[at] as f64;
                if active(at) { share } else { 0.0 }
            })
            .collect();
        Self {
            replicas,
            bytes_each: if total > 0.0 { bytes / total } else { 0.0 },
            tolerance: f64::from(options.tolerance_percent) / 100.0,
        }
    }

    /// Whether the one has more replicas, or the other fewer, than balance tolerates. Without a tolerance any step
    /// towards even loads is worth its cost, and racks alone say where it ends.
    pub fn are_off(&self, from: (usize, u64), to: (usize, u64)) -> bool {
        let (above, below) = (self.replicas[from.0], self.replicas[to.0]);
        let most = (above * (1.0 + self.tolerance) + ROUNDING).floor();
        let least = (below * (1.0 - self.tolerance) - ROUNDING).ceil();
        self.tolerance == 0.0
            || from.1 as f64 > most.max((above - ROUNDING).ceil())
            || (to.1 as f64) < least.min((below + ROUNDING).floor())
    }

    /// The bytes that the next replica should have, so that bytes and replicas reach their shares together.
    pub fn bytes_of_next(&self, broker: usize, load: u64, bytes: u64) -> u64 {
        let replicas = (self.replicas[broker] - load as f64).max(1.0);
        let missing = self.replicas[broker] * self.bytes_each - bytes as f64;
        (missing.max(0.0) / replicas) as u64
    }

    /// The racks whose brokers must hold clearly more than the average broker.
    fn uneven(&self, topology: &Topology) -> Vec<Notice> {
        let sum: f64 = self.replicas.iter().sum();
        let active = (0..topology.len()).filter(|at| topology.states[*at].is_target());
        let weight: f64 = active.map(|at| topology.weights[at] as f64).sum();
        let average = sum / weight.max(1.0);
        let limit = (average * (1.0 + UNEVEN_PERCENT / 100.0)).max(average + 1.0);
        let racks = topology.racks.iter().zip(&topology.members);
        racks
            .filter_map(|(rack, members)| {
                let broker = members.iter().find(|at| topology.states[**at].is_target())?;
                let each = self.replicas[*broker] / topology.weights[*broker] as f64;
                (each > limit).then(|| Notice::UnevenRacks {
                    rack: rack.clone(),
                    replicas: each.round() as u64,
                    average: average.round() as u64,
                })
            })
            .collect()
    }
}

/// How many partitions have each replication factor.
fn factors(cluster: &Cluster) -> BTreeMap<usize, usize> {
    let mut factors = BTreeMap::new();
    for partition in cluster.partitions() {
        *factors.entry(partition.replicas.len()).or_default() += 1;
    }
    factors
}

/// By rack: replicas per weight, as equal as can be while each rack gets between `least` and `most` and all
/// together `total`.
fn level_out(total: f64, weights: &[f64], least: &[f64], most: &[f64]) -> Vec<f64> {
    let mut fixed: Vec<Option<f64>> = weights.iter().map(|weight| (*weight <= 0.0).then_some(0.0)).collect();
    // Each round fixes a rack at one of its bounds, or ends.
    for _ in 0..=weights.len() {
        let taken: f64 = fixed
            .iter()
            .zip(weights)
            .filter_map(|(each, weight)| each.map(|each| each * weight))
            .sum();
        let open: f64 = fixed
            .iter()
            .zip(weights)
            .filter(|(each, _)| each.is_none())
            .map(|(_, weight)| weight)
            .sum();
        if open <= 0.0 {
            break;
        }
        let level = ((total - taken) / open).max(0.0);
        let bound = |at: usize| {
            level
                .min(most[at].max(0.0) / weights[at])
                .max(least[at].max(0.0) / weights[at])
        };
        let open: Vec<usize> = (0..weights.len()).filter(|at| fixed[*at].is_none()).collect();
        let off: f64 = open.iter().map(|at| (bound(*at) - level) * weights[*at]).sum();
        // The bounds that bind in the direction that outweighs the other are certain to bind in the end.
        let certain = |at: usize| {
            if off >= 0.0 {
                bound(at) > level
            } else {
                bound(at) < level
            }
        };
        let binding: Vec<usize> = open.iter().copied().filter(|at| certain(*at)).collect();
        if binding.is_empty() {
            for at in open {
                fixed[at] = Some(bound(at));
            }
            break;
        }
        for at in binding {
            fixed[at] = Some(bound(at));
        }
    }
    fixed.into_iter().map(Option::unwrap_or_default).collect()
}

/// What a state was changed to, as a plan, with what is to be said of its outcome.
pub(crate) fn planned(cluster: &Cluster, state: &State<'_>, options: &Options) -> Plan {
    let mut plan = Plan {
        reassignments: state.changes(cluster),
        steps: state.steps,
        ..Plan::default()
    };
    plan.notices = notices(&cluster.after(&plan), options);
    plan
}

/// What a reader of a plan that leads to `after` should know.
pub(crate) fn notices(after: &Cluster, options: &Options) -> Vec<Notice> {
    let topology = Topology::new(after.brokers(), options);
    let state = State::of(after, &topology, options, |partition| partition.replicas.len());
    let mut notices = rack_notices(&topology, factors(after).into_keys());
    notices.extend(Shares::new(after, &topology, &state, options).uneven(&topology));
    let bad: Vec<TopicPartition> = (0u32..)
        .zip(after.partitions())
        .filter(|(part, _)| !state.spread(*part).is_even())
        .map(|(_, partition)| partition.id)
        .collect();
    if let Some(first) = bad.first() {
        notices.push(Notice::NotSpread {
            partitions: bad.len(),
            first: *first,
        });
    }
    notices
}

/// What follows from racks and replication factors alone.
pub(crate) fn rack_notices(topology: &Topology, factors: impl Iterator<Item = usize>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let racks = topology.usable_racks();
    if racks > 0 {
        let too_many = factors.filter(|factor| *factor > racks);
        notices.extend(too_many.map(|replication_factor| Notice::TooFewRacks {
            replication_factor,
            racks,
        }));
        let unknown = &topology.members[topology.racks.len()];
        let unknown = unknown.iter().filter(|at| !topology.states[**at].is_leaving());
        let brokers: Vec<i32> = unknown.map(|at| topology.ids[*at]).collect();
        if !brokers.is_empty() {
            notices.push(Notice::UnknownRack { brokers });
        }
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_within_the_racks_bounds() {
        let none = [f64::INFINITY; 3];
        assert_eq!(level_out(12.0, &[1.0, 2.0, 3.0], &[0.0; 3], &none), [2.0, 2.0, 2.0]);
        // The first rack can take no more than 1 in all, the others share the rest.
        assert_eq!(
            level_out(11.0, &[1.0, 2.0, 3.0], &[0.0; 3], &[1.0, 99.0, 99.0]),
            [1.0, 2.0, 2.0]
        );
        // The first must take 7: one third of the rest is left for each weight of the others.
        assert_eq!(
            level_out(12.0, &[1.0, 2.0, 3.0], &[7.0, 0.0, 0.0], &none),
            [7.0, 1.0, 1.0]
        );
        // A rack without weight takes nothing.
        assert_eq!(level_out(6.0, &[0.0, 1.0, 2.0], &[0.0; 3], &none), [0.0, 2.0, 2.0]);
    }
}
