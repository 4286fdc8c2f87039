//! Whether replicas are spread over racks so that one of these may be lost.

use std::collections::{BTreeMap, BTreeSet};

use super::seen::{Seen, Told};
use crate::conditions::Wanted;

const KIND: &str = "RackSpread";

/// The condition.
#[must_use]
pub fn condition(seen: &Seen) -> Wanted {
    let Some(told) = seen.brokers.told() else {
        return Wanted::unknown(KIND, "Unreachable", "no broker can be asked");
    };
    let brokers: BTreeMap<i32, &str> = told
        .cluster
        .brokers
        .iter()
        .map(|broker| (broker.broker_id, broker.rack.as_str()))
        .collect();
    if brokers.len() < 2 {
        return Wanted::yes(KIND, "OneBroker", "one broker has nothing to spread");
    }
    let unknown: Vec<i32> = brokers
        .iter()
        .filter(|(_, rack)| rack.is_empty())
        .map(|(id, _)| *id)
        .collect();
    if !unknown.is_empty() {
        let text = format!(
            "no rack is known of {}: their nodes need the label topology.kubernetes.io/zone, and Kubernetes 1.35 or newer \
             to hand it to pods",
            super::scale::named(&unknown)
        );
        return Wanted::no(KIND, "RackUnknown", text);
    }
    let racks: BTreeSet<&str> = brokers.values().copied().collect();
    let weak = told
        .placements
        .iter()
        .filter(|(replicas, _)| !survives(replicas, &brokers, racks.len()));
    let weak: usize = weak.map(|(_, partitions)| partitions).sum();
    if weak == 0 {
        return uneven(&brokers).unwrap_or_else(|| {
            let text = format!("all partitions survive the loss of one of {} racks", racks.len());
            Wanted::yes(KIND, "Spread", text)
        });
    }
    if is_moving(told) {
        return Wanted::no(
            KIND,
            "MovesPending",
            format!("{weak} partitions are not spread yet; replicas move"),
        );
    }
    let most = told.placements.keys().map(Vec::len).max().unwrap_or_default();
    if racks.len() < most.min(3) {
        let text = format!(
            "{} racks are too few: {weak} partitions would lose too many of their replicas with one",
            racks.len()
        );
        return Wanted::no(KIND, "TooFewRacks", text);
    }
    let text =
        format!("{weak} partitions would lose too many of their replicas with one rack: `millrace cluster rebalance`");
    Wanted::no(KIND, "Uneven", text)
}

/// Whether replicas are spread as evenly as the racks allow, and as many are left when any one rack is lost as are
/// asked for before a write is acknowledged (two, by default); of two, one.
fn survives(replicas: &[i32], brokers: &BTreeMap<i32, &str>, racks: usize) -> bool {
    if replicas.len() < 2 {
        return true;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for id in replicas {
        *counts.entry(brokers.get(id).copied().unwrap_or_default()).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or_default();
    let left = replicas.len() - most;
    most <= replicas.len().div_ceil(racks.max(1)) && left >= (replicas.len() - 1).min(2)
}

fn is_moving(told: &Told) -> bool {
    !told.moves.is_empty()
}

/// One small rack among large ones gets as many replicas as they do, with fewer brokers to hold them.
fn uneven(brokers: &BTreeMap<i32, &str>) -> Option<Wanted> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for rack in brokers.values() {
        *sizes.entry(rack).or_default() += 1;
    }
    let (most, fewest) = (sizes.values().max()?, sizes.values().min()?);
    (most - fewest > 1).then(|| {
        let sizes: Vec<String> = sizes.iter().map(|(rack, size)| format!("{rack}: {size}")).collect();
        let text = format!(
            "brokers are uneven over racks ({}), and so is what they hold",
            sizes.join(", ")
        );
        Wanted::no(KIND, "UnevenRacks", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(racks: &[&'static str]) -> BTreeMap<i32, &'static str> {
        (0..).zip(racks.iter().copied()).collect()
    }

    #[test]
    fn enough_must_be_left_when_a_rack_is_lost() {
        let three = brokers(&["a", "b", "c", "a", "b", "a"]);
        let on_three = |replicas: &[i32]| survives(replicas, &three, 3);
        assert!(on_three(&[0, 1, 2]));
        assert!(!on_three(&[0, 3, 1]), "two of three in one rack");
        assert!(on_three(&[0, 1]), "one of two is left");
        assert!(!on_three(&[0, 3]));
        assert!(on_three(&[0]), "a single replica promises nothing");
        assert!(on_three(&[0, 1, 2, 3]), "four on three racks can't be spread better");
        assert!(on_three(&[0, 1, 2, 3, 4]));
        assert!(!on_three(&[0, 1, 2, 3, 5]), "three of five in one rack");
        let two = brokers(&["a", "b", "a", "b", "a"]);
        assert!(!survives(&[0, 1, 2], &two, 2), "three on two racks");
        assert!(survives(&[0, 1, 2, 3], &two, 2), "four on two racks");
    }

    #[test]
    fn one_small_rack_is_told() {
        assert!(uneven(&brokers(&["a", "b", "c", "a"])).is_none());
        let told = uneven(&brokers(&["a", "a", "a", "a", "b", "c"])).unwrap();
        assert_eq!(told.reason, "UnevenRacks");
        assert!(told.message.contains("a: 4, b: 1, c: 1"), "{}", told.message);
    }
}
