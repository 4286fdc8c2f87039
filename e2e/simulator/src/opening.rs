//! A process opens what is on its disk, and the observer compares it with what must be there.

use std::collections::BTreeMap;

use millrace_log::{CleanupPolicy, Log, LogConfig, LogDir, PartitionState};

use crate::{
    shadow::{Shadow, Stored, read_all},
    slots::{SLOTS, TOPIC, generation_of, number_on_disk, slot},
    world::World,
};

impl World {
    pub(crate) fn log_config(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.settings.segment_bytes,
            retention_ms: None,
            index_interval_bytes: 200,
            ..self.cleanup_config()
        }
    }

    fn cleanup_config(&self) -> LogConfig {
        let Some(compaction) = &self.settings.compaction else {
            return LogConfig::default();
        };
        LogConfig {
            cleanup_policy: CleanupPolicy {
                delete: false,
                compact: true,
            },
            delete_retention_ms: i64::try_from(compaction.delete_retention.as_millis()).unwrap_or(i64::MAX),
            min_cleanable_dirty_ppm: compaction.dirty_ppm,
            ..LogConfig::default()
        }
    }

    /// Opens what is on the disk and compares it with what must be there.
    pub(crate) fn open_logs(&mut self, at: usize, dir: &LogDir) -> Option<BTreeMap<u32, Log>> {
        let mut logs = BTreeMap::new();
        for found in dir.partitions().ok()? {
            let (Some(name), PartitionState::Present { topic_id }) = (found.name, found.state) else {
                continue;
            };
            let number = slot(generation_of(topic_id)?, u32::try_from(name.partition).ok()?);
            match dir.open_log(TOPIC, name.partition, topic_id, self.log_config()) {
                Ok(log) => {
                    logs.insert(number, log);
                }
                Err(error) => {
                    let id = self.brokers[at].id;
                    self.observer.violate("a log opens after any crash", || {
                        format!("broker {id} partition {number}: {error}")
                    });
                    return None;
                }
            }
        }
        let id = self.brokers[at].id;
        for number in 0..SLOTS {
            let (found, problem) = logs.get(&number).map(read_all).unwrap_or_default();
            if let Some(problem) = problem
                && !self.brokers[at].disk.damaged
            {
                self.observer.unreadable(number, id, &problem);
            }
            let (start, durable) = logs
                .get(&number)
                .map_or((0, 0), |log| (log.log_start_offset(), log.durable_end_offset()));
            let Some(before) = self.brokers[at].disk.shadows[number as usize].clone() else {
                continue;
            };
            if self.brokers[at].disk.damaged && !before.unsure {
                self.reopen_damaged(at, number, logs.get(&number), &found);
                continue;
            }
            // A log with gaps ends where its last batch does.
            let found_end = found.last().map_or(before.start, |last| last.0 + 1);
            let log_end = logs.get(&number).map_or(found_end, Log::log_end_offset);
            let end = if self.is_compacted() { log_end } else { found_end };
            self.observer.opened(number, id, &before, (start, &found[..], end));
            let chain = if start == before.start {
                self.observer.tracks[number as usize].chain_before(start)
            } else {
                before.at(start - 1).map_or(0, |entry| entry.chain)
            };
            let shadow = self.brokers[at].disk.shadow(number);
            shadow.begin_anew(start);
            for (offset, epoch, value) in &found {
                self.fill_opened(at, number, *offset, &before);
                self.brokers[at].disk.shadow(number).push(*epoch, *value, chain);
            }
            self.fill_opened(at, number, end, &before);
            let shadow = self.brokers[at].disk.shadow(number);
            shadow.durable = durable;
            // The lowering of the point may have outlived the cut that it was for.
            shadow.recorded = if before.unsure { 0 } else { before.recorded };
            if let Some(log) = logs.get(&number).filter(|_| self.is_compacted()) {
                self.check_left(at, number, log);
            }
        }
        self.check_members();
        Some(logs)
    }

    /// What a log that was opened leaves out before `to` is as it was before.
    fn fill_opened(&mut self, at: usize, number: u32, to: i64, before: &Shadow) {
        if !self.is_compacted() {
            return;
        }
        let shadow = self.brokers[at].disk.shadow(number);
        let chain = self.observer.tracks[number as usize].chain_before(shadow.start);
        while shadow.end() < to
            && let Some(known) = before.at(shadow.end())
        {
            if before.missed.contains(&shadow.end()) {
                shadow.missed.insert(shadow.end());
            }
            shadow.push(known.epoch, known.value, chain);
        }
        if !self.brokers[at].disk.damaged {
            self.fill_gap(at, number, to);
        }
    }

    /// Of a log with flipped bits what can't be read is taken to be as it was: it is found out by and by.
    fn reopen_damaged(&mut self, at: usize, number: u32, log: Option<&Log>, found: &[Stored]) {
        let id = self.brokers[at].id;
        let (end, durable) = log.map_or((0, 0), |log| (log.log_end_offset(), log.durable_end_offset()));
        let shadow = self.brokers[at].disk.shadow(number);
        let reported = shadow.durable;
        let readable = Shadow {
            durable: 0,
            ..shadow.clone()
        };
        shadow.truncate(end);
        shadow.durable = durable.min(shadow.end());
        self.observer
            .opened(number, id, &readable, (readable.start, found, end));
        if end < reported {
            self.observer.lost_durable(number, id, end, reported);
        }
    }

    /// What the directory has recorded of its logs is never less than it was.
    pub(crate) fn check_recorded(&mut self, at: usize) {
        let (id, damaged) = (self.brokers[at].id, self.brokers[at].disk.damaged);
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        if damaged || process.failed {
            return;
        }
        let recorded = process.logs.keys().map(|number| {
            let flushed = process.dir.recorded_flushed(TOPIC, number_on_disk(*number));
            (*number, flushed.unwrap_or(0))
        });
        let recorded: Vec<(u32, i64)> = recorded.collect();
        for (number, flushed) in recorded {
            let shadow = self.brokers[at].disk.shadow(number);
            let before = std::mem::replace(&mut shadow.recorded, flushed);
            self.observer.recorded(number, id, before, flushed);
        }
    }
}
