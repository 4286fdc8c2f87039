//! Metadata reaches a broker, and it makes the replicas that the metadata gives it.

use std::{sync::Arc, time::Duration};

use millrace_engine::partition::{LogPositions, Replica, ReplicaConfig};

use crate::{
    broker::Hosted,
    world::{Event, TOPIC, World, topic_id},
};

impl World {
    pub(crate) fn lacks_a_replica(&self, at: usize) -> bool {
        let id = self.brokers[at].id;
        let Some(process) = &self.brokers[at].process else {
            return false;
        };
        let partitions = process
            .image
            .topics
            .get(TOPIC)
            .map_or(&[][..], |topic| &topic.partitions);
        process.broker_epoch.is_some()
            && (0u32..)
                .zip(partitions)
                .any(|(number, record)| record.replicas.contains(&id) && !process.hosted.contains_key(&number))
    }

    /// Makes replicas of what the metadata says this broker holds.
    pub(crate) fn host(&mut self, at: usize) {
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
        let Some(topic) = image.topics.get(TOPIC) else { return };
        let mut made = Vec::new();
        for (number, partition) in (0u32..).zip(&topic.partitions) {
            if !partition.replicas.contains(&id) || process.hosted.contains_key(&number) {
                continue;
            }
            let log = match process.logs.get(&number) {
                Some(log) => log.clone(),
                None => {
                    let number_signed = i32::try_from(number).unwrap_or(0);
                    let Ok(log) = process.dir.create_log(TOPIC, number_signed, topic_id(), config.clone()) else {
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
                waiters: Vec::new(),
                parked: Vec::new(),
                fetched: bytes::Bytes::new(),
                tick_at: None,
                flush_begins: false,
            };
            process.hosted.insert(number, hosted);
        }
        for number in made {
            self.brokers[at].disk.shadow(number);
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
