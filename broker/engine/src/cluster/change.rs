//! How a partition's record changes: whatever the cause, the same steps settle leader, in-sync
//! set, eligible replicas and epochs afterwards, so that no cause can forget one.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    partition::{CommittedFloor, Partition},
    state::{Broker, BrokerId, Cluster, Topic, min_insync_replicas},
};

/// What a partition is judged by.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) brokers: &'a BTreeMap<BrokerId, Broker>,
    /// The topic's `min.insync.replicas`.
    pub(super) min_insync: usize,
}

/// What a change says beside the record's new fields.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// May have lost data: not eligible any more, only last known to have been.
    pub(super) lost: Vec<BrokerId>,
    /// Have surely nothing: not even asked in an unclean recovery.
    pub(super) gone: Vec<BrokerId>,
    /// A new history begins: who was eligible by the old one is not by the new.
    pub(super) new_history: bool,
    /// The record gets a new version even if it stays as it is.
    pub(super) new_version: bool,
}

impl Rules<'_> {
    /// Neither fenced nor shutting down.
    pub(super) fn is_active(self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(Broker::is_active)
    }

    fn is_unfenced(self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|broker| !broker.fenced)
    }
}

impl Partition {
    /// The record after `change`, or `None` if it is the same.
    pub(super) fn changed(&self, rules: Rules<'_>, change: impl FnOnce(&mut Self, &mut Notes)) -> Option<Self> {
        let mut next = self.clone();
        let mut notes = Notes::default();
        change(&mut next, &mut notes);
        next.settle(self, &notes, rules);
        (next != *self).then_some(next)
    }

    /// Brings the record in order after a change of `before`.
    fn settle(&mut self, before: &Self, notes: &Notes, rules: Rules<'_>) {
        self.settle_eligible(before, notes, rules.min_insync);
        self.settle_leader(rules);
        if self.complete_move(rules) {
            self.settle_leader(rules);
        }
        self.settle_eligible(before, notes, rules.min_insync);
        if notes.new_history {
            self.floor = CommittedFloor::default();
        }
        self.last_known_leader = match self.leader {
            Some(_) => None,
            None => before
                .leader
                .or(self.last_known_leader)
                .filter(|id| self.replicas.contains(id)),
        };
        self.settle_epochs(before, notes);
    }

    /// Who leaves the in-sync set while fewer than required stay is eligible: the high
    /// watermark stands still from then on, so that it holds all that is committed. When enough
    /// are in sync, nobody else is eligible (KIP-966).
    fn settle_eligible(&mut self, before: &Self, notes: &Notes, min_insync: usize) {
        self.elr.clear();
        self.last_known_elr.clear();
        if self.isr.len() >= self.required(min_insync) {
            return;
        }
        if notes.new_history {
            return;
        }
        let out = |id: &BrokerId, of: &Self| !of.replicas.contains(id) || of.isr.contains(id);
        for id in before.elr.iter().chain(&before.isr) {
            if !out(id, self) && !notes.lost.contains(id) && !notes.gone.contains(id) && !self.elr.contains(id) {
                self.elr.push(*id);
            }
        }
        let were_eligible = before.last_known_elr.iter().chain(
            notes
                .lost
                .iter()
                .filter(|id| before.isr.contains(id) || before.elr.contains(id)),
        );
        for id in were_eligible {
            let listed = self.elr.contains(id) || self.last_known_elr.contains(id);
            if !out(id, self) && !listed && !notes.gone.contains(id) {
                self.last_known_elr.push(*id);
            }
        }
    }

