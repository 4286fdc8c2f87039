//! Placing the partitions of a new topic, or those added to one.

use std::collections::BTreeMap;

use thiserror::Error;

/// A broker that may get replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSpot {
    /// Its number.
    pub id: i32,
    /// Its failure domain; empty if none.
    pub rack: String,
    /// How many replicas it holds.
    pub replicas: usize,
    /// For how many partitions it is the preferred leader.
    pub leaders: usize,
}

/// Why partitions can't be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// Fewer brokers than replicas.
    #[error("a replication factor of {wanted} needs {wanted} brokers; {brokers} can be used")]
    NotEnoughBrokers {
        /// Replicas of each partition.
        wanted: usize,
        /// Usable brokers.
        brokers: usize,
    },
    /// Zero replicas.
    #[error("a partition needs at least one replica")]
    NoReplicas,
}

/// The replicas of `partitions` new partitions, preferred leader first.
///
/// Each partition's replicas are on as many racks as there can be; brokers with fewer
/// preferred leaders, then fewer replicas, then a lower number come first. The order of
/// `brokers` does not matter.
///
/// # Errors
/// Fewer brokers than replicas, or no replicas asked for.
pub fn place_partitions(
    brokers: &[BrokerSpot],
    partitions: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<i32>>, PlacementError> {
    if replication_factor == 0 {
        return Err(PlacementError::NoReplicas);
    }
    if brokers.len() < replication_factor {
        return Err(PlacementError::NotEnoughBrokers {
            wanted: replication_factor,
            brokers: brokers.len(),
        });
    }
    let mut spots: Vec<BrokerSpot> = brokers.to_vec();
    spots.sort_by_key(|spot| spot.id);
    Ok((0..partitions)
        .map(|_| place_one(&mut spots, replication_factor))
        .collect())
}

fn place_one(spots: &mut [BrokerSpot], replication_factor: usize) -> Vec<i32> {
    let mut chosen: Vec<usize> = Vec::with_capacity(replication_factor);
    let mut racks: BTreeMap<String, usize> = BTreeMap::new();
    while chosen.len() < replication_factor {
        let leader = chosen.is_empty();
        let best = (0..spots.len()).filter(|at| !chosen.contains(at)).min_by_key(|at| {
            let spot = &spots[*at];
            let in_rack = racks.get(&spot.rack).copied().unwrap_or(0);
            (in_rack, if leader { spot.leaders } else { 0 }, spot.replicas, spot.id)
        });
        let Some(best) = best else { break };
        *racks.entry(spots[best].rack.clone()).or_default() += 1;
        spots[best].replicas += 1;
        spots[best].leaders += usize::from(leader);
        chosen.push(best);
    }
    chosen.into_iter().map(|at| spots[at].id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spots(racks: &[&str]) -> Vec<BrokerSpot> {
        racks
            .iter()
            .zip(0..)
            .map(|(rack, id)| BrokerSpot {
                id,
                rack: (*rack).into(),
                replicas: 0,
                leaders: 0,
            })
            .collect()
    }

    #[test]
    fn refuses_what_can_not_be() {
        assert_eq!(
            place_partitions(&spots(&["a"]), 1, 2),
            Err(PlacementError::NotEnoughBrokers { wanted: 2, brokers: 1 })
        );
        assert_eq!(place_partitions(&spots(&["a"]), 1, 0), Err(PlacementError::NoReplicas));
    }

    #[test]
    fn three_racks_hold_one_replica_each_and_leaders_are_even() {
        let placed = place_partitions(&spots(&["a", "a", "b", "b", "c", "c"]), 12, 3).unwrap();
        for id in 0..6 {
            assert_eq!(placed.iter().filter(|replicas| replicas[0] == id).count(), 2);
            assert_eq!(placed.iter().filter(|replicas| replicas.contains(&id)).count(), 6);
        }
        for replicas in &placed {
            let mut racks: Vec<i32> = replicas.iter().map(|id| id / 2).collect();
            racks.sort_unstable();
            assert_eq!(racks, [0, 1, 2]);
        }
    }

    proptest! {
        #[test]
        fn replicas_differ_racks_are_used_and_the_order_of_brokers_does_not_matter(
            racks in prop::collection::vec(0u8..4, 1..8),
            partitions in 1usize..30,
            factor in 1usize..5,
        ) {
            let names: Vec<String> = racks.iter().map(|rack| format!("r{rack}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let brokers = spots(&names);
            let mut reversed = brokers.clone();
            reversed.reverse();
            let placed = place_partitions(&brokers, partitions, factor);
            prop_assert_eq!(&placed, &place_partitions(&reversed, partitions, factor));
            if factor > racks.len() {
                prop_assert!(placed.is_err());
                return Ok(());
            }
            let placed = placed.unwrap();
            prop_assert_eq!(placed.len(), partitions);
            let all: std::collections::BTreeSet<u8> = racks.iter().copied().collect();
            for replicas in &placed {
                let distinct: std::collections::BTreeSet<_> = replicas.iter().collect();
                prop_assert_eq!(distinct.len(), factor);
                let used: std::collections::BTreeSet<u8> =
                    replicas.iter().map(|id| racks[*id as usize]).collect();
                prop_assert_eq!(used.len(), factor.min(all.len()));
            }
            let leaders = |id: i32| placed.iter().filter(|replicas| replicas[0] == id).count();
            let counts: Vec<usize> = (0..racks.len() as i32).map(leaders).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
