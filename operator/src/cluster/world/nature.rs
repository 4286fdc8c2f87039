//! What Kubernetes and the brokers of the toy do by themselves.

use k8s_openapi::jiff::SignedDuration;
use serde_json::Value;

use super::{Broker, World};
use crate::{
    cluster::seen::{Claim, Pod},
    render::{Kind, template_hash},
};

impl World {
    /// What Kubernetes and the brokers do by themselves, some of it.
    pub(super) fn tick(&mut self) {
        self.now = self.now.checked_add(SignedDuration::from_secs(20)).unwrap();
        if let Some(set) = self.objects.get(&Kind::StatefulSet) {
            let replicas = i32::try_from(set["spec"]["replicas"].as_i64().unwrap()).unwrap();
            let hash = template_hash(&set["spec"]["template"]).to_owned();
            self.pods.retain(|id, _| *id < replicas);
            for id in 0..replicas {
                if !self.pods.contains_key(&id) && self.dice.roll(3) > 0 {
                    self.uids += 1;
                    let pod = Pod {
                        name: format!("orders-broker-{id}"),
                        uid: format!("pod-{}", self.uids),
                        hash: hash.clone(),
                        created: Some(self.now),
                        scheduled: true,
                        ..Pod::default()
                    };
                    self.pods.insert(id, pod);
                    self.claims.entry(id).or_insert_with(|| Claim {
                        name: format!("data-orders-broker-{id}"),
                        bound: true,
                        ..Claim::default()
                    });
                }
            }
        }
        for id in self.pods.keys().copied().collect::<Vec<_>>() {
            if self.dice.roll(3) > 0 {
                self.start(id);
            }
        }
        self.vote();
        for _ in 0..self.dice.roll(4) {
            if let Some((replica, from, to)) = self.moves.pop()
                && self.brokers.contains_key(&to)
                && self.brokers.contains_key(&from)
            {
                self.brokers.get_mut(&from).unwrap().replicas.remove(&replica);
                self.brokers.get_mut(&to).unwrap().replicas.insert(replica);
            }
        }
        if let Some((id, uid)) = &self.slot
            && self.serves(*id)
            && self.pods[id].uid != *uid
        {
            self.slot = None;
        }
        if !self.trouble.budgets_lag || self.dice.roll(3) > 0 {
            self.judge_budget();
        }
        self.drain();
    }

    fn start(&mut self, id: i32) {
        let (Some(set), Some(map)) = (self.objects.get(&Kind::StatefulSet), self.objects.get(&Kind::ConfigMap)) else {
            // Without its settings a pod does not start.
            return;
        };
        let image = set
            .pointer("/spec/template/spec/containers/0/image")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let is_bad = image.contains(self.bad_image) && self.pods[&id].hash == self.live_hash();
        let config = map["data"]["broker.properties"].as_str().unwrap().to_owned();
        let begins = id == 0 && config.contains("\nbegin.node=0");
        let pod = self.pods.get_mut(&id).unwrap();
        if is_bad {
            pod.waiting = Some(("ImagePullBackOff".into(), "no such image".into()));
            return;
        }
        pod.running = true;
        let formatted = self.disks.get(&id).copied().unwrap_or_default();
        if !formatted && begins && !self.brokers.keys().any(|other| self.serves(*other)) {
            self.began += 1;
            assert_eq!((id, self.began), (0, 1), "a second cluster was begun");
            self.brokers.insert(
                0,
                Broker {
                    votes: true,
                    ..Broker::default()
                },
            );
            self.disks.insert(0, true);
        } else if !self.brokers.contains_key(&id) {
            // The disk of a removed broker is refused for ever, its number unless that is permitted.
            if formatted || self.began == 0 || (self.removed.contains(&id) && !self.permitted.remove(&id)) {
                return;
            }
            self.removed.remove(&id);
            self.brokers.entry(id).or_default();
            self.disks.insert(id, true);
        }
        if self.brokers.contains_key(&id) {
            let now = self.now;
            self.pods.get_mut(&id).unwrap().ready_since.get_or_insert(now);
        }
    }

    /// The first three voters come by themselves, one after another, in their own time.
    fn vote(&mut self) {
        let able = self.brokers.keys().copied().filter(|id| self.serves(*id));
        let able: Vec<i32> = able.filter(|id| !self.brokers[id].draining).collect();
        let voters = self.voters();
        if voters.len() < 3 && able.len() >= 3 && self.cluster.spec.replicas >= 3 && self.dice.roll(3) > 0 {
            let next = able.into_iter().find(|id| !voters.contains(id));
            self.brokers.get_mut(&next.unwrap()).unwrap().votes = true;
        }
    }
}
