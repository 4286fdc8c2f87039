//! Every state of three replicas against a model of KIP-966's election.

use super::{super::*, support::*};

const RANKS: u32 = 4;

/// In sync, eligible, last known eligible, none.
fn rank(state: u32, id: u32) -> u32 {
    state / RANKS.pow(id) % RANKS
}

/// Who leads after `failed` is fenced, and who is in sync then: ISR in the order of replicas,
/// else an eligible one in service, else nobody.
fn model(state: u32, up: u32, failed: u32) -> (Option<BrokerId>, Vec<BrokerId>) {
    let is_up = |id: &u32| up & (1 << id) != 0 && *id != failed;
    let in_sync: Vec<u32> = (0..3).filter(|id| rank(state, *id) == 0 && *id != failed).collect();
    if let Some(first) = in_sync.iter().find(|id| is_up(id)) {
        let leader = if failed != lead(state).unwrap() {
            lead(state).unwrap()
        } else {
            *first
        };
        return (
            Some(leader as BrokerId),
            in_sync.iter().map(|id| *id as BrokerId).collect(),
        );
    }
    let eligible = (0..3).find(|id| rank(state, *id) == 1 && is_up(id));
    match eligible {
        Some(id) => (Some(id as BrokerId), vec![id as BrokerId]),
        None => (None, vec![]),
    }
}

fn lead(state: u32) -> Option<u32> {
    (0..3).find(|id| rank(state, *id) == 0)
}

#[test]
fn the_election_after_a_failure_is_that_of_the_model_in_every_state() {
    let mut seen = 0;
    for min_insync in 1..=3usize {
        for state in 0..RANKS.pow(3) {
            for up in 0..8u32 {
                let ids = |wanted: u32| -> Vec<BrokerId> {
                    (0..3)
                        .filter(|id| rank(state, *id) == wanted)
                        .map(|id| id as BrokerId)
                        .collect()
                };
                let (isr, elr) = (ids(0), ids(1));
                let valid = !isr.is_empty()
                    && isr.iter().all(|id| up & (1 << id) != 0)
                    && (isr.len() < min_insync || elr.is_empty() && ids(2).is_empty());
                if !valid {
                    continue;
                }
                let mut log = Log::with_partition();
                log.configure("min.insync.replicas", &min_insync.to_string());
                let topic = std::sync::Arc::make_mut(log.cluster.topics.get_mut("t").unwrap());
                let p = &mut topic.partitions[0];
                p.leader = Some(isr[0]);
                (p.isr, p.elr, p.last_known_elr) = (isr.clone(), elr.clone(), ids(2));
                for id in 0..3 {
                    let broker = log.cluster.brokers.get_mut(&(id as BrokerId)).unwrap();
                    broker.fenced = up & (1 << id) == 0;
                }
                log.cluster.validate().unwrap();
                for failed in 0..3u32 {
                    if up & (1 << failed) == 0 {
                        continue;
                    }
                    let mut log = log.clone();
                    let before = log.partition("t").clone();
                    log.fence(failed as BrokerId);
                    let after = log.partition("t");
                    let (leader, in_sync) = model(state, up, failed);
                    assert_eq!(
                        (after.leader, &after.isr),
                        (leader, &in_sync),
                        "{before:?} up {up:b} failed {failed}"
                    );
                    // Eligible: who was in sync or eligible, unless enough are in sync now.
                    let mut eligible: Vec<BrokerId> = before.isr.iter().chain(&before.elr).copied().collect();
                    eligible.retain(|id| !after.isr.contains(id) && after.isr.len() < min_insync);
                    let mut found = after.elr.clone();
                    eligible.sort_unstable();
                    found.sort_unstable();
                    assert_eq!(found, eligible, "{before:?} up {up:b} failed {failed}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 100, "{seen}");
}
