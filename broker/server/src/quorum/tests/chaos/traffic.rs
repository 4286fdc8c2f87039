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
        super::{
            Quorum, QuorumError,
            ask::{Answer, Ask},
            entry_log::EntryLog,
        },
        create_topic,
    },
    witness::{Set, voters},
};

/// The last life of each voter, and whether it goes on. One that has ended still tells what it had brought onto its
/// disk.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<Vec<Life>>>);

struct Life {
    id: u64,
    quorum: Quorum,
    goes_on: bool,
}

impl Lives {
    /// A voter lives again, on the disk that it had.
    pub fn begin(&self, id: u64, quorum: Quorum) {
        let mut lives = self.0.lock();
        lives.retain(|life| life.id != id);
        let goes_on = true;
        lives.push(Life { id, quorum, goes_on });
    }

    /// A voter lives again, on another disk than it had.
    pub fn begin_beside(&self, id: u64, quorum: Quorum) {
        let goes_on = true;
        self.0.lock().push(Life { id, quorum, goes_on });
    }

    pub fn end(&self, id: u64) {
        for life in self.0.lock().iter_mut().filter(|life| life.id == id) {
            life.goes_on = false;
        }
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// One of those who lead, as far as they know themselves, and how many there are.
    pub fn leader(&self, turn: u64) -> Option<(Quorum, usize)> {
        let lives = self.0.lock();
        let leads = |life: &&Life| life.goes_on && life.quorum.leads_in_term().is_some();
        let leaders: Vec<&Life> = lives.iter().filter(leads).collect();
        let at = turn.checked_rem(leaders.len() as u64)?;
        let life = leaders[usize::try_from(at).unwrap()];
        Some((life.quorum.clone(), leaders.len()))
    }

    /// Who has entry `index` on the disk.
    fn disks(&self, index: u64) -> Set {
        let lives = self.0.lock();
        let has = |log: &EntryLog| log.flushed_end().max(log.snapshot_end()) > index;
        let have = lives.iter().filter(|life| has(life.quorum.log()));
        have.map(|life| life.id).collect()
    }
}

/// Where an entry was when it was acknowledged.
#[derive(Debug)]
pub struct Durable {
    pub index: u64,
    /// Who had it on the disk.
    pub disks: Set,
    /// One of these is who had to have it.
    pub sets: Vec<Set>,
}

/// How many topics a read looks for. That it sees a state as new as what was acknowledged says more.
const LOOKED_FOR: usize = 20;

/// What writers and readers were told.
#[derive(Default)]
pub struct Told {
    /// The topics that are acknowledged.
    pub topics: BTreeSet<u64>,
    /// Those that are not there for sure.
    pub refused: BTreeSet<u64>,
    /// Not looked at yet.
    pub durable: Vec<Durable>,
    /// The last ones, the oldest first.
    recent: Vec<u64>,
    /// The newest entry that was acknowledged or shown by a read.
    shown: u64,
    pub reads: usize,
    /// Reads at one of several that took themselves for leaders.
    pub contested_reads: usize,
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
    pub async fn write(self, seed: u64, first: u64) {
        let mut number = first;
        while !self.stop.load(SeqCst) {
            let Some((quorum, _)) = self.lives.leader(number) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            number += 1;
            match quorum.ask(Ask::submit(create_topic(number)).unwrap()).await {
                Ok(Answer {
                    index,
                    result: Some(Ok(_)),
                }) => {
                    let durable = self.durable(&quorum, index);
                    let mut told = self.told.lock();
                    told.topics.insert(number);
                    told.durable.push(durable);
                    told.shown = told.shown.max(index);
                    told.recent.push(number);
                    if told.recent.len() > LOOKED_FOR {
                        told.recent.remove(0);
                    }
                }
                // Each is asked for once.
                Ok(answer) => panic!("seed {seed}: topic-{number} was answered {answer:?}"),
                Err(error) => {
                    if matches!(error, QuorumError::NotLeader { .. } | QuorumError::NoMajority) {
                        self.told.lock().refused.insert(number);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    fn durable(&self, leader: &Quorum, index: u64) -> Durable {
        // First who votes: what is committed by those is on their disks by now.
        let metrics = leader.raft().metrics().borrow_watched().clone();
        let (committed, newest) = (&metrics.committed_membership_config, &metrics.membership_config);
        let since = newest.log_id().map_or(0, |id| id.index);
        let mut sets = vec![voters(newest)];
        // Else those before may have decided it.
        if index < since {
            sets.push(voters(committed));
        }
        Durable {
            index,
            sets,
            disks: self.lives.disks(index),
        }
    }

    /// Reads at those who lead, until told to stop: each read shows all that was acknowledged, or shown by another
    /// read, before it began.
    pub async fn read(self, seed: u64) {
        for turn in 0.. {
            if self.stop.load(SeqCst) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
            let Some((quorum, leaders)) = self.lives.leader(turn) else {
                continue;
            };
            let (recent, shown) = {
                let mut told = self.told.lock();
                told.contested_reads += usize::from(leaders > 1);
                (told.recent.clone(), told.shown)
            };
            if quorum.read_index().await.is_err() {
                continue;
            }
            let cluster = quorum.cluster();
            let version = cluster.version;
            assert!(
                version >= shown,
                "seed {seed}: a read shows the state after {version}, {shown} was acknowledged or shown before it"
            );
            for number in recent {
                let name = format!("topic-{number}");
                assert!(cluster.topics.contains_key(&name), "seed {seed}: a read lacks {name}");
            }
            let mut told = self.told.lock();
            told.shown = told.shown.max(version);
            told.reads += 1;
        }
    }
}

/// What is there must be, and what is not there must not be.
pub fn check_topics<T>(seed: u64, told: &Told, topics: &BTreeMap<String, T>) {
    for (numbers, wanted, what) in [
        (&told.topics, true, "was acknowledged and lost"),
        (&told.refused, false, "was refused and is there"),
    ] {
        for number in numbers {
            let name = format!("topic-{number}");
            assert_eq!(topics.contains_key(&name), wanted, "seed {seed}: {name} {what}");
        }
    }
}
