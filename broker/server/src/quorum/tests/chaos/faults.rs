//! What happens to voters and their disks.

use std::{sync::Arc, time::Duration};

use millrace_log::{FaultyFileSystem, fs::faulty::FaultPlan};
use openraft::type_config::async_runtime::watch::WatchReceiver;

use super::{
    super::{Node, forgetful_disk},
    witness::voters,
    world::World,
};

impl World {
    /// What a power cut does to a disk.
    fn forgets(&mut self, disk: &FaultyFileSystem) {
        disk.set_plan(FaultPlan {
            lose_all_unsynced: self.rng.chance(500_000),
            ..FaultPlan::default()
        });
    }

    /// Power loss.
    pub async fn crash(&mut self, id: u64) -> FaultyFileSystem {
        let node = self.voters.nodes.remove(&id).unwrap();
        self.traffic.lives.end(id);
        self.forgets(&node.disk);
        let (gate, quorum) = (Arc::clone(&node.gate), node.quorum.clone());
        let disk = node.crash(&self.voters.router).await;
        self.following.remove(&id).unwrap().await.unwrap();
        self.observer.states_on_disk(gate.take_states());
        self.observer.ended(id, quorum.log());
        disk
    }

    /// Power loss everywhere at once: what no disk has is gone.
    pub async fn power_cut(&mut self) {
        let ids: Vec<u64> = self.voters.nodes.keys().copied().collect();
        for id in &ids {
            let node = &self.voters.nodes[id];
            node.gate.kill();
            let disk = node.disk.clone();
            self.forgets(&disk);
            disk.crash();
        }
        let mut disks = Vec::new();
        for id in ids {
            disks.push((id, self.crash(id).await));
        }
        for (id, disk) in disks {
            self.start(id, disk).await;
        }
        self.count("power cuts");
    }

    /// A disk takes nothing for a while; then all goes on with what was going on before.
    pub fn stall(&mut self, id: u64) {
        let gate = Arc::clone(&self.voters.nodes[&id].gate);
        let for_ms = self.rng.below(800);
        gate.hold();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            gate.release();
        });
        self.count("stalls");
    }

    /// The next sync of the log fails. The process ends over it and begins anew.
    pub async fn fail_sync(&mut self, id: u64) {
        let node = &self.voters.nodes[&id];
        node.disk.set_plan(FaultPlan {
            fail_next_syncs: 1,
            only_paths_with: ".log".into(),
            ..node.disk.plan()
        });
        let mut failed = node.quorum.failed();
        let has_failed = tokio::time::timeout(Duration::from_millis(100), failed.wait_for(Option::is_some)).await;
        let has_failed = has_failed.is_ok();
        let disk = self.crash(id).await;
        self.start(id, disk).await;
        if has_failed {
            self.count("failed syncs");
        }
    }

    /// A voter's disk is gone. It is removed, and a new member takes its place, as soon as that can be.
    pub async fn lose_disk(&mut self, id: u64) {
        if self.may_lose(id) {
            self.crash(id).await;
            self.replace(id).await;
            self.count("lost disks");
        }
    }

    async fn replace(&mut self, lost: u64) {
        self.lost = Some(lost);
        let new = self.next_id;
        self.next_id += 1;
        self.start(new, forgetful_disk(self.observer.seed * 100 + new)).await;
    }

    /// Whether those that are left can decide, by whatever set of voters is or may come into force.
    fn may_lose(&self, id: u64) -> bool {
        let outlives = |node: &Node| {
            let metrics = node.quorum.raft().metrics().borrow_watched().clone();
            let sets = [&metrics.committed_membership_config, &metrics.membership_config];
            let mut sets = sets.into_iter().map(|membership| voters(membership));
            sets.all(|set| !set.contains(&id) || set.len() > 2)
        };
        self.lost.is_none() && self.voters.nodes.values().all(outlives)
    }

    /// A follower's disk comes back as an older image of itself. Who leads notices it, unless another has come to lead;
    /// and nothing that was acknowledged is lost as long as the image has no vote. It is then replaced by a new member.
    pub async fn older_image(&mut self) {
        self.voters.router.heal();
        let leader = self.voters.leader().await;
        let id = self.any();
        if id == leader || !self.may_lose(id) {
            return;
        }
        let image = self.voters.nodes[&id].disk.copy();
        self.pause(50, 150).await;
        self.voters.router.mute(id);
        self.crash(id).await;
        let node = self.open(id, image).await;
        self.traffic.lives.begin_beside(id, node.quorum.clone());
        self.connect(node);
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut nodes = self.voters.nodes.values();
            if nodes.any(|node| node.quorum.lacking().contains(&id)) {
                self.count("older images noticed");
                break;
            }
        }
        self.crash(id).await;
        self.replace(id).await;
        self.count("older images");
    }
}
