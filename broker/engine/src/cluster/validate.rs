//! What must hold of every state, and between two of them; for tests and the simulator.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    partition::{Partition, first_repeat},
    state::{Broker, BrokerId, Cluster, Topic},
};

impl Cluster {
    /// Checks what must hold of every state.
    ///
    /// # Errors
    /// The first rule that does not hold, in words.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_brokers()?;
        for (name, topic) in &self.topics {
            if *name != topic.name || topic.partitions.is_empty() {
                return Err(format!("topic {name} is misfiled or empty"));
            }
            let min_insync = self.min_insync_replicas(topic);
            for (number, partition) in topic.partitions.iter().enumerate() {
                partition
                    .validate(&self.brokers, min_insync)
                    .map_err(|problem| format!("{name}-{number}: {problem}"))?;
            }
        }
        Ok(())
    }

    /// One directory is one broker's at a time; what was removed stays out; no voter id is one that
    /// was not given out yet.
    fn validate_brokers(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (id, broker) in &self.brokers {
            if *id != broker.id {
                return Err(format!("broker {} is filed under {id}", broker.id));
            }
            if let Some(twin) = owners.insert(broker.directory_id, *id) {
                return Err(format!("brokers {twin} and {id} share a directory"));
            }
            if self.removed_brokers.contains_key(id) {
                return Err(format!("broker {id} is registered and removed"));
            }
        }
        for (id, removed) in &self.removed_brokers {
            if let Some(owner) = owners.get(&removed.directory_id) {
                return Err(format!(
                    "broker {owner} has the directory of broker {id}, which was removed"
                ));
            }
        }
        let voter = self.voters.registered.keys().next_back();
        if voter.is_some_and(|voter| *voter >= self.voters.next) {
            return Err(format!("a voter is not below the next id, {}", self.voters.next));
        }
        Ok(())
    }

    /// Checks what must hold between a state and the one that a command makes of it: no epoch
    /// falls, each change of a partition is one version, and no replica comes to be trusted
    /// without cause.
    ///
    /// # Errors
    /// The first rule that does not hold, in words.
    pub fn validate_step(before: &Self, after: &Self) -> Result<(), String> {
        if after.version < before.version || after.next_producer_id < before.next_producer_id {
            return Err("the version or the next producer id fell".into());
        }
        if after.voters.next < before.voters.next {
            return Err("the next voter id fell".into());
        }
        for (id, voter) in &after.voters.registered {
            match before.voters.registered.get(id) {
                Some(known) if known != voter => return Err(format!("voter {id} changed its identity")),
                None if *id < before.voters.next => return Err(format!("voter id {id} is used again")),
                _ => {}
            }
        }
        validate_broker_steps(before, after)?;
        for (name, new) in &after.topics {
            let Some(old) = before.topics.get(name).filter(|old| old.id == new.id) else {
                continue;
            };
            if new.partitions.len() < old.partitions.len() {
                return Err(format!("topic {name} lost partitions"));
            }
            let step = Step::new(before, after, old, new);
            for (number, (old, new)) in old.partitions.iter().zip(&new.partitions).enumerate() {
                step.validate(old, new)
                    .map_err(|problem| format!("{name}-{number}: {problem}"))?;
            }
        }
        Ok(())
    }
}

/// A broker's epoch rises with each life, and no life has two processes or two disks.
fn validate_broker_steps(before: &Cluster, after: &Cluster) -> Result<(), String> {
    for (id, new) in &after.brokers {
        let last = before.brokers.get(id).map(|old| old.epoch);
        let last = last.or_else(|| before.removed_brokers.get(id).map(|old| old.epoch));
        if last.is_some_and(|last| new.epoch < last) {
            return Err(format!("the epoch of broker {id} fell"));
        }
        let Some(old) = before.brokers.get(id) else { continue };
        let same_life = old.incarnation == new.incarnation && old.directory_id == new.directory_id;
        if (old.epoch == new.epoch) != same_life {
            return Err(format!("broker {id} has two lives in epoch {}", new.epoch));
        }
        if old.epoch == new.epoch && old.shutting_down_at.is_some() && old.shutting_down_at != new.shutting_down_at {
            return Err(format!("the target of broker {id}'s shutdown moved"));
        }
    }
    Ok(())
}

