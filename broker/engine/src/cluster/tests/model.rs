//! The records against a model of the replicas' logs: whoever is in sync or eligible holds all
//! that was committed, through crashes that lose what was not flushed.
//!
//! The model's leader commits by KIP-966's rule and takes in followers by KIP-497's; everything
//! else is the metadata's.

use proptest::prelude::*;

use super::{super::*, support::*};

pub(super) const BROKERS: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append,
    Replicate(usize),
    Commit,
    Shrink(usize),
    Expand(usize),
    Fence(usize),
    Unfence(usize),
    RestartClean(usize),
    /// Loses this many records, if the topic does not flush before it acknowledges.
    Crash(usize, usize),
    /// The disk goes back to an image with this many records of its log; the life is the same.
    OlderImage(usize, usize),
    ShutDown(usize),
    Unclean(usize),
    Move(Vec<BrokerId>),
    Cancel,
}

fn step(images: bool) -> impl Strategy<Value = Step> {
    let id = || 0..BROKERS;
    let replicas = || proptest::sample::subsequence(vec![0, 1, 2], 1..=3).prop_shuffle();
    prop_oneof![
        6 => Just(Step::Append),
        8 => id().prop_map(Step::Replicate),
        6 => Just(Step::Commit),
        3 => id().prop_map(Step::Shrink),
        6 => id().prop_map(Step::Expand),
        3 => id().prop_map(Step::Fence),
        6 => id().prop_map(Step::Unfence),
        1 => id().prop_map(Step::RestartClean),
        3 => (id(), 0usize..4).prop_map(|(id, lost)| Step::Crash(id, lost)),
        u32::from(images) * 2 + 1 => (id(), 0usize..4).prop_map(|(id, kept)| Step::OlderImage(id, kept)),
        1 => id().prop_map(Step::ShutDown),
        1 => id().prop_map(Step::Unclean),
        1 => replicas().prop_map(Step::Move),
        1 => Just(Step::Cancel),
    ]
}

/// The metadata, and what lies on the disks.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) log: Log,
    pub(super) disks: [Vec<u32>; BROKERS],
    /// All records that were ever acknowledged, in order.
    pub(super) committed: Vec<u32>,
    flush: &'static str,
    /// The next record.
    pub(super) next: u32,
    life: u128,
    /// The leader epoch for which the leader's log end at its beginning is known, and that end.
    pub(super) term: (i32, usize),
}

impl Model {
    pub(super) fn new(min_insync: u8, flush: &'static str) -> Self {
        let mut log = Log::with_partition();
        log.configure("min.insync.replicas", &min_insync.to_string());
        log.configure("flush", flush);
        Self {
            log,
            disks: Default::default(),
            committed: Vec::new(),
            flush,
            next: 0,
            life: 10,
            term: (-1, 0),
        }
    }

    pub(super) fn partition(&self) -> &Partition {
        self.log.partition("t")
    }

    fn leader(&mut self) -> Option<usize> {
        let leader = self.partition().leader?.unsigned_abs() as usize;
        let epoch = self.partition().leader_epoch;
        if self.term.0 != epoch {
            self.term = (epoch, self.disks[leader].len());
        }
        Some(leader)
    }

    fn is_in_service(&self, id: usize) -> bool {
        !self.log.cluster.brokers[&(id as BrokerId)].fenced
    }

