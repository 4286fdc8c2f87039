//! Clusters that have stopped answering. A call to one takes ten seconds to fail, and passes are few: without this,
//! one dead cluster of many Topics would hold up the Topics of all others.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::names::ClusterKey;

/// So many calls in a row must fail before a cluster is taken for silent: one that is slow is none.
const FAILURES: u32 = 3;
/// A silent cluster is tried again so long after a call has failed.
const TRIED_AFTER: Duration = Duration::from_secs(2);
/// Only one pass tries it, which takes less than this unless it was cut off.
const TRY_WITHIN: Duration = Duration::from_secs(15);

/// Which clusters are silent.
#[derive(Debug, Default)]
pub struct Silence(Mutex<HashMap<ClusterKey, Failures>>);

#[derive(Debug)]
struct Failures {
    in_a_row: u32,
    next_try: Instant,
}

impl Silence {
    /// Whether a cluster may be asked. Who may ask a silent one is the only one for a while.
    pub fn may_ask(&self, cluster: &ClusterKey, now: Instant) -> bool {
        match self.0.lock().get_mut(cluster) {
            Some(failures) if failures.in_a_row >= FAILURES => {
                let may = now >= failures.next_try;
                if may {
                    failures.next_try = now + TRY_WITHIN;
                }
                may
            }
            _ => true,
        }
    }

    /// It did not answer.
    pub fn failed(&self, cluster: &ClusterKey, now: Instant) {
        let mut all = self.0.lock();
        let failures = all.entry(cluster.clone()).or_insert(Failures {
            in_a_row: 0,
            next_try: now,
        });
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.next_try = now + TRIED_AFTER;
    }

    /// It has answered, or it has changed.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.0.lock().remove(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_cluster_is_asked_by_one_at_a_time() {
        let (silence, now) = (Silence::default(), Instant::now());
        let (dead, well) = (ClusterKey::new("a", "dead"), ClusterKey::new("a", "well"));
        for _ in 0..FAILURES {
            assert!(silence.may_ask(&dead, now), "one that is slow is not silent");
            silence.failed(&dead, now);
        }
        assert!(!silence.may_ask(&dead, now));
        assert!(silence.may_ask(&well, now));
        let later = now + TRIED_AFTER;
        assert!(silence.may_ask(&dead, later));
        assert!(!silence.may_ask(&dead, later + TRIED_AFTER), "somebody asks");
        silence.failed(&dead, later + TRIED_AFTER);
        assert!(silence.may_ask(&dead, later + 2 * TRIED_AFTER));
        assert!(
            silence.may_ask(&dead, later + 2 * TRIED_AFTER + TRY_WITHIN),
            "who asked was cut off"
        );
        silence.forget(&dead);
        assert!(silence.may_ask(&dead, now) && silence.may_ask(&dead, now));
    }
}