/// A step of a topic's partitions.
struct Step<'a> {
    before: &'a Cluster,
    after: &'a Cluster,
    min_insync_before: usize,
    min_insync_after: usize,
}

impl<'a> Step<'a> {
    fn new(before: &'a Cluster, after: &'a Cluster, old: &Topic, new: &Topic) -> Self {
        Self {
            before,
            after,
            min_insync_before: before.min_insync_replicas(old),
            min_insync_after: after.min_insync_replicas(new),
        }
    }

    fn validate(&self, old: &Partition, new: &Partition) -> Result<(), String> {
        if old == new {
            return Ok(());
        }
        if new.partition_epoch != old.partition_epoch + 1 {
            return Err(format!(
                "its partition epoch went from {} to {} in one change",
                old.partition_epoch, new.partition_epoch
            ));
        }
        let rises = i32::from(new.leader != old.leader || !is_subset(&old.replicas, &new.replicas));
        if new.leader_epoch < old.leader_epoch + rises || new.leader_epoch > old.leader_epoch + 1 {
            return Err(format!(
                "its leader epoch went from {} to {}; the leader from {:?} to {:?}",
                old.leader_epoch, new.leader_epoch, old.leader, new.leader
            ));
        }
        if old.leader.is_some() && old.leader == new.leader && self.has_new_life(old.leader) && rises == 0 {
            let same_epoch = new.leader_epoch == old.leader_epoch;
            if same_epoch {
                return Err("its leader began another life under the old leader epoch".into());
            }
        }
        let trusted = |id: BrokerId| old.isr.contains(&id) || old.elr.contains(&id);
        let chosen = new.leader.filter(|_| old.leader.is_none());
        let unclean = new.recovering && chosen.is_some_and(|id| !old.recovering || !trusted(id));
        if !unclean {
            self.validate_trust(old, new)?;
            if new.floor.offset < old.floor.offset {
                return Err("what is known to be committed became less".into());
            }
        }
        Ok(())
    }

    /// Nobody becomes eligible who was not in sync or eligible, and in this life or by its disk
    /// still has what it had; a leader is chosen only from those who were.
    fn validate_trust(&self, old: &Partition, new: &Partition) -> Result<(), String> {
        let trusted = |id: &BrokerId| old.isr.contains(id) || old.elr.contains(id);
        if let Some(id) = new.elr.iter().find(|id| !trusted(id)) {
            return Err(format!("{id} became eligible without having been in sync"));
        }
        if let Some(id) = new
            .leader
            .filter(|id| new.leader_epoch > old.leader_epoch && !trusted(id))
        {
            // It may have become in sync and been given the lead in the same step, but only from
            // a leader.
            if old.leader.is_none() || !new.isr.contains(&id) {
                return Err(format!("{id} became the leader without having been trusted"));
            }
        }
        // Where nobody clean is left, those who were last are remembered (KIP-966).
        if new.isr.is_empty() && new.elr.is_empty() {
            let all = old.isr.iter().chain(&old.elr).chain(&old.last_known_elr);
            for id in all.filter(|id| new.replicas.contains(id) && !self.has_new_directory(**id)) {
                if !new.last_known_elr.contains(id) {
                    return Err(format!("{id} was eligible and is forgotten"));
                }
            }
        }
        self.validate_quorum(old, new)
    }

    /// The candidates never become fewer than the in-sync replicas that writes need: then one of
    /// them holds all committed records unless that many lost data (KIP-966).
    fn validate_quorum(&self, old: &Partition, new: &Partition) -> Result<(), String> {
        let candidates = |p: &Partition| p.isr.len() + p.elr.len() + p.last_known_elr.len();
        let mut required = new.required(self.min_insync_after);
        let mut required_before = old.required(self.min_insync_before);
        if !is_subset(&old.replicas, &new.replicas) {
            let clean = |p: &Partition| p.isr.len() + p.elr.len();
            let fewer = clean(new) < required && clean(new) < clean(old);
            if fewer && required == required_before && !new.recovering {
                return Err(format!("a move left {} clean replicas of {required}", clean(new)));
            }
            // Of those who may have lost data a move may take back some: one must be left.
            (required, required_before) = (1, 1);
        }
        let excused = required_before != required
            || candidates(old) < required
            || new.replicas.iter().any(|id| self.has_new_directory(*id));
        if !excused && candidates(new) < required {
            return Err(format!("{} candidates are left of {required}", candidates(new)));
        }
        Ok(())
    }

