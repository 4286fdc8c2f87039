//! The second phase: the faults stop, a core that is enough heals, and it must make progress.

use std::{sync::Arc, time::Duration};

use millrace_engine::{Cluster, Command, Partition, cluster::Move};

use crate::{
    quorum::index_of,
    settings::NetworkFaults,
    shadow::read_all,
    slots::{TOPIC, records, reference},
    world::{Event, World},
};

/// In how much virtual time the core must be whole again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is looked at whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl World {
    /// Runs faults for as long as the settings say, then heals and demands progress.
    pub(crate) fn run_phases(&mut self) {
        self.producing = true;
        self.faulty = true;
        self.schedule(Duration::ZERO, Event::Fault);
        let faulty_for = self.settings.faulty_for;
        self.run_until(faulty_for, |_| false);
        if self.is_over() {
            return;
        }
        self.heal();
        if !self.run_until_looking(LOOK_EVERY, PATIENCE, World::is_whole) {
            return self.stuck("a healed core comes back into service");
        }
        self.producing = false;
        if self.has_groups() {
            return self.end_with_groups();
        }
        if !self.run_until_looking(LOOK_EVERY, PATIENCE, |world| world.is_whole() && world.is_quiet()) {
            return self.stuck("a healed core commits all that was sent");
        }
        let led: Vec<u32> = records(self.quorum.cluster())
            .filter(|(_, record)| !self.is_lost(record))
            .map(|(partition, _)| partition)
            .collect();
        let values: Vec<(u32, Vec<u64>)> = led
            .into_iter()
            .map(|partition| (partition, self.push(0, partition)))
            .collect();
        for (partition, _) in &values {
            self.pump(0, *partition);
        }
        let told = self.run_until_looking(LOOK_EVERY, PATIENCE, |world| {
            values.iter().all(|(partition, values)| {
                let consumed = |offset: i64| world.positions.iter().all(|all| all[*partition as usize].next > offset);
                values
                    .iter()
                    .all(|value| world.observer.acked.get(value).is_some_and(|place| consumed(place.1)))
            }) && world.is_whole()
                && world.is_quiet()
        });
        if !told {
            return self.stuck("each partition takes a record and gives it to a consumer");
        }
        self.check_end();
    }

    /// Groups come to rest, too; then members commit no more, and all that is written is committed.
    fn end_with_groups(&mut self) {
        let whole = |world: &World| world.is_whole() && world.groups_are_at_rest();
        if !self.run_until_looking(LOOK_EVERY, PATIENCE, whole) {
            if self.cut_short {
                return;
            }
            let why = self.what_keeps_groups();
            self.observer
                .violate("healed groups are stable, and all partitions are owned", || {
                    why.unwrap_or_default()
                });
            return;
        }
        self.quiet_groups();
        let all = |world: &World| world.is_whole() && world.is_quiet() && world.groups_are_at_rest();
        if !self.run_until_looking(LOOK_EVERY, PATIENCE, all) {
            return self.stuck("a healed core commits all that was sent");
        }
        self.check_end();
        self.check_groups_at_end();
    }

    /// Everything works again but for brokers that stay as they are, where the rest is enough.
    fn heal(&mut self) {
        self.faulty = false;
        self.calm_groups();
        self.note([41, 0, 0], || "heal".to_owned());
        self.settings.network = NetworkFaults {
            delay_max: self.settings.network.delay_max.min(Duration::from_millis(5)),
            ..NetworkFaults::default()
        };
        self.settings.disk_delay_max = self.settings.disk_delay_max.min(Duration::from_millis(20));
        self.settings.fetch_bytes = self.settings.fetch_bytes.max(4_096);
        for at in 0..self.brokers.len() {
            if let Some(other) = self.brokers[at].swapped_with {
                self.swap_back(at, other);
            }
        }
        if self.settings.heal_core {
            self.choose_core();
        } else {
            self.retire();
        }
        self.mend_core();
        if self.settings.heal_core {
            self.settle_core();
        }
        self.cancel_moves();
    }

    /// Makes all work but the brokers that stay as they are.
    pub(crate) fn mend_core(&mut self) {
        self.network.mend_all();
        for at in 0..self.brokers.len() {
            if self.brokers[at].retired {
                continue;
            }
            self.make_room(at);
            self.brokers[at].paused_until = None;
        }
        for at in 0..self.brokers.len() {
            if self.brokers[at].retired {
                self.leave_broken(at);
                continue;
            }
            if self.brokers[at].disk.damaged {
                // Who is told of damage restarts the broker: one that has cut itself to it under a leader that knew
                // more of it is not counted before.
                self.kill(at);
            }
            self.schedule(Duration::from_millis(10), Event::Start { at });
            if self.brokers[at].needs_permission {
                self.schedule(Duration::from_millis(20), Event::Permit { at });
            }
        }
    }

    /// What was asked for while others were expected to come back is not waited for.
    fn cancel_moves(&mut self) {
        let cluster = Arc::clone(self.quorum.cluster());
        for (slot, record) in records(&cluster) {
            if record.is_moving() {
                let partition = reference(slot);
                let moves = vec![Move {
                    partition,
                    target: None,
                    throttle: None,
                }];
                self.propose(Command::ReassignPartitions { moves }, None);
            }
        }
    }

    /// Each partition is led, and each replica that is up is in sync with all that is written.
    pub(crate) fn is_whole(&self) -> bool {
        let cluster = self.quorum.cluster();
        self.controller_works()
            && cluster.topics.contains_key(TOPIC)
            && self.replacing.is_none()
            && records(cluster).all(|(number, record)| {
                let live = |id: &&i32| !self.brokers[index_of(**id)].retired;
                let Some(leader) = record.leader else {
                    return self.is_lost(record);
                };
                let hosted = self.brokers[index_of(leader)].hosted(number);
                live(&&leader)
                    && record.replicas.iter().filter(live).all(|id| record.isr.contains(id))
                    && hosted.is_some_and(|hosted| {
                        hosted
                            .replica
                            .leader()
                            .is_some_and(|rules| rules.leader_epoch() == record.leader_epoch)
                    })
            })
    }

    /// Whether nobody may lead a partition before an operator chooses somebody: its records were acknowledged
    /// before they were on disks, and all who had them ended uncleanly or have lost their disks. `check_members` looks at
    /// whether that is so.
    #[must_use]
    pub fn is_nobodys(&self, partition: u32) -> bool {
        self.record(partition).is_some_and(|record| self.is_lost(record))
    }

    pub(crate) fn is_lost(&self, record: &Partition) -> bool {
        let mut candidates = record.isr.iter().chain(&record.elr);
        self.written_counts && candidates.all(|id| self.brokers[index_of(*id)].lost_data)
    }

    /// Nothing is under way: producers have their answers, and all that is written is committed.
    fn is_quiet(&self) -> bool {
        let cluster = self.quorum.cluster();
        let idle = |number: u32| self.lanes.iter().all(|lanes| lanes[number as usize].is_empty());
        records(cluster).all(|(number, record)| {
            if self.is_lost(record) {
                return true;
            }
            let end = record
                .leader
                .and_then(|leader| self.brokers[index_of(leader)].hosted(number));
            let end = end.map(|hosted| (hosted.replica.high_watermark(), hosted.log.log_end_offset()));
            idle(number)
                && end.is_some_and(|(high_watermark, log_end)| high_watermark == log_end)
                && record.isr.iter().all(|id| {
                    let hosted = self.brokers[index_of(*id)].hosted(number);
                    hosted.is_some_and(|hosted| Some(hosted.log.log_end_offset()) == end.map(|end| end.1))
                })
        })
    }

    fn stuck(&mut self, rule: &'static str) {
        if self.cut_short {
            return;
        }
        let cluster = Arc::clone(self.quorum.cluster());
        let brokers: Vec<String> = self
            .brokers
            .iter()
            .map(|broker| {
                let hosted = broker.process.iter().flat_map(|process| &process.hosted);
                let replicas: Vec<String> = hosted
                    .map(|(number, hosted)| {
                        let replica = &hosted.replica;
                        format!(
                            "{number}: {:?} epoch {} hw {} leads {} offline {:?}",
                            replica.log(),
                            replica.leader_epoch(),
                            replica.high_watermark(),
                            replica.leader().is_some(),
                            replica.offline()
                        )
                    })
                    .collect();
                let known = cluster.brokers.get(&broker.id).map(|known| (known.epoch, known.fenced));
                format!(
                    "broker {} up {} retired {} {known:?} {replicas:?}",
                    broker.id,
                    broker.process.is_some(),
                    broker.retired
                )
            })
            .collect();
        let partitions = cluster.topics.get(TOPIC).map(|topic| topic.partitions.clone());
        self.observer.violate(rule, || format!("{brokers:#?} {partitions:?}"));
    }

    /// What is left of each log is what compaction must leave, now and after all is compacted.
    fn check_compacted_at_end(&mut self, cluster: &Cluster) {
        if !self.is_compacted() {
            return;
        }
        for (number, record) in records(cluster) {
            for id in &record.isr {
                let at = index_of(*id);
                self.check_compacted(at, number);
                self.compact_to_the_end(at, number);
            }
        }
    }

    /// All logs hold the same, and nothing else than what was committed; all acknowledged is there.
    /// For when nothing is under way.
    pub fn check_end(&mut self) {
        let cluster = Arc::clone(self.quorum.cluster());
        for (number, record) in records(&cluster) {
            self.observer.check_refused(number, 0);
            let mut producers = None;
            for id in &record.isr {
                let Some(hosted) = self.brokers[index_of(*id)].hosted(number) else {
                    continue;
                };
                let (found, problem) = read_all(&hosted.log);
                let damaged = self.brokers[index_of(*id)].disk.damaged;
                let is_unreadable = problem.is_some();
                if let Some(problem) = problem.filter(|_| !damaged) {
                    self.observer.unreadable(number, *id, &problem);
                }
                let start = hosted.log.log_start_offset();
                let state: Vec<_> = hosted
                    .log
                    .producer_state()
                    .entries()
                    .iter()
                    // A snapshot keeps only the last batch of each (Kafka's format), or even only where it ended.
                    .map(|(id, entry)| (*id, entry.epoch, entry.last_sequence()))
                    .collect();
                let committed: Vec<(i64, i32, u64)> = (0i64..)
                    .zip(&self.observer.tracks[number as usize].committed)
                    .map(|(offset, entry)| (offset, entry.epoch, entry.value))
                    .filter(|record| record.0 >= start)
                    .collect();
                let is_as_committed = if self.is_compacted() {
                    found.iter().all(|record| committed.binary_search(record).is_ok())
                } else if is_unreadable {
                    committed.starts_with(&found)
                } else {
                    committed == found
                };
                if !is_as_committed {
                    self.observer.violate("in the end each log is what was committed", || {
                        format!(
                            "partition {number} on broker {id}: {} records, {} committed",
                            found.len(),
                            committed.len()
                        )
                    });
                }
                // What a start could not read it does not know.
                if damaged {
                    continue;
                }
                let known = producers.get_or_insert_with(|| state.clone());
                if *known != state {
                    let differ = known.iter().zip(&state).find(|(one, other)| one != other);
                    let differ = differ.map(|pair| format!("{pair:?}"));
                    let differ = differ.unwrap_or_else(|| format!("{} and {}", known.len(), state.len()));
                    self.observer.violate("replicas know the same of producers", || {
                        format!("partition {number} on broker {id}: {differ}")
                    });
                }
            }
        }
        self.check_compacted_at_end(&cluster);
        let acked: Vec<(u64, (u32, i64))> = self
            .observer
            .acked
            .iter()
            .map(|(value, place)| (*value, *place))
            .collect();
        for (value, (partition, offset)) in acked {
            let there = self.observer.tracks[partition as usize]
                .committed_at(offset)
                .map(|entry| entry.value);
            if there != Some(value) {
                self.observer.violate("what was acknowledged is there in the end", || {
                    format!("partition {partition}: {value:#x} at {offset}")
                });
            }
        }
        // One producer's records of one partition, in the order in which it sent them. What it gave
        // up, outcome unknown, may have come late.
        let told: Vec<(u64, i64)> = self
            .observer
            .told
            .iter()
            .map(|(value, offset)| (*value, *offset))
            .collect();
        for pair in told.windows(2) {
            let ((before, place), (value, offset)) = (pair[0], pair[1]);
            if before >> 32 == value >> 32 && place >= offset {
                self.observer.violate("what one producer sent is in its order", || {
                    format!("{before:#x} at {place}, {value:#x} at {offset}")
                });
            }
        }
    }
}
