//! A toy Kubernetes and a toy cluster of brokers, so that what is decided is seen to lead where it should, whenever the
//! operator dies: a pass ends after any of its steps, and the next one begins from what is there.

mod evictions;
mod nature;
mod rolls;
mod runs;

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt as _;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_client::v1;
use millrace_crds::Cluster;
use serde_json::{Value, json};

use evictions::Trouble;

use super::{
    act::Outcome,
    carry_out::{Doer, Progress, carry_out, is_config_map},
    decide::{Decision, Hold, Step, decide, shrinks, takes_a_pod},
    report,
    roll::KeptBack,
    seen::{Claim, OperatorDefaults, Pod, Reach, Seen, Told},
};
use crate::{
    names::{self, APPROVE, ClusterKey, NUDGED_AT},
    render::{Kind, template_hash},
};

/// How many runs of each kind.
const SEEDS: u64 = 30;

/// Numbers from a seed: each run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[derive(Clone, Debug, Default)]
struct Broker {
    replicas: BTreeSet<u32>,
    draining: bool,
    votes: bool,
}

/// All there is.
pub struct World {
    dice: Dice,
    now: Timestamp,
    cluster: Cluster,
    objects: BTreeMap<Kind, Value>,
    pods: BTreeMap<i32, Pod>,
    claims: BTreeMap<i32, Claim>,
    /// Which broker a claim's disk belongs to, once it was formatted.
    disks: BTreeMap<i32, bool>,
    brokers: BTreeMap<i32, Broker>,
    removed: BTreeSet<i32>,
    permitted: BTreeSet<i32>,
    began: u32,
    moves: Vec<(u32, i32, i32)>,
    uids: u32,
    /// Templates with this in their image never start.
    bad_image: &'static str,
    leader: i32,
    /// The broker that has the maintenance slot, and the pod that it was given for.
    slot: Option<(i32, String)>,
    /// Brokers that the quorum lets nobody restart: partitions have no replica to spare.
    needed: BTreeSet<i32>,
    partitions: u32,
    /// Pods that were evicted while another one was away.
    unsafe_evictions: u32,
    restarts: u32,
    passes: u32,
    trouble: Trouble,
}