    /// The leader stays if it may; else the lead goes to a replica in sync, else to an eligible
    /// one, which is then in sync alone, else to nobody (KIP-966). The last known leader is no
    /// such choice: it may have lost what it led (KAFKA-19522).
    ///
    /// A leader that shuts down goes as soon as another can lead, and leaves the in-sync set
    /// with that; as the last one in sync it stays (KIP-841, KIP-966).
    fn settle_leader(&mut self, rules: Rules<'_>) {
        let stays = |id: BrokerId, isr: &[BrokerId]| isr.contains(&id) && rules.is_unfenced(id);
        let present = self.leader.filter(|id| stays(*id, &self.isr));
        self.leader = match present {
            Some(leader) if rules.is_active(leader) => Some(leader),
            Some(leader) => self.in_sync_successor(rules).or(Some(leader)),
            None => self.in_sync_successor(rules),
        };
        if self.leader.is_none() && self.isr.is_empty() {
            self.leader = self.eligible_successor(rules);
            self.isr.extend(self.leader);
        }
        let leader = self.leader;
        self.isr.retain(|id| Some(*id) == leader || rules.is_active(*id));
    }

    fn in_sync_successor(&self, rules: Rules<'_>) -> Option<BrokerId> {
        self.by_preference()
            .find(|id| self.isr.contains(id) && rules.is_active(*id))
    }

    fn eligible_successor(&self, rules: Rules<'_>) -> Option<BrokerId> {
        self.by_preference()
            .find(|id| self.elr.contains(id) && rules.is_active(*id))
    }

    /// The replicas, those that a move takes away last.
    fn by_preference(&self) -> impl Iterator<Item = BrokerId> {
        let stays = self.replicas.iter().filter(|id| !self.removing.contains(id));
        stays
            .chain(self.replicas.iter().filter(|id| self.removing.contains(id)))
            .copied()
    }

    /// Every change is a new version. A change of the leader, also to nobody, is a new term; so
    /// is a replica's removal: one that is taken away and added again in one update of the
    /// metadata would else keep its old log end at the leader (KAFKA-9672).
    fn settle_epochs(&mut self, before: &Self, notes: &Notes) {
        if self == before && !notes.new_version {
            return;
        }
        self.partition_epoch = before.partition_epoch.saturating_add(1);
        let removed = before.replicas.iter().any(|id| !self.replicas.contains(id));
        if self.leader != before.leader || removed {
            self.leader_epoch = before.leader_epoch.saturating_add(1);
        }
    }
}

impl Cluster {
    /// Goes once over all partitions and takes over what `change` makes of them. Topics in which
    /// nothing changes stay shared.
    pub(super) fn rewrite(
        &mut self,
        mut change: impl FnMut(&Topic, u32, &Partition, Rules<'_>) -> Option<Partition>,
    ) -> bool {
        let Self {
            topics,
            brokers,
            topic_defaults,
            ..
        } = self;
        let mut any = false;
        for topic in topics.values_mut() {
            let rules = Rules {
                brokers,
                min_insync: min_insync_replicas(&topic.configs, topic_defaults),
            };
            let changed: Vec<(usize, Partition)> = topic
                .partitions
                .iter()
                .enumerate()
                .filter_map(|(at, partition)| {
                    let number = u32::try_from(at).unwrap_or(u32::MAX);
                    change(topic, number, partition, rules).map(|next| (at, next))
                })
                .collect();
            if changed.is_empty() {
                continue;
            }
            any = true;
            let topic = Arc::make_mut(topic);
            for (at, partition) in changed {
                topic.partitions[at] = partition;
            }
        }
        any
    }

    /// `rewrite` for the partitions of which `broker` holds a replica.
    pub(super) fn rewrite_hosted(
        &mut self,
        broker: BrokerId,
        mut change: impl FnMut(&Topic, u32, &Partition, Rules<'_>) -> Option<Partition>,
    ) -> bool {
        self.rewrite(|topic, number, partition, rules| {
            if partition.replicas.contains(&broker) {
                change(topic, number, partition, rules)
            } else {
                None
            }
        })
    }

    /// What a topic's partitions are judged by.
    pub(super) fn rules(&self, topic: &Topic) -> Rules<'_> {
        Rules {
            brokers: &self.brokers,
            min_insync: self.min_insync_replicas(topic),
        }
    }
}
