//! Who writes and reads meanwhile, and what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use openraft::type_config::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::{
    super::{
        super::{Quorum, ask::Ask},
        create_topic,
    },
    observer::voters,
};

/// The last life of each voter, and whether it goes on. One that has ended still tells what it had brought onto its
/// disk.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<BTreeMap<u64, (Quorum, bool)>>>);

impl Lives {
    pub fn begin(&self, id: u64, quorum: Quorum) {
        self.0.lock().insert(id, (quorum, true));
    }

    pub fn end(&self, id: u64) {
        if let Some((_, lives)) = self.0.lock().get_mut(&id) {
            *lives = false;
        }
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// Who leads, as far as it knows itself.
    pub fn leader(&self) -> Option<Quorum> {
        let lives = self.0.lock();
        let mut living = lives.values().filter(|(_, lives)| *lives).map(|(quorum, _)| quorum);
        living.find(|quorum| quorum.leads_in_term().is_some()).cloned()
    }

    /// Who has entry `index` on the disk.
    fn disks(&self, index: u64) -> BTreeSet<u64> {
        let lives = self.0.lock();
        let have = lives
            .iter()
            .filter(|(_, (quorum, _))| quorum.log().flushed_end() > index);
        have.map(|(id, _)| *id).collect()
    }
}

/// Where an entry was when it was acknowledged.
pub struct Durable {
    pub index: u64,
    /// Who had it on the disk.
    pub disks: BTreeSet<u64>,
    /// Who votes, by the leader: as committed, and as it counts.
    pub sets: [BTreeSet<u64>; 2],
}

/// What writers and readers were told.
#[derive(Default)]
pub struct Told {
    /// The topics that are acknowledged.
    pub topics: BTreeSet<u64>,
    pub durable: Vec<Durable>,
    /// The newest state that a read has shown, and how many there were.
    pub shown: u64,
    pub reads: u64,
}

/// Writers and readers share it.
#[derive(Clone, Default)]
pub struct Traffic {
    pub lives: Lives,
    pub told: Arc<Mutex<Told>>,
    pub stop: Arc<AtomicBool>,
}

impl Traffic {
    /// Creates one topic after the other by whoever leads, until told to stop.
    pub async fn write(self, first: u64) {
        let mut number = first;
        while !self.stop.load(SeqCst) {
            let Some(quorum) = self.lives.leader() else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            number += 1;
            let Ok(answer) = quorum.ask(Ask::submit(create_topic(number)).unwrap()).await else {
                continue;
            };
            if matches!(answer.result, Some(Ok(_))) {
                let durable = self.durable(&quorum, answer.index);
                let mut told = self.told.lock();
                told.topics.insert(number);
                told.durable.push(durable);
            }
        }
    }

    fn durable(&self, leader: &Quorum, index: u64) -> Durable {
        // First who votes: what is committed by those is on their disks by now.
        let metrics = leader.raft().metrics().borrow_watched().clone();
        let sets = [&metrics.committed_membership_config, &metrics.membership_config];
        Durable {
            index,
            sets: sets.map(|membership| voters(membership)),
            disks: self.lives.disks(index),
        }
    }

    /// Reads at whoever leads, until told to stop: each read shows all that was acknowledged, or shown by another
    /// read, before it began.
    pub async fn read(self, seed: u64) {
        while !self.stop.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let Some(quorum) = self.lives.leader() else { continue };
            let (topics, shown) = {
                let told = self.told.lock();
                (told.topics.clone(), told.shown)
            };
            if quorum.read_index().await.is_err() {
                continue;
            }
            let cluster = quorum.cluster();
            assert!(
                cluster.version >= shown,
                "seed {seed}: a read shows {}, one before it {shown}",
                cluster.version
            );
            for number in topics {
                let name = format!("topic-{number}");
                assert!(cluster.topics.contains_key(&name), "seed {seed}: a read lacks {name}");
            }
            let mut told = self.told.lock();
            told.shown = told.shown.max(cluster.version);
            told.reads += 1;
        }
    }
}