impl World {
    fn new(seed: u64, spec: Value) -> Self {
        Self {
            dice: Dice(seed.wrapping_add(1)),
            now: Timestamp::from_second(1_000_000).unwrap(),
            cluster: serde_json::from_value(json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
                "metadata": { "name": "orders", "namespace": "demo", "uid": "cluster-uid", "generation": 1 },
                "spec": spec,
            }))
            .unwrap(),
            objects: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            disks: BTreeMap::new(),
            brokers: BTreeMap::new(),
            removed: BTreeSet::new(),
            permitted: BTreeSet::new(),
            began: 0,
            moves: Vec::new(),
            uids: 0,
            bad_image: "bad",
            leader: 0,
            slot: None,
            needed: BTreeSet::new(),
            partitions: 0,
            unsafe_evictions: 0,
            restarts: 0,
            passes: 0,
            trouble: Trouble::default(),
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::to_value(&self.cluster).unwrap();
        change(&mut value["spec"]);
        self.cluster = serde_json::from_value(value).unwrap();
    }

    fn seen(&self) -> Seen {
        Seen {
            now: self.now,
            key: ClusterKey::new("demo", "orders"),
            cluster: self.cluster.clone(),
            operator: OperatorDefaults {
                version: "0.1.0".into(),
                image: "millrace:0.1.0".into(),
                image_pull_policy: "IfNotPresent".into(),
                image_pull_secrets: Vec::new(),
            },
            objects: self.objects.clone(),
            pods: self.pods.clone(),
            claims: self.claims.clone(),
            brokers: self.reach(),
        }
    }

    fn serves(&self, id: i32) -> bool {
        self.pods.get(&id).is_some_and(Pod::is_ready) && self.brokers.contains_key(&id)
    }

    fn reach(&self) -> Reach {
        if !self.pods.values().any(|pod| pod.running) {
            return Reach::Unasked;
        }
        let voters = self.brokers.iter().filter(|(_, broker)| broker.votes);
        let alive = voters.clone().filter(|(id, _)| self.serves(**id)).count();
        if alive * 2 <= voters.count() {
            return Reach::Unreachable("no majority".into());
        }
        let describe = |(id, broker): (&i32, &Broker)| v1::BrokerDescription {
            broker_id: *id,
            available: self.serves(*id),
            draining: broker.draining,
            partitions: i32::try_from(broker.replicas.len()).unwrap(),
            rack: format!("zone-{}", id % 3),
            is_voter: broker.votes,
            ..v1::BrokerDescription::default()
        };
        let member = |(id, broker): (&i32, &Broker)| v1::QuorumMember {
            broker_id: Some(*id),
            is_voter: broker.votes,
            lag_entries: Some(0),
            ..v1::QuorumMember::default()
        };
        let moved = |(_, from, to): &(u32, i32, i32)| v1::Reassignment {
            original_replicas: vec![*from],
            target_replicas: vec![*to],
            ..v1::Reassignment::default()
        };
        Reach::Reached(Box::new(Told {
            cluster: v1::DescribeClusterResponse {
                cluster_id: format!("cluster-{}", self.began),
                brokers: self.brokers.iter().map(describe).collect(),
                quorum: Some(v1::QuorumDescription {
                    leader_id: Some(self.leader.into()),
                    ..v1::QuorumDescription::default()
                }),
                health: Some(v1::PartitionHealth {
                    at_min_in_sync: Some(v1::PartitionList {
                        count: self.needed.len().try_into().unwrap(),
                        ..v1::PartitionList::default()
                    }),
                    ..v1::PartitionHealth::default()
                }),
                maintenance: self.maintenance(),
                ..v1::DescribeClusterResponse::default()
            },
            members: self.brokers.iter().map(member).collect(),
            moves: self.moves.iter().map(moved).collect(),
            settings: ["max.connections".to_owned()].into(),
            ..Told::default()
        }))
    }

    fn maintenance(&self) -> Option<v1::MaintenanceSlot> {
        let (id, _) = self.slot.as_ref()?;
        let uid = self.cluster.metadata.uid.as_deref().unwrap_or_default();
        Some(v1::MaintenanceSlot {
            holder: format!("{} {uid}", names::MANAGED_BY),
            broker_id: *id,
            broker_epoch: self.trouble.acquired,
            ..v1::MaintenanceSlot::default()
        })
    }

    /// One pass of the operator, which dies after some of its steps if `dies`.
    fn pass(&mut self, dies: bool) -> Decision {
        let seen = self.seen();
        let decision = decide(&seen);
        let left = dies.then(|| self.dice.roll(decision.steps.len() as u64 + 1));
        let mut passing = Passing {
            world: self,
            seen,
            left,
            progress: Progress::default(),
            pods: 0,
        };
        // That it fails tells no more than what there is afterwards.
        let _ = carry_out(&mut passing, &decision.steps).now_or_never().unwrap();
        let pods = passing.pods;
        let is_final = |step: &&Step| matches!(step, Step::DeleteClaim(_) | Step::RemoveBroker(_));
        // Who is gone and held nothing is no loss: waiting for that with a restart would have each wait for the other.
        let final_ones = decision.steps.iter().filter(is_final).count();
        assert!(
            pods <= 1 && final_ones <= 1,
            "one act of a kind in each pass: {:?}",
            decision.steps
        );
        decision
    }

    /// A pass that ends with what there is to tell; whether that is that all is ready.
    fn tells_ready(&mut self) -> bool {
        self.passes += 1;
        let seen = self.seen();
        let decision = self.pass(false);
        let status = report::status(&seen, &decision, &Outcome::default(), None);
        let mut conditions = status.conditions.iter();
        let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        self.cluster.status = Some(status);
        ready
    }

    fn shrinks(&self, step: &Step) -> bool {
        shrinks(&self.seen(), step)
    }

    /// Before pods above this are taken away.
    fn check_shrink(&self, left: i64) {
        for (id, broker) in self.brokers.iter().filter(|(id, _)| i64::from(**id) >= left) {
            assert!(
                broker.replicas.is_empty(),
                "broker {id} still holds {:?}",
                broker.replicas
            );
            assert!(!broker.votes, "broker {id} still votes");
        }
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Apply(object) => {
                if self.shrinks(step) {
                    self.check_shrink(object.value["spec"]["replicas"].as_i64().unwrap());
                }
                self.put(object);
            }
            Step::DeleteBudget => {
                self.objects.remove(&Kind::DisruptionBudget);
            }
            Step::Resize(replicas) => {
                if self.shrinks(step) {
                    self.check_shrink((*replicas).into());
                }
                self.objects.get_mut(&Kind::StatefulSet).unwrap()["spec"]["replicas"] = json!(replicas);
            }
            Step::Nudge(_) => {}
            Step::PermitNumber(id) => {
                if self.removed.contains(id) {
                    self.permitted.insert(*id);
                }
            }
            Step::AlterTopicDefaults { .. } => {}
            Step::AddVoter(id) => self.brokers.get_mut(id).unwrap().votes = true,
            Step::RemoveVoter(id) => {
                self.brokers.get_mut(id).unwrap().votes = false;
                if self.leader == *id {
                    self.leader = *self.brokers.iter().find(|(_, broker)| broker.votes).unwrap().0;
                }
            }
            Step::RemoveLostVoter(_) => unreachable!("no disk is lost here"),
            Step::Drain(ids) => {
                for id in ids {
                    self.brokers.get_mut(id).unwrap().draining = true;
                }
                self.plan_drain();
            }
            Step::CancelDrain(ids) => {
                for id in ids {
                    self.brokers.get_mut(id).unwrap().draining = false;
                }
                self.moves.retain(|(_, from, _)| !ids.contains(from));
            }
            Step::Rebalance { onto, record } => {
                // It may fail, and the operator may die before it has written that it did not.
                if self.dice.roll(3) > 0 {
                    self.plan_share(onto);
                    if self.dice.roll(3) > 0 {
                        self.objects.insert(record.kind, record.value.clone());
                    }
                }
            }
            Step::RemoveBroker(id) => {
                let broker = self.brokers.remove(id).unwrap();
                assert!(broker.replicas.is_empty() && !broker.votes && !self.pods.contains_key(id));
                self.removed.insert(*id);
            }
            Step::DeleteClaim(id) => {
                assert!(
                    !self.brokers.contains_key(id),
                    "the claim of a broker that is still known"
                );
                self.claims.remove(id);
                self.disks.remove(id);
            }
            Step::ReleaseSlot(id) => self.release_slot(*id),
            Step::Restart {
                candidates,
                hash,
                budgets,
            } => self.restart(candidates, hash, budgets.as_deref()),
            Step::Replace { broker, hash } => {
                if self.live_hash() == *hash {
                    assert!(!self.pods[broker].running, "asked nobody about a broker that runs");
                    if self.lets_go(*broker) {
                        self.pods.remove(broker);
                    }
                }
            }
        }
    }

    fn live_hash(&self) -> String {
        let set = self.objects.get(&Kind::StatefulSet);
        set.map(|set| template_hash(&set["spec"]["template"]).to_owned())
            .unwrap_or_default()
    }

    /// How many pods may be evicted, by what is asked for.
    fn budget(&self) -> Option<i64> {
        let budget = self.objects.get(&Kind::DisruptionBudget)?;
        budget["spec"]["maxUnavailable"].as_i64()
    }

    fn plan_drain(&mut self) {
        let stay: Vec<i32> = self
            .brokers
            .iter()
            .filter(|(_, broker)| !broker.draining)
            .map(|(id, _)| *id)
            .collect();
        let leaving: Vec<(i32, Vec<u32>)> = self
            .brokers
            .iter()
            .filter(|(_, broker)| broker.draining)
            .map(|(id, broker)| (*id, broker.replicas.iter().copied().collect()))
            .collect();
        for (id, replicas) in leaving {
            for replica in replicas {
                if self
                    .moves
                    .iter()
                    .any(|(moved, from, _)| *moved == replica && *from == id)
                {
                    continue;
                }
                let to = stay[usize::try_from(self.dice.roll(stay.len() as u64)).unwrap()];
                self.moves.push((replica, id, to));
            }
        }
    }

    fn plan_share(&mut self, onto: &[i32]) {
        let total: usize = self.brokers.values().map(|broker| broker.replicas.len()).sum();
        let share = total / self.brokers.len();
        for to in onto {
            let coming = self.moves.iter().filter(|(_, _, known)| known == to).count();
            for _ in self.brokers[to].replicas.len() + coming..share {
                let from = self
                    .brokers
                    .iter()
                    .filter(|(id, _)| !onto.contains(id))
                    .max_by_key(|(id, broker)| {
                        broker.replicas.len() - self.moves.iter().filter(|(_, from, _)| from == *id).count()
                    });
                let Some((from, broker)) = from else { return };
                let replica = broker
                    .replicas
                    .iter()
                    .find(|replica| !self.moves.iter().any(|(moved, by, _)| moved == *replica && by == from));
                if let Some(replica) = replica {
                    self.moves.push((*replica, *from, *to));
                }
            }
        }
    }

    fn fill(&mut self, partitions: u32) {
        self.partitions = partitions;
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        for partition in 0..partitions {
            let id = ids[partition as usize % ids.len()];
            self.brokers.get_mut(&id).unwrap().replicas.insert(partition);
        }
    }

    /// Until nothing is left to do.
    fn settle(&mut self, dies: bool) -> Decision {
        for _ in 0..600 {
            let dies = dies && self.dice.roll(3) == 0;
            self.pass(dies);
            self.tick();
            let last = decide(&self.seen());
            let ready = self.pods.len() == usize::try_from(self.cluster.spec.replicas).unwrap()
                && self.pods.values().all(Pod::is_ready);
            if last.steps.is_empty() && ready && self.moves.is_empty() && last.roll.outdated.is_empty() {
                self.check();
                return last;
            }
        }
        let last = decide(&self.seen());
        panic!("does not settle: {last:#?}\n{:#?}\n{:#?}", self.pods, self.brokers);
    }

    fn check(&self) {
        let held: usize = self.brokers.values().map(|broker| broker.replicas.len()).sum();
        assert_eq!(held, self.partitions as usize, "replicas were lost or doubled");
        assert_eq!(self.began, 1);
        assert_eq!(self.unsafe_evictions, 0);
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        assert_eq!(ids, (0..self.cluster.spec.replicas).collect::<Vec<_>>());
    }

    fn voters(&self) -> Vec<i32> {
        let voters = self.brokers.iter().filter(|(_, broker)| broker.votes);
        voters.map(|(id, _)| *id).collect()
    }
}

/// One pass, as far as its operator lives.
struct Passing<'a> {
    world: &'a mut World,
    seen: Seen,
    /// So many steps are carried out before it dies.
    left: Option<u64>,
    progress: Progress,
    /// How many pods were taken away.
    pods: u32,
}

impl Doer for Passing<'_> {
    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match &mut self.left {
            Some(0) => {
                // From here on it is dead; a restart it dies in the middle of.
                self.progress.outran = true;
                if matches!(step, Step::Restart { .. }) {
                    self.world.trouble.dies_after = Some(self.world.dice.roll(6));
                    self.world.act(step);
                }
                return Ok(());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if is_config_map(step) && self.world.trouble.refuses_settings {
            self.progress.refused = true;
            return Ok(());
        }
        let shrinks = self.world.shrinks(step);
        self.progress.shrunk |= shrinks;
        self.pods += u32::from(shrinks || takes_a_pod(step));
        self.world.act(step);
        Ok(())
    }
}
