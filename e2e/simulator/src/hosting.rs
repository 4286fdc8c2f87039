//! Metadata reaches a broker, and it makes the replicas that the metadata gives it.

use std::{sync::Arc, time::Duration};

use millrace_engine::{
    config::FlushPolicy,
    partition::{LogPositions, Replica, ReplicaConfig},
};
use millrace_log::FileSystem;

use crate::{
    broker::Hosted,
    slots::{TOPIC, id_of, number_on_disk, record_of, records, topic_of},
    world::{Event, World, flush_policy},
};

impl World {
    pub(crate) fn lacks_a_replica(&self, at: usize) -> bool {
        let id = self.brokers[at].id;
        let Some(process) = &self.brokers[at].process else {
            return false;
        };
        process.broker_epoch.is_some()
            && records(&process.image)
                .any(|(number, record)| record.replicas.contains(&id) && !process.hosted.contains_key(&number))
    }

    /// Makes replicas of what the metadata says this broker holds.
    pub(crate) fn host(&mut self, at: usize) {
        self.remove_deleted(at);
        self.set_aside_strays(at);
        let config = self.log_config();
        let id = self.brokers[at].id;
        let (lag_max, disk) = (self.settings.lag_max, self.settings.disk_delay_max);
        let round = (self.settings.network.delay_max + disk) * 4;
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        let (Some(broker_epoch), image) = (process.broker_epoch, Arc::clone(&process.image)) else {
            return;
        };
        let (mut made, mut begun) = (Vec::new(), Vec::new());
        for (number, partition) in records(&image) {
            if !partition.replicas.contains(&id) || process.hosted.contains_key(&number) {
                continue;
            }
            let log = match process.logs.get(&number) {
                Some(log) => log.clone(),
                None => {
                    let on_disk = number_on_disk(number);
                    let Ok(log) = process.dir.create_log(TOPIC, on_disk, id_of(number), config.clone()) else {
                        continue;
                    };
                    made.push(number);
                    process.logs.insert(number, log.clone());
                    log
                }
            };
            let positions = LogPositions {
                start: log.log_start_offset(),
                durable_end: log.durable_end_offset(),
                end: log.log_end_offset(),
            };
            let replica_config = ReplicaConfig {
                replica_lag_time_max: lag_max,
                proposal_timeout: Duration::from_secs(1).max(round),
                fetch_timeout: Duration::from_secs(2).max(round),
                ..ReplicaConfig::new(id, broker_epoch)
            };
            let damaged_from = log.damage().iter().map(|range| range.from).min();
            let hosted = Hosted {
                replica: Replica::new(replica_config, positions, positions.start).with_damage(damaged_from),
                log,
                flush: flush_policy(&image).unwrap_or(FlushPolicy::Ack),
                waiters: Vec::new(),
                parked: Vec::new(),
                fetched: bytes::Bytes::new(),
                producers: None,
                tick_at: None,
                flush_begins: false,
                damage_met: None,
                compaction: None,
            };
            process.hosted.insert(number, hosted);
            begun.push(number);
        }
        for number in made {
            self.brokers[at].disk.shadow(number);
        }
        for number in begun {
            self.look_at_log(at, number);
        }
        let failed = self.brokers[at]
            .process
            .as_ref()
            .is_some_and(|process| process.dir.offline().is_some());
        self.give_metadata(at);
        if failed {
            self.directory_failed(at);
        }
    }

    /// Deletes the logs of a topic that this process served and that is in its metadata no more: it has
    /// seen the deletion itself.
    fn remove_deleted(&mut self, at: usize) {
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let gone = process.hosted.keys().copied();
        let gone: Vec<u32> = gone.filter(|slot| topic_of(&process.image, *slot).is_none()).collect();
        for slot in gone {
            self.fail_waiters(at, slot);
            self.fail_parked(at, slot);
            let Some(process) = self.brokers[at].process.as_mut() else {
                return;
            };
            process.hosted.remove(&slot);
            process.logs.remove(&slot);
            let deleted = process.dir.begin_deletion(TOPIC, number_on_disk(slot));
            match deleted.and_then(millrace_log::DeletedLog::remove) {
                Ok(()) => {
                    self.seen("log of a deleted topic removed");
                    self.log_is_gone(at, slot);
                }
                Err(_) => {
                    self.brokers[at].disk.shadow(slot).unsure = true;
                    self.directory_failed(at);
                }
            }
        }
    }

