//! What must hold after each step, and in the end.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{super::*, support::*},
    Seen,
    world::{CLIENTS, DOUBLE, World},
};

impl World {
    /// What must hold after each step.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let now = self.now.monotonic;
        let mut owners: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        for (number, client) in self.clients.iter().enumerate() {
            for at in client.owned.keys().filter(|at| client.owns(at, now)) {
                if let Some(other) = owners.insert(*at, number) {
                    return Err(format!("{other} and {number} both own {at}"));
                }
            }
        }
        for (at, acknowledged) in &self.acknowledged {
            let stored = self
                .replica
                .get("g")
                .and_then(|group| group.offsets.get(at))
                .map(|offset| offset.offset);
            if stored.is_none_or(|stored| stored < *acknowledged) {
                return Err(format!("{acknowledged} of {at} was acknowledged, {stored:?} is stored"));
            }
        }
        // What is told lives in the log: the same state, by the same code, from its bytes.
        let mut replayed = self.replica.clone();
        for record in self.open.iter().flat_map(|(_, records)| records) {
            replayed.apply(Record::decode(&record.key, record.value.as_deref()).unwrap());
        }
        if replayed != *self.coordinator.groups() {
            return Err("what is replayed is another state".to_owned());
        }
        for groups in [&replayed, &self.replica] {
            if let Some(group) = groups.get("g") {
                group.validate()?;
            }
        }
        if let Some(group) = self.replica.get("g") {
            let epoch = group.record.as_ref().map_or(0, |record| record.epoch);
            if epoch < self.epoch {
                return Err(format!("the group's epoch falls from {} to {epoch}", self.epoch));
            }
            self.epoch = epoch;
        } else {
            self.epoch = 0;
        }
        Ok(())
    }

    /// Faults end; all must come to rest, with every partition at a member that knows it.
    pub(super) fn heal(&mut self, seen: &mut Seen) -> Result<(), String> {
        self.calm = true;
        for client in &mut self.clients {
            client.frozen_until = Duration::ZERO;
            client.subscribe(vec!["t1".into(), "t2".into()]);
        }
        self.clients[DOUBLE].running = false;
        for _ in 0..600 {
            self.pass(Duration::from_millis(100), seen);
            for _ in 0..20 {
                self.deliver(seen);
                self.commit_next(seen);
            }
            for at in 0..self.clients.len() {
                self.act(at, seen);
            }
            self.check()?;
            if self.at_rest().is_ok() {
                return Ok(());
            }
        }
        self.at_rest()
    }

    /// Whether all members are there and own all partitions, and all is told.
    fn at_rest(&self) -> Result<(), String> {
        if !self.open.is_empty() {
            return Err("appends are open".to_owned());
        }
        let group = self.coordinator.groups().get("g").ok_or("the group is gone")?;
        if group.state() != GroupState::Stable {
            return Err(format!("{:?}: {:?}", group.state(), group.members));
        }
        if group.members.len() != CLIENTS {
            return Err(format!("members: {:?}", group.members.keys()));
        }
        for client in self.clients.iter().filter(|client| client.running) {
            let record = group
                .members
                .get(&client.id())
                .and_then(|member| member.record.as_ref());
            let stored = record.map(|record| &record.details.topics);
            if stored != Some(&client.topics) {
                return Err(format!(
                    "{} takes {:?}, stored is {stored:?}",
                    client.id(),
                    client.topics
                ));
            }
        }
        let now = self.now.monotonic;
        for (topic, partitions) in self.partitions.iter().enumerate() {
            for partition in 0..*partitions {
                let place = at(topic as u128 + 1, partition);
                if !self.clients.iter().any(|client| client.owns(&place, now)) {
                    return Err(format!("nobody owns {place}"));
                }
            }
        }
        Ok(())
    }
}
