//! Brokers that were added get their share of the replicas.

use std::collections::BTreeSet;

use super::{
    decide::is_serving,
    seen::{Seen, Told},
    wishes::Wishes,
};
use crate::record::Record;

/// The brokers that are new and can take replicas, once all that there are to be can: one plan moves less than several.
#[must_use]
pub fn new_brokers(seen: &Seen, told: &Told, wishes: &Wishes, record: &Record) -> Option<Vec<i32>> {
    // No broker at all had its share: that is not known any more, rather than so.
    if !wishes.rebalances || record.is_forming() || record.balanced.is_empty() {
        return None;
    }
    // What is short of replicas is repaired first; moving more at the same time would delay it.
    if told.endangered().0 > 0 {
        return None;
    }
    let able: BTreeSet<i32> = told
        .cluster
        .brokers
        .iter()
        .filter(|broker| is_serving(broker) && !broker.cordoned && broker.broker_id < wishes.replicas)
        .map(|broker| broker.broker_id)
        .filter(|id| seen.is_ready(*id))
        .collect();
    if able.len() < usize::try_from(wishes.replicas).unwrap_or(usize::MAX) {
        return None;
    }
    let new: Vec<i32> = able.into_iter().filter(|id| !record.balanced.contains(id)).collect();
    (!new.is_empty()).then_some(new)
}