    /// Sets aside what lies on the disk from former lives and has no place by the metadata, once that shows
    /// this life: then it is as new as any by which this broker wrote.
    fn set_aside_strays(&mut self, at: usize) {
        let id = self.brokers[at].id;
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let own = process.image.brokers.get(&id).map(|known| known.epoch);
        if own.is_none() || own != process.broker_epoch {
            return;
        }
        let strays = process.logs.keys().copied();
        let strays: Vec<u32> = strays
            .filter(|slot| topic_of(&process.image, *slot).is_none())
            .collect();
        for slot in strays {
            let Some(process) = self.brokers[at].process.as_mut() else {
                return;
            };
            process.logs.remove(&slot);
            match process.dir.set_aside_stray(TOPIC, number_on_disk(slot)) {
                Ok(path) => {
                    self.seen("log of a deleted topic set aside");
                    // Somebody has looked through it. Its name is not drawn from the seed.
                    let _ = self.brokers[at].disk.fs.remove_dir_all(&path);
                    self.log_is_gone(at, slot);
                }
                Err(_) => {
                    self.brokers[at].disk.shadow(slot).unsure = true;
                    self.directory_failed(at);
                }
            }
        }
    }

    /// A log is no more where it was: only if the deletion of its topic is committed.
    fn log_is_gone(&mut self, at: usize, slot: u32) {
        let id = self.brokers[at].id;
        let record = record_of(self.quorum.cluster(), slot);
        if record.is_some_and(|record| record.replicas.contains(&id)) {
            self.observer
                .violate("a log goes only when the deletion of its topic is committed", || {
                    format!("slot {slot} on broker {id}")
                });
        }
        self.brokers[at].disk.shadows[slot as usize] = None;
    }

    /// Fetches newer metadata from the controller, perhaps not the newest.
    pub(crate) fn poll(&mut self, at: usize) {
        let newest = self.quorum.version();
        if !self.connected(at, self.quorum.leader) {
            return;
        }
        let Some(process) = self.brokers[at].process.as_ref() else {
            return;
        };
        let behind = newest - process.applied.min(newest);
        if behind == 0 {
            return;
        }
        let step = if self.below(3) == 0 { 1 } else { behind };
        let image_index = self.brokers[at].process.as_ref().map_or(0, |process| process.applied) + step;
        let image = Arc::clone(&self.quorum.images[image_index]);
        self.note([33, at as u64, image_index as u64], || {
            format!("broker {at} applies metadata {image_index}")
        });
        let id = self.brokers[at].id;
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        let registered = image.brokers.get(&id).map(|known| (known.epoch, known.incarnation));
        let superseded = registered.is_some_and(|(epoch, incarnation)| {
            process.broker_epoch.is_some_and(|own| epoch > own) && incarnation != process.incarnation
        });
        process.applied = image_index;
        process.image = image;
        self.host(at);
        if superseded {
            // Processes of one broker follow each other here: no later one can have registered.
            return self.observer.violate("an earlier life ends no later one", || {
                format!("broker {id}: {registered:?} is not the life that runs")
            });
        }
        if step < behind {
            self.poll_soon(at);
        }
    }

    pub(crate) fn poll_soon(&mut self, at: usize) {
        if let Some(life) = self.brokers[at].life() {
            let most = (self.settings.network.delay_max * 2).max(Duration::from_millis(2));
            let delay = self.up_to(most);
            self.schedule(delay, Event::PollOnce { at, life });
        }
    }

    pub(crate) fn on_poll_once(&mut self, at: usize, life: u64) {
        if self.brokers[at].is_life(life) {
            self.poll(at);
        }
    }
}
