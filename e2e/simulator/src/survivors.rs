//! Who is healed in the second phase, and who stays as it is: the rest must make progress alone.

use std::{sync::Arc, time::Duration};

use crate::{
    broker::Broker,
    heal::PATIENCE,
    quorum::index_of,
    slots::{TOPIC, records, required},
    world::World,
};

/// Longer than what is left of any run.
const FOR_EVER: Duration = Duration::from_secs(100_000);

impl World {
    /// Leaves some of those that are down where they are.
    pub(crate) fn retire(&mut self) {
        let cluster = Arc::clone(self.quorum.cluster());
        if !cluster.topics.contains_key(TOPIC) || self.replacing.is_some() {
            return;
        }
        for at in 0..self.brokers.len() {
            let id = self.brokers[at].id;
            let down = self.brokers[at].process.is_none() && cluster.brokers.get(&id).is_some_and(|known| known.fenced);
            if !down || self.below(2) == 0 {
                continue;
            }
            self.brokers[at].retired = true;
            if self.core_suffices() {
                self.seen("left down");
            } else {
                self.brokers[at].retired = false;
            }
        }
    }

    /// Gives up as many brokers as the rest can do without, whatever they are like, in any order.
    pub(crate) fn choose_core(&mut self) {
        if !self.quorum.cluster().topics.contains_key(TOPIC) || self.replacing.is_some() {
            return;
        }
        let first = self.below(self.brokers.len() as u64);
        for place in 0..self.brokers.len() {
            let at = (first + place) % self.brokers.len();
            self.brokers[at].retired = true;
            if !self.core_suffices() {
                self.brokers[at].retired = false;
            }
        }
    }

    /// A broker that is given up stays down or stands still. One that runs is cut off from all others, though not
    /// from clients, and its disk stays as full as it is.
    pub(crate) fn leave_broken(&mut self, at: usize) {
        if self.brokers[at].paused_until.is_some() {
            self.pause(at, FOR_EVER);
        } else if self.brokers[at].process.is_some() {
            self.isolate(at);
        }
    }

    /// Waits until the leases of those that were given up have ended. What they had asked for before may have taken
    /// from the rest what made it enough: then all is healed.
    pub(crate) fn settle_core(&mut self) {
        self.settings.delivery_timeout = self.settings.delivery_timeout.max(PATIENCE);
        let leases = self.settings.lease * 2 + Duration::from_secs(5);
        self.run_until(leases, |_| false);
        let given_up = self.brokers.iter().filter(|broker| broker.retired).count();
        if self.core_suffices() {
            if given_up > 0 {
                self.seen("core healed alone");
            }
            return;
        }
        for at in 0..self.brokers.len() {
            let was_given_up = std::mem::replace(&mut self.brokers[at].retired, false);
            if was_given_up && self.brokers[at].paused_until.is_some() {
                // What it was about to do waits for ever.
                self.kill(at);
            }
        }
        self.seen("core not enough");
        self.mend_core();
    }

    /// Whether those that are not given up can take and keep records: enough replicas of each partition, one of which
    /// may lead, and a majority of the quorum.
    fn core_suffices(&self) -> bool {
        let cluster = self.quorum.cluster();
        // Changes that were asked for may be under way still.
        let faults = &self.settings.faults;
        let (may_flush_late, may_ask_for_more) = (
            self.written_counts || faults.alter_flush > 0,
            faults.alter_min_insync > 0,
        );
        let live = |id: &&i32| !self.brokers[index_of(**id)].retired;
        let sound = |id: &&i32| {
            let broker = &self.brokers[index_of(**id)];
            let sound = !broker.lost_data && !broker.disk.damaged;
            live(id) && sound && !(may_flush_late && broker.unclean)
        };
        let enough = records(cluster).all(|(slot, record)| {
            let all = record.replicas.len();
            let needed = if may_ask_for_more { all } else { required(cluster, slot) };
            record.replicas.iter().filter(live).count() >= needed
                && record.isr.iter().chain(&record.elr).any(|id| sound(&id))
                && !record.is_moving()
        });
        // One that waits for an operator does not vote.
        let votes = |broker: &&Broker| !broker.retired && !broker.lost_data && !broker.needs_permission;
        enough && self.brokers.iter().filter(votes).count() > self.brokers.len() / 2
    }
}