    /// A step that can't happen now does nothing.
    pub(super) fn run(&mut self, step: &Step, images: bool) {
        let leader = self.leader();
        match (step, leader) {
            (Step::Append, Some(leader)) => {
                self.disks[leader].push(self.next);
                self.next += 1;
            }
            (Step::Replicate(to), Some(leader))
                if *to != leader && self.partition().replicas.contains(&(*to as BrokerId)) =>
            {
                self.disks[*to] = self.disks[leader].clone();
            }
            (Step::Commit, Some(leader)) => self.commit(leader),
            (Step::Shrink(out), Some(leader)) if *out != leader => {
                let mut isr = self.partition().isr.clone();
                isr.retain(|id| *id != *out as BrokerId);
                self.propose(leader, &isr);
            }
            (Step::Expand(new), Some(leader)) => {
                let caught_up = self.disks[*new].len() >= self.term.1.max(self.committed.len())
                    && self.disks[leader].starts_with(&self.disks[*new]);
                let id = *new as BrokerId;
                if caught_up && self.partition().replicas.contains(&id) && !self.partition().isr.contains(&id) {
                    let mut isr = self.partition().isr.clone();
                    isr.push(id);
                    self.propose(leader, &isr);
                }
            }
            (Step::Fence(id), _) => self.log.fence(*id as BrokerId),
            (Step::Unfence(id), _) => {
                let end = self.disks[*id].len() as i64;
                let command = self.log.unfence_command(*id as BrokerId, &[end]);
                let _ = self.log.run(&command);
            }
            (Step::RestartClean(id), _) => {
                self.life += 1;
                self.log.restart_clean(*id as BrokerId, self.life);
            }
            (Step::Crash(id, lost), _) => self.crash(*id, *lost),
            (Step::OlderImage(id, kept), _) if images => {
                let disk = &mut self.disks[*id];
                disk.truncate(*kept);
                self.crash(*id, 0);
            }
            (Step::ShutDown(id), _) => {
                self.log.shut_down(*id as BrokerId);
            }
            (Step::Unclean(id), None) => {
                let kind = ElectionKind::Unclean {
                    replica: *id as BrokerId,
                };
                if self.log.elect(kind).is_ok() {
                    // What it lacks is lost; that is what was asked for.
                    let kept = (0..=self.committed.len())
                        .rev()
                        .find(|kept| self.disks[*id].starts_with(&self.committed[..*kept]));
                    self.committed.truncate(kept.unwrap_or(0));
                }
            }
            (Step::Move(target), _) => {
                let _ = self.log.reassign(Some(target));
            }
            (Step::Cancel, _) => {
                let _ = self.log.reassign(None);
            }
            _ => {}
        }
    }

    /// Up to the shortest log in sync, while enough are (KIP-966).
    fn commit(&mut self, leader: usize) {
        let p = self.partition();
        let min_insync = self.log.cluster.min_insync_replicas(&self.log.cluster.topics["t"]);
        if p.isr.len() < p.required(min_insync) || p.recovering {
            return;
        }
        let common = |disk: &[u32]| disk.iter().zip(&self.disks[leader]).take_while(|(a, b)| a == b).count();
        let isr = p.isr.iter().map(|id| common(&self.disks[*id as usize]));
        let end = isr.min().unwrap_or(0);
        if end > self.committed.len() {
            self.committed = self.disks[leader][..end].to_vec();
        }
    }

    fn propose(&mut self, leader: usize, isr: &[BrokerId]) {
        // A leader's watermark is never above its log's end: one that came back with an older image
        // claims no more than it has.
        let high_watermark = self.committed.len().min(self.disks[leader].len());
        let change = IsrChange {
            high_watermark: high_watermark as i64,
            ..self.log.proposal(isr)
        };
        let _ = self.log.alter(leader as BrokerId, change);
    }

    fn crash(&mut self, id: usize, lost: usize) {
        if self.flush != "ack" {
            let kept = self.disks[id].len().saturating_sub(lost);
            self.disks[id].truncate(kept);
        }
        self.life += 1;
        let report = crashed(self.log.epoch(id as BrokerId));
        self.log.begin_life(id as BrokerId, self.life, report);
    }

    /// Who is trusted holds what was committed, and the leader is in service.
    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        let p = self.partition();
        for id in p.isr.iter().chain(&p.elr) {
            let disk = &self.disks[*id as usize];
            prop_assert!(
                disk.starts_with(&self.committed),
                "{id} holds {disk:?} of {:?}: {p:?}",
                self.committed
            );
        }
        if let Some(leader) = p.leader {
            prop_assert!(self.is_in_service(leader as usize));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn who_is_trusted_holds_what_was_committed(
        min_insync in 1u8..=3,
        flushes in any::<bool>(),
        steps in proptest::collection::vec(step(false), 1..80),
    ) {
        let mut model = Model::new(min_insync, if flushes { "ack" } else { "os" });
        for step in &steps {
            model.run(step, false);
            // A partition whose only replica loses its tail has lost what the settings let it.
            if model.partition().replicas.len() == 1 && !flushes {
                return Ok(());
            }
            model.check()?;
        }
    }

    /// With disks that go back in time only what is below the floor is promised.
    #[test]
    fn no_disk_below_the_floor_leads(
        min_insync in 2u8..=3,
        steps in proptest::collection::vec(step(true), 1..120),
    ) {
        let mut model = Model::new(min_insync, "ack");
        for step in &steps {
            model.run(step, true);
            let p = model.partition();
            if let Some(leader) = p.leader {
                let end = model.disks[leader as usize].len() as i64;
                prop_assert!(end >= p.floor.offset, "{leader} ends at {end}: {p:?}");
            }
        }
    }
}