    fn has_new_life(&self, id: Option<BrokerId>) -> bool {
        let epoch = |cluster: &Cluster| id.and_then(|id| cluster.brokers.get(&id)).map(|broker| broker.epoch);
        epoch(self.before) != epoch(self.after)
    }

    fn has_new_directory(&self, id: BrokerId) -> bool {
        let directory = |cluster: &Cluster| cluster.brokers.get(&id).map(|broker| broker.directory_id);
        directory(self.before) != directory(self.after)
    }
}

impl Partition {
    fn validate(&self, brokers: &BTreeMap<BrokerId, Broker>, min_insync: usize) -> Result<(), String> {
        if self.replicas.len() <= self.adding.len() {
            return Err("no replicas but those that a move adds".into());
        }
        let sets = [
            ("replica", &self.replicas),
            ("in sync", &self.isr),
            ("eligible", &self.elr),
            ("last known eligible", &self.last_known_elr),
            ("added", &self.adding),
            ("removed", &self.removing),
        ];
        for (what, set) in sets {
            if let Some(id) = first_repeat(set) {
                return Err(format!("{id} is {what} twice"));
            }
            if let Some(stranger) = set.iter().find(|id| !self.replicas.contains(id)) {
                return Err(format!("{stranger} is {what} but no replica"));
            }
        }
        let ranks: Vec<BrokerId> = [&self.isr, &self.elr, &self.last_known_elr]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        if let Some(id) = first_repeat(&ranks) {
            return Err(format!("{id} is two of in sync, eligible and last known eligible"));
        }
        if self.throttle.is_some() && self.adding.is_empty() {
            return Err("a bound on the rate of a move is left that adds nothing".into());
        }
        if let Some(id) = self.adding.iter().find(|id| self.removing.contains(id)) {
            return Err(format!("{id} is added and removed"));
        }
        if let Some(id) = self.replicas.iter().find(|id| !brokers.contains_key(id)) {
            return Err(format!("{id} holds a replica and is not registered"));
        }
        self.validate_leader(brokers)?;
        if self.isr.len() >= self.required(min_insync) && !self.elr.is_empty() {
            return Err(format!("{:?} are eligible though enough are in sync", self.elr));
        }
        if self.recovering && self.isr.len() > 1 {
            return Err("it recovers and its leader is not alone in sync".into());
        }
        Ok(())
    }

    fn validate_leader(&self, brokers: &BTreeMap<BrokerId, Broker>) -> Result<(), String> {
        match self.leader {
            Some(leader) if !self.isr.contains(&leader) => return Err(format!("leader {leader} is not in sync")),
            Some(_) if self.last_known_leader.is_some() => return Err("it has a leader and a last known one".into()),
            None if !self.isr.is_empty() => return Err(format!("{:?} are in sync without a leader", self.isr)),
            _ => {}
        }
        let state = |id: &BrokerId| brokers.get(id).map(|broker| (broker.fenced, broker.is_active()));
        for id in &self.isr {
            match state(id) {
                Some((true, _)) | None => return Err(format!("{id} is fenced and in sync")),
                Some((_, false)) if self.isr.len() > 1 || self.leader != Some(*id) => {
                    return Err(format!("{id} shuts down and is in sync though another could lead"));
                }
                _ => {}
            }
        }
        // A clean candidate in service is never left unused.
        if self.leader.is_none()
            && let Some(id) = self.elr.iter().find(|id| matches!(state(id), Some((_, true))))
        {
            return Err(format!("{id} is eligible and in service, and nobody leads"));
        }
        Ok(())
    }
}

fn is_subset(of: &[BrokerId], all: &[BrokerId]) -> bool {
    let all: BTreeSet<BrokerId> = all.iter().copied().collect();
    of.iter().all(|id| all.contains(id))
}
